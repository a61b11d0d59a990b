//! Trying again: what an entity waits for is asked for once more by its reminder, later each time,
//! until it ends.
//!
//! An attempt that says nothing (it crashed, was refused as busy, or its answer was lost) costs no
//! more than the pause until the next one, a restart included: how many attempts there were and
//! when the next one comes are part of the state. Who is asked drops repetitions by id.
//!
//! A kind has a [`Retry`] in its state, begins it with the event that makes it pending, records
//! [`Retried`] as one of its events, and hands its deadline to [`Retrying`].
//!
//! Deliberate limit: nothing is given up here. A kind that gives up decides that by its own state
//! ([`Retry::since`], [`Retry::attempts`]) and says why in an event.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::command::Turn;
use crate::entity::Entity;
use crate::refusal::Refusal;

/// How the pauses between attempts grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause, doubled each time, in milliseconds.
    pub first_ms: i64,
    /// The longest pause, in milliseconds.
    pub max_ms: i64,
}

impl Backoff {
    /// For steps that usually end in a moment and that somebody waits for: 5 seconds, doubled up to
    /// 10 minutes.
    pub const USUAL: Self = Self { first_ms: 5_000, max_ms: 10 * 60 * 1_000 };

    /// How long to wait after so many attempts, in milliseconds.
    pub fn pause_ms(self, attempts: u32) -> i64 {
        let factor = 1_i64.checked_shl(attempts.saturating_sub(1)).filter(|factor| *factor > 0);
        let pause = factor.and_then(|factor| self.first_ms.checked_mul(factor));
        pause.unwrap_or(self.max_ms).min(self.max_ms)
    }
}

/// It is tried once more: an event's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {}

/// How often something was tried, and when it is tried next: a part of an entity's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    attempts: u32,
    since: Timestamp,
    next_at: Timestamp,
}

impl Retry {
    /// The first attempt is made at `at`.
    pub fn begin(at: Timestamp, backoff: Backoff) -> Self {
        let mut retry = Self { attempts: 0, since: at, next_at: at };
        retry.again(at, backoff);
        retry
    }

    /// A further attempt is made at `at`.
    pub fn again(&mut self, at: Timestamp, backoff: Backoff) {
        self.attempts = self.attempts.saturating_add(1);
        self.next_at = at.plus_ms(backoff.pause_ms(self.attempts));
    }

    /// The next attempt is then, and not when its turn would have come.
    pub fn wait_until(&mut self, next_at: Timestamp) {
        self.next_at = next_at;
    }

    /// How many attempts there were.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the first one was made.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// When the next one is made.
    pub fn next_at(&self) -> Timestamp {
        self.next_at
    }
}

/// An entity whose pending work is asked for again until it ends.
pub trait Retrying: Entity {
    /// The state of its attempts.
    fn retry(&self) -> &Retry;

    /// The event that says that it is tried again.
    fn retried() -> Self::Event;

    /// When it is tried again: what belongs into [`Entity::next_deadline`].
    fn retry_at(&self) -> Option<Timestamp> {
        self.is_pending().then(|| self.retry().next_at())
    }

    /// Tries again if the time has come: what belongs into [`Entity::due`].
    fn try_again(turn: &mut Turn<'_, Self>) {
        if turn.state().retry_at().is_some_and(|at| at <= turn.now()) {
            turn.record(Self::retried());
            let again = turn.state().resume();
            again.into_iter().for_each(|effect| turn.effect(effect));
        }
    }
}

/// What an attempt came to. `None` says nothing about the work itself: the reminder tries again.
pub fn verdict<T>(outcome: Result<T, Refusal>) -> Option<Result<T, Refusal>> {
    match outcome {
        Err(refusal) if refusal.class.may_pass() => None,
        outcome => Some(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_one_and_stay_there() {
        let backoff = Backoff { first_ms: 5, max_ms: 30 };
        let pauses: Vec<i64> = (0..6).map(|attempts| backoff.pause_ms(attempts)).collect();
        assert_eq!(pauses, [5, 5, 10, 20, 30, 30]);
        for attempts in [62, 63, 64, 65, u32::MAX] {
            assert_eq!(backoff.pause_ms(attempts), 30, "{attempts} attempts");
        }
    }

    #[test]
    fn each_attempt_counts_and_sets_the_next() {
        let backoff = Backoff { first_ms: 5, max_ms: 30 };
        let mut retry = Retry::begin(Timestamp(100), backoff);
        assert_eq!((retry.attempts(), retry.next_at()), (1, Timestamp(105)));
        retry.again(Timestamp(105), backoff);
        assert_eq!((retry.attempts(), retry.next_at()), (2, Timestamp(115)));
        retry.wait_until(Timestamp(400));
        assert_eq!((retry.since(), retry.next_at()), (Timestamp(100), Timestamp(400)));
    }

    #[test]
    fn only_what_says_nothing_about_the_work_is_no_verdict() {
        assert_eq!(verdict::<()>(Err(Refusal::busy())), None);
        assert_eq!(verdict::<()>(Err(Refusal::in_doubt())), None);
        assert!(verdict::<()>(Err(Refusal::not_found("wallet"))).is_some_and(|it| it.is_err()));
        assert_eq!(verdict(Ok(7)), Some(Ok(7)));
    }
}
