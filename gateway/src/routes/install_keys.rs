//! `/v1/extensions/{app_id}/install-keys`: a tenant's keys for the webhooks of an app.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use extensions::CompiledApp;
use extensions::install_keys::{self, InstallKey, InstallKeys, MakeInstallKey, RevokeInstallKey};
use identity::mail::PostOffice;
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::{AppId, KeyIdentifier, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Member};
use crate::extract::OptionalBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, make)).routes(routes!(revoke))
}

/// What whoever makes, lists or revokes keys needs.
const SCOPE: &str = "extensions:install";

/// A key to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct MakeInstallKeyRequest {
    /// What to call it: up to 100 characters
    name: String,
}

/// A key, once with its secret.
#[derive(Serialize, ToSchema)]
struct InstallKeyResponse {
    id: KeyIdentifier,
    app_id: String,
    name: String,
    /// What it begins with
    key_prefix: String,
    created_at: String,
    /// The key itself, only in the answer that made it
    key: Option<String>,
    /// What stands before the path of a webhook, only in the answer that made it
    webhook_base: Option<String>,
}

impl InstallKeyResponse {
    fn of(key: &InstallKey) -> Self {
        Self {
            id: key.id,
            app_id: key.app.to_string(),
            name: key.name.clone(),
            key_prefix: key.shown.clone(),
            created_at: rfc3339(key.created_at),
            key: None,
            webhook_base: None,
        }
    }
}

/// The app, if the caller's tenant may use it.
async fn visible(app: &App, entered: &Entered, id: &str) -> Result<Arc<CompiledApp>, Refusal> {
    entered.require(SCOPE)?;
    let missing = || Refusal::not_found("app");
    let id = AppId::new(id).map_err(|_| missing())?;
    let origin = app.origin(&entered.caller, entered.request);
    let found = app.extensions.apps().find(&app.system, &id, &origin).await;
    let found = found.map_err(|it| if it.class == Class::NotFound { missing() } else { it })?;
    let (tenant, user) = (entered.caller.tenant, entered.caller.user);
    let is_visible = found.is_visible_to(&app.system, tenant, user, &origin).await?;
    is_visible.then_some(found).ok_or_else(missing)
}

/// Make an install key: an address for the app's webhooks that runs, and is paid, in this tenant
///
/// The key stands before a webhook's path: `/v1/ext/{app_id}/webhook/KEY/PATH`. It is shown once,
/// good for this app until it is revoked, and needs the scope `extensions:install` to be made. At
/// most 100 a tenant.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/install-keys", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = MakeInstallKeyRequest,
    responses((status = 201, body = InstallKeyResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn make(
    State(app): State<App>,
    Member(entered): Member,
    Path(app_id): Path<String>,
    key: Key,
    body: OptionalBody<MakeInstallKeyRequest>,
) -> Result<Response<Body>, Problem> {
    let found = visible(&app, &entered, &app_id).await?;
    let (tenant, user) = (entered.caller.tenant, entered.user()?);
    let drafted = install_keys::draft(&app.system, &found.id, &body.value.name, user);
    let (secret, make) = drafted.ok_or_else(Refusal::crashed)?;
    let address = InstallKeys::address(tenant);
    let origin = app.origin(&entered.caller, entered.request);
    let public_url = app.system.port::<PostOffice>().public_url().to_owned();
    let view = move |made: InstallKey| {
        let key = secret.expose();
        let base = format!("{public_url}/v1/ext/{}/webhook/{key}/", made.app);
        let response = InstallKeyResponse::of(&made);
        InstallKeyResponse { key: Some(key.to_owned()), webhook_base: Some(base), ..response }
    };
    let operation = format!("make_install_key {app_id}");
    let claimed = async |make: MakeInstallKey| {
        install_keys::claim(&app.system, &make, tenant, origin).await?;
        Ok::<_, Refusal>(make)
    };
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        &operation,
        body.bytes,
        address,
        claimed(make).await?,
        StatusCode::CREATED,
        view
    );
    response.map(not_kept)
}

/// The tenant's install keys for an app, without their secrets, newest first
#[utoipa::path(get, path = "/v1/extensions/{app_id}/install-keys", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = Vec<InstallKeyResponse>), (status = 401), (status = 403),
        (status = 404)))]
async fn list(
    State(app): State<App>,
    Member(entered): Member,
    Path(app_id): Path<String>,
) -> Result<Json<Vec<InstallKeyResponse>>, Problem> {
    let id = visible(&app, &entered, &app_id).await?.id.clone();
    let address = InstallKeys::address(entered.caller.tenant);
    let keys = app.system.directory::<InstallKeys>();
    let view = move |keys: &InstallKeys| keys.of(&id).map(InstallKeyResponse::of).collect();
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Json(keys.look(&address, origin, view).await?))
}

/// Revoke an install key; nothing accepts it from the answer on
#[utoipa::path(delete, path = "/v1/extensions/{app_id}/install-keys/{key_id}",
    tag = tag::GATEWAY, params(("app_id" = String, Path), ("key_id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
async fn revoke(
    State(app): State<App>,
    Member(entered): Member,
    Path((app_id, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    entered.require(SCOPE)?;
    let missing = || Refusal::not_found("install key");
    // The app may be gone from sight by now; the tenant's key for it is not.
    let id = AppId::new(&app_id).map_err(|_| missing())?;
    let command = RevokeInstallKey { app: id, id: key.parse().map_err(|_| missing())? };
    let keys = app.system.directory::<InstallKeys>();
    let origin = app.origin(&entered.caller, entered.request);
    keys.ask(&InstallKeys::address(entered.caller.tenant), command, origin).await?;
    Ok(StatusCode::NO_CONTENT)
}
