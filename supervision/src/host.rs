//! The ractor actor that an entity lives in: replays it, runs its turns, and hands what they left
//! to the journal, with the answer and the effects riding behind.
//!
//! The state runs ahead of the disk, invisibly: nothing that depends on an event leaves before the
//! event is durable. A turn that panics ends the incarnation, and the next one replays.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use persistence::{
    Append, NewRecord, Opened, Outcome, Position, RowKey, RowRange, StreamName, Ticket, codec,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::address::{Address, Place};
use crate::clock::Timestamp;
use crate::command::{Found, Given, Left, Need, Origin, Turn};
use crate::directory::Directory;
use crate::entity::{EffectContext, Entity, RowDraft};
use crate::envelope::{Envelope, Fate, Job, Parked, Ran, Release};
use crate::event::Event;
use crate::monitor::ActorMonitor;
use crate::refusal::Refusal;
use crate::reminders::{DUE_FAMILY, PENDING_FAMILY, due_key};

/// At most one snapshot in this time, while an entity works.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(10);
/// Only when at least so many events have come since the last.
const SNAPSHOT_EVENTS: u64 = 256;
/// How many may wait for one process to end.
const PARKED_MAX: usize = 1_024;
/// How many records one step of a replay reads.
const REPLAY_STEP: usize = 4_096;

pub(crate) struct Host<E>(pub(crate) PhantomData<fn() -> E>);

/// What an incarnation needs to start.
pub(crate) struct Boarding<E: Entity> {
    pub(crate) directory: Arc<Directory<E>>,
    pub(crate) address: Address<E>,
    pub(crate) monitor: Arc<ActorMonitor>,
    pub(crate) published: Published<E>,
    pub(crate) incarnation: u64,
}

/// The last durable state of an entity that publishes it.
pub(crate) type Published<E> = Arc<RwLock<Option<Arc<E>>>>;

/// The rows of one append, by family and key; `None` is a deletion.
type Overlay = HashMap<(&'static str, Vec<u8>), Option<Vec<u8>>>;

pub(crate) struct Seat<E: Entity> {
    directory: Arc<Directory<E>>,
    address: Address<E>,
    monitor: Arc<ActorMonitor>,
    published: Published<E>,
    incarnation: u64,
    entity: E,
    seq: u64,
    /// Everything up to here must be durable before what this state shows may leave.
    ticket: Ticket,
    /// Rows of appends that are not durable yet, for turns that need them.
    unsynced: VecDeque<(Ticket, Overlay)>,
    parked: Vec<Parked<E>>,
    snapshot_seq: u64,
    snapshot_at: Instant,
    reminder: Option<Timestamp>,
    pending_noted: bool,
}

/// What makes an entity unable to start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("the journal could not be read: {0}")]
    Read(#[from] persistence::ReadError),
    #[error("record {seq} ({event} version {version}) does not decode: {source}")]
    Event { seq: u64, event: String, version: u16, source: codec::CodecError },
    #[error("record {seq} does not open: {source}")]
    Seal { seq: u64, source: persistence::SealError },
    #[error("record {expected} is missing, {found} is there")]
    Gap { expected: u64, found: u64 },
    #[error("its key was erased")]
    Erased,
}

impl From<ReplayError> for Refusal {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Erased => Self::erased(),
            error => Self::quarantined(&error.to_string()),
        }
    }
}

/// What a record's seal is bound to.
pub(crate) fn seal_context(stream: &StreamName, seq: u64) -> Vec<u8> {
    [stream.as_str().as_bytes(), &[0], &seq.to_be_bytes()].concat()
}

