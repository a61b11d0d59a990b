//! What developers have earned, and how it leaves: `/v1/developer/earnings`,
//! `/v1/developer/payouts`, and for whoever decides `/v1/admin/payouts`.

use axum::Json;
use axum::extract::{Path, State};
use market::payout::PayoutStatus;
use market::portal::{EarningsByAppResponse, EarningsResponse, PayoutResponse, PendingPayout};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::Refusal;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, OptionalBody};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;
use crate::routes::marketplace::principal;
use crate::visitor::Steward;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(earnings))
        .routes(routes!(earnings_of_app))
        .routes(routes!(payouts, create_payout))
        .routes(routes!(request_payout))
        .routes(routes!(pending_payouts))
        .routes(routes!(approve_payout))
        .routes(routes!(reject_payout))
        .routes(routes!(pay_payout))
}

/// What the caller's apps have earned, in credits
#[utoipa::path(get, path = "/v1/developer/earnings", tag = tag::GATEWAY,
    responses((status = 200, body = EarningsResponse), (status = 401), (status = 403)))]
async fn earnings(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<EarningsResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.earnings(&app.system, &principal).await?))
}

/// What one of the caller's apps has earned, by day
#[utoipa::path(get, path = "/v1/developer/earnings/{app_id}", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = EarningsByAppResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn earnings_of_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<EarningsByAppResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.earnings_of(&app.system, &principal, &app_id).await?))
}

/// The caller's payouts, the newest first
#[utoipa::path(get, path = "/v1/developer/payouts", tag = tag::GATEWAY,
    responses((status = 200, body = Vec<PayoutResponse>), (status = 401), (status = 403)))]
async fn payouts(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<Vec<PayoutResponse>>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.payouts(&app.system, &principal).await?))
}

/// What is to be paid out.
#[derive(Deserialize, ToSchema)]
struct PayoutRequestCreate {
    /// Credits; at least what the server pays out at once, 10,000 unless set otherwise
    #[serde(default)]
    amount_tokens: Option<i64>,
    /// The same, by another name
    #[serde(default)]
    amount: Option<i64>,
    /// How it is paid, `stripe` when not told
    #[serde(default)]
    payout_method: Option<String>,
    /// The credential's own user
    #[serde(default)]
    user_id: Option<String>,
}

async fn requested(
    app: &App,
    entered: &Entered,
    key: Key,
    body: JsonBody<PayoutRequestCreate>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(app, entered)?;
    let key = key.of(&entered.caller, "request_payout", &body.bytes);
    let PayoutRequestCreate { amount_tokens, amount, payout_method, user_id } = body.value;
    user_id.map_or(Ok(()), |user| entered.user_named(&user).map(drop))?;
    let amount = match (amount_tokens, amount) {
        (Some(tokens), Some(amount)) if tokens != amount => {
            let message = "and amount are not the same";
            return Err(Refusal::invalid("amount_tokens", message).into());
        }
        (tokens, amount) => tokens.or(amount),
    };
    let amount = amount.ok_or_else(|| Refusal::invalid("amount_tokens", "is missing"))?;
    let method = payout_method.as_deref().unwrap_or("stripe");
    let (market, key) = (&app.market, key.as_ref());
    Ok(Json(market.request_payout(&app.system, &principal, amount, method, key).await?))
}

/// Ask for a payout; the rate is locked now
///
/// Refused: 403 `tier_has_no_payouts`, 409 `insufficient_earnings` naming what is available, 422
/// below the least that is paid out at once.
#[utoipa::path(post, path = "/v1/developer/payouts", tag = tag::GATEWAY,
    request_body = PayoutRequestCreate,
    responses((status = 200, body = PayoutResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn create_payout(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<PayoutRequestCreate>,
) -> Result<Json<Value>, Problem> {
    requested(&app, &entered, key, body).await
}

/// Ask for a payout; the same as `POST /v1/developer/payouts`
#[utoipa::path(post, path = "/v1/developer/payouts/request", tag = tag::GATEWAY,
    request_body = PayoutRequestCreate,
    responses((status = 200, body = PayoutResponse), (status = 401), (status = 403),
        (status = 409), (status = 422)))]
async fn request_payout(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<PayoutRequestCreate>,
) -> Result<Json<Value>, Problem> {
    requested(&app, &entered, key, body).await
}

/// Payouts that wait.
#[derive(Serialize, ToSchema)]
struct PayoutItems {
    items: Vec<PendingPayout>,
}

/// The payouts that were asked for or approved, the oldest first; an operator may ask too
#[utoipa::path(get, path = "/v1/admin/payouts/pending", tag = tag::GATEWAY,
    security(("service_token" = [])),
    responses((status = 200, body = PayoutItems), (status = 401), (status = 403)))]
async fn pending_payouts(
    State(app): State<App>,
    Steward(entered): Steward,
) -> Result<Json<PayoutItems>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let items = app.market.open_payouts(&app.system, &origin).await?;
    Ok(Json(PayoutItems { items }))
}

/// What is said to it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct AdminPayoutActionRequest {
    /// For the developer, up to 500 characters
    #[schema(max_length = 500)]
    note: String,
}

async fn decided(
    app: &App,
    entered: &Entered,
    payout_id: &str,
    status: PayoutStatus,
    (key, body): (Key, OptionalBody<AdminPayoutActionRequest>),
) -> Result<Json<Value>, Problem> {
    let id = payout_id.parse().map_err(|_| Refusal::not_found("payout"))?;
    let operation = format!("{} payout {id}", status.name());
    let key = key.of(&entered.caller, &operation, &body.bytes);
    let asked = (app.origin(&entered.caller, entered.request), key.as_ref());
    let market = &app.market;
    Ok(Json(market.decide_payout(&app.system, id, status, &body.value.note, asked).await?))
}

/// Approve a payout: it will be paid
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/approve", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("payout_id" = String, Path)),
    request_body = Option<AdminPayoutActionRequest>,
    responses((status = 200, body = PayoutResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn approve_payout(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(payout_id): Path<String>,
    key: Key,
    body: OptionalBody<AdminPayoutActionRequest>,
) -> Result<Json<Value>, Problem> {
    decided(&app, &entered, &payout_id, PayoutStatus::Approved, (key, body)).await
}

/// Reject a payout: what was asked for is earned again
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/reject", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("payout_id" = String, Path)),
    request_body = Option<AdminPayoutActionRequest>,
    responses((status = 200, body = PayoutResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn reject_payout(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(payout_id): Path<String>,
    key: Key,
    body: OptionalBody<AdminPayoutActionRequest>,
) -> Result<Json<Value>, Problem> {
    decided(&app, &entered, &payout_id, PayoutStatus::Rejected, (key, body)).await
}

/// Note that an approved payout was paid
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/paid", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("payout_id" = String, Path)),
    request_body = Option<AdminPayoutActionRequest>,
    responses((status = 200, body = PayoutResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn pay_payout(
    State(app): State<App>,
    Steward(entered): Steward,
    Path(payout_id): Path<String>,
    key: Key,
    body: OptionalBody<AdminPayoutActionRequest>,
) -> Result<Json<Value>, Problem> {
    decided(&app, &entered, &payout_id, PayoutStatus::Paid, (key, body)).await
}
