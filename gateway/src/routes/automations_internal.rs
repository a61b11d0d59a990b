//! `/v1/automations/internal`: what a service asks of rules and tells of those that it carries out
//! by itself. The service token; a service that names a tenant in `X-Tenant-ID` sees that one.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use supervision::{Refusal, Timestamp};
use types::{ExecutionId, TenantId, UserId, parse_rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use automations::automations::Automations;
use automations::commands::{ChangeRule, CheckTimeouts, ReportResult, SetOff};
use automations::execution::{End, Outcome, Source, seal_event, seal_note};
use automations::rule::{ActionStep, Failure, Limits, Maker, NotifyMode, Rule, RuleView, Status};
use automations::watch::chain_of;
use automations::{Automator, Draft, TriggerFilter, Whose};

use super::automations::{made, number};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Entered, Service};
use crate::extract::{JsonBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

/// Rules that one answer holds.
const RULES_SHOWN_MAX: usize = 10_000;
/// The code of a failure that a service has told no code of.
const REPORTED: &str = "reported_failure";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(all))
        .routes(routes!(active))
        .routes(routes!(create))
        .routes(routes!(triggered))
        .routes(routes!(check_timeout))
        .routes(routes!(change, delete))
        .routes(routes!(count))
        .routes(routes!(result))
}

/// Which rules.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AllQuery {
    /// The tenant; `default` for the one that the service acts in, or all
    tenant_id: Option<String>,
    /// Only those whose schedules are read on this clock
    timezone: Option<String>,
}

/// Which rules.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ActiveQuery {
    /// The tenant; `default` for the one that the service acts in, or all
    tenant_id: Option<String>,
}

/// A rule that is to be made for a user.
#[derive(Deserialize, ToSchema)]
struct RuleCreateInternal {
    user_id: String,
    /// `default` is the one that the service acts in, or the user's own
    #[serde(default)]
    tenant_id: String,
    prompt: String,
    trigger_filter: TriggerFilter,
    actions: Vec<ActionStep>,
    #[serde(default)]
    interpretation: String,
    #[serde(default)]
    cooldown_seconds: Option<i64>,
    #[serde(default)]
    max_per_hour: Option<i64>,
    #[serde(default)]
    max_iterations: i64,
    /// Which executions are told of
    #[serde(default)]
    notify_mode: NotifyMode,
}

/// What is to be other; what is left out stays.
#[derive(Deserialize, ToSchema)]
struct RuleUpdateInternalRequest {
    #[serde(default)]
    cooldown_seconds: Option<i64>,
    #[serde(default)]
    max_per_hour: Option<i64>,
    #[serde(default)]
    max_iterations: Option<i64>,
    /// active, paused or error
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    trigger_filter: Option<TriggerFilter>,
}

/// What a service carries out.
#[derive(Deserialize, ToSchema)]
struct TriggeredRequest {
    rule_id: u64,
    /// `triggered` for what begins; `success` or `completed`, `failed` or `error`, `timeout`
    #[serde(default = "begins")]
    status: String,
    /// The service's own id for it: the same one is one execution
    #[serde(default)]
    execution_id: Option<String>,
    /// `default` is the rule's
    #[serde(default)]
    tenant_id: String,
    /// Which attempt it is
    #[serde(default = "one")]
    attempt: i64,
    /// The execution that led to it
    #[serde(default)]
    parent_execution_id: Option<String>,
    /// RFC 3339: when it is over
    #[serde(default)]
    timeout_at: Option<String>,
    /// What set it off
    #[serde(default)]
    event_data: String,
    #[serde(default)]
    result: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_text: String,
}

fn begins() -> String {
    "triggered".to_owned()
}

fn one() -> i64 {
    1
}

/// How it went.
#[derive(Deserialize, ToSchema)]
struct ExecutionResultRequest {
    success: bool,
    #[serde(default)]
    error: String,
}

