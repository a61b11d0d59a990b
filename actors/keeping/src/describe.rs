//! What reports and questions to a model mean as actions. Everything else of this crate is told by
//! its header.

use activity::{ActionItem, ActionStatus, ActionType};
use supervision::Event as _;
use types::AppId;

use crate::completion::AiCompletionEvent;
use crate::report::{ReportEvent, Reported, Sort};

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
