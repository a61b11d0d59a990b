//! The registry: `/v1/apps` and `/v1/catalog`, with a developer's credential: an API key as
//! `x-api-key` or as the bearer token, or a user's token. The apps are those of the developer
//! portal.
//!
//! A key that is made here is one of the developer's API keys, cut down to the registry and the
//! portal; its name says which app it was made for.

use activity::feed::{Audience, DATA_BYTES_MAX, Feed, Telling};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use identity::api_key::{ApiKey, KEYS_MAX, Maker, no_key};
use identity::key_check::{KeyView, NewKey};
use market::registry::{
    Catalog, Registered, RegisteredChange, RegistryApp, RegistryTools, SettingsMerged, ToolSet,
    ToolsRegistered,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::Refusal;
use types::{JsonBytes, KeyIdentifier, Page, Scopes, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::marketplace::principal;
use super::not_kept;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Member};
use crate::extract::{JsonBody, OptionalBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

/// What the keys of an app cover.
const FULL: &[&str] = &["developer:*"];
const READONLY: &[&str] = &["developer:read"];

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register_app, registry_apps))
        .routes(routes!(registry_app, change_registry_app, patch_registry_app, delete_registry_app))
        .routes(routes!(make_app_key, app_keys))
        .routes(routes!(revoke_app_key))
        .routes(routes!(put_tools, get_tools))
        .routes(routes!(put_settings, get_settings))
        .routes(routes!(catalog))
        .routes(routes!(catalog_tools))
        .routes(routes!(hub_message))
}

/// The states that are asked for; `None` for any.
pub(super) fn status_wanted(status: Option<&str>) -> Result<Option<&str>, Refusal> {
    match status {
        None => Ok(Some("active")),
        Some("" | "all") => Ok(None),
        Some(named @ ("provisioning" | "active" | "suspended")) => Ok(Some(named)),
        Some(_) => {
            let message = "provisioning, active, suspended or all";
            Err(Refusal::invalid_at("query", "status", message))
        }
    }
}

/// An object as it is stored.
pub(super) fn object(map: Map<String, Value>) -> JsonBytes {
    JsonBytes::from(Value::Object(map))
}

/// An app to be registered.
#[derive(Deserialize, ToSchema)]
struct RegisterAppRequest {
    /// 2 to 64 characters a-z, 0-9 and `-`, unique over the installation
    #[schema(min_length = 2, max_length = 64)]
    app_id: String,
    /// 1 to 200 characters
    #[schema(min_length = 1, max_length = 200)]
    display_name: String,
    /// One's own id
    owner_id: String,
    /// Free configuration
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// Register an app: as a draft in the developer portal
#[utoipa::path(post, path = "/v1/apps", tag = tag::REGISTRY, request_body = RegisterAppRequest,
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 201, body = RegistryApp), (status = 401), (status = 403), (status = 409),
        (status = 422)))]
async fn register_app(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<RegisterAppRequest>,
) -> Result<Response<Body>, Problem> {
    let RegisterAppRequest { app_id, display_name, owner_id, config } = body.value;
    entered.user_named(&owner_id)?;
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, "register_app", &body.bytes);
    let config = config.map(object);
    let request = Registered { app_id, display_name, description: None, config, manifest: None };
    let made = app.market.register_app(&app.system, &principal, request, key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(made.0)).into_response())
}

/// Which apps.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RegistryAppsQuery {
    /// One's own id
    owner_id: Option<String>,
    /// provisioning, active (the default), suspended or all
    status: Option<String>,
}

/// Apps.
#[derive(Serialize, ToSchema)]
struct RegistryApps {
    apps: Vec<RegistryApp>,
    /// How many
    total: usize,
}

/// The caller's apps in a state
#[utoipa::path(get, path = "/v1/apps", tag = tag::REGISTRY, params(RegistryAppsQuery),
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 200, body = RegistryApps), (status = 401), (status = 403),
        (status = 422)))]
