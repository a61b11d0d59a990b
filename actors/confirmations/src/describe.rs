//! What a card's records mean as actions: what was asked for, and how it was decided. What was
//! done in the end is an action of its own, in whoever's records it was done.

use activity::{ActionItem, ActionStatus, ActionType};
use supervision::Event as _;

use crate::confirmation::ConfirmationEvent;

/// Reads the action out of a card's event; none when its header tells as much.
pub fn describe(event: &str, version: u16, bytes: &[u8]) -> Vec<ActionItem> {
    let opened = match ConfirmationEvent::decode(event, version, bytes) {
        Ok(ConfirmationEvent::Opened(opened)) => opened,
        _ => return Vec::new(),
    };
    let item = ActionItem {
        app_id: opened.subject.app.map(|app| app.to_string()),
        tool_name: opened.subject.function,
        // Nothing is done yet.
        action_type: ActionType::System,
        status: ActionStatus::Success,
        price: 0,
        error: None,
        index: 0,
        confirmation: Some("asked".to_owned()),
    };
    vec![item]
}
