//! `/v1/confirmations`: what waits for its user, and their yes or no; `…/operate`, the guarded way
//! of calling a function; `/v1/operator/confirmations`: what waits everywhere.
//!
//! A card is its user's: another user of the same tenant is answered as for what does not exist.
//! Confirming is a person's act, so an API key or an agent may look and cancel, but not confirm.

use std::time::Duration;

use activity::operator_act::{self, Noted, REASON_CHARS_MAX};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use confirmations::confirmation::OpenRow;
use confirmations::deciding::{Cancel, Conclude, Decide, over};
use confirmations::desk::{self, OPEN_MAX};
use confirmations::{Card, Confirmation, Decider, State as CardState};
use data_encoding::BASE64URL_NOPAD;
use extensions::guard::answer_of;
use extensions::{Call, CallAnswer, Operated};
use identity::mail::PostOffice;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{Address, Class, Refusal, System};
use types::{AppId, CallerKind, ConfirmationId, PlainText, TenantId, UserId, home_of, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::calls;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Operator};
use crate::extract::{CALL_BODY_BYTES_MAX, JsonBody, Query};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// How long whoever confirms waits for what comes of it.
const OUTCOME_WAIT_MAX: Duration = Duration::from_secs(240);
/// How many cards one page of the operator's list has at most.
const PAGE_MAX: usize = 200;
/// The longest reason of whoever cancels, in characters.
const REASON_MAX: usize = 500;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(operate))
        .routes(routes!(active))
        .routes(routes!(one))
        .routes(routes!(confirm))
        .routes(routes!(accept))
        .routes(routes!(cancel))
        .routes(routes!(all_active))
        .routes(routes!(operator_cancel))
}

/// A card.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct CardView {
    confirmation_id: ConfirmationId,
    /// `pending`, `confirmed` while it is carried out, `executed`, `failed`, `cancelled`,
    /// `rejected`, `expired` or `voided`
    state: &'static str,
    title: String,
    description: String,
    app_id: Option<AppId>,
    function: String,
    /// `read`, `write` or `destructive`
    action_type: String,
    /// What it will be called with
    #[schema(value_type = Object)]
    params: Value,
    /// What will be called: `[{function, params, action_type, price}]`
    #[schema(value_type = Vec<Object>)]
    calls: Value,
    /// What it costs at most, in credits, which are held
    price: i64,
    /// Who asked
    requested_by: String,
    /// Whether it is released on this server's own page alone
    panel_required: bool,
    panel_url: String,
    /// What a client shows: `[{label, method, path}]`
    #[schema(value_type = Vec<Object>)]
    buttons: Value,
    opened_at: String,
    expires_at: String,
    decided_at: Option<String>,
    ended_at: Option<String>,
    /// Why it was cancelled, rejected or voided
    reason: Option<String>,
    /// What changed, of a void card: `[{name, was, is}]`
    #[schema(value_type = Vec<Object>)]
    changed: Value,
    /// What came of it: what a call answers
    #[schema(value_type = Option<Object>)]
    content: Option<Value>,
}

/// The address of the page on which a card is released.
pub(super) fn panel_url(system: &System, id: ConfirmationId) -> String {
    let site = system.port::<PostOffice>();
    format!("{}/confirmations/{id}", site.public_url().trim_end_matches('/'))
}

impl CardView {
    /// What it will be called with.
    pub(super) fn params(&self) -> &Value {
        &self.params
    }

