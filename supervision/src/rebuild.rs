//! What the records say the rest must be: read models compared and rebuilt, snapshots made.
//!
//! A row is a function of the state before an event and of the event, so all rows of a shard follow
//! from its records. [`System::reindex_shard`] replays every entity of a shard, finds what each row
//! should be (of two changes to one row the one at the later position counts), and compares. What
//! differs is written in batches; each is atomic and what it writes is right by itself, so that a
//! run that was cut short is simply run again. Reminders and marks of pending work are derived from
//! the entities' states and are compared too; recorded outcomes of idempotency keys follow from no
//! record and are left alone.
//!
//! Limits: nobody may write meanwhile. For each row of one shard its key and a digest are held in
//! memory, and the values of those that differ. Where an entity does not replay, rows that nobody
//! accounts for are kept, since they may be its.

use std::collections::{BTreeMap, HashMap, HashSet};

use persistence::record::sha256;
use persistence::{Header, Opened, ReadError, RowChange, RowKey, Shard, codec};

use crate::address::Place;
use crate::clock::Timestamp;
use crate::directory::{Directory, erasure};
use crate::entity::{Entity, RowDraft};
use crate::event::Event;
use crate::host::{ReplayError, replay, seal_context};
use crate::idempotency::{OUTCOME_FAMILY, SHOWN_ONCE_FAMILY};
use crate::reminders::{DUE_FAMILY, PENDING_FAMILY, due_key, due_of};
use crate::system::{Core, System};

/// How many records one step reads.
const STEP_RECORDS: usize = 1_024;
/// How many rows one step reads.
const STEP_ROWS: usize = 512;
/// How many rows one commit rewrites.
const BATCH_ROWS: usize = 256;

/// What became of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reindexed {
    /// Entities replayed.
    pub entities: u64,
    /// Entities that do not replay, with the reason.
    pub unreadable: Vec<String>,
    /// Rows that are as the records say.
    pub right: u64,
    /// Rows that were missing, by family.
    pub missing: BTreeMap<String, u64>,
    /// Rows that said something else.
    pub different: BTreeMap<String, u64>,
    /// Rows that no record accounts for.
    pub surplus: BTreeMap<String, u64>,
}

impl Reindexed {
    /// How many rows were not as they should be.
    pub fn wrong(&self) -> u64 {
        let counts = [&self.missing, &self.different, &self.surplus];
        counts.into_iter().flat_map(BTreeMap::values).sum()
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: Self) {
        self.entities += other.entities;
        self.unreadable.extend(other.unreadable);
        self.right += other.right;
        let pairs = [
            (&mut self.missing, other.missing),
            (&mut self.different, other.different),
            (&mut self.surplus, other.surplus),
        ];
        for (all, more) in pairs {
            for (family, count) in more {
                *all.entry(family).or_default() += count;
            }
        }
    }
}

/// What an entity's records give beside its state.
#[derive(Default)]
pub struct Derived {
    /// Every change of a row, with the position of the event that made it.
    pub rows: Vec<(u64, RowDraft)>,
    /// Whether work is pending.
    pub pending: bool,
    /// The earliest deadline.
    pub deadline: Option<Timestamp>,
}

/// Replays an entity from its first record: `each` sees the state before an event, the event, and
/// its header. Answers the state.
pub(crate) fn each_event<E: Entity>(
    directory: &Directory<E>,
    place: &Place,
    mut each: impl FnMut(&E, &E::Event, &Header),
) -> Result<E, ReplayError> {
    let journal = &directory.core.journal;
    let (mut entity, mut seq) = (E::default(), 0);
    loop {
        let records = journal.read(&place.stream, seq, STEP_RECORDS)?;
        if records.is_empty() {
            return Ok(entity);
        }
        for record in records {
            let header = &record.header;
            if header.seq != seq + 1 {
                return Err(ReplayError::Gap { expected: seq + 1, found: header.seq });
            }
            seq += 1;
            let opened =
                journal.keys().open_blob(&seal_context(&place.stream, seq), &record.payload);
            let opened = opened.map_err(|source| ReplayError::Seal { seq, source })?;
            let Opened::Plain(bytes) = opened else { return Err(ReplayError::Erased) };
            let event = E::Event::decode(&header.event, header.event_version, &bytes);
            let event = event.map_err(|source| ReplayError::Event {
                seq,
                event: header.event.to_string(),
                version: header.event_version,
                source,
            })?;
            each(&entity, &event, header);
            entity.apply(&event, Timestamp(header.time_ms));
        }
    }
}

/// Replays an entity from its first record and gathers what its records give.
pub(crate) fn derive<E: Entity>(
    directory: &Directory<E>,
    place: &Place,
) -> Result<Derived, ReplayError> {
    let (mut derived, mut rows) = (Derived::default(), Vec::new());
    let replayed = each_event(directory, place, |entity: &E, event, header| {
        entity.rows(event, Timestamp(header.time_ms), &mut rows);
        derived.rows.extend(rows.drain(..).map(|row| (header.position.pos, row)));
    });
    let entity = match replayed {
        // Whoever is erased in part is erased: no row is accounted for, and nothing is due.
        Err(ReplayError::Erased) => return Ok(Derived::default()),
        replayed => replayed?,
    };
    (derived.pending, derived.deadline) = (entity.is_pending(), entity.next_deadline());
    Ok(derived)
}

