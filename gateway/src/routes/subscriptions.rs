//! Subscriptions to plans: a tenant's own under `/v1/billing`, a user's as services ask for it, and
//! the plans that operators arrange.
//!
//! Who orders something that costs is answered with what became of the payment. Limit: a payment
//! that has to be confirmed with a bank first is answered with its `client_secret` once, and to a
//! repetition with the same key for ten minutes.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::subscription::collecting::{self, Ordered};
use billing::subscription::orders::{Assign, Cancel, Conclude, Resume, SubscriptionView};
use billing::subscription::terms::{Choice, Period};
use billing::subscription::{Subscription, orders::NOTE_CHARACTERS_MAX};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal};
use types::{PlainText, TenantId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::not_kept;
use super::usage::member;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Operator, Service};
use crate::extract::{JsonBody, OptionalBody};
use crate::once::{self, Key};
use crate::openapi::tag;
use crate::problem::Problem;

const READ: &str = "wallet:read";
const ORDER: &str = "wallet:plan";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(subscription))
        .routes(routes!(subscription_of_user))
        .routes(routes!(subscribe))
        .routes(routes!(change_plan))
        .routes(routes!(cancel_subscription))
        .routes(routes!(resume_subscription))
        .routes(routes!(renew_subscription))
        .routes(routes!(set_plan_of_tenant))
}

async fn view_of(
    app: &App,
    entered: &Entered,
    tenant: TenantId,
) -> Result<Json<SubscriptionView>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let (subscriptions, address) =
        (app.system.directory::<Subscription>(), Subscription::address(tenant));
    Ok(Json(subscriptions.look(&address, origin, Subscription::view).await?))
}

/// What the tenant has subscribed to
///
/// Of a subscription that is over (`cancelled`, `expired`) the plan shown is the one that it was;
/// the free plan is in effect then, as the wallet and the usage say.
#[utoipa::path(get, path = "/v1/billing/subscription", tag = tag::GATEWAY,
    responses((status = 200, body = SubscriptionView), (status = 401), (status = 403)))]
async fn subscription(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<SubscriptionView>, Problem> {
    entered.require(READ)?;
    view_of(&app, &entered, entered.caller.tenant).await
}

/// What a user's tenant has subscribed to: the service's tenant, or the user's own
#[utoipa::path(get, path = "/v1/billing/internal/subscription/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = SubscriptionView), (status = 401), (status = 403),
        (status = 404)))]
async fn subscription_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<SubscriptionView>, Problem> {
    let (tenant, _) = member(&app, &entered, &user_id).await?;
    view_of(&app, &entered, tenant).await
}

/// A plan to be on.
#[derive(Deserialize, ToSchema)]
struct SubscribeRequest {
    /// The plan's id, as the list of plans has it
    plan_id: String,
    /// `monthly`, or `yearly` for twelve months at once
    #[serde(default)]
    #[schema(default = "monthly")]
    period: Period,
}

/// A plan to be on instead.
#[derive(Deserialize, ToSchema)]
struct ChangePlanRequest {
    /// The plan's id, as the list of plans has it
    plan_id: String,
    /// `monthly`, or `yearly` for twelve months at once
    #[serde(default)]
    #[schema(default = "monthly")]
    period: Period,
}

/// Begins an order, carries it out, and answers a view of what became of it.
async fn order<V: Serialize + 'static>(
    app: &App,
    entered: &Entered,
    (key, operation, bytes): (Key, &str, &[u8]),
    run: impl FnOnce(u128, Origin) -> BoxFuture<'static, Result<Ordered, Refusal>>,
    view: impl FnOnce(Ordered, SubscriptionView) -> V + Send + 'static,
) -> Result<Response<Body>, Problem> {
    entered.require(ORDER)?;
    let address = Subscription::address(entered.caller.tenant);
    let key = key.shown_once().of(&entered.caller, operation, bytes);
    let request = once::id_for(app, key.as_ref());
    let once = once::begin_as(app, key, address.place()).await?;
    if let once::Once::Answered(response) = once {
        return Ok(not_kept(response));
    }
    let origin = app.origin(&entered.caller, entered.request);
    let ordered = run(request, origin.clone()).await?;
    let view = move |stands| view(ordered, stands);
    let answered = once.conclude(app, &address, Conclude, origin, (StatusCode::OK, view)).await?;
    Ok(not_kept(answered))
}

