//! `/v1/tasks`: the calls that go on in the background, how far they are, and stopping one.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use data_encoding::BASE64URL_NOPAD;
use extensions::tasks::{Signed, TaskLimit, TaskView};
use extensions::watch::Progress;
use serde::{Deserialize, Serialize};
use supervision::{Origin, Refusal};
use types::{TaskId, TenantId, UserId};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::acting::acting;
use crate::app::App;
use crate::authenticate::{Anyone, Either, Entered, Service};
use crate::extract::{JsonBody, Query};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(recent))
        .routes(routes!(active))
        .routes(routes!(check_limit))
        .routes(routes!(task, stop))
        .routes(routes!(cancel))
        .routes(routes!(report))
}

/// Whose tasks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhoseQuery {
    /// One's own id; a service or an operator names the user it asks for
    user_id: Option<String>,
    /// One's own tenant, or `default`; an operator names the user's, if it is not their own
    tenant_id: Option<String>,
}

/// Which page of whose tasks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RecentQuery {
    /// One's own id; a service or an operator names the user it asks for
    user_id: Option<String>,
    /// How many: 1 to 200, default 50
    limit: Option<usize>,
    /// Where to go on
    cursor: Option<String>,
}

/// About whom a service asks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LimitQuery {
    /// The user
    user_id: String,
    /// The tenant; the user's own when left out, or `default`
    tenant_id: Option<String>,
}

/// Tasks that have not ended.
#[derive(Serialize, ToSchema)]
struct ActiveTasks {
    #[schema(value_type = Vec<Object>)]
    tasks: Vec<TaskView>,
    /// How many there are
    count: usize,
    /// How many the role allows
    max_concurrent_tasks: usize,
}

/// A page of tasks, the newest first.
#[derive(Serialize, ToSchema)]
struct TaskPage {
    #[schema(value_type = Vec<Object>)]
    items: Vec<TaskView>,
    /// For the next page; null at the end
    next_cursor: Option<String>,
}

/// Whether another task may begin.
#[derive(Serialize, ToSchema)]
struct TaskLimitView {
    user_id: UserId,
    tenant_id: TenantId,
    allowed: bool,
    /// How many have not ended
    active: usize,
    /// How many the role allows
    max_concurrent_tasks: usize,
}

type Whose = (TenantId, Option<UserId>);

/// The credential's own user and tenant, or those that a service or an operator names.
async fn whose(app: &App, entered: &Entered, query: &WhoseQuery) -> Result<Whose, Refusal> {
    let named = query.user_id.as_deref().filter(|it| !it.is_empty());
    let tenant_named = query.tenant_id.as_deref().unwrap_or_default();
    let caller = &entered.caller;
    let unfit = |name| Refusal::invalid_at("query", name, "is not an id");
    let user = || named.map(|text| text.parse::<UserId>().map_err(|_| unfit("user_id")));
    if caller.is_operator() && named.is_some() {
        let user = user().transpose()?;
        let own = user.map(UserId::direct_tenant).unwrap_or(caller.tenant);
        let tenant = match tenant_named {
            "" | "default" => own,
            text => text.parse().map_err(|_| unfit("tenant_id"))?,
        };
        return Ok((tenant, user));
    }
    let caller = acting(app, entered, (tenant_named, named.unwrap_or_default())).await?;
    Ok((caller.tenant, caller.user))
}

/// Who may see one task by its id: its user; a service that acts for nobody sees its tenant's.
fn owner(entered: &Entered) -> Whose {
    (entered.caller.tenant, entered.caller.user)
}

fn id(text: &str) -> Result<TaskId, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("task"))
}

/// One's tasks that have not ended, the oldest first
#[utoipa::path(get, path = "/v1/tasks/active", tag = tag::GATEWAY, params(WhoseQuery),
    responses((status = 200, body = ActiveTasks), (status = 401), (status = 403), (status = 422)))]
async fn active(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<WhoseQuery>,
) -> Result<Json<ActiveTasks>, Problem> {
    let whose = whose(&app, &entered, &query).await?;
    let origin = app.origin(&entered.caller, entered.request);
    let tasks = app.extensions.active_tasks(&app.system, whose, origin.clone()).await?;
    let limit = app.extensions.task_limit(&app.system, whose, origin).await?;
    let (count, max_concurrent_tasks) = (tasks.len(), limit.limit);
    Ok(Json(ActiveTasks { tasks, count, max_concurrent_tasks }))
}

/// One's tasks, the newest first: those that have not ended, and the last 1,000 that have
#[utoipa::path(get, path = "/v1/tasks", tag = tag::GATEWAY, params(RecentQuery),
    responses((status = 200, body = TaskPage), (status = 401), (status = 403), (status = 422)))]
async fn recent(
    State(app): State<App>,
    Either(entered): Either,
    Query(query): Query<RecentQuery>,
) -> Result<Json<TaskPage>, Problem> {
    paging::within("limit", query.limit, paging::PAGE_MAX)?;
    let unfit = |_| Refusal::invalid_at("query", "cursor", "is none of this list");
    let after = query.cursor.map(|text| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(unfit));
    let (after, limit) = (after.transpose()?, query.limit.unwrap_or(paging::PAGE_DEFAULT));
    let named = WhoseQuery { user_id: query.user_id, tenant_id: None };
    let whose = whose(&app, &entered, &named).await?;
    let (items, next) = app.extensions.recent_tasks(&app.system, whose, after, limit);
    let next_cursor = next.map(|key| BASE64URL_NOPAD.encode(&key));
    Ok(Json(TaskPage { items, next_cursor }))
}

