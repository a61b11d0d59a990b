//! What services report of what was done outside, and what they read of a user's actions:
//! `/v1/internal/audit`, `POST /v1/actions`, `/v1/internal/actions`, `/v1/internal/processes`.
//!
//! A report stands in the tenant's chain like any other action and is found there by the trace id
//! of its request. It costs nothing, whatever it says of prices.

use activity::{ActionPage, ActionStats, ActionStatus, ActionType, Filter, PER_PAGE_MAX, Whose};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use extensions::tasks::TaskView;
use keeping::report::{MakeReport, Report, Sort};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::Refusal;
use types::{JsonBytes, RequestId, UserId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, Standing, standing};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::Service;
use crate::extract::{JsonBody, Query};
use crate::once::{self, Key};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// Runs of a user that are shown.
const RUNS_MAX: usize = 200;
/// The words of workers for what succeeded.
const SUCCEEDED: [&str; 4] = ["success", "succeeded", "completed", "ok"];
const AUDIT: &str = "audit";
const ACTION: &str = "report action";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(audit))
        .routes(routes!(report_action))
        .routes(routes!(actions_of_user))
        .routes(routes!(stats_of_user))
        .routes(routes!(stats_of_app))
        .routes(routes!(processes))
}

fn of_user() -> String {
    "user".to_owned()
}

fn of_api() -> String {
    "api".to_owned()
}

/// A change that somebody made.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"actor_id": "imp_u_00000000000000000000000001",
    "action": "invoice.send", "target_type": "invoice", "target_id": "2026-114",
    "changes": {"status": ["draft", "sent"]}}))]
struct AuditReport {
    /// The tenant in `X-Tenant-ID`, or the actor's own, when left out or `default`
    #[serde(default)]
    tenant_id: String,
    /// Who; of type `user` a member of the tenant
    actor_id: String,
    #[serde(default = "of_user")]
    actor_type: String,
    /// What was done, up to 128 visible characters
    action: String,
    target_type: String,
    target_id: String,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    changes: Option<Map<String, Value>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    #[serde(default = "of_api")]
    source: String,
    #[serde(default)]
    ip_address: Option<String>,
}

/// An action that a worker carried out.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(example = json!({"trace_id": "t-1", "user_id": "imp_u_00000000000000000000000001",
    "app_id": "shelf", "tool_name": "add_book", "action_type": "write", "status": "success"}))]
struct ActionCreateRequest {
    /// The worker's own; kept with the rest
    trace_id: String,
    chain_id: Option<String>,
    parent_task_id: Option<String>,
    #[serde(skip_serializing)]
    user_id: String,
    #[serde(default, skip_serializing)]
    tenant_id: String,
    #[serde(skip_serializing)]
    app_id: String,
    #[serde(skip_serializing)]
    tool_name: String,
    /// `read`, `write` or `destructive`; anything else is shown as `system`
    action_type: String,
    intent_type: Option<String>,
    /// `success`; anything else is shown as `error`
    status: String,
    message_preview: Option<String>,
    result_preview: Option<String>,
    error: Option<String>,
    duration_ms: Option<u64>,
    #[serde(default)]
    tokens_used: u64,
    #[serde(default)]
    heartbeat_count: u64,
    /// Kept as it is said; nothing is charged
    #[serde(default)]
    action_price: f64,
    #[serde(default)]
    extension_price: f64,
    #[serde(default)]
    platform_fee: f64,
    worker_id: Option<String>,
    llm_provider: Option<String>,
    llm_model: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    llm_steps: Option<Vec<Value>>,
    #[serde(default)]
    llm_total_calls: u64,
    #[serde(default)]
    llm_total_tokens: u64,
    completed_at: Option<String>,
}

/// It stands in the chain.
#[derive(Serialize, ToSchema)]
struct ReportView {
    recorded: bool,
    /// Under which it is found in `GET /v1/actions/{trace_id}`
    trace_id: String,
}

/// What of a text makes a JSON object without its empty members.
fn details(all: Value) -> JsonBytes {
    let members = all.as_object().cloned().unwrap_or_default();
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.collect()).into()
}