/// Subscribe to a plan that a tenant may choose by itself
///
/// What the first period costs is collected from the default payment method at once: 402
/// `payment_method_required` without one, `payment_declined` when it is refused. When the payer's
/// bank wants the payer to act, the answer has `requires_action` and the `client_secret` to go on
/// with, and the plan is in effect once it is paid; the same order again meanwhile is the same
/// payment. The plan's credits come with each month, end with it, and are spent before those that
/// were bought. A year costs twelve months.
#[utoipa::path(post, path = "/v1/billing/subscribe", tag = tag::GATEWAY,
    request_body = SubscribeRequest,
    responses((status = 200, body = Ordered), (status = 401), (status = 402), (status = 403),
        (status = 409), (status = 422)))]
async fn subscribe(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<SubscribeRequest>,
) -> Result<Response<Body>, Problem> {
    let SubscribeRequest { plan_id: plan, period } = body.value;
    let (system, tenant) = (app.system.clone(), entered.caller.tenant);
    let run = move |request, origin| -> BoxFuture<'static, _> {
        let wanted = (Choice { plan, period }, request);
        Box::pin(async move { collecting::subscribe(&system, tenant, wanted, origin).await })
    };
    order(&app, &entered, (key, "subscribe", &body.bytes), run, |ordered, _| ordered).await
}

/// Change the plan
///
/// To a dearer plan at once: the share of the difference that is left of the period, counted to the
/// second and rounded down to the cent, is collected, and the same share of the month's credits
/// comes on top; below 50 cents nothing is collected. To a longer period at once, too: a new period
/// begins, less what is left of the present one. A cheaper plan or a shorter period comes with the
/// next period: `pending`, from `effective_at` on; to order the present plan takes that back.
#[utoipa::path(post, path = "/v1/billing/change-plan", tag = tag::GATEWAY,
    request_body = ChangePlanRequest,
    responses((status = 200, body = Ordered), (status = 401), (status = 402), (status = 403),
        (status = 409), (status = 422)))]
async fn change_plan(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<ChangePlanRequest>,
) -> Result<Response<Body>, Problem> {
    let ChangePlanRequest { plan_id: plan, period } = body.value;
    let (system, tenant) = (app.system.clone(), entered.caller.tenant);
    let run = move |request, origin| -> BoxFuture<'static, _> {
        let wanted = (Choice { plan, period }, request);
        Box::pin(async move { collecting::change_plan(&system, tenant, wanted, origin).await })
    };
    order(&app, &entered, (key, "change_plan", &body.bytes), run, |ordered, _| ordered).await
}

/// Nothing needs to be said.
#[derive(Deserialize, ToSchema)]
struct NothingToSay {}

/// When the subscription ends.
#[derive(Serialize, ToSchema)]
struct CancellationResponse {
    status: String,
    plan: String,
    /// RFC 3339
    expires_at: Option<String>,
    cancel_at_period_end: bool,
}

impl From<SubscriptionView> for CancellationResponse {
    fn from(view: SubscriptionView) -> Self {
        let SubscriptionView { status, plan, expires_at, cancel_at_period_end, .. } = view;
        Self { status, plan, expires_at, cancel_at_period_end }
    }
}

/// End the subscription with its period; at once when that is over and not paid for
#[utoipa::path(post, path = "/v1/billing/cancel", tag = tag::GATEWAY,
    request_body = Option<NothingToSay>,
    responses((status = 200, body = CancellationResponse), (status = 401), (status = 403),
        (status = 409)))]
