//! One reader: where it stands, what it may see, and what it is sent next.
//!
//! A reader asks for its next bytes when it has got rid of the last ones; nobody pushes. So it is
//! a cursor: into the channel's ring, or, while it catches up, into the journal.
//!
//! Invariants
//! - Of what it may see, every event with an id comes once and in order. The exceptions are told:
//!   a `resync` says that there was a gap, and of events of which each says all (a balance), a
//!   reader that lags gets the last.
//! - Before anything is sent it is checked that the credential still stands.
//! - The last event says why the server ended it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use supervision::{System, Timestamp};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::channel::{CATCHING_UP, Channel, ReaderState, read_chunk};
use super::entry::{Entry, EntryId, frame};
use super::ring::{RING_ENTRIES_MAX, RING_MS_MAX};
use super::tell::{Memory, View};
use super::{Feed, UNREADABLE};

/// How often something is sent when there is nothing to say.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(15);
/// How long a client should wait before it comes back, in milliseconds.
pub const RETRY_MS: u64 = 3_000;
/// The most records behind a reader's last id that are told again.
pub const REPLAY_RECORDS_MAX: u64 = RING_ENTRIES_MAX as u64;
/// How old a record may be that is told again, in milliseconds: an hour.
pub const REPLAY_MS_MAX: i64 = RING_MS_MAX;
/// The most bytes that a reader is handed at once.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
/// How many events are looked at for one hand-over.
const SCAN_ENTRIES_MAX: usize = 512;
/// How many events wait for a reader that is said to lag.
const LAG_ENTRIES: u64 = 32;
/// How many records are read at once for a reader that catches up.
const CHUNK_RECORDS: usize = 64;

/// The credential that a reader reads with.
pub trait Standing: Send + Sync {
    /// Why it stands no more.
    fn ended(&self, now: Timestamp) -> Option<&'static str>;
    /// When it ends by itself.
    fn until(&self) -> Option<Timestamp>;
}

/// What a reader begins with.
pub struct Opening {
    /// What it may see.
    pub view: View,
    /// The id of the last event that it has had, as it says.
    pub last_id: Option<String>,
    /// Its credential.
    pub standing: Box<dyn Standing>,
}

/// See the module's head.
pub struct Reader {
    feed: Arc<Feed>,
    system: Arc<System>,
    channel: Arc<Channel>,
    state: Arc<ReaderState>,
    view: View,
    standing: Box<dyn Standing>,
    news: watch::Receiver<()>,
    /// Fires when the clock was moved by hand.
    moved: Option<watch::Receiver<()>>,
    /// Of what stands up to here, everything was taken.
    mark: EntryId,
    /// The last id that the client was told.
    told: EntryId,
    /// Where it stands in the ring; `None` while it has to catch up.
    place: Option<u64>,
    /// What was told once before this place is not for this reader.
    first_place: u64,
    /// What was read of the journal and not sent yet.
    backlog: VecDeque<Arc<Entry>>,
    memory: Memory,
    /// Why there is a gap that the client was not told of yet.
    gap: Option<&'static str>,
    heartbeat: Instant,
    is_open: bool,
    is_over: bool,
}

impl Reader {
    pub(crate) fn new(
        feed: Arc<Feed>,
        system: Arc<System>,
        channel: Arc<Channel>,
        state: Arc<ReaderState>,
        opening: Opening,
    ) -> Self {
        let Opening { view, last_id, standing } = opening;
        let (news, moved) = (channel.news.subscribe(), system.clock().moved());
        let (upto, end) = {
            let ring = channel.ring.read();
            (ring.upto(), ring.end())
        };
        let parsed = last_id.filter(|text| !text.is_empty()).map(|text| text.parse::<EntryId>());
        let (mark, place, gap) = match parsed {
            None => (upto, Some(end), None),
            Some(Ok(mark)) => (mark, None, None),
            Some(Err(_)) => (upto, Some(end), Some("unknown_id")),
        };
        state.place.store(place.unwrap_or(CATCHING_UP), Ordering::Release);
        Self {
            feed,
            system,
            channel,
            state,
            view,
            standing,
            news,
            moved,
            mark,
            told: mark,
            place,
            first_place: end,
            backlog: VecDeque::new(),
            memory: Memory::new(),
            gap,
            heartbeat: Instant::now() + HEARTBEAT_PERIOD,
            is_open: false,
            is_over: false,
        }
    }

