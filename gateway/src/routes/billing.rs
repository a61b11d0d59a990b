//! `/v1/billing`: the wallet, its holds and its ledger, and the plans.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::plans::{PLANS, PlanResponse, WalletView};
use billing::wallet::{
    Actions, Capture, DESCRIPTION_CHARACTERS_MAX, Debit, Ended, HoldView, LedgerEntry, PlaceHold,
    Placed, Reason, Receipt, Release, Spender, Wallet, history, wallet_address,
};
use serde::{Deserialize, Serialize};
use supervision::{Address, Refusal};
use types::{Amount, AppId, HoldId, PlainText, TransactionId, home_of, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, OptionalBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

const SPEND: &str = "wallet:spend";
const READ: &str = "wallet:read";

/// Why something is spent: for people, and in the ledger.
pub(super) type ReasonText = PlainText<DESCRIPTION_CHARACTERS_MAX>;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(debit))
        .routes(routes!(place_hold, holds))
        .routes(routes!(capture))
        .routes(routes!(release))
        .routes(routes!(balance))
        .routes(routes!(wallet))
        .routes(routes!(ledger))
        .routes(routes!(plans))
}

fn address(entered: &Entered) -> Address<Wallet> {
    wallet_address(entered.caller.tenant)
}

fn amount(credits: i64) -> Result<Amount, Refusal> {
    Amount::new(credits).map_err(|error| Refusal::invalid("amount", error.to_string()))
}

/// What to spend.
#[derive(Deserialize, ToSchema)]
struct DebitRequest {
    /// Credits, a positive integer
    amount: i64,
    /// For people; in the ledger
    #[schema(value_type = String, max_length = 500)]
    reason: ReasonText,
    /// The app it is spent on; otherwise the one that a service acts as
    #[serde(default)]
    app_id: Option<AppId>,
}

/// Spend credits at once, durably
#[utoipa::path(post, path = "/v1/billing/debits", tag = tag::GATEWAY,
    request_body = DebitRequest,
    responses((status = 201, body = Receipt), (status = 401), (status = 402), (status = 403),
        (status = 422)))]
async fn debit(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<DebitRequest>,
) -> Result<Response, Problem> {
    entered.require(SPEND)?;
    let DebitRequest { amount: credits, reason, app_id } = body.value;
    let spender = Spender::of(&entered.caller);
    let command = Debit {
        id: TransactionId(app.system.new_id()),
        amount: amount(credits)?,
        reason: Reason::Action,
        description: Some(reason.into_string()),
        spender: Spender { app: app_id.or(spender.app.clone()), ..spender },
    };
    let view = |receipt: Receipt| receipt;
    ask_once!(
        app,
        key,
        entered,
        "debit",
        body.bytes,
        address(&entered),
        command,
        StatusCode::CREATED,
        view
    )
}

/// What to hold back.
#[derive(Deserialize, ToSchema)]
struct HoldRequest {
    /// Credits, a positive integer
    amount: i64,
    /// When it ends by itself, in seconds: 1 to 604,800
    ttl_seconds: i64,
    /// For people
    #[schema(value_type = String, max_length = 500)]
    reason: ReasonText,
}

/// A hold as it was placed.
#[derive(Serialize, ToSchema)]
struct HoldResponse {
    id: HoldId,
    amount: i64,
    /// What may still be spent
    available: i64,
    expires_at: String,
}

impl From<Placed> for HoldResponse {
    fn from(placed: Placed) -> Self {
        let Placed { hold: id, amount, available, expires_at } = placed;
        Self { id, amount, available, expires_at: rfc3339(expires_at) }
    }
}

/// Hold credits back, to be captured or released later; each hold ends once
#[utoipa::path(post, path = "/v1/billing/holds", tag = tag::GATEWAY, request_body = HoldRequest,
    responses((status = 201, body = HoldResponse), (status = 401), (status = 402),
        (status = 403), (status = 422)))]
async fn place_hold(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<HoldRequest>,
) -> Result<Response, Problem> {
    entered.require(SPEND)?;
    let HoldRequest { amount: credits, ttl_seconds, reason } = body.value;
    let ttl_ms = ttl_seconds.checked_mul(1_000);
    let command = PlaceHold {
        id: HoldId(app.system.new_id()),
        amount: amount(credits)?,
        ttl_ms: ttl_ms.ok_or_else(|| Refusal::invalid("ttl_seconds", "is too large"))?,
        reason: reason.into_string(),
        call: None,
        spender: Spender::of(&entered.caller),
        actions: Actions::default(),
    };
    ask_once!(
        app,
        key,
        entered,
        "place_hold",
        body.bytes,
        address(&entered),
        command,
        StatusCode::CREATED,
        HoldResponse::from
    )
}