/// The tenants that a query is about.
async fn tenants(
    app: &App,
    entered: &Entered,
    named: Option<&str>,
) -> Result<BTreeSet<TenantId>, Refusal> {
    let (named, own) = (named.unwrap_or_default(), entered.caller.tenant);
    if own != TenantId::SYSTEM {
        return Ok(BTreeSet::from([entered.tenant_named(named)?]));
    }
    if matches!(named, "" | "default") {
        return Ok(app.system.port::<Automator>().tenants(None));
    }
    let unfit = |_| Refusal::invalid_at("query", "tenant_id", "is not an id");
    let tenant: TenantId = named.parse().map_err(unfit)?;
    app.identity.admit_service(tenant, None).await?;
    Ok(BTreeSet::from([tenant]))
}

/// Where a rule is, for the service that asks: 404 where it acts in another tenant.
fn whose(app: &App, entered: &Entered, rule: u64) -> Result<Whose, Refusal> {
    let missing = || Refusal::not_found("automation");
    let tenant = app.system.port::<Automator>().tenant_of(rule).ok_or_else(missing)?;
    let own = entered.caller.tenant;
    if own != TenantId::SYSTEM && own != tenant {
        return Err(missing());
    }
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Whose { tenant, user: entered.caller.user, origin })
}

/// A rule, with its tenant.
fn shown(app: &App, tenant: TenantId, rule: &Rule) -> Value {
    let view = rule.view(app.system.journal().keys());
    let mut shown = serde_json::to_value(view).unwrap_or_default();
    shown["tenant_id"] = json!(tenant);
    shown
}

async fn rules(
    app: &App,
    entered: &Entered,
    tenants: BTreeSet<TenantId>,
    is_meant: impl Fn(&Rule) -> bool,
) -> Result<Json<Vec<Value>>, Problem> {
    let automator = app.system.port::<Automator>();
    let mut all = Vec::new();
    for tenant in tenants {
        let (origin, user) = (app.origin(&entered.caller, entered.request), entered.caller.user);
        match automator.list(&app.system, &Whose { tenant, user, origin }).await {
            Ok(rules) => {
                let meant = rules.iter().filter(|rule| is_meant(rule));
                all.extend(meant.map(|rule| shown(app, tenant, rule)));
            }
            Err(refusal) if refusal.is_erased() => {}
            Err(refusal) => return Err(refusal.into()),
        }
        if all.len() >= RULES_SHOWN_MAX {
            all.truncate(RULES_SHOWN_MAX);
            break;
        }
    }
    Ok(Json(all))
}

/// All rules, up to 10,000
#[utoipa::path(get, path = "/v1/automations/internal/all", tag = tag::GATEWAY,
    operation_id = "all_automations", security(("service_token" = [])), params(AllQuery),
    responses((status = 200, body = Vec<Object>), (status = 401), (status = 403), (status = 422)))]
async fn all(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<AllQuery>,
) -> Result<Json<Vec<Value>>, Problem> {
    let tenants = tenants(&app, &entered, query.tenant_id.as_deref()).await?;
    let zone = query.timezone.filter(|zone| !zone.is_empty());
    let is_meant = |rule: &Rule| zone.as_ref().is_none_or(|zone| rule.trigger.timezone == *zone);
    rules(&app, &entered, tenants, is_meant).await
}

/// The rules that are set off, up to 10,000
#[utoipa::path(get, path = "/v1/automations/internal/active", tag = tag::GATEWAY,
    operation_id = "active_automations", security(("service_token" = [])), params(ActiveQuery),
    responses((status = 200, body = Vec<Object>), (status = 401), (status = 403), (status = 422)))]
async fn active(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<ActiveQuery>,
) -> Result<Json<Vec<Value>>, Problem> {
    let tenants = tenants(&app, &entered, query.tenant_id.as_deref()).await?;
    rules(&app, &entered, tenants, |rule| rule.status == Status::Active).await
}

