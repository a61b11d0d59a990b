//! Indexes of a session's documents: rows from which a `where` with an equality finds its documents
//! without looking at the others.
//!
//! An index belongs to one kind and one field (`app.data.kinds.KIND.indexes`). It is begun when a
//! version of the app declares it, built over the documents that exist in steps of
//! [`INDEX_STEP_MAX`], and kept in the turn that takes a run in: its rows change with the
//! documents, in one commit. It is read once it is ready. What the current version does not declare
//! is dropped and its rows are swept, in steps too.
//!
//! Invariants
//! - A ready index has a row for every document of its kind whose field is there and within
//!   [`INDEXED_VALUE_BYTES_MAX`]. It may lead to documents that do not match, never past one that
//!   does: whoever reads it tests what it finds.
//! - A row's key tells nothing of the value: it holds a digest of it with a salt of the index's
//!   own, which is sealed with the session's state.
//! - Values that a `where` takes for equal (`1` and `1.0`) have one digest.
//!
//! Deliberate limits: equality alone is indexed. What is larger than an indexed value may be is
//! looked for among all documents of the kind.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::{Command, Found, Handle, Need, Refusal, RowDraft, Turn};

use super::{
    DOCUMENT_FAMILY, DocumentWrite, ExtensionSession, Scope, SessionEvent, StoredDocument,
};
use crate::ir::field_of;

/// The family of the indexes' rows; their values are empty.
pub const INDEX_FAMILY: &str = "document_index";
/// The family of the rows that tell which indexes a session has.
pub const INDEX_SET_FAMILY: &str = "document_index_set";
/// Bytes of a value's canonical form; what is larger is in no index.
pub const INDEXED_VALUE_BYTES_MAX: usize = 1_024;
/// Documents, or rows, of one step.
pub const INDEX_STEP_MAX: usize = 256;
/// Indexes of one session, those that are being dropped too.
pub const INDEXES_MAX: usize = 4_096;

/// Indexes of a session that an operator sees.
const INDEXES_OBSERVED_MAX: usize = 100;

/// Where an index stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Documents up to this one are in it, and all that were written since it was begun.
    Building(Option<u128>),
    /// It is read.
    Ready,
    /// Nothing of it counts.
    Dropped,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Of one session, never given again.
    pub number: u32,
    /// Of which documents.
    pub kind: String,
    /// Which field, as a `where` names it.
    pub field: String,
    /// What its digests are made with.
    pub salt: u128,
    /// Where it stands.
    pub stage: Stage,
}

/// The indexes of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexes {
    next: u32,
    all: Vec<Index>,
}

/// A row of an index: the document `id` is in it under the digest of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The index.
    pub number: u32,
    /// The value's.
    pub digest: u128,
    /// The document.
    pub id: u128,
}

/// The indexes of a session, or their rows, have changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Indexed {
    /// Whose session it is.
    pub scope: Scope,
    /// How.
    pub change: IndexChange,
}

/// A change of indexes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum IndexChange {
    /// The app declares others than before.
    Planned {
        /// Those that are begun.
        begun: Vec<Index>,
        /// Those that nobody wants any more.
        dropped: Vec<u32>,
    },
    /// Documents were written.
    Written {
        /// What is no more.
        gone: Vec<IndexEntry>,
        /// What is now.
        made: Vec<IndexEntry>,
    },
    /// One was built further.
    Grown {
        /// Which.
        number: u32,
        /// For documents that were there before it.
        made: Vec<IndexEntry>,
        /// How far it is.
        stage: Stage,
    },
    /// Rows of one that was dropped are gone.
    Swept {
        /// Which.
        number: u32,
        /// The rows.
        gone: Vec<IndexEntry>,
        /// Whether these were the last, and the index is no more.
        is_last: bool,
    },
}

impl Scope {
    /// What the keys of this session's index rows begin with, and the key of its set.
    pub fn index_set_key(&self) -> Vec<u8> {
        let (tenant, user) = (self.tenant.0.to_be_bytes(), self.user.0.to_be_bytes());
        [&tenant[..], self.app.as_str().as_bytes(), &[0], &user].concat()
    }

    /// What the keys of an index's rows begin with.
    pub fn index_prefix(&self, number: u32) -> Vec<u8> {
        [&self.index_set_key()[..], &number.to_be_bytes()].concat()
    }

    /// What the keys of the rows of one value begin with.
    pub fn value_prefix(&self, number: u32, digest: u128) -> Vec<u8> {
        [&self.index_prefix(number)[..], &digest.to_be_bytes()].concat()
    }