async fn cancel_subscription(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: OptionalBody<NothingToSay>,
) -> Result<Response<Body>, Problem> {
    entered.require(ORDER)?;
    let NothingToSay {} = body.value;
    ask_once!(
        app,
        key,
        entered,
        "cancel_subscription",
        body.bytes,
        Subscription::address(entered.caller.tenant),
        Cancel,
        StatusCode::OK,
        CancellationResponse::from
    )
}

/// Take back that the subscription ends
#[utoipa::path(post, path = "/v1/billing/resume", tag = tag::GATEWAY,
    request_body = Option<NothingToSay>,
    responses((status = 200, body = CancellationResponse), (status = 401), (status = 403),
        (status = 409)))]
async fn resume_subscription(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: OptionalBody<NothingToSay>,
) -> Result<Response<Body>, Problem> {
    entered.require(ORDER)?;
    let NothingToSay {} = body.value;
    ask_once!(
        app,
        key,
        entered,
        "resume_subscription",
        body.bytes,
        Subscription::address(entered.caller.tenant),
        Resume,
        StatusCode::OK,
        CancellationResponse::from
    )
}

/// What was renewed.
#[derive(Serialize, ToSchema)]
struct RenewalResponse {
    status: String,
    plan: String,
    /// RFC 3339
    expires_at: Option<String>,
    payment_intent_id: Option<String>,
}

/// Pay for one new period of a plan that is past due or has expired
///
/// 409 when it is neither; 402 without a payment method, when it is refused, and when the payer's
/// bank wants the payer to act first.
#[utoipa::path(post, path = "/v1/billing/renew", tag = tag::GATEWAY,
    request_body = Option<NothingToSay>,
    responses((status = 200, body = RenewalResponse), (status = 401), (status = 402),
        (status = 403), (status = 409)))]
async fn renew_subscription(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: OptionalBody<NothingToSay>,
) -> Result<Response<Body>, Problem> {
    let NothingToSay {} = body.value;
    let (system, tenant) = (app.system.clone(), entered.caller.tenant);
    let run = move |request, origin| -> BoxFuture<'static, _> {
        Box::pin(async move { collecting::renew(&system, tenant, request, origin).await })
    };
    let view = |ordered: Ordered, stands: SubscriptionView| RenewalResponse {
        status: stands.status,
        plan: stands.plan,
        expires_at: stands.expires_at,
        payment_intent_id: ordered.payment,
    };
    order(&app, &entered, (key, "renew", &body.bytes), run, view).await
}

/// What was agreed with a tenant.
#[derive(Deserialize, ToSchema)]
struct PlanOfTenantRequest {
    /// The plan's id, as the list of plans has it; `free` ends what there is
    plan_id: String,
    /// `monthly` or `yearly`
    #[serde(default)]
    #[schema(default = "monthly")]
    period: Period,
    /// What a period costs, in cents
    #[serde(default)]
    contract_amount_cents: Option<i64>,
    /// For people; the tenant sees it
    #[serde(default)]
    #[schema(value_type = Option<String>, max_length = 500)]
    note: Option<PlainText<NOTE_CHARACTERS_MAX>>,
}

/// Put a tenant on a plan, as it was arranged: nothing is collected
#[utoipa::path(put, path = "/v1/operator/tenants/{id}/plan", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = PlanOfTenantRequest,
    responses((status = 200, body = SubscriptionView), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn set_plan_of_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<PlanOfTenantRequest>,
) -> Result<Response<Body>, Problem> {
    let PlanOfTenantRequest { plan_id: plan, period, contract_amount_cents, note } = body.value;
    let tenant = app.identity.tenant_named(&id).await?;
    let tenant = tenant.ok_or_else(|| Refusal::not_found("tenant"))?;
    let note = note.map(PlainText::into_string);
    let choice = Choice { plan, period };
    let operation = format!("set_plan {tenant}");
    let view = |view: SubscriptionView| view;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        Subscription::address(tenant),
        Assign { tenant, choice, contract_amount_cents, note },
        StatusCode::OK,
        view
    )
}
