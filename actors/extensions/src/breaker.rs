//! A circuit breaker: after a row of failures nothing is sent for a while, then one request tries.
//!
//! It reads no clock: the present is told. A trial that never reports is forgotten after
//! [`OPEN_FOR`], so that a caller who went away does not keep the circuit open for ever.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
pub const FAILURES_MAX: u32 = 5;
/// How long an open circuit lets nothing through.
pub const OPEN_FOR: Duration = Duration::from_secs(10);

/// How a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// One request tries.
    HalfOpen,
}

/// A circuit breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    /// When it opened, or when the last trial began.
    since: Option<Instant>,
    is_trying: bool,
    last: LastSeen,
}

/// When requests last ended, as observed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSeen {
    /// Well.
    pub success: Option<Instant>,
    /// Badly.
    pub failure: Option<Instant>,
}

impl Breaker {
    /// How it stands.
    pub fn circuit(&self, now: Instant) -> Circuit {
        match self.since {
            None => Circuit::Closed,
            Some(since) if now.duration_since(since) < OPEN_FOR && !self.is_trying => Circuit::Open,
            Some(_) => Circuit::HalfOpen,
        }
    }

    /// When requests last ended.
    pub fn last(&self) -> LastSeen {
        self.last
    }

    /// For how long nothing passes; `None` when a request would be let through.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let waited = now.duration_since(self.since?);
        (waited < OPEN_FOR).then(|| OPEN_FOR - waited)
    }

    /// Lets a request through, or says how long nothing passes.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.wait(now) {
            return Err(wait);
        }
        if self.since.is_some() {
            (self.since, self.is_trying) = (Some(now), true);
        }
        Ok(())
    }

    /// How a request that was let through went.
    pub fn report(&mut self, succeeded: bool, now: Instant) {
        if succeeded {
            let last = LastSeen { success: Some(now), ..self.last };
            *self = Self { last, ..Self::default() };
            return;
        }
        self.last.failure = Some(now);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            (self.since, self.is_trying) = (Some(now), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_failures_opens_it_and_one_success_closes_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            breaker.report(false, start);
        }
        assert_eq!(breaker.circuit(start), Circuit::Closed);
        breaker.report(true, start);
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.admit(start), Ok(()));
            breaker.report(false, start);
        }
        assert_eq!(breaker.circuit(start), Circuit::Open);
        assert_eq!(breaker.admit(start), Err(OPEN_FOR));
        assert_eq!(breaker.wait(start), Some(OPEN_FOR));
        let later = start + OPEN_FOR;
        assert_eq!(breaker.wait(later), None, "whoever only asks is not the one that tries");
        assert_eq!(breaker.circuit(later), Circuit::HalfOpen);
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "one tries, the others wait");
        breaker.report(false, later);
        assert_eq!(breaker.circuit(later), Circuit::Open);
        let later = later + OPEN_FOR;
        assert_eq!(breaker.admit(later), Ok(()));
        breaker.report(true, later);
        assert_eq!((breaker.circuit(later), breaker.admit(later)), (Circuit::Closed, Ok(())));
    }

    #[test]
    fn it_remembers_when_requests_last_ended() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        breaker.report(false, start);
        breaker.report(true, start + OPEN_FOR);
        let LastSeen { success, failure } = breaker.last();
        assert_eq!((success, failure), (Some(start + OPEN_FOR), Some(start)));
    }

    #[test]
    fn a_trial_that_never_ends_does_not_keep_it_open() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        (0..FAILURES_MAX).for_each(|_| breaker.report(false, start));
        assert_eq!(breaker.admit(start + OPEN_FOR), Ok(()));
        assert_eq!(breaker.admit(start + OPEN_FOR * 2), Ok(()));
    }
}
