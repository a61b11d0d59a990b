//! Helping who has lost every second factor: the user asks, the tenant's owner or an operator does.

use activity::operator_act::{self, Noted};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use identity::factor_removal::{REASON_CHARS_MAX, Removal, Remover};
use identity::second_factor::SecondFactors;
use serde::{Deserialize, Serialize};
use supervision::{Entity as _, Refusal};
use types::{PlainText, UserId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::MessageResponse;
use super::factors::{owner, person};
use crate::app::App;
use crate::authenticate::{Anyone, Entered, Member, Operator};
use crate::extract::JsonBody;
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login_factor_lost))
        .routes(routes!(remove_factors_of_member))
        .routes(routes!(remove_factors_of_user))
}

/// A login token.
#[derive(Deserialize, ToSchema)]
struct LostRequest {
    /// What the login was refused with
    login_token: String,
}

/// Ask the owner of the tenant that one logs in to for the end of one's second factors
///
/// For who knows the password and has lost everything else: the `login_token` of a login with the
/// tenant's `tenant_id` says so. The owner may then remove them for a day; a new password ends
/// that. The user is told by mail.
#[utoipa::path(post, path = "/v1/auth/login/factor/lost", tag = tag::GATEWAY, security(()),
    request_body = LostRequest,
    responses((status = 202, body = MessageResponse), (status = 401), (status = 409),
        (status = 422)))]
async fn login_factor_lost(
    State(app): State<App>,
    who: Anyone,
    body: JsonBody<LostRequest>,
) -> Result<Response, Problem> {
    let token = &body.value.login_token;
    app.identity.ask_factor_removal(token, &who.address, who.request).await?;
    let message = "the owner of the tenant may remove your second factors now; talk to them";
    Ok((StatusCode::ACCEPTED, Json(MessageResponse { message })).into_response())
}

/// Why somebody else's second factors go.
#[derive(Deserialize, ToSchema)]
struct RemovalRequest {
    /// It stands in the records, with the remover's name
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
}

/// What was removed.
#[derive(Serialize, ToSchema)]
struct RemovalResponse {
    user_id: UserId,
    /// How many second factors there were
    removed: usize,
}

async fn remove(
    app: &App,
    entered: &Entered,
    user: UserId,
    by: Remover,
    reason: PlainText<REASON_CHARS_MAX, 1>,
) -> Result<Json<RemovalResponse>, Problem> {
    let id = app.system.new_id();
    let removal = Removal { id, user, by, reason: reason.into_string() };
    let origin = app.origin(&entered.caller, entered.request);
    let removed = app.identity.remove_factors(removal, origin).await?;
    Ok(Json(RemovalResponse { user_id: user, removed }))
}

/// Remove the second factors of a member who has lost them and has asked for it; for the owner
///
/// 409 `removal_not_asked` unless the member has asked within a day, by logging in to this tenant;
/// 409 `other_tenants` for who belongs to further tenants, whom an operator helps. The member is
/// told by mail, and every session of theirs ends. Where the tenant asks for a second factor, the
/// next login begins with enrolling one.
#[utoipa::path(delete, path = "/v1/users/{user_id}/factors", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), request_body = RemovalRequest,
    responses((status = 200, body = RemovalResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn remove_factors_of_member(
    State(app): State<App>,
    Member(entered): Member,
    Path(user_id): Path<String>,
    body: JsonBody<RemovalRequest>,
) -> Result<Json<RemovalResponse>, Problem> {
    let me = person(&entered)?;
    owner(&app, &entered, me).await?;
    let user: UserId = user_id.parse().map_err(|_| Refusal::not_found("user"))?;
    if user == me {
        return Err(Refusal::forbidden("one's own second factors take a proof to remove").into());
    }
    let by = Remover::Owner(entered.caller.tenant);
    remove(&app, &entered, user, by, body.value.reason).await
}

/// Remove all second factors of a user, who is told by mail; every session of theirs ends
#[utoipa::path(delete, path = "/v1/operator/users/{id}/factors", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = RemovalRequest,
    responses((status = 200, body = RemovalResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn remove_factors_of_user(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    body: JsonBody<RemovalRequest>,
) -> Result<Json<RemovalResponse>, Problem> {
    let user: UserId = id.parse().map_err(|_| Refusal::not_found("user"))?;
    let address = app.identity.factors_address(user)?;
    let (reason, kind) = (body.value.reason, SecondFactors::KIND.to_owned());
    let act = Noted {
        kind,
        id: address.id().to_owned(),
        action: "remove_factors".to_owned(),
        reason: reason.to_string(),
    };
    let origin = app.origin(&entered.caller, entered.request);
    operator_act::note(&app.system, address.place().home, act, origin).await?;
    remove(&app, &entered, user, Remover::Operator, reason).await
}
