//! Revoked tokens: what is remembered of them for every check, and the records that it comes from.
//!
//! Invariants
//! - After [`Revocations::insert`] has returned, no [`Revocations::has`] that starts later, on any
//!   thread, misses it. It is called before a revocation is acknowledged.
//! - What is remembered is durable: [`Revocations::load`] reads it again before the first request.
//! - A revocation is forgotten when the token's own time is over, and not before.
//!
//! The records: one entity of kind `revoked_tokens` for an agent's tokens that end within the same
//! ten minutes, so that they leave together. Rows: family [`REVOKED_FAMILY`] in the shard of the
//! tenant, by the revocation's number, holding when the token ends (ms since 1970).
//!
//! Deliberate limits
//! - About 44 bytes a revocation; nobody is refused one. So it is bounded by the tokens of a day.
//! - In a tenant with a clock of its own (a sandbox) that runs ahead the rows go with that clock: a
//!   restart then forgets a revocation before the token's time on the server's clock.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use persistence::{RowRange, Shard, codec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, RowDraft, System, Timestamp, Turn,
};
use types::{AgentId, TenantId, base32, home_of, owner_of_tenant, rfc3339};

/// The family of the rows of revoked tokens.
pub const REVOKED_FAMILY: &str = "revoked_token";
/// The tokens of how many milliseconds' ends are kept together.
const SPAN_MS: i64 = 600_000;
/// The most locks that the set is split over.
const SHARDS: usize = 64;
/// How many rows one step of loading reads.
const LOAD_STEP: usize = 1_024;

/// Numbers of tokens are random in their low bits, so they are their own hash.
#[derive(Default)]
struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only whole numbers are keys here: the last eight bytes are random.
        let (_, last) = bytes.split_at(bytes.len().saturating_sub(8));
        self.0 = last.iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    }
}

/// By the bytes of a number, most significant first: when the token ends, in seconds since 1970.
/// Bytes rather than a number, so that an entry takes 20 and not 32.
type Ends = HashMap<[u8; 16], u32, BuildHasherDefault<LowBits>>;

/// The tokens that are revoked and whose time is not over. A port.
pub struct Revocations {
    /// How many: mostly none, which costs a check one load.
    count: AtomicUsize,
    shards: [RwLock<Ends>; SHARDS],
}

impl Default for Revocations {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl Revocations {
    fn shard(&self, id: u128) -> &RwLock<Ends> {
        &self.shards[((id >> 64) as usize ^ id as usize >> 57) % SHARDS]
    }

    /// From now on the token of this number is revoked, until its time is over.
    pub fn insert(&self, id: u128, until: Timestamp) {
        let seconds = until.0.max(0).saturating_add(999) / 1_000;
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut shard = self.shard(id).write();
        if shard.insert(id.to_be_bytes(), seconds).is_none() {
            // Within the lock: nobody who sees it finds the count without it.
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether one of these is revoked.
    pub fn has(&self, ids: &[u128]) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        ids.iter().any(|id| self.shard(*id).read().contains_key(&id.to_be_bytes()))
    }

    /// Forgets those whose time is over; once in a while is enough.
    pub fn prune(&self, now: Timestamp) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.len();
            shard.retain(|_, until| i64::from(*until) * 1_000 > now.0);
            self.count.fetch_sub(before - shard.len(), Ordering::SeqCst);
            if shard.capacity() > 4 * (shard.len() + LOAD_STEP) {
                shard.shrink_to_fit();
            }
        }
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// How many bytes the tables have, about.
    pub fn bytes(&self) -> usize {
        let entry = size_of::<([u8; 16], u32)>() + 1;
        self.shards.iter().map(|shard| shard.read().capacity() * 8 / 7 * entry).sum()
    }

