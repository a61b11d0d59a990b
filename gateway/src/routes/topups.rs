//! Buying credits: `/v1/billing/topup` and what it costs, the provider's own pages, and buying by
//! itself when credits run low.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use billing::payments::Payments;
use billing::payments::account::{AutoTopUp, BillingAccount, SetAuto};
use billing::payments::payment::{Conclude, Payment, PaymentView, Purpose};
use billing::payments::provider::Way;
use billing::payments::standing::Status;
use billing::payments::top_up::{Tier, no_method, order};
use billing::wallet::{Wallet, wallet_address};
use persistence::KeyRing;
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::{PaymentId, TenantId, home_of};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Service};
use crate::extract::{JsonBody, OptionalBody};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

/// What buying credits needs.
pub(super) const PAY: &str = "wallet:pay";
const READ: &str = "wallet:read";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(top_up))
        .routes(routes!(confirm_top_up))
        .routes(routes!(top_up_config))
        .routes(routes!(checkout))
        .routes(routes!(auto_top_up, set_auto_top_up))
}

pub(super) fn port(app: &App) -> Arc<Payments> {
    app.system.port::<Payments>()
}

/// What credits cost.
#[derive(Serialize, ToSchema)]
struct TopUpConfigResponse {
    /// For the payer's program; `pk_sandbox_…` where no money moves
    publishable_key: String,
    /// Amounts with a price of their own
    tiers: Vec<Tier>,
    /// The least that any other amount costs
    custom_min_cents: i64,
    /// The most
    custom_max_cents: i64,
    /// Credits for a US dollar, for any other amount
    token_rate: i64,
}

/// What credits cost
#[utoipa::path(get, path = "/v1/billing/topup-config", tag = tag::GATEWAY,
    responses((status = 200, body = TopUpConfigResponse), (status = 401), (status = 403)))]
async fn top_up_config(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<TopUpConfigResponse>, Problem> {
    entered.require(READ)?;
    let payments = port(&app);
    let terms = payments.terms().clone();
    Ok(Json(TopUpConfigResponse {
        publishable_key: payments.provider().publishable_key().to_owned(),
        tiers: terms.tiers,
        custom_min_cents: terms.custom_min_cents,
        custom_max_cents: terms.custom_max_cents,
        token_rate: terms.token_rate,
    }))
}

/// Credits that are to be bought.
#[derive(Deserialize, ToSchema)]
struct TopUpRequest {
    /// How many
    #[schema(minimum = 1)]
    tokens: i64,
    /// What they cost, as `topup-config` says
    #[schema(minimum = 1)]
    price_cents: i64,
    /// Whether the method is kept for later
    #[serde(default)]
    save_payment_method: bool,
    /// Whether the default method is charged now, with nobody there
    #[serde(default)]
    off_session: bool,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
struct TopUpResponse {
    /// With which the payer's program goes on; empty where nothing is left to do
    client_secret: String,
    payment_intent_id: String,
    publishable_key: String,
    /// Whether it is paid
    succeeded: bool,
    /// Whether the payer must do something
    requires_action: bool,
}

fn answer(view: &PaymentView, keys: &KeyRing, publishable_key: String) -> TopUpResponse {
    let succeeded = view.status.is_paid() && view.status != Status::Mismatched;
    let client_secret = if succeeded { None } else { view.client_secret(keys) };
    TopUpResponse {
        client_secret: client_secret.unwrap_or_default(),
        payment_intent_id: view.name(),
        publishable_key,
        succeeded,
        requires_action: view.status == Status::RequiresAction,
    }
}

/// 402 for what the provider declined.
fn undeclined(view: PaymentView) -> Result<PaymentView, Refusal> {
    if !matches!(view.status, Status::Failed | Status::Cancelled | Status::Mismatched) {
        return Ok(view);
    }
    let code = view.code.clone().unwrap_or_else(|| view.status.name().to_owned());
    let message = format!("the payment did not go through: {code}");
    let facts = serde_json::json!({"provider_code": code, "payment_intent_id": view.name()});
    Err(Refusal::new(Class::Payment, "payment_declined", message).with_facts(&facts))
}

/// Begins a payment for credits, once a key.
async fn buy(
    app: &App,
    entered: &Entered,
    (id, tier): (u128, Tier),
    way: Way,
) -> Result<PaymentView, Refusal> {
    let (payments, caller) = (port(app), &entered.caller);
    let origin = app.origin(caller, entered.request);
    let asked = order((id, caller.tenant, caller.user), tier, Purpose::TopUp, way);
    let view = undeclined(payments.begin(&app.system, asked, &origin).await?)?;
    payments.settle(&app.system, view, &origin).await
}

/// Buy credits
///
/// With `off_session` the default method is charged at once; without, the payer's program goes on
/// with `client_secret`. Where no money moves (`pk_sandbox_…`), the page
/// `/sandbox/checkout/{client_secret}` takes its place.
#[utoipa::path(post, path = "/v1/billing/topup", tag = tag::GATEWAY, request_body = TopUpRequest,
    responses((status = 200, body = TopUpResponse), (status = 401), (status = 402),
        (status = 403), (status = 409), (status = 422), (status = 503)))]