    pub(super) fn of(system: &System, card: &Card) -> Self {
        let (opened, subject) = (&card.opened, &card.opened.subject);
        let content = card.content(system.journal().keys());
        let params: Value =
            content.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let calls = json!([{"function": subject.function, "params": params,
            "action_type": subject.action, "price": subject.price}]);
        let path = format!("/v1/confirmations/{}", opened.id);
        let buttons = match (card.state, opened.rules.in_panel) {
            (CardState::Pending, false) => json!([
                {"label": "Confirm", "method": "POST", "path": format!("{path}/confirm")},
                {"label": "Cancel", "method": "POST", "path": format!("{path}/cancel")}]),
            (CardState::Pending, true) => json!([
                {"label": "Cancel", "method": "POST", "path": format!("{path}/cancel")}]),
            _ => json!([]),
        };
        let app = subject.app.as_ref().map(ToString::to_string).unwrap_or_default();
        let description = format!(
            "{app}.{} ({}) for at most {} credits",
            subject.function, subject.action, subject.price
        );
        let answered = card.done.as_ref().map(|_| json!(answer_of(system, card)));
        Self {
            confirmation_id: opened.id,
            state: card.state.name(),
            title: subject.title.clone(),
            description,
            app_id: subject.app.clone(),
            function: subject.function.clone(),
            action_type: subject.action.clone(),
            params,
            calls,
            price: subject.price,
            requested_by: opened.principal.clone(),
            panel_required: opened.rules.in_panel,
            panel_url: panel_url(system, opened.id),
            buttons,
            opened_at: rfc3339(card.opened_at),
            expires_at: rfc3339(opened.expires_at),
            decided_at: card.decided_at.map(rfc3339),
            ended_at: card.ended_at.map(rfc3339),
            reason: card.reason.clone(),
            changed: json!(card.changed),
            content: answered,
        }
    }
}

/// A call by the guarded way.
#[derive(Deserialize, ToSchema)]
struct OperateRequest {
    /// The caller's own user id; a service names the user it acts for
    #[serde(default)]
    user_id: String,
    /// The caller's own tenant id, or `default`
    #[serde(default)]
    tenant_id: String,
    /// The function's name
    function: String,
    /// Its parameters, an object
    #[serde(default)]
    #[schema(value_type = Object)]
    params: Value,
    /// Whether the client's own user has confirmed it already
    #[serde(default)]
    confirmation_bypassed: bool,
}

/// What became of it: which of the members are there depends on `kind`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of what is made as JSON")]
struct OperateResponse {
    /// `tool_result`, `confirmation` or `panel_approval_required`
    kind: String,
    /// Of a `tool_result`: what a call answers
    #[schema(value_type = Option<Object>)]
    content: Value,
    /// Of a `confirmation`: the members of a card
    confirmation_id: Option<String>,
    /// Of a `panel_approval_required`: where it is released
    panel_url: Option<String>,
    /// Of a `panel_approval_required`: what would be done
    summary: Option<String>,
}

/// Call a function by the guarded way: what waits for its user is answered as a card
///
/// `kind` is `tool_result` (with `content`, what a call answers), `confirmation` (with a card's
/// members) or `panel_approval_required` (with `panel_url`): a function that moves money is
/// released on this server's page alone; the same request after that answers its result, once. 409
/// `money_release_denied` once its user has refused, 410
/// `money_release_already_consumed_or_expired`.
///
/// The same request again, while it waits, is the same card. `confirmation_bypassed: true` says
/// that the client's own user has confirmed: it is believed of a user's own token and of no API key
/// or agent; where the user's role enforces confirmations, and for functions that take the page, it
/// changes nothing. A service's calls wait for nobody.
#[utoipa::path(post, path = "/v1/extensions/{app_id}/operate", tag = tag::EXTENSIONS,
    params(("app_id" = String, Path)), request_body = OperateRequest,
    responses((status = 200, body = OperateResponse), (status = 401), (status = 402),
        (status = 403), (status = 404), (status = 409), (status = 410), (status = 422)))]
async fn operate(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<OperateRequest, CALL_BODY_BYTES_MAX>,
) -> Result<Json<Value>, Problem> {
    let OperateRequest { user_id, tenant_id, function, params, confirmation_bypassed } = body.value;
    let named = (user_id.as_str(), tenant_id.as_str());
    let request =
        calls::request(&app, &entered, app_id, named, key, "operate", &body.bytes).await?;
    let params = if params.is_null() { json!({}) } else { params };
    let call = Call { function, params };
    let operated =
        app.extensions.operate(&app.system, request, call, confirmation_bypassed).await?;
    Ok(Json(match operated {
        Operated::Answer(answer) => tool_result(&answer),
        Operated::Waits(card) if card.opened.rules.in_panel => json!({
            "kind": "panel_approval_required", "confirmation_id": card.opened.id,
            "panel_url": panel_url(&app.system, card.opened.id),
            "summary": card.opened.subject.title, "expires_at": rfc3339(card.opened.expires_at)}),
        Operated::Waits(card) => {
            let mut view = json!(CardView::of(&app.system, &card));
            view["kind"] = json!("confirmation");
            view
        }
    }))
}

