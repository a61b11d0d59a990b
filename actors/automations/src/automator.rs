//! What all parts of automations share in one process: whose events are looked at, where rules
//! are, what is being carried out, and whether the server stops. A port.
//!
//! It holds nothing that the journal does not know: it is read at the start from the rows of rules.
//!
//! Deliberate limit: some bytes of memory for each rule there is, so that a service that knows a
//! rule's number alone finds it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use activity::feed::{Feed, Follower};
use identity::frozen::Frozen;
use parking_lot::{Mutex, RwLock};
use persistence::record::SHARDS;
use persistence::{Journal, RowRange, Shard, codec};
use supervision::System;
use tokio::sync::{Semaphore, watch};
use types::{ExecutionId, TenantId, UserId};

use crate::automations::{RULE_FAMILY, RuleRow};

/// How often it is looked for what has happened.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Steps that are carried out at once.
pub const STEPS_AT_ONCE_MAX: usize = 64;
/// How many rows one step of the start reads.
const LOAD_STEP: usize = 1_000;

/// A tenant whose events are looked at.
pub(crate) struct Watched {
    /// Counts who wants it looked at, so that nobody forgets it meanwhile.
    pub(crate) wishes: AtomicU64,
    pub(crate) reading: tokio::sync::Mutex<Reading>,
}

/// How far its chain was read.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) follower: Follower,
    /// The record that is read next, once that is known.
    pub(crate) next: Option<u64>,
    /// How far that was noted.
    pub(crate) noted: u64,
}

/// See the module's head.
pub struct Automator {
    pub(crate) feed: Arc<Feed>,
    pub(crate) frozen: Arc<Frozen>,
    pub(crate) watched: RwLock<HashMap<TenantId, Arc<Watched>>>,
    grown: Mutex<BTreeSet<TenantId>>,
    places: RwLock<HashMap<u64, (TenantId, UserId)>>,
    carried: Mutex<HashSet<ExecutionId>>,
    pub(crate) at_once: Semaphore,
    pub(crate) closing: watch::Sender<bool>,
}

/// An execution that this process carries out, until it is dropped.
pub(crate) struct Carrying<'a>(&'a Automator, ExecutionId);

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        self.0.carried.lock().remove(&self.1);
    }
}

impl Automator {
    /// One that knows of no rule yet.
    pub fn new(feed: Arc<Feed>, frozen: Arc<Frozen>) -> Arc<Self> {
        Arc::new(Self {
            feed,
            frozen,
            watched: RwLock::default(),
            grown: Mutex::default(),
            places: RwLock::default(),
            carried: Mutex::default(),
            at_once: Semaphore::new(STEPS_AT_ONCE_MAX),
            closing: watch::Sender::new(false),
        })
    }

    /// Hears from now on of the records of a journal.
    pub fn attach(self: &Arc<Self>, journal: &Journal) {
        let me = Arc::downgrade(self);
        journal.on_chains(Box::new(move |grown| {
            let Some(me) = me.upgrade() else { return };
            let watched = me.watched.read();
            if watched.is_empty() {
                return;
            }
            for (home, _) in grown {
                if watched.contains_key(&TenantId(home.0)) {
                    me.grown.lock().insert(TenantId(home.0));
                }
            }
        }));
    }

    /// Learns of the rules there are: before the first record of this process. Says how many.
    pub fn load(&self, system: &System) -> usize {
        let mut count = 0;
        for shard in 0..SHARDS {
            let mut after = None;
            loop {
                let range = RowRange {
                    shard: Shard(shard as u8),
                    family: RULE_FAMILY,
                    prefix: Vec::new(),
                    after,
                    newest_first: false,
                    limit: LOAD_STEP,
                };
                let rows = system.rows(&range);
                for (key, value) in &rows {
                    count += usize::from(self.learn(key, value).is_some());
                }
                after = rows.last().map(|(key, _)| key.clone());
                if rows.len() < LOAD_STEP {
                    break;
                }
            }
        }
        count
    }

    fn learn(&self, key: &[u8], value: &[u8]) -> Option<()> {
        let (tenant, rule) = key.split_at_checked(16)?;
        let tenant = TenantId(u128::from_be_bytes(tenant.try_into().ok()?));
        let rule = u64::from_be_bytes(rule.try_into().ok()?);
        let row: RuleRow = codec::decode(value).ok()?;
        self.know(rule, (tenant, row.user));
        if row.follows_from.is_some() {
            self.follow(tenant);
        }
        Some(())
    }

    pub(crate) fn know(&self, rule: u64, whose: (TenantId, UserId)) {
        self.places.write().insert(rule, whose);
    }

    pub(crate) fn forget(&self, rule: u64) {
        self.places.write().remove(&rule);
    }

    pub(crate) fn forget_tenant(&self, tenant: TenantId) {
        self.watched.write().remove(&tenant);
        self.places.write().retain(|_, whose| whose.0 != tenant);
    }

    /// In which tenant a rule is.
    pub fn tenant_of(&self, rule: u64) -> Option<TenantId> {
        self.places.read().get(&rule).map(|whose| whose.0)
    }

    /// The tenants that have rules; those where a user has.
    pub fn tenants(&self, user: Option<UserId>) -> BTreeSet<TenantId> {
        let places = self.places.read();
        let of = places.values().filter(|whose| user.is_none_or(|user| whose.1 == user));
        of.map(|whose| whose.0).collect()
    }

    /// From now on a tenant's events are looked at.
    pub(crate) fn follow(&self, tenant: TenantId) {
        let new = || {
            let (wishes, reading) = (AtomicU64::new(0), tokio::sync::Mutex::default());
            Arc::new(Watched { wishes, reading })
        };
        let mut watched = self.watched.write();
        watched.entry(tenant).or_insert_with(new).wishes.fetch_add(1, Ordering::AcqRel);
        self.mark(tenant);
    }

    /// A tenant's events are looked at no more, unless somebody wanted it since.
    pub(crate) fn unfollow(&self, tenant: TenantId, wishes: u64) {
        let mut watched = self.watched.write();
        if watched.get(&tenant).is_some_and(|it| it.wishes.load(Ordering::Acquire) == wishes) {
            watched.remove(&tenant);
        }
    }

    /// There is more to look at.
    pub(crate) fn mark(&self, tenant: TenantId) {
        self.grown.lock().insert(tenant);
    }

    pub(crate) fn take_grown(&self) -> BTreeSet<TenantId> {
        std::mem::take(&mut *self.grown.lock())
    }

    /// Whether all that is durable now was looked at.
    pub fn is_done(&self) -> bool {
        self.grown.lock().is_empty()
    }

    /// `None` while somebody carries it out.
    pub(crate) fn enter(&self, id: ExecutionId) -> Option<Carrying<'_>> {
        let is_new = self.carried.lock().insert(id);
        // Only then: dropping one takes the other's place away.
        is_new.then(|| Carrying(self, id))
    }

    /// Lets go of what is being carried out, because the server stops: none ends by that.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}