async fn top_up(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<TopUpRequest>,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let TopUpRequest { tokens, price_cents, save_payment_method, off_session } = body.value;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    payments.terms().check(tokens, price_cents)?;
    payments.check_real(&app.system, tenant)?;
    let key = key.of(&entered.caller, "topup", &body.bytes);
    let id = once::id_for(&app, key.as_ref());
    let address = Payment::address(tenant, PaymentId(id));
    let begun = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = begun {
        return Ok(response);
    }
    let origin = app.origin(&entered.caller, entered.request);
    let known = payments.look(&app.system, tenant, PaymentId(id), &origin).await?;
    let way = match (known, off_session) {
        (Some(known), _) => known.asked.way,
        (None, false) => Way::Client { save: save_payment_method },
        (None, true) => {
            let method = payments.default_method(&app.system, tenant, &origin).await?;
            Way::OffSession { method: method.ok_or_else(no_method)? }
        }
    };
    buy(&app, &entered, (id, Tier { tokens, price_cents }), way).await?;
    let keys = app.system.journal().keys().clone();
    let publishable_key = payments.provider().publishable_key().to_owned();
    let view = move |view: PaymentView| answer(&view, &keys, publishable_key);
    begun.conclude(&app, &address, Conclude, origin, (StatusCode::OK, view)).await
}

/// An intent that may have been paid.
#[derive(Deserialize, ToSchema)]
struct TopUpConfirmRequest {
    payment_intent_id: String,
}

/// Where it stands.
#[derive(Serialize, ToSchema)]
struct TopUpConfirmResponse {
    payment_intent_id: String,
    /// As in the list of payments
    status: &'static str,
    /// Whether the wallet has the credits
    credited: bool,
    tokens: i64,
    balance: i64,
}

/// Look at an intent now, and credit what was paid, without waiting for the provider's news
///
/// Any number of times: credits come once.
#[utoipa::path(post, path = "/v1/billing/topup/confirm", tag = tag::GATEWAY,
    request_body = TopUpConfirmRequest, security(("service_token" = [])),
    responses((status = 200, body = TopUpConfirmResponse), (status = 401), (status = 403),
        (status = 404), (status = 422), (status = 503)))]
async fn confirm_top_up(
    State(app): State<App>,
    Service(entered): Service,
    body: JsonBody<TopUpConfirmRequest>,
) -> Result<Json<TopUpConfirmResponse>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let only = Some(entered.caller.tenant).filter(|tenant| *tenant != TenantId::SYSTEM);
    let intent = body.value.payment_intent_id;
    let taken = port(&app).take_in(&app.system, &intent, (None, only), &origin).await?;
    let view = taken.ok_or_else(|| Refusal::not_found("payment"))?.view;
    let (tenant, now) = (view.asked.tenant, app.system.now_in(home_of(view.asked.tenant)));
    let look = move |wallet: &Wallet| wallet.balance(now).balance;
    let wallets = app.system.directory::<Wallet>();
    let balance = wallets.look(&wallet_address(tenant), origin, look).await?;
    let is_paid = view.status.is_paid() && view.status != Status::Mismatched;
    Ok(Json(TopUpConfirmResponse {
        payment_intent_id: view.name(),
        status: view.status.name(),
        credited: is_paid && view.asked.tokens > 0,
        tokens: view.asked.tokens,
        balance,
    }))
}

/// Credits that are to be bought on the provider's page.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct CheckoutRequest {
    /// How many; the first tier without
    #[schema(minimum = 1)]
    tokens: Option<i64>,
    /// What they cost, as `topup-config` says; worked out without
    #[schema(minimum = 1)]
    price_cents: Option<i64>,
}

