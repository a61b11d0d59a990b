//! Deadlines: one row an entity, in due order within its shard; a worker that fires them.
//!
//! The rows are the truth; the schedule in memory is what the worker looks at. It is filled from
//! the rows at the start and by every row that is written. A reminder may fire more than once; an
//! entity handles what is due by its own state, so that costs a turn and nothing else.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use persistence::{Home, Opened, RowRange, Shard, StreamName, codec, record::SHARDS};

use crate::address::Place;
use crate::clock::Timestamp;
use crate::own_time::OwnTimes;
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

/// When a reminder fires by the system's clock, and whose it is.
type Slot = (Timestamp, StreamName);

/// The schedule in memory.
#[derive(Default)]
pub struct Reminders {
    /// With the time in the rows: by the clock of the entity's home, where that has its own.
    schedule: Mutex<BTreeMap<Slot, (Timestamp, Place)>>,
    own_times: OwnTimes,
}

impl Reminders {
    /// Adds a reminder that is due at this time of the place's home.
    pub(crate) fn add(&self, due: Timestamp, place: Place) {
        // Under the lock: a home's time does not move between the look at it and this.
        let mut schedule = self.schedule.lock();
        let fires_at = due.plus_ms(-self.own_times.ahead_ms(place.home));
        schedule.insert((fires_at, place.stream.clone()), (due, place));
    }

    /// The homes whose time is their own.
    pub(crate) fn own_times(&self) -> &OwnTimes {
        &self.own_times
    }

    /// Sets how far a home's time is ahead, and what is due there fires accordingly.
    pub(crate) fn set_own_time(&self, home: Home, ahead_ms: i64) {
        let mut schedule = self.schedule.lock();
        let ahead_ms = self.own_times.set(home, ahead_ms);
        let (moved, kept) =
            std::mem::take(&mut *schedule).into_iter().partition(|(_, (_, it))| it.home == home);
        *schedule = kept;
        let moved: BTreeMap<Slot, (Timestamp, Place)> = moved;
        for ((_, stream), (due, place)) in moved {
            schedule.insert((due.plus_ms(-ahead_ms), stream), (due, place));
        }
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
            due.push(first.remove());
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
        self.recover_own_times()?;
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

    #[test]
    fn what_is_due_in_a_home_of_its_own_time_fires_by_that() {
        let place = |home: u128| Place {
            stream: StreamName::new(&format!("hold/{home}")).unwrap(),
            owner: persistence::OwnerKey { class: 1, id: home },
            home: Home(home),
        };
        let reminders = Reminders::default();
        reminders.add(Timestamp(100), place(1));
        reminders.add(Timestamp(100), place(2));
        assert!(reminders.take_due(Timestamp(40)).is_empty());
        reminders.set_own_time(Home(2), 60);
        assert_eq!(reminders.take_due(Timestamp(40)), [(Timestamp(100), place(2))]);
        reminders.set_own_time(Home(2), 50);
        assert_eq!(reminders.own_times().ahead_ms(Home(2)), 60, "no time goes back");
        reminders.add(Timestamp(101), place(2));
        assert_eq!(reminders.take_due(Timestamp(41)), [(Timestamp(101), place(2))]);
        assert_eq!(reminders.take_due(Timestamp(100)), [(Timestamp(100), place(1))]);
    }
}