    fn entry_key(&self, entry: &IndexEntry) -> Vec<u8> {
        let prefix = self.value_prefix(entry.number, entry.digest);
        [&prefix[..], &entry.id.to_be_bytes()].concat()
    }
}

/// The entry that a row of an index stands for, by the end of its key.
fn entry_of(number: u32, key: &[u8]) -> Option<IndexEntry> {
    let (rest, id) = key.split_last_chunk()?;
    let digest = rest.last_chunk()?;
    let (digest, id) = (u128::from_be_bytes(*digest), u128::from_be_bytes(*id));
    Some(IndexEntry { number, digest, id })
}

impl Index {
    /// The digest of a value; `None` for one that is too large to be in an index.
    pub fn digest(&self, value: &Value) -> Option<u128> {
        let mut bytes = Vec::with_capacity(64);
        canonical(value, &mut bytes)?;
        let mut context = Context::new(&SHA256);
        context.update(&self.salt.to_be_bytes());
        context.update(&bytes);
        let digest = context.finish();
        digest.as_ref().first_chunk().map(|start| u128::from_be_bytes(*start))
    }

    fn entry(&self, id: u128, data: &Map<String, Value>) -> Option<IndexEntry> {
        let digest = self.digest(field_of(data, &self.field)?)?;
        Some(IndexEntry { number: self.number, digest, id })
    }

    fn is_kept(&self) -> bool {
        self.stage != Stage::Dropped
    }
}

/// One form for all values that are equal; `None` beyond [`INDEXED_VALUE_BYTES_MAX`].
fn canonical(value: &Value, bytes: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(flag) => bytes.extend([1, u8::from(*flag)]),
        Value::Number(number) => {
            bytes.push(2);
            // Adding zero makes one zero of the two that there are.
            bytes.extend((number.as_f64()? + 0.0).to_bits().to_be_bytes());
        }
        Value::String(text) => {
            bytes.push(3);
            sized(text.as_bytes(), bytes)?;
        }
        Value::Array(items) => {
            bytes.push(4);
            bytes.extend(u32::try_from(items.len()).ok()?.to_be_bytes());
            items.iter().try_for_each(|item| canonical(item, bytes))?;
        }
        Value::Object(members) => {
            bytes.push(5);
            bytes.extend(u32::try_from(members.len()).ok()?.to_be_bytes());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            for (name, member) in members {
                sized(name.as_bytes(), bytes)?;
                canonical(member, bytes)?;
            }
        }
    }
    (bytes.len() <= INDEXED_VALUE_BYTES_MAX).then_some(())
}

fn sized(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    bytes.extend(u32::try_from(text.len()).ok()?.to_be_bytes());
    // Nothing large is copied only to be refused.
    (text.len() <= INDEXED_VALUE_BYTES_MAX).then(|| bytes.extend_from_slice(text))
}

/// What a session has yet to do for its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexWork {
    /// Nothing.
    Done,
    /// To go on building this one: `stage` says from where.
    Grow(Index),
    /// To sweep this one.
    Sweep(u32),
}

impl Indexes {
    /// Reads a row of [`INDEX_SET_FAMILY`].
    pub fn decode(row: &[u8]) -> Self {
        // What cannot be read is no index: all documents are looked at.
        codec::decode(row).unwrap_or_default()
    }

    /// What an operator sees of them.
    pub(super) fn observe(&self) -> Value {
        let shown = |index: &Index| {
            let stage = match index.stage {
                Stage::Building(_) => "building",
                Stage::Ready => "ready",
                Stage::Dropped => "dropped",
            };
            json!({"kind": index.kind, "field": index.field, "stage": stage})
        };
        self.all.iter().take(INDEXES_OBSERVED_MAX).map(shown).collect()
    }

    /// The index of a field, if it is ready.
    pub fn ready(&self, kind: &str, field: &str) -> Option<&Index> {
        self.find(kind, field).filter(|index| index.stage == Stage::Ready)
    }

    /// Whether the index of a field is being built.
    pub fn is_building(&self, kind: &str, field: &str) -> bool {
        self.find(kind, field).is_some_and(|index| index.stage != Stage::Ready)
    }

    fn find(&self, kind: &str, field: &str) -> Option<&Index> {
        let is_it = |index: &&Index| index.is_kept() && index.kind == kind && index.field == field;
        self.all.iter().find(is_it)
    }

    fn get(&self, number: u32) -> Option<&Index> {
        self.all.iter().find(|index| index.number == number)
    }

    fn work(&self) -> IndexWork {
        let first = self.all.iter().find(|index| index.stage != Stage::Ready);
        match first {
            None => IndexWork::Done,
            Some(index) if index.stage == Stage::Dropped => IndexWork::Sweep(index.number),
            Some(index) => IndexWork::Grow(index.clone()),
        }
    }

