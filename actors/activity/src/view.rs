//! Actions as callers see them: exactly these keys.

use data_encoding::HEXLOWER;
use persistence::Record;
use serde::Serialize;
use supervision::{Timestamp, TraceParent};
use types::{RequestId, TenantId, rfc3339};
use utoipa::ToSchema;

use crate::activity::FOR;
use crate::describe::{ActionItem, ActionStatus, ActionType};

/// What a user's caller label begins with.
const USER_LABEL: &str = "user/";

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Action {
    /// The request it was part of, and behind a dot its place in a batch.
    pub trace_id: String,
    /// The number of its record in the tenant's chain.
    pub chain_seq: u64,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The user who asked, or for whom a service did.
    pub user_id: Option<String>,
    /// Who asked: `user/…`, `agent/…`, `api_key/…`, `service/…`, `service/… for user/…` or
    /// `system`.
    pub caller: String,
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
    /// `user_accepted` for what a person has confirmed, `asked` for the question itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<String>,
    /// The command that the entity was given.
    pub command: String,
    /// The event that it recorded.
    pub event: String,
    /// The entity, `kind/id`.
    pub stream: String,
    /// When, RFC 3339 in UTC.
    pub created_at: String,
    /// The caller's place in a distributed trace, as it was sent (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The record's link in the chain, hexadecimal SHA-256.
    pub link: String,
}

/// The text of a `traceparent` header (W3C Trace Context, section 3.2.2), marked as sampled.
fn traceparent(at: TraceParent) -> String {
    format!("00-{:032x}-{:016x}-01", at.trace, at.parent)
}

impl Action {
    /// The action that an item of a record is; `of_batch` if the record has several.
    pub(crate) fn of(record: &Record, item: ActionItem, of_batch: bool) -> Self {
        let header = &record.header;
        let request = RequestId(header.request.id);
        let trace_id =
            if of_batch { format!("{request}.{}", item.index) } else { request.to_string() };
        Self {
            trace_id,
            chain_seq: header.chain_seq,
            tenant_id: TenantId(header.home.0),
            user_id: user_of(&header.caller).map(str::to_owned),
            caller: header.caller.to_string(),
            app_id: item.app_id,
            tool_name: item.tool_name,
            action_type: item.action_type,
            status: item.status,
            price: item.price,
            error: item.error,
            confirmation: item.confirmation,
            command: header.command.to_string(),
            event: header.event.to_string(),
            stream: header.stream.to_string(),
            created_at: rfc3339(Timestamp(header.time_ms)),
            traceparent: header.request.trace.map(traceparent),
            link: HEXLOWER.encode(&record.link),
        }
    }
}

/// The user in a caller's label.
pub(crate) fn user_of(label: &str) -> Option<&str> {
    label.split(FOR).find_map(|label| label.strip_prefix(USER_LABEL))
}

/// Part of a list of actions, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActionPage {
    /// The actions.
    pub items: Vec<Action>,
    /// How many there are in all, where counting them was cheap; `null` where it was not.
    pub total: Option<u64>,
    /// The page's number, from 1.
    pub page: usize,
    /// How many actions a page has.
    pub per_page: usize,
    /// Where to go on; `null` at the end of the chain. A page may be short, even empty, and still
    /// have one: only so many records are looked at for one answer.
    pub next_cursor: Option<String>,
}

/// All actions of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActionDetail {
    /// The action of a batch that the trace id names, else the request's first.
    #[serde(flatten)]
    pub action: Action,
    /// All actions of the request, in the order they were recorded.
    pub steps: Vec<Action>,
    /// Whether there were more than are listed.
    pub truncated: bool,
}

/// What the verification of a tenant's chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verification {
    /// Whether every record is there and links to the one before it.
    pub verified: bool,
    /// How many records the chain has.
    pub records: u64,
    /// The last link, hexadecimal SHA-256.
    pub head: String,
    /// The Merkle root over all links (RFC 9162), hexadecimal SHA-256.
    pub root: String,
    /// When this was found, RFC 3339 in UTC.
    pub checked_at: String,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
