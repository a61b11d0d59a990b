//! What a record means: the crates that own the kinds register how to read theirs.
//!
//! A kind without a describer, a payload whose key was erased and one that does not open are
//! shown from the header alone: the chain never has a hole because of what a payload says.

use std::collections::HashMap;

use persistence::Header;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::audit::DescribeNote;

/// What an action does to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionType {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It removes, or cannot be undone.
    Destructive,
    /// It is the platform's own business: accounts, wallets, settings.
    System,
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// It did what was asked.
    Success,
    /// It failed, and says why.
    Error,
}

/// One action within a record. A batch of calls is one record with an item for each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionItem {
    /// The app whose function it was.
    pub app_id: Option<String>,
    /// The function, or the command.
    pub tool_name: String,
    /// What it does to data.
    pub action_type: ActionType,
    /// How it ended.
    pub status: ActionStatus,
    /// What it cost, in credits.
    pub price: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// Its place in the batch, from 0.
    pub index: u32,
    /// How a person stood to it: `asked`, or `user_accepted` for what was confirmed.
    pub confirmation: Option<String>,
}

impl ActionItem {
    /// What the header alone tells: the command, done, by the system's rules, for nothing.
    pub fn of_header(header: &Header) -> Self {
        Self {
            app_id: None,
            tool_name: header.command.to_string(),
            action_type: ActionType::System,
            status: ActionStatus::Success,
            price: 0,
            error: None,
            index: 0,
            confirmation: None,
        }
    }
}

/// Reads the actions out of an event: its name, its version, its payload in clear. An event that
/// has nothing of its own to tell, or that does not decode, answers none: then it is shown as
/// [`ActionItem::of_header`] says.
pub type Describe = fn(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem>;

/// How to read the records of each kind.
#[derive(Clone, Default)]
pub struct Describers {
    actions: HashMap<&'static str, Describe>,
    notes: HashMap<&'static str, DescribeNote>,
}

impl Describers {
    /// Says how to read the records of a kind. Of two for one kind the later counts.
    #[must_use]
    pub fn with(mut self, kind: &'static str, describe: Describe) -> Self {
        self.actions.insert(kind, describe);
        self
    }

    /// Says how to read the notes in the records of a kind that services write.
    #[must_use]
    pub fn with_note(mut self, kind: &'static str, describe: DescribeNote) -> Self {
        self.notes.insert(kind, describe);
        self
    }

    /// How to read the note in a record, if its kind has any.
    pub(crate) fn note(&self, header: &Header) -> Option<DescribeNote> {
        self.notes.get(kind(header)).copied()
    }

    /// The actions of a record whose payload in clear is `payload`, if it opens.
    pub(crate) fn describe(&self, header: &Header, payload: Option<&[u8]>) -> Vec<ActionItem> {
        let describe = self.actions.get(kind(header)).zip(payload);
        let items = describe
            .map(|(describe, payload)| describe(&header.event, header.event_version, payload));
        let items = items.filter(|items| !items.is_empty());
        items.unwrap_or_else(|| vec![ActionItem::of_header(header)])
    }

    /// Whether the kind of this record has a describer, so that its payload is worth opening.
    pub(crate) fn wants_payload(&self, header: &Header) -> bool {
        self.actions.contains_key(kind(header))
    }
}

/// The kind of the record's stream, the part before the slash.
fn kind(header: &Header) -> &str {
    header.stream.as_str().split_once('/').map_or("", |(kind, _)| kind)
}