/// Make a rule for a user
#[utoipa::path(post, path = "/v1/automations/internal/create", tag = tag::GATEWAY,
    operation_id = "create_automation_for", security(("service_token" = [])),
    request_body = RuleCreateInternal,
    responses((status = 200, body = RuleView), (status = 401), (status = 403), (status = 404),
        (status = 422), (status = 429)))]
async fn create(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<RuleCreateInternal>,
) -> Result<Response<Body>, Problem> {
    let request = body.value;
    let unfit = |name| Refusal::invalid(name, "is not an id");
    let user: UserId = request.user_id.parse().map_err(|_| unfit("user_id"))?;
    let tenant = match request.tenant_id.as_str() {
        named if entered.caller.tenant != TenantId::SYSTEM => entered.tenant_named(named)?,
        "" | "default" => user.direct_tenant(),
        named => named.parse().map_err(|_| unfit("tenant_id"))?,
    };
    app.identity.admit_service(tenant, Some(user)).await?;
    let usual = Limits::default();
    let limits = Limits {
        cooldown_seconds: request.cooldown_seconds.unwrap_or(usual.cooldown_seconds),
        max_per_hour: request.max_per_hour.unwrap_or(usual.max_per_hour),
        max_iterations: request.max_iterations,
    };
    let words = (request.prompt, request.interpretation);
    let trigger = Some(request.trigger_filter.into());
    let draft = Draft::new(words, trigger, request.actions, limits, request.notify_mode)?;
    let origin = app.origin(&entered.caller, entered.request);
    let whose = Whose { tenant, user: Some(user), origin };
    // What the user may do then is looked at each time.
    made(&app, (&entered, key), whose, (Maker::user(), draft, &body.bytes)).await
}

/// Change a rule
#[utoipa::path(patch, path = "/v1/automations/internal/{rule_id}", tag = tag::GATEWAY,
    operation_id = "change_automation", security(("service_token" = [])),
    params(("rule_id" = String, Path)), request_body = RuleUpdateInternalRequest,
    responses((status = 200, body = RuleView), (status = 401), (status = 404), (status = 422)))]
async fn change(
    State(app): State<App>,
    Service(entered): Service,
    Path(rule_id): Path<String>,
    body: JsonBody<RuleUpdateInternalRequest>,
) -> Result<Json<RuleView>, Problem> {
    let (id, request) = (number(&rule_id)?, body.value);
    let whose = whose(&app, &entered, id)?;
    let status = match request.status.as_deref() {
        None => None,
        Some("active") => Some(Status::Active),
        Some("paused") => Some(Status::Paused),
        Some("error") => Some(Status::Error),
        Some(_) => return Err(Refusal::invalid("status", "active, paused or error").into()),
    };
    let change = ChangeRule {
        id,
        user: whose.user,
        cooldown_seconds: request.cooldown_seconds,
        max_per_hour: request.max_per_hour,
        max_iterations: request.max_iterations,
        trigger: request.trigger_filter.map(Into::into),
        status,
        from_seq: 0,
    };
    Ok(Json(app.system.port::<Automator>().change(&app.system, &whose, change).await?))
}

/// End a rule
#[utoipa::path(delete, path = "/v1/automations/internal/{rule_id}", tag = tag::GATEWAY,
    operation_id = "delete_automation_for", security(("service_token" = [])),
    params(("rule_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn delete(
    State(app): State<App>,
    Service(entered): Service,
    Path(rule_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = number(&rule_id)?;
    let whose = whose(&app, &entered, id)?;
    app.system.port::<Automator>().delete(&app.system, &whose, id).await?;
    Ok(Json(json!({"rule_id": id, "deleted": true})))
}

/// How often a rule was set off, and how often it may be
#[utoipa::path(get, path = "/v1/automations/internal/{rule_id}/count", tag = tag::GATEWAY,
    operation_id = "automation_count", security(("service_token" = [])),
    params(("rule_id" = String, Path)),
    responses((status = 200, body = Object), (status = 401), (status = 404)))]