    /// Reads what is revoked: before the first request. Says how many there are. Blocks.
    pub fn load(&self, system: &System) -> usize {
        let now = system.clock().now();
        for shard in 0..=u8::MAX {
            let mut after = None;
            loop {
                let rows = system.rows(&RowRange {
                    shard: Shard(shard),
                    family: REVOKED_FAMILY,
                    prefix: Vec::new(),
                    after,
                    newest_first: false,
                    limit: LOAD_STEP,
                });
                for (key, value) in &rows {
                    let id = <[u8; 16]>::try_from(key.as_slice()).map(u128::from_be_bytes);
                    let until = codec::decode::<Timestamp>(value).ok();
                    if let (Ok(id), Some(until)) = (id, until.filter(|until| now < *until)) {
                        self.insert(id, until);
                    }
                }
                after = rows.last().map(|(key, _)| key.clone());
                if rows.len() < LOAD_STEP {
                    break;
                }
            }
        }
        self.count()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Revocations({})", self.count())
    }
}

/// An agent's revoked tokens that end within the same ten minutes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RevokedTokens {
    ids: BTreeSet<u128>,
    until: Timestamp,
}

impl RevokedTokens {
    /// Where the revocation of a token of this agent's lives that ends then.
    pub fn address(tenant: TenantId, agent: AgentId, until: Timestamp) -> Address<Self> {
        let id = format!("{}.{}", base32(agent.0), until.0.max(0) / SPAN_MS);
        crate::address(&id, owner_of_tenant(tenant), home_of(tenant))
    }
}

/// A token was revoked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// Its number, or an added block's.
    pub id: u128,
    /// The agent's.
    pub agent: AgentId,
    /// Whether all that was issued with it is, and not only what was made of this one.
    pub is_tree: bool,
    /// When it ends by itself.
    pub until: Timestamp,
}

/// The time of all of them is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationsLapsed {}

supervision::events! {
    /// What happens to revoked tokens.
    pub enum RevokedTokensEvent {
        /// One more.
        Revoked(TokenRevoked) = "token_revoked", 1;
        /// All are over.
        Lapsed(RevocationsLapsed) = "revocations_lapsed", 1;
    }
}

/// What a revocation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokedTokensEffect {
    /// Every check knows it from now on.
    Remember {
        /// Its number.
        id: u128,
        /// When it ends by itself.
        until: Timestamp,
    },
}

fn row(id: u128, until: Option<Timestamp>) -> RowDraft {
    let value = until.and_then(|until| codec::encode(&until).ok());
    RowDraft { family: REVOKED_FAMILY, key: id.to_be_bytes().to_vec(), value }
}

impl Entity for RevokedTokens {
    const KIND: &'static str = "revoked_tokens";
    type Event = RevokedTokensEvent;
    type Effect = RevokedTokensEffect;

    fn apply(&mut self, event: &RevokedTokensEvent, _: Timestamp) {
        match event {
            RevokedTokensEvent::Revoked(it) => {
                self.ids.insert(it.id);
                self.until = self.until.max(it.until);
            }
            RevokedTokensEvent::Lapsed(_) => self.ids.clear(),
        }
    }

    fn rows(&self, event: &RevokedTokensEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        match event {
            RevokedTokensEvent::Revoked(it) => rows.push(row(it.id, Some(it.until))),
            RevokedTokensEvent::Lapsed(_) => rows.extend(self.ids.iter().map(|id| row(*id, None))),
        }
    }

    fn is_over(&self) -> bool {
        self.ids.is_empty()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        (!self.ids.is_empty()).then_some(self.until)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().next_deadline().is_some_and(|at| at <= turn.now()) {
            turn.record(RevokedTokensEvent::Lapsed(RevocationsLapsed {}));
        }
    }

    async fn perform(effect: RevokedTokensEffect, context: EffectContext<Self>) {
        let RevokedTokensEffect::Remember { id, until } = effect;
        context.system.port::<Revocations>().insert(id, until);
    }

