//! Deadlines: one row an entity, in due order within its shard; a worker that fires them.
//!
//! The rows are the truth; the schedule in memory is what the worker looks at. It is filled from
//! the rows at the start and by every row that is written. A reminder may fire more than once; an
//! entity handles what is due by its own state, so that costs a turn and nothing else.
//!
//! A home's reminders can be paused: what falls due meanwhile waits, and comes a few at a time once
//! they go on, so that a home that was away for long does not hold up the others'.

use std::collections::{BTreeMap, HashMap, VecDeque};

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
/// How many of those that had to wait for their home fire in one round.
pub const CAUGHT_UP_PER_ROUND: usize = 25;
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

/// A reminder that fell due.
type Due = (Timestamp, Place);

/// The schedule in memory.
#[derive(Default)]
pub struct Reminders {
    /// With the time in the rows: by the clock of the entity's home, where that has its own.
    schedule: Mutex<BTreeMap<Slot, (Timestamp, Place)>>,
    own_times: OwnTimes,
    held: Mutex<Held>,
}

/// What does not fire when it is due.
#[derive(Default)]
struct Held {
    /// By home, of those that are paused.
    paused: HashMap<Home, Vec<Due>>,
    /// Of homes that go on.
    catching_up: VecDeque<Due>,
}

impl Held {
    /// Keeps what belongs to a paused home; gives back the rest.
    fn keep(&mut self, due: Due) -> Option<Due> {
        match self.paused.get_mut(&due.1.home) {
            Some(waiting) => {
                waiting.push(due);
                None
            }
            None => Some(due),
        }
    }
}

impl Reminders {
    /// Adds a reminder that is due at this time of the place's home.
    pub(crate) fn add(&self, due: Timestamp, place: Place) {
        // Under the lock: a home's time does not move between the look at it and this.
        let mut schedule = self.schedule.lock();
        let fires_at = due.plus_ms(-self.own_times.ahead_ms(place.home));
        schedule.insert((fires_at, place.stream.clone()), (due, place));
    }

    /// Takes a reminder out. One that has fallen due already fires, and costs a turn.
    pub(crate) fn remove(&self, due: Timestamp, place: &Place) {
        let mut schedule = self.schedule.lock();
        let fires_at = due.plus_ms(-self.own_times.ahead_ms(place.home));
        schedule.remove(&(fires_at, place.stream.clone()));
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
        let held = self.held.lock();
        let paused: usize = held.paused.values().map(Vec::len).sum();
        self.schedule.lock().len() + paused + held.catching_up.len()
    }

    /// The next ones, for the console.
    pub fn next(&self, limit: usize) -> Vec<(Timestamp, StreamName)> {
        self.schedule.lock().keys().take(limit).cloned().collect()
    }

    /// From now on nothing of `home` fires. A repetition is no change.
    pub fn pause(&self, home: Home) {
        self.held.lock().paused.entry(home).or_default();
    }

    /// What is due of `home` fires again, what had to wait at [`CAUGHT_UP_PER_ROUND`].
    pub fn go_on(&self, home: Home) {
        let mut held = self.held.lock();
        let waiting = held.paused.remove(&home).unwrap_or_default();
        held.catching_up.extend(waiting);
    }

    fn take_due(&self, now: Timestamp) -> Vec<Due> {
        let (mut held, mut schedule) = (self.held.lock(), self.schedule.lock());
        let mut due = Vec::new();
        for _ in 0..CAUGHT_UP_PER_ROUND {
            let Some(next) = held.catching_up.pop_front() else { break };
            due.extend(held.keep(next));
        }
        for _ in 0..FIRED_PER_ROUND - CAUGHT_UP_PER_ROUND {
            let Some(first) = schedule.first_entry().filter(|first| first.key().0 <= now) else {
                break;
            };
            due.extend(held.keep(first.remove()));
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

    fn place(home: u128, number: usize) -> Place {
        let stream = StreamName::new(&format!("hold/{home}.{number}")).unwrap();
        Place { stream, owner: crate::OwnerKey { class: 1, id: home }, home: Home(home) }
    }

    #[test]
    fn what_is_due_in_a_home_of_its_own_time_fires_by_that() {
        let reminders = Reminders::default();
        reminders.add(Timestamp(100), place(1, 0));
        reminders.add(Timestamp(100), place(2, 0));
        assert!(reminders.take_due(Timestamp(40)).is_empty());
        reminders.set_own_time(Home(2), 60);
        assert_eq!(reminders.take_due(Timestamp(40)), [(Timestamp(100), place(2, 0))]);
        reminders.set_own_time(Home(2), 50);
        assert_eq!(reminders.own_times().ahead_ms(Home(2)), 60, "no time goes back");
        reminders.add(Timestamp(101), place(2, 0));
        assert_eq!(reminders.take_due(Timestamp(41)), [(Timestamp(101), place(2, 0))]);
        assert_eq!(reminders.take_due(Timestamp(100)), [(Timestamp(100), place(1, 0))]);
    }

    #[test]
    fn a_paused_home_waits_and_catches_up_a_few_at_a_time_while_others_fire() {
        let reminders = Reminders::default();
        let many = CAUGHT_UP_PER_ROUND + 1;
        reminders.pause(Home(1));
        (0..many).for_each(|number| reminders.add(Timestamp(5), place(1, number)));
        reminders.add(Timestamp(6), place(2, 0));
        let fired = |now| {
            let due = reminders.take_due(Timestamp(now));
            due.iter().map(|(_, place)| place.home.0).collect::<Vec<_>>()
        };
        assert_eq!(fired(4), [0; 0]);
        assert_eq!(fired(9), [2]);
        assert_eq!((fired(9), reminders.waiting()), (vec![], many));
        reminders.go_on(Home(1));
        assert_eq!(fired(9), vec![1; CAUGHT_UP_PER_ROUND]);
        // Paused once more, what has not fired yet waits again.
        reminders.pause(Home(1));
        assert_eq!((fired(9), reminders.waiting()), (vec![], 1));
        reminders.go_on(Home(1));
        assert_eq!(fired(9), [1]);
        reminders.add(Timestamp(5), place(1, 0));
        assert_eq!(fired(9), [1], "nothing is held any more");
    }
}
