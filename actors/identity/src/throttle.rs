//! How often somebody may try a password: a few times a minute, then after a growing delay.
//!
//! Counted by address and account together. So whoever tries from another address does not lock
//! the owner out, and one address that tries many accounts costs itself each of them.
//!
//! Invariants
//! - An attempt counts when it begins, so a burst of parallel ones gets no more than a slow one.
//! - A refused attempt lengthens nothing. The right password forgets the wrong ones.
//!
//! Deliberate limits
//! - In memory: a restart forgets. At most twice [`PAIRS_MAX`] pairs are remembered; the ones that
//!   were not used for the longest time go first.
//! - Only a digest of address and account is kept.

use parking_lot::Mutex;
use persistence::Generations;
use persistence::record::sha256;
use supervision::Timestamp;

/// How many attempts a minute are free.
pub const ATTEMPTS_MAX: u32 = 5;
/// The minute, and the first delay, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;
/// The longest delay, in milliseconds.
pub const DELAY_MS_MAX: i64 = 15 * 60_000;
/// How long after the end of a delay it is remembered, in milliseconds.
pub const KEPT_MS: i64 = 60 * 60_000;
/// How many pairs of address and account are remembered, at most twice over.
pub const PAIRS_MAX: usize = 65_536;

/// An address and an account, as they are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair([u8; 32]);

impl Pair {
    /// The pair of an address, as the front end tells them apart, and a normalised account.
    pub fn new(address: &str, account: &str) -> Self {
        Self(sha256(&[
            &(address.len() as u64).to_be_bytes(),
            address.as_bytes(),
            account.as_bytes(),
        ]))
    }
}

struct Attempts {
    count: u32,
    since: Timestamp,
    blocked_until: Timestamp,
}

impl Attempts {
    fn begin(&mut self, attempts_max: u32, now: Timestamp) -> Result<(), u64> {
        if now < self.blocked_until {
            return Err((self.blocked_until.0 - now.0) as u64);
        }
        let is_over = match self.count >= attempts_max {
            true => now >= self.blocked_until.plus_ms(KEPT_MS),
            false => now >= self.since.plus_ms(WINDOW_MS),
        };
        if is_over {
            (self.count, self.since) = (0, now);
        }
        self.count += 1;
        if let Some(beyond) = self.count.checked_sub(attempts_max) {
            // More doublings than this exceed the longest delay anyway.
            let delay_ms = (WINDOW_MS << beyond.min(16)).min(DELAY_MS_MAX);
            self.blocked_until = now.plus_ms(delay_ms);
        }
        Ok(())
    }
}

/// Counts attempts.
pub struct Throttle {
    attempts_max: u32,
    pairs: Mutex<Generations<Pair, Attempts>>,
}

impl Throttle {
    /// Lets `attempts_max` (at least one) attempts a minute through; see [`ATTEMPTS_MAX`].
    pub fn new(attempts_max: u32) -> Self {
        let pairs = Mutex::new(Generations::new(PAIRS_MAX));
        Self { attempts_max: attempts_max.max(1), pairs }
    }

    /// Counts an attempt, or says in how many milliseconds the next one is let through.
    pub fn begin(&self, pair: Pair, now: Timestamp) -> Result<(), u64> {
        let mut pairs = self.pairs.lock();
        let attempts = match pairs.get_mut(&pair) {
            Some(attempts) => attempts,
            None => {
                let blocked_until = Timestamp(i64::MIN);
                pairs.insert(pair, Attempts { count: 0, since: now, blocked_until })
            }
        };
        attempts.begin(self.attempts_max, now)
    }

    /// The attempt was right: the pair begins anew.
    pub fn succeeded(&self, pair: Pair) {
        self.pairs.lock().remove(&pair);
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(ATTEMPTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn at(ms: i64) -> Timestamp {
        START.plus_ms(ms)
    }

    fn exhausted(pair: Pair) -> Throttle {
        let throttle = Throttle::default();
        for attempt in 0..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, at(i64::from(attempt))), Ok(()));
        }
        throttle
    }

    #[test]
    fn five_are_free_then_the_delay_doubles_up_to_its_limit() {
        let pair = Pair::new("192.0.2.1", "ada@example.test");
        let throttle = exhausted(pair);
        assert_eq!(throttle.begin(pair, at(5)), Err(59_999));
        assert_eq!(throttle.begin(pair, at(60_003)), Err(1), "a refused attempt lengthens nothing");
        let mut now = at(60_004);
        for minutes in [2, 4, 8, 15, 15] {
            assert_eq!(throttle.begin(pair, now), Ok(()));
            let delay_ms = minutes * 60_000;
            assert_eq!(throttle.begin(pair, now), Err(delay_ms as u64));
            now = now.plus_ms(delay_ms);
        }
        let later = now.plus_ms(KEPT_MS);
        for _ in 0..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, later), Ok(()), "long ago is forgotten");
        }
        assert!(throttle.begin(pair, later).is_err());
    }

    #[test]
    fn another_address_and_another_account_are_not_held_up() {
        let throttle = exhausted(Pair::new("192.0.2.1", "ada@example.test"));
        assert!(throttle.begin(Pair::new("192.0.2.1", "ada@example.test"), at(9)).is_err());
        assert_eq!(throttle.begin(Pair::new("192.0.2.2", "ada@example.test"), at(9)), Ok(()));
        assert_eq!(throttle.begin(Pair::new("192.0.2.1", "bob@example.test"), at(9)), Ok(()));
        assert_eq!(throttle.begin(Pair::new("192.0.2.1a", "da@example.test"), at(9)), Ok(()));
    }

    #[test]
    fn the_right_password_and_a_quiet_minute_begin_anew() {
        let pair = Pair::new("192.0.2.1", "ada@example.test");
        let throttle = exhausted(pair);
        throttle.succeeded(pair);
        for _ in 1..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, at(100)), Ok(()));
        }
        for _ in 1..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, at(100 + WINDOW_MS)), Ok(()));
        }
    }
}
