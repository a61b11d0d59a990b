//! Whole chains as files: the actions or the audit log of a tenant, oldest first, piece by piece.
//!
//! An export is asked for its next piece and reads no more than that: whoever does not take pieces
//! costs nothing, and what a chain holds makes no difference to memory. It ends with the chain's
//! head as it was when it began, so that it can be held against the chain later: an item's `hash`
//! is leaf `leaf_index` of the Merkle tree whose root the head has (RFC 9162).
//!
//! CSV is as RFC 4180 has it, with one row more than there are items: the one whose first cell is
//! `head`. A text that a spreadsheet would take for a formula has a `'` before it.
//!
//! Deliberate limit: a step that finds nothing stops after [`STEP_RECORDS_MAX`] records with an
//! empty piece, so that whoever asks can look whether it should go on.

use std::borrow::Cow;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use persistence::Record;
use persistence::chain::ChainHead;
use serde::{Deserialize, Serialize};
use supervision::{Refusal, System, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{TenantId, home_of, rfc3339};

use crate::activity::{Activity, Filter, Whose, unreadable};
use crate::audit::{AuditEntry, AuditFilter};
use crate::describe::{ActionStatus, ActionType};
use crate::view::Action;
use crate::walk::Between;

/// How many exports may be under way at once.
pub const EXPORTS_MAX: usize = 4;
/// About how many bytes a piece has; the last record read may go beyond.
pub const PIECE_BYTES: usize = 64 * 1024;
/// How many records are read at once.
const READ_RECORDS: usize = 32;
/// How many records one step looks at.
const STEP_RECORDS_MAX: usize = 2_048;
/// When whoever finds no place may try again, in milliseconds.
const RETRY_MS: u64 = 2_000;
/// What a spreadsheet takes a cell for a formula by.
const FORMULA_STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The places of those who export.
#[derive(Clone)]
pub(crate) struct ExportPlaces(Arc<Semaphore>);

impl Default for ExportPlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(EXPORTS_MAX)))
    }
}

/// What an export is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One object: `items`, and behind them `head`.
    #[default]
    Json,
    /// A table with a header.
    Csv,
    /// An object a line; the last one has only `head`.
    Ndjson,
}

/// The head of a chain when an export of it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ExportHead {
    /// The tenant.
    pub tenant_id: TenantId,
    /// How many records the chain had.
    pub records: u64,
    /// Its last link, hexadecimal SHA-256.
    pub link: String,
    /// The Merkle root over all its links (RFC 9162), hexadecimal SHA-256.
    pub root: String,
    /// RFC 3339.
    pub exported_at: String,
}

/// One item of an export.
#[derive(Serialize)]
struct Exported<T> {
    #[serde(flatten)]
    item: T,
    /// Where its record stands in the journal, `shard:position`.
    position: String,
}

/// An action with its place among the leaves.
#[derive(Serialize)]
struct ActionLeaf {
    #[serde(flatten)]
    action: Action,
    leaf_index: u64,
    hash: String,
}

enum What {
    Actions { label: Option<String>, with_services: bool, filter: Filter },
    Audit(AuditFilter),
}

impl What {
    fn between(&self) -> Between {
        match self {
            Self::Actions { filter, .. } => filter.between,
            Self::Audit(filter) => filter.between,
        }
    }
}

/// An export that is under way. It holds a place until it is dropped.
pub struct Export {
    activity: Activity,
    system: Arc<System>,
    what: What,
    format: ExportFormat,
    head: ExportHead,
    next: u64,
    last: u64,
    /// Whether an item was written, so that the next one is set off from it.
    has_items: bool,
    state: State,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Going,
    Ended,
}

