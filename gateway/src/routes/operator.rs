//! `/v1/operator`: what the console shows and does.

use std::time::Duration;

use activity::operator_act::{self, Noted};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use billing::wallet::{Grant, Kind, Reason, Receipt, wallet_address};
use futures::Stream;
use identity::tenant::Tenant;
use serde::Deserialize;
use supervision::address::Place;
use supervision::{Entity as _, Refusal, Timestamp};
use types::{Amount, GrantId, TenantId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::Operator;
use crate::console::{ActorPage, HistoryEntry, TreeView};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

/// How many live actors a tree shows.
const ACTORS_SHOWN_MAX: usize = 500;
/// How many records of its history an actor's page shows.
const HISTORY_SHOWN_MAX: u64 = 100;
/// How often the stream sends the tree.
const STREAM_PERIOD: Duration = Duration::from_secs(1);

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(grant))
        .routes(routes!(tree))
        .routes(routes!(actor))
        .routes(routes!(stream))
        .routes(routes!(act))
}

/// What to put into a wallet.
#[derive(Deserialize, ToSchema)]
struct GrantRequest {
    /// Credits, a positive integer
    credits: i64,
    /// `paid` or `promotional`
    kind: GrantKind,
    /// For people; in the ledger
    reason: String,
    /// RFC 3339; when they lapse
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GrantKind {
    Paid,
    Promotional,
}

/// Fill a tenant's wallet
#[utoipa::path(post, path = "/v1/operator/tenants/{id}/grants", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = GrantRequest,
    responses((status = 201, body = Receipt), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn grant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    key: Key,
    body: JsonBody<GrantRequest>,
) -> Result<Response, Problem> {
    let GrantRequest { credits, kind, reason, expires_at } = body.value;
    let tenant = existing_tenant(&app, &id)?;
    let unfit = |error: types::MoneyError| Refusal::invalid("credits", error.to_string());
    let credits = Amount::new(credits).map_err(unfit)?;
    let (kind, named) = match kind {
        GrantKind::Paid => (Kind::Paid, Reason::Topup),
        GrantKind::Promotional => (Kind::Promotional, Reason::Bonus),
    };
    let expires_at = expires_at.map(|text| expiry(&app, &text)).transpose()?;
    let command = Grant {
        description: Some(reason),
        expires_at,
        ..Grant::new(GrantId(app.system.new_id()), tenant, credits, kind, named)
    };
    let operation = format!("grant {tenant}");
    let view = |receipt: Receipt| receipt;
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        wallet_address(tenant),
        command,
        StatusCode::CREATED,
        view
    )
}

fn expiry(app: &App, text: &str) -> Result<Timestamp, Refusal> {
    let at = types::parse_rfc3339(text).filter(|at| *at > app.system.clock().now());
    at.ok_or_else(|| Refusal::invalid("expires_at", "must be an RFC 3339 time to come"))
}

fn existing_tenant(app: &App, text: &str) -> Result<TenantId, Refusal> {
    let missing = || Refusal::not_found("tenant");
    let tenant: TenantId = text.parse().map_err(|_| missing())?;
    let found = app.system.locate(Tenant::KIND, Tenant::address(tenant).id());
    found.map(|_| tenant).ok_or_else(missing)
}

/// The tree as it is now.
pub(super) fn tree_view(app: &App) -> TreeView {
    let mut actors = Vec::new();
    for kind in app.system.kinds() {
        actors.extend(kind.actors(ACTORS_SHOWN_MAX.saturating_sub(actors.len())));
    }
    TreeView {
        uptime_ms: app.started.elapsed().as_millis() as u64,
        engine: app.system.journal().engine_name(),
        statistics: app.system.journal().statistics(),
        requests: app.metrics.requests(),
        system: app.board.read().clone(),
        kinds: app.system.kinds().iter().map(|kind| kind.kind_view()).collect(),
        actors,
        reminders_waiting: app.system.reminders().waiting(),
        reminders_recovered: app.recovered.reminders,
        pending_recovered: app.recovered.pending,
    }
}

/// The supervision tree with every figure of the console's overview
#[utoipa::path(get, path = "/v1/operator/tree", tag = tag::OPERATOR,
    responses((status = 200, body = Object), (status = 401), (status = 403)))]
async fn tree(State(app): State<App>, Operator(_entered): Operator) -> Json<TreeView> {
    Json(tree_view(&app))
}

/// The tree each second, as server-sent events named `tree`
#[utoipa::path(get, path = "/v1/operator/stream", tag = tag::OPERATOR,
    responses((status = 200, content_type = "text/event-stream"), (status = 401), (status = 403)))]