async fn count(
    State(app): State<App>,
    Service(entered): Service,
    Path(rule_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = number(&rule_id)?;
    let whose = whose(&app, &entered, id)?;
    let rule = app.system.port::<Automator>().rule(&app.system, &whose, id).await?;
    let now = app.system.now_in(types::home_of(whose.tenant));
    Ok(Json(json!({"rule_id": id, "count": rule.trigger_count,
        "trigger_count": rule.trigger_count, "success_count": rule.success_count,
        "fail_count": rule.fail_count, "last_hour": rule.within_hour(now),
        "max_per_hour": rule.limits.max_per_hour,
        "max_iterations": rule.limits.max_iterations})))
}

/// The end that a service tells of; `None` for what begins.
fn end_of(app: &App, user: UserId, request: &TriggeredRequest) -> Result<Option<End>, Refusal> {
    let outcome = match request.status.as_str() {
        "triggered" | "running" => return Ok(None),
        "success" | "completed" => Outcome::Success,
        "failed" | "error" => Outcome::Failed,
        "timeout" | "timed_out" => Outcome::TimedOut,
        _ => {
            let message = "triggered, running, success, completed, failed, error or timeout";
            return Err(Refusal::invalid("status", message));
        }
    };
    let words = [&request.error, &request.error_text].into_iter().find(|text| !text.is_empty());
    Ok(Some(ended(app, user, outcome, words.map_or("", String::as_str))))
}

fn ended(app: &App, user: UserId, outcome: Outcome, error: &str) -> End {
    let keys = app.system.journal().keys();
    let note = Some(error).filter(|text| !text.is_empty());
    let note = note.and_then(|text| seal_note(keys, user, text));
    let failure = Failure { code: REPORTED.to_owned(), note };
    let error = (outcome != Outcome::Success).then_some(failure);
    End { outcome, steps: Vec::new(), error }
}

/// Say that a service carries a rule out, or how that went
///
/// The server does not carry it out then. `triggered` begins an execution of the service's, which
/// counts for the rule's limits and ends by a further report with its `execution_id`, by
/// `execution-result`, or at `timeout_at`, an hour after it began at the latest. A repetition of
/// the same `execution_id` is the same execution.
#[utoipa::path(post, path = "/v1/automations/internal/triggered", tag = tag::GATEWAY,
    operation_id = "automation_triggered", security(("service_token" = [])),
    request_body = TriggeredRequest,
    responses((status = 200, body = Object), (status = 401), (status = 404), (status = 409),
        (status = 422), (status = 429)))]
async fn triggered(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<TriggeredRequest>,
) -> Result<Response<Body>, Problem> {
    let (request, bytes) = (body.value, body.bytes);
    let id = request.rule_id;
    let whose = whose(&app, &entered, id)?;
    if !matches!(request.tenant_id.as_str(), "" | "default")
        && request.tenant_id.parse() != Ok(whose.tenant)
    {
        return Err(Refusal::not_found("automation").into());
    }
    let rule = app.system.port::<Automator>().rule(&app.system, &whose, id).await?;
    let told: Value = serde_json::from_str(&request.event_data)
        .unwrap_or_else(|_| Value::from(request.event_data.as_str()));
    let event = json!({"type": rule.trigger.event_type, "data": told, "attempt": request.attempt,
        "result": request.result});
    let event = seal_event(app.system.journal().keys(), rule.user, &event)?;
    let named = request.execution_id.as_deref().filter(|text| !text.is_empty());
    let address = Automations::address(whose.tenant);
    let status = request.status.clone();
    let view = move |execution| reported(id, execution, &status);
    if let Some(end) = end_of(&app, rule.user, &request)? {
        let named = named.map(|text| execution(whose.tenant, id, text));
        let command = ReportResult { rule: id, user: whose.user, id: named, end, event };
        let operation = "automation_triggered";
        return ask_once!(
            app,
            key,
            entered,
            operation,
            bytes,
            address,
            command,
            StatusCode::OK,
            view
        );
    }
    let unfit = || Refusal::invalid("timeout_at", "is no RFC 3339 time");
    let until = request.timeout_at.as_deref().filter(|text| !text.is_empty());
    let until: Option<Timestamp> =
        until.map(|text| parse_rfc3339(text).ok_or_else(unfit)).transpose()?;
    let parent = request.parent_execution_id.as_deref().and_then(|text| text.parse().ok());
    let ancestors = parent.map(|parent: ExecutionId| chain_of(&app.system, whose.tenant, parent.0));
    let asked = named.map_or_else(|| format!("{:032x}", entered.request.id), str::to_owned);
    let command = SetOff {
        rule: id,
        user: whose.user,
        source: Source::Reported,
        asked,
        event,
        ancestors: ancestors.unwrap_or_default(),
        until,
    };
    let operation = "automation_triggered";
    ask_once!(app, key, entered, operation, bytes, address, command, StatusCode::OK, view)
}

