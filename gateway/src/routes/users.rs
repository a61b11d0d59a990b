//! `/v1/users`: the members of the caller's tenant as users, their roles and their grants.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::service::UserView;
use identity::tenant::{AddMember, GrantChange, SetGrants, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::Refusal;
use types::{Page, Scopes, UserId, rfc3339};
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

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
const READ: &str = "members:read";
const WRITE: &str = "members:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one, update))
        .routes(routes!(grant_scopes, revoke_scopes))
}

/// The user that a path names: one's own, or with the scope `wanted` another of the tenant's. What
/// is no id is nobody's.
pub(super) fn member_at(entered: &Entered, text: &str, wanted: &str) -> Result<UserId, Refusal> {
    let user = text.parse().ok();
    if user.is_none() || user != entered.caller.user {
        entered.require(wanted)?;
    }
    user.ok_or_else(|| Refusal::not_found("user"))
}

/// A user of the tenant, with exactly the documented keys.
#[derive(Serialize, ToSchema)]
struct UserDetailResponse {
    id: UserId,
    imperal_id: UserId,
    email: String,
    tenant_id: String,
    agency_id: Option<String>,
    role: String,
    scopes: Vec<String>,
    #[schema(value_type = Object)]
    attributes: Value,
    is_active: bool,
    auth_method: &'static str,
    created_at: String,
    last_login: Option<String>,
}

impl From<UserView> for UserDetailResponse {
    fn from(user: UserView) -> Self {
        Self {
            id: user.id,
            imperal_id: user.id,
            email: user.email,
            tenant_id: user.id.tenant_label(user.tenant),
            agency_id: None,
            role: user.role,
            scopes: user.scopes.as_slice().to_vec(),
            attributes: user.attributes.value(),
            is_active: user.active,
            auth_method: user.auth_method.name(),
            created_at: rfc3339(user.created_at),
            last_login: user.last_login.map(rfc3339),
        }
    }
}

/// A page of users.
#[derive(Serialize, ToSchema)]
struct UsersResponse {
    items: Vec<UserDetailResponse>,
    /// How many there are in all
    total: usize,
}

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UsersQuery {
    /// Only those with this role
    role: Option<String>,
    /// How many at most: 1 to 200
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// How many to leave out before them
    offset: Option<usize>,
}

/// The users of the caller's tenant, the oldest account first
///
/// Takes the scope `members:read`.
#[utoipa::path(get, path = "/v1/users", tag = tag::GATEWAY, params(UsersQuery),
    responses((status = 200, body = UsersResponse), (status = 401), (status = 403),
        (status = 422)))]
async fn list(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<UsersQuery>,
) -> Result<Json<UsersResponse>, Problem> {
    entered.require(READ)?;
    let page = Page::by_offset(query.limit, query.offset, PAGE_DEFAULT, PAGE_MAX);
    let (users, total) = app.identity.members(entered.caller.tenant, query.role, page).await?;
    let items = users.into_iter().map(UserDetailResponse::from).collect();
    Ok(Json(UsersResponse { items, total }))
}

