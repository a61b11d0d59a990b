//! How often somebody may try a password or a code: a few times a minute, then after a growing
//! delay; and how an owner is never shut out by the attempts of others.
//!
//! Every attempt counts for its pair of address and account, so whoever tries from elsewhere does
//! not slow the owner down. It counts for its address too, so that one address does not try many
//! accounts. A code has so few values that it counts for its account as well, wherever it comes
//! from. The last two spare a pair that is known, because a login from that address to that account
//! succeeded within [`KNOWN_MS`], and a device that shows the token of an earlier login: such a
//! device has a pair of its own, so not even somebody at the same address slows it down.
//!
//! Invariants
//! - An attempt counts when it begins, so a burst of parallel ones gets no more than a slow one.
//! - A refused attempt lengthens nothing, counts for nothing and takes no memory.
//! - A success forgets its pair's failures, and gives back to address and account only what it took
//!   itself: one's own logins pay for no guesses.
//!
//! Deliberate limits
//! - In memory: a restart forgets. Of each sort at most twice [`PAIRS_MAX`] are remembered; those
//!   that were not used for the longest time go first. To push out its own entry an attacker has
//!   to get as many others through, each at the price of a hash and from an address that still may
//!   try: longer than the longest delay.
//! - Only digests of addresses and accounts are kept.
//! - Who knows the password may slow down codes from devices that are not known. Changing the
//!   password, from a session that is open, ends that.

use parking_lot::Mutex;
use persistence::Generations;
use persistence::record::sha256;
use supervision::Timestamp;

/// How many attempts a minute are free, by address and account.
pub const ATTEMPTS_MAX: u32 = 5;
/// How many attempts a minute that do not succeed are free, by address alone.
pub const ADDRESS_ATTEMPTS_MAX: u32 = 60;
/// How many codes a minute that are wrong are free, by account alone.
pub const ACCOUNT_CODES_MAX: u32 = 20;
/// The minute, and the first delay, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;
/// The longest delay, in milliseconds.
pub const DELAY_MS_MAX: i64 = 15 * 60_000;
/// How long after the end of a delay it is remembered, in milliseconds.
pub const KEPT_MS: i64 = 60 * 60_000;
/// How long a success makes its address known to the account, and a device's token is good, in
/// milliseconds: 30 days.
pub const KNOWN_MS: i64 = 30 * 24 * 3_600_000;
/// How many of each sort are remembered, at most twice over.
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

/// Somebody who tries to log in.
#[derive(Clone, Copy)]
pub struct Visitor {
    pair: Pair,
    /// Where a success is noted: the address and the account, whatever device it is.
    place: Pair,
    address: Pair,
    /// The account, where attempts count for it wherever they come from.
    account: Option<Pair>,
    has_device: bool,
}

impl Visitor {
    /// Who tries a password: from an address, for a normalised account, with a known device.
    pub fn new(address: &str, account: &str, device: Option<u128>) -> Self {
        let place = Pair::new(address, account);
        let own = |device| Pair::new(&format!("device {device:032x}"), account);
        Self {
            pair: device.map_or(place, own),
            place,
            address: Pair::new(address, ""),
            account: None,
            has_device: device.is_some(),
        }
    }

    /// Who tries a code: counted apart from passwords, and for the account as well.
    pub fn with_code(address: &str, account: &str, device: Option<u128>) -> Self {
        let account = format!("code {account}");
        let everywhere = Some(Pair::new("", &account));
        Self { account: everywhere, ..Self::new(address, &account, device) }
    }
}

/// An attempt that was let through, and what it counts for.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Begun {
    /// For its address and its account too, not just for the pair.
    counts_for_all: bool,
}

struct Attempts {
    count: u32,
    since: Timestamp,
    blocked_until: Timestamp,
}

impl Attempts {
    fn check(&self, now: Timestamp) -> Result<(), u64> {
        let is_free = now >= self.blocked_until;
        is_free.then_some(()).ok_or_else(|| (self.blocked_until.0 - now.0) as u64)
    }

    fn count(&mut self, attempts_max: u32, now: Timestamp) {
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
    }

    fn give_back(&mut self, attempts_max: u32) {
        self.count = self.count.saturating_sub(1);
        if self.count < attempts_max {
            self.blocked_until = Timestamp(i64::MIN);
        }
    }
}

/// The attempts of one sort, and how many are free.
struct Counter {
    attempts_max: u32,
    entries: Generations<Pair, Attempts>,
}

impl Counter {
    fn new(attempts_max: u32) -> Self {
        Self { attempts_max: attempts_max.max(1), entries: Generations::new(PAIRS_MAX) }
    }

    fn check(&mut self, pair: &Pair, now: Timestamp) -> Result<(), u64> {
        self.entries.get_mut(pair).map_or(Ok(()), |attempts| attempts.check(now))
    }