async fn registry_apps(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<RegistryAppsQuery>,
) -> Result<Json<RegistryApps>, Problem> {
    entered.user_named(query.owner_id.as_deref().unwrap_or_default())?;
    let status = status_wanted(query.status.as_deref())?;
    let principal = principal(&app, &entered)?;
    let found = app.market.registry_apps(&app.system, &principal, status).await?;
    let apps: Vec<_> = found.into_iter().map(|(app, _)| app).collect();
    Ok(Json(RegistryApps { total: apps.len(), apps }))
}

/// One of the caller's apps
#[utoipa::path(get, path = "/v1/apps/{app_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = RegistryApp), (status = 401), (status = 403),
        (status = 404)))]
async fn registry_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<RegistryApp>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.registry_app(&app.system, &principal, &app_id).await?.0))
}

/// What to change of an app; what is absent stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct ChangeAppRequest {
    /// 1 to 200 characters
    display_name: Option<String>,
    /// suspended, or what it is already
    status: Option<String>,
    /// Free configuration; replaces what there is
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

async fn changed(
    app: &App,
    entered: &Entered,
    app_id: &str,
    request: ChangeAppRequest,
) -> Result<Json<RegistryApp>, Problem> {
    let ChangeAppRequest { display_name, status, config } = request;
    let config = config.map(object);
    let change = RegisteredChange { display_name, status, config, ..RegisteredChange::default() };
    let principal = principal(app, entered)?;
    let market = &app.market;
    Ok(Json(market.change_registered(&app.system, &principal, app_id, change).await?.0))
}

/// Change one of the caller's apps; 409 `needs_review` for `status: "active"`
#[utoipa::path(put, path = "/v1/apps/{app_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    request_body = ChangeAppRequest,
    responses((status = 200, body = RegistryApp), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn change_registry_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<ChangeAppRequest>,
) -> Result<Json<RegistryApp>, Problem> {
    changed(&app, &entered, &app_id, body.value).await
}

/// The same as PUT
#[utoipa::path(patch, path = "/v1/apps/{app_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    request_body = ChangeAppRequest,
    responses((status = 200, body = RegistryApp), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn patch_registry_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<ChangeAppRequest>,
) -> Result<Json<RegistryApp>, Problem> {
    changed(&app, &entered, &app_id, body.value).await
}

/// Give one of the caller's apps up for good; its id is never given again
#[utoipa::path(delete, path = "/v1/apps/{app_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404)))]
async fn delete_registry_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.unregister_app(&app.system, &principal, &app_id).await?))
}

/// What a key shall be for.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct AppKeyRequest {
    /// full (the default) or readonly
    scope: Option<String>,
}

/// A key, once with its secret.
#[derive(Serialize, ToSchema)]
struct AppKeyMade {
    key_id: KeyIdentifier,
    /// The key itself; it is never shown again
    api_key: String,
    /// What it begins with
    prefix: String,
    /// full or readonly
    scope: &'static str,
    created_at: String,
    /// For people
    warning: &'static str,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
struct AppKeyItem {
    key_id: KeyIdentifier,
    /// What it begins with
    prefix: String,
    /// full or readonly
    scope: &'static str,
    created_at: String,
    /// To the minute
    last_used_at: Option<String>,
}

/// Keys of an app.
#[derive(Serialize, ToSchema)]
struct AppKeys {
    keys: Vec<AppKeyItem>,
    /// How many
    total: usize,
}

/// What the key of an app is called.
fn key_name(app_id: &str) -> String {
    format!("app:{app_id}")
}

fn scope_name(scopes: &Scopes) -> &'static str {
    if scopes.covers("developer:write") { "full" } else { "readonly" }
}

/// The caller's own app; 404 for others.
async fn own(app: &App, entered: &Entered, app_id: &str) -> Result<(), Refusal> {
    let principal = principal(app, entered)?;
    app.market.own_app(&app.system, &principal, app_id).await.map(|_| ())
}

/// The caller's keys that were made for an app.
async fn keys_of(app: &App, entered: &Entered, app_id: &str) -> Result<Vec<KeyView>, Refusal> {
    let page = Page::by_offset(None, None, KEYS_MAX, KEYS_MAX);
    let keys = app.identity.list_keys(&entered.caller, page).await?;
    let name = key_name(app_id);
    Ok(keys.into_iter().filter(|view| view.key.name == name).collect())
}

