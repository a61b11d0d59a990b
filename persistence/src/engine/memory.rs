//! An engine that forgets: for tests and simulations. It can be told to fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{Direction, Engine, EngineError, Pair, WriteBatch};

/// A sorted map behind a lock. Nothing survives the process.
#[derive(Default)]
pub struct MemoryEngine {
    pairs: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    failing: AtomicBool,
}

impl MemoryEngine {
    /// From now on every commit fails, as a disk does whose sync returned an error.
    pub fn fail_commits(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }
}

impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        if self.failing.load(Ordering::Relaxed) {
            let reason = "it was told to fail".to_owned();
            return Err(EngineError { engine: "memory", operation: "commit", reason });
        }
        let mut pairs = self.pairs.write();
        for (key, value) in batch.changes {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.pairs.read().get(key).cloned())
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
        let pairs = self.pairs.read();
        let range = pairs.range(start.to_vec()..end.to_vec());
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match direction {
            Direction::Forward => range.take(limit).map(owned).collect(),
            Direction::Backward => range.rev().take(limit).map(owned).collect(),
        })
    }

    fn syncs_per_commit(&self) -> u32 {
        0
    }
}
