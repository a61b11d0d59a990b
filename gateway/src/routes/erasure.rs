//! Erasing a person or a tenant for good.
//!
//! An answer of these routes says that it is done: nothing of what was erased gives access or can
//! be read. A repetition answers the same receipt.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::erasure::{Conclude, Erasure, REASON_CHARS_MAX, Receipt, Subject};
use identity::tenant::Details;
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal};
use types::{CallerKind, PlainText, TenantId, UserId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::tenants::{Authority, authority, label};
use crate::app::App;
use crate::authenticate::{Entered, Member, Operator, Someone};
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

const TENANTS_DELETE: &str = "tenants:delete";
/// The reason of those who give none.
const OWN_WISH: &str = "their own wish";
const OWNERS_WISH: &str = "the owner's wish";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(erase_user))
        .routes(routes!(erase_me))
        .routes(routes!(erase_tenant))
}

/// What was erased, and what ended with it.
#[derive(Serialize, ToSchema)]
struct ErasureResponse {
    /// The id of the person or the tenant
    id: String,
    /// `user` or `tenant`
    sort: &'static str,
    /// From when on nothing of it can be read
    erased_at: String,
    /// Who asked for it
    requested_by: String,
    reason: String,
    /// How many keys were shredded
    keys_shredded: usize,
    /// Their numbers in the key file
    key_numbers: Vec<u32>,
    sessions_ended: u64,
    api_keys_ended: u64,
    second_factors_ended: u64,
    memberships_ended: u64,
    invitations_ended: u64,
    mails_cancelled: u64,
    /// How long it took, in milliseconds
    took_ms: i64,
}

impl From<Receipt> for ErasureResponse {
    fn from(receipt: Receipt) -> Self {
        let Receipt { begun, found, key_numbers, begun_at, erased_at } = receipt;
        Self {
            id: begun.subject.to_string(),
            sort: begun.subject.sort(),
            erased_at: rfc3339(erased_at),
            requested_by: begun.by,
            reason: begun.reason,
            keys_shredded: key_numbers.len(),
            key_numbers,
            sessions_ended: found.sessions,
            api_keys_ended: found.api_keys,
            second_factors_ended: found.second_factors,
            memberships_ended: found.memberships,
            invitations_ended: found.invitations,
            mails_cancelled: found.mails,
            took_ms: erased_at.0 - begun_at.0,
        }
    }
}