/// Make a key for an app; its secret is shown once
///
/// It is an API key of the caller's, good for the registry and the developer portal: `full` reads
/// and changes there, `readonly` reads.
#[utoipa::path(post, path = "/v1/apps/{app_id}/keys", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    request_body = AppKeyRequest,
    responses((status = 201, body = AppKeyMade), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn make_app_key(
    State(app): State<App>,
    Member(entered): Member,
    Path(app_id): Path<String>,
    key: Key,
    body: OptionalBody<AppKeyRequest>,
) -> Result<Response<Body>, Problem> {
    own(&app, &entered, &app_id).await?;
    let scopes = match body.value.scope.as_deref() {
        None | Some("full") => FULL,
        Some("readonly") => READONLY,
        Some(_) => return Err(Refusal::invalid("scope", "full or readonly").into()),
    };
    let new = NewKey {
        maker: Maker::Platform,
        name: key_name(&app_id),
        scopes: Some(scopes.iter().copied().collect()),
        expires_at: None,
    };
    let draft = app.identity.draft_key(&entered.caller, new)?;
    let (secret, create) = (draft.secret, draft.create);
    let origin = app.origin(&entered.caller, entered.request);
    let view = move |key: ApiKey| AppKeyMade {
        key_id: key.id,
        api_key: secret.expose().to_owned(),
        prefix: key.shown,
        scope: scope_name(&key.scopes),
        created_at: rfc3339(key.created_at),
        warning: "keep this key: it is never shown again",
    };
    let response: Result<_, Problem> = ask_once!(
        app,
        key.shown_once(),
        entered,
        &format!("make_app_key {app_id}"),
        body.bytes,
        draft.address,
        app.identity.claim_api_key(&entered.caller, create, origin).await?,
        StatusCode::CREATED,
        view
    );
    response.map(not_kept)
}

/// The keys that the caller has made for an app, without their secrets
#[utoipa::path(get, path = "/v1/apps/{app_id}/keys", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = AppKeys), (status = 401), (status = 403), (status = 404)))]
async fn app_keys(
    State(app): State<App>,
    Member(entered): Member,
    Path(app_id): Path<String>,
) -> Result<Json<AppKeys>, Problem> {
    own(&app, &entered, &app_id).await?;
    let item = |KeyView { key, last_used_at }: KeyView| AppKeyItem {
        key_id: key.id,
        prefix: key.shown,
        scope: scope_name(&key.scopes),
        created_at: rfc3339(key.created_at),
        last_used_at: last_used_at.map(rfc3339),
    };
    let keys: Vec<_> = keys_of(&app, &entered, &app_id).await?.into_iter().map(item).collect();
    Ok(Json(AppKeys { total: keys.len(), keys }))
}

/// Revoke a key of an app; nothing accepts it from the answer on
#[utoipa::path(delete, path = "/v1/apps/{app_id}/keys/{key_id}", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])),
    params(("app_id" = String, Path), ("key_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404)))]
async fn revoke_app_key(
    State(app): State<App>,
    Member(entered): Member,
    Path((app_id, key_id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    own(&app, &entered, &app_id).await?;
    let id: KeyIdentifier = key_id.parse().map_err(|_| no_key())?;
    let keys = keys_of(&app, &entered, &app_id).await?;
    keys.iter().find(|view| view.key.id == id).ok_or_else(no_key)?;
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.delete_key(&entered.caller, id, origin).await?;
    Ok(Json(json!({"key_id": id, "status": "revoked"})))
}

/// The tools and sections of an app.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct ToolRegistration {
    /// All the tools: at most 500 objects
    #[schema(value_type = Vec<Object>)]
    tools: Vec<Map<String, Value>>,
    /// All the sections: at most 100 objects, each named by `section_name` or `name`
    #[schema(value_type = Vec<Object>)]
    skeleton_sections: Vec<Map<String, Value>>,
    /// What they are of
    version: Option<String>,
}

/// Register an app's tools in place of what was registered before
///
/// They describe the app. What can be called are the functions of the version that is deployed.
#[utoipa::path(put, path = "/v1/apps/{app_id}/tools", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    request_body = ToolRegistration,
    responses((status = 200, body = ToolsRegistered), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn put_tools(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<ToolRegistration>,
) -> Result<Json<ToolsRegistered>, Problem> {
    let ToolRegistration { tools, skeleton_sections, version } = body.value;
    let principal = principal(&app, &entered)?;
    let tools = ToolSet { tools, sections: skeleton_sections, version };
    Ok(Json(app.market.register_tools(&app.system, &principal, &app_id, tools).await?))
}

/// The tools of one of the caller's apps
#[utoipa::path(get, path = "/v1/apps/{app_id}/tools", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = RegistryTools), (status = 401), (status = 403),
        (status = 404)))]
async fn get_tools(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<RegistryTools>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.registered_tools(&app.system, &principal, &app_id).await?))
}

