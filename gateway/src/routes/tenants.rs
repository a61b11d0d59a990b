//! `/v1/tenants`: making them, seeing them, changing and ending them; and who may, for every route
//! that names a tenant.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::new_tenant::{Conclude, NewTenant, Started};
use identity::tenant::{Details, SetActive, Tenant, Update};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::{Class, Refusal};
use types::{AppId, Caller, CallerKind, JsonBytes, Page, Scopes, TenantId, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Entered, Someone};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;
use crate::routes::freezes::{self, FreezeView};

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
/// The longest of a tenant's short texts, in characters.
const TEXT_CHARS_MAX: usize = 255;
/// The most connections that a tenant may ask for.
const CONNECTIONS_MAX: u32 = 1_000_000;
const WRITE: &str = "tenants:write";
const DELETE: &str = "tenants:delete";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(one, update, delete))
        .routes(routes!(health))
}

/// A tenant that a request names, and what the caller may do there.
pub(super) struct Authority {
    /// The tenant.
    pub tenant: TenantId,
    /// What the caller's rights cover there.
    pub rights: Scopes,
    /// Whether the caller acts for the installation: an operator, or a service that named no
    /// tenant of its own.
    pub is_installation: bool,
}

/// Who may do what with a tenant that the path names. `wanted` is the scope it takes; `None` is
/// enough for members. A tenant that the caller has nothing to do with is 404, as one that does
/// not exist; one that the caller belongs to, but whose credential this is not, is 403.
pub(super) async fn authority(
    app: &App,
    entered: &Entered,
    named: &str,
    wanted: Option<&str>,
) -> Result<Authority, Refusal> {
    let (caller, missing) = (&entered.caller, || Refusal::not_found("tenant"));
    let is_service = caller.kind == CallerKind::Service && caller.tenant == TenantId::SYSTEM;
    let is_installation = caller.is_operator() || is_service && caller.user.is_none();
    let tenant = match named {
        "default" if !is_service => Some(caller.tenant),
        named => app.identity.tenant_named(named).await?,
    };
    let tenant = tenant.ok_or_else(missing)?;
    if is_installation {
        return Ok(Authority { tenant, rights: Scopes::all(), is_installation });
    }
    if tenant == caller.tenant {
        wanted.map_or(Ok(()), |wanted| entered.require(wanted))?;
        return Ok(Authority { tenant, rights: caller.scopes.clone(), is_installation });
    }
    // A key is for one tenant and tells of no other.
    let user = caller.user.filter(|_| is_login(caller)).ok_or_else(missing)?;
    let is_member = move |tenant: &Tenant| tenant.membership(user).is_some();
    let is_member = app.identity.look_tenant(tenant, is_member).await?;
    match (is_member, wanted) {
        (Some(true), None) => Ok(Authority { tenant, rights: Scopes::default(), is_installation }),
        (Some(true), Some(_)) => {
            let message = "this credential is for another tenant; log in with this tenant_id";
            Err(Refusal::forbidden(message))
        }
        _ => Err(missing()),
    }
}

/// Whether this is a user who has logged in, or a service for one: not a key or an agent.
fn is_login(caller: &Caller) -> bool {
    caller.session.is_some() || caller.kind == CallerKind::Service
}

/// What this API keeps with a tenant.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Settings {
    tenant_id: Option<String>,
    db_backend: String,
    isolation: String,
    allowed_auth_methods: String,
    max_connections: u32,
    features: Map<String, Value>,
    parent_tenant_id: Option<String>,
    /// Set by the server alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tenant_id: None,
            db_backend: default_backend(),
            isolation: default_isolation(),
            allowed_auth_methods: default_methods(),
            max_connections: default_connections(),
            features: Map::new(),
            parent_tenant_id: None,
            sandbox: None,
        }
    }
}

fn default_backend() -> String {
    "mariadb".to_owned()
}

fn default_isolation() -> String {
    "dedicated".to_owned()
}

fn default_methods() -> String {
    "email,api_key".to_owned()
}

fn default_connections() -> u32 {
    10
}

