//! Homes whose time is their own: ahead of the system's clock by so much.
//!
//! A turn is given its home's time, and reminders of its entities fire by it; so whatever expires
//! in an entity expires when its home's time has come. What is ahead is told by rows of the family
//! [`OWN_TIME_FAMILY`], which an entity of that home writes with the event that moves the time, and
//! which the start reads: a row's key is the home, its value how far it is ahead.
//!
//! Invariants
//! - A home's time never goes back: who moves it only adds.
//! - The records of such a home carry its own time, because a replay applies each event at the time
//!   in its header. What the time really was stands in the event that moved it.
//!
//! Deliberate limits: what is measured outside of turns (rates, tokens' lives, idempotency keys)
//! goes by the system's clock. One look-up a turn, and none while no home has a time of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use persistence::{Home, ReadError, RowRange, Shard, codec, record::SHARDS};

use crate::clock::Timestamp;
use crate::entity::RowDraft;
use crate::system::{Core, System};

/// The family of the rows that say how far homes are ahead.
pub const OWN_TIME_FAMILY: &str = "own_time";
/// How many rows one step of the scan at the start reads.
const SCAN_STEP: usize = 1_000;

/// How far each home that has a time of its own is ahead.
#[derive(Default)]
pub(crate) struct OwnTimes {
    any: AtomicBool,
    ahead_ms: RwLock<HashMap<Home, i64>>,
}

impl OwnTimes {
    /// How far a home is ahead; 0 for those that have no time of their own.
    pub(crate) fn ahead_ms(&self, home: Home) -> i64 {
        self.get(home).unwrap_or_default()
    }

    fn get(&self, home: Home) -> Option<i64> {
        let any = self.any.load(Ordering::Acquire);
        any.then(|| self.ahead_ms.read().get(&home).copied()).flatten()
    }

    /// Answers how far it is ahead from now on.
    pub(crate) fn set(&self, home: Home, ahead_ms: i64) -> i64 {
        let mut all = self.ahead_ms.write();
        let known = all.entry(home).or_default();
        *known = ahead_ms.max(*known);
        self.any.store(true, Ordering::Release);
        *known
    }
}

/// The row that says how far a home is ahead, for the entity of that home that moves it.
pub fn own_time_row(home: Home, ahead_ms: i64) -> RowDraft {
    let key = home.0.to_be_bytes().to_vec();
    RowDraft { family: OWN_TIME_FAMILY, key, value: codec::encode(&ahead_ms).ok() }
}

impl Core {
    /// The present of a home.
    pub(crate) fn now_in(&self, home: Home) -> Timestamp {
        self.clock.now().plus_ms(self.reminders.own_times().ahead_ms(home))
    }
}

impl System {
    /// The present of a home.
    pub fn now_in(&self, home: Home) -> Timestamp {
        self.core.now_in(home)
    }

    /// How far a home is ahead, in milliseconds; `None` when it goes by the system's clock.
    pub fn own_time(&self, home: Home) -> Option<i64> {
        self.core.reminders.own_times().get(home)
    }

    /// A home is so far ahead from now on: once the row that says so is durable. Less than before
    /// changes nothing.
    pub fn set_own_time(&self, home: Home, ahead_ms: i64) {
        self.core.reminders.set_own_time(home, ahead_ms);
    }

    /// Reads the rows: before anything of such a home runs. A repetition changes nothing.
    pub fn recover_own_times(&self) -> Result<(), ReadError> {
        for shard in 0..SHARDS {
            let mut after = None;
            loop {
                let range = RowRange {
                    shard: Shard(shard as u8),
                    family: OWN_TIME_FAMILY,
                    prefix: Vec::new(),
                    after,
                    newest_first: false,
                    limit: SCAN_STEP,
                };
                let sealed = self.core.journal.row_range(&range)?;
                let count = sealed.len();
                after = sealed.last().map(|(key, _)| key.key.clone());
                for (key, value) in self.core.open_rows(sealed) {
                    let home = <[u8; 16]>::try_from(key.key.as_slice());
                    if let (Ok(home), Ok(ahead_ms)) = (home, codec::decode::<i64>(&value)) {
                        self.set_own_time(Home(u128::from_be_bytes(home)), ahead_ms);
                    }
                }
                if count < SCAN_STEP {
                    break;
                }
            }
        }
        Ok(())
    }
}