fn tool_result(answer: &CallAnswer) -> Value {
    json!({"kind": "tool_result", "content": answer})
}

/// What waits for the caller's user.
#[derive(Serialize, ToSchema)]
struct ActiveResponse {
    /// The oldest first, at most 100
    confirmations: Vec<CardView>,
}

/// What waits for the caller's user, the oldest first
#[utoipa::path(get, path = "/v1/confirmations/active", tag = tag::GATEWAY,
    responses((status = 200, body = ActiveResponse), (status = 401), (status = 403)))]
async fn active(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<ActiveResponse>, Problem> {
    let (user, tenant) = (entered.user()?, entered.caller.tenant);
    let rows = desk::open_cards(&app.system, tenant, Some(user), OPEN_MAX);
    let mut confirmations = Vec::with_capacity(rows.len());
    for row in rows {
        let origin = app.origin(&entered.caller, entered.request);
        let (_, card) = desk::card(&app.system, tenant, row.id, origin).await?;
        if card.state == CardState::Pending {
            confirmations.push(CardView::of(&app.system, &card));
        }
    }
    Ok(Json(ActiveResponse { confirmations }))
}

/// A card of the caller's. 404 for anybody else's.
async fn own(
    app: &App,
    entered: &Entered,
    id: &str,
) -> Result<(Address<Confirmation>, Card), Refusal> {
    let missing = || Refusal::not_found("confirmation");
    let (user, id) = (entered.user()?, id.parse().map_err(|_| missing())?);
    let origin = app.origin(&entered.caller, entered.request);
    let (address, card) = desk::card(&app.system, entered.caller.tenant, id, origin).await?;
    let decider = Decider { user, role: entered.caller.role.clone() };
    let is_theirs = card.opened.user == user || card.opened.rules.asks(&decider);
    is_theirs.then_some((address, card)).ok_or_else(missing)
}

/// One card, as it stands
#[utoipa::path(get, path = "/v1/confirmations/{confirmation_id}", tag = tag::GATEWAY,
    params(("confirmation_id" = String, Path)),
    responses((status = 200, body = CardView), (status = 401), (status = 403), (status = 404)))]
async fn one(
    State(app): State<App>,
    Either(entered): Either,
    Path(confirmation_id): Path<String>,
) -> Result<Json<CardView>, Problem> {
    let (_, card) = own(&app, &entered, &confirmation_id).await?;
    Ok(Json(CardView::of(&app.system, &card)))
}

/// What came of a confirmed card.
#[derive(Serialize, ToSchema)]
struct ConfirmResponse {
    confirmation_id: ConfirmationId,
    /// `executed`, or `failed` when the function did not do what was asked; `pending` while others
    /// have to agree, too
    state: &'static str,
    /// `tool_result`
    kind: &'static str,
    /// What a call answers
    #[schema(value_type = Option<Object>)]
    content: Option<Value>,
}

/// Waits for what comes of a card that was agreed to. 409 `confirmation_void` when it could not be
/// carried out as it was confirmed.
pub(super) async fn outcome(
    app: &App,
    address: &Address<Confirmation>,
    card: Card,
) -> Result<Card, Refusal> {
    if card.state == CardState::Pending || card.state.is_over() {
        return Ok(card);
    }
    let cards = app.system.directory::<Confirmation>();
    let ended = cards.wait(address, app.system.system_origin());
    let ended = tokio::time::timeout(OUTCOME_WAIT_MAX, ended);
    let card = ended.await.map_err(|_| Refusal::in_doubt())??;
    if card.state == CardState::Voided { Err(over(&card)) } else { Ok(card) }
}