/// A page of the provider's.
#[derive(Serialize, ToSchema)]
pub(super) struct UrlResponse {
    /// To be opened in the payer's browser
    pub(super) url: String,
}

/// Buy credits on a page of the payment provider's
#[utoipa::path(post, path = "/v1/billing/checkout", tag = tag::GATEWAY,
    request_body = Option<CheckoutRequest>,
    responses((status = 200, body = UrlResponse), (status = 401), (status = 403), (status = 409),
        (status = 422), (status = 503)))]
async fn checkout(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: OptionalBody<CheckoutRequest>,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    let terms = payments.terms();
    let first = terms.tiers.first().map_or(0, |tier| tier.tokens);
    let tokens = body.value.tokens.unwrap_or(first);
    let price_cents = body.value.price_cents.map_or_else(|| terms.price_of(tokens), Ok)?;
    terms.check(tokens, price_cents)?;
    let key = key.of(&entered.caller, "checkout", &body.bytes);
    let id = once::id_for(&app, key.as_ref());
    let address = Payment::address(tenant, PaymentId(id));
    let begun = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = begun {
        return Ok(response);
    }
    buy(&app, &entered, (id, Tier { tokens, price_cents }), Way::Checkout).await?;
    let origin = app.origin(&entered.caller, entered.request);
    let view = |view: PaymentView| UrlResponse { url: view.page_url.unwrap_or_default() };
    begun.conclude(&app, &address, Conclude, origin, (StatusCode::OK, view)).await
}

/// How credits are bought when they run low
#[utoipa::path(get, path = "/v1/billing/auto-topup", tag = tag::GATEWAY,
    responses((status = 200, body = AutoTopUp), (status = 401), (status = 403)))]
async fn auto_top_up(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<AutoTopUp>, Problem> {
    entered.require(READ)?;
    let origin = app.origin(&entered.caller, entered.request);
    let address = BillingAccount::address(entered.caller.tenant);
    let look = |account: &BillingAccount| account.auto().clone();
    let accounts = app.system.directory::<BillingAccount>();
    Ok(Json(accounts.look(&address, origin, look).await?))
}

/// How credits are to be bought.
#[derive(Deserialize, ToSchema)]
struct AutoTopUpUpdate {
    enabled: bool,
    /// Below this part of what the plan brings, or of what is bought at once if that is more
    #[schema(minimum = 1, maximum = 50)]
    threshold_pct: i64,
    /// How many are bought; what they cost follows from that
    #[schema(minimum = 1)]
    recharge_tokens: i64,
    /// The method that is charged; the default without
    #[serde(default)]
    payment_method_id: String,
}

/// Say how credits are bought when they run low
///
/// One purchase is under way at a time, and at most five are begun in 24 hours. One that is
/// declined, or that somebody would have to confirm, switches this off, and the feed says so.
#[utoipa::path(put, path = "/v1/billing/auto-topup", tag = tag::GATEWAY,
    request_body = AutoTopUpUpdate,
    responses((status = 200, body = AutoTopUp), (status = 401), (status = 402), (status = 403),
        (status = 404), (status = 422), (status = 503)))]
async fn set_auto_top_up(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<AutoTopUpUpdate>,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let AutoTopUpUpdate { enabled, threshold_pct, recharge_tokens, payment_method_id } = body.value;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    let origin = app.origin(&entered.caller, entered.request);
    let recharge_cents = payments.terms().price_of(recharge_tokens)?;
    if enabled || !payment_method_id.is_empty() {
        payments.check_real(&app.system, tenant)?;
        let methods = payments.methods(&app.system, tenant, &origin).await?;
        if methods.is_empty() && payment_method_id.is_empty() {
            return Err(no_method().into());
        }
        let is_kept = methods.iter().any(|method| method.id == payment_method_id);
        if !is_kept && !payment_method_id.is_empty() {
            return Err(Refusal::not_found("payment method").into());
        }
    }
    let auto =
        AutoTopUp { enabled, threshold_pct, recharge_tokens, recharge_cents, payment_method_id };
    let view = |auto: AutoTopUp| auto;
    ask_once!(
        app,
        key,
        entered,
        "set_auto_top_up",
        body.bytes,
        BillingAccount::address(tenant),
        SetAuto { tenant, auto },
        StatusCode::OK,
        view
    )
}
