//! `/v1/scopes`: the scopes there are: this server's, and those that the caller's tenant has named
//! for its roles and grants.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::role::{KnownScope, SCOPES};
use identity::tenant::{CreateScope, OwnScope, RemoveScope, Tenant, UpdateScope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::Refusal;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

const WRITE: &str = "roles:write";
/// The source of this server's scopes.
const PLATFORM: &str = "platform";
/// The source of those that a tenant has named.
const TENANT: &str = "tenant";
/// What clients call the tenant that they do not name.
const UNNAMED: &str = "_platform_";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(update, remove))
}

/// A scope.
#[derive(Serialize, ToSchema)]
struct ScopeResponse {
    /// The id: its name
    id: String,
    /// `resource:action`
    name: String,
    resource: String,
    action: String,
    display_name: String,
    #[schema(value_type = String)]
    description: Cow<'static, str>,
    /// `platform` or `tenant`
    source: &'static str,
}

impl From<&KnownScope> for ScopeResponse {
    fn from(known: &KnownScope) -> Self {
        let (resource, action) = known.name.split_once(':').unwrap_or((known.name, ""));
        Self {
            id: known.name.to_owned(),
            name: known.name.to_owned(),
            resource: resource.to_owned(),
            action: action.to_owned(),
            display_name: known.name.to_owned(),
            description: known.description.into(),
            source: PLATFORM,
        }
    }
}

impl From<OwnScope> for ScopeResponse {
    fn from(own: OwnScope) -> Self {
        let name = own.name();
        Self {
            id: name.clone(),
            name,
            resource: own.resource,
            action: own.action,
            display_name: own.display_name,
            description: own.description.into(),
            source: TENANT,
        }
    }
}

/// Which scopes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ScopesQuery {
    /// Only those of this resource, the part before the colon
    resource: Option<String>,
    /// Only those of this source: `platform` or `tenant`
    source: Option<String>,
}

/// The scopes there are, beside those of apps: `APP:read`, `APP:write` and `APP:destructive`
///
/// First this server's, then those that the caller's tenant has named.
#[utoipa::path(get, path = "/v1/scopes", tag = tag::GATEWAY, params(ScopesQuery),
    responses((status = 200, body = Vec<ScopeResponse>), (status = 401), (status = 422)))]
async fn list(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<ScopesQuery>,
) -> Result<Json<Vec<ScopeResponse>>, Problem> {
    let own = |it: &Tenant| it.staff.scopes.values().cloned().collect::<Vec<_>>();
    let own = app.identity.look_tenant(entered.caller.tenant, own).await?.unwrap_or_default();
    let known = SCOPES.iter().map(ScopeResponse::from);
    let is_wanted = |it: &ScopeResponse| {
        query.resource.as_ref().is_none_or(|resource| *resource == it.resource)
            && query.source.as_ref().is_none_or(|source| source == it.source)
    };
    let all = known.chain(own.into_iter().map(ScopeResponse::from));
    Ok(Json(all.filter(is_wanted).collect()))
}

fn tenants_own() -> String {
    TENANT.to_owned()
}

fn unnamed() -> String {
    UNNAMED.to_owned()
}

/// A scope of the tenant's own.
#[derive(Deserialize, ToSchema)]
struct CreateScopeRequest {
    /// `resource:action`, which it is named in any case
    #[serde(default)]
    name: Option<String>,
    /// 2 to 63 of a-z, 0-9 and -, and none that this server uses
    resource: String,
    /// 1 to 32 of a-z, 0-9, - and _, and none that apps have
    action: String,
    /// What people call it; left out, its name
    #[serde(default)]
    display_name: Option<String>,
    /// What it allows
    #[serde(default)]
    description: Option<String>,
    /// Only `tenant`
    #[serde(default = "tenants_own")]
    source: String,
    /// The caller's own tenant, `default` or `_platform_`, which is what clients say who name none
    #[serde(default = "unnamed")]
    tenant_id: String,
}

impl CreateScopeRequest {
    fn command(self, entered: &Entered) -> Result<CreateScope, Refusal> {
        let Self { name, resource, action, display_name, description, source, tenant_id } = self;
        if source != TENANT {
            return Err(Refusal::invalid("source", "must be tenant"));
        }
        if tenant_id != UNNAMED {
            entered.tenant_named(&tenant_id)?;
        }
        let own = format!("{resource}:{action}");
        if name.is_some_and(|name| name != own) {
            let message = format!("must be {own}, or left out");
            return Err(Refusal::invalid("name", message));
        }
        let (display_name, description) =
            (display_name.unwrap_or(own), description.unwrap_or_default());
        let rights = entered.caller.scopes.clone();
        Ok(CreateScope { resource, action, display_name, description, rights })
    }
}

/// Name a scope of the caller's tenant, for its roles and grants
///
/// This server asks for it nowhere: the tenant's other services read it in tokens. Takes the scope
/// `roles:write`, and rights that cover it.
#[utoipa::path(post, path = "/v1/scopes", tag = tag::GATEWAY, request_body = CreateScopeRequest,
    responses((status = 201, body = ScopeResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<CreateScopeRequest>,
) -> Result<Response, Problem> {
    entered.require(WRITE)?;
    let command = body.value.command(&entered)?;
    ask_once!(
        app,
        key,
        entered,
        "create_scope",
        body.bytes,
        Tenant::address(entered.caller.tenant),
        command,
        StatusCode::CREATED,
        ScopeResponse::from
    )
}

/// 409 for a scope of this server's.
fn check_own(name: &str) -> Result<(), Refusal> {
    let is_system = SCOPES.iter().any(|known| known.name == name);
    let message = "every tenant has this scope; name another one instead";
    let refusal = || Refusal::conflict("system_scope", message);
    (!is_system).then_some(()).ok_or_else(refusal)
}

/// What changes; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
struct UpdateScopeRequest {
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    description: Option<String>,
}

/// Tell otherwise what a scope of the caller's tenant is; takes the scope `roles:write`
#[utoipa::path(patch, path = "/v1/scopes/{scope_id}", tag = tag::GATEWAY,
    params(("scope_id" = String, Path)), request_body = UpdateScopeRequest,
    responses((status = 200, body = ScopeResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn update(
    State(app): State<App>,
    Either(entered): Either,
    Path(scope_id): Path<String>,
    body: JsonBody<UpdateScopeRequest>,
) -> Result<Json<ScopeResponse>, Problem> {
    entered.require(WRITE)?;
    check_own(&scope_id)?;
    let UpdateScopeRequest { display_name, description } = body.value;
    let update = UpdateScope { name: scope_id, display_name, description };
    let origin = app.origin(&entered.caller, entered.request);
    let address = Tenant::address(entered.caller.tenant);
    let scope = app.system.directory::<Tenant>().ask(&address, update, origin).await?;
    Ok(Json(scope.into()))
}

/// End a scope of the caller's tenant that no role and no grant names; takes the scope
/// `roles:write`
#[utoipa::path(delete, path = "/v1/scopes/{scope_id}", tag = tag::GATEWAY,
    params(("scope_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 409)))]
async fn remove(
    State(app): State<App>,
    Either(entered): Either,
    Path(scope_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    entered.require(WRITE)?;
    check_own(&scope_id)?;
    let origin = app.origin(&entered.caller, entered.request);
    let address = Tenant::address(entered.caller.tenant);
    let remove = RemoveScope { name: scope_id.clone() };
    app.system.directory::<Tenant>().ask(&address, remove, origin).await?;
    Ok(Json(json!({"id": scope_id, "deleted": true})))
}
