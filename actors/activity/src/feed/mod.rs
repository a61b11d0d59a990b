//! The event feed: what happens in a tenant, told to its readers as it becomes durable.
//!
//! Events that follow from records have an id, the number of the record in the tenant's chain, and
//! are told again to a reader that comes back with it ([`EntryId`]). Others are told once, to who
//! reads then ([`Feed::publish`]). What a record tells to whom, its crate says ([`Tellers`]).
//!
//! Invariants
//! - An event is told once its record is durable, in the order of the chain.
//! - Nobody is told what the audience and the credential's scopes do not cover, nor anything of
//!   another tenant.
//! - A tenant without readers costs nothing: no task, no buffer.
//!
//! Deliberate limits
//! - What is older than an hour, or more than 10,000 records behind, is not told again: `resync`
//!   says so, and the reader asks for the present state by the usual routes.
//! - Events without an id are lost for whoever is not there, or is overtaken.

mod channel;
mod entry;
mod follow;
mod reader;
mod ring;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use persistence::Journal;
use serde::Serialize;
use supervision::{Class, Refusal, System, Timestamp};
use types::{TenantId, home_of};

use channel::{Channel, ReaderState};

pub use channel::{STALL_MS_MAX, UNSENT_BYTES_MAX};
pub use entry::{DATA_BYTES_MAX, EntryId, EntryIdError, NAME_BYTES_MAX};
pub use follow::{Follower, Heard, Told};
pub use reader::{
    FRAME_BYTES_MAX, HEARTBEAT_PERIOD, Opening, REPLAY_MS_MAX, REPLAY_RECORDS_MAX, RETRY_MS,
    Reader, Standing,
};
pub use ring::{RING_BYTES_MAX, RING_ENTRIES_MAX, RING_MS_MAX};
pub use tell::{Audience, Source, Tell, Tellers, Telling, View};

/// The most readers of one tenant.
pub const READERS_PER_TENANT_MAX: usize = 2_000;
/// The most readers of one user of a tenant.
pub const READERS_PER_USER_MAX: usize = 100;
/// How many tenants the figures name, those with the most readers.
pub const TENANTS_SHOWN_MAX: usize = 50;

/// Why a reader ends: it took nothing.
pub const LAGGING: &str = "lagging";
/// Why a reader ends: the journal could not be read.
pub const UNREADABLE: &str = "unreadable";
/// Why a reader ends: the server stops.
pub const STOPPING: &str = "server_stopping";

/// A number that changes when credentials may have been revoked.
type Pulse = Box<dyn Fn() -> u64 + Send + Sync>;

/// The feed. A port.
#[derive(Default)]
pub struct Feed {
    tellers: Tellers,
    channels: RwLock<HashMap<TenantId, Arc<Channel>>>,
    /// How many channels there are, for who must not wait.
    open: AtomicUsize,
    next_reader: AtomicU64,
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    pulse: OnceLock<Pulse>,
    is_closed: AtomicBool,
}

/// What the feed does now, and has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeedFigures {
    /// Tenants with readers.
    pub channels: usize,
    /// Readers.
    pub readers: usize,
    /// Readers that the server has ended since the start, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Those with the most readers, at most [`TENANTS_SHOWN_MAX`].
    pub tenants: Vec<TenantFigures>,
}

/// One tenant's readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantFigures {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its readers.
    pub readers: usize,
    /// Those that the server has ended while others read on.
    pub dropped: u64,
}

impl Feed {
    /// A feed that nobody reads yet.
    pub fn new(tellers: Tellers) -> Arc<Self> {
        Arc::new(Self { tellers, ..Self::default() })
    }

    /// Hears from now on of the records of a journal. `pulse` answers a number that changes when a
    /// credential may have been revoked: then readers are looked at within a second.
    pub fn attach(
        self: &Arc<Self>,
        journal: &Journal,
        pulse: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let _ = self.pulse.set(Box::new(pulse));
        let feed = Arc::downgrade(self);
        journal.on_chains(Box::new(move |grown| {
            let Some(feed) = feed.upgrade().filter(|it| it.open.load(Ordering::SeqCst) > 0) else {
                return;
            };
            let channels = feed.channels.read();
            for (home, chain_seq) in grown {
                if let Some(channel) = channels.get(&TenantId(home.0)) {
                    channel.grow(*chain_seq);
                }
            }
        }));
    }

