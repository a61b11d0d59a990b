//! `/v1/auth/sessions`: where the caller is logged in, and ending that.
//!
//! An API key sees and ends the sessions of its own tenant only; it is in none of them itself.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use identity::session::Revoke;
use identity::sessions::{NoteSessionsEnded, OpenSession};
use identity::user::User;
use serde::Serialize;
use supervision::Refusal;
use types::{CallerKind, SessionId, TenantId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Member};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sessions))
        .routes(routes!(revoke))
        .routes(routes!(revoke_others))
}

/// The tenant whose sessions the caller's credential reaches; `None` is all of the user's.
fn reach(entered: &Entered) -> Option<TenantId> {
    let is_login = entered.caller.kind == CallerKind::User;
    (!is_login).then_some(entered.caller.tenant)
}

/// One login.
#[derive(Serialize, ToSchema)]
struct SessionItem {
    id: SessionId,
    /// Whether this request belongs to it
    current: bool,
    tenant_id: String,
    /// For people: `Firefox on Linux`
    device: Option<String>,
    /// What the client calls itself
    user_agent: Option<String>,
    /// The network address without its last part
    place: Option<String>,
    created_at: String,
    /// The login or the last refresh
    last_used_at: String,
    /// When it ends if it is not used
    expires_at: String,
}

/// The logins.
#[derive(Serialize, ToSchema)]
struct SessionList {
    sessions: Vec<SessionItem>,
}

/// Where the caller is logged in, the latest login first, at most 100
#[utoipa::path(get, path = "/v1/auth/sessions", tag = tag::GATEWAY,
    responses((status = 200, body = SessionList), (status = 401), (status = 403)))]
async fn sessions(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<SessionList>, Problem> {
    let (user, current) = (entered.user()?, entered.caller.session);
    let open = app.identity.open_sessions(user, reach(&entered)).await?;
    let item = |it: OpenSession| SessionItem {
        id: it.session,
        current: current == Some(it.session),
        tenant_id: user.tenant_label(it.tenant),
        device: it.whence.device(),
        user_agent: it.whence.user_agent,
        place: it.whence.place,
        created_at: rfc3339(it.opened_at),
        last_used_at: rfc3339(it.last_used_at),
        expires_at: rfc3339(it.expires_at),
    };
    Ok(Json(SessionList { sessions: open.into_iter().map(item).collect() }))
}

/// How many were ended.
#[derive(Serialize, ToSchema)]
struct RevokedSessions {
    /// Those that had ended before are not counted
    revoked: usize,
}

/// End one of the caller's sessions; its tokens are refused from the answer on
#[utoipa::path(post, path = "/v1/auth/sessions/{id}/revoke", tag = tag::GATEWAY,
    params(("id" = String, Path)),
    responses((status = 200, body = RevokedSessions), (status = 401), (status = 403),
        (status = 404)))]
async fn revoke(
    State(app): State<App>,
    Member(entered): Member,
    Path(id): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    let missing = || Refusal::not_found("session");
    let session: SessionId = id.parse().map_err(|_| missing())?;
    let address = app.identity.own_session(entered.user()?, session)?;
    if reach(&entered).is_some_and(|tenant| tenant.0 != address.place().home.0) {
        return Err(missing().into());
    }
    let operation = format!("revoke {session}");
    let view = |was_open: bool| RevokedSessions { revoked: usize::from(was_open) };
    let response: Result<_, Problem> =
        ask_once!(app, key, entered, &operation, [], address, Revoke {}, StatusCode::OK, view);
    let response = response?;
    app.identity.session_ended(session)?;
    Ok(response)
}

/// End all of the caller's sessions but the one that this request belongs to
#[utoipa::path(post, path = "/v1/auth/sessions/revoke-others", tag = tag::GATEWAY,
    responses((status = 200, body = RevokedSessions), (status = 401), (status = 403)))]
async fn revoke_others(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
) -> Result<Response<Body>, Problem> {
    let (user, caller) = (entered.user()?, &entered.caller);
    let (origin, reach) = (app.origin(caller, entered.request), reach(&entered));
    let address = app.identity.user_address(user)?.ok_or_else(|| Refusal::not_found("user"))?;
    let begun = once::begin(&app, key, caller, address.place(), "revoke_others", &[]).await?;
    if let Once::Answered(response) = begun {
        return Ok(response);
    }
    let revoking = app.identity.revoke_other_sessions(user, reach, caller.session, origin.clone());
    let answer = RevokedSessions { revoked: revoking.await? };
    let Once::Ticketed(ticketed) = begun else { return Ok(Json(answer).into_response()) };
    let render = move |()| once::record(StatusCode::OK, &answer);
    let users = app.system.directory::<User>();
    let recorded = users.ask_once(&address, NoteSessionsEnded, origin, ticketed, render);
    once::response(&recorded.await?)
}
