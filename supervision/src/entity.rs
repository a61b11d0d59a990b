//! What a kind of entity is: a state made of events, and the effects it may ask for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use persistence::Position;
use serde::{Serialize, de::DeserializeOwned};

use crate::address::Address;
use crate::clock::Timestamp;
use crate::command::{Origin, Turn};
use crate::event::Event;
use crate::system::System;

/// How many commands may wait for one entity, unless its kind says otherwise.
pub const MAILBOX_MAX: usize = 1_024;

/// A row to write or, with no value, to delete: in the shard of the entity's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDraft {
    /// The family.
    pub family: &'static str,
    /// The key within it.
    pub key: Vec<u8>,
    /// The value in clear; it is sealed under the home's key.
    pub value: Option<Vec<u8>>,
}

/// The effect of kinds that ask for none.
#[derive(Clone, Debug)]
pub enum NoEffect {}

/// A kind of entity. Its state is `Self`: built from events alone, so it may look nowhere else.
pub trait Entity: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind's name, which begins every stream's name. For ever.
    const KIND: &'static str;
    /// How many commands may wait.
    const MAILBOX_MAX: usize = MAILBOX_MAX;
    /// How long an entity without work stays in memory.
    const IDLE: Duration = Duration::from_secs(10);
    /// Families of rows that follow from no record (see
    /// [`System::note_rows`](crate::System::note_rows)): rebuilding rows leaves them alone.
    const OBSERVED_FAMILIES: &'static [&'static str] = &[];
    /// Whether looks read the last durable state directly instead of sending a message: for small
    /// states that are read far more often than they change.
    const PUBLISHED: bool = false;
    /// The version of the state's encoding. A snapshot of another version is not used.
    const SNAPSHOT_VERSION: u16 = 1;

    /// What happens to it.
    type Event: Event;
    /// What it asks others to do.
    type Effect: Send + Clone + std::fmt::Debug + 'static;

    /// Takes an event in. Total: an event that was recorded is never refused.
    fn apply(&mut self, event: &Self::Event, at: Timestamp);

    /// The rows that `event`, on the state before it, changes.
    fn rows(&self, _event: &Self::Event, _at: Timestamp, _rows: &mut Vec<RowDraft>) {}

    /// Whether work is pending that must go on after a restart without anybody asking.
    fn is_pending(&self) -> bool {
        false
    }

    /// Whether it has done all that it was begun for, so that it leaves memory before its
    /// [`Entity::IDLE`] and nothing reminds of it. It may still be asked, and is activated for it.
    fn is_over(&self) -> bool {
        false
    }

    /// The effects that the pending work is waiting for; asked for again after a restart.
    fn resume(&self) -> Vec<Self::Effect> {
        Vec::new()
    }

    /// The earliest time at which [`Entity::due`] has something to do.
    fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Handles everything that is due at `turn.now()`.
    fn due(_turn: &mut Turn<'_, Self>) {}

    /// Carries out an effect, once what asked for it is durable. Runs beside the actor.
    fn perform(
        _effect: Self::Effect,
        _context: EffectContext<Self>,
    ) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The state as an operator may see it: no secret, nothing personal.
    fn observe(&self) -> serde_json::Value;
}

/// What carrying out an effect may use.
pub struct EffectContext<E: Entity> {
    /// The system: its directories and ports.
    pub system: Arc<System>,
    /// The entity that asked.
    pub address: Address<E>,
    /// On whose behalf, with the record that asked as the cause.
    pub origin: Origin,
    /// That record; `None` when the effect is asked for again after a restart.
    pub cause: Option<Position>,
}
