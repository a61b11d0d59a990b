//! The one thread that writes: it gathers what is queued into one batch, gives positions and
//! links, commits, and only then lets the riders go.
//!
//! Invariants: positions of a shard and numbers of a stream and of a chain are dense; a batch is
//! committed whole; riders run in queue order and never before their work is durable; a failed
//! commit ends the writer for good (what it knew is in doubt, and replay is the only recovery).

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chain::ChainHead;
use crate::engine::WriteBatch;
use crate::generations::Generations;
use crate::head_file::HeadFile;
use crate::journal::{Append, Conflict, Outcome, Rider, Shared, Work};
use crate::layout::{self, ChainEntry, Meta, StreamEntry};
use crate::record::{self, Digest, Header, Home, Position, Shard, StreamName, ValueBuilder};
use crate::space::Space;
use crate::tidy::tidy;
use crate::{ReadError, codec};

/// The most works in one batch.
const BATCH_WORKS_MAX: usize = 4_096;
/// The most payload bytes in one batch, beyond which the rest waits for the next.
const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many streams' and chains' heads stay in memory, at most twice over.
const STREAM_HEADS_MAX: usize = 32_768;
const CHAIN_HEADS_MAX: usize = 4_096;
/// How many refused incarnations are remembered, at most twice over.
const REFUSED_MAX: usize = 4_096;
/// How often the head file is synced.
const HEAD_SYNC_PERIOD: Duration = Duration::from_secs(1);
/// How long the writer sleeps at most while there is something to look after.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Ends the process, or whatever else a failed journal means to its owner.
pub(crate) type OnFatal = Box<dyn Fn(&str) + Send>;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) meta: Meta,
    pub(crate) head_file: Option<HeadFile>,
    pub(crate) on_fatal: OnFatal,
    space: Option<Space>,
    streams: Generations<StreamName, u64>,
    chains: Generations<Home, ChainHead>,
    refused: Generations<u64, ()>,
    head_synced: Instant,
    head_dirty: bool,
}

