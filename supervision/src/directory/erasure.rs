//! The end of what was erased: its actors leave memory, and nothing reminds of it.
//!
//! An entity whose key was erased does not start any more: whoever asks it is told
//! [`Refusal::erased`], which is no crash and no quarantine. Its records stay counted and linked,
//! so that streams, shards and chains have no gaps.
//!
//! Deliberate limit: its rows stay as ciphertext that nothing opens, but for reminders and marks of
//! pending work.
//!
//! [`Refusal::erased`]: crate::Refusal::erased

use std::collections::HashSet;
use std::sync::Arc;

use persistence::record::SHARDS;
use persistence::{KeyId, ReadError, RowKey, Shard};

use super::{Directory, Phase};
use crate::address::Place;
use crate::clock::Timestamp;
use crate::entity::Entity;
use crate::reminders::{DUE_FAMILY, PENDING_FAMILY, due_key};
use crate::system::{Core, System};

/// See [`Registered::forget`](crate::system::Registered::forget).
pub(super) async fn forget<E: Entity>(
    directory: Arc<Directory<E>>,
    keys: Arc<HashSet<KeyId>>,
) -> usize {
    let slots: Vec<_> = directory.slots.lock().values().cloned().collect();
    let mut ended = 0;
    for slot in slots.iter().filter(|slot| keys.contains(&slot.address.place().key())) {
        let mut phase = slot.phase.subscribe();
        let actor = match phase.wait_for(|it| !matches!(it, Phase::Starting)).await.as_deref() {
            Ok(Phase::Active(actor)) => actor.clone(),
            _ => continue,
        };
        // Not drained: what drains leaves a snapshot of what it knows.
        actor.kill();
        ended += 1;
        let _ = phase.wait_for(|it| matches!(it, Phase::Gone)).await;
    }
    ended
}

/// Puts an empty snapshot behind the records of an erased entity, so that they can be archived. It
/// opens as nothing: whoever starts the entity reads the records, which say that it was erased.
pub(crate) fn stand_in<E: Entity>(directory: &Directory<E>, place: &Place) -> bool {
    let journal = &directory.core.journal;
    journal.stream_head(&place.stream).is_ok_and(|head| {
        journal.snapshot(place.stream.clone(), head, Vec::new());
        true
    })
}

impl Core {
    /// Lets nothing remind of an entity any more that was woken in vain.
    pub(super) fn let_sleep(&self, place: &Place, due: Option<i64>) {
        let row = |family, key| (RowKey::new(place.shard(), family, key), None);
        let pending = row(PENDING_FAMILY, place.stream.as_str().as_bytes().to_vec());
        let due = due.map(|due| row(DUE_FAMILY, due_key(Timestamp(due), &place.stream)));
        let rows = std::iter::once(pending).chain(due).collect();
        self.journal.change_rows(rows, Box::new(|_| {}));
    }
}

impl System {
    /// Ends every actor whose entity is sealed under one of these keys, without a snapshot, and
    /// answers how many there were once nothing of them is left in memory.
    pub async fn forget(&self, keys: HashSet<KeyId>) -> usize {
        let (keys, mut ended) = (Arc::new(keys), 0);
        for kind in self.kinds() {
            ended += kind.forget(keys.clone()).await;
        }
        ended
    }

    /// Deletes the reminders and the marks of pending work of what was erased. Blocks.
    pub fn clean_erased(&self) -> Result<(), ReadError> {
        for shard in 0..SHARDS {
            for family in [DUE_FAMILY, PENDING_FAMILY] {
                self.scan(Shard(shard as u8), family, |_, _| {})?;
            }
        }
        Ok(())
    }
}