/// Whether another task of a user may begin
#[utoipa::path(get, path = "/v1/tasks/internal/check-limit", tag = tag::GATEWAY,
    security(("service_token" = [])), params(LimitQuery),
    responses((status = 200, body = TaskLimitView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn check_limit(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<LimitQuery>,
) -> Result<Json<TaskLimitView>, Problem> {
    let unfit = |name| Refusal::invalid_at("query", name, "is not an id");
    let user_id: UserId = query.user_id.parse().map_err(|_| unfit("user_id"))?;
    let named = query.tenant_id.as_deref().unwrap_or_default();
    let tenant_id = match named {
        // A service that has named the tenant it acts in asks about that one.
        _ if entered.caller.tenant != TenantId::SYSTEM => entered.tenant_named(named)?,
        "" | "default" => user_id.direct_tenant(),
        text => text.parse().map_err(|_| unfit("tenant_id"))?,
    };
    app.identity.admit_service(tenant_id, Some(user_id)).await?;
    let origin = app.origin(&entered.caller, entered.request);
    let whose = (tenant_id, Some(user_id));
    let TaskLimit { allowed, active, limit } =
        app.extensions.task_limit(&app.system, whose, origin).await?;
    Ok(Json(TaskLimitView { user_id, tenant_id, allowed, active, max_concurrent_tasks: limit }))
}

/// One task: how far it is, what it answered, what it had done, what it cost
#[utoipa::path(get, path = "/v1/tasks/{task_id}", tag = tag::GATEWAY,
    params(("task_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn task(
    State(app): State<App>,
    Either(entered): Either,
    Path(task_id): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(app.extensions.task(&app.system, owner(&entered), id(&task_id)?)?))
}

async fn stopped(
    app: &App,
    entered: &Entered,
    (whose, task_id): (Whose, &str),
) -> Result<Json<TaskView>, Problem> {
    let origin: Origin = app.origin(&entered.caller, entered.request);
    let task = app.extensions.cancel_task(&app.system, whose, id(task_id)?, origin).await?;
    Ok(Json(task))
}

/// Stop a task; the answer says what it had done by then
///
/// What it sends outside is cut off, what is held for it is released, and nothing of what it has
/// written is kept; what calls it has made had done stays. A task that was stopped answers the same
/// again; one that has ended otherwise is 409 and names its state.
#[utoipa::path(post, path = "/v1/tasks/{task_id}/cancel", tag = tag::GATEWAY,
    operation_id = "cancel_task", params(("task_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404), (status = 409)))]
async fn cancel(
    State(app): State<App>,
    Either(entered): Either,
    Path(task_id): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    stopped(&app, &entered, (owner(&entered), &task_id)).await
}

/// Stop a task; the same as cancelling it
#[utoipa::path(delete, path = "/v1/tasks/{task_id}", tag = tag::GATEWAY,
    params(("task_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404), (status = 409)))]
async fn stop(
    State(app): State<App>,
    Either(entered): Either,
    Path(task_id): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    stopped(&app, &entered, (owner(&entered), &task_id)).await
}

/// How far a task is, as its host says.
#[derive(Deserialize, ToSchema)]
struct ReportRequest {
    /// From 0 to 1
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    fraction: Option<f64>,
    /// For people, up to 200 characters
    #[serde(default)]
    message: String,
}

/// The headers that a report is signed with; `None` when one is missing.
struct Signature(Option<[String; 3]>);

impl<S: Sync> FromRequestParts<S> for Signature {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let [id, at, by] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        });
        Ok(Self(id.zip(at).zip(by).map(|((id, at), by)| [id, at, by])))
    }
}

/// Say how far a task is: for the app's own host
///
/// Signed as the server's requests to the host are (Standard Webhooks), with the same secret, under
/// an id that the host chooses. 404 unless the task runs, is of this app, and the signature is
/// right and not older than five minutes. Progress is shown with the task and told on the event
/// feed as `task_progress`; nothing of it is recorded.
#[utoipa::path(post, path = "/v1/tasks/{task_id}/progress", tag = tag::GATEWAY,
    operation_id = "report_progress", security(()), params(("task_id" = String, Path),
        ("webhook-id" = String, Header), ("webhook-timestamp" = String, Header),
        ("webhook-signature" = String, Header)),
    request_body = ReportRequest,
    responses((status = 204), (status = 401), (status = 404), (status = 422)))]
async fn report(
    State(app): State<App>,
    anyone: Anyone,
    Path(task_id): Path<String>,
    signature: Signature,
    body: JsonBody<ReportRequest>,
) -> Result<StatusCode, Problem> {
    let ReportRequest { fraction, message } = body.value;
    let bytes: Bytes = body.bytes;
    let unsigned = || Problem::unauthenticated("a report is signed with the app's secret");
    let signature = signature.0.ok_or_else(unsigned)?;
    let [id_signed, timestamp, signature] = signature.each_ref().map(String::as_str);
    let signed = Signed { id: id_signed, timestamp, signature, body: &bytes };
    let origin = Origin { request: anyone.request, ..app.system.system_origin() };
    let progress = Progress { fraction, message };
    let task_id = id(&task_id)?;
    app.extensions.report_progress(&app.system, task_id, signed, progress, origin).await?;
    Ok(StatusCode::NO_CONTENT)
}
