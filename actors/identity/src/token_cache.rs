//! Credentials that were verified before, and the revocation epochs they are checked against.
//!
//! A signature or a stored key is checked once; after that the SHA-256 of the whole credential
//! finds what it says. The same cache type serves access tokens, API keys and agent tokens.
//!
//! Invariants
//! - [`TokenCache::get`] checks what it found against [`Epochs`] on every call. After
//!   [`Epochs::raise`] has returned, no `get` that starts later, on any thread, answers a
//!   credential of an older epoch.
//! - What makes that cheap: each rise counts up a number, and an entry notes the number before it
//!   looks its owners up. While the number stands, the entry need not look again.
//! - The credential itself is not kept, only its hash.
//! - The cache never holds more than its capacity, nor answers anything past its time.
//!
//! Deliberate limits
//! - An epoch is forgotten [`EPOCH_KEPT_MS`] after its last rise: by then every credential from
//!   before has expired, since no token lives longer and nothing stays here longer. A restart must
//!   therefore raise every epoch that rose within that time before the first credential is read.
//! - [`Epochs`] has no capacity: to refuse or to forget a revocation is worse than the 48 bytes. It
//!   is bounded by the revocations of a day.
//! - Refusals are not cached.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::digest;
use parking_lot::RwLock;

use crate::signing_keys::{CLOCK_SKEW_MS_MAX, TOKEN_LIFE_MS_MAX};
use crate::token::CarriedEpochs;

/// How many credentials a cache holds unless told otherwise.
pub const CACHE_CAPACITY: usize = 65_536;
/// How long an epoch is remembered: a token's longest life and the skew of two clocks.
pub const EPOCH_KEPT_MS: u64 = TOKEN_LIFE_MS_MAX + 2 * CLOCK_SKEW_MS_MAX;
/// The most locks that a map is split over.
const SHARDS_MAX: usize = 64;

/// Whose epoch it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OwnerClass {
    /// All credentials of a tenant.
    Tenant,
    /// All credentials of a user.
    User,
    /// The tokens of one session.
    Session,
    /// All tokens of an agent.
    Agent,
    /// One API key.
    ApiKey,
    /// All credentials of a user for one tenant; see [`OwnerKey::member`].
    Member,
}

/// An owner of credentials: its class and its id as a number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OwnerKey {
    /// What it is.
    pub class: OwnerClass,
    /// The UUID's 128 bits.
    pub id: u128,
}

impl OwnerKey {
    /// A user as a member of a tenant: the first 128 bits of the SHA-256 of both ids.
    pub fn member(tenant: u128, user: u128) -> Self {
        let ids = [tenant.to_be_bytes(), user.to_be_bytes()].concat();
        let mut id = [0; 16];
        id.copy_from_slice(&digest::digest(&digest::SHA256, &ids).as_ref()[..16]);
        Self { class: OwnerClass::Member, id: u128::from_be_bytes(id) }
    }
}

/// An epoch under which a credential was issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CarriedEpoch {
    /// Whose epoch.
    pub owner: OwnerKey,
    /// Its value then.
    pub epoch: u64,
}

impl CarriedEpochs {
    /// The epochs of a user token together with the ids of their owners.
    pub fn of_owners(self, tenant: u128, user: u128, session: u128) -> [CarriedEpoch; 4] {
        let of = |class, id, epoch| CarriedEpoch { owner: OwnerKey { class, id }, epoch };
        [
            of(OwnerClass::Tenant, tenant, self.tenant),
            of(OwnerClass::User, user, self.user),
            of(OwnerClass::Session, session, self.session),
            CarriedEpoch { owner: OwnerKey::member(tenant, user), epoch: self.membership },
        ]
    }
}

struct Epoch {
    value: u64,
    risen_at_ms: u64,
}

/// The epochs that rose of late. An owner that is not listed is at zero.
pub struct Epochs {
    /// Counted up after each rise. It begins at one: zero is "never looked up".
    rises: AtomicU64,
    shards: [RwLock<HashMap<OwnerKey, Epoch>>; SHARDS_MAX],
}

