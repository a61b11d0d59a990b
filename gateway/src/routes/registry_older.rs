//! The registry's older routes, `/extensions` and `/user-extensions`: views of the same apps as
//! `/v1/apps`, and of the same installs as the marketplace's.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use market::marketplace::{ExtensionEntry, InstallResponse};
use market::registry::{Registered, RegisteredChange, RegistryExtension};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::Refusal;
use types::UserId;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::marketplace::principal;
use super::registry::{object, status_wanted};
use crate::app::App;
use crate::authenticate::Either;
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_extensions, create_extension))
        .routes(routes!(get_extension, put_extension, delete_extension))
        .routes(routes!(user_extensions))
        .routes(routes!(activate_extension))
        .routes(routes!(deactivate_extension))
}

/// Which extensions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExtensionsQuery {
    /// provisioning, active (the default), suspended or all
    status: Option<String>,
}

/// Extensions.
#[derive(Serialize, ToSchema)]
struct RegistryExtensions {
    extensions: Vec<RegistryExtension>,
    /// How many
    total: usize,
}

/// The caller's apps in a state
#[utoipa::path(get, path = "/extensions", tag = tag::REGISTRY, params(ExtensionsQuery),
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 200, body = RegistryExtensions), (status = 401), (status = 403),
        (status = 422)))]
async fn list_extensions(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<ExtensionsQuery>,
) -> Result<Json<RegistryExtensions>, Problem> {
    let status = status_wanted(query.status.as_deref())?;
    let principal = principal(&app, &entered)?;
    let found = app.market.registry_apps(&app.system, &principal, status).await?;
    let extensions: Vec<_> = found.into_iter().map(|(_, extension)| extension).collect();
    Ok(Json(RegistryExtensions { total: extensions.len(), extensions }))
}

/// An app with its manifest, to be registered.
#[derive(Deserialize, ToSchema)]
struct ExtensionCreate {
    /// 2 to 64 characters a-z, 0-9 and `-`, unique over the installation
    #[schema(min_length = 2, max_length = 64)]
    id: String,
    /// 1 to 200 characters
    #[schema(min_length = 1, max_length = 200)]
    display_name: String,
    /// Up to 2,000 characters
    #[serde(default)]
    description: Option<String>,
    /// The version of the manifest, if that says none; deploying sets what is called
    #[serde(default)]
    version: Option<String>,
    /// The manifest
    #[schema(value_type = Object)]
    manifest: Map<String, Value>,
}

/// The manifest with the version that was sent beside it.
fn with_version(mut manifest: Map<String, Value>, version: Option<String>) -> Map<String, Value> {
    if let Some(version) = version {
        manifest.entry("version").or_insert(Value::String(version));
    }
    manifest
}

/// Register an app with its manifest: as a draft in the developer portal
#[utoipa::path(post, path = "/extensions", tag = tag::REGISTRY, request_body = ExtensionCreate,
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 201, body = RegistryExtension), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create_extension(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<ExtensionCreate>,
) -> Result<Response<Body>, Problem> {
    let ExtensionCreate { id, display_name, description, version, manifest } = body.value;
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, "create_extension", &body.bytes);
    let manifest = Some(object(with_version(manifest, version)));
    let request = Registered { app_id: id, display_name, description, config: None, manifest };
    let made = app.market.register_app(&app.system, &principal, request, key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(made.1)).into_response())
}

/// One of the caller's apps
#[utoipa::path(get, path = "/extensions/{ext_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("ext_id" = String, Path)),
    responses((status = 200, body = RegistryExtension), (status = 401), (status = 403),
        (status = 404)))]
async fn get_extension(
    State(app): State<App>,
    Either(entered): Either,
    Path(ext_id): Path<String>,
) -> Result<Json<RegistryExtension>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.registry_app(&app.system, &principal, &ext_id).await?.1))
}

