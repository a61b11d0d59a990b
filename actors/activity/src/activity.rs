//! Reading a tenant's chain as actions.
//!
//! Everything here blocks on the engine, so callers of async code hand it to a blocking thread.
//! Every walk is bounded; a list that reaches its bound says where to go on. A filter is applied
//! to what the records say, so a filter that matches little costs many answers, never a long one.

use data_encoding::HEXLOWER;
use persistence::{Header, ReadError, Record, VerifyError};
use supervision::{Class, Refusal, System};
use types::{RequestId, TenantId, UserId, home_of, rfc3339};

use crate::audit::AuditNote;
use crate::cursor::ChainCursor;
use crate::describe::{ActionItem, ActionStatus, ActionType, Describers};
use crate::export::ExportPlaces;
use crate::view::{Action, ActionDetail, ActionPage, Verification, user_of};
use crate::walk::{Between, Down};

/// What stands in a label between who acts and for whom.
pub(crate) const FOR: &str = " for ";
/// What the labels of services begin with.
const SERVICE: &str = "service";
/// How many actions a page has when not told.
pub const PER_PAGE_DEFAULT: usize = 50;
/// The most actions a page may have.
pub const PER_PAGE_MAX: usize = 200;
/// How many records one list looks at.
pub const LIST_RECORDS_MAX: usize = 5_000;
/// Up to this many records a list goes on past its page to tell the total.
pub const COUNTED_RECORDS_MAX: usize = 1_000;
/// How many records the search for one request looks at.
pub const GET_RECORDS_MAX: usize = 20_000;
/// The most actions of one request that are shown.
pub const GET_STEPS_MAX: usize = 2_000;
/// How many records one step of a walk reads.
const STEP_RECORDS: usize = 256;
/// A request's records are looked for from this long before its id was made, in milliseconds:
/// ids and turns may read different clocks.
const BEFORE_REQUEST_MS: i64 = 5_000;
/// And up to this long after it, in milliseconds.
const AFTER_REQUEST_MS: i64 = 600_000;

/// Which actions are wanted, and which part of them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this app.
    pub app_id: Option<String>,
    /// Of this type.
    pub action_type: Option<ActionType>,
    /// That ended so.
    pub status: Option<ActionStatus>,
    /// Of this function, or command.
    pub tool_name: Option<String>,
    /// That this user asked for, or that was done for them.
    pub user: Option<UserId>,
    /// Of this time.
    pub between: Between,
    /// Whose tool, app, command, event, trace id or error holds this, whatever the case.
    pub search: Option<String>,
    /// The page's number, from 1. With a cursor it is only shown.
    pub page: Option<usize>,
    /// How many actions a page has: [`PER_PAGE_DEFAULT`], at most [`PER_PAGE_MAX`].
    pub per_page: Option<usize>,
    /// Where the last page ended.
    pub cursor: Option<ChainCursor>,
}

impl Filter {
    /// Whether a record may hold what is wanted, by its header alone.
    pub(crate) fn takes_record(&self, header: &Header) -> bool {
        let user = self.user.map(|user| user.to_string());
        self.between.holds(header.time_ms)
            && user.is_none_or(|user| user_of(&header.caller) == Some(user.as_str()))
    }

    /// Whether this is wanted of a record that [`Filter::takes_record`] has taken. `search` is
    /// lowercase.
    pub(crate) fn takes(&self, action: &Action, search: Option<&str>) -> bool {
        let (app, tool) = (self.app_id.as_ref(), self.tool_name.as_ref());
        app.is_none_or(|app| action.app_id.as_ref() == Some(app))
            && self.action_type.is_none_or(|wanted| action.action_type == wanted)
            && self.status.is_none_or(|wanted| action.status == wanted)
            && tool.is_none_or(|tool| [&action.tool_name, &action.command].contains(&tool))
            && search.is_none_or(|search| holds(action, search))
    }

    /// What is searched for, in lowercase.
    pub(crate) fn needle(&self) -> Option<String> {
        let search = self.search.as_ref().filter(|text| !text.is_empty());
        search.map(|text| text.to_lowercase())
    }
}

/// Whether a text of the action holds `search`, which is lowercase.
fn holds(action: &Action, search: &str) -> bool {
    let optional = [action.app_id.as_deref(), action.error.as_deref()];
    let texts = [&*action.tool_name, &action.command, &action.event, &action.trace_id];
    let mut all = texts.into_iter().chain(optional.into_iter().flatten());
    all.any(|text| text.to_lowercase().contains(search))
}

/// Whether `label` is `wanted` or stands below it: `agent` takes `agent/agt_…`, but never a part
/// of an id. Who acts for somebody is in both names: `service for user/…` is `service` and
/// `user/…`.
pub(crate) fn is_caller(label: &str, wanted: &str) -> bool {
    label.split(FOR).any(|label| {
        let rest = label.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || wanted.ends_with('/'))
    })
}

/// Whose actions are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// Everybody's.
    All,
    /// Those of one caller, and those that others did for it: its label in records, or the
    /// label's part before a slash.
    Caller(&'a str),
    /// The same, and those of services that acted for nobody.
    CallerAndServices(&'a str),
}

impl<'a> From<Option<&'a str>> for Whose<'a> {
    fn from(caller: Option<&'a str>) -> Self {
        caller.map_or(Self::All, Self::Caller)
    }
}

