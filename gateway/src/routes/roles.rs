//! `/v1/roles` and `/v1/scopes/effective`: the roles of the caller's tenant, and which scopes a
//! member has.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::role::{self, BUILT_IN, BuiltIn, Role, Terms};
use identity::tenant::{CascadedRole, CreateRole, RemoveRole, RoleChange, Tenant, UpdateRole};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::Refusal;
use types::{CallerKind, RoleIdentifier, Scopes, TenantId, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::users::member_at;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

const WRITE: &str = "roles:write";
const MEMBERS_READ: &str = "members:read";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(update, remove))
        .routes(routes!(effective))
}

/// A role, with exactly the documented keys.
#[derive(Serialize, ToSchema)]
struct RoleResponse {
    /// The id; a built-in role's is its name
    id: String,
    tenant_id: TenantId,
    name: String,
    display_name: String,
    default_scopes: Vec<String>,
    #[schema(value_type = Object)]
    default_attributes: Value,
    default_extensions: Vec<String>,
    confirmation_policy: String,
    max_concurrent_tasks: u64,
    monthly_action_limit: u64,
    context_window: u64,
    /// Whether every tenant has it, and it cannot be changed
    is_system: bool,
    created_at: String,
}

fn default_policy() -> String {
    "default_off".to_owned()
}

const fn default_tasks() -> u64 {
    3
}

const fn default_actions() -> u64 {
    500
}

const fn default_window() -> u64 {
    20
}

impl RoleResponse {
    fn own(tenant: TenantId, role: Role) -> Self {
        let Role { id, name, created_at, terms } = role;
        Self {
            id: id.to_string(),
            tenant_id: tenant,
            name,
            display_name: terms.display_name,
            default_scopes: terms.scopes.as_slice().to_vec(),
            default_attributes: terms.attributes.value(),
            default_extensions: terms.extensions,
            confirmation_policy: terms.confirmation_policy,
            max_concurrent_tasks: terms.max_concurrent_tasks,
            monthly_action_limit: terms.monthly_action_limit,
            context_window: terms.context_window,
            is_system: false,
            created_at: rfc3339(created_at),
        }
    }

    fn built_in(tenant: TenantId, role: &BuiltIn, created_at: &str) -> Self {
        Self {
            id: role.name.to_owned(),
            tenant_id: tenant,
            name: role.name.to_owned(),
            display_name: role.display_name.to_owned(),
            default_scopes: role.scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            default_attributes: json!({}),
            default_extensions: Vec::new(),
            confirmation_policy: default_policy(),
            max_concurrent_tasks: default_tasks(),
            monthly_action_limit: default_actions(),
            context_window: default_window(),
            is_system: true,
            created_at: created_at.to_owned(),
        }
    }
}

/// The roles of the caller's tenant: the built-in ones, the widest first, then its own by name
#[utoipa::path(get, path = "/v1/roles", tag = tag::GATEWAY,
    responses((status = 200, body = Vec<RoleResponse>), (status = 401)))]