impl Activity {
    /// Exports the actions of `tenant` that a filter takes; its pages say nothing. 503 `busy` when
    /// [`EXPORTS_MAX`] exports are under way.
    pub fn export_actions(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        whose: Whose<'_>,
        filter: Filter,
        format: ExportFormat,
    ) -> Result<Export, Refusal> {
        let (label, with_services) = match whose {
            Whose::All => (None, false),
            Whose::Caller(label) => (Some(label.to_owned()), false),
            Whose::CallerAndServices(label) => (Some(label.to_owned()), true),
        };
        self.export(system, tenant, What::Actions { label, with_services, filter }, format)
    }

    /// Exports the audit log of `tenant`, as [`Activity::export_actions`] does actions.
    pub fn export_audit(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        filter: AuditFilter,
        format: ExportFormat,
    ) -> Result<Export, Refusal> {
        self.export(system, tenant, What::Audit(filter), format)
    }

    fn export(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        what: What,
        format: ExportFormat,
    ) -> Result<Export, Refusal> {
        let place = Arc::clone(&self.exports().0).try_acquire_owned();
        let place = place.map_err(|_| Refusal::busy().retry_after(RETRY_MS))?;
        let at = system.journal().chain_head(home_of(tenant)).map_err(unreadable)?;
        let (lowest, highest) = what.between().numbers(system, tenant)?;
        Ok(Export {
            activity: self.clone(),
            system: Arc::clone(system),
            what,
            format,
            head: ExportHead::of(tenant, &at, system.clock().now()),
            next: lowest,
            // What comes while it is written is not part of it.
            last: highest.min(at.chain_seq),
            has_items: false,
            state: State::Begun,
            _place: place,
        })
    }
}

impl ExportHead {
    fn of(tenant: TenantId, head: &ChainHead, now: Timestamp) -> Self {
        Self {
            tenant_id: tenant,
            records: head.chain_seq,
            link: HEXLOWER.encode(&head.link),
            root: HEXLOWER.encode(&head.root()),
            exported_at: rfc3339(now),
        }
    }
}

impl Export {
    /// The next piece, which may be empty; `None` at the end. It blocks on the engine.
    /// `journal_unreadable` when that fails: what was written before is then no whole export.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        let mut piece = Piece::new(self.format);
        match self.state {
            State::Ended => return Ok(None),
            State::Begun => piece.begin(self.columns()),
            State::Going => {}
        }
        self.state = State::Going;
        let mut looked_at = 0;
        while self.next <= self.last && !piece.is_full() && looked_at < STEP_RECORDS_MAX {
            let (journal, home) = (self.system.journal(), home_of(self.head.tenant_id));
            let read = journal.read_chain(home, self.next, false, READ_RECORDS);
            let records = read.map_err(unreadable)?;
            if records.is_empty() {
                self.next = self.last + 1;
            }
            let last = self.last;
            for record in records.iter().take_while(|it| it.header.chain_seq <= last) {
                looked_at += 1;
                self.write(record, &mut piece);
            }
            // What was read beyond the last one ends it, too.
            let read_to = records.last().map_or(self.last, |record| record.header.chain_seq);
            self.next = read_to + 1;
        }
        if self.next > self.last {
            self.state = State::Ended;
            piece.end(&self.head, self.columns());
        }
        piece.into_bytes().map(Some)
    }

    fn columns(&self) -> &'static [&'static str] {
        match self.what {
            What::Actions { .. } => &ACTION_COLUMNS,
            What::Audit(_) => &AUDIT_COLUMNS,
        }
    }

    fn write(&mut self, record: &Record, piece: &mut Piece) {
        let position = record.header.position.to_string();
        let (activity, system) = (&self.activity, &self.system);
        match &self.what {
            What::Actions { label, with_services, filter } => {
                let whose = match (label, with_services) {
                    (None, _) => Whose::All,
                    (Some(label), false) => Whose::Caller(label),
                    (Some(label), true) => Whose::CallerAndServices(label),
                };
                let header = &record.header;
                if !whose.takes(&header.caller) || !filter.takes_record(header) {
                    return;
                }
                let needle = filter.needle();
                for action in activity.actions(system, record) {
                    if filter.takes(&action, needle.as_deref()) {
                        let leaf_index = action.chain_seq.saturating_sub(1);
                        let hash = action.link.clone();
                        let item = ActionLeaf { action, leaf_index, hash };
                        piece.item(&Exported { item, position: position.clone() }, self.has_items);
                        self.has_items = true;
                    }
                }
            }
            What::Audit(filter) => {
                if let Some(item) = activity.audit_entry(system, record, filter) {
                    piece.item(&Exported { item, position }, self.has_items);
                    self.has_items = true;
                }
            }
        }
    }
}

