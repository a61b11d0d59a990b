//! What reports and questions to a model mean as actions. Everything else of this crate is told by
//! its header.

use activity::{ActionItem, ActionStatus, ActionType, AuditNote};
use serde_json::{Map, Value};
use supervision::Event as _;
use types::AppId;

use crate::completion::AiCompletionEvent;
use crate::report::{Details, ReportEvent, Reported, Sort};

/// What a question to a model is called, as in a step.
const COMPLETE: &str = "ai.complete";

fn item(app: Option<AppId>, tool_name: String, action_type: ActionType) -> ActionItem {
    ActionItem {
        app_id: app.map(|app| app.to_string()),
        tool_name,
        action_type,
        status: ActionStatus::Success,
        price: 0,
        error: None,
        index: 0,
        confirmation: None,
    }
}

/// Reads the action out of a report.
pub fn describe_report(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let Ok(ReportEvent::Reported(reported)) = ReportEvent::decode(event, version, bytes) else {
        return Vec::new();
    };
    let Reported { app, action, sort, is_success, .. } = reported;
    let action_type = match sort {
        Sort::Read => ActionType::Read,
        Sort::Write => ActionType::Write,
        Sort::Destructive => ActionType::Destructive,
        Sort::System => ActionType::System,
    };
    let (status, error) = match is_success {
        true => (ActionStatus::Success, None),
        false => (ActionStatus::Error, Some("reported_failure".to_owned())),
    };
    vec![ActionItem { status, error, ..item(app, action, action_type) }]
}

/// What of an audit log's entry a report holds in clear. What is about a user is sealed under that
/// user's key and not shown here.
pub fn note_report(event: &str, version: u16, bytes: &[u8]) -> Option<AuditNote> {
    let ReportEvent::Reported(reported) = ReportEvent::decode(event, version, bytes).ok()?;
    let facts = match &reported.details {
        Details::Open(facts) => facts.read::<Map<String, Value>>().unwrap_or_default(),
        Details::OfUser(_) => Map::new(),
    };
    let text = |name: &str| facts.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(AuditNote {
        actor_id: text("actor_id").unwrap_or_default(),
        actor_type: reported.actor_type,
        action: reported.action,
        target_type: reported.target_type,
        target_id: text("target_id").unwrap_or_default(),
        source: reported.source,
        ip_address: text("ip_address"),
        changes: facts.get("changes").cloned(),
        metadata: facts.get("metadata").cloned(),
    })
}

/// Reads the action out of a question's event; the question itself is told by its header.
pub fn describe_completion(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let of = |app| item(Some(app), COMPLETE.to_owned(), ActionType::Read);
    match AiCompletionEvent::decode(event, version, bytes) {
        Ok(AiCompletionEvent::Answered(it)) => vec![of(it.app)],
        Ok(AiCompletionEvent::Failed(it)) => {
            let (status, error) = (ActionStatus::Error, Some(it.code));
            vec![ActionItem { status, error, ..of(it.app) }]
        }
        Ok(AiCompletionEvent::Asked(_)) | Err(_) => Vec::new(),
    }
}