async fn list(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<Vec<RoleResponse>>, Problem> {
    let tenant = entered.caller.tenant;
    let own = |it: &Tenant| {
        let created_at = it.details.as_ref().map(|details| details.created_at);
        (created_at, it.staff.roles.values().cloned().collect::<Vec<_>>())
    };
    let found = app.identity.look_tenant(tenant, own).await?;
    let (created_at, own) = found.ok_or_else(|| Refusal::not_found("tenant"))?;
    let created_at = created_at.map(rfc3339).unwrap_or_default();
    let built_in = BUILT_IN.iter().map(|role| RoleResponse::built_in(tenant, role, &created_at));
    let own = own.into_iter().map(|role| RoleResponse::own(tenant, role));
    Ok(Json(built_in.chain(own).collect()))
}

/// A new role.
#[derive(Deserialize, ToSchema)]
struct CreateRoleRequest {
    /// What members' roles are called by: 1 to 63 of a-z, 0-9, - and _, a letter first; unique in
    /// the tenant
    name: String,
    /// What people read
    #[serde(default)]
    display_name: String,
    /// What it covers: known scopes (`GET /v1/scopes`), scopes of apps (`APP:read`), patterns
    #[serde(default)]
    default_scopes: Vec<String>,
    /// For the platform's clients
    #[serde(default)]
    #[schema(value_type = Object)]
    default_attributes: Map<String, Value>,
    /// For the platform's clients
    #[serde(default)]
    default_extensions: Vec<String>,
    /// When its members' calls wait for them: `enforced`, `default_on`, `default_off`, `disabled`
    #[serde(default = "default_policy")]
    confirmation_policy: String,
    /// For the platform's clients
    #[serde(default = "default_tasks")]
    max_concurrent_tasks: u64,
    /// For the platform's clients
    #[serde(default = "default_actions")]
    monthly_action_limit: u64,
    /// For the platform's clients
    #[serde(default = "default_window")]
    context_window: u64,
}

/// Make a role of the caller's tenant
///
/// Takes the scope `roles:write`, and rights that cover all of the role's scopes: 403
/// `beyond_own_rights`.
#[utoipa::path(post, path = "/v1/roles", tag = tag::GATEWAY, request_body = CreateRoleRequest,
    responses((status = 201, body = RoleResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<CreateRoleRequest>,
) -> Result<Response, Problem> {
    entered.require(WRITE)?;
    let (tenant, rights, body_bytes) =
        (entered.caller.tenant, entered.caller.scopes.clone(), body.bytes);
    let body = body.value;
    let terms = Terms {
        display_name: body.display_name,
        scopes: body.default_scopes.into_iter().collect(),
        attributes: Value::from(body.default_attributes).into(),
        extensions: body.default_extensions,
        confirmation_policy: body.confirmation_policy,
        max_concurrent_tasks: body.max_concurrent_tasks,
        monthly_action_limit: body.monthly_action_limit,
        context_window: body.context_window,
    };
    let command = CreateRole { name: body.name, terms, rights };
    let view = move |role: Role| RoleResponse::own(tenant, role);
    ask_once!(
        app,
        key,
        entered,
        "create_role",
        body_bytes,
        Tenant::address(tenant),
        command,
        StatusCode::CREATED,
        view
    )
}

/// The tenant's own role that a path names by its id or its name. A built-in one is 409.
async fn own_role(app: &App, tenant: TenantId, text: &str) -> Result<RoleIdentifier, Refusal> {
    if role::built_in(text, tenant).is_some() {
        let message = "every tenant has this role; make another one instead";
        return Err(Refusal::conflict("system_role", message));
    }
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let name = text.to_owned();
    let named = move |it: &Tenant| it.staff.roles.get(&name).map(|role| role.id);
    let found = app.identity.look_tenant(tenant, named).await?.flatten();
    found.ok_or_else(|| Refusal::not_found("role"))
}

/// What changes; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
struct UpdateRoleRequest {
    #[serde(default)]
    display_name: Option<String>,
    /// What it covers, all of it
    #[serde(default)]
    default_scopes: Option<Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    default_attributes: Option<Map<String, Value>>,
    #[serde(default)]
    default_extensions: Option<Vec<String>>,
    /// `enforced`, `default_on`, `default_off` or `disabled`
    #[serde(default)]
    confirmation_policy: Option<String>,
    #[serde(default)]
    max_concurrent_tasks: Option<u64>,
    #[serde(default)]
    monthly_action_limit: Option<u64>,
    #[serde(default)]
    context_window: Option<u64>,
}

/// For whom a change counts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CascadeQuery {
    /// Whether it counts at once for everybody who has the role
    #[serde(default)]
    #[param(default = false)]
    cascade: bool,
}

/// A role after a change.
#[derive(Serialize, ToSchema)]
struct RoleUpdated {
    #[serde(flatten)]
    role: RoleResponse,
    /// For how many members it counts at once
    cascaded_count: usize,
}

/// Change a role
///
/// With `cascade=true` it counts for its members at once: their tokens for this tenant are refused,
/// and the next refresh gives ones that say the new scopes. Otherwise it counts for each from their
/// next change of role or grants on. Takes the scope `roles:write`, and rights that cover the role
/// as it was and as it will be.
#[utoipa::path(patch, path = "/v1/roles/{role_id}", tag = tag::GATEWAY,
    params(("role_id" = String, Path), CascadeQuery), request_body = UpdateRoleRequest,
    responses((status = 200, body = RoleUpdated), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn update(
    State(app): State<App>,
    Either(entered): Either,
    Path(role_id): Path<String>,
    Query(CascadeQuery { cascade }): Query<CascadeQuery>,
    body: JsonBody<UpdateRoleRequest>,
) -> Result<Json<RoleUpdated>, Problem> {
    entered.require(WRITE)?;
    let (tenant, rights, body) = (entered.caller.tenant, entered.caller.scopes.clone(), body.value);
    let id = own_role(&app, tenant, &role_id).await?;
    let change = RoleChange {
        display_name: body.display_name,
        scopes: body.default_scopes.map(|scopes| scopes.into_iter().collect()),
        attributes: body.default_attributes.map(|attributes| Value::from(attributes).into()),
        extensions: body.default_extensions,
        confirmation_policy: body.confirmation_policy,
        max_concurrent_tasks: body.max_concurrent_tasks,
        monthly_action_limit: body.monthly_action_limit,
        context_window: body.context_window,
    };
    let update = UpdateRole { id, change, cascade, rights };
    let origin = app.origin(&entered.caller, entered.request);
    let CascadedRole { role, cascaded_count } =
        app.identity.change_members(tenant, update, origin).await?;
    Ok(Json(RoleUpdated { role: RoleResponse::own(tenant, role), cascaded_count }))
}

/// End a role that nobody has; 409 `role_in_use` says how many have it
#[utoipa::path(delete, path = "/v1/roles/{role_id}", tag = tag::GATEWAY,
    params(("role_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 409)))]
async fn remove(
    State(app): State<App>,
    Either(entered): Either,
    Path(role_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    entered.require(WRITE)?;
    let (tenant, rights) = (entered.caller.tenant, entered.caller.scopes.clone());
    let id = own_role(&app, tenant, &role_id).await?;
    let remove = RemoveRole { id, rights };
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.change_members(tenant, remove, origin).await?;
    Ok(Json(json!({"id": id, "deleted": true})))
}

/// What a member's tokens cover.
#[derive(Serialize, ToSchema)]
struct EffectiveResponse {
    scopes: Vec<EffectiveItem>,
}

/// One scope, and why.
#[derive(Serialize, ToSchema)]
struct EffectiveItem {
    scope: String,
    /// `role:NAME` or `grant`; with `, cut by key` where the caller's own key covers only this
    source: String,
}

/// Cuts what the caller's own rights cover down to what the key or agent token shown does.
fn cut(entered: &Entered, user: UserId, items: Vec<EffectiveItem>) -> Vec<EffectiveItem> {
    let caller = &entered.caller;
    let is_key = !matches!(caller.kind, CallerKind::User | CallerKind::Service);
    if !is_key || caller.user != Some(user) {
        return items;
    }
    let mut kept = Vec::new();
    for item in items {
        let right = Scopes::from_iter([item.scope.as_str()]);
        for scope in right.cut_to(&caller.scopes).as_slice() {
            let is_whole = *scope == item.scope;
            let source =
                if is_whole { item.source.clone() } else { format!("{}, cut by key", item.source) };
            kept.push(EffectiveItem { scope: scope.clone(), source });
        }
    }
    kept
}

/// What a member of the caller's tenant may do, and where it comes from
///
/// One's own, or with the scope `members:read` anybody's. A key sees its own user's rights cut down
/// to what the key covers.
#[utoipa::path(get, path = "/v1/scopes/effective/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)),
    responses((status = 200, body = EffectiveResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn effective(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
) -> Result<Json<EffectiveResponse>, Problem> {
    let user = member_at(&entered, &user_id, MEMBERS_READ)?;
    let found = app.identity.effective_scopes(entered.caller.tenant, user).await?;
    let items = found.into_iter();
    let items = items.map(|it| EffectiveItem { scope: it.scope, source: it.source }).collect();
    Ok(Json(EffectiveResponse { scopes: cut(&entered, user, items) }))
}