/// Merge changes into an app's settings, member by member; null takes a member away
#[utoipa::path(put, path = "/v1/apps/{app_id}/settings", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    request_body = Object,
    responses((status = 200, body = SettingsMerged), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn put_settings(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    body: JsonBody<Map<String, Value>>,
) -> Result<Json<SettingsMerged>, Problem> {
    let (principal, changes) = (principal(&app, &entered)?, body.value);
    Ok(Json(app.market.merge_settings(&app.system, &principal, &app_id, changes).await?))
}

/// The settings of one of the caller's apps: general, models, persona, alerts, router, session,
/// monitoring, and what was set besides
#[utoipa::path(get, path = "/v1/apps/{app_id}/settings", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404)))]
async fn get_settings(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.registered_settings(&app.system, &principal, &app_id).await?))
}

async fn catalogued(app: &App, entered: &Entered, page: PageQuery) -> Result<Catalog, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    app.market.catalog(&app.system, page.page()?, &origin).await
}

/// The active apps with their functions
#[utoipa::path(get, path = "/v1/catalog", tag = tag::REGISTRY, params(PageQuery),
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 200, body = Catalog), (status = 401), (status = 422)))]
async fn catalog(
    State(app): State<App>,
    Either(entered): Either,
    Query(page): Query<PageQuery>,
) -> Result<Json<Catalog>, Problem> {
    Ok(Json(catalogued(&app, &entered, page).await?))
}

/// The same as `/v1/catalog`
#[utoipa::path(get, path = "/v1/catalog/tools", tag = tag::REGISTRY, params(PageQuery),
    security(("api_key" = []), ("bearer" = [])),
    responses((status = 200, body = Catalog), (status = 401), (status = 422)))]
async fn catalog_tools(
    State(app): State<App>,
    Either(entered): Either,
    Query(page): Query<PageQuery>,
) -> Result<Json<Catalog>, Problem> {
    Ok(Json(catalogued(&app, &entered, page).await?))
}

/// That a message was told.
#[derive(Serialize, ToSchema)]
struct HubSignaled {
    /// Always `signaled`: nobody need be there to be told
    status: &'static str,
    /// The user's tenant
    namespace: String,
    /// The user's hub
    workflow_id: String,
}

/// Tell the user's own readers of the event feed something, as `hub.message`; who is not there is
/// not told later
#[utoipa::path(post, path = "/v1/hub/{user_id}/messages", tag = tag::REGISTRY,
    security(("api_key" = []), ("bearer" = [])), params(("user_id" = String, Path)),
    request_body = Object,
    responses((status = 202, body = HubSignaled), (status = 401), (status = 403), (status = 422)))]
async fn hub_message(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    body: JsonBody<Map<String, Value>>,
) -> Result<Response<Body>, Problem> {
    let (user, tenant) = (entered.user_named(&user_id)?, entered.caller.tenant);
    if body.bytes.len() > DATA_BYTES_MAX / 2 {
        let message = format!("all of it has at most {} bytes", DATA_BYTES_MAX / 2);
        return Err(Refusal::invalid("body", message).into());
    }
    let data = Value::Object(body.value);
    let telling = Telling::new("hub.message", Audience::User(user), data).of_family("events:read");
    app.system.port::<Feed>().publish(tenant, telling, app.system.clock().now());
    let (namespace, workflow_id) = (tenant.to_string(), format!("hub-{user}"));
    let told = HubSignaled { status: "signaled", namespace, workflow_id };
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}
