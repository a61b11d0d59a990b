//! What the records of an extension session mean as actions: one for each call. And those of tasks:
//! one for each that ended without a record of the session's.

use activity::{ActionItem, ActionStatus, ActionType};
use supervision::Event;

use crate::session::{Action, RanItem, SessionEvent};
use crate::task::{Ended, State, TasksEvent};

/// Reads the actions out of a session's event; none when it does not decode or tells of none.
pub fn describe(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let (app, items, confirmation) = match SessionEvent::decode(event, version, bytes) {
        Ok(SessionEvent::Ran(ran)) => (ran.scope.app, ran.items, ran.confirmation),
        Ok(SessionEvent::Lost(lost)) => (lost.scope.app, lost.items, None),
        _ => return Vec::new(),
    };
    let item = |item: RanItem| ActionItem {
        app_id: Some(app.to_string()),
        tool_name: item.function,
        action_type: action_type(item.action),
        status: if item.succeeded { ActionStatus::Success } else { ActionStatus::Error },
        price: item.price.saturating_add(item.fee),
        error: item.error_code,
        index: item.index,
        confirmation: confirmation.map(|_| "user_accepted".to_owned()),
    };
    items.into_iter().map(item).collect()
}

impl From<crate::ir::ActionType> for ActionType {
    fn from(action: crate::ir::ActionType) -> Self {
        match action {
            crate::ir::ActionType::Read => Self::Read,
            crate::ir::ActionType::Write => Self::Write,
            crate::ir::ActionType::Destructive => Self::Destructive,
        }
    }
}
fn action_type(action: Action) -> ActionType {
    match action {
        Action::Read => ActionType::Read,
        Action::Write => ActionType::Write,
        Action::Destructive => ActionType::Destructive,
    }
}

/// Reads the action out of a task's event: its end, unless the session has told it as a call.
pub fn describe_tasks(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let Ok(TasksEvent::Ended(ended)) = TasksEvent::decode(event, version, bytes) else {
        return Vec::new();
    };
    let Ended { scope, function, action, end, .. } = ended;
    if end.is_recorded {
        return Vec::new();
    }
    let is_success = end.state == State::Succeeded;
    vec![ActionItem {
        app_id: Some(scope.app.to_string()),
        tool_name: function,
        action_type: action_type(action),
        status: if is_success { ActionStatus::Success } else { ActionStatus::Error },
        price: end.charged,
        error: end.error_code,
        index: 0,
        confirmation: None,
    }]
}
