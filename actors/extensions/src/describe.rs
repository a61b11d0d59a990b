//! What the records of an extension session mean as actions: one for each call.

use activity::{ActionItem, ActionStatus, ActionType};
use supervision::Event;

use crate::session::{Action, RanItem, SessionEvent};

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
        action_type: match item.action {
            Action::Read => ActionType::Read,
            Action::Write => ActionType::Write,
            Action::Destructive => ActionType::Destructive,
        },
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
