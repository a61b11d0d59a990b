//! One tenant's channel: its latest events, its readers, and the task that reads the chain for
//! them as it grows. There is one while the tenant has readers, and nothing without.
//!
//! The task reads what is durable, in the chain's order; the journal says when there is more. A
//! reader is never waited for: one that takes nothing is dropped ([`STALL_MS_MAX`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use persistence::ReadError;
use supervision::{System, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;
use types::{TenantId, UserId, home_of};

use super::entry::{Entry, EntryId};
use super::ring::Ring;
use super::tell::{Memory, Tellers};
use super::{Feed, LAGGING, UNREADABLE};

/// A reader that has more than this many bytes to take, and takes none, is dropped.
pub const UNSENT_BYTES_MAX: u64 = 16 * 1024;
/// How long a reader may take nothing of what waits for it, in milliseconds.
pub const STALL_MS_MAX: i64 = 10_000;
/// How many records are read at once for a channel.
const CHUNK_RECORDS: usize = 256;
/// How often a channel looks after its readers.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Where a reader stands that still reads the journal.
pub(crate) const CATCHING_UP: u64 = u64::MAX;

/// What a channel knows of one of its readers.
pub(crate) struct ReaderState {
    pub(crate) id: u64,
    pub(crate) user: Option<UserId>,
    /// The place of the next event that it takes, or [`CATCHING_UP`].
    pub(crate) place: AtomicU64,
    /// When it last took something, or had taken all, in the channel's milliseconds.
    pub(crate) moved_ms: AtomicI64,
    /// Why it is to end.
    pub(crate) end: OnceLock<&'static str>,
}

/// See the module's head.
pub(crate) struct Channel {
    pub(crate) tenant: TenantId,
    pub(crate) ring: RwLock<Ring>,
    /// Whom to wake when there is something new to look at.
    pub(crate) news: watch::Sender<()>,
    pub(crate) readers: Mutex<BTreeMap<u64, Arc<ReaderState>>>,
    pub(crate) dropped: AtomicU64,
    durable: AtomicU64,
    grown: Notify,
    pump: OnceLock<AbortHandle>,
    started: Instant,
}

impl Channel {
    pub(crate) fn new(tenant: TenantId, upto: u64) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            ring: RwLock::new(Ring::at(upto)),
            news: watch::Sender::new(()),
            readers: Mutex::default(),
            dropped: AtomicU64::new(0),
            durable: AtomicU64::new(upto),
            grown: Notify::new(),
            pump: OnceLock::new(),
            started: Instant::now(),
        })
    }

    /// The chain has come so far. Called by the journal's writer.
    pub(crate) fn grow(&self, chain_seq: u64) {
        self.durable.fetch_max(chain_seq, Ordering::AcqRel);
        self.grown.notify_one();
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.started.elapsed().as_millis() as i64
    }

    /// Begins to read.
    pub(crate) fn start(self: &Arc<Self>, feed: &Arc<Feed>, system: &Arc<System>) {
        let pump = Pump {
            channel: Arc::clone(self),
            feed: Arc::clone(feed),
            system: Arc::clone(system),
            memory: Memory::new(),
            pulse: feed.pulse(),
        };
        let _ = self.pump.set(tokio::spawn(pump.run()).abort_handle());
    }

    /// Reads no more.
    pub(crate) fn stop(&self) {
        if let Some(pump) = self.pump.get() {
            pump.abort();
        }
    }

    /// Ends every reader.
    pub(crate) fn end_all(&self, reason: &'static str) {
        for reader in self.readers.lock().values() {
            let _ = reader.end.set(reason);
        }
        self.news.send_replace(());
    }

    /// An event that is told once, to whoever reads now.
    pub(crate) fn publish(&self, telling: super::Telling, now: Timestamp) {
        {
            let mut ring = self.ring.write();
            let entry = Entry::ephemeral(ring.upto(), self.tenant, now, telling);
            ring.push(Arc::new(entry));
            ring.trim(now);
        }
        self.news.send_replace(());
    }

    /// Drops the readers that take nothing; says how many.
    pub(crate) fn drop_stalled(&self) -> u64 {
        let now_ms = self.now_ms();
        let mut readers = self.readers.lock();
        let ring = self.ring.read();
        let mut dropped = 0;
        readers.retain(|_, reader| {
            let place = reader.place.load(Ordering::Acquire);
            if place == ring.end() {
                reader.moved_ms.store(now_ms, Ordering::Relaxed);
                return true;
            }
            let still_ms = now_ms - reader.moved_ms.load(Ordering::Relaxed);
            let is_much = place == CATCHING_UP || ring.bytes_from(place) > UNSENT_BYTES_MAX;
            if still_ms < STALL_MS_MAX || !is_much {
                return true;
            }
            dropped += u64::from(reader.end.set(LAGGING).is_ok());
            false
        });
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        dropped
    }
}

