//! `/v1/tenants/{tenant_id}/members` and invitations: who belongs to a tenant, as what, and how
//! somebody comes to.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use identity::invitation::{Conclude, Invitation, Invited};
use identity::membership::MemberFilter;
use identity::service::UserView;
use identity::tenant::{AddMember, Inviter, RemoveMember};
use identity::{InvitationView, Inviting, Joining};
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::{CallerKind, InvitationId, Scopes, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::tenants::{Authority, PageQuery, authority};
use crate::app::App;
use crate::authenticate::{Member, Someone};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

const INVITATIONS_DEFAULT: usize = 50;
const INVITATIONS_MAX: usize = 200;
const READ: &str = "members:read";
const WRITE: &str = "members:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(members))
        .routes(routes!(change_member, remove_member))
        .routes(routes!(invite, invitations))
        .routes(routes!(revoke))
        .routes(routes!(accept))
}

/// A member of a tenant.
#[derive(Serialize, ToSchema)]
struct MemberResponse {
    user_id: UserId,
    email: String,
    name: Option<String>,
    role: String,
    /// What the role and the grants cover together
    scopes: Vec<String>,
    is_active: bool,
    last_login: Option<String>,
}

impl From<UserView> for MemberResponse {
    fn from(user: UserView) -> Self {
        Self {
            user_id: user.id,
            email: user.email,
            name: user.name,
            role: user.role,
            scopes: user.scopes.as_slice().to_vec(),
            is_active: user.active,
            last_login: user.last_login.map(rfc3339),
        }
    }
}

/// A page of members.
#[derive(Serialize, ToSchema)]
struct MembersResponse {
    items: Vec<MemberResponse>,
    /// How many there are in all
    total: usize,
}

/// The members of a tenant
///
/// Takes the scope `members:read` of a credential for this tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/members", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path), PageQuery),
    responses((status = 200, body = MembersResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn members(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<MembersResponse>, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(READ)).await?;
    let (members, total) =
        app.identity.members(tenant, MemberFilter::default(), query.page()).await?;
    let items = members.into_iter().map(MemberResponse::from).collect();
    Ok(Json(MembersResponse { items, total }))
}

/// A member's user id as a path has it: what is no id is nobody's.
pub(super) fn user_at(text: &str) -> Result<UserId, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("member"))
}

/// Another role.
#[derive(Deserialize, ToSchema)]
struct ChangeMemberRequest {
    /// The name of a role of this tenant
    role: String,
}

