//! `/v1/secrets/{ext_id}`: the values of the secrets that an app declares, which its users and its
//! developer give and its own host is given.
//!
//! Refusals carry an object as `detail`, with `error_code` and `message`: clients read that here.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use broker::declaration::{Declaration, Whose, WriteMode};
use broker::{Desk, Subject};
use extensions::CompiledApp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Class, Refusal};
use types::{AppId, CallerKind, home_of, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, remove))
        .routes(routes!(meta))
        .routes(routes!(rotate))
}

/// A secret, without its value.
#[derive(Serialize, ToSchema)]
struct SecretItem {
    name: String,
    description: String,
    is_set: bool,
    /// RFC 3339; null when it was not given out since the server's start
    last_accessed_at: Option<String>,
}

/// A value.
#[derive(Deserialize, ToSchema)]
struct SecretBody {
    /// As long as the app declares, 4,096 bytes unless it says otherwise
    value: String,
}

/// A value.
#[derive(Serialize, ToSchema)]
struct SecretValue<'a> {
    value: &'a str,
}

/// What is known of a secret.
#[derive(Serialize, ToSchema)]
struct SecretMeta {
    is_set: bool,
    /// From 1 up with each value
    version: u64,
    /// RFC 3339
    set_at: String,
    /// RFC 3339: when the app's developer would have it replaced
    rotation_due_at: Option<String>,
    #[schema(value_type = String)]
    write_mode: WriteMode,
    #[schema(value_type = String)]
    scope: Whose,
    required: bool,
}

/// What was set.
#[derive(Serialize, ToSchema)]
struct SecretSet {
    name: String,
    is_set: bool,
    /// From 1 up with each value
    version: u64,
}

/// Whether there was a value.
#[derive(Serialize, ToSchema)]
struct SecretRemoved {
    was_set: bool,
}

/// With what clients of these routes read.
fn coded(refusal: Refusal) -> Problem {
    let detail = json!({"error_code": refusal.code.to_uppercase(), "message": refusal.message});
    let facts = refusal.facts.as_deref().map(serde_json::from_str);
    let mut facts = match facts {
        Some(Ok(serde_json::Value::Object(facts))) => facts,
        _ => serde_json::Map::new(),
    };
    facts.insert("detail".to_owned(), detail);
    Problem(refusal.with_facts(&serde_json::Value::Object(facts)))
}

/// Somebody before an app's secrets.
struct Asking {
    app: Arc<CompiledApp>,
    subject: Subject,
    /// The app itself asks, by the service token and its own id.
    is_app: bool,
    /// Its developer asks.
    is_developer: bool,
    is_service: bool,
    /// The app's own secrets are not a sandbox's to change.
    is_sandbox: bool,
}

impl Asking {
    async fn of(app: &App, entered: &Entered, ext_id: &str, action: &str) -> Result<Self, Refusal> {
        let missing = || Refusal::not_found("app");
        let caller = &entered.caller;
        let user = entered.user()?;
        let id = AppId::new(ext_id).map_err(|_| missing())?;
        let origin = app.origin(caller, entered.request);
        let compiled = app.extensions.apps().find(&app.system, &id, &origin).await?;
        let (system, tenant) = (&app.system, caller.tenant);
        if !compiled.is_visible_to(system, tenant, Some(user), &origin).await? {
            return Err(missing());
        }
        if caller.app.as_ref().is_some_and(|named| *named != id) {
            let message = "the app that the headers name is another one";
            return Err(Refusal::new(Class::Forbidden, "secret_forbidden", message));
        }
        let covers = |of: &str| caller.scopes.covers(&format!("{of}:{action}"));
        if !covers(ext_id) && !covers("extensions") {
            let message = format!("this needs the scope {ext_id}:{action} or extensions:{action}");
            return Err(Refusal::new(Class::Forbidden, "scope_missing", message));
        }
        let is_service = caller.kind == CallerKind::Service;
        let subject = Subject { tenant: caller.tenant, user, app: id, home: compiled.tenant };
        Ok(Self {
            is_app: is_service && caller.app.is_some(),
            is_developer: compiled.is_developed_by(system, user, &origin).await?,
            is_service,
            is_sandbox: app.system.own_time(home_of(caller.tenant)).is_some(),
            app: compiled,
            subject,
        })
    }