/// What some records of a chain tell.
pub(crate) struct Chunk {
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The last record that was read; the one before the first when there was none.
    pub(crate) upto: u64,
    /// When the first was recorded.
    pub(crate) first_at: Option<Timestamp>,
}

/// Reads about `limit` records from number `from` on. Blocks.
pub(crate) fn read_chunk(
    system: &System,
    tellers: &Tellers,
    memory: &mut Memory,
    tenant: TenantId,
    from: u64,
    limit: usize,
) -> Result<Chunk, ReadError> {
    let records = system.journal().read_chain(home_of(tenant), from, false, limit)?;
    let first_at = records.first().map(|record| Timestamp(record.header.time_ms));
    let upto = records.last().map_or(from.saturating_sub(1), |last| last.header.chain_seq);
    let mut entries = Vec::new();
    for record in &records {
        let tellings = tellers.tell(system, record, memory);
        let last = tellings.len().saturating_sub(1);
        for (index, telling) in tellings.into_iter().enumerate() {
            let place = if index == last { EntryId::LAST } else { index as u32 };
            entries.push(Arc::new(Entry::of_record(&record.header, place, telling)));
        }
    }
    Ok(Chunk { entries, upto, first_at })
}

/// The task of a channel.
struct Pump {
    channel: Arc<Channel>,
    feed: Arc<Feed>,
    system: Arc<System>,
    memory: Memory,
    pulse: u64,
}

impl Pump {
    async fn run(mut self) {
        let mut looked = Instant::now();
        loop {
            let upto = self.channel.ring.read().upto().chain_seq;
            if upto < self.channel.durable.load(Ordering::Acquire) {
                if let Err(error) = self.read(upto + 1).await {
                    tracing::error!(tenant = %self.channel.tenant, %error, "a feed ended");
                    self.feed.end_channel(&self.channel, UNREADABLE);
                    return;
                }
            } else {
                tokio::select! {
                    () = self.channel.grown.notified() => {}
                    () = tokio::time::sleep_until(looked + LOOK_PERIOD) => {}
                }
            }
            if looked.elapsed() >= LOOK_PERIOD {
                looked = Instant::now();
                self.look_after();
            }
        }
    }

    async fn read(&mut self, from: u64) -> Result<(), String> {
        let (feed, system) = (Arc::clone(&self.feed), Arc::clone(&self.system));
        let (mut memory, tenant) = (std::mem::take(&mut self.memory), self.channel.tenant);
        let reading = spawn_blocking(move || {
            let tellers = feed.tellers();
            let read = read_chunk(&system, tellers, &mut memory, tenant, from, CHUNK_RECORDS);
            read.map(|chunk| (chunk, memory))
        });
        let read = reading.await.map_err(|error| error.to_string())?;
        let (chunk, memory) = read.map_err(|error| error.to_string())?;
        self.memory = memory;
        if chunk.upto < from {
            return Err(format!("record {from} is not there"));
        }
        let is_news = !chunk.entries.is_empty();
        let now = self.system.clock().now();
        self.channel.ring.write().take(chunk.entries, chunk.upto, now);
        if is_news {
            self.channel.news.send_replace(());
        }
        Ok(())
    }

    fn look_after(&mut self) {
        let dropped = self.channel.drop_stalled();
        self.channel.ring.write().trim(self.system.clock().now());
        if dropped > 0 {
            self.feed.count_dropped(LAGGING, dropped);
            self.feed.retire(&self.channel);
        }
        let pulse = self.feed.pulse();
        if dropped > 0 || pulse != self.pulse {
            self.pulse = pulse;
            self.channel.news.send_replace(());
        }
    }
}
