//! What an engine was told, and what it must therefore hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use persistence::engine::{Direction, Engine, EngineError, LoggedEngine, RedbEngine, WriteBatch};

use crate::disk::{Disk, Random};

pub(crate) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

const KEYS: u64 = 40;
const CACHE_BYTES: usize = 64 * 1024;
/// Small, so that tables move all the time.
const TABLE_BYTES: usize = 16_000;
const VALUE_BYTES_MAX: u64 = 2_500;

/// redb on a disk in memory, alone or behind the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    Logged,
    Alone,
}

pub(crate) enum Simulated {
    Logged(LoggedEngine<RedbEngine>),
    Alone(RedbEngine),
}

impl Simulated {
    pub(crate) fn open(built: Built, disk: &Disk) -> Result<Self, EngineError> {
        let store = RedbEngine::on(disk.clone(), CACHE_BYTES)?;
        Ok(match built {
            Built::Alone => Self::Alone(store),
            Built::Logged => {
                let log = LoggedEngine::open_still(Arc::new(disk.clone()), store, TABLE_BYTES)?;
                Self::Logged(log)
            }
        })
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        match self {
            Self::Logged(engine) => engine,
            Self::Alone(engine) => engine,
        }
    }

    pub(crate) fn move_frozen(&self) -> Result<bool, EngineError> {
        match self {
            Self::Logged(engine) => engine.move_frozen(),
            Self::Alone(_) => Ok(false),
        }
    }
}

/// Commits, and what is known of them.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) acknowledged: Pairs,
    /// What there would be with the commit that failed, which is there whole or not at all.
    pub(crate) in_doubt: Option<Pairs>,
    pub(crate) commits: u64,
}

impl Story {
    /// One commit of a few changes, over several keys.
    pub(crate) fn commit(
        story: &Mutex<Self>,
        engine: &dyn Engine,
        random: &mut Random,
    ) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        let mut next = story.lock().acknowledged.clone();
        for _ in 0..=random.below(4) {
            let key = format!("key/{}", random.below(KEYS)).into_bytes();
            if random.below(5) == 0 {
                next.remove(&key);
                batch.delete(key);
            } else {
                let length = random.below(VALUE_BYTES_MAX) as usize;
                let value = random.bytes(length);
                next.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        story.lock().in_doubt = Some(next);
        engine.commit(batch)?;
        let mut story = story.lock();
        story.acknowledged = story.in_doubt.take().unwrap_or_default();
        story.commits += 1;
        Ok(())
    }

    /// Whether the engine holds what it must; then that is what is known from now on.
    pub(crate) fn check(&mut self, engine: &dyn Engine) -> Result<(), String> {
        let found = engine.scan(b"key/", b"key0", Direction::Forward, usize::MAX);
        let found: Pairs = found.map_err(|error| error.to_string())?.into_iter().collect();
        let whole = self.in_doubt.take();
        if found == self.acknowledged {
            return Ok(());
        }
        if whole.is_some_and(|whole| whole == found) {
            self.acknowledged = found;
            return Ok(());
        }
        let lost = |(key, value): &(&Vec<u8>, &Vec<u8>)| found.get(*key) != Some(*value);
        let lost = self.acknowledged.iter().filter(lost).count();
        let (known, there) = (self.acknowledged.len(), found.len());
        Err(format!("of {known} acknowledged pairs {lost} are lost or wrong, {there} are there"))
    }
}
