//! Deadlines: one row an entity, in due order within its shard; a worker that fires them.
//!
//! The rows are the truth; the schedule in memory is what the worker looks at. It is filled from
//! the rows at the start and by every row that is written. A reminder may fire more than once; an
//! entity handles what is due by its own state, so that costs a turn and nothing else.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use persistence::{Opened, RowRange, Shard, StreamName, codec, record::SHARDS};

use crate::address::Place;
use crate::clock::Timestamp;
use crate::system::System;

/// The family of the reminders' rows.
pub const DUE_FAMILY: &str = "due";
/// The family of the rows that say which entities have work pending.
pub const PENDING_FAMILY: &str = "pending";
/// How many reminders fire in one round; after a long stop they come in rounds, not all at once.
pub const FIRED_PER_ROUND: usize = 500;
/// When a reminder that its entity did not come to handle fires again, in milliseconds.
pub(crate) const AGAIN_MS: i64 = 10_000;
/// How many rows one step of the scan at the start reads.
const SCAN_STEP: usize = 1_000;

/// A reminder's key: its due time, then the stream.
pub(crate) fn due_key(due: Timestamp, stream: &StreamName) -> Vec<u8> {
    // Shifted, so that times before 1970 sort first.
    let sortable = (due.0 as u64) ^ (1 << 63);
    [sortable.to_be_bytes().as_slice(), stream.as_str().as_bytes()].concat()
}

pub(crate) fn due_of(key: &[u8]) -> Option<Timestamp> {
    let sortable = u64::from_be_bytes(*key.first_chunk::<8>()?);
    Some(Timestamp((sortable ^ (1 << 63)) as i64))
}

/// The schedule in memory.
#[derive(Default)]
pub struct Reminders {
    schedule: Mutex<BTreeMap<(Timestamp, StreamName), Place>>,
}

impl Reminders {
    pub(crate) fn add(&self, due: Timestamp, place: Place) {
        self.schedule.lock().insert((due, place.stream.clone()), place);
    }

    /// How many are waiting.
    pub fn waiting(&self) -> usize {
        self.schedule.lock().len()
    }

    /// The next ones, for the console.
    pub fn next(&self, limit: usize) -> Vec<(Timestamp, StreamName)> {
        self.schedule.lock().keys().take(limit).cloned().collect()
    }

    fn take_due(&self, now: Timestamp) -> Vec<(Timestamp, Place)> {
        let mut schedule = self.schedule.lock();
        let mut due = Vec::new();
        while due.len() < FIRED_PER_ROUND
            && let Some(first) = schedule.first_entry()
            && first.key().0 <= now
        {
            let ((at, _), place) = first.remove_entry();
            due.push((at, place));
        }
        due
    }
}

impl System {
    /// Fires what is due. Says how many.
    pub fn fire_reminders(&self) -> usize {
        let due = self.core.reminders.take_due(self.core.clock.now());
        let fired = due.len();
        for (at, place) in due {
            self.wake(place, Some(at.0));
        }
        fired
    }

    /// Reads the reminders' rows into the schedule and wakes every entity that has work pending:
    /// once, after the start.
    pub fn recover(&self) -> Result<Recovered, persistence::ReadError> {
        let mut recovered = Recovered::default();
        for shard in 0..SHARDS {
            let shard = Shard(shard as u8);
            self.scan(shard, DUE_FAMILY, |key, place| {
                if let Some(due) = due_of(key) {
                    self.core.reminders.add(due, place);
                    recovered.reminders += 1;
                }
            })?;
            self.scan(shard, PENDING_FAMILY, |_, place| {
                self.wake(place, None);
                recovered.pending += 1;
            })?;
        }
        Ok(recovered)
    }

    /// Reads a family's rows. What was erased meanwhile is deleted: nobody can wake it.
    pub(crate) fn scan(
        &self,
        shard: Shard,
        family: &'static str,
        mut each: impl FnMut(&[u8], Place),
    ) -> Result<(), persistence::ReadError> {
        let (mut after, mut erased) = (None, Vec::new());
        loop {
            let (prefix, limit) = (Vec::new(), SCAN_STEP);
            let range = RowRange { shard, family, prefix, after, newest_first: false, limit };
            let sealed = self.core.journal.row_range(&range)?;
            let count = sealed.len();
            after = sealed.last().map(|(key, _)| key.key.clone());
            for (key, value) in sealed {
                match self.core.journal.keys().open_blob(&key.bytes(), &value) {
                    Ok(Opened::Plain(value)) => {
                        if let Ok(place) = codec::decode::<Place>(&value) {
                            each(&key.key, place);
                        }
                    }
                    Ok(Opened::Erased) => erased.push((key, None)),
                    Err(error) => tracing::error!(family, %error, "a row does not open"),
                }
            }
            if count < limit {
                if !erased.is_empty() {
                    self.core.journal.change_rows(erased, Box::new(|_| {}));
                }
                return Ok(());
            }
        }
    }
}

/// What a start found waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Reminders.
    pub reminders: usize,
    /// Entities with pending work.
    pub pending: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_sort_by_time_and_tell_it() {
        let stream = StreamName::new("hold/1").unwrap();
        let keys: Vec<_> =
            [-5, 0, 7, 1 << 40].iter().map(|ms| due_key(Timestamp(*ms), &stream)).collect();
        assert!(keys.is_sorted());
        assert_eq!(due_of(&keys[3]), Some(Timestamp(1 << 40)));
    }
}
