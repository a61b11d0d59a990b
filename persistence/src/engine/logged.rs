//! A write-ahead log in front of a sorted store: one sync a commit, and the store is written in
//! bulk, off the path that callers wait for.
//!
//! A commit appends one frame to the newest log segment, syncs it, and puts the changes into a
//! table in memory; that is all a caller waits for. When the table has grown enough it is frozen,
//! a new segment begins, and a thread moves the frozen table into the store in one durable commit
//! and, in another, says how far it got; then the old segments go. Opening replays the segments'
//! frames that the store does not have yet. A frame replayed over what it did already changes
//! nothing, so the store may lose the end of what it was given as long as it loses it in order.
//!
//! A frame has the number of its commit and a checksum ([`super::frames`]). Numbers follow each
//! other without a gap over all segments. A segment may end with zeros, which were written in
//! advance. A frame at the very end that is cut short or does not check was never acknowledged: the
//! next commit takes its place. Anywhere else (a whole frame follows it) it is damage, and opening
//! is refused. (A tail that rots after it was
//! acknowledged looks the same as one that was cut short: the head file, outside the engine,
//! catches that, and so opening changes nothing.)
//!
//! A disk that refuses a sync may keep what it has not written as if it had. So after a failure
//! nothing more is acknowledged, and opening writes the newest frame once more before it is seen.

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::frames::{
    Change, FRAME_HEAD_BYTES, Slice, Table, decode_frame, encode_frame, has_later_frame, take_body,
};
use super::place::Named;
use super::segments::{FolderSegments, Segment, Segments};
use super::summed::Store;
use super::{Direction, Engine, EngineError, Pair, WriteBatch};
use crate::tidy::tidy;

/// When the table in memory is frozen, in bytes of keys and values.
pub const TABLE_BYTES: usize = 16 * 1024 * 1024;
/// How much of a table one commit of the store takes, in bytes of keys and values: it is copied for
/// that, and the store keeps what it writes in memory until then.
const MOVE_BYTES: usize = 4 * 1024 * 1024;
/// A table that nothing was added to for so long is moved, however small: an idle server holds
/// none of it in memory.
const QUIET: Duration = Duration::from_secs(15);
/// How many times over the active table may grow while the frozen one is being moved.
const OVERFLOW_FACTOR: usize = 4;
/// How long a commit waits for a table that is being moved: a store that takes longer hangs.
const MOVE_PATIENCE: Duration = Duration::from_secs(120);
/// How much of a segment is filled with zeros in advance: this much, or [`RESERVE_FRACTION`] of a
/// table if that is less. What is written over zeros changes neither the file's length nor where
/// its blocks are, so its sync is one write and not several.
const RESERVE_BYTES: usize = 1024 * 1024;
const RESERVE_FRACTION: usize = 16;
/// A frame that is longer, in bytes, is worth the several writes, and not being written twice.
const RESERVED_FRAME_BYTES_MAX: usize = 96 * 1024;
/// What a disk says that has no room for zeros; it may still have some for a frame.
const NO_ROOM: [io::ErrorKind; 2] = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
pub(super) const LOG: Named = Named("log");

/// The log, its segments, and what of it is not in the store yet.
struct Log {
    segment: Box<dyn Segment>,
    /// Where the segment's last whole frame ends.
    end: u64,
    /// Whether something follows it: a commit that was never finished.
    unfinished: bool,
    /// Up to where the segment holds frames and zeros.
    reserved: u64,
    /// How much is filled with zeros at a time.
    reserve_bytes: usize,
    /// The number of the last commit.
    last: u64,
    buffer: Vec<u8>,
    /// A write or a sync failed: what is on disk is in doubt, so nothing more is written.
    failed: bool,
}

#[derive(Default)]
struct Tables {
    active: Table,
    active_bytes: usize,
    /// The table that is being moved into the store, and the last commit in it.
    frozen: Option<(Arc<Table>, u64)>,
}

#[derive(Default)]
struct Mover {
    closing: bool,
    failed: Option<EngineError>,
}