    fn declared(&self) -> &[Declaration] {
        self.app.ir.as_ref().map_or(&[], |ir| &ir.secrets)
    }

    fn secret(&self, name: &str) -> Result<&Declaration, Refusal> {
        let found = self.declared().iter().find(|secret| secret.name == name);
        found.ok_or_else(|| {
            let message = format!("{} declares no secret {name:?}", self.subject.app);
            Refusal::new(Class::NotFound, "secret_not_declared", message)
        })
    }

    fn writable(&self, name: &str) -> Result<&Declaration, Refusal> {
        let secret = self.secret(name)?;
        let refused = |message: &str| Refusal::new(Class::Forbidden, "secret_forbidden", message);
        if !secret.may_be_written_by(self.is_app) {
            let who = if self.is_app { "people, not the app" } else { "the app, not people" };
            return Err(refused(&format!("{name} is written by {who}")));
        }
        let is_makers = self.is_app || self.is_developer;
        if secret.scope == Whose::App && (self.is_sandbox || !is_makers) {
            return Err(refused(&format!("{name} is the app's own: only its developer writes it")));
        }
        Ok(secret)
    }
}

/// The secrets that an app declares, without their values
#[utoipa::path(get, path = "/v1/secrets/{ext_id}", tag = tag::GATEWAY,
    params(("ext_id" = String, Path)),
    responses((status = 200, body = Vec<SecretItem>), (status = 401), (status = 403),
        (status = 404)))]
async fn list(
    State(app): State<App>,
    Either(entered): Either,
    Path(ext_id): Path<String>,
) -> Result<Json<Vec<SecretItem>>, Problem> {
    let asking = Asking::of(&app, &entered, &ext_id, "read").await.map_err(coded)?;
    let origin = app.origin(&entered.caller, entered.request);
    let desk = app.system.port::<Desk>();
    let views = desk.list(&app.system, &asking.subject, asking.declared(), &origin).await;
    let items =
        asking.declared().iter().zip(views.map_err(coded)?).map(|(secret, view)| SecretItem {
            name: secret.name.clone(),
            description: secret.description.clone(),
            is_set: view.version.is_some(),
            last_accessed_at: view.last_accessed_at.map(rfc3339),
        });
    Ok(Json(items.collect()))
}

/// The value of a secret, for the runtime of extensions: the service token alone
///
/// The value is that of the user in `X-Acting-User`, or the app's own. `X-Ext-Id`, if sent, must
/// name this app. 404 when it has no value, 503 when it cannot be opened.
#[utoipa::path(get, path = "/v1/secrets/{ext_id}/{name}", tag = tag::GATEWAY,
    params(("ext_id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = SecretValue), (status = 401), (status = 403), (status = 404),
        (status = 503)))]