async fn stream(
    State(app): State<App>,
    Operator(_entered): Operator,
) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let events = futures::stream::unfold((app, true), |(app, first)| async move {
        let mut stopping = app.stopping.clone();
        if !first {
            let stopped = stopping.wait_for(|stopping| *stopping);
            if tokio::time::timeout(STREAM_PERIOD, stopped).await.is_ok() {
                return None;
            }
        }
        let event = Event::default().event("tree").json_data(tree_view(&app));
        Some((event, (app, false)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// What to show of an entity.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ActorQuery {
    /// The number of a record: the state right after it
    at: Option<u64>,
    /// The number of a record: the history before it
    before: Option<u64>,
}

fn locate(app: &App, kind: &str, id: &str) -> Result<Place, Refusal> {
    app.system.locate(kind, id).ok_or_else(|| Refusal::not_found("entity"))
}

/// One entity: its figures, its state now or at a record, its history
#[utoipa::path(get, path = "/v1/operator/actors/{kind}/{id}", tag = tag::OPERATOR,
    params(("kind" = String, Path), ("id" = String, Path), ActorQuery),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404)))]
async fn actor(
    State(app): State<App>,
    Operator(_entered): Operator,
    Path((kind, id)): Path<(String, String)>,
    Query(query): Query<ActorQuery>,
) -> Result<Json<ActorPage>, Problem> {
    let place = locate(&app, &kind, &id)?;
    let registered = app.system.kind(&kind).ok_or_else(|| Refusal::not_found("kind"))?;
    let view = registered.actor_view(&id);
    let failed = |error: persistence::ReadError| Refusal::quarantined(&error.to_string());
    let head = app.system.journal().stream_head(&place.stream).map_err(failed)?;
    let at = query.at.unwrap_or(head).min(head);
    let state = match query.at {
        Some(_) => registered.observe_at(&place, at)?,
        None => registered.observe(place.clone()).await?,
    };
    let tenant_id = TenantId(place.home.0);
    let newest = query.before.map_or(head, |before| before.saturating_sub(1).min(head));
    let history = history(&app, &place, newest)?;
    Ok(Json(ActorPage { tenant_id, view, state, at, head, history }))
}

fn history(app: &App, place: &Place, newest: u64) -> Result<Vec<HistoryEntry>, Refusal> {
    let after = newest.saturating_sub(HISTORY_SHOWN_MAX);
    let records = app.system.journal().read(&place.stream, after, (newest - after) as usize);
    let records = records.map_err(|error| Refusal::quarantined(&error.to_string()))?;
    let entry = |record: persistence::Record| HistoryEntry {
        seq: record.header.seq,
        event: record.header.event.to_string(),
        command: record.header.command.to_string(),
        caller: record.header.caller.to_string(),
        time: rfc3339(Timestamp(record.header.time_ms)),
        link: data_encoding::HEXLOWER.encode(&record.link),
    };
    Ok(records.into_iter().rev().map(entry).collect())
}

/// What to do with an entity.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OperatorAction {
    /// Finish what it has and leave memory
    Passivate,
    /// End at once and start anew on the next message
    Restart,
    /// Take no command until released
    Quarantine,
    /// End its quarantine
    Release,
    /// Replay all records and compare with what snapshots give
    Verify,
}

impl OperatorAction {
    fn name(self) -> &'static str {
        match self {
            Self::Passivate => "passivate",
            Self::Restart => "restart",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Verify => "verify",
        }
    }
}

/// An operator's act on one entity.
#[derive(Deserialize, ToSchema)]
struct ActRequest {
    action: OperatorAction,
    /// Why; it stands in the tenant's chain and in the platform's
    reason: String,
}

/// Passivate, restart, quarantine, release or verify one entity
#[utoipa::path(post, path = "/v1/operator/actors/{kind}/{id}", tag = tag::OPERATOR,
    params(("kind" = String, Path), ("id" = String, Path)), request_body = ActRequest,
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn act(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((kind, id)): Path<(String, String)>,
    body: JsonBody<ActRequest>,
) -> Result<Response, Problem> {
    let ActRequest { action, reason } = body.value;
    let place = locate(&app, &kind, &id)?;
    let registered = app.system.kind(&kind).ok_or_else(|| Refusal::not_found("kind"))?;
    let origin = app.origin(&entered.caller, entered.request);
    let act = Noted {
        kind: kind.clone(),
        id: id.clone(),
        action: action.name().to_owned(),
        reason: reason.clone(),
    };
    operator_act::note(&app.system, place.home, act, origin).await?;
    let done = match action {
        OperatorAction::Passivate => registered.passivate(&id),
        OperatorAction::Restart => registered.kill(&id),
        OperatorAction::Release => registered.release(&id),
        OperatorAction::Verify => registered.verify(&place)?,
        OperatorAction::Quarantine => {
            registered.quarantine(&id, &reason);
            true
        }
    };
    Ok(Json(serde_json::json!({ "done": done })).into_response())
}
