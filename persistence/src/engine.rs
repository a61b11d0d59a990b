//! The narrow waist: what a store must do to carry the journal.
//!
//! One keyspace of bytes, one writer, any number of readers. One suite of conformance tests runs
//! on every engine (`persistence/tests`).

mod frames;
mod logged;
mod memory;
mod overlay;
mod place;
mod redb;
pub mod segments;
#[cfg(feature = "sled")]
mod sled;
mod summed;

pub use logged::{LoggedEngine, TABLE_BYTES};
pub use memory::MemoryEngine;
pub use redb::RedbEngine;
#[cfg(feature = "sled")]
pub use sled::SledEngine;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The engine failed. On a write or a sync this ends the process: replay is the only recovery.
#[derive(Debug, thiserror::Error)]
#[error("{engine} could not {operation}: {reason}")]
pub struct EngineError {
    /// Which engine.
    pub engine: &'static str,
    /// What it was doing.
    pub operation: &'static str,
    /// What it said.
    pub reason: String,
}

/// Changes that become durable together or not at all.
#[derive(Default, Debug)]
pub struct WriteBatch {
    /// Keys and their new values, `None` to delete. Of two changes to one key the later counts.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }
}

/// Which end of a range a scan starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The smallest key first.
    Forward,
    /// The greatest key first.
    Backward,
}

/// A store of ordered keys. All methods block.
pub trait Engine: Send + Sync + 'static {
    /// The engine's name.
    fn name(&self) -> &'static str;

    /// Makes `batch` durable, whole or not at all: on return it survives a power cut.
    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// The value at `key`, of what is committed.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Up to `limit` pairs with `start <= key < end`, of what is committed.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError>;

    /// How many syncs one commit costs.
    fn syncs_per_commit(&self) -> u32;
}
