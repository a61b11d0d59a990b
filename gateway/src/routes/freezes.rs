//! `/v1/operator/…/freeze` and `…/resume`: an operator stops a tenant, a user, an app or an
//! agent, with a receipt of what was stopped, and lets it go on.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use identity::frozen::{ReasonClass, Target};
use market::freeze::{Conclude, Freeze, FrozenRow, Item, Receipt, Standing};
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal};
use types::{AgentId, AppId, PlainText, TenantId, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use activity::operator_act::REASON_CHARS_MAX;

use crate::app::App;
use crate::authenticate::{Entered, Operator};
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;
use crate::routes::tenants;

/// How many frozen things one page has at most.
const PAGE_MAX: usize = 200;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(freeze_tenant))
        .routes(routes!(freeze_user))
        .routes(routes!(freeze_app))
        .routes(routes!(resume_tenant))
        .routes(routes!(resume_user))
        .routes(routes!(resume_app))
        .routes(routes!(freeze_agent))
        .routes(routes!(resume_frozen_agent))
        .routes(routes!(list))
        .routes(routes!(one))
}

/// Why something is frozen.
#[derive(Deserialize, ToSchema)]
struct FreezeRequest {
    /// Why; for operators, and in the tenant's chain and the platform's
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
    /// What whoever is refused hears: `security`, `abuse`, `payment`, `legal`, `maintenance` or
    /// `other`
    #[serde(default)]
    #[schema(value_type = String, default = "other")]
    reason_class: ReasonClass,
}

/// Why something goes on.
#[derive(Deserialize, ToSchema)]
struct ResumeRequest {
    /// Why; for operators, and in the tenant's chain and the platform's
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
}

/// One thing that was stopped.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct StoppedItem {
    /// `call`, `task`, `hold` or `confirmation`
    kind: &'static str,
    id: String,
    /// `cancelled`, `completed`, `refused` or `still_running` for a call, `released` for a hold,
    /// `voided` for a confirmation
    outcome: &'static str,
}

/// What was stopped.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ReceiptView {
    /// RFC 3339; when all was stopped
    at: String,
    /// Milliseconds since the freeze was durable
    took_ms: i64,
    /// Calls and batches that ended without a record
    calls_cancelled: u64,
    /// Calls and batches that had ended by themselves: what they did stands and is paid for
    calls_completed: u64,
    /// Calls and batches that had not ended yet
    calls_running: u64,
    /// Holds that were released
    holds_released: u64,
    /// Confirmations that waited and are void
    cards_voided: u64,
    /// What those held, in credits
    credits_released: i64,
    /// Holds that are left to calls, which settle what they did
    holds_left: u64,
    /// The code with which the wallet refused to release the rest; null if it did not
    wallet_refused: Option<String>,
    /// Requests that had been let in before and had not ended yet
    requests_left: u64,
    /// What was stopped, at most 200 of them
    items: Vec<StoppedItem>,
    /// How many more there were
    items_omitted: u64,
}

/// A freeze with its receipt.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FreezeView {
    /// `tenant`, `user`, `app` or `agent`
    kind: &'static str,
    id: String,
    /// `frozen`, or `resumed` once it goes on
    status: &'static str,
    /// Which of its freezes it is, from 1
    number: u64,
    /// What whoever is refused hears
    reason_class: &'static str,
    reason: String,
    frozen_by: String,
    /// RFC 3339
    frozen_at: String,
    /// What was stopped; null while it is being stopped
    receipt: Option<ReceiptView>,
    /// Why it goes on
    resume_reason: Option<String>,
    resumed_by: Option<String>,
    /// RFC 3339
    resumed_at: Option<String>,
}

impl From<Standing> for FreezeView {
    fn from(standing: Standing) -> Self {
        let (kind, id) = (standing.target.kind(), standing.target.id());
        let resumed = standing.resumed;
        Self {
            kind,
            id,
            status: if resumed.is_some() { "resumed" } else { "frozen" },
            number: standing.number,
            reason_class: standing.class.name(),
            reason: standing.reason,
            frozen_by: standing.by,
            frozen_at: rfc3339(standing.at),
            receipt: standing.receipt.map(receipt),
            resume_reason: resumed.as_ref().map(|it| it.reason.clone()),
            resumed_by: resumed.as_ref().map(|it| it.by.clone()),
            resumed_at: resumed.map(|it| rfc3339(it.at)),
        }
    }
}