/// A tenant, with exactly the documented keys.
#[derive(Serialize, ToSchema)]
struct TenantResponse {
    id: String,
    tenant_id: String,
    name: String,
    db_backend: String,
    isolation: String,
    allowed_auth_methods: String,
    max_connections: u32,
    #[schema(value_type = Object)]
    features: Map<String, Value>,
    is_active: bool,
    created_at: String,
    updated_at: String,
    parent_tenant_id: Option<String>,
    can_resell: bool,
    #[schema(value_type = Object)]
    custom_pricing: Value,
    #[schema(value_type = Object)]
    ui_config: Value,
    /// Only for a sandbox: `true`
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<bool>,
    /// For operators, while it is frozen: why, and what was stopped
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<FreezeView>,
}

/// A tenant's id as everybody sees it: a direct user's own has the user's.
pub(super) fn label(details: &Details) -> String {
    if details.direct { UserId(details.id.0).to_string() } else { details.id.to_string() }
}

impl From<Details> for TenantResponse {
    fn from(details: Details) -> Self {
        let settings: Settings = details.settings.read().unwrap_or_default();
        let id = label(&details);
        Self {
            tenant_id: settings.tenant_id.unwrap_or_else(|| id.clone()),
            id,
            name: details.name,
            db_backend: settings.db_backend,
            isolation: settings.isolation,
            allowed_auth_methods: settings.allowed_auth_methods,
            max_connections: settings.max_connections,
            features: settings.features,
            is_active: details.active,
            created_at: rfc3339(details.created_at),
            updated_at: rfc3339(details.updated_at),
            parent_tenant_id: settings.parent_tenant_id,
            can_resell: false,
            custom_pricing: json!({}),
            ui_config: json!({}),
            sandbox: settings.sandbox,
            frozen: None,
        }
    }
}

async fn details(app: &App, tenant: TenantId) -> Result<Details, Refusal> {
    let details = app.identity.look_tenant(tenant, |tenant| tenant.details.clone()).await?;
    details.flatten().ok_or_else(|| Refusal::not_found("tenant"))
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    let fits = text.chars().take(TEXT_CHARS_MAX + 1).count() <= TEXT_CHARS_MAX;
    let message = format!("has more than {TEXT_CHARS_MAX} characters");
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message))
}

fn check_connections(connections: u32) -> Result<(), Refusal> {
    let message = format!("must be 1 to {CONNECTIONS_MAX}");
    let fits = (1..=CONNECTIONS_MAX).contains(&connections);
    fits.then_some(()).ok_or_else(|| Refusal::invalid("max_connections", message))
}

/// A new tenant.
#[derive(Deserialize, ToSchema)]
struct CreateTenantRequest {
    /// What it is addressed by beside the id it is given: 2 to 64 characters a-z, 0-9 and -;
    /// unique; left out or `default` for none
    #[serde(default)]
    tenant_id: String,
    /// What it is called: 1 to 255 characters
    name: String,
    /// Answered as it is sent: every tenant is kept in this server's own journal
    #[serde(default = "default_backend")]
    db_backend: String,
    /// Neither needed nor kept
    #[serde(default)]
    #[schema(value_type = Object)]
    #[expect(dead_code, reason = "read so that it is documented, and let go: it holds a password")]
    db_config: serde::de::IgnoredAny,
    /// Answered as it is sent: every tenant has a chain, a key and a wallet of its own
    #[serde(default = "default_isolation")]
    isolation: String,
    /// For the platform's clients
    #[serde(default = "default_methods")]
    allowed_auth_methods: String,
    /// For the platform's clients: 1 to 1,000,000
    #[serde(default = "default_connections")]
    max_connections: u32,
    /// For the platform's clients
    #[serde(default)]
    #[schema(value_type = Object)]
    features: Map<String, Value>,
    /// The tenant it belongs to: the credential's own, with the scope `tenants:write`
    #[serde(default)]
    parent_tenant_id: Option<String>,
}