async fn settle(
    app: &App,
    entered: &Entered,
    confirmation_id: &str,
    key: Key,
    bytes: &[u8],
) -> Result<Response, Problem> {
    let (address, known) = own(app, entered, confirmation_id).await?;
    if matches!(entered.caller.kind, CallerKind::ApiKey | CallerKind::Agent) {
        let message = "this is confirmed by a person who is logged in, not by a key";
        let refusal = Refusal::new(Class::Forbidden, "confirmation_needs_person", message);
        return Err(refusal.into());
    }
    let (user, caller) = (entered.user()?, &entered.caller);
    let operation = format!("confirm {}", known.opened.id);
    let once = once::begin(app, key, caller, address.place(), &operation, bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let by = Decider { user, role: caller.role.clone() };
    let decide = Decide { by, approves: true, reason: None, in_panel: false };
    let (cards, origin) = (app.system.directory(), app.origin(caller, entered.request));
    let card = cards.ask(&address, decide, origin.clone()).await?;
    let card = outcome(app, &address, card).await?;
    let content = card.done.as_ref().map(|_| json!(answer_of(&app.system, &card)));
    let (confirmation_id, state) = (card.opened.id, card.state.name());
    let answer = ConfirmResponse { confirmation_id, state, kind: "tool_result", content };
    let Once::Ticketed(ticketed) = once else { return Ok(Json(answer).into_response()) };
    let render = move |()| once::record(StatusCode::OK, &answer);
    let recorded = cards.ask_once(&address, Conclude {}, origin, ticketed, render).await?;
    once::response(&recorded)
}

/// Confirm what waits, and answer what came of it
///
/// What was stored is carried out, once and byte for byte. Confirming it again answers the same.
/// 404 for what is not the caller's user's, 409 `confirmation_decided` once it was cancelled or
/// rejected, 409 `confirmation_void` when the app's version, the price or the policy is another now
/// (`changed` says what), 410 `confirmation_expired`, 403 `panel_required`, 403
/// `confirmation_needs_person` for an API key.
#[utoipa::path(post, path = "/v1/confirmations/{confirmation_id}/confirm", tag = tag::GATEWAY,
    params(("confirmation_id" = String, Path)),
    responses((status = 200, body = ConfirmResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 410)))]
async fn confirm(
    State(app): State<App>,
    Either(entered): Either,
    Path(confirmation_id): Path<String>,
    key: Key,
) -> Result<Response, Problem> {
    settle(&app, &entered, &confirmation_id, key, &[]).await
}

/// The same as `…/confirm`
#[utoipa::path(post, path = "/v1/confirmations/{confirmation_id}/accept", tag = tag::GATEWAY,
    params(("confirmation_id" = String, Path)),
    responses((status = 200, body = ConfirmResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 410)))]
async fn accept(
    State(app): State<App>,
    Either(entered): Either,
    Path(confirmation_id): Path<String>,
    key: Key,
) -> Result<Response, Problem> {
    settle(&app, &entered, &confirmation_id, key, &[]).await
}

/// Take back what waits: it is not carried out, and what was held for it is given back
///
/// Cancelling it again answers the same. 409 `confirmation_decided`, 410 `confirmation_expired`.
#[utoipa::path(post, path = "/v1/confirmations/{confirmation_id}/cancel", tag = tag::GATEWAY,
    params(("confirmation_id" = String, Path)),
    responses((status = 200, body = CardView), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 410)))]
async fn cancel(
    State(app): State<App>,
    Either(entered): Either,
    Path(confirmation_id): Path<String>,
    key: Key,
) -> Result<Response, Problem> {
    let (address, known) = own(&app, &entered, &confirmation_id).await?;
    if known.opened.user != entered.user()? {
        let message = "whoever asked for this takes it back; you may reject it";
        return Err(Refusal::forbidden(message).into());
    }
    let system = app.system.clone();
    let view = move |card: Card| CardView::of(&system, &card);
    let operation = format!("cancel {}", known.opened.id);
    let command = Cancel { reason: None };
    ask_once!(app, key, entered, &operation, [], address, command, StatusCode::OK, view)
}

/// What waits somewhere.
#[derive(Serialize, ToSchema)]
struct WaitingItem {
    confirmation_id: ConfirmationId,
    tenant_id: TenantId,
    user_id: UserId,
    app_id: Option<AppId>,
    function: String,
    /// `read`, `write` or `destructive`
    action_type: String,
    /// What is held for it, in credits
    price: i64,
    opened_at: String,
    expires_at: String,
}