/// What to change of an app; what is absent stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct ExtensionUpdate {
    /// 1 to 200 characters
    display_name: Option<String>,
    /// Up to 2,000 characters
    description: Option<String>,
    /// With a manifest, its version if that says none; alone it changes nothing
    version: Option<String>,
    /// suspended, or what it is already
    status: Option<String>,
    /// Replaces the manifest
    #[schema(value_type = Option<Object>)]
    manifest: Option<Map<String, Value>>,
}

/// Change one of the caller's apps; 409 `needs_review` for `status: "active"`
#[utoipa::path(put, path = "/extensions/{ext_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("ext_id" = String, Path)),
    request_body = ExtensionUpdate,
    responses((status = 200, body = RegistryExtension), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn put_extension(
    State(app): State<App>,
    Either(entered): Either,
    Path(ext_id): Path<String>,
    body: JsonBody<ExtensionUpdate>,
) -> Result<Json<RegistryExtension>, Problem> {
    let ExtensionUpdate { display_name, description, version, status, manifest } = body.value;
    let manifest = manifest.map(|manifest| object(with_version(manifest, version)));
    let change = RegisteredChange { display_name, description, status, config: None, manifest };
    let principal = principal(&app, &entered)?;
    let market = &app.market;
    Ok(Json(market.change_registered(&app.system, &principal, &ext_id, change).await?.1))
}

/// Give one of the caller's apps up for good; its id is never given again
#[utoipa::path(delete, path = "/extensions/{ext_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("ext_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404)))]
async fn delete_extension(
    State(app): State<App>,
    Either(entered): Either,
    Path(ext_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.unregister_app(&app.system, &principal, &ext_id).await?))
}

/// What a user has installed or switched off.
#[derive(Serialize, ToSchema)]
struct UserExtensions {
    extensions: Vec<ExtensionEntry>,
    /// How many
    total: usize,
}

/// The caller's extensions: what is installed or switched off
#[utoipa::path(get, path = "/user-extensions/{user_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("user_id" = String, Path)),
    responses((status = 200, body = UserExtensions), (status = 401), (status = 403)))]
async fn user_extensions(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
) -> Result<Json<UserExtensions>, Problem> {
    let user = entered.user_named(&user_id)?;
    let origin = app.origin(&entered.caller, entered.request);
    let tenant = entered.caller.tenant;
    let extensions = app.market.extensions_of(&app.system, tenant, user, &origin).await?;
    Ok(Json(UserExtensions { total: extensions.len(), extensions }))
}

/// An app to be installed.
#[derive(Deserialize, ToSchema)]
struct UserExtensionActivate {
    /// One's own id
    user_id: String,
    /// The app
    extension_id: String,
    /// Must be absent, null or empty: an app keeps what it is set to among its own documents
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// Install an active app for the caller
#[utoipa::path(post, path = "/user-extensions", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), request_body = UserExtensionActivate,
    responses((status = 200, body = InstallResponse), (status = 400), (status = 401),
        (status = 403), (status = 409), (status = 422)))]
async fn activate_extension(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<UserExtensionActivate>,
) -> Result<Json<Value>, Problem> {
    let UserExtensionActivate { user_id, extension_id, config } = body.value;
    entered.user_named(&user_id)?;
    if config.is_some_and(|config| !config.is_empty()) {
        let message = "is not kept here: an app keeps what it is set to itself";
        return Err(Refusal::invalid("config", message).into());
    }
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("activate {extension_id}"), &body.bytes);
    let market = &app.market;
    let installed = market.install(&app.system, &principal, &extension_id, None, key.as_ref());
    Ok(Json(installed.await?))
}

/// Take an app off the caller
#[utoipa::path(delete, path = "/user-extensions/{user_id}/{ext_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])),
    params(("user_id" = String, Path), ("ext_id" = String, Path)),
    responses((status = 200, body = InstallResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn deactivate_extension(
    State(app): State<App>,
    Either(entered): Either,
    Path((user_id, ext_id)): Path<(String, String)>,
) -> Result<Json<InstallResponse>, Problem> {
    let _: UserId = entered.user_named(&user_id)?;
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.uninstall(&app.system, &principal, &ext_id).await?))
}