/// Rebuilds an entity from its snapshot and records, up to `upto` (all of them for `None`).
pub(crate) fn replay<E: Entity>(
    directory: &Directory<E>,
    place: &Place,
    upto: Option<u64>,
) -> Result<(E, u64), ReplayError> {
    let journal = &directory.core.journal;
    let keys = journal.keys();
    let (mut entity, mut seq) = (E::default(), 0);
    if upto.is_none()
        && let Some((at, sealed)) = journal.read_snapshot(&place.stream)?
        && let Ok(Opened::Plain(bytes)) = keys.open_blob(&seal_context(&place.stream, at), &sealed)
        && let Some((version, state)) = bytes.split_first_chunk::<2>()
        && u16::from_be_bytes(*version) == E::SNAPSHOT_VERSION
        && let Ok(state) = codec::decode(state)
    {
        (entity, seq) = (state, at);
    }
    loop {
        let records = journal.read(&place.stream, seq, REPLAY_STEP)?;
        if records.is_empty() {
            return Ok((entity, seq));
        }
        for record in records {
            let header = &record.header;
            if upto.is_some_and(|upto| header.seq > upto) {
                return Ok((entity, seq));
            }
            if header.seq != seq + 1 {
                return Err(ReplayError::Gap { expected: seq + 1, found: header.seq });
            }
            seq += 1;
            let opened = keys.open_blob(&seal_context(&place.stream, seq), &record.payload);
            let opened = opened.map_err(|source| ReplayError::Seal { seq, source })?;
            // What was erased in part is erased as a whole: the rest would be half a truth.
            let Opened::Plain(bytes) = opened else { return Err(ReplayError::Erased) };
            let event = E::Event::decode(&header.event, header.event_version, &bytes);
            let event = event.map_err(|source| ReplayError::Event {
                seq,
                event: header.event.to_string(),
                version: header.event_version,
                source,
            })?;
            entity.apply(&event, Timestamp(header.time_ms));
        }
    }
}

impl<E: Entity> Actor for Host<E> {
    type Msg = Envelope<E>;
    type State = Seat<E>;
    type Arguments = Boarding<E>;

    async fn pre_start(
        &self,
        _: ActorRef<Envelope<E>>,
        boarding: Boarding<E>,
    ) -> Result<Seat<E>, ActorProcessingErr> {
        let Boarding { directory, address, monitor, published, incarnation } = boarding;
        let (entity, seq) = replay(&directory, address.place(), None)?;
        if E::PUBLISHED {
            *published.write() = Some(Arc::new(entity.clone()));
        }
        monitor.seq.store(seq, Relaxed);
        let pending_noted = entity.is_pending();
        monitor.pinned.store(pending_noted, Relaxed);
        monitor.newborn.store(seq == 0, Relaxed);
        let seat = Seat {
            directory,
            address,
            monitor,
            published,
            incarnation,
            seq,
            ticket: Ticket::default(),
            unsynced: VecDeque::new(),
            parked: Vec::new(),
            snapshot_seq: seq,
            snapshot_at: Instant::now(),
            reminder: None,
            pending_noted,
            entity,
        };
        if let Some(next) = seat.entity.next_deadline() {
            let place = seat.address.place().clone();
            seat.directory.core.reminders.add(next, place);
        }
        let origin = seat.directory.core.system_origin();
        for effect in seat.entity.resume() {
            seat.perform(effect, origin.clone(), None);
        }
        Ok(seat)
    }

    async fn handle(
        &self,
        me: ActorRef<Envelope<E>>,
        envelope: Envelope<E>,
        seat: &mut Seat<E>,
    ) -> Result<(), ActorProcessingErr> {
        let name = envelope.name;
        let started = Instant::now();
        *seat.monitor.current.lock() = Some((name, started));
        let outcome = catch_unwind(AssertUnwindSafe(|| seat.take(&me, envelope)));
        *seat.monitor.current.lock() = None;
        seat.monitor.turns.record(started.elapsed());
        let Err(panic) = outcome else { return Ok(()) };
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        seat.directory.note_crash(seat.address.id(), name, message);
        // The state may be half changed: this incarnation ends, and the next one replays.
        Err(format!("{name} crashed: {message}").into())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Envelope<E>>,
        seat: &mut Seat<E>,
    ) -> Result<(), ActorProcessingErr> {
        seat.snapshot();
        Ok(())
    }
}