impl Epochs {
    /// Raises the epoch of `owner` to `epoch`, which it did `risen_at_ms`; it never falls. To be
    /// called before a revocation is acknowledged.
    pub fn raise(&self, owner: OwnerKey, epoch: u64, risen_at_ms: u64) {
        let mut shard = self.shard(&owner).write();
        let known = shard.entry(owner).or_insert(Epoch { value: 0, risen_at_ms: 0 });
        known.value = known.value.max(epoch);
        known.risen_at_ms = known.risen_at_ms.max(risen_at_ms);
        drop(shard);
        self.rises.fetch_add(1, Ordering::SeqCst);
    }

    /// A number that is another after each rise.
    pub fn rises(&self) -> u64 {
        self.rises.load(Ordering::SeqCst)
    }

    /// The epoch of `owner` as far as it is remembered.
    pub fn current(&self, owner: &OwnerKey) -> u64 {
        self.shard(owner).read().get(owner).map_or(0, |known| known.value)
    }

    /// Whether none of the epochs that a credential carries has passed.
    pub fn check(&self, carried: &[CarriedEpoch]) -> bool {
        carried.iter().all(|carried| carried.epoch >= self.current(&carried.owner))
    }

    /// [`Epochs::check`], unless it said yes at the number of rises that `checked_at` holds.
    fn check_again(&self, carried: &[CarriedEpoch], checked_at: &AtomicU64) -> bool {
        // The number is read before the map: a rise in between makes the note out of date.
        let rises = self.rises.load(Ordering::SeqCst);
        if checked_at.load(Ordering::Relaxed) == rises {
            return true;
        }
        let is_good = self.check(carried);
        if is_good {
            checked_at.store(rises, Ordering::Relaxed);
        }
        is_good
    }

    /// Forgets what rose more than [`EPOCH_KEPT_MS`] ago; once in a while is enough.
    pub fn prune(&self, now_ms: u64) {
        for shard in &self.shards {
            shard
                .write()
                .retain(|_, known| now_ms < known.risen_at_ms.saturating_add(EPOCH_KEPT_MS));
        }
    }

    /// How many owners are remembered.
    pub fn owner_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    fn shard(&self, owner: &OwnerKey) -> &RwLock<HashMap<OwnerKey, Epoch>> {
        // The low bits of a UUIDv7 are random.
        &self.shards[(owner.id % SHARDS_MAX as u128) as usize]
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self { rises: AtomicU64::new(1), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl fmt::Debug for Epochs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Epochs({} owners)", self.owner_count())
    }
}

/// The SHA-256 of a whole credential, as it was presented.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct CredentialDigest([u8; 32]);

impl Hash for CredentialDigest {
    /// Eight bytes are enough for a table: they are uniform, and nobody can have two credentials
    /// verified that agree in them at will.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl CredentialDigest {
    /// The digest of a token or a key.
    pub fn of(credential: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, credential.as_bytes()).as_ref());
        Self(bytes)
    }

    /// The 32 bytes: what API keys are stored and looked up by.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CredentialDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CredentialDigest(…)")
    }
}

/// What a verified credential says, and how long that may be believed.
pub struct Verified<T> {
    /// What it says.
    pub value: Arc<T>,
    /// The epochs it was issued under.
    pub carried: Box<[CarriedEpoch]>,
    /// From when on it must be verified again (ms since 1970), at most [`TOKEN_LIFE_MS_MAX`] ahead.
    pub until_ms: u64,
}

struct Slot<T> {
    digest: CredentialDigest,
    verified: Verified<T>,
    /// Set by a hit, taken away when the hand passes: the second chance.
    used: AtomicBool,
    /// Set by [`TokenCache::forget_unused`], which finds it again: nobody came in between.
    unused: bool,
    /// See [`Epochs::check_again`].
    checked_at: AtomicU64,
}

impl<T> Slot<T> {
    fn new(digest: CredentialDigest, verified: Verified<T>) -> Self {
        let (used, checked_at) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { digest, verified, used, unused: false, checked_at }
    }
}

struct Shard<T> {
    index: HashMap<CredentialDigest, usize>,
    slots: Vec<Slot<T>>,
    hand: usize,
}

impl<T> Shard<T> {
    fn put(&mut self, slot: Slot<T>, capacity: usize, now_ms: u64) {
        let place = match self.index.get(&slot.digest) {
            Some(present) => *present,
            None if self.slots.len() < capacity => {
                self.index.insert(slot.digest, self.slots.len());
                return self.slots.push(slot);
            }
            None => self.sweep(now_ms),
        };
        self.index.remove(&self.slots[place].digest);
        self.index.insert(slot.digest, place);
        self.slots[place] = slot;
    }

