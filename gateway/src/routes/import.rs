//! `/v1/operator/users/import`: users that come with the password hashes of another system.

use axum::Json;
use axum::extract::State;
use billing::{sign_up, verification};
use futures::stream::{self, StreamExt as _};
use identity::password_import;
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal};
use types::UserId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Operator;
use crate::extract::JsonBody;
use crate::once::{self, Key};
use crate::openapi::tag;
use crate::problem::Problem;

/// How many users one request may bring.
const USERS_MAX: usize = 1_000;
/// How many of them are signed up at a time.
const TOGETHER_MAX: usize = 32;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(import_users))
}

/// Users to bring in.
#[derive(Deserialize, ToSchema)]
struct ImportRequest {
    /// 1 to 1,000
    users: Vec<ImportUser>,
}

/// A user of another system.
#[derive(Deserialize, ToSchema)]
struct ImportUser {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// The hash that the other system keeps: argon2, bcrypt, PBKDF2 or scrypt
    password_hash: String,
    /// The user's name
    #[serde(default)]
    full_name: Option<String>,
    /// What the user's tenant is called
    #[serde(default)]
    company: Option<String>,
    /// Whether the other system has verified the address
    #[serde(default)]
    email_verified: bool,
}

/// What became of all of them.
#[derive(Serialize, ToSchema)]
struct ImportResponse {
    /// How many were created, or had been by a repetition of this request
    created: usize,
    /// How many were not
    failed: usize,
    /// One for each user, in the request's order
    items: Vec<ImportItem>,
}

/// What became of one.
#[derive(Serialize, ToSchema)]
struct ImportItem {
    /// Its place in the request, from 0
    index: usize,
    /// `created` or `failed`
    status: &'static str,
    /// The new user
    user_id: Option<UserId>,
    /// Why not, as a stable code
    error: Option<String>,
    /// Why not, for people
    message: Option<String>,
}

/// Bring in users with the password hashes of another system
///
/// Argon2, bcrypt, PBKDF2 and scrypt, as PHC strings or as Django, Werkzeug and passlib write them.
/// Each gets a tenant and the welcome credits as if they had signed up, and is sent no mail. At the
/// first login the hash is replaced by one of this server's. One that fails does not stop others.
#[utoipa::path(post, path = "/v1/operator/users/import", tag = tag::OPERATOR,
    request_body = ImportRequest, responses((status = 200, body = ImportResponse),
        (status = 401), (status = 403), (status = 422)))]
async fn import_users(
    State(app): State<App>,
    Operator(entered): Operator,
    key: Key,
    body: JsonBody<ImportRequest>,
) -> Result<Json<ImportResponse>, Problem> {
    let users = body.value.users;
    if users.is_empty() || users.len() > USERS_MAX {
        let message = format!("must be 1 to {USERS_MAX}");
        return Err(Refusal::invalid("users", message).into());
    }
    let (caller, bytes) = (&entered.caller, &body.bytes);
    // With a key every user has an id of the key's: a repetition finds each as it is.
    let id_of = |index: usize| {
        let key = key.of(caller, &format!("import user {index}"), bytes);
        once::id_for(&app, key.as_ref())
    };
    let one = |(index, user): (usize, ImportUser)| {
        let (id, origin) = (UserId(id_of(index)), app.origin(caller, entered.request));
        let app = &app;
        async move {
            match import(app, id, user, origin).await {
                Ok(()) => ImportItem {
                    index,
                    status: "created",
                    user_id: Some(id),
                    error: None,
                    message: None,
                },
                Err(refusal) => ImportItem {
                    index,
                    status: "failed",
                    user_id: None,
                    error: Some(refusal.code),
                    message: Some(refusal.message),
                },
            }
        }
    };
    let items = stream::iter(users.into_iter().enumerate()).map(one).buffered(TOGETHER_MAX);
    let items: Vec<ImportItem> = items.collect().await;
    let created = items.iter().filter(|item| item.user_id.is_some()).count();
    let failed = items.len() - created;
    Ok(Json(ImportResponse { created, failed, items }))
}

async fn import(app: &App, user: UserId, new: ImportUser, origin: Origin) -> Result<(), Refusal> {
    let ImportUser { email, password_hash, full_name, company, email_verified } = new;
    let password = password_import::import(&password_hash).map_err(|error| {
        let class = supervision::Class::Invalid;
        Refusal::new(class, error.code(), error.to_string())
    })?;
    let email = identity::claim::EmailAddress::new(&email)?.as_str().to_owned();
    let role = identity::tenant::OWNER_ROLE.to_owned();
    let start = sign_up::Start { user, email, name: full_name, company, password, role };
    sign_up::sign_up(&app.system, start, origin.clone()).await?;
    match email_verified {
        true => verification::vouch(&app.system, user, origin).await,
        false => Ok(()),
    }
}