/// Makes a snapshot of what is durable of an entity, without activating it, and queues it. Says
/// whether it did.
pub(crate) fn snapshot<E: Entity>(directory: &Directory<E>, place: &Place) -> bool {
    let (entity, seq) = match replay(directory, place, None) {
        Ok(replayed) => replayed,
        Err(ReplayError::Erased) => return erasure::stand_in(directory, place),
        Err(_) => return false,
    };
    let Ok(state) = codec::encode(&entity) else { return false };
    let bytes = [E::SNAPSHOT_VERSION.to_be_bytes().as_slice(), &state].concat();
    let journal = &directory.core.journal;
    let sealed = journal.keys().seal(place.key(), &seal_context(&place.stream, seq), &bytes);
    sealed.is_ok_and(|sealed| {
        journal.snapshot(place.stream.clone(), seq, sealed);
        true
    })
}

/// The place of the entity that a record belongs to.
fn place_of(header: &Header) -> Place {
    let Header { stream, owner, home, .. } = header;
    Place { stream: stream.clone(), owner: *owner, home: *home }
}

type RowId = (String, Vec<u8>);

/// What one row should be.
struct Expected {
    /// Where the event stands that made it last.
    pos: u64,
    /// `None` once it was deleted.
    digest: Option<[u8; 32]>,
}

/// What the rows of one shard should be.
#[derive(Default)]
struct Plan {
    rows: HashMap<RowId, Expected>,
    /// By stream: the deadline for which a reminder must be there, no later.
    deadlines: HashMap<String, (Timestamp, Place)>,
    report: Reindexed,
}

/// A row, and the value it gets with the entity whose row it is; `None` to delete it.
type Repair = (RowId, Option<(Place, Vec<u8>)>);

/// What to write.
#[derive(Default)]
struct Repairs {
    /// Rows whose value must be found again, with the position of the event that has it.
    values: HashMap<RowId, u64>,
    changes: Vec<Repair>,
}

impl System {
    /// Queues a snapshot of an entity's durable state, for its records to be archived behind it.
    pub fn snapshot(&self, header: &Header) -> bool {
        let place = place_of(header);
        self.kind(place.kind()).is_some_and(|kind| kind.snapshot(&place))
    }

    /// Compares the rows of a shard with what its records give; with `write`, makes them so. See
    /// the module's head. Blocks until what it wrote is durable.
    pub fn reindex_shard(&self, shard: Shard, write: bool) -> Result<Reindexed, ReadError> {
        let mut plan = Plan::default();
        self.each_entity(shard, &mut |place, derived| plan.take(place, derived))?;
        let mut repairs = Repairs::default();
        self.compare(shard, &mut plan, &mut repairs)?;
        if write {
            self.repair(shard, repairs)?;
        }
        Ok(plan.report)
    }

    /// Replays every entity of the shard, in the order of their first records.
    fn each_entity(
        &self,
        shard: Shard,
        each: &mut dyn FnMut(Place, Result<Derived, String>),
    ) -> Result<(), ReadError> {
        let mut next = 1;
        loop {
            let records = self.core.journal.read_shard(shard, next, STEP_RECORDS)?;
            let Some(last) = records.last() else { return Ok(()) };
            next = last.header.position.pos + 1;
            for record in records.iter().filter(|record| record.header.seq == 1) {
                let place = place_of(&record.header);
                let derived = match self.kind(place.kind()) {
                    Some(kind) => kind.derive(&place).map_err(|refusal| refusal.to_string()),
                    None => Err("its kind is not known here".to_owned()),
                };
                each(place, derived);
            }
        }
    }