    fn count(&mut self, pair: Pair, now: Timestamp) {
        let attempts = match self.entries.get_mut(&pair) {
            Some(attempts) => attempts,
            None => {
                let blocked_until = Timestamp(i64::MIN);
                self.entries.insert(pair, Attempts { count: 0, since: now, blocked_until })
            }
        };
        attempts.count(self.attempts_max, now);
    }

    fn give_back(&mut self, pair: &Pair) {
        if let Some(attempts) = self.entries.get_mut(pair) {
            attempts.give_back(self.attempts_max);
        }
    }
}

struct Counts {
    pairs: Counter,
    addresses: Counter,
    accounts: Counter,
    /// When a login last succeeded.
    known: Generations<Pair, Timestamp>,
}

impl Counts {
    /// Takes an attempt back, and nothing else.
    fn take_back(&mut self, visitor: &Visitor, begun: Begun) {
        self.pairs.give_back(&visitor.pair);
        if begun.counts_for_all {
            self.addresses.give_back(&visitor.address);
            if let Some(account) = &visitor.account {
                self.accounts.give_back(account);
            }
        }
    }
}

/// Counts attempts.
pub struct Throttle {
    counts: Mutex<Counts>,
}

impl Throttle {
    /// Lets `attempts_max` (at least one) attempts a minute through; see [`ATTEMPTS_MAX`].
    pub fn new(attempts_max: u32) -> Self {
        Self::with_addresses(attempts_max, ADDRESS_ATTEMPTS_MAX)
    }

    /// [`Throttle::new`] with another number of failures that an address has free.
    pub fn with_addresses(attempts_max: u32, address_attempts_max: u32) -> Self {
        let counts = Counts {
            pairs: Counter::new(attempts_max),
            addresses: Counter::new(address_attempts_max),
            accounts: Counter::new(ACCOUNT_CODES_MAX),
            known: Generations::new(PAIRS_MAX),
        };
        Self { counts: Mutex::new(counts) }
    }

    /// Counts an attempt of one who is logged in, for the pair alone, or says in how many
    /// milliseconds the next one is let through.
    pub fn begin(&self, pair: Pair, now: Timestamp) -> Result<(), u64> {
        let pairs = &mut self.counts.lock().pairs;
        pairs.check(&pair, now)?;
        pairs.count(pair, now);
        Ok(())
    }

    /// The attempt was right: the pair begins anew.
    pub fn succeeded(&self, pair: Pair) {
        self.counts.lock().pairs.entries.remove(&pair);
    }

    /// Counts an attempt to log in, or says in how many milliseconds the next one is let through.
    pub fn begin_login(&self, visitor: &Visitor, now: Timestamp) -> Result<Begun, u64> {
        let Counts { pairs, addresses, accounts, known } = &mut *self.counts.lock();
        let since = known.get_mut(&visitor.place);
        let is_known = since.is_some_and(|since| now < since.plus_ms(KNOWN_MS));
        let counts_for_all = !(is_known || visitor.has_device);
        pairs.check(&visitor.pair, now)?;
        if counts_for_all {
            addresses.check(&visitor.address, now)?;
            visitor.account.as_ref().map_or(Ok(()), |account| accounts.check(account, now))?;
            addresses.count(visitor.address, now);
            if let Some(account) = visitor.account {
                accounts.count(account, now);
            }
        }
        pairs.count(visitor.pair, now);
        Ok(Begun { counts_for_all })
    }

    /// What was tried was right: the attempt is taken back, and the failures of its pair with it.
    pub fn login_was_right(&self, visitor: &Visitor, begun: Begun) {
        let counts = &mut *self.counts.lock();
        counts.take_back(visitor, begun);
        counts.pairs.entries.remove(&visitor.pair);
    }

    /// Nobody has looked at what was tried, for want of room: the attempt is taken back.
    pub fn login_not_tried(&self, visitor: &Visitor, begun: Begun) {
        self.counts.lock().take_back(visitor, begun);
    }