    pub(super) fn apply(&mut self, indexed: &Indexed) {
        match &indexed.change {
            IndexChange::Planned { begun, dropped } => {
                for index in self.all.iter_mut().filter(|it| dropped.contains(&it.number)) {
                    index.stage = Stage::Dropped;
                }
                self.next += u32::try_from(begun.len()).unwrap_or(u32::MAX);
                self.all.extend(begun.iter().cloned());
            }
            IndexChange::Written { .. } => {}
            IndexChange::Grown { number, stage, .. } => {
                if let Some(index) = self.all.iter_mut().find(|it| it.number == *number) {
                    index.stage = *stage;
                }
            }
            IndexChange::Swept { number, is_last, .. } => {
                self.all.retain(|index| !is_last || index.number != *number);
            }
        }
    }

    /// The rows of a change: of its entries, and of the set where that is another one then.
    pub(super) fn rows(&self, event: &SessionEvent, rows: &mut Vec<RowDraft>) {
        let SessionEvent::Indexed(indexed) = event else { return };
        let scope = &indexed.scope;
        let mut put = |entries: &[IndexEntry], value: Option<Vec<u8>>| {
            rows.extend(entries.iter().map(|entry| RowDraft {
                family: INDEX_FAMILY,
                key: scope.entry_key(entry),
                value: value.clone(),
            }));
        };
        match &indexed.change {
            IndexChange::Planned { .. } => {}
            IndexChange::Written { gone, made } => {
                put(gone, None);
                put(made, Some(Vec::new()));
            }
            IndexChange::Grown { made, .. } => put(made, Some(Vec::new())),
            IndexChange::Swept { gone, .. } => put(gone, None),
        }
        if !matches!(indexed.change, IndexChange::Written { .. }) {
            let mut after = self.clone();
            after.apply(indexed);
            // The set is a few hundred bytes of plain values: it encodes.
            let value = codec::encode(&after).ok().filter(|_| !after.all.is_empty());
            rows.push(RowDraft { family: INDEX_SET_FAMILY, key: scope.index_set_key(), value });
        }
    }

    /// What writing documents changes; `found` has them as they were.
    pub(super) fn written(
        &self,
        scope: &Scope,
        writes: &[DocumentWrite],
        found: &[Found],
    ) -> Option<Indexed> {
        let of_kind = |kind: &str| -> Vec<&Index> {
            self.all.iter().filter(|index| index.is_kept() && index.kind == kind).collect()
        };
        if self.all.is_empty() {
            return None;
        }
        let documents = found.iter().filter(|row| row.family == DOCUMENT_FAMILY);
        let before: HashMap<&[u8], &[u8]> =
            documents.map(|row| (row.key.as_slice(), row.value.as_slice())).collect();
        let (mut gone, mut made) = (Vec::new(), Vec::new());
        for write in writes {
            let indexes = of_kind(&write.kind);
            if indexes.is_empty() {
                continue;
            }
            let key = scope.document_key(&write.kind, write.id);
            let old = before.get(key.as_slice()).and_then(|row| data_of(row));
            let new = write.document.as_ref().and_then(|it| it.data.read().ok());
            for index in indexes {
                let entry = |data: &Option<Map<String, Value>>| {
                    data.as_ref().and_then(|data| index.entry(write.id, data))
                };
                let (old, new) = (entry(&old), entry(&new));
                if old != new {
                    gone.extend(old);
                    made.extend(new);
                }
            }
        }
        let is_some = !gone.is_empty() || !made.is_empty();
        let change = IndexChange::Written { gone, made };
        is_some.then(|| Indexed { scope: scope.clone(), change })
    }
}

pub(super) fn record(turn: &mut Turn<'_, ExtensionSession>, indexed: Option<Indexed>) {
    if let Some(indexed) = indexed {
        turn.record(SessionEvent::Indexed(indexed));
    }
}

fn data_of(row: &[u8]) -> Option<Map<String, Value>> {
    codec::decode::<StoredDocument>(row).ok()?.data.read().ok()
}

/// Says which indexes the app declares, as kind and field. What is new is begun, what is not
/// declared any more is dropped. Answers what is to be done then.
#[derive(Clone, Debug)]
pub struct PlanIndexes {
    /// Whose session it is.
    pub scope: Scope,
    /// What the app declares.
    pub declared: Vec<(String, String)>,
}

impl Command for PlanIndexes {
    const NAME: &'static str = "plan_indexes";
}

impl Handle<PlanIndexes> for ExtensionSession {
    type Reply = IndexWork;