async fn get(
    State(app): State<App>,
    Either(entered): Either,
    Path((ext_id, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let asking = Asking::of(&app, &entered, &ext_id, "read").await.map_err(coded)?;
    if !asking.is_service {
        let message = "a value is given to the runtime of extensions alone";
        return Err(coded(Refusal::new(Class::Forbidden, "secret_forbidden", message)));
    }
    let secret = asking.secret(&name).map_err(coded)?;
    let origin = app.origin(&entered.caller, entered.request);
    let desk = app.system.port::<Desk>();
    let value = desk.read(&app.system, &asking.subject, secret, &origin).await.map_err(coded)?;
    Ok(not_kept(Json(SecretValue { value: &value }).into_response()))
}

/// What is known of a secret beside its value; 404 when it has none
#[utoipa::path(get, path = "/v1/secrets/{ext_id}/{name}/meta", tag = tag::GATEWAY,
    params(("ext_id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = SecretMeta), (status = 401), (status = 403),
        (status = 404)))]
async fn meta(
    State(app): State<App>,
    Either(entered): Either,
    Path((ext_id, name)): Path<(String, String)>,
) -> Result<Json<SecretMeta>, Problem> {
    let asking = Asking::of(&app, &entered, &ext_id, "read").await.map_err(coded)?;
    let secret = asking.secret(&name).map_err(coded)?;
    let origin = app.origin(&entered.caller, entered.request);
    let desk = app.system.port::<Desk>();
    let declared = std::slice::from_ref(secret);
    let views = desk.list(&app.system, &asking.subject, declared, &origin).await.map_err(coded)?;
    let found = views.into_iter().next().and_then(|view| view.version.zip(view.set_at));
    let not_set = || coded(broker::app_secrets::not_set(&name));
    let (version, set_at) = found.ok_or_else(not_set)?;
    let due = |days: u32| rfc3339(set_at.plus_ms(i64::from(days) * 24 * 3_600_000));
    Ok(Json(SecretMeta {
        is_set: true,
        version,
        set_at: rfc3339(set_at),
        rotation_due_at: secret.rotation_hint_days.map(due),
        write_mode: secret.write_mode,
        scope: secret.scope,
        required: secret.required,
    }))
}

async fn write(
    app: &App,
    entered: &Entered,
    (ext_id, name): (&str, &str),
    (key, body): (Key, JsonBody<SecretBody>),
    replaces: bool,
) -> Result<Response, Problem> {
    let asking = Asking::of(app, entered, ext_id, "write").await?;
    let secret = asking.writable(name)?;
    let desk = app.system.port::<Desk>();
    let value = &body.value.value;
    let sealed = desk.sealed(&app.system, &asking.subject, secret, value, replaces);
    let (holder, command) = sealed?;
    let view = {
        let name = name.to_owned();
        move |version| SecretSet { name, is_set: true, version }
    };
    let operation = format!("{} {ext_id} {name}", if replaces { "rotate" } else { "put" });
    let address = holder.address();
    ask_once!(app, key, entered, &operation, body.bytes, address, command, StatusCode::OK, view)
}

/// Set a secret
///
/// A user's own in this tenant, or the app's own, which only its developer writes; with the
/// service token and `X-Ext-Id` the app itself, if it declares `write_mode` so. The value is
/// sealed under the user's key, or that of the developer's tenant, and given to the app's own host
/// alone, in the calls that it carries out, as `secrets`. What the host answers is freed of it.
#[utoipa::path(put, path = "/v1/secrets/{ext_id}/{name}", tag = tag::GATEWAY,
    params(("ext_id" = String, Path), ("name" = String, Path)), request_body = SecretBody,
    responses((status = 200, body = SecretSet), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422), (status = 503)))]
async fn put(
    State(app): State<App>,
    Either(entered): Either,
    Path((ext_id, name)): Path<(String, String)>,
    key: Key,
    body: JsonBody<SecretBody>,
) -> Result<Response, Problem> {
    let written = write(&app, &entered, (&ext_id, &name), (key, body), false).await;
    written.map_err(|Problem(refusal)| coded(refusal))
}

/// Replace a secret that has a value; 404 when it has none
#[utoipa::path(post, path = "/v1/secrets/{ext_id}/{name}/rotate", tag = tag::GATEWAY,
    params(("ext_id" = String, Path), ("name" = String, Path)), request_body = SecretBody,
    responses((status = 200, body = SecretSet), (status = 401), (status = 403), (status = 404),
        (status = 422), (status = 503)))]
async fn rotate(
    State(app): State<App>,
    Either(entered): Either,
    Path((ext_id, name)): Path<(String, String)>,
    key: Key,
    body: JsonBody<SecretBody>,
) -> Result<Response, Problem> {
    let written = write(&app, &entered, (&ext_id, &name), (key, body), true).await;
    written.map_err(|Problem(refusal)| coded(refusal))
}

/// Remove a secret's value
#[utoipa::path(delete, path = "/v1/secrets/{ext_id}/{name}", tag = tag::GATEWAY,
    params(("ext_id" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = SecretRemoved), (status = 401), (status = 403),
        (status = 404)))]
async fn remove(
    State(app): State<App>,
    Either(entered): Either,
    Path((ext_id, name)): Path<(String, String)>,
) -> Result<Json<SecretRemoved>, Problem> {
    let asking = Asking::of(&app, &entered, &ext_id, "write").await.map_err(coded)?;
    let secret = asking.writable(&name).map_err(coded)?;
    let origin = app.origin(&entered.caller, entered.request);
    let desk = app.system.port::<Desk>();
    let was_set = desk.remove(&app.system, &asking.subject, secret, origin).await.map_err(coded)?;
    Ok(Json(SecretRemoved { was_set }))
}