    /// The place of the first slot that is out of date or was not used since the hand last passed:
    /// found within one round and a step, since the hand takes away what it passes.
    fn sweep(&mut self, now_ms: u64) -> usize {
        loop {
            let place = self.hand % self.slots.len();
            self.hand = place + 1;
            let slot = &mut self.slots[place];
            if slot.verified.until_ms <= now_ms || !std::mem::take(slot.used.get_mut()) {
                return place;
            }
        }
    }

    fn forget_unused(&mut self, now_ms: u64) {
        let held = self.slots.len();
        self.slots.retain_mut(|slot| {
            let is_unused = !std::mem::take(slot.used.get_mut());
            let was_unused = std::mem::replace(&mut slot.unused, is_unused);
            slot.verified.until_ms > now_ms && !(is_unused && was_unused)
        });
        if self.slots.len() == held {
            return;
        }
        let places = self.slots.iter().enumerate();
        self.index = places.map(|(place, slot)| (slot.digest, place)).collect();
        self.slots.shrink_to_fit();
    }

    fn remove(&mut self, digest: &CredentialDigest) {
        if let Some(place) = self.index.remove(digest) {
            self.slots.swap_remove(place);
            if let Some(moved) = self.slots.get(place) {
                self.index.insert(moved.digest, place);
            }
        }
    }
}

/// Verified credentials by their digest.
pub struct TokenCache<T> {
    epochs: Arc<Epochs>,
    shards: Box<[RwLock<Shard<T>>]>,
    shard_capacity: usize,
}

impl<T> TokenCache<T> {
    /// An empty cache for at most `capacity` credentials (at least one); see [`CACHE_CAPACITY`].
    pub fn new(capacity: usize, epochs: Arc<Epochs>) -> Self {
        let capacity = capacity.max(1);
        let count = capacity.min(SHARDS_MAX);
        let empty = || Shard { index: HashMap::new(), slots: Vec::new(), hand: 0 };
        let shards = (0..count).map(|_| RwLock::new(empty())).collect();
        Self { epochs, shards, shard_capacity: capacity / count }
    }

    /// What the credential says, if it was verified before, is not out of date, and none of its
    /// epochs has passed.
    pub fn get(&self, digest: &CredentialDigest, now_ms: u64) -> Option<Arc<T>> {
        let shard = self.shard(digest).read();
        let slot = &shard.slots[*shard.index.get(digest)?];
        let is_in_time = now_ms < slot.verified.until_ms;
        if !is_in_time || !self.epochs.check_again(&slot.verified.carried, &slot.checked_at) {
            return None;
        }
        // Most hits find it set: reading first keeps the line shared between cores.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.verified.value))
    }

    /// Keeps a credential that was verified just now and answers what it says, or `None` if one of
    /// its epochs has passed: it is not to be accepted.
    pub fn admit(
        &self,
        digest: CredentialDigest,
        mut verified: Verified<T>,
        now_ms: u64,
    ) -> Option<Arc<T>> {
        if !self.epochs.check(&verified.carried) {
            return None;
        }
        verified.until_ms = verified.until_ms.min(now_ms.saturating_add(TOKEN_LIFE_MS_MAX));
        let value = Arc::clone(&verified.value);
        let mut shard = self.shard(&digest).write();
        shard.put(Slot::new(digest, verified), self.shard_capacity, now_ms);
        Some(value)
    }

    /// Forgets a credential, so that it is verified anew.
    pub fn remove(&self, digest: &CredentialDigest) {
        self.shard(digest).write().remove(digest);
    }

    /// Forgets what has expired, and what nobody has shown since the last time but one; once in a
    /// while is enough.
    pub fn forget_unused(&self, now_ms: u64) {
        self.shards.iter().for_each(|shard| shard.write().forget_unused(now_ms));
    }

    /// Forgets every credential that was issued under an epoch of this owner's, and what it says.
    pub fn forget(&self, owner: &OwnerKey) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let is_of = |slot: &&Slot<T>| slot.verified.carried.iter().any(|it| it.owner == *owner);
            let found: Vec<_> = shard.slots.iter().filter(is_of).map(|slot| slot.digest).collect();
            found.iter().for_each(|digest| shard.remove(digest));
        }
    }

    /// How many credentials are held.
    pub fn held_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().slots.len()).sum()
    }

    fn shard(&self, digest: &CredentialDigest) -> &RwLock<Shard<T>> {
        let low = u16::from_le_bytes([digest.0[0], digest.0[1]]);
        &self.shards[usize::from(low) % self.shards.len()]
    }
}

