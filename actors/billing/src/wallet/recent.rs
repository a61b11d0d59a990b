//! What was done lately, by the id it was asked with: so that a repetition is answered and not
//! done again. Bounded in time and in number, oldest first out.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use supervision::Timestamp;

/// Outcomes by id, in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Recent<T> {
    entries: VecDeque<(u128, Timestamp, T)>,
    /// The number of each id's entry, counted from the first ever.
    numbers: HashMap<u128, u64>,
    /// How many entries have left.
    gone: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), numbers: HashMap::new(), gone: 0 }
    }
}

impl<T> Recent<T> {
    /// The outcome of an id.
    pub(crate) fn get(&self, id: u128) -> Option<&T> {
        let place = self.numbers.get(&id)? - self.gone;
        self.entries.get(place as usize).map(|(_, _, outcome)| outcome)
    }

    /// Remembers an outcome, and forgets what is older than `kept_ms` or beyond `max`.
    pub(crate) fn insert(&mut self, id: u128, at: Timestamp, outcome: T, kept_ms: i64, max: usize) {
        self.numbers.insert(id, self.gone + self.entries.len() as u64);
        self.entries.push_back((id, at, outcome));
        let is_over = |(_, done, _): &(u128, Timestamp, T)| done.plus_ms(kept_ms) <= at;
        while self.entries.len() > max || self.entries.front().is_some_and(is_over) {
            let Some((oldest, _, _)) = self.entries.pop_front() else { break };
            if self.numbers.get(&oldest) == Some(&self.gone) {
                self.numbers.remove(&oldest);
            }
            self.gone += 1;
        }
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<T: Serialize> Serialize for Recent<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Recent<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = VecDeque::<(u128, Timestamp, T)>::deserialize(deserializer)?;
        let numbers = entries.iter().enumerate().map(|(place, (id, _, _))| (*id, place as u64));
        Ok(Self { numbers: numbers.collect(), entries, gone: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistence::codec::{decode, encode};

    #[test]
    fn what_is_old_or_too_much_is_forgotten_and_the_rest_survives_its_bytes() {
        let mut recent = Recent::default();
        for id in 0..6u128 {
            recent.insert(id, Timestamp(id as i64 * 10), id * 2, 35, 5);
        }
        let known = |recent: &Recent<u128>| -> Vec<_> {
            (0..6).filter_map(|id| recent.get(id).copied()).collect()
        };
        assert_eq!(known(&recent), [4, 6, 8, 10]);
        let mut stored: Recent<u128> = decode(&encode(&recent).unwrap()).unwrap();
        assert_eq!(known(&stored), [4, 6, 8, 10]);
        stored.insert(9, Timestamp(50), 18, 35, 2);
        assert_eq!((stored.get(5), stored.get(9), stored.len()), (Some(&10), Some(&18), 2));
    }
}
