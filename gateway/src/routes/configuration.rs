//! `/v1/internal/config`: what is set for the platform, tenants, apps, roles and users, and what
//! comes of it.
//!
//! A service that names no tenant speaks for the platform. One that names an app reaches what is
//! set for that app alone, and for roles and users in it.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use keeping::configuration::{Configuration, Configure, Scope, Settings, check_role, resolve};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::{Entity as _, Refusal};
use types::{AppId, JsonBytes, TenantId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, app_named, standing};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Service};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(resolved)).routes(routes!(settings, set_settings))
}

/// What is set for one scope.
#[derive(Serialize, ToSchema)]
struct ConfigResponse {
    /// `platform`, `tenant`, `app`, `role` or `user`
    scope: String,
    scope_id: String,
    tenant_id: Option<String>,
    app_id: Option<String>,
    #[schema(value_type = Object)]
    config: JsonBytes,
    /// What narrower scopes cannot change
    #[schema(value_type = Object)]
    enforced: JsonBytes,
    /// By the names of roles
    #[schema(value_type = Object)]
    role_defaults: JsonBytes,
}

/// What is to be set; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"config": {"models": {"primary": "small"}},
    "enforced": {"limits": {"spend": 10}}, "role_defaults": {"admin": {"panels": "all"}}}))]
struct ConfigUpdateRequest {
    /// Whole; at most 64 KiB
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Whole; at most 64 KiB
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    enforced: Option<Map<String, Value>>,
    /// Whole, an object of objects by the names of roles; at most 64 KiB
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    role_defaults: Option<Map<String, Value>>,
    /// Who is said to change it, up to 200 characters
    #[serde(default)]
    updated_by: Option<String>,
}

/// Where in the hierarchy.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ConfigQuery {
    /// The tenant in `X-Tenant-ID` when left out; an app without any is set for everywhere
    tenant_id: Option<String>,
    /// For a role or a user: in this app alone
    app_id: Option<String>,
}

/// For whom.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ResolveQuery {
    tenant_id: String,
    app_id: String,
    #[serde(default = "default_role")]
    role: String,
    #[serde(default)]
    user_id: String,
}

fn default_role() -> String {
    "user".to_owned()
}

/// A scope that a service may look at and set, and as whom it does.
struct Chosen {
    scope: Scope,
    response: ConfigResponse,
    /// The service, with what it named.
    entered: Entered,
}

/// 403 for a service that names an app and means another, or what is wider than an app.
fn check_reach(entered: &Entered, app: Option<&AppId>) -> Result<(), Refusal> {
    match (&entered.caller.app, app) {
        (None, _) => Ok(()),
        (Some(own), Some(meant)) if own == meant => Ok(()),
        _ => Err(Refusal::forbidden("an app reaches what is set for itself alone")),
    }
}

async fn of_platform(
    app: &App,
    entered: Entered,
    scope: Scope,
    app_id: Option<&AppId>,
) -> Result<(Scope, Entered), Refusal> {
    if entered.caller.tenant != TenantId::SYSTEM {
        return Err(Refusal::forbidden("a service that names a tenant sets nothing for all"));
    }
    if let Some(id) = app_id {
        let origin = app.origin(&entered.caller, entered.request);
        app.extensions.apps().find(&app.system, id, &origin).await?;
    }
    Ok((scope, entered))
}

async fn chosen(
    app: &App,
    entered: Entered,
    (scope, scope_id): (String, String),
    query: ConfigQuery,
) -> Result<Chosen, Refusal> {
    let unfit = |name: &str, message: String| Refusal::invalid_at("path", name, message);
    let named_tenant = query.tenant_id.as_deref().unwrap_or_default();
    let is_nobodys =
        entered.caller.tenant == TenantId::SYSTEM && matches!(named_tenant, "" | "default");
    let app_text = if scope == "app" { Some(&scope_id) } else { query.app_id.as_ref() };
    let app_id = app_text.filter(|text| !text.is_empty()).map(|text| AppId::new(text));
    let app_id = app_id.transpose().map_err(|error| unfit("app_id", error.to_string()))?;
    check_reach(&entered, app_id.as_ref())?;
    let of_app = app_id.as_ref().map(AppId::to_string).unwrap_or_default();
    let mut named =
        Named { place: "query", extension_id: &of_app, tenant_id: named_tenant, user_id: "" };
    match scope.as_str() {
        "user" => named.user_id = &scope_id,
        "tenant" => named.tenant_id = &scope_id,
        _ => {}
    }
    let (found, entered) = match scope.as_str() {
        "platform" => of_platform(app, entered, Scope::Platform, None).await?,
        "app" if is_nobodys => {
            let id = app_id.clone().ok_or_else(|| Refusal::not_found("app"))?;
            let of_all = Scope::App { tenant: None, app: id.clone() };
            of_platform(app, entered, of_all, Some(&id)).await?
        }
        "tenant" | "app" | "role" | "user" => {
            let of = standing(app, entered, named).await?;
            let tenant = of.tenant;
            let found = match (scope.as_str(), app_id.clone()) {
                ("app", Some(app)) => Scope::App { tenant: Some(tenant), app },
                ("role", app) => Scope::Role { tenant, role: scope_id.clone(), app },
                ("user", app) => Scope::User { tenant, user: of.user()?, app },
                _ => Scope::Tenant(tenant),
            };
            (found, of.entered)
        }
        _ => return Err(unfit("scope", "is platform, tenant, app, role or user".to_owned())),
    };
    let Settings { config, enforced, role_defaults } = Settings::default();
    let tenant = entered.caller.tenant;
    let tenant_id = (tenant != TenantId::SYSTEM).then(|| tenant.to_string());
    let app_id = app_id.map(|app| app.to_string());
    let response =
        ConfigResponse { scope, scope_id, tenant_id, app_id, config, enforced, role_defaults };
    Ok(Chosen { scope: found, response, entered })
}