impl<T> fmt::Debug for TokenCache<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TokenCache({} held)", self.held_count())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const UNTIL_MS: u64 = NOW_MS + 900_000;

    fn owner(class: OwnerClass, id: u128) -> OwnerKey {
        OwnerKey { class, id }
    }

    fn verified(name: &str, carried: &[CarriedEpoch]) -> Verified<String> {
        let value = Arc::new(name.to_owned());
        Verified { value, carried: carried.into(), until_ms: UNTIL_MS }
    }

    fn cache(capacity: usize) -> (TokenCache<String>, Arc<Epochs>) {
        let epochs = Arc::new(Epochs::default());
        (TokenCache::new(capacity, Arc::clone(&epochs)), epochs)
    }

    fn admit(cache: &TokenCache<String>, name: &str) {
        assert!(cache.admit(CredentialDigest::of(name), verified(name, &[]), NOW_MS).is_some());
    }

    fn has(cache: &TokenCache<String>, name: &str) -> bool {
        cache.get(&CredentialDigest::of(name), NOW_MS).is_some_and(|found| *found == name)
    }

    #[test]
    fn each_of_the_four_epochs_revokes_and_only_its_owner() {
        let carried = CarriedEpochs { tenant: 4, user: 5, session: 0, membership: 7 };
        let carried = carried.of_owners(1, 2, 3);
        for (class, id, epoch) in [
            (OwnerClass::Tenant, 1, 5),
            (OwnerClass::User, 2, 6),
            (OwnerClass::Session, 3, 1),
            (OwnerClass::Member, OwnerKey::member(1, 2).id, 8),
        ] {
            let (cache, epochs) = cache(8);
            let digest = CredentialDigest::of("token");
            assert!(cache.admit(digest, verified("token", &carried), NOW_MS).is_some());
            epochs.raise(owner(class, id), epoch - 1, NOW_MS);
            epochs.raise(owner(class, 99), epoch, NOW_MS);
            epochs.raise(owner(OwnerClass::Agent, id), epoch, NOW_MS);
            assert!(has(&cache, "token"), "the same epoch, or another owner's, is no revocation");
            epochs.raise(owner(class, id), epoch, NOW_MS);
            assert!(!has(&cache, "token"));
            assert!(cache.admit(digest, verified("token", &carried), NOW_MS).is_none());
            epochs.raise(owner(class, id), 0, NOW_MS);
            assert!(!has(&cache, "token"), "an epoch never falls");
        }
    }

    #[test]
    fn what_nobody_shows_is_forgotten_after_two_rounds() {
        let (cache, _) = cache(8);
        for name in ["shown", "left"] {
            admit(&cache, name);
        }
        cache.forget_unused(NOW_MS);
        assert_eq!(cache.held_count(), 2);
        assert!(has(&cache, "shown"));
        cache.forget_unused(NOW_MS);
        assert_eq!(cache.held_count(), 1);
        assert!(has(&cache, "shown") && !has(&cache, "left"));
        cache.forget_unused(UNTIL_MS);
        assert_eq!(cache.held_count(), 0, "its time is over");
    }

    #[test]
    fn what_is_forgotten_of_an_owner_is_not_held_any_more() {
        let (cache, _) = cache(8);
        let of = |user| CarriedEpochs::default().of_owners(1, user, 3);
        for (name, user) in [("a", 2), ("b", 2), ("c", 4)] {
            let digest = CredentialDigest::of(name);
            assert!(cache.admit(digest, verified(name, &of(user)), NOW_MS).is_some());
        }
        cache.forget(&owner(OwnerClass::User, 2));
        assert_eq!((cache.held_count(), has(&cache, "c")), (1, true));
        cache.forget(&owner(OwnerClass::Tenant, 1));
        assert_eq!(cache.held_count(), 0);
    }

    #[test]
    fn time_ends_an_entry_and_no_entry_outlives_the_longest_token() {
        let (cache, _) = cache(8);
        let digest = CredentialDigest::of("key");
        admit(&cache, "key");
        assert!(cache.get(&digest, UNTIL_MS - 1).is_some());
        assert!(cache.get(&digest, UNTIL_MS).is_none());
        let endless = Verified { until_ms: u64::MAX, ..verified("key", &[]) };
        cache.admit(digest, endless, NOW_MS);
        assert!(cache.get(&digest, NOW_MS + TOKEN_LIFE_MS_MAX - 1).is_some());
        assert!(cache.get(&digest, NOW_MS + TOKEN_LIFE_MS_MAX).is_none());
        assert_eq!(cache.held_count(), 1);
    }

    #[test]
    fn the_cache_is_bounded_and_gives_the_used_a_second_chance() {
        let (cache, _) = cache(1);
        let mut shard = cache.shards[0].write();
        let put = |shard: &mut Shard<String>, name: &str, until_ms| {
            let digest = CredentialDigest::of(name);
            let verified = Verified { until_ms, ..verified(name, &[]) };
            shard.put(Slot::new(digest, verified), 3, NOW_MS);
        };
        let names = |shard: &Shard<String>| {
            let mut names: Vec<_> =
                shard.slots.iter().map(|slot| slot.verified.value.to_string()).collect();
            names.sort();
            assert_eq!(shard.index.len(), names.len());
            for (digest, place) in &shard.index {
                assert_eq!(shard.slots[*place].digest, *digest);
            }
            names.concat()
        };
        for name in ["a", "b", "c", "a"] {
            put(&mut shard, name, UNTIL_MS);
        }
        assert_eq!(names(&shard), "abc");
        let place = shard.index[&CredentialDigest::of("a")];
        shard.slots[place].used.store(true, Ordering::Relaxed);
        put(&mut shard, "d", UNTIL_MS);
        assert_eq!(names(&shard), "acd", "b was not used");
        for slot in &shard.slots {
            slot.used.store(true, Ordering::Relaxed);
        }
        put(&mut shard, "e", UNTIL_MS);
        assert_eq!(names(&shard).len(), 3, "all used: one goes nevertheless");
        assert!(names(&shard).contains('e'));
        shard.remove(&CredentialDigest::of("e"));
        assert_eq!(names(&shard).len(), 2);
        put(&mut shard, "f", UNTIL_MS);
        assert_eq!(names(&shard).len(), 3);
    }

    #[test]
    fn a_flood_stays_within_the_capacity() {
        let (cache, _) = cache(130);
        for number in 0..2_000 {
            admit(&cache, &number.to_string());
            assert!(has(&cache, &number.to_string()));
        }
        assert!((100..=130).contains(&cache.held_count()));
        cache.remove(&CredentialDigest::of("1999"));
        assert!(!has(&cache, "1999"));
    }

    #[test]
    fn epochs_are_forgotten_when_nothing_can_carry_an_older_one() {
        let epochs = Epochs::default();
        let key = owner(OwnerClass::ApiKey, 7);
        epochs.raise(key, 3, NOW_MS);
        epochs.prune(NOW_MS + EPOCH_KEPT_MS - 1);
        assert_eq!((epochs.current(&key), epochs.owner_count()), (3, 1));
        epochs.prune(NOW_MS + EPOCH_KEPT_MS);
        assert_eq!((epochs.current(&key), epochs.owner_count()), (0, 0));
    }

    /// Readers note the epoch that was acknowledged before they look; what they get must not be
    /// older.
    #[test]
    fn no_check_that_starts_after_the_acknowledgement_sees_a_revoked_credential() {
        let (cache, epochs) = cache(64);
        let (user, acknowledged) = (owner(OwnerClass::User, 1), AtomicU64::new(0));
        let digest = CredentialDigest::of("token");
        thread::scope(|scope| {
            scope.spawn(|| {
                for epoch in 1..=2_000 {
                    epochs.raise(user, epoch, NOW_MS);
                    acknowledged.store(epoch, Ordering::Release);
                    let carried = [CarriedEpoch { owner: user, epoch }];
                    cache.admit(digest, verified(&epoch.to_string(), &carried), NOW_MS);
                }
            });
            scope.spawn(|| {
                loop {
                    let least = acknowledged.load(Ordering::Acquire);
                    if let Some(found) = cache.get(&digest, NOW_MS) {
                        assert!(found.parse::<u64>().unwrap() >= least);
                    }
                    if least == 2_000 {
                        return;
                    }
                }
            });
        });
    }
}