/// Erases, and answers the receipt: the recorded one to a repetition by its key.
async fn answer<F>(
    app: &App,
    entered: &Entered,
    (key, bytes): (Key, &[u8]),
    subject: Subject,
    erase: impl FnOnce(Origin) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<(), Refusal>>,
{
    let (address, operation) = (Erasure::address(subject), format!("erase {subject}"));
    let (caller, place) = (&entered.caller, address.place());
    let once = once::begin(app, key, caller, place, &operation, bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    erase(origin.clone()).await?;
    let view = (StatusCode::OK, ErasureResponse::from);
    once.conclude(app, &address, Conclude, origin, view).await
}

/// Why somebody is erased.
#[derive(Deserialize, ToSchema)]
struct EraseUserRequest {
    /// Why; it stands in the platform's chain, so it must not say what is erased
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
}

/// Erase a person for good, with the tenant they signed up with
///
/// Every session, token, API key and second factor ends, memberships, open invitations to the
/// address and waiting mails too; then the person's key is shredded, and with it their address,
/// their name and everything that was theirs, in backups as well. Their id stays where others'
/// records name it. 409 `last_owner` names the tenants that would be left without an owner, or the
/// person's own while others are in it. With the same address one may sign up anew, as somebody
/// else; there are no second welcome credits.
#[utoipa::path(post, path = "/v1/users/{user_id}/erase", tag = tag::OPERATOR,
    params(("user_id" = String, Path)), request_body = EraseUserRequest,
    responses((status = 200, body = ErasureResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn erase_user(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(user_id): Path<String>,
    key: Key,
    body: JsonBody<EraseUserRequest>,
) -> Result<Response, Problem> {
    let user: UserId = user_id.parse().map_err(|_| Refusal::not_found("user"))?;
    if app.identity.user_address(user)?.is_none() {
        return Err(Refusal::not_found("user").into());
    }
    let reason = body.value.reason.into_string();
    let identity = app.identity.clone();
    let erase = |origin| async move { identity.erase_user(user, reason, origin).await };
    answer(&app, &entered, (key, &body.bytes), Subject::User(user), erase).await
}

/// That it is really the user.
#[derive(Deserialize, ToSchema)]
struct EraseMeRequest {
    /// The password, of whoever has one
    #[serde(default)]
    password: Option<String>,
    /// What an authenticator app shows, or a recovery code: of whoever has a second factor
    #[serde(default)]
    code: Option<String>,
}

/// Erase the caller's own account for good; see `POST /v1/users/{user_id}/erase`
///
/// Takes a login of the user's own, the password, and a second factor where there is one.
#[utoipa::path(delete, path = "/v1/auth/me", tag = tag::GATEWAY, request_body = EraseMeRequest,
    responses((status = 200, body = ErasureResponse), (status = 401), (status = 403),
        (status = 409), (status = 422), (status = 429)))]
async fn erase_me(
    State(app): State<App>,
    Member(entered): Member,
    body: JsonBody<EraseMeRequest>,
) -> Result<Response, Problem> {
    let user = entered.user()?;
    if entered.caller.kind != CallerKind::User || entered.caller.session.is_none() {
        return Err(Refusal::forbidden("an account is erased by its user, not by a key").into());
    }
    let EraseMeRequest { password, code } = body.value;
    let origin = app.origin(&entered.caller, entered.request);
    app.identity.prove_fully(user, password, code, origin).await?;
    let (identity, reason) = (app.identity.clone(), OWN_WISH.to_owned());
    let erase = |origin| async move { identity.erase_user(user, reason, origin).await };
    let unkeyed = (Key::default(), &body.bytes[..]);
    answer(&app, &entered, unkeyed, Subject::User(user), erase).await
}

/// That it is really this tenant.
#[derive(Deserialize, ToSchema)]
struct EraseTenantRequest {
    /// The tenant's id, or its name as it is written
    confirm: String,
    /// Why; operators must say it
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 500)]
    reason: Option<PlainText<REASON_CHARS_MAX, 1>>,
}

/// Erase a tenant for good
///
/// It is switched off, its tokens, API keys, roles and invitations end, its members are told, its
/// apps leave the catalogue; then its key is shredded, and with it its wallet, its documents and
/// everything else of it, in backups as well. Its chain still verifies. Takes the scope
/// `tenants:delete` of a credential for this tenant, or an operator's reason. The tenant that
/// somebody signed up with goes with the person: 409 `own_tenant`.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/erase", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)), request_body = EraseTenantRequest,
    responses((status = 200, body = ErasureResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn erase_tenant(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    key: Key,
    body: JsonBody<EraseTenantRequest>,
) -> Result<Response, Problem> {
    let may = authority(&app, &entered, &tenant_id, Some(TENANTS_DELETE)).await?;
    let Authority { tenant, is_installation, .. } = may;
    let EraseTenantRequest { confirm, reason } = body.value;
    let reason = match reason {
        None if is_installation => {
            return Err(Refusal::invalid("reason", "must say why").into());
        }
        reason => reason.map_or_else(|| OWNERS_WISH.to_owned(), PlainText::into_string),
    };
    check_confirmed(&app, tenant, &confirm).await?;
    let identity = app.identity.clone();
    let erase = |origin| async move { identity.erase_tenant(tenant, reason, origin).await };
    answer(&app, &entered, (key, &body.bytes), Subject::Tenant(tenant), erase).await
}

/// 422 unless what was typed names the tenant. Of one that was erased only the id is left.
async fn check_confirmed(app: &App, tenant: TenantId, typed: &str) -> Result<(), Refusal> {
    let details = app.identity.look_tenant(tenant, |it| it.details.clone()).await?.flatten();
    let names = |it: Details| {
        let own =
            it.settings.value().get("tenant_id").and_then(|it| it.as_str().map(str::to_owned));
        [Some(label(&it)), Some(it.name), own]
    };
    let mut names = details.map(names).unwrap_or_default().into_iter().flatten();
    let typed = typed.trim();
    let is_it = typed == tenant.to_string() || names.any(|name| name == typed);
    let message = "must be the tenant's id or its name: what is erased does not come back";
    is_it.then_some(()).ok_or_else(|| Refusal::invalid("confirm", message))
}
