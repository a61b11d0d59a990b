//! A tenant's chain as an audit log: one entry a record, with where it stands in the chain.
//!
//! An entry says what the record's header says, and of calls which app was called and how it went.
//! Records in which a service has noted what happened elsewhere tell who did what to what
//! themselves, through [`Describers::with_note`](crate::Describers::with_note).
//!
//! The log is tamper-evident, not tamper-proof: [`Activity::verify`] and the Merkle root say
//! whether every entry is the one that was written.

use data_encoding::HEXLOWER;
use persistence::Record;
use serde::Serialize;
use supervision::{Refusal, System, Timestamp};
use types::{RequestId, TenantId, UserId, rfc3339, spellings};
use utoipa::ToSchema;

use crate::activity::{Activity, FOR, LIST_RECORDS_MAX, PER_PAGE_DEFAULT, PER_PAGE_MAX};
use crate::cursor::ChainCursor;
use crate::describe::ActionStatus;
use crate::view::user_of;
use crate::walk::{Between, Down};

/// What a service has noted of what happened elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditNote {
    /// Who did it.
    pub actor_id: String,
    /// What they are: `user`, `agent`, ….
    pub actor_type: String,
    /// What was done.
    pub action: String,
    /// The sort of thing that it was done to.
    pub target_type: String,
    /// The thing.
    pub target_id: String,
    /// How it was done: `api`, ….
    pub source: String,
    /// From where.
    pub ip_address: Option<String>,
    /// What became different.
    pub changes: Option<serde_json::Value>,
    /// Whatever else was noted.
    pub metadata: Option<serde_json::Value>,
}

/// Reads the note out of an event: its name, its version, its payload in clear.
pub type DescribeNote = fn(event: &str, version: u16, payload: &[u8]) -> Option<AuditNote>;

/// Which entries are wanted, and which part of them.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Who did it, or for whom: an id in any spelling, or a label such as `service/notes`.
    pub actor: Option<String>,
    /// What was done: `wallet.debited`, all of a sort (`wallet.*`), the command, or the function.
    pub action: Option<String>,
    /// The sort of thing that it was done to.
    pub target_type: Option<String>,
    /// The thing that it was done to, in any spelling.
    pub target_id: Option<String>,
    /// `api`, `service` or `system`, or what a note says.
    pub source: Option<String>,
    /// How it ended.
    pub status: Option<ActionStatus>,
    /// Of this app.
    pub app_id: Option<String>,
    /// Of this request.
    pub trace_id: Option<String>,
    /// Of this time.
    pub between: Between,
    /// How many entries to leave out first. With a cursor it says nothing.
    pub offset: usize,
    /// How many entries a page has: [`PER_PAGE_DEFAULT`], at most [`PER_PAGE_MAX`].
    pub per_page: Option<usize>,
    /// Where the last page ended.
    pub cursor: Option<ChainCursor>,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AuditEntry {
    /// `audit_` and the entry's number in the tenant's chain.
    pub id: String,
    /// When, RFC 3339 in UTC.
    pub created_at: String,
    /// The tenant.
    pub tenant_id: TenantId,
    /// Who did it, as records show it: `user/…`, `service/… for user/…`, `system`, ….
    pub actor: String,
    /// The id of who did it.
    pub actor_id: String,
    /// `user`, `agent`, `api_key`, `service` or `system`.
    pub actor_type: String,
    /// The user who did it, or for whom a service did.
    pub user_id: Option<String>,
    /// What was done: the sort of thing and what happened to it, `wallet.debited`.
    pub action: String,
    /// The command, or the function that was called.
    pub tool_name: String,
    /// How it ended: `error` when one of its calls failed.
    pub status: ActionStatus,
    /// The sort of thing that it was done to.
    pub target_type: String,
    /// The thing.
    pub target_id: String,
    /// The app that was called.
    pub app_id: Option<String>,
    /// How many calls it was; 1 for whatever is none.
    pub calls: usize,
    /// What it cost, in credits.
    pub price: i64,
    /// `api`, `service` or `system`.
    pub source: String,
    /// From where, if a service has noted it. Records of this server hold no addresses.
    pub ip_address: Option<String>,
    /// What became different, if a service has noted it.
    #[schema(value_type = Option<Object>)]
    pub changes: Option<serde_json::Value>,
    /// Whatever else a service has noted.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Value>,
    /// The request.
    pub trace_id: String,
    /// The entry's number in the tenant's chain, from 1.
    pub chain_seq: u64,
    /// Its place among the leaves of the chain's Merkle tree (RFC 9162), from 0.
    pub leaf_index: u64,
    /// Its link in the chain, hexadecimal SHA-256: what the leaf holds.
    pub hash: String,
}

/// Part of an audit log, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub items: Vec<AuditEntry>,
    /// Where to go on; `null` at the end of the log. A page may be short, even empty, and still
    /// have one: only so many records are looked at for one answer.
    pub next_cursor: Option<String>,
}

/// Who acts, in a caller's label: what they are, and their id.
fn actor_of(label: &str) -> (&str, &str) {
    let acting = label.split(FOR).next().unwrap_or(label);
    acting.split_once('/').unwrap_or((acting, acting))
}

/// How something was asked for, as its caller's label tells.
fn source_of(actor_type: &str) -> &'static str {
    match actor_type {
        "system" => "system",
        "service" => "service",
        _ => "api",
    }
}

impl AuditFilter {
    /// What a header alone decides.
    fn takes_record(&self, record: &Record) -> bool {
        let header = &record.header;
        let trace = RequestId(header.request.id).to_string();
        self.between.holds(header.time_ms)
            && self.trace_id.as_ref().is_none_or(|wanted| *wanted == trace)
    }