    /// Begins to read. 429 `too_many_readers`, 503 when the server stops, 500 when the journal
    /// cannot be read.
    pub fn subscribe(
        self: &Arc<Self>,
        system: &Arc<System>,
        tenant: TenantId,
        opening: Opening,
    ) -> Result<Reader, Refusal> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(Refusal::busy());
        }
        let channel = self.channel(system, tenant)?;
        let user = opening.view.user();
        let state = Arc::new(ReaderState {
            id: self.next_reader.fetch_add(1, Ordering::Relaxed),
            user,
            place: AtomicU64::new(channel::CATCHING_UP),
            moved_ms: AtomicI64::new(channel.now_ms()),
            end: OnceLock::new(),
        });
        let is_in = {
            // A channel that lost its last reader meanwhile is out of the map: begin again.
            let channels = self.channels.read();
            let is_there = channels.get(&tenant).is_some_and(|it| Arc::ptr_eq(it, &channel));
            let mut readers = channel.readers.lock();
            let of_user = readers.values().filter(|it| user.is_some() && it.user == user).count();
            if readers.len() >= READERS_PER_TENANT_MAX || of_user >= READERS_PER_USER_MAX {
                return Err(too_many());
            }
            is_there && readers.insert(state.id, Arc::clone(&state)).is_none()
        };
        if !is_in {
            return self.subscribe(system, tenant, opening);
        }
        if self.is_closed.load(Ordering::SeqCst) {
            let _ = state.end.set(STOPPING);
        }
        Ok(Reader::new(Arc::clone(self), Arc::clone(system), channel, state, opening))
    }

    /// The tenant's channel, made if there is none.
    fn channel(
        self: &Arc<Self>,
        system: &Arc<System>,
        tenant: TenantId,
    ) -> Result<Arc<Channel>, Refusal> {
        if let Some(channel) = self.channels.read().get(&tenant) {
            return Ok(Arc::clone(channel));
        }
        let head = || {
            let head = system.journal().chain_head(home_of(tenant));
            head.map(|head| head.chain_seq).map_err(|error| {
                tracing::error!(%tenant, %error, "a chain could not be read");
                Refusal::crashed()
            })
        };
        let upto = head()?;
        let channel = {
            let mut channels = self.channels.write();
            if let Some(channel) = channels.get(&tenant) {
                return Ok(Arc::clone(channel));
            }
            let channel = Channel::new(tenant, upto);
            channels.insert(tenant, Arc::clone(&channel));
            self.open.store(channels.len(), Ordering::SeqCst);
            channel.start(self, system);
            channel
        };
        // What was recorded before the channel was listed, nobody has told it.
        channel.grow(head().unwrap_or(upto));
        Ok(channel)
    }

    /// Tells something once, to who reads now. Says how many readers the tenant has.
    pub fn publish(&self, tenant: TenantId, telling: Telling, now: Timestamp) -> usize {
        let Some(channel) = self.channels.read().get(&tenant).cloned() else { return 0 };
        channel.publish(telling, now);
        channel.readers.lock().len()
    }

    /// Whether anybody of a tenant reads.
    pub fn has_readers(&self, tenant: TenantId) -> bool {
        self.open.load(Ordering::SeqCst) > 0 && self.channels.read().contains_key(&tenant)
    }

    /// Ends all readers, each with a last event, and lets no more in.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        for channel in self.channels.read().values() {
            channel.end_all(STOPPING);
        }
    }

    /// The figures.
    pub fn figures(&self) -> FeedFigures {
        let channels: Vec<_> = self.channels.read().values().cloned().collect();
        let of = |channel: &Arc<Channel>| TenantFigures {
            tenant_id: channel.tenant,
            readers: channel.readers.lock().len(),
            dropped: channel.dropped.load(Ordering::Relaxed),
        };
        let mut tenants: Vec<_> = channels.iter().map(of).collect();
        let readers = tenants.iter().map(|tenant| tenant.readers).sum();
        tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.readers));
        tenants.truncate(TENANTS_SHOWN_MAX);
        let dropped = self.dropped.lock().clone();
        FeedFigures { channels: channels.len(), readers, dropped, tenants }
    }

    pub(crate) fn tellers(&self) -> &Tellers {
        &self.tellers
    }

    pub(crate) fn pulse(&self) -> u64 {
        self.pulse.get().map_or(0, |pulse| pulse())
    }

    pub(crate) fn count_dropped(&self, reason: &'static str, count: u64) {
        *self.dropped.lock().entry(reason).or_default() += count;
    }

    /// Ends a channel that cannot go on.
    pub(crate) fn end_channel(&self, channel: &Arc<Channel>, reason: &'static str) {
        self.forget(channel, |_| true);
        channel.end_all(reason);
    }

    /// Ends a channel that has no readers.
    pub(crate) fn retire(&self, channel: &Arc<Channel>) {
        if channel.readers.lock().is_empty() {
            self.forget(channel, |channel| channel.readers.lock().is_empty());
        }
    }

    fn forget(&self, channel: &Arc<Channel>, is_over: impl Fn(&Channel) -> bool) {
        let mut channels = self.channels.write();
        let known = channels.get(&channel.tenant);
        let is_it = known.is_some_and(|known| Arc::ptr_eq(known, channel));
        if is_it && is_over(channel) {
            channels.remove(&channel.tenant);
            self.open.store(channels.len(), Ordering::SeqCst);
            channel.stop();
        }
    }
}

fn too_many() -> Refusal {
    let message = format!(
        "a tenant has at most {READERS_PER_TENANT_MAX} readers, and a user {READERS_PER_USER_MAX}"
    );
    Refusal::new(Class::TooMany, "too_many_readers", message).retry_after(5_000)
}