impl From<OpenRow> for WaitingItem {
    fn from(row: OpenRow) -> Self {
        Self {
            confirmation_id: row.id,
            tenant_id: row.tenant,
            user_id: row.user,
            app_id: row.app,
            function: row.function,
            action_type: row.action,
            price: row.price,
            opened_at: rfc3339(row.opened_at),
            expires_at: rfc3339(row.expires_at),
        }
    }
}

/// A page of what waits.
#[derive(Serialize, ToSchema)]
struct WaitingPage {
    items: Vec<WaitingItem>,
    /// For the next page; null at the end
    next_cursor: Option<String>,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitingQuery {
    /// How many: 1 to 200, default 200
    limit: Option<usize>,
    /// Where to go on
    cursor: Option<String>,
}

/// What waits for somebody, in all tenants, without what it was asked with
#[utoipa::path(get, path = "/v1/operator/confirmations", tag = tag::OPERATOR,
    params(WaitingQuery),
    responses((status = 200, body = WaitingPage), (status = 401), (status = 403),
        (status = 422)))]
async fn all_active(
    State(app): State<App>,
    Operator(_entered): Operator,
    Query(query): Query<WaitingQuery>,
) -> Result<Json<WaitingPage>, Problem> {
    paging::within("limit", query.limit, PAGE_MAX)?;
    let after = query.cursor.map(|text| after_of(&text)).transpose()?;
    let (system, limit) = (app.system.clone(), query.limit.unwrap_or(PAGE_MAX));
    let read = tokio::task::spawn_blocking(move || desk::all_open(&system, after, limit));
    let (rows, next) = read.await.map_err(|_| Refusal::crashed())?;
    let next_cursor = next.map(|(shard, key)| {
        let bytes: Vec<u8> = [shard].into_iter().chain(key).collect();
        BASE64URL_NOPAD.encode(&bytes)
    });
    Ok(Json(WaitingPage { items: rows.into_iter().map(WaitingItem::from).collect(), next_cursor }))
}

fn after_of(text: &str) -> Result<desk::After, Refusal> {
    let unfit = || Refusal::invalid_at("query", "cursor", "is none of this list");
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| unfit())?;
    let (shard, key) = bytes.split_first().ok_or_else(unfit)?;
    Ok((*shard, key.to_vec()))
}

/// Why an operator cancels.
#[derive(Deserialize, ToSchema)]
struct OperatorCancelRequest {
    /// Why; for the tenant's chain and the platform's
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
}

/// Cancel what waits in any tenant; it stands in the tenant's chain
#[utoipa::path(post, path = "/v1/operator/confirmations/{confirmation_id}/cancel",
    tag = tag::OPERATOR, params(("confirmation_id" = String, Path)),
    request_body = OperatorCancelRequest,
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 410), (status = 422)))]
async fn operator_cancel(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(confirmation_id): Path<String>,
    key: Key,
    body: JsonBody<OperatorCancelRequest>,
) -> Result<Response, Problem> {
    let missing = || Refusal::not_found("confirmation");
    let id: ConfirmationId = confirmation_id.parse().map_err(|_| missing())?;
    let address = desk::locate(&app.system, id).ok_or_else(missing)?;
    let (cards, origin) =
        (app.system.directory::<Confirmation>(), app.origin(&entered.caller, entered.request));
    let look = |it: &Confirmation| it.card().map(|card| (card.opened.tenant, card.state));
    let (tenant, state) = cards.look(&address, origin.clone(), look).await?.ok_or_else(missing)?;
    let reason: String = body.value.reason.to_string().chars().take(REASON_MAX).collect();
    if state == CardState::Pending {
        let (kind, action) = ("confirmation".to_owned(), "cancel".to_owned());
        let act = Noted { kind, id: id.to_string(), action, reason: reason.clone() };
        operator_act::note(&app.system, home_of(tenant), act, origin).await?;
    }
    let view = |card: Card| {
        let (id, state) = (card.opened.id, card.state.name());
        json!({"confirmation_id": id, "state": state, "reason": card.reason})
    };
    let operation = format!("operator_cancel {id}");
    let command = Cancel { reason: Some(reason) };
    ask_once!(app, key, entered, &operation, body.bytes, address, command, StatusCode::OK, view)
}