    fn takes(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.target_type, &entry.target_type)
            && is(&self.source, &entry.source)
            && self.status.is_none_or(|wanted| wanted == entry.status)
            && (self.app_id.is_none() || self.app_id == entry.app_id)
            && self.action.as_ref().is_none_or(|wanted| does(entry, wanted))
            && self.actor.as_ref().is_none_or(|wanted| is_by(entry, wanted))
            && self.target_id.as_ref().is_none_or(|wanted| {
                *wanted == entry.target_id || spellings(wanted).contains(&entry.target_id)
            })
    }
}

fn does(entry: &AuditEntry, wanted: &str) -> bool {
    let all_of = wanted.strip_suffix('*').filter(|start| start.ends_with('.'));
    all_of.is_some_and(|start| entry.action.starts_with(start))
        || [entry.action.as_str(), &entry.tool_name].contains(&wanted)
}

fn is_by(entry: &AuditEntry, wanted: &str) -> bool {
    let is_user = |user: UserId| entry.user_id.as_deref() == Some(user.to_string().as_str());
    entry.actor_id == wanted
        || crate::activity::is_caller(&entry.actor, wanted)
        || wanted.parse().is_ok_and(is_user)
}

impl Activity {
    /// The audit log of `tenant`, newest first. Looks at [`LIST_RECORDS_MAX`] records.
    /// `journal_unreadable` when the engine fails.
    pub fn audit(
        &self,
        system: &System,
        tenant: TenantId,
        filter: &AuditFilter,
    ) -> Result<AuditPage, Refusal> {
        let per_page = filter.per_page.unwrap_or(PER_PAGE_DEFAULT).clamp(1, PER_PAGE_MAX);
        let mut skipped = if filter.cursor.is_some() { 0 } else { filter.offset };
        let (mut items, mut looked_at) = (Vec::new(), 0);
        let mut down = Down::begin(system, tenant, filter.between, filter.cursor)?;
        down.walk(system, |record| {
            looked_at += 1;
            match self.audit_entry(system, record, filter) {
                Some(_) if skipped > 0 => skipped -= 1,
                Some(entry) => items.push(entry),
                None => {}
            }
            items.len() < per_page && looked_at < LIST_RECORDS_MAX
        })?;
        Ok(AuditPage { items, next_cursor: down.rest().map(|cursor| cursor.to_string()) })
    }

    /// The entry that a record is, if it is wanted.
    pub(crate) fn audit_entry(
        &self,
        system: &System,
        record: &Record,
        filter: &AuditFilter,
    ) -> Option<AuditEntry> {
        let entry = || {
            let mut entry = self.entry(system, record);
            if let Some(note) = self.note(system, record) {
                entry.noted(note);
            }
            entry
        };
        filter.takes_record(record).then(entry).filter(|entry| filter.takes(entry))
    }

    fn entry(&self, system: &System, record: &Record) -> AuditEntry {
        let header = &record.header;
        let (actor_type, actor_id) = actor_of(&header.caller);
        let (kind, id) = header.stream.as_str().split_once('/').unwrap_or_default();
        let calls = self.items(system, record);
        let has_failed = calls.iter().any(|call| call.status == ActionStatus::Error);
        let first = calls.first();
        AuditEntry {
            id: format!("audit_{}", header.chain_seq),
            created_at: rfc3339(Timestamp(header.time_ms)),
            tenant_id: TenantId(header.home.0),
            actor: header.caller.to_string(),
            actor_id: actor_id.to_owned(),
            actor_type: actor_type.to_owned(),
            user_id: user_of(&header.caller).map(str::to_owned),
            action: format!("{kind}.{}", header.event),
            tool_name: first.map_or_else(|| header.command.to_string(), |it| it.tool_name.clone()),
            status: if has_failed { ActionStatus::Error } else { ActionStatus::Success },
            target_type: kind.to_owned(),
            target_id: id.to_owned(),
            app_id: first.and_then(|call| call.app_id.clone()),
            calls: calls.len(),
            price: calls.iter().fold(0, |sum, call| sum.saturating_add(call.price)),
            source: source_of(actor_type).to_owned(),
            ip_address: None,
            changes: None,
            metadata: None,
            trace_id: RequestId(header.request.id).to_string(),
            chain_seq: header.chain_seq,
            leaf_index: header.chain_seq.saturating_sub(1),
            hash: HEXLOWER.encode(&record.link),
        }
    }
}

impl AuditEntry {
    /// Shows what a service has noted in place of that it has noted something.
    fn noted(&mut self, note: AuditNote) {
        let AuditNote { actor_id, actor_type, action, target_type, target_id, source, .. } = note;
        // Whoever is sealed in the note is known by the record's caller alone.
        if !actor_id.is_empty() {
            self.user_id = actor_id.parse::<UserId>().ok().map(|user| user.to_string());
            self.actor_id = actor_id;
        }
        (self.actor_type, self.action) = (actor_type, action);
        (self.target_type, self.target_id, self.source) = (target_type, target_id, source);
        (self.ip_address, self.changes, self.metadata) =
            (note.ip_address, note.changes, note.metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acted_and_how_is_in_the_label() {
        for (label, actor, source) in [
            ("user/imp_u_1", ("user", "imp_u_1"), "api"),
            ("api_key/key_1", ("api_key", "key_1"), "api"),
            ("service/notes for user/imp_u_1", ("service", "notes"), "service"),
            ("service", ("service", "service"), "service"),
            ("system", ("system", "system"), "system"),
        ] {
            assert_eq!(actor_of(label), actor);
            assert_eq!(source_of(actor.0), source);
        }
    }
}