impl<E: Entity> Seat<E> {
    fn take(&mut self, me: &ActorRef<Envelope<E>>, envelope: Envelope<E>) {
        let Envelope { name, origin, needs, job } = envelope;
        let core = self.directory.core.clone();
        self.monitor.last_used_ms.store(core.monotonic_ms(), Relaxed);
        match job {
            Job::Look(look) => {
                let release = look(&self.entity);
                self.let_go(release);
            }
            Job::Park(mut parked) => match parked(&self.entity) {
                Some(release) => self.let_go(release),
                None => self.park(parked),
            },
            Job::Command(run) => {
                let found = self.find(&needs);
                let now = core.now_in(self.address.place().home);
                let (ran, left) = self.turn(now, &origin, found, |turn| run(turn));
                let figures = self.directory.kind_monitor.command(name);
                let counter =
                    if ran.refused { &self.monitor.refused } else { &self.monitor.processed };
                counter.fetch_add(1, Relaxed);
                let total = if ran.refused { &figures.refused } else { &figures.accepted };
                total.fetch_add(1, Relaxed);
                if let Some((_, since)) = *self.monitor.current.lock() {
                    figures.turns.record(since.elapsed());
                }
                self.settle(me, (name, now), origin, ran, left, None);
            }
            Job::Due(row_due, handled) => {
                let now = core.now_in(self.address.place().home);
                let ((), left) = self.turn(now, &origin, Vec::new(), |turn| E::due(turn));
                let ran = Ran { refused: false, outcome: Vec::new(), release: Box::new(|_| {}) };
                self.settle(me, (name, now), origin, ran, left, row_due);
                let _ = handled.send(());
            }
        }
    }

