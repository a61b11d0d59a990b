//! What the records of automations tell their users, and what they mean as actions.

use activity::feed::{Audience, Source, Telling};
use activity::{ActionItem, ActionStatus, ActionType};
use serde_json::{Value, json};
use supervision::Event as _;
use types::UserId;

use crate::app::APP;
use crate::automations::{AutomationsEvent, Stop};
use crate::execution::Outcome;

/// What an execution is called among the actions.
const EXECUTED: &str = "execute";

fn telling(name: &'static str, user: UserId, data: Value) -> Vec<Telling> {
    vec![Telling::new(name, Audience::User(user), data).of_family("automations:read")]
}

/// Tells what an event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = AutomationsEvent::decode(&header.event, header.event_version, source.payload);
    match event {
        Ok(AutomationsEvent::RuleCreated(it)) => {
            let data = json!({"rule_id": it.id, "event_type": it.trigger.event_type,
                "schedule": it.trigger.schedule});
            telling("automation.created", it.user, data)
        }
        Ok(AutomationsEvent::RuleChanged(it)) => {
            telling("automation.changed", it.user, json!({"rule_id": it.id}))
        }
        Ok(AutomationsEvent::RuleStopped(it)) => {
            let (name, why) = match it.why {
                Stop::Asked => ("automation.paused", "asked"),
                Stop::WornOut => ("automation.paused", "max_iterations"),
                Stop::Failed => ("automation.error", "failures"),
            };
            telling(name, it.user, json!({"rule_id": it.id, "reason": why}))
        }
        Ok(AutomationsEvent::RuleResumed(it)) => {
            let data = json!({"rule_id": it.id, "trigger_count_reset": it.is_count_reset});
            telling("automation.resumed", it.user, data)
        }
        Ok(AutomationsEvent::RuleDeleted(it)) => {
            telling("automation.deleted", it.user, json!({"rule_id": it.id}))
        }
        Ok(AutomationsEvent::ExecutionEnded(it)) if it.is_told => {
            let error_code = it.end.error.as_ref().map(|error| &error.code);
            let data = json!({"rule_id": it.rule, "execution_id": it.id,
                "status": it.end.outcome.name(), "error_code": error_code,
                "steps": it.end.steps.len(), "charged": it.end.charged()});
            telling("automation.finished", it.user, data)
        }
        _ => Vec::new(),
    }
}

/// Reads the action out of an event: an execution that ended. Its calls are actions of their own,
/// and cost what they cost.
pub fn describe(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let Ok(AutomationsEvent::ExecutionEnded(ended)) =
        AutomationsEvent::decode(event, version, bytes)
    else {
        return Vec::new();
    };
    let is_success = ended.end.outcome == Outcome::Success;
    vec![ActionItem {
        app_id: Some(APP.to_owned()),
        tool_name: EXECUTED.to_owned(),
        action_type: ActionType::System,
        status: if is_success { ActionStatus::Success } else { ActionStatus::Error },
        price: 0,
        error: ended.end.error.map(|error| error.code),
        index: 0,
        confirmation: None,
    }]
}
