//! The app `automations`, which is built in: rules made and managed by calls.
//!
//! | function | params | data |
//! | --- | --- | --- |
//! | `create_automation` | see below | `{rule_id, rule}` |
//! | `pause_automation` | `rule_id` | `{rule_id, status}` |
//! | `resume_automation` | `rule_id` | `{rule_id, status, trigger_count_reset}` |
//! | `run_automation` | `rule_id`, `data` | `{rule_id, execution_id, status}` |
//! | `delete_automation` | `rule_id` | `{rule_id, deleted}` |
//! | `list_automations` | | `{items, total}` |
//!
//! One is made of `event_type`, `action_description`, `schedule`, `timezone`, `cooldown_seconds`,
//! `max_per_hour`, `max_iterations`, `action {app_id, tool, args}` or a list `actions`, and
//! `notify_mode`; all may be left out but what is to be done.
//!
//! Each is also known without `_automation` and `_automations`. Without an `action` the description
//! is the message.

use std::sync::Arc;

use extensions::ir::ActionType;
use extensions::{BuiltIn, BuiltInCall, CallAnswer};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use supervision::{Class, Refusal};

use crate::automations::Automations;
use crate::automator::Automator;
use crate::rule::{ActionStep, Limits, Maker, NotifyMode};
use crate::schedule::DEFAULT_ZONE;
use crate::service::{Draft, Whose, set_off_answer};
use crate::trigger::{MANUAL, Trigger};

/// The app's id.
pub const APP: &str = "automations";
/// What schedules are called that name no event.
const SCHEDULE: &str = "schedule";

/// The app.
pub struct AutomationsApp;

#[derive(Deserialize)]
struct CreateParams {
    #[serde(default)]
    event_type: Option<String>,
    #[serde(default)]
    action_description: String,
    #[serde(default)]
    schedule: Option<String>,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    cooldown_seconds: Option<i64>,
    #[serde(default)]
    max_per_hour: Option<i64>,
    #[serde(default)]
    max_iterations: Option<i64>,
    #[serde(default)]
    action: Option<ActionStep>,
    #[serde(default)]
    actions: Vec<ActionStep>,
    #[serde(default)]
    notify_mode: Option<NotifyMode>,
}

#[derive(Deserialize)]
struct RuleParams {
    rule_id: u64,
    #[serde(default)]
    data: Value,
}

/// The function by its short name.
fn short(function: &str) -> &str {
    let without = |end: &str| function.strip_suffix(end);
    without("_automations").or_else(|| without("_automation")).unwrap_or(function)
}

impl BuiltIn for AutomationsApp {
    fn id(&self) -> &'static str {
        APP
    }

    fn action_type(&self, function: &str) -> Option<ActionType> {
        match short(function) {
            "list" => Some(ActionType::Read),
            "create" | "pause" | "resume" | "run" => Some(ActionType::Write),
            "delete" => Some(ActionType::Destructive),
            _ => None,
        }
    }

    fn call<'a>(&'a self, call: BuiltInCall<'a>) -> BoxFuture<'a, Result<CallAnswer, Refusal>> {
        Box::pin(async move {
            match carry_out(&call).await {
                Ok(answer) => Ok(answer),
                Err(refusal) if refusal.class.may_pass() => Err(refusal),
                Err(refusal) => Ok(refused(&refusal)),
            }
        })
    }
}

/// What is wrong with a call is its answer, with what else is known of it.
fn refused(refusal: &Refusal) -> CallAnswer {
    let facts = refusal.facts.as_deref().and_then(|facts| serde_json::from_str(facts).ok());
    let data = facts.unwrap_or(Value::Null);
    CallAnswer { data, ..CallAnswer::error(&refusal.code, refusal.message.clone()) }
}

fn params<T: serde::de::DeserializeOwned>(call: &BuiltInCall<'_>) -> Result<T, Refusal> {
    let unfit = |error: serde_json::Error| {
        Refusal::new(Class::Invalid, "params_invalid", error.to_string())
    };
    T::deserialize(call.params).map_err(unfit)
}

async fn carry_out(call: &BuiltInCall<'_>) -> Result<CallAnswer, Refusal> {
    let (system, automator) = (call.system, call.system.port::<Automator>());
    let user = call.user.ok_or_else(|| Refusal::forbidden("this needs a user"))?;
    let origin = call.origin.clone();
    let whose = Whose { tenant: call.tenant, user: Some(user), origin };
    let keys = system.journal().keys();
    match short(call.function) {
        "create" => {
            let draft = draft(params(call)?)?;
            let maker = Maker::of(call.caller);
            let rule = automator.create(system, &whose, maker, draft, call.id.0).await?;
            let data = json!({"rule_id": rule.id, "rule": rule.view(keys)});
            Ok(CallAnswer::success(data).with_summary(format!("Automation {} is on", rule.id)))
        }
        "list" => {
            let rules = automator.list(system, &whose).await?;
            let items: Vec<_> = rules.iter().map(|rule| rule.view(keys)).collect();
            let total = items.len();
            Ok(CallAnswer::success(json!({"items": items, "total": total})))
        }
        other => {
            let RuleParams { rule_id: id, data } = params(call)?;
            of_rule(call, (&automator, &whose), other, (id, data)).await
        }
    }
}

async fn of_rule(
    call: &BuiltInCall<'_>,
    (automator, whose): (&Arc<Automator>, &Whose),
    function: &str,
    (id, data): (u64, Value),
) -> Result<CallAnswer, Refusal> {
    let system = call.system;
    let data = match function {
        "pause" => {
            let status = automator.pause(system, whose, id).await?;
            json!({"rule_id": id, "status": status.name()})
        }
        "resume" => {
            let is_reset = automator.resume(system, whose, id).await?;
            json!({"rule_id": id, "status": "active", "trigger_count_reset": is_reset})
        }
        "run" => {
            let asked = format!("{}", call.id);
            let command = automator.setting_off(system, whose, (id, asked), data).await?;
            let all = system.directory::<Automations>();
            let address = Automations::address(whose.tenant);
            let execution = all.ask(&address, command, whose.origin.clone()).await?;
            set_off_answer(id, execution)
        }
        _ => {
            automator.delete(system, whose, id).await?;
            json!({"rule_id": id, "deleted": true})
        }
    };
    Ok(CallAnswer::success(data))
}

fn draft(params: CreateParams) -> Result<Draft, Refusal> {
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    let schedule = named(params.schedule);
    let otherwise = if schedule.is_some() { SCHEDULE } else { MANUAL };
    let trigger = Trigger {
        event_type: named(params.event_type).unwrap_or_else(|| otherwise.to_owned()),
        schedule,
        timezone: named(params.timezone).unwrap_or_else(|| DEFAULT_ZONE.to_owned()),
    };
    let usual = Limits::default();
    let limits = Limits {
        cooldown_seconds: params.cooldown_seconds.unwrap_or(usual.cooldown_seconds),
        max_per_hour: params.max_per_hour.unwrap_or(usual.max_per_hour),
        max_iterations: params.max_iterations.unwrap_or(usual.max_iterations),
    };
    let actions: Vec<ActionStep> = params.action.into_iter().chain(params.actions).collect();
    let prompt = match params.action_description {
        text if !text.is_empty() => text,
        // What only names a function says what it does by that.
        _ => actions.iter().find_map(|step| step.tool.clone()).unwrap_or_default(),
    };
    let words = (prompt, String::new());
    Draft::new(words, Some(trigger), actions, limits, params.notify_mode.unwrap_or_default())
}
