//! How often an app is called from outside: by address, so that one sender leaves the others
//! alone, and by app and paying tenant, so that a public address cannot empty a wallet.
//!
//! Both are counted over a minute and told in `RateLimit-Policy` and `RateLimit` (IETF httpapi
//! draft). Only what names a webhook that there is is counted. What deliveries may cost in a day is
//! a limit of the wallet that pays; here it is put into words for a stranger.

use std::net::IpAddr;
use std::num::NonZeroU32;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use serde_json::{Value, json};
use supervision::{Class, Refusal, Timestamp};
use types::{AppId, TenantId, parse_rfc3339};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The names of the two limits.
const ADDRESS: &str = "webhook-address";
const APP: &str = "webhook-app";
/// Seconds that a limit is counted over.
const WINDOW_S: u32 = 60;
/// Beyond this many keys a limiter forgets those whose time is over.
const KEYS_KEPT: usize = 100_000;

type Limiter<K> =
    RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The limits in force.
pub struct WebhookLimits {
    addresses: Limiter<(IpAddr, AppId, TenantId)>,
    apps: Limiter<(AppId, TenantId)>,
    policy: HeaderValue,
    clock: DefaultClock,
}

/// What is left of both limits.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    address: u32,
    app: u32,
}

fn limiter<K: std::hash::Hash + Eq + Clone>(per_minute: u32) -> Limiter<K> {
    let quota = Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN));
    RateLimiter::keyed(quota).with_middleware()
}

impl WebhookLimits {
    /// Limits in requests a minute.
    pub fn new(per_address: u32, per_app: u32) -> Self {
        let policy = format!(
            "\"{ADDRESS}\";q={per_address};w={WINDOW_S}, \"{APP}\";q={per_app};w={WINDOW_S}"
        );
        Self {
            addresses: limiter(per_address),
            apps: limiter(per_app),
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            clock: DefaultClock::default(),
        }
    }

    /// Lets a delivery for an app in, or says which limit was hit and for how long.
    pub fn enter(
        &self,
        address: Option<IpAddr>,
        app: &AppId,
        payer: TenantId,
    ) -> Result<Left, (Refusal, Left)> {
        let refused = |name: &str, until: std::time::Duration, left| {
            let message = format!("the limit {name} of this webhook is reached; come back later");
            let wait_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
            let refusal = Refusal::new(Class::TooMany, "rate_limited", message);
            (refusal.with_facts(&json!({"limit": name})).retry_after(wait_ms), left)
        };
        let mut left = Left { address: 0, app: 0 };
        if let Some(address) = address {
            let checked = self.addresses.check_key(&(address, app.clone(), payer));
            let snapshot = checked
                .map_err(|until| refused(ADDRESS, until.wait_time_from(self.clock.now()), left))?;
            left.address = snapshot.remaining_burst_capacity();
        }
        let checked = self.apps.check_key(&(app.clone(), payer));
        let snapshot =
            checked.map_err(|until| refused(APP, until.wait_time_from(self.clock.now()), left))?;
        left.app = snapshot.remaining_burst_capacity();
        Ok(left)
    }

    /// Tells what is left.
    pub fn tell(&self, left: Left, headers: &mut HeaderMap) {
        let text = format!("\"{ADDRESS}\";r={}, \"{APP}\";r={}", left.address, left.app);
        headers.insert(POLICY, self.policy.clone());
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(LIMIT, value);
        }
    }

    /// Forgets keys whose time is over.
    pub fn housekeep(&self) {
        if self.addresses.len() > KEYS_KEPT {
            self.addresses.retain_recent();
        }
        if self.apps.len() > KEYS_KEPT {
            self.apps.retain_recent();
        }
    }
}

/// What a sender is told when the deliveries of an app have cost what they may: 429 that names the
/// limit and when it is over, and nothing of the wallet. `None` for every other refusal.
pub fn spent(refusal: &Refusal, now: Timestamp) -> Option<Refusal> {
    if refusal.class != Class::Payment || refusal.code != "limit_reached" {
        return None;
    }
    let facts: Value = serde_json::from_str(refusal.facts.as_deref()?).ok()?;
    let name = facts["limit"].as_str().filter(|name| name.starts_with("webhook:"))?;
    let message = format!("what this webhook may cost is spent: the limit {name} is reached");
    let told = Refusal::new(Class::TooMany, "webhook_limit_reached", message);
    let told = told.with_facts(&json!({"limit": name}));
    let ends = facts["spending_limit"]["resets_at"].as_str().and_then(parse_rfc3339);
    let wait_ms = ends.and_then(|ends| u64::try_from(ends.0.saturating_sub(now.0)).ok());
    Some(wait_ms.into_iter().fold(told, Refusal::retry_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_its_own_and_names_itself() {
        let limits = WebhookLimits::new(2, 3);
        let (one, two) = ("192.0.2.1".parse().ok(), "192.0.2.2".parse().ok());
        let (shelf, other) = (AppId::new("shelf").unwrap(), AppId::new("other").unwrap());
        let enter = |address, app: &AppId, tenant| limits.enter(address, app, TenantId(tenant));
        assert_eq!(enter(one, &shelf, 1).unwrap().address, 1);
        let left = enter(one, &shelf, 1).unwrap();
        let mut headers = HeaderMap::new();
        limits.tell(left, &mut headers);
        assert_eq!(headers["ratelimit"], "\"webhook-address\";r=0, \"webhook-app\";r=1");
        let (refusal, _) = enter(one, &shelf, 1).unwrap_err();
        assert!(refusal.message.contains("webhook-address") && refusal.retry_after_ms.is_some());
        assert!(enter(two, &shelf, 1).is_ok());
        let (refusal, _) = enter(two, &shelf, 1).unwrap_err();
        assert!(refusal.message.contains("webhook-app"), "{refusal}");
        assert!(enter(one, &other, 1).is_ok(), "another app has its own");
        assert!(enter("192.0.2.3".parse().ok(), &shelf, 2).is_ok(), "another payer has its own");
    }

    #[test]
    fn a_sender_is_told_of_the_webhooks_own_limit_and_of_no_other() {
        let limit = |name: &str| {
            let facts = json!({"limit": name, "balance": 7, "spending_limit":
                {"resets_at": "1970-01-01T00:00:05.000Z"}});
            Refusal::new(Class::Payment, "limit_reached", "…").with_facts(&facts)
        };
        let told = spent(&limit("webhook:shelf/day"), Timestamp(2_000)).unwrap();
        assert_eq!((told.class, told.retry_after_ms), (Class::TooMany, Some(3_000)));
        assert_eq!(told.facts.as_deref(), Some("{\"limit\":\"webhook:shelf/day\"}"));
        assert!(spent(&limit("app:shelf/day"), Timestamp(0)).is_none());
        assert!(spent(&Refusal::busy(), Timestamp(0)).is_none());
    }
}
