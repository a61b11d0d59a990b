//! `/v1/automations`: what users have done when something happens or at set times.
//!
//! Rules are also made by calls of the built-in app `automations`, which is the newer way.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, StatusCode};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::Refusal;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use automations::automations::Automations;
use automations::commands::{PauseRule, ResumeRule};
use automations::execution::ExecutionView;
use automations::rule::{ActionStep, Limits, Maker, NotifyMode, RuleView};
use automations::service::{EXECUTIONS_PAGE_MAX, head, set_off_answer};
use automations::{Automator, Draft, TriggerFilter, Whose};

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Member};
use crate::extract::{JsonBody, OptionalBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// Since when making rules here is outdated, as RFC 9745 writes a date: 2026-01-01.
const DEPRECATED_SINCE: &str = "@1767225600";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(run))
        .routes(routes!(executions))
}

/// A rule that is to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct RuleCreateRequest {
    /// What is asked for; without `actions` it is the message. The server does not interpret it
    prompt: String,
    /// The pause after each time, in seconds
    #[serde(default = "cooldown")]
    cooldown_seconds: i64,
    /// The most times within an hour
    #[serde(default = "per_hour")]
    max_per_hour: i64,
    /// After so many times it pauses; 0 for never
    #[serde(default)]
    max_iterations: i64,
    /// What sets it off; its user alone if left out
    #[serde(default)]
    trigger_filter: Option<TriggerFilter>,
    /// What is done, in this order
    #[serde(default)]
    actions: Vec<ActionStep>,
    /// How the prompt was understood
    #[serde(default)]
    interpretation: String,
    /// Which executions are told of
    #[serde(default)]
    notify_mode: NotifyMode,
}

fn cooldown() -> i64 {
    Limits::default().cooldown_seconds
}

fn per_hour() -> i64 {
    Limits::default().max_per_hour
}

/// What a rule is set off with.
#[derive(Default, Deserialize, ToSchema)]
struct RunRequest {
    /// What bindings call `event.data`
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Value,
}

/// Which page of what a rule has done.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExecutionsQuery {
    /// How many: 1 to 50, default 50
    limit: Option<usize>,
    /// Where to go on
    cursor: Option<String>,
}

/// What a rule has done, the newest first.
#[derive(Serialize, ToSchema)]
struct ExecutionPage {
    items: Vec<ExecutionView>,
    /// For the next page; null at the end
    next_cursor: Option<String>,
    /// Slots of the schedule that passed while the server was down
    missed_count: u64,
    /// RFC 3339: when the schedule comes round next
    next_run: Option<String>,
}

/// Whose rules the caller may manage: their own.
fn whose(app: &App, entered: &Entered) -> Result<Whose, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Whose { tenant: entered.caller.tenant, user: Some(entered.user()?), origin })
}

/// A rule's number. What is none is the number of no rule.
pub(super) fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("automation"))
}

/// One's rules, the oldest first
#[utoipa::path(get, path = "/v1/automations", tag = tag::GATEWAY,
    operation_id = "list_automations",
    responses((status = 200, body = Vec<RuleView>), (status = 401), (status = 403)))]
async fn list(
    State(app): State<App>,
    Member(entered): Member,
) -> Result<Json<Vec<RuleView>>, Problem> {
    let automator = app.system.port::<Automator>();
    let rules = automator.list(&app.system, &whose(&app, &entered)?).await?;
    let keys = app.system.journal().keys();
    Ok(Json(rules.iter().map(|rule| rule.view(keys)).collect()))
}

/// Make a rule (deprecated: call `create_automation` of the app `automations`)
///
/// An event sets it off by its name in the event stream, `NAME.*` by what it begins with, `*` by
/// every event that one may see; a schedule by the five fields of a crontab, on the clock of a
/// time zone. Each time its steps are ordinary calls by its user, with the rights, prices, limits
/// and confirmations of such calls; bindings such as `{{event.data.id}}` are resolved in their
/// args. A message is completed by the server's model, if it has one, and becomes a notice. What a
/// rule's calls lead to never sets that rule off again. After five failures in a row it stops.
/// 429 beyond what the plan allows; `detail` is an object then.
#[utoipa::path(post, path = "/v1/automations", tag = tag::GATEWAY,
    operation_id = "create_automation", request_body = RuleCreateRequest,
    responses((status = 200, body = RuleView), (status = 401), (status = 403), (status = 422),
        (status = 429)))]
async fn create(
    State(app): State<App>,
    Member(entered): Member,
    key: Key,
    body: JsonBody<RuleCreateRequest>,
) -> Result<Response<Body>, Problem> {
    let whose = whose(&app, &entered)?;
    let maker = Maker::of(&entered.caller);
    let draft = draft(body.value)?;
    let made = made(&app, (&entered, key), whose, (maker, draft, &body.bytes)).await;
    made.map(|mut response| {
        let since = HeaderValue::from_static(DEPRECATED_SINCE);
        response.headers_mut().insert("deprecation", since);
        response
    })
}

/// The draft that a request stands for.
fn draft(request: RuleCreateRequest) -> Result<Draft, Refusal> {
    let limits = Limits {
        cooldown_seconds: request.cooldown_seconds,
        max_per_hour: request.max_per_hour,
        max_iterations: request.max_iterations,
    };
    let (words, notify) = ((request.prompt, request.interpretation), request.notify_mode);
    Draft::new(words, request.trigger_filter.map(Into::into), request.actions, limits, notify)
}