/// A user of the caller's tenant: one's own, or with the scope `members:read` anybody
#[utoipa::path(get, path = "/v1/users/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)),
    responses((status = 200, body = UserDetailResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn one(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
) -> Result<Json<UserDetailResponse>, Problem> {
    let user = member_at(&entered, &user_id, READ)?;
    Ok(Json(app.identity.member(entered.caller.tenant, user).await?.into()))
}

/// What changes; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
struct UpdateUserRequest {
    /// The name of a role of this tenant
    #[serde(default)]
    role: Option<String>,
    /// What is granted beside the role, all of it
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Not changed by a tenant: refused unless null
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<Map<String, Value>>,
    /// Not changed by a tenant, which removes members instead: refused unless null
    #[serde(default)]
    is_active: Option<bool>,
}

/// Give a user of the caller's tenant another role, other grants, or both
///
/// Takes the scope `members:write`, and rights that cover what is given and what is taken. The
/// user's tokens for this tenant are refused at once; the next refresh gives one that says it.
#[utoipa::path(patch, path = "/v1/users/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), request_body = UpdateUserRequest,
    responses((status = 200, body = UserDetailResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn update(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    body: JsonBody<UpdateUserRequest>,
) -> Result<Json<UserDetailResponse>, Problem> {
    entered.require(WRITE)?;
    let user = member_at(&entered, &user_id, WRITE)?;
    let UpdateUserRequest { role, scopes, attributes, is_active } = body.value;
    let tenant = entered.caller.tenant;
    let foreign = [("attributes", attributes.is_some()), ("is_active", is_active.is_some())];
    if let Some((field, _)) = foreign.into_iter().find(|(_, is_given)| *is_given) {
        return Err(Refusal::invalid(field, "a tenant does not change this of a user").into());
    }
    let origin = || app.origin(&entered.caller, entered.request);
    if let Some(role) = role {
        let rights = entered.caller.scopes.clone();
        let change = AddMember { user, role, rights, is_new: false };
        app.identity.change_members(tenant, change, origin()).await?;
    }
    if let Some(scopes) = scopes {
        let change = GrantChange::Set(scopes.into_iter().collect());
        let set = SetGrants { user, change, rights: entered.caller.scopes.clone() };
        app.identity.change_members(tenant, set, origin()).await?;
    }
    Ok(Json(app.identity.member(tenant, user).await?.into()))
}

/// Scopes to grant, or to take back.
#[derive(Deserialize, ToSchema)]
struct ScopesRequest {
    scopes: Vec<String>,
}

/// What a user is granted beside the role.
#[derive(Serialize, ToSchema)]
struct GrantsResponse {
    user_id: UserId,
    /// All that is granted now
    scopes: Vec<String>,
}

/// Grant scopes to a user of the caller's tenant, beside the role
///
/// Takes the scope `members:write`, and rights that cover what is granted.
#[utoipa::path(post, path = "/v1/users/{user_id}/scopes", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), request_body = ScopesRequest,
    responses((status = 200, body = GrantsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn grant_scopes(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    key: Key,
    body: JsonBody<ScopesRequest>,
) -> Result<Response, Problem> {
    entered.require(WRITE)?;
    let user = member_at(&entered, &user_id, WRITE)?;
    let (tenant, rights) = (entered.caller.tenant, entered.caller.scopes.clone());
    let change = GrantChange::Add(body.value.scopes.into_iter().collect());
    let command = SetGrants { user, change, rights };
    let operation = format!("grant_scopes {user}");
    let view =
        move |scopes: Scopes| GrantsResponse { user_id: user, scopes: scopes.as_slice().to_vec() };
    let response: Result<Response, Problem> = ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        Tenant::address(tenant),
        command,
        StatusCode::OK,
        view
    );
    let response = response?;
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.tell_members(tenant, origin).await?;
    Ok(response)
}

/// Take grants of a user of the caller's tenant back
///
/// Takes the scope `members:write`, and rights that cover what is taken. What the role covers
/// stays.
#[utoipa::path(delete, path = "/v1/users/{user_id}/scopes", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), request_body = ScopesRequest,
    responses((status = 200, body = GrantsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn revoke_scopes(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    body: JsonBody<ScopesRequest>,
) -> Result<Json<GrantsResponse>, Problem> {
    entered.require(WRITE)?;
    let user = member_at(&entered, &user_id, WRITE)?;
    let change = GrantChange::Take(body.value.scopes.into_iter().collect());
    let set = SetGrants { user, change, rights: entered.caller.scopes.clone() };
    let origin = app.origin(&entered.caller, entered.request);
    let left = app.identity.change_members(entered.caller.tenant, set, origin).await?;
    Ok(Json(GrantsResponse { user_id: user, scopes: left.as_slice().to_vec() }))
}