async fn make(
    app: &App,
    of: &Standing,
    key: Key,
    (operation, bytes): (&str, &[u8]),
    (status, report): (StatusCode, MakeReport),
) -> Result<Response<Body>, Problem> {
    let id = once::id_for(app, of.key(&key, operation, bytes).as_ref());
    let (report, address) = (MakeReport { id, ..report }, Report::address(id, of.tenant));
    let trace_id = RequestId(of.entered.request.id).to_string();
    let view = move |_: u128| ReportView { recorded: true, trace_id };
    ask_once!(app, key, of.entered, operation, bytes, address, report, status, view)
}

/// Report a change that somebody made
///
/// What it says beyond names is sealed, under the actor's own key when the actor is a user.
#[utoipa::path(post, path = "/v1/internal/audit", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = AuditReport,
    responses((status = 201, body = ReportView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn audit(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<AuditReport>,
) -> Result<Response<Body>, Problem> {
    let entry = body.value;
    let is_user = entry.actor_type == "user";
    let named = Named {
        place: "body",
        tenant_id: &entry.tenant_id,
        user_id: if is_user { &entry.actor_id } else { "" },
        extension_id: "",
    };
    if is_user && entry.actor_id.is_empty() {
        return Err(Refusal::invalid("actor_id", "is required").into());
    }
    let of = standing(&app, entered, named).await?;
    let AuditReport { actor_id, actor_type, action, target_type, source, .. } = entry;
    let AuditReport { target_id, changes, metadata, ip_address, .. } = entry;
    let facts = json!({"actor_id": actor_id, "target_id": target_id, "changes": changes,
        "metadata": metadata, "ip_address": ip_address});
    let report = MakeReport {
        id: 0,
        app: of.app.clone(),
        action,
        sort: Sort::System,
        is_success: true,
        actor_type,
        target_type,
        source,
        details: details(facts),
        about: of.user.filter(|_| is_user),
    };
    make(&app, &of, key, (AUDIT, &body.bytes), (StatusCode::CREATED, report)).await
}

/// Report an action that a worker carried out for a user
#[utoipa::path(post, path = "/v1/actions", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = ActionCreateRequest,
    responses((status = 200, body = ReportView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn report_action(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<ActionCreateRequest>,
) -> Result<Response<Body>, Problem> {
    let action = body.value;
    let named = Named {
        place: "body",
        extension_id: &action.app_id,
        tenant_id: &action.tenant_id,
        user_id: &action.user_id,
    };
    let of = standing(&app, entered, named).await?;
    let (user, sort) = (of.user()?, sort(&action.action_type));
    let facts = serde_json::to_value(&action).map_err(|_| Refusal::crashed())?;
    let report = MakeReport {
        id: 0,
        app: Some(of.app()?.clone()),
        action: action.tool_name,
        sort,
        is_success: SUCCEEDED.contains(&action.status.as_str()),
        actor_type: of_user(),
        target_type: String::new(),
        source: "worker".to_owned(),
        details: details(facts),
        about: Some(user),
    };
    make(&app, &of, key, (ACTION, &body.bytes), (StatusCode::OK, report)).await
}

fn sort(action_type: &str) -> Sort {
    match action_type {
        "read" => Sort::Read,
        "write" => Sort::Write,
        "destructive" => Sort::Destructive,
        _ => Sort::System,
    }
}

/// Whose actions, and which.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ActionsQuery {
    user_id: String,
    /// Only this app's
    app_id: Option<String>,
    /// `read`, `write`, `destructive` or `system`
    action_type: Option<String>,
    /// `success` or `error`
    status: Option<String>,
    /// Text in names and errors
    search: Option<String>,
    /// From 1
    page: Option<usize>,
    /// 1 to 200, default 50
    per_page: Option<usize>,
    /// Where the page before ended
    cursor: Option<String>,
}

fn named<T: serde::de::DeserializeOwned>(
    field: &str,
    text: Option<String>,
) -> Result<Option<T>, Refusal> {
    let read = text.map(|text| serde_json::from_value(Value::String(text))).transpose();
    read.map_err(|_| Refusal::invalid_at("query", field, "is not known"))
}

/// A user's actions in the service's tenant, newest first
#[utoipa::path(get, path = "/v1/internal/actions", tag = tag::GATEWAY,
    security(("service_token" = [])), params(ActionsQuery),
    responses((status = 200, body = ActionPage), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn actions_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<ActionsQuery>,
) -> Result<Json<ActionPage>, Problem> {
    paging::within("per_page", query.per_page, PER_PAGE_MAX)?;
    paging::from_one("page", query.page)?;
    let no_cursor = |_| Refusal::invalid_at("query", "cursor", "is not one of ours");
    let cursor = query.cursor.map(|text| text.parse()).transpose().map_err(no_cursor)?;
    let filter = Filter {
        app_id: query.app_id,
        action_type: named::<ActionType>("action_type", query.action_type)?,
        status: named::<ActionStatus>("status", query.status)?,
        search: query.search,
        page: query.page,
        per_page: query.per_page,
        cursor,
        ..Filter::default()
    };
    let named = Named { place: "query", user_id: &query.user_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    let label = format!("user/{}", of.user()?);
    let read = move || app.activity.list(&app.system, of.tenant, Whose::Caller(&label), &filter);
    let page = tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::crashed())??;
    Ok(Json(page))
}

/// Whose actions are counted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UserQuery {
    user_id: String,
}

async fn counted(app: App, of: Standing, filter: Filter) -> Result<Json<ActionStats>, Problem> {
    let label = of.user.map(|user| format!("user/{user}"));
    let count = move || {
        let whose = label.as_deref().map_or(Whose::All, Whose::Caller);
        app.activity.stats(&app.system, of.tenant, whose, &filter)
    };
    let stats = tokio::task::spawn_blocking(count).await.map_err(|_| Refusal::crashed())??;
    Ok(Json(stats))
}

/// A user's actions in the service's tenant, counted as `/v1/actions/stats` does
#[utoipa::path(get, path = "/v1/internal/actions/stats", tag = tag::GATEWAY,
    security(("service_token" = [])), params(UserQuery),
    responses((status = 200, body = ActionStats), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn stats_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<UserQuery>,
) -> Result<Json<ActionStats>, Problem> {
    let named = Named { place: "query", user_id: &query.user_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    of.user()?;
    counted(app, of, Filter::default()).await
}

/// What an app has done in the service's tenant, counted as `/v1/actions/stats` does
#[utoipa::path(get, path = "/v1/internal/actions/stats/extension/{app_id}", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("app_id" = String, Path)),
    responses((status = 200, body = ActionStats), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn stats_of_app(
    State(app): State<App>,
    Service(entered): Service,
    Path(app_id): Path<String>,
) -> Result<Json<ActionStats>, Problem> {
    let named = Named { place: "path", extension_id: &app_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    counted(app, of, Filter { app_id: Some(app_id), ..Filter::default() }).await
}

/// A call or batch that is under way.
#[derive(Serialize, ToSchema)]
struct RunningCallView {
    call_id: String,
    app_id: String,
    function: String,
    /// RFC 3339
    since: String,
}

/// What is under way for a user.
#[derive(Serialize, ToSchema)]
struct ProcessesView {
    user_id: UserId,
    /// Tasks that have not ended, the oldest first
    #[schema(value_type = Vec<Object>)]
    tasks: Vec<TaskView>,
    /// Calls that run now, the oldest first, at most 200
    calls: Vec<RunningCallView>,
    /// How many of both there are
    count: usize,
}

/// What is under way for a user in the service's tenant
#[utoipa::path(get, path = "/v1/internal/processes/{user_id}", tag = tag::GATEWAY,
    security(("service_token" = [])), params(("user_id" = String, Path)),
    responses((status = 200, body = ProcessesView), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn processes(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<ProcessesView>, Problem> {
    let named = Named { place: "path", user_id: &user_id, ..Named::default() };
    let of = standing(&app, entered, named).await?;
    let (user, own) = (of.user()?, of.app.clone());
    let whose = (of.tenant, Some(user));
    let mut tasks = app.extensions.active_tasks(&app.system, whose, of.origin(&app)).await?;
    tasks.retain(|task| own.as_ref().is_none_or(|own| task.app_id == own.as_str()));
    let flights = app.extensions.flights().all().into_iter();
    let is_theirs = |it: &extensions::Flying| {
        (it.tenant, it.user) == whose && own.as_ref().is_none_or(|own| it.app == *own)
    };
    let run = |it: extensions::Flying| RunningCallView {
        call_id: it.id.to_string(),
        app_id: it.app.to_string(),
        function: it.function,
        since: rfc3339(it.since),
    };
    let calls: Vec<RunningCallView> = flights.filter(is_theirs).take(RUNS_MAX).map(run).collect();
    let count = tasks.len() + calls.len();
    Ok(Json(ProcessesView { user_id: user, tasks, calls, count }))
}