impl Whose<'_> {
    pub(crate) fn takes(self, label: &str) -> bool {
        match self {
            Self::All => true,
            Self::Caller(wanted) => is_caller(label, wanted),
            Self::CallerAndServices(wanted) => {
                is_caller(label, wanted) || !label.contains(FOR) && is_caller(label, SERVICE)
            }
        }
    }
}

/// Reads chains as actions.
#[derive(Clone, Default)]
pub struct Activity {
    describers: Describers,
    exports: ExportPlaces,
}

impl Activity {
    /// With the describers of all kinds.
    pub fn new(describers: Describers) -> Self {
        Self { describers, exports: ExportPlaces::default() }
    }

    /// The places of those who export.
    pub(crate) fn exports(&self) -> &ExportPlaces {
        &self.exports
    }

    /// The actions of `tenant`, newest first. Looks at [`LIST_RECORDS_MAX`] records.
    /// `journal_unreadable` when the engine fails.
    pub fn list<'a>(
        &self,
        system: &System,
        tenant: TenantId,
        whose: impl Into<Whose<'a>>,
        filter: &Filter,
    ) -> Result<ActionPage, Refusal> {
        let whose = whose.into();
        let mut walk = Walk::begin(filter);
        let mut down = Down::begin(system, tenant, filter.between, filter.cursor)?;
        down.walk(system, |record| {
            let header = &record.header;
            let wanted = whose.takes(&header.caller) && filter.takes_record(header);
            let actions = if wanted { self.actions(system, record) } else { Vec::new() };
            walk.take(header.chain_seq, actions);
            walk.goes_on()
        })?;
        Ok(walk.finish(down.rest()))
    }

    /// All actions of the request that `trace_id` names.
    /// 404 when there are none in this tenant's chain, from five seconds before to ten minutes
    /// after the request's id was made, within [`GET_RECORDS_MAX`] records.
    pub fn get<'a>(
        &self,
        system: &System,
        tenant: TenantId,
        whose: impl Into<Whose<'a>>,
        trace_id: &str,
    ) -> Result<ActionDetail, Refusal> {
        let whose = whose.into();
        let unknown = || Refusal::not_found("action");
        let request = trace_id.split_once('.').map_or(trace_id, |(request, _)| request);
        let request: RequestId = request.parse().map_err(|_| unknown())?;
        let (mut steps, mut truncated) = (Vec::new(), false);
        self.each_of_request(system, tenant, request, |record| {
            if whose.takes(&record.header.caller) {
                steps.extend(self.actions(system, record));
            }
            truncated = steps.len() > GET_STEPS_MAX;
            !truncated
        })?;
        steps.truncate(GET_STEPS_MAX);
        let of_batch = |action: &&Action| trace_id.contains('.') && action.trace_id == trace_id;
        let asked = steps.iter().find(of_batch).or(steps.first());
        let action = asked.cloned().ok_or_else(unknown)?;
        Ok(ActionDetail { action, steps, truncated })
    }

    /// Verifies the whole chain of `tenant`: a walk over all its records.
    /// `journal_unreadable` when the engine fails, which says nothing about the chain.
    pub fn verify(&self, system: &System, tenant: TenantId) -> Result<Verification, Refusal> {
        let home = home_of(tenant);
        let checked_at = rfc3339(system.clock().now());
        let error = match system.journal().verify_chain(home) {
            Ok(report) => {
                return Ok(Verification {
                    verified: true,
                    records: report.records,
                    head: HEXLOWER.encode(&report.link),
                    root: HEXLOWER.encode(&report.root),
                    checked_at,
                    error: None,
                });
            }
            Err(VerifyError::Read(ReadError::Engine(error))) => {
                return Err(unreadable(ReadError::Engine(error)));
            }
            Err(error) => error,
        };
        tracing::error!(%tenant, %error, "a chain does not verify");
        let head = system.journal().chain_head(home).unwrap_or_default();
        Ok(Verification {
            verified: false,
            records: head.chain_seq,
            head: HEXLOWER.encode(&head.link),
            root: HEXLOWER.encode(&head.root()),
            checked_at,
            error: Some(in_full(&error)),
        })
    }

    /// Calls `found` with each record of the request, oldest first, while it says to go on.
    fn each_of_request(
        &self,
        system: &System,
        tenant: TenantId,
        request: RequestId,
        mut found: impl FnMut(&Record) -> bool,
    ) -> Result<(), Refusal> {
        let (journal, home) = (system.journal(), home_of(tenant));
        // The first 48 bits of a UUIDv7 are its time in milliseconds (RFC 9562 section 5.7).
        let made_ms = (request.0 >> 80) as i64;
        let from_ms = made_ms - BEFORE_REQUEST_MS;
        let mut next = journal.chain_seq_near(home, from_ms).map_err(unreadable)?;
        let mut looked_at = 0;
        while looked_at < GET_RECORDS_MAX {
            let read = journal.read_chain(home, next, false, STEP_RECORDS);
            let records = read.map_err(unreadable)?;
            let Some(last) = records.last() else { break };
            next = last.header.chain_seq + 1;
            for record in &records {
                looked_at += 1;
                let is_late = record.header.time_ms > made_ms + AFTER_REQUEST_MS;
                if is_late || record.header.request.id == request.0 && !found(record) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The actions that a record stands for.
    pub(crate) fn actions(&self, system: &System, record: &Record) -> Vec<Action> {
        let items = self.items(system, record);
        let of_batch = items.len() > 1;
        items.into_iter().map(|item| Action::of(record, item, of_batch)).collect()
    }

    /// What a record says of each of them.
    pub(crate) fn items(&self, system: &System, record: &Record) -> Vec<ActionItem> {
        let wants_payload = self.describers.wants_payload(&record.header);
        let payload = wants_payload.then(|| system.open_record(record)).flatten();
        self.describers.describe(&record.header, payload.as_deref())
    }

    /// What a service has noted in a record.
    pub(crate) fn note(&self, system: &System, record: &Record) -> Option<AuditNote> {
        let describe = self.describers.note(&record.header)?;
        let header = &record.header;
        describe(&header.event, header.event_version, &system.open_record(record)?)
    }
}

/// How far one list has come.
struct Walk<'a> {
    filter: &'a Filter,
    search: Option<String>,
    /// Wanted actions that the page begins behind.
    offset: usize,
    per_page: usize,
    items: Vec<Action>,
    /// Wanted actions met so far, whether given or not.
    met: usize,
    looked_at: usize,
    /// Where the list goes on once the page is full.
    full_at: Option<ChainCursor>,
}

impl<'a> Walk<'a> {
    fn begin(filter: &'a Filter) -> Self {
        let per_page = filter.per_page.unwrap_or(PER_PAGE_DEFAULT).clamp(1, PER_PAGE_MAX);
        let pages_before = filter.page.unwrap_or(1).saturating_sub(1);
        let offset =
            if filter.cursor.is_some() { 0 } else { pages_before.saturating_mul(per_page) };
        Self {
            filter,
            search: filter.needle(),
            offset,
            per_page,
            items: Vec::new(),
            met: 0,
            looked_at: 0,
            full_at: None,
        }
    }

    fn goes_on(&self) -> bool {
        // A list that began in the middle cannot tell the total, so it need not count.
        let is_done = self.full_at.is_some()
            && (self.filter.cursor.is_some() || self.looked_at >= COUNTED_RECORDS_MAX);
        !is_done && self.looked_at < LIST_RECORDS_MAX
    }

    fn take(&mut self, chain_seq: u64, actions: Vec<Action>) {
        self.looked_at += 1;
        let resumed = self.filter.cursor.filter(|cursor| cursor.chain_seq == chain_seq);
        let given_before = resumed.map_or(0, |cursor| cursor.given);
        let takes = |action: &Action| self.filter.takes(action, self.search.as_deref());
        let wanted: Vec<_> = actions.into_iter().filter(takes).collect();
        for (given, action) in (0..).zip(wanted) {
            if given < given_before {
                continue;
            }
            self.met += 1;
            if self.items.len() == self.per_page {
                self.full_at.get_or_insert(ChainCursor { chain_seq, given });
            } else if self.met > self.offset {
                self.items.push(action);
            }
        }
    }

    /// The page; `unread` is where the newest record is that was not looked at.
    fn finish(self, unread: Option<ChainCursor>) -> ActionPage {
        let counted = unread.is_none() && self.filter.cursor.is_none();
        ActionPage {
            items: self.items,
            total: counted.then_some(self.met as u64),
            page: self.filter.page.unwrap_or(1).max(1),
            per_page: self.per_page,
            next_cursor: self.full_at.or(unread).map(|cursor| cursor.to_string()),
        }
    }
}

pub(crate) fn unreadable(error: ReadError) -> Refusal {
    tracing::error!(error = in_full(&error), "a chain could not be read");
    let message = "the journal could not be read; it was noted";
    Refusal::new(Class::Crashed, "journal_unreadable", message)
}

/// An error and what is behind it, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_for_somebody_is_found_under_both_names() {
        let label = "service/notes for user/imp_u_1";
        for wanted in ["service", "service/notes", "user/imp_u_1", "user"] {
            assert!(Whose::Caller(wanted).takes(label), "{wanted}");
        }
        for wanted in ["notes", "user/imp_u_2", "imp_u_1", "service/note"] {
            assert!(!Whose::Caller(wanted).takes(label), "{wanted}");
        }
        assert!(Whose::from(None).takes(label));
    }

    #[test]
    fn what_services_do_for_nobody_is_the_owners_to_see() {
        let owner = Whose::CallerAndServices("user/imp_u_1");
        for label in ["user/imp_u_1", "service", "service/notes", "service for user/imp_u_1"] {
            assert!(owner.takes(label), "{label}");
        }
        for label in ["user/imp_u_2", "service/notes for user/imp_u_2", "system", "agent/agt_1"] {
            assert!(!owner.takes(label), "{label}");
        }
    }
}
