//! `/v1/operator/flights`: the calls, batches and tasks that are under way, and stopping one. What
//! an operator stops is noted in its tenant's chain and in the platform's.

use activity::operator_act::{self, Noted, REASON_CHARS_MAX};
use axum::Json;
use axum::extract::{Path, State};
use extensions::flights::Sort;
use extensions::tasks::{CANCEL_WAIT_MAX, TaskView};
use extensions::{Flying, Stopped};
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::{AppId, CallId, PlainText, TaskId, TenantId, UserId, home_of, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Entered, Operator};
use crate::extract::{OptionalBody, Query};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// The most that one answer lists.
const FLIGHTS_MAX: usize = 1_000;
/// Why, when the operator does not say.
const REASON_DEFAULT: &str = "stopped by an operator";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(flights))
        .routes(routes!(cancel_flight))
        .routes(routes!(cancel_task_of_tenant))
}

/// Something that is under way.
#[derive(Serialize, ToSchema)]
struct FlightView {
    /// The call's, batch's or task's id
    id: String,
    /// `call`, `batch` or `task`
    kind: &'static str,
    /// `running`, or `queued` for a task that waits for its turn
    status: &'static str,
    #[schema(value_type = String)]
    tenant_id: TenantId,
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    #[schema(value_type = String)]
    app_id: AppId,
    /// The function; of a batch the first one
    function: String,
    /// What led to it; null for what came from outside
    root_id: Option<String>,
    /// RFC 3339
    since: String,
    age_ms: i64,
    /// How far a task is, from 0 to 1; null for what does not say
    fraction: Option<f64>,
    /// What a task says of it
    message: String,
}

/// What is under way.
#[derive(Serialize, ToSchema)]
struct FlightList {
    /// The oldest first
    items: Vec<FlightView>,
    /// How many there are in all
    total: usize,
}

/// How many.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FlightsQuery {
    /// How many at most: 1 to 1,000, default 1,000
    limit: Option<usize>,
}

/// Why something is stopped.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct CancelRequest {
    /// Why; in the tenant's chain and the platform's
    #[schema(value_type = Option<String>, max_length = 500)]
    reason: Option<PlainText<REASON_CHARS_MAX, 1>>,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
struct CancelResponse {
    id: String,
    /// `cancelled`; `completed` if it was recorded before it could be stopped; `refused` if it
    /// was too late to stop it and it was refused by itself; `still_running`
    outcome: &'static str,
}

fn shown(app: &App, flying: Flying, now_ms: i64) -> FlightView {
    let is_task = flying.sort == Sort::Task;
    let id = |id: CallId| if is_task { TaskId(id.0).to_string() } else { id.to_string() };
    let seen = app.extensions.task_progress(TaskId(flying.id.0)).filter(|_| is_task);
    let is_queued = seen.as_ref().is_some_and(|(_, is_running)| !is_running);
    let (progress, _) = seen.unwrap_or_default();
    FlightView {
        id: id(flying.id),
        kind: flying.sort.name(),
        status: if is_queued { "queued" } else { "running" },
        tenant_id: flying.tenant,
        user_id: flying.user,
        app_id: flying.app,
        function: flying.function,
        root_id: (flying.root != flying.id).then(|| base_of(flying.root)),
        since: rfc3339(flying.since),
        age_ms: now_ms.saturating_sub(flying.since.0).max(0),
        fraction: progress.fraction,
        message: progress.message,
    }
}

/// What led to something may be a call or a task: they share their numbers.
fn base_of(root: CallId) -> String {
    types::base32(root.0)
}

/// The calls, batches and tasks that are under way
#[utoipa::path(get, path = "/v1/operator/flights", tag = tag::OPERATOR, params(FlightsQuery),
    responses((status = 200, body = FlightList), (status = 401), (status = 403), (status = 422)))]
async fn flights(
    State(app): State<App>,
    Operator(_entered): Operator,
    Query(query): Query<FlightsQuery>,
) -> Result<Json<FlightList>, Problem> {
    paging::within("limit", query.limit, FLIGHTS_MAX)?;
    let (all, now) = (app.extensions.flights().all(), app.system.clock().now());
    let (total, limit) = (all.len(), query.limit.unwrap_or(FLIGHTS_MAX));
    let items = all.into_iter().take(limit).map(|flying| shown(&app, flying, now.0)).collect();
    Ok(Json(FlightList { items, total }))
}