async fn started(
    app: &App,
    entered: &Entered,
    tenant: TenantId,
    body: CreateTenantRequest,
) -> Result<Started, Refusal> {
    let tenant_id = Some(body.tenant_id).filter(|it| !it.is_empty() && it != "default");
    if let Some(name) = &tenant_id
        && (AppId::new(name).is_err() || name.parse::<TenantId>().is_ok())
    {
        let message = "must be 2 to 64 characters a-z, 0-9 and -, and no id";
        return Err(Refusal::invalid("tenant_id", message));
    }
    for (field, text) in [
        ("db_backend", &body.db_backend),
        ("isolation", &body.isolation),
        ("allowed_auth_methods", &body.allowed_auth_methods),
    ] {
        check_text(field, text)?;
    }
    check_connections(body.max_connections)?;
    let parent_tenant_id = match body.parent_tenant_id {
        None => None,
        Some(named) => {
            let parent = authority(app, entered, &named, Some(WRITE)).await?;
            Some(label(&details(app, parent.tenant).await?))
        }
    };
    let settings = Settings {
        tenant_id: tenant_id.clone(),
        db_backend: body.db_backend,
        isolation: body.isolation,
        allowed_auth_methods: body.allowed_auth_methods,
        max_connections: body.max_connections,
        features: body.features,
        parent_tenant_id,
        sandbox: None,
    };
    let settings = JsonBytes::of(&settings).map_err(|_| Refusal::crashed())?;
    let (owner, name) = (entered.user()?, body.name);
    Ok(Started { tenant, owner, name, address_name: tenant_id, settings })
}

/// Make a tenant; the caller's user becomes its owner
///
/// The credential stays one for its own tenant: log in with the new `tenant_id` to act there. The
/// new tenant has an empty wallet; welcome credits are given once a person.
#[utoipa::path(post, path = "/v1/tenants", tag = tag::GATEWAY, request_body = CreateTenantRequest,
    responses((status = 201, body = TenantResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn create(
    State(app): State<App>,
    Someone(entered): Someone,
    key: Key,
    body: JsonBody<CreateTenantRequest>,
) -> Result<Response, Problem> {
    entered.require(WRITE)?;
    let caller = &entered.caller;
    let key = key.of(caller, "create_tenant", &body.bytes);
    let tenant = TenantId(once::id_for(&app, key.as_ref()));
    let address = NewTenant::address(tenant);
    let once = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let started = started(&app, &entered, tenant, body.value).await?;
    app.identity.create_tenant(started, origin.clone()).await?;
    let response = TenantResponse::from(details(&app, tenant).await?);
    once.conclude(&app, &address, Conclude, origin, (StatusCode::CREATED, |()| response)).await
}

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many at most: 1 to 200
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// How many to leave out before them
    offset: Option<usize>,
}

impl PageQuery {
    /// The page.
    pub(super) fn page(&self) -> Page {
        Page::by_offset(self.limit, self.offset, PAGE_DEFAULT, PAGE_MAX)
    }
}

/// The tenants that the caller's user belongs to
///
/// An operator, and a service that names no user, sees all tenants, by id; an API key its own one.
#[utoipa::path(get, path = "/v1/tenants", tag = tag::GATEWAY, params(PageQuery),
    responses((status = 200, body = Vec<TenantResponse>), (status = 401), (status = 422)))]
async fn list(
    State(app): State<App>,
    Someone(entered): Someone,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<TenantResponse>>, Problem> {
    let (caller, page) = (&entered.caller, query.page());
    let tenants = match caller.user {
        Some(_) if !is_login(caller) => page.of([caller.tenant]),
        Some(user) if !caller.is_operator() => page.of(app.identity.tenants_of(user).await?),
        _ => {
            let identity = app.identity.clone();
            let read = tokio::task::spawn_blocking(move || identity.all_tenants(page));
            read.await.map_err(|_| Refusal::crashed())??
        }
    };
    let mut responses = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        match details(&app, tenant).await {
            Ok(details) => responses.push(details.into()),
            // It was erased.
            Err(refusal) if refusal.class == Class::NotFound => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(Json(responses))
}

/// One of the caller's tenants
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)),
    responses((status = 200, body = TenantResponse), (status = 401), (status = 404)))]
async fn one(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
) -> Result<Json<TenantResponse>, Problem> {
    let authority = authority(&app, &entered, &tenant_id, None).await?;
    let mut response = TenantResponse::from(details(&app, authority.tenant).await?);
    response.frozen = freezes::of_tenant(&app, authority.tenant, &authority).await?;
    Ok(Json(response))
}

