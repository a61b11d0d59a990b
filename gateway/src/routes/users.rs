//! `/v1/users`: the members of the caller's tenant as users, their roles and their grants.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::new_member::{Conclude, NewMember, Start};
use identity::agency;
use identity::claim::EmailAddress;
use identity::membership::MemberFilter;
use identity::role::{self, GRANTS_BYTES_MAX};
use identity::service::UserView;
use identity::tenant::{
    ChangeMember, GrantChange, MEMBER_ATTRIBUTES_BYTES_MAX, MemberChange, RemoveMember, SetGrants,
    Tenant,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use supervision::Refusal;
use types::{CallerKind, JsonBytes, Page, Scopes, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
const READ: &str = "members:read";
const WRITE: &str = "members:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, update, remove))
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
            agency_id: user.agency,
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
    /// Those too who are switched off in this tenant
    #[serde(default)]
    #[param(default = false)]
    include_inactive: bool,
    /// Only those who are switched on in this tenant, or only those who are off
    is_active: Option<bool>,
    /// Only those whose role and grants cover this scope
    scope: Option<String>,
    /// Only this one: a whole e-mail address, or an id. Addresses are sealed: a part of one finds
    /// nobody
    search: Option<String>,
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
    let UsersQuery { role, include_inactive, is_active, scope, search, limit, offset } = query;
    paging::within("limit", limit, PAGE_MAX)?;
    let page = Page::by_offset(limit, offset, PAGE_DEFAULT, PAGE_MAX);
    let user = match search.filter(|text| !text.trim().is_empty()) {
        Some(text) => Some(app.identity.user_named(&text).await?),
        None => None,
    };
    let active = is_active.or((!include_inactive).then_some(true));
    let filter = MemberFilter { role, scope, active, user };
    let (users, total) = app.identity.members(entered.caller.tenant, filter, page).await?;
    let items = users.into_iter().map(UserDetailResponse::from).collect();
    Ok(Json(UsersResponse { items, total }))
}

/// An account for somebody who has none.
#[derive(Deserialize, ToSchema)]
struct CreateUserRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// Neither needed nor kept: the person chooses one by the link in the mail, and nobody else
    /// knows it
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    #[expect(dead_code, reason = "read so that it is documented, and let go: it is a password")]
    password: serde::de::IgnoredAny,
    /// The name of a role of this tenant
    #[serde(default = "default_role")]
    role: String,
    /// What is granted beside the role
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// What the tenant keeps of the user: at most 1,024 bytes
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<Map<String, Value>>,
    /// Which agency looks after the user; operators and services say it
    #[serde(default)]
    agency_id: Option<String>,
}

fn default_role() -> String {
    "user".to_owned()
}

/// What a request for an account comes to, if the caller may give that.
async fn start(
    app: &App,
    entered: &Entered,
    user: UserId,
    body: CreateUserRequest,
) -> Result<Start, Refusal> {
    let (tenant, rights) = (entered.caller.tenant, entered.caller.scopes.clone());
    let email = EmailAddress::new(&body.email)?;
    let grants: Scopes = body.scopes.unwrap_or_default().into_iter().collect();
    let (wanted, granted) = (body.role.clone(), grants.clone());
    let look = move |it: &Tenant| {
        let is_own = |scope: &str| it.has_named(scope);
        role::check_scopes("scopes", &granted, GRANTS_BYTES_MAX, is_own)?;
        Ok(it.staff.covers(tenant, &wanted))
    };
    let covered: Option<Result<Option<Scopes>, Refusal>> =
        app.identity.look_tenant(tenant, look).await?;
    let covered = covered.transpose()?.flatten();
    let covered = covered.ok_or_else(|| Refusal::invalid("role", "there is no such role"))?;
    role::check_within(&covered, &rights)?;
    role::check_within(&grants, &rights)?;
    let attributes: Option<JsonBytes> = body.attributes.map(|it| Value::from(it).into());
    if attributes.as_ref().is_some_and(|it| it.as_str().len() > MEMBER_ATTRIBUTES_BYTES_MAX) {
        let message = format!("has more than {MEMBER_ATTRIBUTES_BYTES_MAX} bytes");
        return Err(Refusal::invalid("attributes", message));
    }
    app.identity.admit_mail(&tenant.to_string())?;
    let password = app.identity.hash_of_nothing().await?;
    Ok(Start { user, tenant, email, password, role: body.role, grants, rights, attributes })
}

/// Make an account for an address that has none, as a member of the caller's tenant
///
/// Takes the scope `members:write`, and rights that cover the role and the grants. The person is
/// mailed a link to choose a password; nobody can log in before. 409 `email_taken` for an address
/// that has an account: invite it.
#[utoipa::path(post, path = "/v1/users", tag = tag::GATEWAY, request_body = CreateUserRequest,
    responses((status = 201, body = UserDetailResponse), (status = 401), (status = 403),
        (status = 409), (status = 422), (status = 429)))]