/// What is written of an export at once.
enum Piece {
    Csv { writer: Box<csv::Writer<Vec<u8>>>, bytes: usize, failed: bool },
    Text { bytes: Vec<u8>, is_lines: bool },
}

impl Piece {
    fn new(format: ExportFormat) -> Self {
        let bytes = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        match format {
            ExportFormat::Csv => {
                let mut builder = csv::WriterBuilder::new();
                let writer = builder.terminator(csv::Terminator::CRLF).from_writer(bytes);
                Self::Csv { writer: Box::new(writer), bytes: 0, failed: false }
            }
            format => Self::Text { bytes, is_lines: format == ExportFormat::Ndjson },
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Csv { bytes, .. } => *bytes >= PIECE_BYTES,
            Self::Text { bytes, .. } => bytes.len() >= PIECE_BYTES,
        }
    }

    fn begin(&mut self, columns: &[&str]) {
        match self {
            Self::Csv { .. } => self.row(columns.iter().map(|name| Cow::Borrowed(*name))),
            Self::Text { is_lines: true, .. } => {}
            Self::Text { bytes, .. } => bytes.extend_from_slice(b"{\"items\":["),
        }
    }

    fn item<T: Cells + Serialize>(&mut self, item: &T, has_items: bool) {
        match self {
            Self::Csv { .. } => self.row(item.cells().into_iter()),
            Self::Text { bytes, is_lines } => {
                if !*is_lines {
                    bytes.extend_from_slice(if has_items { b",\n" } else { b"\n" });
                }
                // A view of ours always encodes: it has text keys and finite numbers only.
                let _ = serde_json::to_writer(&mut *bytes, item);
                if *is_lines {
                    bytes.push(b'\n');
                }
            }
        }
    }

    fn end(&mut self, head: &ExportHead, columns: &[&str]) {
        match self {
            Self::Csv { .. } => {
                let cell = |name: &&str| match *name {
                    "row" => Cow::Borrowed("head"),
                    "tenant_id" => Cow::Owned(head.tenant_id.to_string()),
                    "chain_seq" => Cow::Owned(head.records.to_string()),
                    "hash" => Cow::Owned(head.link.clone()),
                    "root" => Cow::Owned(head.root.clone()),
                    "created_at" => Cow::Owned(head.exported_at.clone()),
                    _ => Cow::Borrowed(""),
                };
                self.row(columns.iter().map(cell));
            }
            Self::Text { bytes, is_lines } => {
                bytes.extend_from_slice(if *is_lines { b"{\"head\":" } else { b"\n],\"head\":" });
                let _ = serde_json::to_writer(&mut *bytes, head);
                bytes.extend_from_slice(b"}\n");
            }
        }
    }

    fn row<'a>(&mut self, cells: impl Iterator<Item = Cow<'a, str>>) {
        let Self::Csv { writer, bytes, failed } = self else { return };
        for cell in cells {
            *bytes += cell.len() + 1;
            *failed |= writer.write_field(guarded(&cell).as_bytes()).is_err();
        }
        *failed |= writer.write_record(None::<&[u8]>).is_err();
    }

    fn into_bytes(self) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Csv { writer, failed: false, .. } => {
                writer.into_inner().map_err(|_| Refusal::crashed())
            }
            // It writes to memory: rows of unequal lengths would be a mistake of ours.
            Self::Csv { .. } => Err(Refusal::crashed()),
            Self::Text { bytes, .. } => Ok(bytes),
        }
    }
}

