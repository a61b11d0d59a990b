//! Given what has happened, when this is asked, then that follows: one entity, no system, no time
//! but the one that the test sets.

use std::sync::atomic::{AtomicU64, Ordering};

use persistence::{KeyRing, MasterKey};

use crate::clock::Timestamp;
use crate::command::{Command, Found, Given as TurnGiven, Handle, Left, Origin, Turn};
use crate::entity::{Entity, RowDraft};
use crate::refusal::Refusal;

pub use crate::golden::Golden;

/// An entity to which certain things have happened.
pub struct Given<E: Entity> {
    state: E,
    seq: u64,
    now: Timestamp,
    caller: &'static str,
    found: Vec<Found>,
    keys: KeyRing,
    ids: AtomicU64,
}

/// What followed.
pub struct Then<E: Entity, R> {
    /// The answer.
    pub outcome: Result<R, Refusal>,
    /// What was recorded.
    pub events: Vec<E::Event>,
    /// What was asked of others.
    pub effects: Vec<E::Effect>,
    /// The rows that changed.
    pub rows: Vec<RowDraft>,
    /// The entity afterwards.
    pub given: Given<E>,
}

impl<E: Entity> Default for Given<E> {
    fn default() -> Self {
        Self::nothing()
    }
}

impl<E: Entity> Given<E> {
    /// Nothing has happened yet; it is 2026-01-01T00:00:00Z.
    pub fn nothing() -> Self {
        Self::events([])
    }

    /// These events have happened.
    pub fn events(events: impl IntoIterator<Item = E::Event>) -> Self {
        let now = Timestamp(1_767_225_600_000);
        let (mut state, mut seq) = (E::default(), 0);
        for event in events {
            state.apply(&event, now);
            seq += 1;
        }
        let keys = KeyRing::in_memory(&MasterKey::from_bytes([1; 32]))
            .unwrap_or_else(|error| panic!("no key ring for a test: {error}"));
        let ids = AtomicU64::new(1);
        Self { state, seq, now, caller: "user/test", found: Vec::new(), keys, ids }
    }

    /// At this time.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// So much later.
    #[must_use]
    pub fn later_ms(mut self, ms: i64) -> Self {
        self.now = self.now.plus_ms(ms);
        self
    }

    /// With this row at hand.
    #[must_use]
    pub fn row(mut self, family: &'static str, key: &[u8], value: &[u8]) -> Self {
        self.found.push(Found { family, key: key.to_vec(), value: value.to_vec() });
        self
    }

    /// The entity as it stands.
    pub fn state(&self) -> &E {
        &self.state
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The keys that personal fields are sealed with.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    fn turn<R>(mut self, run: impl FnOnce(&mut Turn<'_, E>) -> R) -> (R, Left<E>, Self) {
        let origin = Origin { caller: self.caller.into(), request: 1.into(), cause: None };
        let before = self.state.clone();
        let mut state = self.state.clone();
        let next = || u128::from(self.ids.fetch_add(1, Ordering::Relaxed));
        let given = TurnGiven {
            now: self.now,
            new_id: &next,
            keys: &self.keys,
            origin: &origin,
            found: std::mem::take(&mut self.found),
            seq: self.seq,
        };
        let mut turn = Turn::new(&mut state, given);
        let result = run(&mut turn);
        let left = turn.finish();
        self.seq += left.events.len() as u64;
        self.state = state;
        assert_replays(before, &left.events, &self.state, self.now);
        (result, left, self)
    }

    /// This is asked.
    pub fn when<C>(self, command: C) -> Then<E, <E as Handle<C>>::Reply>
    where
        C: Command,
        E: Handle<C>,
    {
        let (outcome, left, given) = self.turn(|turn| E::handle(turn, command));
        if outcome.is_err() {
            assert!(left.events.is_empty(), "{} refused after recording", C::NAME);
        }
        Then { outcome, events: left.events, effects: left.effects, rows: left.rows, given }
    }

    /// The reminder fires.
    pub fn when_due(self) -> Then<E, ()> {
        let ((), left, given) = self.turn(|turn| E::due(turn));
        let (events, effects, rows) = (left.events, left.effects, left.rows);
        Then { outcome: Ok(()), events, effects, rows, given }
    }
}

/// The state is a function of the events: applying them again gives the same.
fn assert_replays<E: Entity>(mut state: E, events: &[E::Event], after: &E, now: Timestamp) {
    for event in events {
        state.apply(event, now);
    }
    let bytes = |entity: &E| {
        let encoded = persistence::codec::encode(entity);
        encoded.unwrap_or_else(|error| panic!("{} does not encode: {error}", E::KIND))
    };
    assert!(bytes(&state) == bytes(after), "{} changed its state without an event", E::KIND);
}

impl<E: Entity, R: std::fmt::Debug> Then<E, R> {
    /// The answer; a refusal fails the test.
    pub fn reply(self) -> (R, Given<E>) {
        match self.outcome {
            Ok(reply) => (reply, self.given),
            Err(refusal) => panic!("refused: {refusal}"),
        }
    }

    /// The refusal's code; an answer fails the test.
    pub fn refused(self) -> (String, Given<E>) {
        match self.outcome {
            Ok(reply) => panic!("not refused: {reply:?}"),
            Err(refusal) => (refusal.code, self.given),
        }
    }

    /// The entity afterwards, to go on with.
    pub fn then(self) -> Given<E> {
        self.given
    }
}
