//! `/api/v1/auth`: the account API, and the broker's login on the same path.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::sign_up::{Conclude, SignUp};
use identity::login::{TokenLife, Tokens};
use identity::tenant::NAME_CHARS_MAX;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::{PlainText, TenantId, UserId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{
    Credentials, Newcomer, RefreshRequest, log_in, private, sign_up_newcomer, with_device_token,
};
use super::password::anonymous;
use crate::app::App;
use crate::authenticate::{Anyone, Member};
use crate::extract::{BODY_BYTES_MAX, JsonBody, parse_json, parse_pairs, read_body};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(me))
        .routes(routes!(refresh))
}

fn user_label(user: UserId) -> String {
    format!("usr_{}", types::base32(user.0))
}

fn tenant_label(tenant: TenantId) -> String {
    format!("tenant_{}", types::base32(tenant.0))
}

/// The name of a person or a company.
type NameText = PlainText<NAME_CHARS_MAX>;

/// A new account.
#[derive(Deserialize, ToSchema)]
struct AccountRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// 8 to 128 characters
    password: String,
    /// The user's name
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 255)]
    full_name: Option<NameText>,
    /// What the new tenant is called
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 255)]
    company: Option<NameText>,
}

/// The account, as it was made.
#[derive(Serialize, ToSchema)]
struct AccountCreated {
    id: String,
    email: String,
    full_name: Option<String>,
    tenant_id: String,
    credits: i64,
    created_at: String,
}

/// Create an account with a tenant of its own and welcome credits
#[utoipa::path(post, path = "/api/v1/auth/register", tag = tag::ACCOUNTS,
    request_body = AccountRequest, security(()),
    responses((status = 201, body = AccountCreated), (status = 409), (status = 422)))]
async fn register(
    State(app): State<App>,
    who: Anyone,
    key: Key,
    body: JsonBody<AccountRequest>,
) -> Result<Response, Problem> {
    let AccountRequest { email, password, full_name, company } = body.value;
    // A name of blanks is none.
    let named =
        |name: Option<NameText>| name.map(PlainText::into_string).filter(|name| !name.is_empty());
    let (full_name, company) = (named(full_name), named(company));
    let key = key.of_stranger(&who.address, "register_account", &body.bytes);
    let user = UserId(once::id_for(&app, key.as_ref()));
    let address = SignUp::address(user);
    let once = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let (name, verify) = (full_name.clone(), true);
    let newcomer = Newcomer { user, email: email.clone(), password, name, company, verify };
    let signed_up = sign_up_newcomer(&app, newcomer, "anonymous", who.request).await?;
    let created_at = rfc3339(app.system.clock().now());
    let response = AccountCreated {
        id: user_label(signed_up.user),
        email,
        full_name,
        tenant_id: tenant_label(signed_up.tenant),
        credits: billing::wallet::WELCOME_CREDITS,
        created_at,
    };
    let origin = anonymous(who.request);
    once.conclude(&app, &address, Conclude, origin, (StatusCode::CREATED, |()| response)).await
}

/// The account API's login: a form (OAuth 2.0 password style).
#[derive(Deserialize, ToSchema)]
struct LoginForm {
    /// The e-mail address
    username: String,
    /// The password
    password: String,
    /// For users with a second factor: the authenticator app's code, or a recovery code
    #[serde(default)]
    otp: Option<String>,
}

/// The broker's login.
#[derive(Deserialize, ToSchema)]
struct BrokerLogin {
    #[schema(format = Email)]
    email: String,
    password: String,
    #[serde(default)]
    otp: Option<String>,
}

/// The account API's answer.
#[derive(Serialize, ToSchema)]
struct AccountTokens {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
}

impl From<Tokens> for AccountTokens {
    fn from(tokens: Tokens) -> Self {
        let Tokens { access_token, refresh_token, expires_in, .. } = tokens;
        Self { access_token, token_type: "bearer", expires_in, refresh_token }
    }
}

/// The broker's answer.
#[derive(Serialize, ToSchema)]
struct BrokerTokens {
    token: String,
    expires_at: String,
    user: BrokerUser,
}

/// Who has logged in.
#[derive(Serialize, ToSchema)]
struct BrokerUser {
    id: String,
    email: String,
    name: Option<String>,
    role: String,
}