impl ConfigResponse {
    fn with(self, settings: Settings) -> Self {
        let Settings { config, enforced, role_defaults } = settings;
        Self { config, enforced, role_defaults, ..self }
    }
}

/// What is set for a scope: nothing, where nothing ever was. Nobody is woken for that.
async fn read(app: &App, scope: &Scope, origin: supervision::Origin) -> Result<Settings, Refusal> {
    let address = scope.address()?;
    if app.system.locate(Configuration::KIND, address.id()).is_none() {
        return Ok(Settings::default());
    }
    app.system.directory().look(&address, origin, Configuration::settings).await
}

/// What is set for one scope
///
/// Scopes are `platform` (its id is `platform`), `tenant`, `app`, `role` and `user`. An app is
/// reached everywhere (no tenant named) or in a tenant; a role and a user are of a tenant, the
/// user's own when none is named.
#[utoipa::path(get, path = "/v1/internal/config/{scope}/{scope_id}", tag = tag::GATEWAY,
    operation_id = "config",
    security(("service_token" = [])),
    params(("scope" = String, Path), ("scope_id" = String, Path), ConfigQuery),
    responses((status = 200, body = ConfigResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn settings(
    State(app): State<App>,
    Service(entered): Service,
    Path(scope): Path<(String, String)>,
    Query(query): Query<ConfigQuery>,
) -> Result<Json<ConfigResponse>, Problem> {
    let chosen = chosen(&app, entered, scope, query).await?;
    let origin = app.origin(&chosen.entered.caller, chosen.entered.request);
    let settings = read(&app, &chosen.scope, origin).await?;
    Ok(Json(chosen.response.with(settings)))
}

/// Set something for one scope; parts that are left out or null stay, the others are set whole
#[utoipa::path(put, path = "/v1/internal/config/{scope}/{scope_id}", tag = tag::GATEWAY,
    operation_id = "set_config",
    security(("service_token" = [])),
    params(("scope" = String, Path), ("scope_id" = String, Path), ConfigQuery),
    request_body = ConfigUpdateRequest,
    responses((status = 200, body = ConfigResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn set_settings(
    State(app): State<App>,
    Service(entered): Service,
    Path(scope): Path<(String, String)>,
    Query(query): Query<ConfigQuery>,
    key: Key,
    body: JsonBody<ConfigUpdateRequest>,
) -> Result<Response<Body>, Problem> {
    let ConfigUpdateRequest { config, enforced, role_defaults, updated_by } = body.value;
    let chosen = chosen(&app, entered, scope, query).await?;
    let address = chosen.scope.address()?;
    let json = |part: Option<Map<String, Value>>| part.map(|it| Value::Object(it).into());
    let configure = Configure {
        config: json(config),
        enforced: json(enforced),
        role_defaults: json(role_defaults),
        updated_by: updated_by.unwrap_or_default(),
    };
    let operation = format!("configure {}", address.id());
    let Chosen { response, entered, .. } = chosen;
    let view = move |settings: Settings| response.with(settings);
    ask_once!(app, key, entered, &operation, body.bytes, address, configure, StatusCode::OK, view)
}

/// What counts for a user of an app in a tenant
///
/// Merged object by object, the narrower over the wider: platform, tenant, app, app in the tenant,
/// role, role in the app, user, user in the app; after each come its defaults for the role. What a
/// scope enforces is laid over all of that, the wider over the narrower.
#[utoipa::path(get, path = "/v1/internal/config/resolve", tag = tag::GATEWAY,
    operation_id = "resolve_config",
    security(("service_token" = [])), params(ResolveQuery),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn resolved(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<ResolveQuery>,
) -> Result<Json<Map<String, Value>>, Problem> {
    let ResolveQuery { tenant_id, app_id, role, user_id } = &query;
    check_role(role)?;
    let named = Named { place: "query", extension_id: app_id, tenant_id, user_id };
    app_named(&entered, &named)?;
    let of = standing(&app, entered, named).await?;
    let scopes = Scope::all_for(of.tenant, of.app()?, role, of.user);
    let layers = scopes.iter().map(|scope| read(&app, scope, of.origin(&app)));
    let layers = futures::future::try_join_all(layers).await?;
    Ok(Json(resolve(&layers, role)))
}