/// Give a member another role
///
/// Takes the scope `members:write`, and rights that cover both roles. The member's tokens for this
/// tenant are refused at once; the next refresh gives one that says the new role. The last owner
/// stays one (409).
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/members/{user_id}", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path), ("user_id" = String, Path)),
    request_body = ChangeMemberRequest,
    responses((status = 200, body = MemberResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn change_member(
    State(app): State<App>,
    Someone(entered): Someone,
    Path((tenant_id, user_id)): Path<(String, String)>,
    body: JsonBody<ChangeMemberRequest>,
) -> Result<Json<MemberResponse>, Problem> {
    let Authority { tenant, rights, .. } =
        authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    let (user, role) = (user_at(&user_id)?, body.value.role);
    let origin = app.origin(&entered.caller, entered.request);
    let change = AddMember { user, role, rights, is_new: false };
    app.identity.change_members(tenant, change, origin).await?;
    Ok(Json(app.identity.member(tenant, user).await?.into()))
}

/// Remove a member, or leave
///
/// A member may leave with any credential for this tenant; removing another takes the scope
/// `members:write` and rights that cover the member's. Tokens of that user for this tenant are
/// refused at once, and its sessions end. The last owner stays (409), and so does a direct user in
/// the tenant they signed up with.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/members/{user_id}", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path), ("user_id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404), (status = 409)))]
async fn remove_member(
    State(app): State<App>,
    Someone(entered): Someone,
    Path((tenant_id, user_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let user = user_at(&user_id);
    let own = entered.caller.user.filter(|own| user.as_ref() == Ok(own));
    let leaves = own.is_some() && entered.caller.session.is_some();
    let wanted = (!leaves).then_some(WRITE);
    let Authority { tenant, rights, .. } = authority(&app, &entered, &tenant_id, wanted).await?;
    let rights = if leaves { Scopes::all() } else { rights };
    let origin = app.origin(&entered.caller, entered.request);
    let remove = RemoveMember { user: user?, rights };
    app.identity.change_members(tenant, remove, origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whom to invite, as what.
#[derive(Deserialize, ToSchema)]
struct InviteRequest {
    /// The e-mail address
    #[schema(format = Email)]
    email: String,
    /// The name of a role of this tenant
    #[serde(default = "default_role")]
    role: String,
}

fn default_role() -> String {
    "user".to_owned()
}

/// An open invitation.
#[derive(Serialize, ToSchema)]
struct InvitationResponse {
    id: InvitationId,
    email: String,
    role: String,
    status: &'static str,
    invited_by: Option<UserId>,
    created_at: String,
    expires_at: String,
}

impl From<InvitationView> for InvitationResponse {
    fn from(view: InvitationView) -> Self {
        let InvitationView { id, email, role, invited_by, created_at, expires_at } = view;
        let (created_at, expires_at) = (rfc3339(created_at), rfc3339(expires_at));
        Self { id, email, role, status: "pending", invited_by, created_at, expires_at }
    }
}

/// Invite an e-mail address; the link goes out by mail and holds for 7 days, once
///
/// Takes the scope `members:write` and rights that cover the role. The address need not have an
/// account yet. The invitation is worth what its inviter may give when it is accepted: who is a
/// member no more, or may not invite as this, has invited nobody (410 `invitation_void`).
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/invitations", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)), request_body = InviteRequest,
    responses((status = 201, body = InvitationResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn invite(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    key: Key,
    body: JsonBody<InviteRequest>,
) -> Result<Response, Problem> {
    let Authority { tenant, rights, is_installation } =
        authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    let InviteRequest { email, role } = body.value;
    let (id, by) = (InvitationId(app.system.new_id()), entered.caller.user);
    // A service's word stands for itself, whomever it acts for.
    let inviter = match by.filter(|_| entered.caller.kind != CallerKind::Service) {
        None => Inviter::Service,
        Some(by) if is_installation => Inviter::Operator(by),
        Some(by) => Inviter::Member(by),
    };
    let inviting = Inviting { inviter, by, rights };
    let (address, operation) = (Invitation::address(id, tenant), format!("invite {tenant}"));
    let caller = &entered.caller;
    let once = once::begin(&app, key, caller, address.place(), &operation, &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let invite = app.identity.invitation(id, tenant, &email, role, inviting).await?;
    let email = invite.email.as_str().to_owned();
    let view = |invited: Invited| InvitationResponse::from(InvitationView::new(invited, email));
    let (origin, directory) =
        (app.origin(caller, entered.request), app.system.directory::<Invitation>());
    match once {
        Once::Ticketed(ticketed) => {
            let render = move |invited| once::record(StatusCode::CREATED, &view(invited));
            let bytes = directory.ask_once(&address, invite, origin, ticketed, render).await?;
            once::response(&bytes)
        }
        _ => {
            let invited = directory.ask(&address, invite, origin).await?;
            Ok((StatusCode::CREATED, Json(view(invited))).into_response())
        }
    }
}

/// Which part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct InvitationsQuery {
    /// How many at most: 1 to 200
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// The id of the last one of the page before
    after: Option<String>,
}

/// A page of open invitations.
#[derive(Serialize, ToSchema)]
struct InvitationsResponse {
    items: Vec<InvitationResponse>,
}

/// The invitations of a tenant that can be accepted, the oldest first
///
/// Takes the scope `members:read` of a credential for this tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/invitations", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path), InvitationsQuery),
    responses((status = 200, body = InvitationsResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn invitations(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    Query(query): Query<InvitationsQuery>,
) -> Result<Json<InvitationsResponse>, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(READ)).await?;
    let limit = query.limit.unwrap_or(INVITATIONS_DEFAULT).clamp(1, INVITATIONS_MAX);
    let after = query.after.map(|text| text.parse::<InvitationId>());
    let after = after.transpose().map_err(|_| Refusal::invalid("after", "is not an id"))?;
    let items = app.identity.invitations(tenant, after, limit)?;
    let items = items.into_iter().map(InvitationResponse::from).collect();
    Ok(Json(InvitationsResponse { items }))
}

/// Take an invitation back
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/invitations/{invitation_id}",
    tag = tag::GATEWAY,
    params(("tenant_id" = String, Path), ("invitation_id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404), (status = 410)))]
async fn revoke(
    State(app): State<App>,
    Someone(entered): Someone,
    Path((tenant_id, invitation_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    let missing = || Refusal::not_found("invitation");
    let invitation = invitation_id.parse().map_err(|_| missing())?;
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.revoke_invitation(tenant, invitation, origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The link's token.
#[derive(Deserialize, ToSchema)]
struct AcceptRequest {
    /// What stands behind `token=` in the mailed link
    token: String,
}

/// Where one has joined.
#[derive(Serialize, ToSchema)]
struct AcceptResponse {
    tenant_id: String,
    role: String,
    /// For people
    message: &'static str,
}

/// Accept an invitation with the account that the invited address belongs to
///
/// A link is used once: later it is 410, as it is once it has expired or was taken back. The
/// credential stays one for its own tenant: log in with the `tenant_id` of the answer to act there.
#[utoipa::path(post, path = "/v1/invitations/accept", tag = tag::GATEWAY,
    request_body = AcceptRequest,
    responses((status = 200, body = AcceptResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 410), (status = 422)))]
async fn accept(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<AcceptRequest>,
) -> Result<Response, Problem> {
    let (caller, may_repeat) = (&entered.caller, key.0.is_some());
    let address = app.identity.invitation_of(&body.value.token)?;
    let operation = "accept_invitation";
    let once = once::begin(&app, key, caller, address.place(), operation, &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let joining =
        app.identity.accept_invitation(address, caller, may_repeat, origin.clone()).await?;
    let Joining { address, tenant, role } = joining;
    let message = "you belong to this tenant now; log in with its tenant_id to act there";
    let response = AcceptResponse { tenant_id: tenant.to_string(), role, message };
    match once {
        Once::Ticketed(ticketed) => {
            let render = move |()| once::record(StatusCode::OK, &response);
            let invitations = app.system.directory::<Invitation>();
            let ask = invitations.ask_once(&address, Conclude, origin, ticketed, render);
            once::response(&ask.await?)
        }
        _ => Ok(Json(response).into_response()),
    }
}
