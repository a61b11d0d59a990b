//! Who may come in now: rates by tenant and by address, and places in flight by tenant, so that
//! one tenant's flood is that tenant's 429 and nobody else's wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use supervision::{Class, Refusal};
use types::TenantId;

/// How many requests of one tenant may be in flight.
pub const IN_FLIGHT_MAX: u32 = 4_096;
/// How many shards the counters have, against contention.
const SHARDS: usize = 16;
/// Beyond this many keys a limiter forgets those whose time is over.
const KEYS_KEPT: usize = 100_000;

/// The limits in force.
pub struct Admission {
    tenants: DefaultKeyedRateLimiter<u128>,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    in_flight: Arc<[Mutex<HashMap<u128, u32>>; SHARDS]>,
    clock: DefaultClock,
    tenant_rate: u32,
    anonymous_rate: u32,
}

/// A tenant's place in flight, given back when it is dropped.
pub struct Place {
    tenant: u128,
    in_flight: Arc<[Mutex<HashMap<u128, u32>>; SHARDS]>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.in_flight[self.tenant as usize % SHARDS].lock();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

fn too_many(rate: u32, whose: &str, wait_ms: u64) -> Refusal {
    let message = format!("{whose} may make {rate} requests a second; come back later");
    Refusal::new(Class::TooMany, "rate_limited", message).retry_after(wait_ms)
}

fn quota(rate: u32) -> Quota {
    Quota::per_second(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN))
}

impl Admission {
    /// Limits in requests a second.
    pub fn new(tenant_rate: u32, anonymous_rate: u32) -> Self {
        Self {
            tenants: RateLimiter::keyed(quota(tenant_rate)),
            addresses: RateLimiter::keyed(quota(anonymous_rate)),
            in_flight: Arc::new(std::array::from_fn(|_| Mutex::default())),
            clock: DefaultClock::default(),
            tenant_rate,
            anonymous_rate,
        }
    }

    /// Lets a request of `tenant` in.
    pub fn enter(&self, tenant: TenantId) -> Result<Place, Refusal> {
        self.tenants.check_key(&tenant.0).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            too_many(self.tenant_rate, "a tenant", wait.as_millis() as u64)
        })?;
        let mut counts = self.in_flight[tenant.0 as usize % SHARDS].lock();
        let count = counts.entry(tenant.0).or_insert(0);
        if *count >= IN_FLIGHT_MAX {
            return Err(Refusal::busy());
        }
        *count += 1;
        Ok(Place { tenant: tenant.0, in_flight: self.in_flight.clone() })
    }

    /// Lets a request without a credential in.
    pub fn enter_anonymous(&self, address: IpAddr) -> Result<(), Refusal> {
        self.addresses.check_key(&address).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            too_many(self.anonymous_rate, "an address", wait.as_millis() as u64)
        })
    }

    /// The policies in the words of the `RateLimit-Policy` header (IETF httpapi draft).
    pub fn policy(&self) -> String {
        let (tenant, anonymous) = (self.tenant_rate, self.anonymous_rate);
        format!("\"tenant\";q={tenant};w=1, \"anonymous\";q={anonymous};w=1")
    }

    /// Forgets keys whose time is over.
    pub fn housekeep(&self) {
        if self.tenants.len() > KEYS_KEPT {
            self.tenants.retain_recent();
        }
        if self.addresses.len() > KEYS_KEPT {
            self.addresses.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenants_flood_leaves_the_others_alone() {
        let admission = Admission::new(3, 1);
        let (flood, quiet) = (TenantId(1), TenantId(2));
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(admission.enter(flood).unwrap());
        }
        let refused = admission.enter(flood).err().unwrap();
        assert_eq!((refused.code.as_str(), refused.class), ("rate_limited", Class::TooMany));
        assert!(admission.enter(quiet).is_ok());
    }

    #[test]
    fn a_place_is_given_back() {
        let admission = Admission::new(100_000, 1);
        let places: Vec<_> =
            (0..IN_FLIGHT_MAX).map(|_| admission.enter(TenantId(1)).unwrap()).collect();
        assert_eq!(admission.enter(TenantId(1)).err().unwrap().code, "busy");
        drop(places);
        assert!(admission.enter(TenantId(1)).is_ok());
    }
}