    fn compare(
        &self,
        shard: Shard,
        plan: &mut Plan,
        repairs: &mut Repairs,
    ) -> Result<(), ReadError> {
        let observed = self.kinds().iter().flat_map(|kind| kind.observed_families());
        let unrecorded: HashSet<&str> =
            observed.copied().chain([OUTCOME_FAMILY, SHOWN_ONCE_FAMILY]).collect();
        let keeps_surplus = !plan.report.unreadable.is_empty();
        let mut after = None;
        loop {
            let page = self.core.journal.shard_rows(shard, after.as_ref(), STEP_ROWS)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, sealed) in page {
                let family = key.family.as_ref();
                if unrecorded.contains(&family) {
                    continue;
                }
                if family == DUE_FAMILY {
                    self.compare_reminder(&key, &sealed, plan);
                    continue;
                }
                let id = (family.to_owned(), key.key.clone());
                let expected = plan.rows.remove(&id);
                let wanted = expected.as_ref().and_then(|expected| expected.digest);
                match (self.core.journal.keys().open_blob(&key.bytes(), &sealed), wanted) {
                    (Ok(Opened::Plain(value)), Some(digest)) if sha256(&[&value]) == digest => {
                        plan.report.right += 1;
                    }
                    // What was erased is gone on both sides.
                    (Ok(Opened::Erased), None) => plan.report.right += 1,
                    (_, Some(_)) => {
                        *plan.report.different.entry(id.0.clone()).or_default() += 1;
                        repairs.values.insert(id, expected.map_or(0, |expected| expected.pos));
                    }
                    (_, None) => {
                        *plan.report.surplus.entry(id.0.clone()).or_default() += 1;
                        if !keeps_surplus {
                            repairs.changes.push((id, None));
                        }
                    }
                }
            }
        }
        plan.find_missing(repairs);
        Ok(())
    }

    /// A reminder is right if its entity has nothing due before it; one too many costs a turn.
    fn compare_reminder(&self, key: &RowKey, sealed: &[u8], plan: &mut Plan) {
        plan.report.right += 1;
        let opened = self.core.journal.keys().open_blob(&key.bytes(), sealed);
        let Ok(Opened::Plain(value)) = opened else { return };
        let (Ok(place), Some(due)) = (codec::decode::<Place>(&value), due_of(&key.key)) else {
            return;
        };
        let stream = place.stream.as_str();
        if plan.deadlines.get(stream).is_some_and(|(deadline, _)| due <= *deadline) {
            plan.deadlines.remove(stream);
        }
    }

    /// Finds the values of what differs by replaying once more, and writes them.
    fn repair(&self, shard: Shard, mut repairs: Repairs) -> Result<(), ReadError> {
        if !repairs.values.is_empty() {
            let Repairs { values, changes } = &mut repairs;
            self.each_entity(shard, &mut |place, derived| {
                let Ok(derived) = derived else { return };
                for (pos, row) in rows_of(&place, derived) {
                    let id = (row.family.to_owned(), row.key);
                    if values.get(&id) == Some(&pos)
                        && let Some(value) = row.value
                    {
                        changes.push((id, Some((place.clone(), value))));
                    }
                }
            })?;
        }
        for batch in repairs.changes.chunks(BATCH_ROWS) {
            let change = |change| sealed_change(&self.core, shard, change);
            let changes: Vec<RowChange> = batch.iter().filter_map(change).collect();
            let (sender, done) = std::sync::mpsc::channel();
            let rider = Box::new(move |_| {
                let _ = sender.send(());
            });
            self.core.journal.change_rows(changes, rider);
            // Dropped unsent only when the journal was closed: then nothing more is written.
            if done.recv().is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn sealed_change(core: &Core, shard: Shard, ((family, key), value): &Repair) -> Option<RowChange> {
    let family = family.clone().into();
    let key = RowKey { shard, family, key: key.clone() };
    let Some((place, value)) = value else { return Some((key, None)) };
    let sealed = core.journal.keys().seal(place.key(), &key.bytes(), value);
    sealed.ok().map(|sealed| (key, Some(sealed)))
}

/// The rows that an entity accounts for: those of its events, and the mark of pending work.
fn rows_of(place: &Place, derived: Derived) -> Vec<(u64, RowDraft)> {
    let mut rows = derived.rows;
    if derived.pending {
        let key = place.stream.as_str().as_bytes().to_vec();
        let value = codec::encode(place).ok();
        rows.push((u64::MAX, RowDraft { family: PENDING_FAMILY, key, value }));
    }
    rows
}

impl Plan {
    fn take(&mut self, place: Place, derived: Result<Derived, String>) {
        let derived = match derived {
            Ok(derived) => derived,
            Err(reason) => {
                self.report.unreadable.push(format!("{}: {reason}", place.stream));
                return;
            }
        };
        self.report.entities += 1;
        if let Some(deadline) = derived.deadline {
            let stream = place.stream.as_str().to_owned();
            self.deadlines.insert(stream, (deadline, place.clone()));
        }
        for (pos, row) in rows_of(&place, derived) {
            let digest = row.value.as_ref().map(|value| sha256(&[value]));
            let expected = Expected { pos, digest };
            let slot = self.rows.entry((row.family.to_owned(), row.key));
            let known = slot.or_insert(Expected { pos: 0, digest: None });
            // Of one event's two changes to a row the later counts as well.
            if expected.pos >= known.pos {
                *known = expected;
            }
        }
    }

    fn find_missing(&mut self, repairs: &mut Repairs) {
        for (id, expected) in self.rows.drain() {
            if expected.digest.is_some() {
                *self.report.missing.entry(id.0.clone()).or_default() += 1;
                repairs.values.insert(id, expected.pos);
            }
        }
        for (_, (deadline, place)) in self.deadlines.drain() {
            *self.report.missing.entry(DUE_FAMILY.to_owned()).or_default() += 1;
            let id = (DUE_FAMILY.to_owned(), due_key(deadline, &place.stream));
            let value = codec::encode(&place).unwrap_or_default();
            repairs.changes.push((id, Some((place, value))));
        }
    }
}