    /// The login is complete: its address is known to the account from now on.
    pub fn logged_in(&self, visitor: &Visitor, now: Timestamp) {
        self.counts.lock().known.insert(visitor.place, now);
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
    const ADA: &str = "ada@example.test";

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
    fn what_nobody_has_looked_at_counts_for_nothing() {
        let throttle = Throttle::default();
        let visitor = Visitor::new("192.0.2.1", ADA, None);
        for _ in 0..=ATTEMPTS_MAX.max(ADDRESS_ATTEMPTS_MAX) {
            let begun = throttle.begin_login(&visitor, at(0)).unwrap();
            throttle.login_not_tried(&visitor, begun);
        }
        let begun = throttle.begin_login(&visitor, at(0));
        assert!(begun.is_ok());
    }

    #[test]
    fn five_are_free_then_the_delay_doubles_up_to_its_limit() {
        let pair = Pair::new("192.0.2.1", ADA);
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
        let throttle = exhausted(Pair::new("192.0.2.1", ADA));
        assert!(throttle.begin(Pair::new("192.0.2.1", ADA), at(9)).is_err());
        assert_eq!(throttle.begin(Pair::new("192.0.2.2", ADA), at(9)), Ok(()));
        assert_eq!(throttle.begin(Pair::new("192.0.2.1", "bob@example.test"), at(9)), Ok(()));
        assert_eq!(throttle.begin(Pair::new("192.0.2.1a", "da@example.test"), at(9)), Ok(()));
    }

    #[test]
    fn the_right_password_and_a_quiet_minute_begin_anew() {
        let pair = Pair::new("192.0.2.1", ADA);
        let throttle = exhausted(pair);
        throttle.succeeded(pair);
        for _ in 1..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, at(100)), Ok(()));
        }
        for _ in 1..ATTEMPTS_MAX {
            assert_eq!(throttle.begin(pair, at(100 + WINDOW_MS)), Ok(()));
        }
    }

    /// How many of `tries` attempts to get in with a code from each of `addresses` are let through.
    fn attack(throttle: &Throttle, addresses: u32, tries: u32) -> u32 {
        let mut passed = 0;
        for address in 0..addresses {
            let visitor = Visitor::with_code(&format!("198.51.100.{address}"), ADA, None);
            for _ in 0..tries {
                passed += u32::from(throttle.begin_login(&visitor, START).is_ok());
            }
        }
        passed
    }

    #[test]
    fn a_hundred_addresses_get_few_codes_and_shut_out_nobody_who_is_known() {
        let throttle = Throttle::default();
        let home = Visitor::with_code("192.0.2.1", ADA, None);
        throttle.logged_in(&home, START.plus_ms(-KNOWN_MS + 1));
        assert_eq!(attack(&throttle, 100, 20), ACCOUNT_CODES_MAX);
        let strange = Visitor::with_code("203.0.113.9", ADA, None);
        assert!(throttle.begin_login(&strange, START).is_err(), "nor from the next address");
        assert!(throttle.begin_login(&home, START).is_ok(), "the owner's address is known");
        let phone = Visitor::with_code("203.0.113.9", ADA, Some(7));
        assert!(throttle.begin_login(&phone, START).is_ok(), "and so is the owner's phone");
        let passwords = Visitor::new("203.0.113.9", ADA, None);
        assert!(throttle.begin_login(&passwords, START).is_ok(), "a password is no code");
        let unknown = throttle.begin_login(&home, at(1));
        assert!(unknown.is_err(), "after 30 days an address is known no more");
    }

    #[test]
    fn one_address_tries_few_accounts_and_a_device_there_has_its_own_count() {
        let throttle = Throttle::default();
        let account = |number: u32| Visitor::new("192.0.2.1", &format!("{number}@x.test"), None);
        let passed = (0..1_000)
            .filter(|number| throttle.begin_login(&account(*number), START).is_ok())
            .count();
        assert_eq!(passed as u32, ADDRESS_ATTEMPTS_MAX);
        let phone = Visitor::new("192.0.2.1", ADA, Some(7));
        for _ in 0..ATTEMPTS_MAX {
            assert!(throttle.begin_login(&phone, START).is_ok());
        }
        assert!(throttle.begin_login(&phone, START).is_err(), "a stolen device guesses no faster");
    }

    #[test]
    fn ones_own_logins_pay_for_no_guesses() {
        let throttle = Throttle::default();
        let mine = Visitor::new("192.0.2.1", "mallory@example.test", None);
        let mut passed = 0;
        for number in 0..1_000 {
            if let Ok(begun) = throttle.begin_login(&mine, START) {
                throttle.login_was_right(&mine, begun);
                throttle.logged_in(&mine, START);
            }
            let guess = Visitor::new("192.0.2.1", &format!("{number}@x.test"), None);
            passed += u32::from(throttle.begin_login(&guess, START).is_ok());
        }
        assert_eq!(passed, ADDRESS_ATTEMPTS_MAX);
        // An office may log in as a whole.
        let office = Throttle::default();
        for number in 0..1_000 {
            let visitor = Visitor::new("192.0.2.1", &format!("{number}@x.test"), None);
            let begun = office.begin_login(&visitor, START);
            office.login_was_right(&visitor, begun.unwrap());
        }
    }

    #[test]
    fn what_is_refused_takes_no_memory_so_it_pushes_out_nothing() {
        let throttle = Throttle::default();
        for number in 0..10 * ADDRESS_ATTEMPTS_MAX {
            let visitor = Visitor::new("192.0.2.1", &format!("{number}@x.test"), None);
            let _ = throttle.begin_login(&visitor, START);
        }
        let mut counts = throttle.counts.lock();
        let kept = (0..10 * ADDRESS_ATTEMPTS_MAX).filter(|number| {
            let pair = Pair::new("192.0.2.1", &format!("{number}@x.test"));
            counts.pairs.entries.get_mut(&pair).is_some()
        });
        assert_eq!(kept.count() as u32, ADDRESS_ATTEMPTS_MAX);
    }
}