async fn note(
    app: &App,
    entered: &Entered,
    (tenant, kind, id): (TenantId, &str, String),
    body: CancelRequest,
) -> Result<(), Refusal> {
    let reason = body.reason.map_or_else(|| REASON_DEFAULT.to_owned(), |it| it.to_string());
    let act = Noted { kind: kind.to_owned(), id, action: "cancel".to_owned(), reason };
    let origin = app.origin(&entered.caller, entered.request);
    operator_act::note(&app.system, home_of(tenant), act, origin).await
}

/// Stop a call or a batch that is under way, and what it has led to
///
/// Nothing of it is recorded and what is held for it is released; what may have reached a host is
/// recorded as unknown. Its caller is answered 409 `cancelled`. A task is stopped as a task.
#[utoipa::path(post, path = "/v1/operator/flights/{id}/cancel", tag = tag::OPERATOR,
    params(("id" = String, Path)), request_body = Option<CancelRequest>,
    responses((status = 200, body = CancelResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn cancel_flight(
    State(app): State<App>,
    Operator(entered): Operator,
    Path(id): Path<String>,
    body: OptionalBody<CancelRequest>,
) -> Result<Json<CancelResponse>, Problem> {
    let missing = || Refusal::not_found("call, batch or task under way");
    let run: CallId = id.parse().map_err(|_| missing())?;
    let flights = app.extensions.flights();
    let flying = flights.all().into_iter().find(|it| it.id == run).ok_or_else(missing)?;
    if flying.sort == Sort::Task {
        let view = stop_task(&app, &entered, (flying.tenant, TaskId(run.0)), body.value).await?;
        return Ok(Json(CancelResponse { id: view.task_id.to_string(), outcome: view.status }));
    }
    let about = (flying.tenant, flying.sort.name(), run.to_string());
    note(&app, &entered, about, body.value).await?;
    let why = Refusal::new(Class::Conflict, "cancelled", "an operator has stopped this");
    let meant = move |it: &Flying| it.id == run || it.root == run;
    let stopped = flights.stop(meant, &why, CANCEL_WAIT_MAX).await;
    let became = stopped.into_iter().find(|(it, _)| it.id == run).map(|(_, became)| became);
    let outcome = match became {
        Some(Stopped::Cancelled) => "cancelled",
        Some(Stopped::Refused) => "refused",
        Some(Stopped::StillRunning) => "still_running",
        // It ended between the look and the stop.
        Some(Stopped::Completed) | None => "completed",
    };
    Ok(Json(CancelResponse { id: run.to_string(), outcome }))
}

async fn stop_task(
    app: &App,
    entered: &Entered,
    (tenant, id): (TenantId, TaskId),
    body: CancelRequest,
) -> Result<TaskView, Refusal> {
    // What is not there is not noted.
    let view = app.extensions.task(&app.system, (tenant, None), id)?;
    if view.ended_at.is_none() {
        note(app, entered, (tenant, "task", id.to_string()), body).await?;
    }
    let origin = app.origin(&entered.caller, entered.request);
    app.extensions.cancel_task(&app.system, (tenant, None), id, origin).await
}

/// Stop a task of a tenant's
#[utoipa::path(post, path = "/v1/operator/tenants/{id}/tasks/{task_id}/cancel",
    tag = tag::OPERATOR, params(("id" = String, Path), ("task_id" = String, Path)),
    request_body = Option<CancelRequest>,
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 409), (status = 422)))]
async fn cancel_task_of_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((tenant, task_id)): Path<(String, String)>,
    body: OptionalBody<CancelRequest>,
) -> Result<Json<TaskView>, Problem> {
    let tenant = app.identity.tenant_named(&tenant).await?;
    let tenant = tenant.ok_or_else(|| Refusal::not_found("tenant"))?;
    let id = task_id.parse().map_err(|_| Refusal::not_found("task"))?;
    Ok(Json(stop_task(&app, &entered, (tenant, id), body.value).await?))
}