fn receipt(receipt: Receipt) -> ReceiptView {
    let Receipt { tally, cards_voided, at, took_ms } = receipt;
    let at = rfc3339(at);
    let item = |(item, outcome): &(Item, market::freeze::Outcome)| {
        let (kind, id) = match item {
            Item::Call(id) => ("call", id.to_string()),
            Item::Hold(id) => ("hold", id.to_string()),
            Item::Card(id) => ("confirmation", id.to_string()),
            Item::Task(id) => ("task", id.to_string()),
        };
        StoppedItem { kind, id, outcome: outcome.name() }
    };
    ReceiptView {
        at,
        took_ms,
        calls_cancelled: tally.calls_cancelled,
        calls_completed: tally.calls_completed,
        calls_running: tally.calls_running,
        holds_released: tally.holds_released,
        cards_voided,
        credits_released: tally.credits_released,
        holds_left: tally.holds_left,
        wallet_refused: tally.wallet_refused,
        requests_left: tally.requests_left,
        items: tally.items.iter().map(item).collect(),
        items_omitted: tally.items_omitted,
    }
}

/// What an id stands for, as it is shown anywhere.
fn target(kind: &str, id: &str) -> Result<Target, Refusal> {
    let missing = || Refusal::not_found(if kind.is_empty() { "kind" } else { kind });
    match kind {
        "tenant" => id.parse::<TenantId>().map(Target::Tenant).map_err(|_| missing()),
        "user" => id.parse::<UserId>().map(Target::User).map_err(|_| missing()),
        "app" => AppId::new(id).map(Target::App).map_err(|_| missing()),
        "agent" => id.parse::<AgentId>().map(Target::Agent).map_err(|_| missing()),
        _ => Err(Refusal::not_found("kind: tenant, user, app or agent")),
    }
}

/// Does it, and answers how the target stands: the recorded answer to a repetition by its key.
async fn answer<F>(
    app: &App,
    entered: &Entered,
    (key, operation, bytes): (Key, &str, &[u8]),
    target: Target,
    act: impl FnOnce(Target, Origin) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<Standing, Refusal>>,
{
    let (caller, address) = (&entered.caller, Freeze::address(&target));
    let operation = format!("{operation} {} {}", target.kind(), target.id());
    let once = once::begin(app, key, caller, address.place(), &operation, bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let view = FreezeView::from(act(target, origin.clone()).await?);
    once.conclude(app, &address, Conclude, origin, (StatusCode::OK, |()| view)).await
}

async fn freeze(
    app: &App,
    Operator(entered): Operator,
    (kind, id): (&str, &str),
    key: Key,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, Problem> {
    let why = (body.value.reason_class, body.value.reason.to_string());
    let caller = entered.caller.user;
    let act = |target, origin| app.freezer.freeze(&app.system, target, why, caller, origin);
    answer(app, &entered, (key, "freeze", &body.bytes), target(kind, id)?, act).await
}

async fn resume(
    app: &App,
    Operator(entered): Operator,
    (kind, id): (&str, &str),
    key: Key,
    body: JsonBody<ResumeRequest>,
) -> Result<Response, Problem> {
    let reason = body.value.reason.to_string();
    let act = |target: Target, origin| async move {
        app.freezer.resume(&app.system, &target, reason, origin).await
    };
    answer(app, &entered, (key, "resume", &body.bytes), target(kind, id)?, act).await
}

/// Stop a tenant, with a receipt
///
/// Every credential for it is refused with 403 `frozen` from then on, calls are cancelled, holds
/// are released, reminders and mails wait. Freezing it again answers the first receipt.
#[utoipa::path(post, path = "/v1/operator/tenants/{id}/freeze", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = FreezeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn freeze_tenant(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, Problem> {
    freeze(&app, operator, ("tenant", &id), key, body).await
}

/// Stop a user in every tenant, with a receipt
///
/// Every credential of the user is refused with 403 `frozen` from then on, and the user's calls are
/// cancelled. Sessions stay, and are good again once the user goes on.
#[utoipa::path(post, path = "/v1/operator/users/{id}/freeze", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = FreezeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn freeze_user(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, Problem> {
    freeze(&app, operator, ("user", &id), key, body).await
}

/// Stop an app for everybody, with a receipt
///
/// Calls of it are refused with 403 `frozen` from then on, and those under way are cancelled. Its
/// developer can still deploy another version.
#[utoipa::path(post, path = "/v1/operator/apps/{id}/freeze", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = FreezeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn freeze_app(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, Problem> {
    freeze(&app, operator, ("app", &id), key, body).await
}

/// Let a frozen tenant go on
///
/// Its tokens, keys and sessions are as they were. What fell due meanwhile comes at a limited rate.
#[utoipa::path(post, path = "/v1/operator/tenants/{id}/resume", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = ResumeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn resume_tenant(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<ResumeRequest>,
) -> Result<Response, Problem> {
    resume(&app, operator, ("tenant", &id), key, body).await
}

/// Let a frozen user go on
#[utoipa::path(post, path = "/v1/operator/users/{id}/resume", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = ResumeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn resume_user(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<ResumeRequest>,
) -> Result<Response, Problem> {
    resume(&app, operator, ("user", &id), key, body).await
}