/// Makes a rule once for a key.
pub(super) async fn made(
    app: &App,
    (entered, key): (&Entered, Key),
    whose: Whose,
    (maker, draft, bytes): (Maker, Draft, &[u8]),
) -> Result<Response<Body>, Problem> {
    let (automator, tenant) = (app.system.port::<Automator>(), whose.tenant);
    let made_by = entered.request.id;
    let command = automator.creation(&app.system, &whose, maker, draft, made_by).await?;
    let (system, address) = (app.system.clone(), Automations::address(tenant));
    ask_once!(app, key, entered, "create_automation", bytes, address, command, StatusCode::OK, {
        move |rule: std::sync::Arc<automations::rule::Rule>| {
            automator.took(tenant, &rule);
            rule.view(system.journal().keys())
        }
    })
}

/// End a rule
///
/// Its executions that have not ended are cancelled; what they had done stays.
#[utoipa::path(delete, path = "/v1/automations/{rule_id}", tag = tag::GATEWAY,
    operation_id = "delete_automation", params(("rule_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn delete(
    State(app): State<App>,
    Member(entered): Member,
    Path(rule_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (automator, id) = (app.system.port::<Automator>(), number(&rule_id)?);
    automator.delete(&app.system, &whose(&app, &entered)?, id).await?;
    Ok(Json(json!({"rule_id": id, "deleted": true})))
}

/// Set a rule off no more, until it is resumed
#[utoipa::path(post, path = "/v1/automations/{rule_id}/pause", tag = tag::GATEWAY,
    operation_id = "pause_automation", params(("rule_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn pause(
    State(app): State<App>,
    Member(entered): Member,
    Path(rule_id): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    let (id, Whose { tenant, user, .. }) = (number(&rule_id)?, whose(&app, &entered)?);
    let (address, command) = (Automations::address(tenant), PauseRule { id, user });
    let operation = format!("pause_automation/{id}");
    ask_once!(app, key, entered, &operation, [0; 0], address, command, StatusCode::OK, {
        move |status: automations::rule::Status| json!({"rule_id": id, "status": status.name()})
    })
}

/// Set a rule off again
///
/// What happened meanwhile does not set it off. One that had been set off as often as it may be is
/// counted from 0 again, and `trigger_count_reset` says so.
#[utoipa::path(post, path = "/v1/automations/{rule_id}/resume", tag = tag::GATEWAY,
    operation_id = "resume_automation", params(("rule_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn resume(
    State(app): State<App>,
    Member(entered): Member,
    Path(rule_id): Path<String>,
    key: Key,
) -> Result<Response<Body>, Problem> {
    let (id, Whose { tenant, user, .. }) = (number(&rule_id)?, whose(&app, &entered)?);
    let (automator, address) = (app.system.port::<Automator>(), Automations::address(tenant));
    let command = ResumeRule { id, user, from_seq: head(&app.system, tenant)? };
    let operation = format!("resume_automation/{id}");
    ask_once!(app, key, entered, &operation, [0; 0], address, command, StatusCode::OK, {
        move |is_reset: bool| {
            automator.resumed(tenant);
            json!({"rule_id": id, "status": "active", "trigger_count_reset": is_reset})
        }
    })
}

/// Set a rule off now
///
/// Whatever sets it off otherwise; its limit for an hour counts. Answers at once; what came of it
/// is among its executions.
#[utoipa::path(post, path = "/v1/automations/{rule_id}/run", tag = tag::GATEWAY,
    operation_id = "run_automation", params(("rule_id" = String, Path)),
    request_body = RunRequest,
    responses((status = 202, body = Object), (status = 401), (status = 404), (status = 409),
        (status = 422), (status = 429)))]
async fn run(
    State(app): State<App>,
    Member(entered): Member,
    Path(rule_id): Path<String>,
    key: Key,
    body: OptionalBody<RunRequest>,
) -> Result<Response<Body>, Problem> {
    let (id, whose) = (number(&rule_id)?, whose(&app, &entered)?);
    let (automator, address) = (app.system.port::<Automator>(), Automations::address(whose.tenant));
    let asked = format!("{:032x}", entered.request.id);
    let command = automator.setting_off(&app.system, &whose, (id, asked), body.value.data).await?;
    let operation = format!("run_automation/{id}");
    let view = move |execution: types::ExecutionId| set_off_answer(id, execution);
    let bytes = body.bytes;
    ask_once!(app, key, entered, &operation, bytes, address, command, StatusCode::ACCEPTED, view)
}

/// What a rule has done, the newest first: the last 50 times
#[utoipa::path(get, path = "/v1/automations/{rule_id}/executions", tag = tag::GATEWAY,
    operation_id = "automation_executions",
    params(("rule_id" = String, Path), ExecutionsQuery),
    responses((status = 200, body = ExecutionPage), (status = 401), (status = 404),
        (status = 422)))]
async fn executions(
    State(app): State<App>,
    Member(entered): Member,
    Path(rule_id): Path<String>,
    Query(query): Query<ExecutionsQuery>,
) -> Result<Json<ExecutionPage>, Problem> {
    paging::within("limit", query.limit, EXECUTIONS_PAGE_MAX)?;
    let unfit = |_| Refusal::invalid_at("query", "cursor", "is none of this list");
    let after = query.cursor.map(|text| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(unfit));
    let page = (after.transpose()?, query.limit.unwrap_or(EXECUTIONS_PAGE_MAX));
    let (automator, whose) = (app.system.port::<Automator>(), whose(&app, &entered)?);
    let id = number(&rule_id)?;
    let rule = automator.rule(&app.system, &whose, id).await?;
    let (items, next) = automator.executions(&app.system, &whose, id, page).await?;
    let next_cursor = next.map(|key| BASE64URL_NOPAD.encode(&key));
    let (missed_count, next_run) = (rule.missed_count, rule.next_slot.map(types::rfc3339));
    Ok(Json(ExecutionPage { items, next_cursor, missed_count, next_run }))
}
