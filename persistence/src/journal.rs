//! The journal's contract: what the layers above may ask of it.
//!
//! Appends are queued and answered through their riders, in queue order, once durable; reads see
//! what is committed. Nothing here assumes one process: positions are per shard, a [`Ticket`] is
//! only this process's measure of "how far has my queue got".

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::archive::Archives;
use crate::backup::Tap;
use crate::chain::ChainHead;
use crate::engine::{Direction, Engine, WriteBatch};
use crate::layout::{self, ChainEntry, RowKey, RowRange, StreamEntry};
use crate::record::{
    Header, Home, NewRecord, OwnerKey, Position, Record, RequestRef, Shard, StreamName,
};
use crate::sealing::KeyRing;
use crate::space::SpaceFigures;
use crate::{ReadError, codec, record};

/// How deep the queue may get before [`Journal::is_full`] asks the callers to stop, in works.
pub const QUEUE_MAX: usize = 65_536;
/// How many works beyond that may wait that end, release or stop something.
pub const QUEUE_RESERVE: usize = 4_096;
/// How many index entries one read looks at before it pages on.
const ENTRIES_PER_SCAN: usize = 256;

/// How far the queue of this process has got; later works have greater tickets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An append was made by an incarnation that is not the stream's writer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The number the appender thought was last.
    pub expected_seq: u64,
    /// The number that is last.
    pub found_seq: u64,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk. The position of its first record, if it had records.
    Durable(Option<Position>),
    /// It changed nothing.
    Refused(Conflict),
}

/// Runs once the work is durable or refused. Dropped without a call: in doubt. A rider runs on
/// the writer's thread, so it may send to a channel and store an atomic, and nothing slower.
pub type Rider = Box<dyn FnOnce(Outcome) + Send>;

/// A row's key and its new sealed value, `None` to delete it.
pub type RowChange = (RowKey, Option<Vec<u8>>);

/// Records for one stream, and the rows that change with them, in one atomic step.
pub struct Append {
    /// The stream.
    pub stream: StreamName,
    /// Who owns it.
    pub owner: OwnerKey,
    /// Whose chain the records go into.
    pub home: Home,
    /// Which incarnation of the entity writes: once one append of it was refused, all are.
    pub incarnation: u64,
    /// The number of the last record it knows of.
    pub expected_seq: u64,
    /// The records.
    pub records: Vec<NewRecord>,
    /// What the records' headers say beside what the writer knows.
    pub caller: Arc<str>,
    /// The request.
    pub request: RequestRef,
    /// The record whose effect asked for this.
    pub cause: Option<Position>,
    /// The command.
    pub command: Arc<str>,
    /// Milliseconds since 1970, of the turn.
    pub time_ms: i64,
    /// Rows that change in the same step.
    pub rows: Vec<RowChange>,
    /// What runs then.
    pub rider: Rider,
}

pub(crate) enum Work {
    Append(Box<Append>),
    Rows(Vec<RowChange>, Rider),
    Snapshot(StreamName, u64, Vec<u8>),
    /// The journal's own upkeep: no record, no row.
    Changes(WriteBatch, Rider),
    Ride(Rider),
    Stop,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) works: Vec<Work>,
    pub(crate) last_ticket: u64,
    pub(crate) closed: bool,
}

/// The journal's figures, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Engine commits.
    pub commits: u64,
    /// Records written.
    pub records: u64,
    /// Bytes handed to the engine.
    pub bytes: u64,
    /// Syncs that the engine's commits cost.
    pub syncs: u64,
    /// Works waiting now.
    pub queue_depth: u64,
    /// The last commit's duration, in microseconds.
    pub last_commit_us: u64,
    /// The slowest commit's duration, in microseconds.
    pub slowest_commit_us: u64,
    /// The most records in one commit.
    pub records_per_commit_max: u64,
    /// Room on the disk at the last look, in bytes; 0 if nobody looks.
    pub free_bytes: u64,
    /// Whether that is too little for new work.
    pub low_space: bool,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) last_commit_us: AtomicU64,
    pub(crate) slowest_commit_us: AtomicU64,
    pub(crate) records_per_commit_max: AtomicU64,
}

/// Called by the writer after each commit, before its riders, with the new last position of each
/// shard that got records. The same limits as for a [`Rider`].
pub type Listener = Box<dyn Fn(&[Position]) + Send + Sync>;