/// Why the writer cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error(transparent)]
    Engine(#[from] crate::EngineError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Seal(#[from] crate::SealError),
    #[error(transparent)]
    Codec(#[from] crate::CodecError),
    #[error("the head file could not be written: {0}")]
    HeadFile(#[source] std::io::Error),
}

/// One batch while it is gathered.
#[derive(Default)]
struct Batch {
    changes: WriteBatch,
    values: BTreeMap<Shard, (u64, ValueBuilder)>,
    streams: HashMap<StreamName, (u64, StreamEntry)>,
    chains: HashMap<Home, (u64, ChainEntry)>,
    rolling: Vec<u8>,
    riders: Vec<(Rider, Outcome)>,
    records: u64,
    bytes: usize,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        meta: Meta,
        head_file: Option<HeadFile>,
        on_fatal: OnFatal,
        space: Option<Space>,
    ) -> Self {
        Self {
            shared,
            meta,
            head_file,
            on_fatal,
            space,
            streams: Generations::new(STREAM_HEADS_MAX),
            chains: Generations::new(CHAIN_HEADS_MAX),
            refused: Generations::new(REFUSED_MAX),
            head_synced: Instant::now(),
            head_dirty: false,
        }
    }

    /// Runs until [`Work::Stop`] or a failure.
    pub(crate) fn run(mut self) {
        // A panic here is a failure like any other: nothing may wait for a writer that is gone.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_loop()));
        let reason = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(fatal)) => Some(fatal.to_string()),
            Err(_) => Some("the writer panicked".to_owned()),
        };
        if let Some(reason) = reason {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            let dropped = std::mem::take(&mut queue.works);
            drop(queue);
            (self.on_fatal)(&reason);
            drop(dropped);
        }
    }

    fn write_loop(&mut self) -> Result<(), Fatal> {
        loop {
            let Some((works, last_ticket)) = self.next_works()? else {
                self.sync_head()?;
                tidy();
                continue;
            };
            let count = works.len() as u64;
            let first_ticket = last_ticket - count;
            let mut works = works.into_iter().peekable();
            let mut done = 0;
            while works.peek().is_some() {
                let mut batch = Batch::default();
                let mut stop = false;
                let started = done;
                for work in works.by_ref() {
                    done += 1;
                    stop = matches!(work, Work::Stop);
                    self.gather(work, &mut batch)?;
                    let full = batch.bytes >= BATCH_BYTES_MAX || done - started >= BATCH_WORKS_MAX;
                    if stop || full {
                        break;
                    }
                }
                self.commit(batch, first_ticket + done as u64)?;
                if stop {
                    return self.sync_head();
                }
            }
        }
    }

    /// Takes all that is queued; `None` when nothing came for a while and there may be something
    /// to look after.
    fn next_works(&mut self) -> Result<Option<(Vec<Work>, u64)>, Fatal> {
        if self.head_dirty && self.head_synced.elapsed() >= HEAD_SYNC_PERIOD {
            self.sync_head()?;
        }
        self.space.iter_mut().for_each(Space::look_if_due);
        let shared = self.shared.clone();
        let mut queue = shared.queue.lock();
        while queue.works.is_empty() {
            if !self.head_dirty && self.space.is_none() {
                shared.work_arrived.wait(&mut queue);
            } else if shared.work_arrived.wait_for(&mut queue, PAUSE_MAX).timed_out() {
                return Ok(None);
            }
        }
        Ok(Some((std::mem::take(&mut queue.works), queue.last_ticket)))
    }

    fn gather(&mut self, work: Work, batch: &mut Batch) -> Result<(), Fatal> {
        match work {
            Work::Append(append) => self.gather_append(*append, batch)?,
            Work::Rows(rows, rider) => {
                put_rows(rows, batch);
                batch.riders.push((rider, Outcome::Durable(None)));
            }
            Work::Snapshot(stream, seq, sealed) => {
                let value = [seq.to_be_bytes().as_slice(), &sealed].concat();
                batch.bytes += value.len();
                batch.changes.put(layout::snapshot(&stream), value);
            }
            Work::Changes(changes, rider) => {
                let sizes =
                    changes.changes.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len));
                batch.bytes += sizes.sum::<usize>();
                batch.changes.changes.extend(changes.changes);
                batch.riders.push((rider, Outcome::Durable(None)));
            }
            Work::Ride(rider) => batch.riders.push((rider, Outcome::Durable(None))),
            Work::Stop => {}
        }
        Ok(())
    }

    fn gather_append(&mut self, append: Append, batch: &mut Batch) -> Result<(), Fatal> {
        let found_seq = self.stream_head(&append.stream)?;
        let stale = self.refused.get_mut(&append.incarnation).is_some();
        if stale || found_seq != append.expected_seq {
            self.refused.insert(append.incarnation, ());
            let conflict = Conflict { expected_seq: append.expected_seq, found_seq };
            batch.riders.push((append.rider, Outcome::Refused(conflict)));
            return Ok(());
        }
        let shard = append.owner.shard();
        let mut first = None;
        if !append.records.is_empty() {
            let mut chain = match self.chains.get_mut(&append.home) {
                Some(head) => std::mem::take(head),
                None => self.shared.chain_head(append.home)?,
            };
            first = Some(self.gather_records(&append, shard, &mut chain, batch)?);
            self.chains.insert(append.home, chain);
            let seq = found_seq + append.records.len() as u64;
            self.streams.insert(append.stream.clone(), seq);
        }
        put_rows(append.rows, batch);
        batch.riders.push((append.rider, Outcome::Durable(first)));
        Ok(())
    }

    fn gather_records(
        &mut self,
        append: &Append,
        shard: Shard,
        chain: &mut ChainHead,
        batch: &mut Batch,
    ) -> Result<Position, Fatal> {
        let shard_head = &mut self.meta.positions[usize::from(shard.0)];
        let first = Position { shard, pos: *shard_head + 1 };
        let (first_pos, value) =
            batch.values.entry(shard).or_insert_with(|| (first.pos, ValueBuilder::default()));
        let first_pos = *first_pos;
        let first_chain_seq = chain.chain_seq + 1;
        for (index, new) in append.records.iter().enumerate() {
            *shard_head += 1;
            let header = Header {
                position: Position { shard, pos: *shard_head },
                stream: append.stream.clone(),
                seq: append.expected_seq + 1 + index as u64,
                owner: append.owner,
                home: append.home,
                chain_seq: chain.chain_seq + 1,
                caller: append.caller.clone(),
                request: append.request,
                cause: append.cause,
                command: append.command.clone(),
                event: new.event.clone(),
                event_version: new.event_version,
                time_ms: append.time_ms,
            };
            let bytes = codec::encode(&header)?;
            let link = record::link(&chain.link, &bytes, &new.payload);
            chain.push(link);
            value.push(&bytes, &link, &new.payload);
            batch.rolling.extend_from_slice(&link);
            batch.bytes += bytes.len() + new.payload.len();
            batch.records += 1;
        }
        let entry = StreamEntry { shard, first_pos, last_seq: append.expected_seq };
        let first_seq = append.expected_seq + 1;
        let (_, entry) = batch.streams.entry(append.stream.clone()).or_insert((first_seq, entry));
        entry.last_seq += append.records.len() as u64;
        let (_, entry) = batch.chains.entry(append.home).or_insert_with(|| {
            let (time_ms, values) = (append.time_ms, Vec::new());
            (first_chain_seq, ChainEntry { time_ms, last_chain_seq: 0, values })
        });
        entry.last_chain_seq = chain.chain_seq;
        if !entry.values.contains(&(shard, first_pos)) {
            entry.values.push((shard, first_pos));
        }
        Ok(first)
    }

    fn commit(&mut self, batch: Batch, last_ticket: u64) -> Result<(), Fatal> {
        let Batch { mut changes, values, streams, chains, rolling, riders, records, bytes } = batch;
        let mut positions = Vec::with_capacity(values.len());
        for (shard, (first_pos, value)) in values {
            changes.put(layout::records(shard, first_pos), value.finish());
            positions.push(Position { shard, pos: self.meta.positions[usize::from(shard.0)] });
        }
        for (stream, (first_seq, entry)) in streams {
            changes.put(layout::stream(&stream, first_seq), codec::encode(&entry)?);
        }
        let mut grown = Vec::with_capacity(chains.len());
        for (home, (first_chain_seq, entry)) in chains {
            grown.push((home, entry.last_chain_seq));
            changes.put(layout::chain(home, first_chain_seq), codec::encode(&entry)?);
            if let Some(head) = self.chains.get_mut(&home) {
                changes.put(layout::chain_head(home), codec::encode(&*head)?);
            }
        }
        if !changes.changes.is_empty() {
            self.shared.keys.sync()?;
            self.meta.commit += 1;
            self.meta.rolling = record::sha256(&[&self.meta.rolling, &rolling]);
            changes.put(layout::META.to_vec(), codec::encode(&self.meta)?);
            let copy = self.shared.copy_for_tap(&changes);
            let started = Instant::now();
            self.shared.engine.commit(changes)?;
            self.count(started, records, bytes);
            if let Some(copy) = copy {
                self.shared.tap_commit(&self.meta, copy);
            }
            if let Some(head_file) = &self.head_file {
                head_file.write(&self.meta).map_err(Fatal::HeadFile)?;
                self.head_dirty = true;
            }
        }
        self.shared.durable.store(last_ticket, Ordering::Release);
        self.shared.moved.note();
        if !positions.is_empty() {
            for listener in self.shared.listeners.read().iter() {
                listener(&positions);
            }
            for listener in self.shared.chain_listeners.read().iter() {
                listener(&grown);
            }
        }
        for (rider, outcome) in riders {
            rider(outcome);
        }
        Ok(())
    }

    fn count(&self, started: Instant, records: u64, bytes: usize) {
        let counters = &self.shared.counters;
        let took_us = started.elapsed().as_micros() as u64;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.records.fetch_add(records, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        counters.last_commit_us.store(took_us, Ordering::Relaxed);
        counters.slowest_commit_us.fetch_max(took_us, Ordering::Relaxed);
        counters.records_per_commit_max.fetch_max(records, Ordering::Relaxed);
    }

    fn sync_head(&mut self) -> Result<(), Fatal> {
        if let (Some(head_file), true) = (&mut self.head_file, self.head_dirty) {
            head_file.sync().map_err(Fatal::HeadFile)?;
        }
        self.head_dirty = false;
        self.head_synced = Instant::now();
        Ok(())
    }

    fn stream_head(&mut self, stream: &StreamName) -> Result<u64, Fatal> {
        if let Some(seq) = self.streams.get_mut(stream) {
            return Ok(*seq);
        }
        let seq = self.shared.stream_head(stream)?;
        self.streams.insert(stream.clone(), seq);
        Ok(seq)
    }
}

fn put_rows(rows: Vec<crate::RowChange>, batch: &mut Batch) {
    for (key, value) in rows {
        batch.bytes += value.as_ref().map_or(0, Vec::len);
        batch.changes.changes.push((key.bytes(), value));
    }
}

/// The empty rolling hash that a store starts from.
pub(crate) const ROLLING_START: Digest = [0; 32];