/// What a service is answered that tells of an execution.
fn reported(rule: u64, id: ExecutionId, status: &str) -> Value {
    json!({"rule_id": rule, "execution_id": id, "status": status})
}

/// The id that a service names, or the one that its own id stands for.
fn execution(tenant: TenantId, rule: u64, text: &str) -> ExecutionId {
    let own = || automations::execution::id_of(tenant, rule, Source::Reported, text);
    text.parse().unwrap_or_else(|_| own())
}

/// End the executions whose time is over
#[utoipa::path(post, path = "/v1/automations/internal/check-timeout", tag = tag::GATEWAY,
    operation_id = "automation_check_timeout", security(("service_token" = [])),
    responses((status = 200, body = Object), (status = 401), (status = 403)))]
async fn check_timeout(
    State(app): State<App>,
    Service(entered): Service,
) -> Result<Json<Value>, Problem> {
    let (mut checked, mut timed_out) = (0, 0);
    for tenant in tenants(&app, &entered, None).await? {
        let (all, address) = (app.system.directory::<Automations>(), Automations::address(tenant));
        let origin = app.origin(&entered.caller, entered.request);
        match all.ask(&address, CheckTimeouts {}, origin).await {
            Ok(ended) => (checked, timed_out) = (checked + 1, timed_out + ended),
            Err(refusal) if refusal.is_erased() => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(Json(json!({"checked": checked, "timed_out": timed_out})))
}

/// Say how an execution went that the service carries out
///
/// The first of the rule's that has not ended; where there is none, one that was not told of.
#[utoipa::path(post, path = "/v1/automations/internal/{rule_id}/execution-result",
    tag = tag::GATEWAY, operation_id = "automation_result", security(("service_token" = [])),
    params(("rule_id" = String, Path)), request_body = ExecutionResultRequest,
    responses((status = 200, body = Object), (status = 401), (status = 404), (status = 422)))]
async fn result(
    State(app): State<App>,
    Service(entered): Service,
    Path(rule_id): Path<String>,
    key: Key,
    body: JsonBody<ExecutionResultRequest>,
) -> Result<Response<Body>, Problem> {
    let id = number(&rule_id)?;
    let whose = whose(&app, &entered, id)?;
    let rule = app.system.port::<Automator>().rule(&app.system, &whose, id).await?;
    let ExecutionResultRequest { success, error } = body.value;
    let outcome = if success { Outcome::Success } else { Outcome::Failed };
    let end = ended(&app, rule.user, outcome, &error);
    let event = seal_event(app.system.journal().keys(), rule.user, &json!({"type": "reported"}))?;
    let command = ReportResult { rule: id, user: whose.user, id: None, end, event };
    let (address, bytes) = (Automations::address(whose.tenant), body.bytes);
    let operation = format!("automation_result/{id}");
    let view = move |execution| reported(id, execution, outcome.name());
    ask_once!(app, key, entered, &operation, bytes, address, command, StatusCode::OK, view)
}