/// Called by the writer after each commit, before its riders, with the home of each chain that
/// got records and the number of its last one. The same limits as for a [`Rider`].
pub type ChainListener = Box<dyn Fn(&[(Home, u64)]) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) work_arrived: Condvar,
    pub(crate) durable: AtomicU64,
    /// The last ticket given, for who must not wait for the queue's lock.
    pub(crate) queued: AtomicU64,
    /// When the writer last got on, or was first given something to do.
    pub(crate) moved: Moved,
    pub(crate) counters: Counters,
    pub(crate) space: Arc<SpaceFigures>,
    pub(crate) listeners: RwLock<Vec<Listener>>,
    pub(crate) chain_listeners: RwLock<Vec<ChainListener>>,
    /// Held by the one backup that may run.
    pub(crate) backup_running: Mutex<()>,
    /// Where a running backup hears of commits.
    pub(crate) tap: Mutex<Option<Tap>>,
    /// The data folder; none in memory.
    pub(crate) folder: OnceLock<PathBuf>,
    pub(crate) archives: Archives,
}

impl Shared {
    /// The number of the stream's last durable record, 0 for none.
    pub(crate) fn stream_head(&self, stream: &StreamName) -> Result<u64, ReadError> {
        let (first, end) = (layout::stream(stream, 0), layout::stream(stream, u64::MAX));
        let found = self.engine.scan(&first, &end, Direction::Backward, 1)?;
        let Some((_, bytes)) = found.first() else { return Ok(0) };
        let entry: StreamEntry = decode(bytes, || format!("the index of {stream}"))?;
        Ok(entry.last_seq)
    }

    /// How far the home's chain has come, durably.
    pub(crate) fn chain_head(&self, home: Home) -> Result<ChainHead, ReadError> {
        match self.engine.get(&layout::chain_head(home))? {
            Some(bytes) => decode(&bytes, || format!("the chain head of {}", home.0)),
            None => Ok(ChainHead::default()),
        }
    }
}

/// A moment that threads share, to the millisecond.
pub(crate) struct Moved {
    origin: Instant,
    at_ms: AtomicU64,
}

impl Default for Moved {
    fn default() -> Self {
        Self { origin: Instant::now(), at_ms: AtomicU64::new(0) }
    }
}

impl Moved {
    pub(crate) fn note(&self) {
        self.at_ms.store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(at)
    }
}