/// The open holds
#[utoipa::path(get, path = "/v1/billing/holds", tag = tag::GATEWAY, params(PageQuery),
    responses((status = 200, body = Vec<HoldView>), (status = 401), (status = 422)))]
async fn holds(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<HoldView>>, Problem> {
    entered.require(READ)?;
    let (page, origin) = (query.page()?, app.origin(&entered.caller, entered.request));
    let wallets = app.system.directory::<Wallet>();
    let look = move |wallet: &Wallet| wallet.holds(page);
    Ok(Json(wallets.look(&address(&entered), origin, look).await?))
}

/// How much to take.
#[derive(Default, Deserialize, ToSchema)]
struct CaptureRequest {
    /// Credits, at most what is held; all of it when left out
    #[serde(default)]
    amount: Option<i64>,
}

/// Nothing needs to be said.
#[derive(Deserialize, ToSchema)]
struct ReleaseRequest {}

/// Take what a hold holds back, or a part; the rest is released
#[utoipa::path(post, path = "/v1/billing/holds/{id}/capture", tag = tag::GATEWAY,
    params(("id" = String, Path)), request_body = Option<CaptureRequest>,
    responses((status = 200, body = Ended), (status = 401), (status = 404), (status = 409),
        (status = 422)))]
async fn capture(
    State(app): State<App>,
    Either(entered): Either,
    Path(id): Path<String>,
    key: Key,
    body: OptionalBody<CaptureRequest>,
) -> Result<Response, Problem> {
    entered.require(SPEND)?;
    let id = hold(&id)?;
    let amount = body.value.amount.map(amount).transpose()?;
    let operation = format!("capture {id}");
    let command = Capture { hold: id, amount };
    let view = |ended: Ended| ended;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        address(&entered),
        command,
        StatusCode::OK,
        view
    )
}

/// Give back what a hold holds back
#[utoipa::path(post, path = "/v1/billing/holds/{id}/release", tag = tag::GATEWAY,
    params(("id" = String, Path)), request_body = Option<ReleaseRequest>,
    responses((status = 200, body = Ended), (status = 401), (status = 404), (status = 409)))]
async fn release(
    State(app): State<App>,
    Either(entered): Either,
    Path(id): Path<String>,
    key: Key,
    body: OptionalBody<ReleaseRequest>,
) -> Result<Response, Problem> {
    entered.require(SPEND)?;
    let id = hold(&id)?;
    let ReleaseRequest {} = body.value;
    let operation = format!("release {id}");
    let view = |ended: Ended| ended;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        address(&entered),
        Release { hold: id, call: None },
        StatusCode::OK,
        view
    )
}

fn hold(text: &str) -> Result<HoldId, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("hold"))
}

async fn wallet_view(app: &App, entered: &Entered) -> Result<Json<WalletView>, Problem> {
    entered.require(READ)?;
    let now = app.system.now_in(home_of(entered.caller.tenant));
    let origin = app.origin(&entered.caller, entered.request);
    let wallets = app.system.directory::<Wallet>();
    let look = move |wallet: &Wallet| wallet.view(now);
    Ok(Json(wallets.look(&address(entered), origin, look).await?))
}

/// The balance
#[utoipa::path(get, path = "/v1/billing/balance", tag = tag::GATEWAY,
    responses((status = 200, body = WalletView), (status = 401)))]
async fn balance(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<WalletView>, Problem> {
    wallet_view(&app, &entered).await
}

/// The wallet; the same as the balance
#[utoipa::path(get, path = "/v1/billing/wallet", tag = tag::GATEWAY,
    responses((status = 200, body = WalletView), (status = 401)))]
async fn wallet(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<WalletView>, Problem> {
    wallet_view(&app, &entered).await
}

/// The ledger, newest first
#[utoipa::path(get, path = "/v1/billing/wallet/history", tag = tag::GATEWAY, params(PageQuery),
    responses((status = 200, body = Vec<LedgerEntry>), (status = 401), (status = 422)))]
async fn ledger(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<LedgerEntry>>, Problem> {
    entered.require(READ)?;
    let (page, origin) = (query.page()?, app.origin(&entered.caller, entered.request));
    Ok(Json(history(&app.system, entered.caller.tenant, page, origin).await?))
}

/// The plans
#[utoipa::path(get, path = "/v1/billing/plans", tag = tag::GATEWAY, security(()),
    responses((status = 200, body = Vec<PlanResponse>)))]
async fn plans() -> Json<Vec<PlanResponse>> {
    Json(PLANS.iter().map(PlanResponse::from).collect())
}
