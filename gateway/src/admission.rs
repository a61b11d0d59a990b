//! Who may come in now: rates by tenant and by address, and each tenant's share of what is worked
//! on at once ([`crate::turnstile`]), so that one tenant's flood is that tenant's 429 and nobody
//! else's wait.
//!
//! A refusal costs as little as can be: it comes before a body is read. Whoever goes on all the
//! same hears further refusals late ([`REFUSAL_DELAY`]), so that a client which sends its next
//! request once the last one is answered is slowed down to what refusing it costs nobody anything.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use supervision::{Class, Refusal};
use tokio::sync::Semaphore;
use types::TenantId;

use crate::turnstile::{Place, Turnstile};

/// How many refusals a second a tenant or an address hears at once; further ones come late.
pub const REFUSALS_AT_ONCE: u32 = 20;
/// How late.
pub const REFUSAL_DELAY: Duration = Duration::from_millis(500);
/// How many refusals wait at most; beyond, they come at once.
pub const REFUSALS_WAITING_MAX: usize = 2_048;
/// Beyond this many keys a limiter forgets those whose time is over.
const KEYS_KEPT: usize = 100_000;

/// A rate by key, and how often of late somebody was refused by it.
struct Limit<K: Hash + Eq + Clone> {
    rate: DefaultKeyedRateLimiter<K>,
    refusals: DefaultKeyedRateLimiter<K>,
    per_second: u32,
}

/// The limits in force.
pub struct Admission {
    tenants: Limit<u128>,
    addresses: Limit<IpAddr>,
    turnstile: Arc<Turnstile>,
    delays: Semaphore,
    clock: DefaultClock,
}

fn too_many(rate: u32, whose: &str, wait_ms: u64) -> Refusal {
    let message = format!("{whose} may make {rate} requests a second; come back later");
    Refusal::new(Class::TooMany, "rate_limited", message).retry_after(wait_ms)
}

fn quota(rate: u32) -> Quota {
    Quota::per_second(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN))
}

impl<K: Hash + Eq + Clone> Limit<K> {
    fn new(per_second: u32) -> Self {
        let (rate, refusals) = (quota(per_second), quota(REFUSALS_AT_ONCE));
        let (rate, refusals) = (RateLimiter::keyed(rate), RateLimiter::keyed(refusals));
        Self { rate, refusals, per_second }
    }

    /// The refusal, and whether it comes late.
    fn check(&self, key: &K, whose: &str, clock: &DefaultClock) -> Result<(), (Refusal, bool)> {
        self.rate.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(clock.now());
            let refusal = too_many(self.per_second, whose, wait.as_millis() as u64);
            (refusal, self.refusals.check_key(key).is_err())
        })
    }

    fn housekeep(&self) {
        for limiter in [&self.rate, &self.refusals] {
            if limiter.len() > KEYS_KEPT {
                limiter.retain_recent();
            }
        }
    }
}

impl Admission {
    /// Limits in requests a second.
    pub fn new(tenant_rate: u32, anonymous_rate: u32) -> Self {
        Self {
            tenants: Limit::new(tenant_rate),
            addresses: Limit::new(anonymous_rate),
            turnstile: Turnstile::new(),
            delays: Semaphore::new(REFUSALS_WAITING_MAX),
            clock: DefaultClock::default(),
        }
    }

    /// What is in flight.
    pub fn turnstile(&self) -> &Arc<Turnstile> {
        &self.turnstile
    }

    /// Lets a request of `tenant` in, when it is its turn.
    pub async fn enter(&self, tenant: TenantId) -> Result<Place, Refusal> {
        let checked = self.tenants.check(&tenant.0, "a tenant", &self.clock);
        self.refuse(checked).await?;
        self.turnstile.enter(tenant).await
    }

    /// Lets a request without a credential in.
    pub async fn enter_anonymous(&self, address: IpAddr) -> Result<(), Refusal> {
        let checked = self.addresses.check(&address, "an address", &self.clock);
        self.refuse(checked).await
    }

    async fn refuse(&self, checked: Result<(), (Refusal, bool)>) -> Result<(), Refusal> {
        let Err((refusal, is_late)) = checked else { return Ok(()) };
        if is_late && let Ok(_waiting) = self.delays.try_acquire() {
            tokio::time::sleep(REFUSAL_DELAY).await;
        }
        Err(refusal)
    }

    /// The policies in the words of the `RateLimit-Policy` header (IETF httpapi draft).
    pub fn policy(&self) -> String {
        let (tenant, anonymous) = (self.tenants.per_second, self.addresses.per_second);
        format!("\"tenant\";q={tenant};w=1, \"anonymous\";q={anonymous};w=1")
    }

    /// Forgets keys whose time is over.
    pub fn housekeep(&self) {
        self.tenants.housekeep();
        self.addresses.housekeep();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_tenants_flood_leaves_the_others_alone() {
        let admission = Admission::new(3, 1);
        let (flood, quiet) = (TenantId(1), TenantId(2));
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(admission.enter(flood).await.unwrap());
        }
        let refused = admission.enter(flood).await.err().unwrap();
        assert_eq!((refused.code.as_str(), refused.class), ("rate_limited", Class::TooMany));
        assert!(admission.enter(quiet).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_on_all_the_same_hears_it_late_and_others_do_not() {
        let admission = Admission::new(1, 1);
        let flood = "192.0.2.1".parse().unwrap();
        assert!(admission.enter_anonymous(flood).await.is_ok());
        // However slow this machine is, more come at once than are refused at once.
        let late = loop {
            let mut refused = Box::pin(admission.enter_anonymous(flood));
            if (&mut refused).now_or_never().is_none() {
                break refused;
            }
        };
        let other = "192.0.2.2".parse().unwrap();
        assert!(admission.enter_anonymous(other).now_or_never().unwrap().is_ok());
        assert_eq!(late.await.unwrap_err().code, "rate_limited");
    }
}