/// A running journal. Closing it drains the queue.
pub struct Journal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Queues an append. Once the journal is closed the rider is dropped, which means in doubt.
    pub fn append(&self, append: Append) -> Ticket {
        self.push(Work::Append(Box::new(append)))
    }

    /// Queues changes to rows alone: housekeeping that no record speaks of.
    pub fn change_rows(&self, rows: Vec<RowChange>, rider: Rider) -> Ticket {
        self.push(Work::Rows(rows, rider))
    }

    /// Queues a stream's sealed snapshot, which stands for its records up to `seq`.
    pub fn snapshot(&self, stream: StreamName, seq: u64, sealed: Vec<u8>) -> Ticket {
        self.push(Work::Snapshot(stream, seq, sealed))
    }

    /// Runs `rider` once everything queued so far is durable.
    pub fn ride(&self, rider: Rider) -> Ticket {
        self.push(Work::Ride(rider))
    }

    pub(crate) fn push(&self, work: Work) -> Ticket {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            // Never durable: whatever waits for this is in doubt.
            return Ticket(u64::MAX);
        }
        queue.closed = matches!(work, Work::Stop);
        if self.shared.durable.load(Ordering::Relaxed) == queue.last_ticket {
            // It had nothing to do: what it has not done since counts from now.
            self.shared.moved.note();
        }
        queue.last_ticket += 1;
        let ticket = Ticket(queue.last_ticket);
        queue.works.push(work);
        self.shared.queued.store(ticket.0, Ordering::Relaxed);
        if queue.works.len() == 1 {
            self.shared.work_arrived.notify_one();
        }
        ticket
    }

    /// Everything up to this ticket is durable.
    pub fn durable(&self) -> Ticket {
        Ticket(self.shared.durable.load(Ordering::Acquire))
    }

    /// Whether new work should be refused until the writer has caught up.
    pub fn is_full(&self) -> bool {
        self.waiting() >= QUEUE_MAX as u64
    }

    /// As [`Journal::is_full`], for what ends, releases or stops something: it has a reserve.
    pub fn is_full_for_essentials(&self) -> bool {
        self.waiting() >= (QUEUE_MAX + QUEUE_RESERVE) as u64
    }

    fn waiting(&self) -> u64 {
        let queued = self.shared.queued.load(Ordering::Relaxed);
        queued.saturating_sub(self.shared.durable.load(Ordering::Relaxed))
    }

    /// How long the writer has had something to do and has finished nothing; `None` while it has
    /// nothing to do. It asks nobody and waits for nothing.
    pub fn stuck_for(&self) -> Option<Duration> {
        (self.waiting() > 0).then(|| self.shared.moved.elapsed())
    }

    /// Whether the disk is nearly full, so that only what finishes or frees something should come.
    pub fn is_low_on_space(&self) -> bool {
        self.shared.space.low.load(Ordering::Relaxed)
    }

    /// The keys that records and rows are sealed with.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.shared.keys
    }

    /// Adds a listener for commits.
    pub fn on_commit(&self, listener: Listener) {
        self.shared.listeners.write().push(listener);
    }

    /// Adds a listener for chains that have grown.
    pub fn on_chains(&self, listener: ChainListener) {
        self.shared.chain_listeners.write().push(listener);
    }

    /// The figures.
    pub fn statistics(&self) -> Statistics {
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let commits = load(&counters.commits);
        Statistics {
            commits,
            records: load(&counters.records),
            bytes: load(&counters.bytes),
            syncs: commits * u64::from(self.shared.engine.syncs_per_commit()),
            queue_depth: self.shared.queue.lock().works.len() as u64,
            last_commit_us: load(&counters.last_commit_us),
            slowest_commit_us: load(&counters.slowest_commit_us),
            records_per_commit_max: load(&counters.records_per_commit_max),
            free_bytes: load(&self.shared.space.free_bytes),
            low_space: self.is_low_on_space(),
        }
    }

    /// The data folder; none if the journal is in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.shared.folder.get().map(PathBuf::as_path)
    }

    /// The engine's name.
    pub fn engine_name(&self) -> &'static str {
        self.shared.engine.name()
    }

    /// Commits what is queued, then ends the writer. Later works are dropped.
    pub fn close(&self) {
        self.push(Work::Stop);
        let writer = self.writer.lock().take();
        // The last holder may be a rider, on the writer's own thread: that one ends by itself.
        let other = writer.filter(|writer| writer.thread().id() != std::thread::current().id());
        if let Some(writer) = other {
            let _ = writer.join();
        }
    }

    /// The number of the stream's last durable record, 0 for none.
    pub fn stream_head(&self, stream: &StreamName) -> Result<u64, ReadError> {
        self.shared.stream_head(stream)
    }

    /// Up to about `limit` records of `stream` with numbers above `after_seq`, in order.
    pub fn read(
        &self,
        stream: &StreamName,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let engine = &self.shared.engine;
        // The entry that holds `after_seq + 1` may begin before it.
        let before = layout::stream(stream, after_seq + 2);
        let first = layout::stream(stream, 0);
        let found = engine.scan(&first, &before, Direction::Backward, 1)?;
        let mut start = found.into_iter().next().map_or(first, |(key, _)| key);
        let end = layout::stream(stream, u64::MAX);
        let mut records = Vec::new();
        while records.len() < limit {
            let entries = engine.scan(&start, &end, Direction::Forward, ENTRIES_PER_SCAN)?;
            let Some((last_key, _)) = entries.last() else {
                break;
            };
            start = [last_key.as_slice(), &[0]].concat();
            for (_, bytes) in &entries {
                let entry: StreamEntry = decode(bytes, || format!("the index of {stream}"))?;
                if entry.last_seq > after_seq && records.len() < limit {
                    let of_stream =
                        |header: &Header| header.stream == *stream && header.seq > after_seq;
                    self.collect(entry.shard, entry.first_pos, of_stream, &mut records)?;
                }
            }
        }
        check_dense(&records)?;
        Ok(records)
    }

    /// Up to about `limit` records of `shard` from position `from` on, in order.
    pub fn read_shard(
        &self,
        shard: Shard,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let engine = &self.shared.engine;
        let first = layout::records(shard, 0);
        let found =
            engine.scan(&first, &layout::records(shard, from + 1), Direction::Backward, 1)?;
        let start = found.into_iter().next().map_or(first, |(key, _)| key);
        let end = layout::records(shard, u64::MAX);
        let mut records = Vec::new();
        for (key, _) in engine.scan(&start, &end, Direction::Forward, limit.max(1))? {
            if records.len() >= limit {
                break;
            }
            let wanted = |header: &Header| header.position.pos >= from;
            self.collect(shard, layout::first_pos_of(&key), wanted, &mut records)?;
        }
        Ok(records)
    }

    /// Up to about `limit` records of a home's chain: numbers from `from` upwards, or downwards
    /// from `from` if `newest_first`. In that order.
    pub fn read_chain(
        &self,
        home: Home,
        from: u64,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let engine = &self.shared.engine;
        let first = layout::chain(home, 0);
        let upto = layout::chain(home, from.saturating_add(1));
        let mut records = Vec::new();
        let (mut start, mut end, direction) = if newest_first {
            (first, upto, Direction::Backward)
        } else {
            let found = engine.scan(&first, &upto, Direction::Backward, 1)?;
            let start = found.into_iter().next().map_or(first, |(key, _)| key);
            (start, layout::chain(home, u64::MAX), Direction::Forward)
        };
        while records.len() < limit {
            let pairs = engine.scan(&start, &end, direction, 16)?;
            let Some((last_key, _)) = pairs.last() else {
                break;
            };
            match direction {
                Direction::Forward => start = [last_key.as_slice(), &[0]].concat(),
                Direction::Backward => end = last_key.clone(),
            }
            for (_, bytes) in &pairs {
                if records.len() < limit {
                    let entry: ChainEntry = decode(bytes, || format!("a chain of {}", home.0))?;
                    records.extend(self.chain_entry(home, &entry, from, newest_first)?);
                }
            }
        }
        Ok(records)
    }

    fn chain_entry(
        &self,
        home: Home,
        entry: &ChainEntry,
        from: u64,
        newest_first: bool,
    ) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        for (shard, first_pos) in &entry.values {
            let wanted = |header: &Header| {
                let in_range =
                    if newest_first { header.chain_seq <= from } else { header.chain_seq >= from };
                header.home == home && in_range
            };
            self.collect(*shard, *first_pos, wanted, &mut records)?;
        }
        records.sort_by_key(|record| record.header.chain_seq);
        if newest_first {
            records.reverse();
        }
        Ok(records)
    }

    /// Where in the home's chain to start looking for what was recorded at or after `time_ms`:
    /// at or a batch before the first such record.
    pub fn chain_seq_near(&self, home: Home, time_ms: i64) -> Result<u64, ReadError> {
        let low = self.chain_seq_from(home, time_ms)?;
        // The entry before may have begun earlier and still hold records of that time.
        let (first, upto) = (layout::chain(home, 0), layout::chain(home, low));
        let before = self.shared.engine.scan(&first, &upto, Direction::Backward, 1)?;
        Ok(before.first().map_or(1, |(key, _)| layout::first_pos_of(key)))
    }

    /// The first number of the home's chain in a batch that began at or after `time_ms`; its last
    /// number when there is none.
    pub fn chain_seq_from(&self, home: Home, time_ms: i64) -> Result<u64, ReadError> {
        let (mut low, mut high) = (0, self.chain_head(home)?.chain_seq);
        let first = layout::chain(home, 0);
        while low < high {
            let middle = low + (high - low) / 2;
            let upto = layout::chain(home, middle + 1);
            let found = self.shared.engine.scan(&first, &upto, Direction::Backward, 1)?;
            let Some((_, bytes)) = found.into_iter().next() else {
                low = middle + 1;
                continue;
            };
            let entry: ChainEntry = decode(&bytes, || format!("a chain of {}", home.0))?;
            if entry.time_ms < time_ms { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Every home that has a chain, a page at a time: those after `after`.
    pub fn homes(&self, after: Option<Home>, limit: usize) -> Result<Vec<Home>, ReadError> {
        let start = after
            .map_or(b"h".to_vec(), |home| [layout::chain_head(home).as_slice(), &[0]].concat());
        let pairs = self.shared.engine.scan(&start, b"i", Direction::Forward, limit)?;
        let home = |key: &[u8]| key.last_chunk::<16>().map(|id| Home(u128::from_be_bytes(*id)));
        Ok(pairs.iter().filter_map(|(key, _)| home(key)).collect())
    }

    /// The name of the first stream of `kind` after the stream `after`.
    pub fn next_stream(
        &self,
        kind: &str,
        after: Option<&StreamName>,
    ) -> Result<Option<StreamName>, ReadError> {
        let prefix = [b"s", kind.as_bytes(), b"/"].concat();
        let start = after.map_or(prefix.clone(), |stream| layout::stream(stream, u64::MAX));
        let end = layout::successor(&prefix);
        let found = self.shared.engine.scan(&start, &end, Direction::Forward, 1)?;
        let Some((key, _)) = found.first() else { return Ok(None) };
        let name = key.get(1..key.len().saturating_sub(9)).unwrap_or_default();
        Ok(std::str::from_utf8(name).ok().and_then(StreamName::new))
    }

    /// How far the home's chain has come.
    pub fn chain_head(&self, home: Home) -> Result<ChainHead, ReadError> {
        self.shared.chain_head(home)
    }

    fn collect(
        &self,
        shard: Shard,
        first_pos: u64,
        wanted: impl Fn(&Header) -> bool,
        into: &mut Vec<Record>,
    ) -> Result<(), ReadError> {
        let at = || format!("shard {} position {first_pos}", shard.0);
        let damaged = |source| ReadError::Damaged { at: at(), source };
        let value = self.shared.records(shard, first_pos)?;
        let value = value.ok_or_else(|| damaged(codec::CodecError::Short(0)))?;
        for frame in record::frames(&value).map_err(damaged)? {
            let header: Header = decode(frame.header, at)?;
            if wanted(&header) {
                let payload = frame.payload.to_vec();
                into.push(Record { header, link: frame.link, payload });
            }
        }
        Ok(())
    }

    /// The stream's snapshot: the number it stands for, and its sealed bytes.
    pub fn read_snapshot(&self, stream: &StreamName) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
        let value = self.shared.engine.get(&layout::snapshot(stream))?;
        Ok(value.and_then(|bytes| {
            let (seq, sealed) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_be_bytes(*seq), sealed.to_vec()))
        }))
    }

    /// A row's sealed value, of what is committed.
    pub fn row(&self, key: &RowKey) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.shared.engine.get(&key.bytes())?)
    }

    /// The rows of a range, of what is committed.
    pub fn row_range(&self, range: &RowRange) -> Result<Vec<(RowKey, Vec<u8>)>, ReadError> {
        let (start, end) = range.bounds();
        let direction = if range.newest_first { Direction::Backward } else { Direction::Forward };
        let pairs = self.shared.engine.scan(&start, &end, direction, range.limit)?;
        Ok(pairs.into_iter().map(|(key, value)| (range.row_key(&key), value)).collect())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// An index entry that is not there any more leaves a hole, which must not pass for the truth.
fn check_dense(records: &[Record]) -> Result<(), ReadError> {
    let hole = records.windows(2).find(|pair| pair[1].header.seq != pair[0].header.seq + 1);
    let Some([before, _]) = hole else { return Ok(()) };
    let Header { stream, seq, .. } = &before.header;
    let at = format!("what follows record {seq} of {stream}");
    Err(ReadError::Damaged { at, source: codec::CodecError::Short(0) })
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    at: impl FnOnce() -> String,
) -> Result<T, ReadError> {
    codec::decode(bytes).map_err(|source| ReadError::Damaged { at: at(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{EngineKind, MasterKey, Options};

    #[test]
    fn a_writer_that_gets_nowhere_is_seen_and_an_idle_one_is_not() {
        let options = Options { engine: EngineKind::Memory, ..Options::new("") };
        let journal = Journal::open(options, &MasterKey::from_bytes([7; 32])).unwrap();
        assert_eq!(journal.stuck_for(), None);
        let (go_on, stands) = channel::<()>();
        let (came, seen) = channel();
        journal.ride(Box::new(move |_| {
            came.send(()).unwrap();
            let _ = stands.recv();
        }));
        seen.recv().unwrap();
        let (done, finished) = channel();
        journal.ride(Box::new(move |_| done.send(()).unwrap()));
        assert!(journal.stuck_for().is_some());
        go_on.send(()).unwrap();
        finished.recv().unwrap();
        assert_eq!(journal.stuck_for(), None);
    }
}