    /// What to send next; `None` after the last event. May be given up while it waits.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if !self.is_open {
            self.is_open = true;
            return Some(format!("retry: {RETRY_MS}\nid: {}\n\n", self.mark).into());
        }
        loop {
            self.news.borrow_and_update();
            let now = self.system.clock().now();
            let ended = self.state.end.get().copied().or_else(|| self.standing.ended(now));
            if let Some(reason) = ended {
                return Some(self.close(reason));
            }
            match self.take().await {
                Ok(Some(bytes)) => {
                    self.heartbeat = Instant::now() + HEARTBEAT_PERIOD;
                    return Some(bytes);
                }
                Ok(None) => {}
                Err(reason) => return Some(self.close(reason)),
            }
            let wakes_at = self.wakes_at(now);
            tokio::select! {
                // Nobody tells anything any more once the sender is gone, which the feed says.
                _ = self.news.changed() => {}
                () = hand_moved(&mut self.moved) => {}
                () = sleep_until(wakes_at) => {
                    if Instant::now() >= self.heartbeat {
                        self.heartbeat = Instant::now() + HEARTBEAT_PERIOD;
                        return Some(self.beat());
                    }
                }
            }
        }
    }

    /// When to look again though nothing is new.
    fn wakes_at(&self, now: Timestamp) -> Instant {
        let left = |until: Timestamp| Duration::from_millis((until.0 - now.0).max(0) as u64);
        let until = self.standing.until().map(|until| Instant::now() + left(until));
        until.map_or(self.heartbeat, |until| until.min(self.heartbeat))
    }

    /// A comment, and the id up to which there was nothing else for this reader.
    fn beat(&mut self) -> Bytes {
        if self.mark == self.told {
            return Bytes::from_static(b":\n\n");
        }
        self.told = self.mark;
        format!(":\nid: {}\n\n", self.mark).into()
    }

    fn close(&mut self, reason: &'static str) -> Bytes {
        self.is_over = true;
        // Whom the channel has dropped already, it has counted.
        if self.channel.readers.lock().remove(&self.state.id).is_some() {
            self.feed.count_dropped(reason, 1);
            self.channel.dropped.fetch_add(1, Ordering::Relaxed);
        }
        frame(None, "closed", &format!("{{\"reason\":\"{reason}\"}}"))
    }

    /// What there is to send now.
    async fn take(&mut self) -> Result<Option<Bytes>, &'static str> {
        loop {
            if let Some(reason) = self.gap.take() {
                return Ok(Some(self.skip(reason)));
            }
            if !self.backlog.is_empty() {
                return Ok(Some(self.take_backlog()));
            }
            let Some(place) = self.place else {
                self.seek().await?;
                continue;
            };
            let (bytes, is_all) = self.take_ring(place);
            self.state.moved_ms.store(self.channel.now_ms(), Ordering::Relaxed);
            if bytes.is_some() || is_all {
                return Ok(bytes);
            }
        }
    }

    /// Goes on at the end, and says so.
    fn skip(&mut self, reason: &str) -> Bytes {
        let (upto, end) = {
            let ring = self.channel.ring.read();
            (ring.upto(), ring.end())
        };
        (self.mark, self.told) = (upto, upto);
        self.stand_at(Some(end));
        frame(Some(upto), "resync", &format!("{{\"reason\":\"{reason}\"}}"))
    }

    fn stand_at(&mut self, place: Option<u64>) {
        self.place = place;
        self.state.place.store(place.unwrap_or(CATCHING_UP), Ordering::Release);
        self.state.moved_ms.store(self.channel.now_ms(), Ordering::Relaxed);
    }

    /// Finds the place in the ring, or reads on in the journal.
    async fn seek(&mut self) -> Result<(), &'static str> {
        let (place, upto) = {
            let ring = self.channel.ring.read();
            (ring.place_after(self.mark), ring.upto())
        };
        let behind = upto.chain_seq.saturating_sub(self.mark.chain_seq);
        if self.mark > upto {
            self.gap = Some("unknown_id");
        } else if place.is_some() {
            self.memory = Memory::new();
            self.stand_at(place);
        } else if behind > REPLAY_RECORDS_MAX {
            self.gap = Some("too_many");
        } else {
            self.read_on().await?;
        }
        Ok(())
    }

    async fn read_on(&mut self) -> Result<(), &'static str> {
        let (feed, system) = (Arc::clone(&self.feed), Arc::clone(&self.system));
        let (tenant, from) = (self.channel.tenant, self.mark.next_seq());
        let mut memory = std::mem::take(&mut self.memory);
        let reading = spawn_blocking(move || {
            let tellers = feed.tellers();
            let read = read_chunk(&system, tellers, &mut memory, tenant, from, CHUNK_RECORDS);
            read.map(|chunk| (chunk, memory))
        });
        let (chunk, memory) = reading.await.map_err(|_| UNREADABLE)?.map_err(|error| {
            tracing::error!(%tenant, %error, "a chain could not be told again");
            UNREADABLE
        })?;
        self.memory = memory;
        self.state.moved_ms.store(self.channel.now_ms(), Ordering::Relaxed);
        let now = self.system.clock().now();
        match chunk.first_at {
            None => self.gap = Some("unknown_id"),
            Some(at) if at.plus_ms(REPLAY_MS_MAX) <= now => self.gap = Some("too_old"),
            Some(_) => {
                let is_new =
                    |entry: &Arc<Entry>| entry.after > self.mark && self.view.sees(&entry.telling);
                self.backlog = chunk.entries.into_iter().filter(is_new).collect();
                self.mark = self.mark.max(EntryId::whole(chunk.upto));
            }
        }
        Ok(())
    }

    fn take_backlog(&mut self) -> Bytes {
        let (mut frames, mut length) = (Vec::new(), 0);
        while let Some(entry) = self.backlog.front() {
            if length > 0 && length + entry.bytes.len() > FRAME_BYTES_MAX {
                break;
            }
            length += entry.bytes.len();
            frames.extend(self.backlog.pop_front());
        }
        self.state.moved_ms.store(self.channel.now_ms(), Ordering::Relaxed);
        self.join(&frames)
    }

    /// What stands in the ring from a place on, and whether that was all of it.
    fn take_ring(&mut self, mut place: u64) -> (Option<Bytes>, bool) {
        let (mut frames, mut length): (Vec<Arc<Entry>>, usize) = (Vec::new(), 0);
        let channel = Arc::clone(&self.channel);
        let ring = channel.ring.read();
        let (Some(entries), end) = (ring.from(place), ring.end()) else {
            // It was overtaken.
            drop(ring);
            self.stand_at(None);
            return (None, false);
        };
        let lags = end - place > LAG_ENTRIES;
        for entry in entries.take(SCAN_ENTRIES_MAX) {
            let is_past = entry.id.is_none() && place < self.first_place;
            if !is_past && self.view.sees(&entry.telling) {
                if length > 0 && length + entry.bytes.len() > FRAME_BYTES_MAX {
                    break;
                }
                if lags && entry.telling.latest_only {
                    frames.retain(|before| before.telling.name != entry.telling.name);
                }
                length = frames.iter().map(|it| it.bytes.len()).sum::<usize>() + entry.bytes.len();
                frames.push(Arc::clone(entry));
            }
            self.mark = self.mark.max(entry.after);
            place += 1;
        }
        let is_all = place == end;
        if is_all {
            self.mark = self.mark.max(ring.upto());
        }
        self.place = Some(place);
        self.state.place.store(place, Ordering::Release);
        drop(ring);
        ((!frames.is_empty()).then(|| self.join(&frames)), is_all)
    }

    fn join(&mut self, frames: &[Arc<Entry>]) -> Bytes {
        let last = frames.iter().rev().find_map(|entry| entry.id);
        self.told = last.unwrap_or(self.told);
        match frames {
            // Shared among all readers.
            [only] => only.bytes.clone(),
            _ => {
                let mut bytes = BytesMut::new();
                frames.iter().for_each(|entry| bytes.extend_from_slice(&entry.bytes));
                bytes.freeze()
            }
        }
    }
}

/// Returns once the clock was moved by hand; never with one that only runs.
async fn hand_moved(moved: &mut Option<watch::Receiver<()>>) {
    let has_moved = match moved {
        Some(moved) => moved.changed().await.is_ok(),
        None => false,
    };
    if !has_moved {
        std::future::pending::<()>().await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.channel.readers.lock().remove(&self.state.id);
        self.feed.retire(&self.channel);
    }
}
