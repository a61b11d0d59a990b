//! Commands and the turn that handles one.
//!
//! A turn is synchronous and closed: it reads the state, the rows it named beforehand, the clock
//! and the id source it is given, and nothing else. It either refuses, and then has changed
//! nothing, or records events, which are applied at once.

use std::sync::Arc;

use persistence::{KeyRing, Position, RequestRef};

use crate::clock::Timestamp;
use crate::entity::{Entity, RowDraft};
use crate::refusal::Refusal;

/// A message that asks an entity to do something.
pub trait Command: Send + 'static {
    /// The name in records, figures and the console, snake_case.
    const NAME: &'static str;
    /// Whether it goes on while the disk is nearly full: it ends, releases or takes back what is
    /// there, or keeps somebody in. What begins something must not. A full mailbox and a full
    /// queue of the journal have a reserve for it.
    const ESSENTIAL: bool = false;
}

/// What an entity answers to a command.
pub trait Handle<C: Command>: Entity {
    /// The answer.
    type Reply: Send + 'static;

    /// The rows that must be at hand. One bounded range or a few keys; default none.
    fn needs(_command: &C) -> Vec<Need> {
        Vec::new()
    }

    /// Decides.
    fn handle(turn: &mut Turn<'_, Self>, command: C) -> Result<Self::Reply, Refusal>;
}

/// Who asked, and as part of what.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The caller as records show it: `user/…`, `service`, `agent/…`, `system`.
    pub caller: Arc<str>,
    /// The request.
    pub request: RequestRef,
    /// The record whose effect asks.
    pub cause: Option<Position>,
}

/// The caller of what the system does by itself.
pub(crate) const SYSTEM_CALLER: &str = "system";

impl Origin {
    /// Whether this is the next step of something that was begun before.
    pub(crate) fn continues(&self) -> bool {
        self.cause.is_some() || *self.caller == *SYSTEM_CALLER
    }
}

/// Rows that a command wants read before its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// One row.
    Row(&'static str, Vec<u8>),
    /// The rows of a family whose keys begin so, from the smallest key (or the greatest).
    Range {
        /// The family.
        family: &'static str,
        /// What the keys begin with.
        prefix: Vec<u8>,
        /// From the greatest key down.
        newest_first: bool,
        /// How many at most; one more than is wanted tells whether there are more.
        limit: usize,
    },
}

/// A row that was read for a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The family.
    pub family: &'static str,
    /// The key.
    pub key: Vec<u8>,
    /// The value in clear.
    pub value: Vec<u8>,
}

/// What a turn is given, beside the state.
pub struct Given<'a> {
    /// The present.
    pub now: Timestamp,
    /// Where new ids come from.
    pub new_id: &'a (dyn Fn() -> u128 + Send + Sync),
    /// For personal fields, which are sealed under the user's own key.
    pub keys: &'a KeyRing,
    /// Who asks.
    pub origin: &'a Origin,
    /// The rows that were needed.
    pub found: Vec<Found>,
    /// The number of the stream's last record.
    pub seq: u64,
}

/// One command being handled.
pub struct Turn<'a, E: Entity> {
    state: &'a mut E,
    given: Given<'a>,
    events: Vec<E::Event>,
    effects: Vec<E::Effect>,
    rows: Vec<RowDraft>,
}

/// What a turn left behind.
pub struct Left<E: Entity> {
    /// The events, already applied.
    pub events: Vec<E::Event>,
    /// The effects.
    pub effects: Vec<E::Effect>,
    /// The rows of the events.
    pub rows: Vec<RowDraft>,
}

impl<'a, E: Entity> Turn<'a, E> {
    /// A turn on `state`.
    pub fn new(state: &'a mut E, given: Given<'a>) -> Self {
        Self { state, given, events: Vec::new(), effects: Vec::new(), rows: Vec::new() }
    }

    /// The state, with what this turn has recorded so far.
    pub fn state(&self) -> &E {
        self.state
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.given.now
    }

    /// A new id, a UUIDv7.
    pub fn new_id(&self) -> u128 {
        (self.given.new_id)()
    }

    /// Who asks.
    pub fn origin(&self) -> &Origin {
        self.given.origin
    }

    /// The keys for personal fields.
    pub fn keys(&self) -> &KeyRing {
        self.given.keys
    }

    /// The rows that the command needed and that exist.
    pub fn found(&self) -> &[Found] {
        &self.given.found
    }

    /// The value of one needed row.
    pub fn found_row(&self, family: &str, key: &[u8]) -> Option<&[u8]> {
        let is_it = |row: &&Found| row.family == family && row.key == key;
        self.given.found.iter().find(is_it).map(|row| row.value.as_slice())
    }

    /// The number the stream's last record has, or will have once this turn is durable.
    pub fn seq(&self) -> u64 {
        self.given.seq + self.events.len() as u64
    }

    /// Records that something happened: it is applied at once.
    pub fn record(&mut self, event: E::Event) {
        self.state.rows(&event, self.given.now, &mut self.rows);
        self.state.apply(&event, self.given.now);
        self.events.push(event);
    }

    /// Asks for an effect, once this turn is durable.
    pub fn effect(&mut self, effect: E::Effect) {
        self.effects.push(effect);
    }

    /// Whether anything was recorded.
    pub fn has_recorded(&self) -> bool {
        !self.events.is_empty()
    }

    /// Ends the turn.
    pub fn finish(self) -> Left<E> {
        Left { events: self.events, effects: self.effects, rows: self.rows }
    }
}