/// Let a frozen app go on
#[utoipa::path(post, path = "/v1/operator/apps/{id}/resume", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = ResumeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn resume_app(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<ResumeRequest>,
) -> Result<Response, Problem> {
    resume(&app, operator, ("app", &id), key, body).await
}

/// Stop an agent, with a receipt
///
/// Its tokens and its secret are refused with 403 `frozen` from then on, checks of its tokens say
/// `frozen`, and its calls are cancelled. Its tokens are good again once it goes on.
#[utoipa::path(post, path = "/v1/operator/agents/{id}/freeze", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = FreezeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn freeze_agent(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, Problem> {
    freeze(&app, operator, ("agent", &id), key, body).await
}

/// Let a frozen agent go on
#[utoipa::path(post, path = "/v1/operator/agents/{id}/resume", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = ResumeRequest,
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn resume_frozen_agent(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<ResumeRequest>,
) -> Result<Response, Problem> {
    resume(&app, operator, ("agent", &id), key, body).await
}

/// Something that is frozen.
#[derive(Serialize, ToSchema)]
pub(super) struct FrozenView {
    /// `tenant`, `user`, `app` or `agent`
    kind: &'static str,
    id: String,
    /// Which of its freezes it is, from 1
    number: u64,
    /// What whoever is refused hears
    reason_class: &'static str,
    /// RFC 3339
    frozen_at: String,
}

impl From<FrozenRow> for FrozenView {
    fn from(row: FrozenRow) -> Self {
        let (kind, id) = (row.target.kind(), row.target.id());
        let (reason_class, frozen_at) = (row.class.name(), rfc3339(row.at));
        Self { kind, id, number: row.number, reason_class, frozen_at }
    }
}

/// A page of what is frozen.
#[derive(Serialize, ToSchema)]
struct FrozenPage {
    items: Vec<FrozenView>,
    /// For the next page; null at the end
    next_cursor: Option<String>,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FrozenQuery {
    /// How many: 1 to 200, default 200
    limit: Option<usize>,
    /// Where to go on
    cursor: Option<String>,
}

/// What is frozen, by kind and id
#[utoipa::path(get, path = "/v1/operator/frozen", tag = tag::OPERATOR, params(FrozenQuery),
    responses((status = 200, body = FrozenPage), (status = 401), (status = 403), (status = 422)))]
async fn list(
    State(app): State<App>,
    Operator(_entered): Operator,
    Query(query): Query<FrozenQuery>,
) -> Result<Json<FrozenPage>, Problem> {
    paging::within("limit", query.limit, PAGE_MAX)?;
    let unfit = |_| Refusal::invalid_at("query", "cursor", "is none of this list");
    let after = query.cursor.map(|text| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(unfit));
    let limit = query.limit.unwrap_or(PAGE_MAX);
    let (rows, next) = app.freezer.list(&app.system, after.transpose()?, limit);
    let items = rows.into_iter().map(FrozenView::from).collect();
    let next_cursor = next.map(|key| BASE64URL_NOPAD.encode(&key));
    Ok(Json(FrozenPage { items, next_cursor }))
}

/// The last freeze of one tenant, user, app or agent, with its receipt
#[utoipa::path(get, path = "/v1/operator/frozen/{kind}/{id}", tag = tag::OPERATOR,
    params(("kind" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = FreezeView), (status = 401), (status = 403), (status = 404)))]
async fn one(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((kind, id)): Path<(String, String)>,
) -> Result<Json<FreezeView>, Problem> {
    let target = target(&kind, &id)?;
    let origin = app.origin(&entered.caller, entered.request);
    let standing = app.freezer.standing(&app.system, &target, origin).await?;
    Ok(Json(standing.ok_or_else(|| Refusal::not_found("freeze"))?.into()))
}

/// The last freeze of what an entity is, if it is something that can be frozen.
pub(super) async fn of_entity(app: &App, kind: &str, id: &str) -> Option<FreezeView> {
    let target = target(kind, id).ok()?;
    let standing = app.freezer.standing(&app.system, &target, app.system.system_origin()).await;
    standing.ok().flatten().map(FreezeView::from)
}

/// Why a tenant is frozen, for its operators; `None` while it is not.
pub(super) async fn of_tenant(
    app: &App,
    tenant: TenantId,
    authority: &tenants::Authority,
) -> Result<Option<FreezeView>, Refusal> {
    if !authority.is_installation {
        return Ok(None);
    }
    let origin = app.system.system_origin();
    let standing = app.freezer.standing(&app.system, &Target::Tenant(tenant), origin).await?;
    Ok(standing.filter(|it| it.resumed.is_none()).map(FreezeView::from))
}