    fn handle(turn: &mut Turn<'_, Self>, command: PlanIndexes) -> Result<IndexWork, Refusal> {
        let PlanIndexes { scope, declared } = command;
        let indexes = &turn.state().indexes;
        let is_declared = |index: &&Index| {
            declared.iter().any(|(kind, field)| *kind == index.kind && *field == index.field)
        };
        let kept = indexes.all.iter().filter(|index| index.is_kept());
        let dropped: Vec<u32> =
            kept.filter(|index| !is_declared(index)).map(|index| index.number).collect();
        let mut missing: Vec<(String, String)> = Vec::new();
        for (kind, field) in &declared {
            let pair = (kind.clone(), field.clone());
            if indexes.find(kind, field).is_none() && !missing.contains(&pair) {
                missing.push(pair);
            }
        }
        // Sweeping makes room; what does not fit is begun then.
        missing.truncate(INDEXES_MAX.saturating_sub(indexes.all.len()));
        let begun = missing.into_iter().zip(indexes.next..).map(|((kind, field), number)| Index {
            number,
            kind,
            field,
            salt: turn.new_id(),
            stage: Stage::Building(None),
        });
        let begun: Vec<Index> = begun.collect();
        if !begun.is_empty() || !dropped.is_empty() {
            let change = IndexChange::Planned { begun, dropped };
            turn.record(SessionEvent::Indexed(Indexed { scope, change }));
        }
        Ok(turn.state().indexes.work())
    }
}

/// Puts documents into an index that is being built: those after the ones it has, in the order of
/// their ids. One that is not being built, or has gone further, stays as it is.
#[derive(Clone, Debug)]
pub struct GrowIndex {
    /// Whose session it is.
    pub scope: Scope,
    /// The index, as it was when the documents were read.
    pub index: Index,
    /// The documents, at most [`INDEX_STEP_MAX`].
    pub ids: Vec<u128>,
    /// Whether there are no more.
    pub is_last: bool,
}

impl Command for GrowIndex {
    const NAME: &'static str = "grow_index";
}

impl Handle<GrowIndex> for ExtensionSession {
    type Reply = IndexWork;

    fn needs(command: &GrowIndex) -> Vec<Need> {
        let key = |id: &u128| command.scope.document_key(&command.index.kind, *id);
        let ids = command.ids.iter().take(INDEX_STEP_MAX);
        ids.map(|id| Need::Row(DOCUMENT_FAMILY, key(id))).collect()
    }

    fn handle(turn: &mut Turn<'_, Self>, command: GrowIndex) -> Result<IndexWork, Refusal> {
        let GrowIndex { scope, index, ids, is_last } = command;
        if turn.state().indexes.get(index.number) != Some(&index)
            || !matches!(index.stage, Stage::Building(_))
        {
            return Ok(turn.state().indexes.work());
        }
        let entry = |row: &Found| {
            let id = u128::from_be_bytes(*row.key.last_chunk()?);
            index.entry(id, &data_of(&row.value)?)
        };
        let made = turn.found().iter().filter_map(entry).collect();
        let stage = match ids.iter().take(INDEX_STEP_MAX).next_back() {
            Some(last) if !is_last => Stage::Building(Some(*last)),
            _ => Stage::Ready,
        };
        let change = IndexChange::Grown { number: index.number, made, stage };
        turn.record(SessionEvent::Indexed(Indexed { scope, change }));
        Ok(turn.state().indexes.work())
    }
}

/// Takes rows of a dropped index away; the index itself with the last of them.
#[derive(Clone, Debug)]
pub struct SweepIndex {
    /// Whose session it is.
    pub scope: Scope,
    /// The index.
    pub number: u32,
}

impl Command for SweepIndex {
    const NAME: &'static str = "sweep_index";
}

impl Handle<SweepIndex> for ExtensionSession {
    type Reply = IndexWork;

    fn needs(command: &SweepIndex) -> Vec<Need> {
        vec![Need::Range {
            family: INDEX_FAMILY,
            prefix: command.scope.index_prefix(command.number),
            newest_first: false,
            limit: INDEX_STEP_MAX,
        }]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: SweepIndex) -> Result<IndexWork, Refusal> {
        let SweepIndex { scope, number } = command;
        let index = turn.state().indexes.get(number);
        if index.is_some_and(|index| index.stage == Stage::Dropped) {
            let gone: Vec<IndexEntry> =
                turn.found().iter().filter_map(|row| entry_of(number, &row.key)).collect();
            let is_last = gone.len() < INDEX_STEP_MAX;
            let change = IndexChange::Swept { number, gone, is_last };
            turn.record(SessionEvent::Indexed(Indexed { scope, change }));
        }
        Ok(turn.state().indexes.work())
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