async fn create(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<CreateUserRequest>,
) -> Result<Response, Problem> {
    entered.require(WRITE)?;
    let (caller, tenant) = (&entered.caller, entered.caller.tenant);
    let key = key.of(caller, "create_user", &body.bytes);
    let user = UserId(once::id_for(&app, key.as_ref()));
    let address = NewMember::address(user, tenant);
    let once = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let agency = assigned(&app, &entered, body.value.agency_id.clone())?;
    let start = start(&app, &entered, user, body.value).await?;
    let processes = app.system.directory::<NewMember>();
    processes.ask(&address, start, origin.clone()).await?;
    processes.wait(&address, origin.clone()).await??;
    if let Some(agency) = agency {
        agency::assign(&app.system, user, agency, origin.clone()).await?;
    }
    let response = UserDetailResponse::from(app.identity.member(tenant, user).await?);
    once.conclude(&app, &address, Conclude, origin, (StatusCode::CREATED, |()| response)).await
}

/// The agency that a body names, if the caller may say which a user belongs to: `Some(None)` for
/// none any more, `None` when it says nothing.
fn assigned(
    app: &App,
    entered: &Entered,
    named: Option<String>,
) -> Result<Option<Option<String>>, Refusal> {
    let Some(named) = named else { return Ok(None) };
    let caller = &entered.caller;
    if caller.kind != CallerKind::Service && !caller.is_operator() {
        return Err(Refusal::forbidden("operators and services say which agency a user is of"));
    }
    let agency = Some(named).filter(|named| !named.is_empty());
    agency::check_assignable(&app.system, agency.as_deref())?;
    Ok(Some(agency))
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
    /// What this tenant keeps of the user, all of it: at most 1,024 bytes
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<Map<String, Value>>,
    /// Whether the user may do anything in this tenant
    #[serde(default)]
    is_active: Option<bool>,
    /// Which agency looks after the user, wherever they are; empty for none. Operators and services
    /// say it
    #[serde(default)]
    agency_id: Option<String>,
}

/// Change what a user is in the caller's tenant: role, grants, attributes, on or off
///
/// All of it or nothing. Takes the scope `members:write`, and rights that cover what the user may
/// do, what is given and what is taken. The user's tokens for this tenant are refused at once; the
/// next refresh gives one that says it. Who is switched off is signed out of this tenant, and their
/// API keys for it end for good. The last owner stays (409), and so does a direct user in their own
/// tenant.
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
    let UpdateUserRequest { role, scopes, attributes, is_active: active, agency_id } = body.value;
    let agency = assigned(&app, &entered, agency_id)?;
    let (tenant, rights) = (entered.caller.tenant, entered.caller.scopes.clone());
    let grants = scopes.map(Scopes::from_iter);
    let attributes = attributes.map(|attributes| Value::from(attributes).into());
    let change = MemberChange { role, grants, active, attributes };
    let origin = app.origin(&entered.caller, entered.request);
    let change = ChangeMember { user, change, rights };
    app.identity.change_members(tenant, change, origin.clone()).await?;
    if let Some(agency) = agency {
        agency::assign(&app.system, user, agency, origin).await?;
    }
    Ok(Json(app.identity.member(tenant, user).await?.into()))
}

/// Whether the person is to be erased.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RemoveQuery {
    /// Only `false`: a tenant removes a user, it does not erase a person
    #[serde(default)]
    #[param(default = false)]
    permanent: bool,
}

/// A user who belongs to the tenant no more.
#[derive(Serialize, ToSchema)]
struct UserRemoved {
    id: UserId,
    removed: bool,
}

/// Take a user out of the caller's tenant; the account and its other tenants stay
///
/// Takes the scope `members:write`, and rights that cover the user's. Tokens, sessions and API keys
/// of that user for this tenant end for good. The last owner stays (409), and so does a direct user
/// in the tenant they signed up with. `permanent=true` is 403: the person erases the account
/// (`DELETE /v1/auth/me`), or an operator does.
#[utoipa::path(delete, path = "/v1/users/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path), RemoveQuery),
    responses((status = 200, body = UserRemoved), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn remove(
    State(app): State<App>,
    Either(entered): Either,
    Path(user_id): Path<String>,
    Query(RemoveQuery { permanent }): Query<RemoveQuery>,
) -> Result<Json<UserRemoved>, Problem> {
    entered.require(WRITE)?;
    let user = member_at(&entered, &user_id, WRITE)?;
    if permanent {
        let message = "a tenant removes users; the person or an operator erases an account";
        return Err(Refusal::forbidden(message).into());
    }
    let (tenant, rights) = (entered.caller.tenant, entered.caller.scopes.clone());
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.change_members(tenant, RemoveMember { user, rights }, origin).await?;
    Ok(Json(UserRemoved { id: user, removed: true }))
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