/// A cell that no spreadsheet runs.
fn guarded(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(FORMULA_STARTS) { format!("'{cell}").into() } else { cell.into() }
}

/// An item as a row: as many cells as there are columns.
trait Cells {
    fn cells(&self) -> Vec<Cow<'_, str>>;
}

const ACTION_COLUMNS: [&str; 21] = [
    "row",
    "trace_id",
    "chain_seq",
    "leaf_index",
    "hash",
    "position",
    "created_at",
    "tenant_id",
    "user_id",
    "caller",
    "app_id",
    "tool_name",
    "action_type",
    "status",
    "price",
    "error",
    "confirmation",
    "command",
    "event",
    "stream",
    "root",
];

const AUDIT_COLUMNS: [&str; 23] = [
    "row",
    "id",
    "chain_seq",
    "leaf_index",
    "hash",
    "position",
    "created_at",
    "tenant_id",
    "actor",
    "actor_id",
    "actor_type",
    "user_id",
    "action",
    "tool_name",
    "status",
    "target_type",
    "target_id",
    "app_id",
    "price",
    "source",
    "changes",
    "trace_id",
    "root",
];

fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn optional(text: &Option<String>) -> Cow<'_, str> {
    Cow::Borrowed(text.as_deref().unwrap_or_default())
}

fn number(number: impl ToString) -> Cow<'static, str> {
    Cow::Owned(number.to_string())
}

fn status(status: ActionStatus) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        ActionStatus::Success => "success",
        ActionStatus::Error => "error",
    })
}

fn action_type(kind: ActionType) -> Cow<'static, str> {
    Cow::Borrowed(match kind {
        ActionType::Read => "read",
        ActionType::Write => "write",
        ActionType::Destructive => "destructive",
        ActionType::System => "system",
    })
}

impl Cells for Exported<ActionLeaf> {
    fn cells(&self) -> Vec<Cow<'_, str>> {
        let Exported { item: ActionLeaf { action, leaf_index, hash }, position } = self;
        vec![
            text("action"),
            text(&action.trace_id),
            number(action.chain_seq),
            number(leaf_index),
            text(hash),
            text(position),
            text(&action.created_at),
            number(action.tenant_id),
            optional(&action.user_id),
            text(&action.caller),
            optional(&action.app_id),
            text(&action.tool_name),
            action_type(action.action_type),
            status(action.status),
            number(action.price),
            optional(&action.error),
            optional(&action.confirmation),
            text(&action.command),
            text(&action.event),
            text(&action.stream),
            text(""),
        ]
    }
}

impl Cells for Exported<AuditEntry> {
    fn cells(&self) -> Vec<Cow<'_, str>> {
        let Exported { item: entry, position } = self;
        let changes = entry.changes.as_ref().map(ToString::to_string).unwrap_or_default();
        vec![
            text("entry"),
            text(&entry.id),
            number(entry.chain_seq),
            number(entry.leaf_index),
            text(&entry.hash),
            text(position),
            text(&entry.created_at),
            number(entry.tenant_id),
            text(&entry.actor),
            text(&entry.actor_id),
            text(&entry.actor_type),
            optional(&entry.user_id),
            text(&entry.action),
            text(&entry.tool_name),
            status(entry.status),
            text(&entry.target_type),
            text(&entry.target_id),
            optional(&entry.app_id),
            number(entry.price),
            text(&entry.source),
            Cow::Owned(changes),
            text(&entry.trace_id),
            text(""),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_begins_as_a_formula_is_a_text() {
        for cell in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(guarded(cell), format!("'{cell}"));
        }
        for cell in ["", "tea", "user/imp_u_1", "1=1"] {
            assert_eq!(guarded(cell), cell);
        }
    }
}
