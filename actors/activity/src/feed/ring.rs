//! The latest events of one tenant, for readers that keep up, and for those that come back soon.
//!
//! Invariants
//! - From `held_from` on up to [`Ring::upto`], every event of the chain is here, in order.
//! - A place is a number that an event keeps: places go up by one, and none is given twice.
//!
//! It holds at most [`RING_ENTRIES_MAX`] events, [`RING_BYTES_MAX`] bytes of them, none older than
//! [`RING_MS_MAX`]. What fell out is read from the journal.

use std::collections::VecDeque;
use std::sync::Arc;

use supervision::Timestamp;

use super::entry::{Entry, EntryId};

/// The most events that are held.
pub const RING_ENTRIES_MAX: usize = 10_000;
/// The most bytes of events that are held.
pub const RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long an event is held, in milliseconds: an hour.
pub const RING_MS_MAX: i64 = 3_600_000;

/// See the module's head.
pub(crate) struct Ring {
    /// Each with the number of bytes that were published before it.
    entries: VecDeque<(u64, Arc<Entry>)>,
    first_place: u64,
    bytes: usize,
    published_bytes: u64,
    held_from: EntryId,
    upto: EntryId,
}

impl Ring {
    /// Nothing yet, at a chain's end.
    pub(crate) fn at(upto: u64) -> Self {
        let at = EntryId::whole(upto);
        Self {
            entries: VecDeque::new(),
            first_place: 0,
            bytes: 0,
            published_bytes: 0,
            held_from: at,
            upto: at,
        }
    }

    /// All of the chain up to here is told.
    pub(crate) fn upto(&self) -> EntryId {
        self.upto
    }

    /// The place of the next event.
    pub(crate) fn end(&self) -> u64 {
        self.first_place + self.entries.len() as u64
    }

    /// Takes in what records told, and that they were told.
    pub(crate) fn take(&mut self, entries: Vec<Arc<Entry>>, upto: u64, now: Timestamp) {
        entries.into_iter().for_each(|entry| self.push(entry));
        self.upto = self.upto.max(EntryId::whole(upto));
        self.trim(now);
    }

    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.bytes.len();
        self.entries.push_back((self.published_bytes, entry.clone()));
        self.published_bytes += entry.bytes.len() as u64;
    }

    /// Lets go of what is too old or too much.
    pub(crate) fn trim(&mut self, now: Timestamp) {
        while let Some((_, oldest)) = self.entries.front() {
            let is_over = oldest.at.plus_ms(RING_MS_MAX) <= now;
            let is_much = self.entries.len() > RING_ENTRIES_MAX || self.bytes > RING_BYTES_MAX;
            if !is_over && !is_much {
                break;
            }
            self.bytes -= oldest.bytes.len();
            self.held_from = self.held_from.max(oldest.id.unwrap_or(self.held_from));
            self.first_place += 1;
            self.entries.pop_front();
        }
    }

    /// The place of the first event behind `mark`; `None` when not all of them are held.
    pub(crate) fn place_after(&self, mark: EntryId) -> Option<u64> {
        if mark < self.held_from {
            return None;
        }
        let before = self.entries.partition_point(|(_, entry)| entry.after <= mark);
        Some(self.first_place + before as u64)
    }

    /// The events from a place on, `None` when that place was let go.
    pub(crate) fn from(&self, place: u64) -> Option<impl Iterator<Item = &Arc<Entry>>> {
        let skipped = usize::try_from(place.checked_sub(self.first_place)?).ok()?;
        Some(self.entries.iter().skip(skipped).map(|(_, entry)| entry))
    }

    /// How many bytes there are from a place on.
    pub(crate) fn bytes_from(&self, place: u64) -> u64 {
        let skipped = place.saturating_sub(self.first_place);
        let before = self.entries.get(usize::try_from(skipped).unwrap_or(usize::MAX));
        before.map_or(0, |(before, _)| self.published_bytes - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::tell::{Audience, Telling};
    use serde_json::json;
    use types::TenantId;

    fn entry(chain_seq: u64, at: i64, text: &str) -> Arc<Entry> {
        let telling = Telling::new("x.y", Audience::Tenant, json!({"text": text}));
        let after = EntryId::whole(chain_seq);
        let mut entry = Entry::ephemeral(after, TenantId(1), Timestamp(at), telling);
        entry.id = Some(after);
        Arc::new(entry)
    }

    fn ids(ring: &Ring, place: u64) -> Option<Vec<u64>> {
        Some(ring.from(place)?.map(|entry| entry.after.chain_seq).collect())
    }

    #[test]
    fn what_is_held_is_found_by_its_id_and_what_is_not_is_known_to_be_gone() {
        let mut ring = Ring::at(5);
        assert_eq!(ring.place_after(EntryId::whole(5)), Some(0));
        assert_eq!(ring.place_after(EntryId::whole(4)), None);
        // The record 7 told nothing.
        ring.take(vec![entry(6, 0, ""), entry(8, 0, "")], 9, Timestamp(0));
        assert_eq!(ring.upto(), EntryId::whole(9));
        for (mark, place) in [(5, 0), (6, 1), (7, 1), (8, 2), (9, 2)] {
            assert_eq!(ring.place_after(EntryId::whole(mark)), Some(place), "{mark}");
        }
        assert_eq!(ids(&ring, 1), Some(vec![8]));
        assert_eq!(ids(&ring, 2), Some(vec![]));
    }

    #[test]
    fn count_bytes_and_age_each_let_go_of_the_oldest() {
        let mut ring = Ring::at(0);
        let many = (1..=RING_ENTRIES_MAX as u64 + 3).map(|seq| entry(seq, 0, "")).collect();
        ring.take(many, RING_ENTRIES_MAX as u64 + 3, Timestamp(0));
        assert_eq!((ring.held_from, ring.end()), (EntryId::whole(3), 10_003));
        assert!(ring.from(2).is_none() && ring.from(3).is_some());
        assert_eq!(ring.place_after(EntryId::whole(2)), None);
        ring.trim(Timestamp(RING_MS_MAX));
        assert_eq!(ids(&ring, 10_003), Some(vec![]));
        assert_eq!(ring.bytes_from(10_003), 0);

        let mut ring = Ring::at(0);
        let large = "x".repeat(8_000);
        let many: Vec<_> = (1..=1_000).map(|seq| entry(seq, 0, &large)).collect();
        let last = many.last().map(|entry| entry.bytes.len() as u64);
        ring.take(many, 1_000, Timestamp(0));
        assert!(ring.bytes <= RING_BYTES_MAX && ring.bytes > RING_BYTES_MAX / 2);
        assert_eq!(Some(ring.bytes_from(999)), last);
        assert!(ring.bytes_from(0) >= ring.bytes_from(999));
    }
}