    fn turn<R>(
        &mut self,
        now: Timestamp,
        origin: &Origin,
        found: Vec<Found>,
        run: impl FnOnce(&mut Turn<'_, E>) -> R,
    ) -> (R, Left<E>) {
        let core = self.directory.core.clone();
        let given = Given {
            now,
            new_id: core.new_id.as_ref(),
            keys: core.journal.keys(),
            origin,
            found,
            seq: self.seq,
        };
        let mut turn = Turn::new(&mut self.entity, given);
        let result = run(&mut turn);
        (result, turn.finish())
    }

    /// Sends what a turn left to the journal, with the answer and the effects behind it.
    fn settle(
        &mut self,
        me: &ActorRef<Envelope<E>>,
        // The records carry the turn's own time, so that a replay applies them at the same.
        (name, now): (&'static str, Timestamp),
        origin: Origin,
        ran: Ran,
        left: Left<E>,
        fired: Option<i64>,
    ) {
        let Left { events, effects, mut rows } = left;
        rows.extend(ran.outcome);
        self.note_pending(&mut rows);
        self.note_reminder(fired, &mut rows);
        self.note_standing();
        if events.is_empty() && rows.is_empty() && effects.is_empty() {
            return self.let_go(ran.release);
        }
        let core = self.directory.core.clone();
        let ready = self.ready_parked();
        // Once more: nobody waits any more for what has ended.
        self.note_standing();
        let records = self.seal_events(&events);
        let place = self.address.place();
        let sealed_rows = rows.iter().map(|row| core.seal_row(place, row)).collect();
        let (runtime, context) = (core.runtime.clone(), self.effect_context(origin.clone()));
        let (release, me) = (ran.release, me.clone());
        let publish = E::PUBLISHED.then(|| (self.published.clone(), Arc::new(self.entity.clone())));
        let append = Append {
            stream: place.stream.clone(),
            owner: place.owner,
            home: place.home,
            incarnation: self.incarnation,
            expected_seq: self.seq,
            records,
            caller: origin.caller,
            request: origin.request,
            cause: origin.cause,
            command: self.directory.command_name(name),
            time_ms: now.0,
            rows: sealed_rows,
            rider: Box::new(move |outcome| match outcome {
                Outcome::Durable(first) => {
                    // Before the answer: who has the answer sees the state.
                    if let Some((published, state)) = publish {
                        *published.write() = Some(state);
                    }
                    release(Fate::Durable);
                    ready.into_iter().for_each(|parked| parked(Fate::Durable));
                    if !effects.is_empty() {
                        runtime.spawn(perform_all(effects, context, first));
                    }
                }
                Outcome::Refused(_) => {
                    release(Fate::Stale);
                    me.kill();
                }
            }),
        };
        self.seq += events.len() as u64;
        self.monitor.seq.store(self.seq, Relaxed);
        self.monitor.events.fetch_add(events.len() as u64, Relaxed);
        self.ticket = core.journal.append(append);
        if !rows.is_empty() {
            let rows = rows.into_iter().map(|row| ((row.family, row.key), row.value)).collect();
            self.unsynced.push_back((self.ticket, rows));
        }
        let grown = self.seq - self.snapshot_seq >= SNAPSHOT_EVENTS;
        if grown && self.snapshot_at.elapsed() >= SNAPSHOT_PERIOD {
            self.snapshot();
        }
    }

    fn seal_events(&self, events: &[E::Event]) -> Vec<NewRecord> {
        let (core, place) = (&self.directory.core, self.address.place());
        let seal = |(index, event): (usize, &E::Event)| {
            let context = seal_context(&place.stream, self.seq + 1 + index as u64);
            let payload = event
                .encode()
                .map_err(|error| error.to_string())
                .and_then(|bytes| {
                    let sealed = core.journal.keys().seal(place.key(), &context, &bytes);
                    sealed.map_err(|error| error.to_string())
                })
                // Nothing was appended yet: the turn crashes, and its caller is told so.
                .unwrap_or_else(|error| panic!("{} could not be sealed: {error}", event.name()));
            let event_version = event.version();
            NewRecord { event: self.directory.event_name(event.name()), event_version, payload }
        };
        events.iter().enumerate().map(seal).collect()
    }

    fn effect_context(&self, origin: Origin) -> EffectContext<E> {
        let (system, address) = (self.directory.core.system(), self.address.clone());
        EffectContext { system, address, origin, cause: None }
    }

    fn perform(&self, effect: E::Effect, origin: Origin, cause: Option<Position>) {
        let context = EffectContext { cause, ..self.effect_context(origin) };
        self.directory.core.runtime.spawn(E::perform(effect, context));
    }

    /// Lets an answer go now, or once what it saw is durable.
    fn let_go(&mut self, release: Release) {
        let journal = &self.directory.core.journal;
        if self.ticket <= journal.durable() {
            release(Fate::Durable);
        } else {
            self.ticket = journal.ride(Box::new(move |_| release(Fate::Durable)));
        }
    }

    /// Keeps a waiter. Those whose callers have gone make room; beyond the limit, the new one is
    /// dropped, and its caller asks again.
    fn park(&mut self, parked: Parked<E>) {
        if self.parked.len() >= PARKED_MAX {
            self.ready_parked().into_iter().for_each(|release| self.let_go(release));
        }
        if self.parked.len() < PARKED_MAX {
            self.parked.push(parked);
        }
    }

    fn ready_parked(&mut self) -> Vec<Release> {
        let mut ready = Vec::new();
        let entity = &self.entity;
        self.parked.retain_mut(|parked| match parked(entity) {
            Some(release) => {
                ready.push(release);
                false
            }
            None => true,
        });
        ready
    }

    /// Whether it may leave memory, and whether it had better.
    fn note_standing(&self) {
        let is_needed = self.pending_noted || !self.parked.is_empty();
        self.monitor.pinned.store(is_needed, Relaxed);
        self.monitor.over.store(self.entity.is_over(), Relaxed);
    }

    fn note_pending(&mut self, rows: &mut Vec<RowDraft>) {
        let pending = self.entity.is_pending();
        if pending == self.pending_noted {
            return;
        }
        self.pending_noted = pending;
        let place = self.address.place();
        let value = pending.then(|| codec::encode(place).unwrap_or_default());
        let key = place.stream.as_str().as_bytes().to_vec();
        rows.push(RowDraft { family: PENDING_FAMILY, key, value });
    }

    /// One reminder row an entity, for its earliest deadline; rewritten when that gets earlier.
    fn note_reminder(&mut self, fired: Option<i64>, rows: &mut Vec<RowDraft>) {
        let place = self.address.place();
        if let Some(due) = fired {
            let key = due_key(Timestamp(due), &place.stream);
            rows.push(RowDraft { family: DUE_FAMILY, key, value: None });
            if self.reminder == Some(Timestamp(due)) {
                self.reminder = None;
            }
        }
        let Some(next) = self.entity.next_deadline() else {
            return self.forget_reminder(rows);
        };
        if self.reminder.is_some_and(|noted| noted <= next) {
            return;
        }
        if let Some(later) = self.reminder.replace(next) {
            let key = due_key(later, &place.stream);
            rows.push(RowDraft { family: DUE_FAMILY, key, value: None });
        }
        let value = Some(codec::encode(place).unwrap_or_default());
        rows.push(RowDraft { family: DUE_FAMILY, key: due_key(next, &place.stream), value });
        self.directory.core.reminders.add(next, place.clone());
    }

    /// Of what is over nothing reminds any more: waking it would cost more than its row.
    fn forget_reminder(&mut self, rows: &mut Vec<RowDraft>) {
        let is_over = self.entity.is_over();
        let Some(noted) = self.reminder.take_if(|_| is_over) else { return };
        let place = self.address.place();
        let key = due_key(noted, &place.stream);
        rows.push(RowDraft { family: DUE_FAMILY, key, value: None });
        self.directory.core.reminders.remove(noted, place);
    }

    /// The needed rows: what is durable, overlaid with what this entity has written since.
    fn find(&mut self, needs: &[Need]) -> Vec<Found> {
        let durable = self.directory.core.journal.durable();
        while self.unsynced.front().is_some_and(|(ticket, _)| *ticket <= durable) {
            self.unsynced.pop_front();
        }
        let mut found = Vec::new();
        for need in needs {
            match need {
                Need::Row(family, key) => found.extend(self.find_row(family, key)),
                Need::Range { family, prefix, newest_first, limit } => {
                    found.extend(self.find_range(family, prefix, *newest_first, *limit));
                }
            }
        }
        found
    }

    fn find_row(&self, family: &'static str, key: &[u8]) -> Option<Found> {
        let overlaid = self.unsynced.iter().rev();
        let newest = overlaid.filter_map(|(_, rows)| rows.get(&(family, key.to_vec()))).next();
        let (core, place) = (&self.directory.core, self.address.place());
        let value = match newest {
            Some(value) => value.clone(),
            // The turn is undone, and its caller is told so.
            None => core
                .read_row(&RowKey::new(place.shard(), family, key))
                .unwrap_or_else(|error| panic!("a row could not be read: {error}")),
        };
        value.map(|value| Found { family, key: key.to_vec(), value })
    }

    fn find_range(
        &self,
        family: &'static str,
        prefix: &[u8],
        newest_first: bool,
        limit: usize,
    ) -> Vec<Found> {
        let (core, place) = (&self.directory.core, self.address.place());
        let mut changed = std::collections::BTreeMap::new();
        for (_, rows) in &self.unsynced {
            for ((row_family, key), value) in rows {
                if *row_family == family && key.starts_with(prefix) {
                    changed.insert(key.clone(), value.clone());
                }
            }
        }
        let range = RowRange {
            shard: place.shard(),
            family,
            prefix: prefix.to_vec(),
            after: None,
            newest_first,
            limit: limit + changed.len(),
        };
        let mut rows: std::collections::BTreeMap<_, _> =
            core.read_rows(&range).into_iter().map(|(key, value)| (key.key, Some(value))).collect();
        rows.extend(changed);
        let found = |(key, value): (Vec<u8>, Option<Vec<u8>>)| {
            value.map(|value| Found { family, key, value })
        };
        if newest_first {
            rows.into_iter().rev().filter_map(found).take(limit).collect()
        } else {
            rows.into_iter().filter_map(found).take(limit).collect()
        }
    }

    fn snapshot(&mut self) {
        if self.seq - self.snapshot_seq < SNAPSHOT_EVENTS {
            return;
        }
        (self.snapshot_seq, self.snapshot_at) = (self.seq, Instant::now());
        let place = self.address.place();
        let Ok(state) = codec::encode(&self.entity) else { return };
        let bytes = [E::SNAPSHOT_VERSION.to_be_bytes().as_slice(), &state].concat();
        let journal = &self.directory.core.journal;
        let context = seal_context(&place.stream, self.seq);
        if let Ok(sealed) = journal.keys().seal(place.key(), &context, &bytes) {
            journal.snapshot(place.stream.clone(), self.seq, sealed);
        }
    }
}

async fn perform_all<E: Entity>(
    effects: Vec<E::Effect>,
    context: EffectContext<E>,
    cause: Option<Position>,
) {
    for effect in effects {
        let origin = Origin { cause, ..context.origin.clone() };
        let (system, address) = (context.system.clone(), context.address.clone());
        let context = EffectContext { system, address, origin, cause };
        // Side by side: one effect that waits must not hold the others up.
        tokio::spawn(E::perform(effect, context));
    }
}
