//! The store behind the log, with a checksum behind each of its values: stores check their pages
//! when they repair themselves, and not whenever they read one.
//!
//! Invariant: a store that was begun without checksums stays without, so that one rule holds for
//! all of its values.

use super::logged::LOG;
use super::{Direction, Engine, EngineError, Pair, WriteBatch};

/// The store's key for the last commit that has been moved into it.
const MOVED_KEY: &[u8] = b"mlg2";
/// The same, of a store from before its values had checksums. It stays without.
pub(super) const MOVED_UNSUMMED_KEY: &[u8] = b"mlog";
const SUM_BYTES: usize = 4;

/// The store behind the log. See the module's head.
pub(super) struct Store<E> {
    pub(super) engine: E,
    summed: bool,
}

/// Over key and value, so that a value under another key is wrong too.
pub(super) fn sum(key: &[u8], value: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_be_bytes()
}

impl<E: Engine> Store<E> {
    /// The store, and the last commit that was moved into it.
    pub(super) fn open(engine: E) -> Result<(Self, u64), EngineError> {
        let number =
            |bytes: Vec<u8>| bytes.first_chunk::<8>().copied().map_or(0, u64::from_be_bytes);
        let summed = Self { engine, summed: true };
        if let Some(moved) = summed.get(MOVED_KEY)? {
            return Ok((summed, number(moved)));
        }
        match summed.engine.get(MOVED_UNSUMMED_KEY)? {
            Some(moved) => Ok((Self { summed: false, ..summed }, number(moved))),
            None => Ok((summed, 0)),
        }
    }

    pub(super) fn moved_key(&self) -> &'static [u8] {
        if self.summed { MOVED_KEY } else { MOVED_UNSUMMED_KEY }
    }

    pub(super) fn commit(&self, mut batch: WriteBatch) -> Result<(), EngineError> {
        for (key, value) in batch.changes.iter_mut().filter(|_| self.summed) {
            if let Some(value) = value {
                value.extend_from_slice(&sum(key, value));
            }
        }
        self.engine.commit(batch)
    }

    fn checked(&self, key: &[u8], mut value: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        if self.summed {
            let end = value.len().checked_sub(SUM_BYTES);
            let right = end.filter(|end| value[*end..] == sum(key, &value[..*end]));
            let damaged =
                || LOG.failed("read its store")("a value is damaged: its checksum is wrong");
            value.truncate(right.ok_or_else(damaged)?);
        }
        Ok(value)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(key)?.map(|value| self.checked(key, value)).transpose()
    }

    pub(super) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        let pairs = self.engine.scan(start, end, direction, limit)?;
        let checked = |(key, value): Pair| {
            let value = self.checked(&key, value)?;
            Ok((key, value))
        };
        pairs.into_iter().map(checked).collect()
    }
}
