//! A bounded map in two generations: what was used since the last turnover stays, the rest goes.
//!
//! Cheaper than a linked LRU and as good for caches whose misses are read back from the engine.
//! At most twice the capacity is held.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// A map that forgets. See the module's head.
pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// An empty map that holds between `capacity` and twice as many entries.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(1) }
    }

    /// The entry, which counts as used.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if self.young.contains_key(key) {
            return self.young.get_mut(key);
        }
        let (key, value) = self.old.remove_entry(key)?;
        Some(self.insert(key, value))
    }

    /// Puts an entry in, as the newest.
    pub fn insert(&mut self, key: K, value: V) -> &mut V {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let slot = self.young.entry(key);
        slot.insert_entry(value).into_mut()
    }

    /// Takes an entry out.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_entries_survive_a_turnover_and_unused_ones_go() {
        let mut map = Generations::new(2);
        map.insert(1, "a");
        map.insert(2, "b");
        map.insert(3, "c");
        assert_eq!(map.get_mut(&1), Some(&mut "a"));
        map.insert(4, "d");
        assert_eq!(map.get_mut(&2), None);
        assert_eq!(map.get_mut(&1), Some(&mut "a"));
    }
}