/// Log in: a form answers the account API's tokens, JSON the broker's
///
/// `application/x-www-form-urlencoded` with `username` and `password` answers `access_token`,
/// `token_type`, `expires_in` and `refresh_token`; `application/json` with `email` and `password`
/// answers `token`, `expires_at` and `user`. Both tokens are of the same kind.
#[utoipa::path(post, path = "/api/v1/auth/login", tag = tag::ACCOUNTS, security(()),
    request_body(content((LoginForm = "application/x-www-form-urlencoded"),
        (BrokerLogin = "application/json"))),
    responses((status = 200, body = AccountTokens), (status = 401), (status = 422),
        (status = 429)))]
async fn login(
    State(app): State<App>,
    who: Anyone,
    request: Request<Body>,
) -> Result<Response, Response> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
    let answer =
        if is_form { by_form(&app, who, &bytes).await } else { by_json(&app, who, &bytes).await };
    answer.map_err(|refusal| Problem(refusal).into_response())
}

async fn by_form(app: &App, who: Anyone, bytes: &[u8]) -> Result<Response, Refusal> {
    let LoginForm { username: email, password, otp } = parse_pairs("body", bytes)?;
    let (tenant, life) = (None, TokenLife::Account);
    let tokens = log_in(app, who, Credentials { email, password, otp, tenant, life }).await?;
    let device_token = tokens.device_token.clone();
    let response = private(StatusCode::OK, AccountTokens::from(tokens));
    Ok(with_device_token(response, device_token.as_deref()))
}

async fn by_json(app: &App, who: Anyone, bytes: &[u8]) -> Result<Response, Refusal> {
    let BrokerLogin { email, password, otp } = parse_json(bytes)?;
    let (tenant, life) = (None, TokenLife::Account);
    let tokens = log_in(app, who, Credentials { email, password, otp, tenant, life }).await?;
    let device_token = tokens.device_token.clone();
    let user = app.identity.user(tokens.user, tokens.tenant).await?;
    let expires_at = app.system.clock().now().plus_ms(tokens.expires_in as i64 * 1_000);
    let answer = BrokerTokens {
        token: tokens.access_token,
        expires_at: rfc3339(expires_at),
        user: BrokerUser {
            id: user.id.uuid(),
            email: user.email,
            name: user.name,
            role: user.role,
        },
    };
    Ok(with_device_token(private(StatusCode::OK, answer), device_token.as_deref()))
}

/// The caller's account.
#[derive(Serialize, ToSchema)]
struct AccountResponse {
    id: String,
    email: String,
    full_name: Option<String>,
    is_active: bool,
    tenants: Vec<AccountTenant>,
}

/// One of the caller's tenants.
#[derive(Serialize, ToSchema)]
struct AccountTenant {
    id: String,
    name: String,
    role: String,
}

/// The caller's account and tenants
#[utoipa::path(get, path = "/api/v1/auth/me", tag = tag::ACCOUNTS,
    responses((status = 200, body = AccountResponse), (status = 401)))]
async fn me(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<AccountResponse>, Problem> {
    let user = app.identity.me(&entered.caller).await?;
    let tenants = app.identity.tenants(user.id).await?;
    let tenant = |it: identity::service::TenantView| AccountTenant {
        id: tenant_label(it.id),
        name: it.name,
        role: it.role,
    };
    Ok(Json(AccountResponse {
        id: user_label(user.id),
        email: user.email,
        full_name: user.name,
        is_active: user.active,
        tenants: tenants.into_iter().map(tenant).collect(),
    }))
}

/// Exchange a refresh token for a new pair
#[utoipa::path(post, path = "/api/v1/auth/refresh", tag = tag::ACCOUNTS,
    request_body = RefreshRequest, security(()),
    responses((status = 200, body = AccountTokens), (status = 401), (status = 422)))]
async fn refresh(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<RefreshRequest>,
) -> Result<Response, Problem> {
    let (token, life) = (&body.value.refresh_token, TokenLife::Account);
    let tokens = app.identity.refresh_from(token, life, who.device, who.request).await?;
    Ok(private(StatusCode::OK, AccountTokens::from(tokens)))
}