    fn observe(&self) -> serde_json::Value {
        json!({"revoked": self.ids.len(), "until": rfc3339(self.until)})
    }
}

/// Revokes a token. What is revoked already is no change. Answers whether it was one.
pub struct RevokeToken(pub TokenRevoked);

impl Command for RevokeToken {
    const NAME: &'static str = "revoke_token";
    const ESSENTIAL: bool = true;
}

impl Handle<RevokeToken> for RevokedTokens {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, RevokeToken(it): RevokeToken) -> Result<bool, Refusal> {
        turn.effect(RevokedTokensEffect::Remember { id: it.id, until: it.until });
        if turn.state().ids.contains(&it.id) {
            return Ok(false);
        }
        turn.record(RevokedTokensEvent::Revoked(it));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use supervision::testkit::Given;

    use super::*;

    #[test]
    fn what_is_revoked_is_known_until_its_time_is_over() {
        let set = Revocations::default();
        assert!(!set.has(&[1]));
        set.insert(1, Timestamp(5_000));
        set.insert(1, Timestamp(5_000));
        set.insert(1 << 64, Timestamp(9_001));
        assert!(set.has(&[7, 1]) && set.has(&[1 << 64]) && !set.has(&[7]));
        set.prune(Timestamp(4_999));
        assert_eq!(set.count(), 2);
        set.prune(Timestamp(5_000));
        assert!(!set.has(&[1]) && set.has(&[1 << 64]));
        set.prune(Timestamp(9_999));
        assert_eq!(set.count(), 1, "rounded up to whole seconds");
        set.prune(Timestamp(10_000));
        assert_eq!(set.count(), 0);
    }

    #[test]
    fn a_million_revoked_tokens_take_less_than_100_mb_and_leave_again() {
        let set = Revocations::default();
        let mut number = 1_u128;
        for _ in 0..1_000_000 {
            number = number.wrapping_mul(0x2545_f491_4f6c_dd1d_9e37_79b9_7f4a_7c15) | 1;
            number ^= number >> 61;
            set.insert(number, Timestamp(1_000));
        }
        assert!(set.count() > 990_000, "{}", set.count());
        assert!(set.bytes() < 100_000_000, "{} bytes", set.bytes());
        set.prune(Timestamp(1_000));
        assert_eq!(set.count(), 0);
        assert!(set.bytes() < 10_000_000, "{} bytes", set.bytes());
    }

    /// Readers note what was acknowledged before they look; none of it may be missed.
    #[test]
    fn no_look_that_starts_after_the_acknowledgement_misses_it() {
        const LAST: u64 = 20_000;
        let (set, acknowledged) = (Revocations::default(), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=LAST {
                    set.insert(number.into(), Timestamp(1_000));
                    acknowledged.store(number, Ordering::Release);
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let known = acknowledged.load(Ordering::Acquire);
                        assert!(known == 0 || set.has(&[known.into()]), "{known} was missed");
                        if known == LAST {
                            return;
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_revocation_is_recorded_once_and_all_leave_together() {
        let revoke = |id| {
            let until = Timestamp(1_767_225_600_000 + 60_000);
            RevokeToken(TokenRevoked { id, agent: AgentId(9), is_tree: true, until })
        };
        let (changed, given) = Given::<RevokedTokens>::nothing().when(revoke(1)).reply();
        assert!(changed);
        let then = given.when(revoke(1));
        assert_eq!((then.events.len(), then.effects.len(), then.outcome), (0, 1, Ok(false)));
        let then = then.given.when(revoke(2));
        assert_eq!(then.rows[0].key, 2_u128.to_be_bytes());
        let then = then.given.later_ms(59_999).when_due();
        assert!(then.events.is_empty());
        let then = then.given.later_ms(1).when_due();
        assert_eq!((then.events.len(), then.rows.len()), (1, 2));
        assert!(then.rows.iter().all(|row| row.value.is_none()) && then.given.state().is_over());
    }
}