struct Shared<E> {
    store: Store<E>,
    /// Locked before `mover`, and that before `tables`.
    log: Mutex<Log>,
    tables: RwLock<Tables>,
    mover: Mutex<Mover>,
    wake: Condvar,
    segments: Arc<dyn Segments>,
}

/// An [`Engine`] with a write-ahead log before it.
pub struct LoggedEngine<E: Engine> {
    shared: Arc<Shared<E>>,
    table_bytes: usize,
    thread: Option<JoinHandle<()>>,
}

/// The segments' first commit numbers, in order.
fn sorted(segments: &dyn Segments) -> Result<Vec<u64>, EngineError> {
    let mut firsts = segments.list().map_err(LOG.failed("list its segments"))?;
    firsts.sort_unstable();
    Ok(firsts)
}

impl Log {
    /// Removes what follows the last whole frame and is none. Synced by itself: the frame that
    /// comes next may go into the next segment.
    fn trim(&mut self) -> Result<(), EngineError> {
        if self.unfinished {
            let trimmed = self.segment.trim(self.end).and_then(|()| self.segment.sync());
            trimmed.map_err(LOG.failed("trim an unfinished commit"))?;
            (self.unfinished, self.reserved) = (false, self.end);
        }
        Ok(())
    }

    /// Fills what follows the frame that comes next with zeros, if it reaches beyond them. They are
    /// synced with it. A full disk may still have room for the frame, so that is no failure.
    fn reserve(&mut self) -> io::Result<()> {
        let end = self.end + self.buffer.len() as u64;
        if end <= self.reserved || self.buffer.len() > RESERVED_FRAME_BYTES_MAX {
            return Ok(());
        }
        match self.segment.write(end, &vec![0; self.reserve_bytes]) {
            Ok(()) => {
                self.reserved = end + self.reserve_bytes as u64;
                Ok(())
            }
            Err(error) if NO_ROOM.contains(&error.kind()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<E: Engine> LoggedEngine<E> {
    /// Opens the log in `folder` before `store`; `table_bytes` is usually [`TABLE_BYTES`].
    pub fn open(folder: &Path, store: E, table_bytes: usize) -> Result<Self, EngineError> {
        let mut engine =
            Self::open_still(Arc::new(FolderSegments::new(folder)), store, table_bytes)?;
        let mover = engine.shared.clone();
        let thread = std::thread::Builder::new().name("journal-move".into());
        let thread = thread.spawn(move || mover.run()).map_err(LOG.failed("start its thread"))?;
        engine.thread = Some(thread);
        Ok(engine)
    }

    /// As [`LoggedEngine::open`], with the segments given and without the thread: a frozen table
    /// stays until [`LoggedEngine::move_frozen`]. So a simulation decides what happens when.
    pub fn open_still(
        segments: Arc<dyn Segments>,
        store: E,
        table_bytes: usize,
    ) -> Result<Self, EngineError> {
        let (store, moved) = Store::open(store)?;
        let mut replay = Replay { last: moved, ..Replay::default() };
        let firsts = sorted(segments.as_ref())?;
        for (index, first) in firsts.iter().enumerate() {
            let newest = index + 1 == firsts.len();
            replay.segment(segments.as_ref(), *first, newest)?;
        }
        let Replay { last, tables, end, reserved, newest_frame, unfinished } = replay;
        let first = firsts.last().copied().unwrap_or(last + 1);
        let mut segment = segments.open(first).map_err(LOG.failed("begin a segment"))?;
        // A process that ended between its write and its sync left a frame that is whole and may
        // still be lost. After a sync that failed not even the next one would save it, unless it
        // is written again. Nobody may see it before.
        let saved = segment.write(end - newest_frame.len() as u64, &newest_frame);
        saved.and_then(|()| segment.sync()).map_err(LOG.failed("save what it replayed"))?;
        let (mover, wake) = (Mutex::default(), Condvar::new());
        let reserve_bytes = RESERVE_BYTES.min(table_bytes / RESERVE_FRACTION);
        let log = Log {
            segment,
            end,
            unfinished,
            reserved,
            reserve_bytes,
            last,
            buffer: Vec::new(),
            failed: false,
        };
        let (log, tables) = (Mutex::new(log), RwLock::new(tables));
        let shared = Shared { store, log, tables, mover, wake, segments };
        Ok(Self { shared: Arc::new(shared), table_bytes, thread: None })
    }

    /// Moves the frozen table, if there is one, into the store, and says whether there was. What
    /// the thread of [`LoggedEngine::open`] does by itself.
    pub fn move_frozen(&self) -> Result<bool, EngineError> {
        self.shared.move_frozen()
    }

    /// Freezes the active table if it has grown enough and none is being moved; waits if it has
    /// grown far too much meanwhile.
    fn freeze_if_grown(&self, log: &mut Log) -> Result<(), EngineError> {
        let mut mover = self.shared.mover.lock();
        loop {
            if let Some(error) = &mover.failed {
                return Err(LOG.failed("move its table")(&error.reason));
            }
            let mut tables = self.shared.tables.write();
            if tables.active_bytes < self.table_bytes {
                return Ok(());
            }
            if tables.frozen.is_none() {
                self.shared.freeze(log, &mut tables)?;
                drop(tables);
                self.shared.wake.notify_all();
                return Ok(());
            }
            if tables.active_bytes < self.table_bytes * OVERFLOW_FACTOR {
                return Ok(());
            }
            drop(tables);
            if self.shared.wake.wait_for(&mut mover, MOVE_PATIENCE).timed_out() {
                let waited = MOVE_PATIENCE.as_secs();
                let reason = format!("the store has not taken it within {waited} s");
                return Err(LOG.failed("move its table")(reason));
            }
        }
    }

    fn append(&self, log: &mut Log, changes: &[Change]) -> Result<(), EngineError> {
        log.trim()?;
        self.freeze_if_grown(log)?;
        encode_frame(&mut log.buffer, log.last + 1, changes);
        log.segment.write(log.end, &log.buffer).map_err(LOG.failed("append"))?;
        // Behind it: on a full disk the frame has the room, and not the zeros.
        log.reserve().map_err(LOG.failed("reserve room"))?;
        log.segment.sync().map_err(LOG.failed("sync"))?;
        log.last += 1;
        log.end += log.buffer.len() as u64;
        Ok(())
    }
}

/// What opening has read of the segments so far.
#[derive(Default)]
struct Replay {
    /// The number of the last commit.
    last: u64,
    tables: Tables,
    /// Where the last whole frame of the newest segment ends.
    end: u64,
    /// Where the zeros behind it end.
    reserved: u64,
    newest_frame: Vec<u8>,
    /// Whether something else follows it.
    unfinished: bool,
}

impl Replay {
    /// Reads one segment's frames into the active table, those that the store has left out.
    fn segment(
        &mut self,
        segments: &dyn Segments,
        first: u64,
        newest: bool,
    ) -> Result<(), EngineError> {
        let missing = |expected: u64, found: u64| {
            let reason = format!("commit {expected} is missing before {found}");
            LOG.failed("replay a segment")(reason)
        };
        // Even an empty segment tells that everything before it was moved.
        if first > self.last + 1 {
            return Err(missing(self.last + 1, first));
        }
        let bytes = segments.read(first).map_err(LOG.failed("read a segment"))?;
        let (mut at, mut newest_at) = (0, 0);
        while let Some((number, body, length)) = decode_frame(&bytes[at..]) {
            if number > self.last {
                if number != self.last + 1 {
                    return Err(missing(self.last + 1, number));
                }
                let malformed =
                    || LOG.failed("replay a segment")(format!("commit {number} is malformed"));
                take_body(body, &mut self.tables.active).ok_or_else(malformed)?;
                self.tables.active_bytes += length;
                self.last = number;
            }
            newest_at = at;
            at += length;
        }
        self.unfinished = bytes[at..].iter().any(|byte| *byte != 0);
        if self.unfinished && (!newest || has_later_frame(&bytes[at..], self.last)) {
            let reason = format!("{} is damaged at byte {at}", segments.describe(first));
            return Err(LOG.failed("replay a segment")(reason));
        }
        (self.end, self.reserved) = (at as u64, bytes.len() as u64);
        self.newest_frame = bytes[newest_at..at].to_vec();
        Ok(())
    }
}

impl<E: Engine> Shared<E> {
    /// The mover's thread: waits for a frozen table, moves it, drops the segments it came from.
    fn run(&self) {
        let mut seen = 0;
        loop {
            let mut mover = self.mover.lock();
            let is_idle = self.tables.read().frozen.is_none();
            if mover.closing && is_idle {
                return;
            }
            let is_quiet = is_idle && self.wake.wait_for(&mut mover, QUIET).timed_out();
            drop(mover);
            if is_quiet {
                tidy();
            }
            let work = || {
                if is_quiet {
                    seen = self.freeze_unless_grown_since(seen)?;
                }
                self.move_frozen()
            };
            if let Err(error) = LOG.guarded("move its table", work) {
                self.mover.lock().failed = Some(error);
                self.wake.notify_all();
                return;
            }
            self.wake.notify_all();
        }
    }

    /// Freezes the active table if the last commit is still `seen`, and says which it is.
    fn freeze_unless_grown_since(&self, seen: u64) -> Result<u64, EngineError> {
        let mut log = self.log.lock();
        if log.last == seen && !log.failed {
            let is_idle = |tables: &Tables| tables.active.is_empty() || tables.frozen.is_some();
            if !is_idle(&self.tables.read()) {
                log.trim()?;
                self.freeze(&mut log, &mut self.tables.write())?;
            }
        }
        Ok(log.last)
    }

    /// Begins a segment and an empty table; the present one is frozen, where none was.
    fn freeze(&self, log: &mut Log, tables: &mut Tables) -> Result<(), EngineError> {
        let begun = self.segments.open(log.last + 1);
        log.segment = begun.map_err(LOG.failed("begin a segment"))?;
        (log.end, log.reserved) = (0, 0);
        log.buffer = Vec::new();
        tables.frozen = Some((Arc::new(std::mem::take(&mut tables.active)), log.last));
        tables.active_bytes = 0;
        Ok(())
    }

    fn move_frozen(&self) -> Result<bool, EngineError> {
        let Some((table, last)) = self.tables.read().frozen.clone() else { return Ok(false) };
        self.move_table(&table, last)?;
        let mover = self.mover.lock();
        self.tables.write().frozen = None;
        drop(mover);
        Ok(true)
    }

    fn move_table(&self, table: &Table, last: u64) -> Result<(), EngineError> {
        let (mut batch, mut bytes) = (WriteBatch::default(), 0);
        for (key, value) in table {
            bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
            batch.changes.push((key.to_vec(), value.as_deref().map(<[u8]>::to_vec)));
            if bytes >= MOVE_BYTES {
                self.store.commit(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.store.commit(batch)?;
        // Apart and behind it: a store that loses the end of what it was given, and says nothing,
        // loses this first, and then the segments do not join on and opening is refused.
        let mut moved = WriteBatch::default();
        moved.put(self.store.moved_key().to_vec(), last.to_be_bytes().to_vec());
        self.store.commit(moved)?;
        let firsts = sorted(self.segments.as_ref())?;
        // A segment is done with when the next one begins at or before the first unmoved commit.
        for pair in firsts.windows(2) {
            if pair[1] <= last + 1 {
                self.segments.remove(pair[0]).map_err(LOG.failed("remove a segment"))?;
            }
        }
        Ok(())
    }
}

impl<E: Engine> Engine for LoggedEngine<E> {
    fn name(&self) -> &'static str {
        self.shared.store.engine.name()
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let mut log = self.shared.log.lock();
        if std::mem::replace(&mut log.failed, true) {
            return Err(LOG.failed("append")("an earlier write failed"));
        }
        self.append(&mut log, &batch.changes)?;
        log.failed = false;
        let mut tables = self.shared.tables.write();
        tables.active_bytes += log.buffer.len();
        let taken = take_body(&log.buffer[FRAME_HEAD_BYTES..], &mut tables.active);
        taken.ok_or_else(|| LOG.failed("append")("its own frame is malformed"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let tables = self.shared.tables.read();
        if let Some(value) = tables.active.get(key) {
            return Ok(value.as_deref().map(<[u8]>::to_vec));
        }
        if let Some(value) = tables.frozen.as_ref().and_then(|(table, _)| table.get(key)) {
            return Ok(value.as_deref().map(<[u8]>::to_vec));
        }
        self.shared.store.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        if start >= end {
            return Ok(Vec::new());
        }
        // Held throughout, so that no table moves between the layers' looks.
        let tables = self.shared.tables.read();
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let empty = Table::new();
        let frozen = tables.frozen.as_ref().map_or(&empty, |(table, _)| table);
        let active = tables.active.range::<[u8], _>(bounds);
        let frozen = frozen.range::<[u8], _>(bounds);
        let forward = direction == Direction::Forward;
        let (mut active, mut frozen): (Layer<'_>, Layer<'_>) = if forward {
            (Box::new(active), Box::new(frozen))
        } else {
            (Box::new(active.rev()), Box::new(frozen.rev()))
        };
        // As many more as could be hidden by a deletion or a newer value above.
        let hidden = self.hidden_in(&tables, bounds, limit);
        let stored = self.shared.store.scan(start, end, direction, limit + hidden)?;
        Ok(merge(&mut active, &mut frozen, stored, forward, limit))
    }

    fn syncs_per_commit(&self) -> u32 {
        1
    }
}

type Layer<'a> = Box<dyn Iterator<Item = (&'a Slice, &'a Option<Slice>)> + 'a>;

impl<E: Engine> LoggedEngine<E> {
    /// How many stored pairs the tables' entries in these bounds may hide, at most.
    fn hidden_in(
        &self,
        tables: &Tables,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
    ) -> usize {
        let deletions = |table: &Table| {
            table.range::<[u8], _>(bounds).filter(|(_, value)| value.is_none()).count()
        };
        // A newer value takes the place of the one it hides, so only deletions leave a hole.
        let frozen = tables.frozen.as_ref().map_or(0, |(table, _)| deletions(table));
        (deletions(&tables.active) + frozen).min(usize::MAX - limit)
    }
}

/// Merges three sorted layers, of equal keys the newest, deletions left out.
fn merge(
    active: &mut Layer<'_>,
    frozen: &mut Layer<'_>,
    stored: Vec<Pair>,
    forward: bool,
    limit: usize,
) -> Vec<Pair> {
    let (mut active, mut frozen) = (active.peekable(), frozen.peekable());
    let mut stored = stored.into_iter().peekable();
    let mut pairs = Vec::new();
    while pairs.len() < limit {
        let nearer = |a: &[u8], b: &[u8]| if forward { a <= b } else { a >= b };
        let nexts = [
            active.peek().map(|(key, _)| &***key),
            frozen.peek().map(|(key, _)| &***key),
            stored.peek().map(|(key, _)| key.as_slice()),
        ];
        let next = nexts.into_iter().flatten().reduce(|a, b| if nearer(a, b) { a } else { b });
        let Some(key) = next.map(<[u8]>::to_vec) else { break };
        let owned = |(_, value): (&Slice, &Option<Slice>)| value.as_deref().map(<[u8]>::to_vec);
        let newest = active.next_if(|(at, _)| ***at == *key).map(owned);
        let middle = frozen.next_if(|(at, _)| ***at == *key).map(owned);
        let oldest = stored.next_if(|(at, _)| *at == key).map(|(_, value)| Some(value));
        if let Some(Some(value)) = newest.or(middle).or(oldest) {
            pairs.push((key, value));
        }
    }
    pairs
}

impl<E: Engine> Drop for LoggedEngine<E> {
    fn drop(&mut self) {
        self.shared.mover.lock().closing = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