/// What changes; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
struct UpdateTenantRequest {
    /// What it is called: 1 to 255 characters
    #[serde(default)]
    name: Option<String>,
    /// Neither needed nor kept
    #[serde(default)]
    #[schema(value_type = Object)]
    #[expect(dead_code, reason = "read so that it is documented, and let go: it holds a password")]
    db_config: serde::de::IgnoredAny,
    /// For the platform's clients
    #[serde(default)]
    allowed_auth_methods: Option<String>,
    /// For the platform's clients: 1 to 1,000,000
    #[serde(default)]
    max_connections: Option<u32>,
    /// For the platform's clients; all of them
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    features: Option<Map<String, Value>>,
    /// `false` is the same as DELETE; `true` switches it on again, which operators and services do
    #[serde(default)]
    is_active: Option<bool>,
}

/// Change a tenant's name and settings
///
/// Takes the scope `tenants:write` of a credential for this tenant.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)), request_body = UpdateTenantRequest,
    responses((status = 200, body = TenantResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn update(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    body: JsonBody<UpdateTenantRequest>,
) -> Result<Json<TenantResponse>, Problem> {
    let may = authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    let (tenant, body) = (may.tenant, body.value);
    if body.is_active == Some(false) {
        authority(&app, &entered, &tenant_id, Some(DELETE)).await?;
    }
    let mut changed = Map::new();
    if let Some(methods) = body.allowed_auth_methods {
        check_text("allowed_auth_methods", &methods)?;
        changed.insert("allowed_auth_methods".to_owned(), methods.into());
    }
    if let Some(connections) = body.max_connections {
        check_connections(connections)?;
        changed.insert("max_connections".to_owned(), connections.into());
    }
    if let Some(features) = body.features {
        changed.insert("features".to_owned(), features.into());
    }
    let origin = app.origin(&entered.caller, entered.request);
    let settings = (!changed.is_empty()).then(|| Value::from(changed).into());
    let command = Update { name: body.name, settings };
    let tenants = app.system.directory::<Tenant>();
    tenants.ask(&Tenant::address(tenant), command, origin.clone()).await?;
    match body.is_active {
        Some(false) => app.identity.delete_tenant(tenant, origin).await?,
        Some(true) if may.is_installation => {
            app.identity.change_tenant(tenant, SetActive { active: true }, origin).await?;
        }
        _ => {}
    }
    Ok(Json(details(&app, tenant).await?.into()))
}

/// A tenant that was switched off.
#[derive(Serialize, ToSchema)]
struct TenantDeleted {
    tenant_id: String,
    is_active: bool,
    message: &'static str,
}

/// Switch a tenant off: every token for it is refused at once, and nobody can log in to it
///
/// Takes the scope `tenants:delete` of a credential for this tenant, which its owners have. Nothing
/// is erased: its chain, its members and its credits stay, and an operator can switch it on again
/// with PATCH `{"is_active": true}`. The tenant that a user signed up with stays on: 409.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)),
    responses((status = 200, body = TenantDeleted), (status = 401), (status = 403),
        (status = 404), (status = 409)))]
async fn delete(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
) -> Result<Json<TenantDeleted>, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(DELETE)).await?;
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.delete_tenant(tenant, origin).await?;
    let tenant_id = TenantResponse::from(details(&app, tenant).await?).tenant_id;
    let message = "the tenant is switched off; nothing of it was erased";
    Ok(Json(TenantDeleted { tenant_id, is_active: false, message }))
}

/// How a tenant is.
#[derive(Serialize, ToSchema)]
struct TenantHealthResponse {
    tenant_id: String,
    db_backend: String,
    /// Whether it is on
    healthy: bool,
    /// For people: whether it is on, how many members it has, when anything last happened
    message: String,
}

/// Whether a tenant is on, how many members it has, and when anything last happened
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/health", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)),
    responses((status = 200, body = TenantHealthResponse), (status = 401), (status = 404)))]
async fn health(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
) -> Result<Json<TenantHealthResponse>, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, None).await?;
    let (details, identity) = (details(&app, tenant).await?, app.identity.clone());
    let last = tokio::task::spawn_blocking(move || identity.last_activity(tenant));
    let last = last.await.map_err(|_| Refusal::crashed())??.map(rfc3339);
    let (state, members) = (if details.active { "active" } else { "off" }, details.members.len());
    let last = last.as_deref().unwrap_or("never");
    let message = format!("{state}; members: {members}; last activity: {last}");
    let tenant = TenantResponse::from(details);
    Ok(Json(TenantHealthResponse {
        tenant_id: tenant.tenant_id,
        db_backend: tenant.db_backend,
        healthy: tenant.is_active,
        message,
    }))
}
