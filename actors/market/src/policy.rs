//! What an operator may set of the market, and how often each developer may ask.

use std::sync::Arc;

use parking_lot::Mutex;
use persistence::Generations;
use supervision::{Class, Refusal, Timestamp};
use types::UserId;

use crate::developer::Tier;

/// How many developers' rates are remembered.
const RATES_KEPT: usize = 8_192;
/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketSettings {
    /// How many apps a developer has whose tier costs nothing.
    pub explorer_apps_max: usize,
    /// The least that is paid out at once, in credits.
    pub payout_minimum: i64,
    /// What a credit is worth in a payout, in millionths of a US dollar.
    pub credit_microdollars: i64,
}

impl Default for MarketSettings {
    fn default() -> Self {
        let explorer_apps_max = Tier::Explorer.apps_max();
        Self { explorer_apps_max, payout_minimum: 10_000, credit_microdollars: 1_000 }
    }
}

/// How often each developer has asked in this minute. A port.
pub struct Rates {
    kept: Mutex<Generations<UserId, (i64, u32)>>,
}

impl Rates {
    /// Nobody has asked yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { kept: Mutex::new(Generations::new(RATES_KEPT)) })
    }

    /// Counts a request. 429 `developer_rate` beyond what the tier allows a minute.
    pub fn admit(&self, user: UserId, tier: Tier, now: Timestamp) -> Result<(), Refusal> {
        let minute = now.0.div_euclid(MINUTE_MS);
        let mut kept = self.kept.lock();
        let (of, count) = match kept.get_mut(&user) {
            Some(known) => known,
            None => kept.insert(user, (minute, 0)),
        };
        if *of != minute {
            (*of, *count) = (minute, 0);
        }
        let limit = tier.requests_per_minute();
        if *count >= limit {
            let message = format!("the tier {} has {limit} requests a minute", tier.name());
            let rest_ms = (MINUTE_MS - now.0.rem_euclid(MINUTE_MS)).unsigned_abs();
            let refusal = Refusal::new(Class::TooMany, "developer_rate", message);
            return Err(refusal.retry_after(rest_ms));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_requests_of_each_developer() {
        let (rates, now) = (Rates::new(), Timestamp(MINUTE_MS * 7 + 1_000));
        for _ in 0..Tier::Explorer.requests_per_minute() {
            rates.admit(UserId(1), Tier::Explorer, now).unwrap();
        }
        let refused = rates.admit(UserId(1), Tier::Explorer, now).unwrap_err();
        assert_eq!(
            (refused.code.as_str(), refused.retry_after_ms),
            ("developer_rate", Some(59_000))
        );
        assert!(rates.admit(UserId(2), Tier::Explorer, now).is_ok());
        assert!(rates.admit(UserId(1), Tier::Indie, now).is_ok(), "a higher tier at once");
        assert!(rates.admit(UserId(1), Tier::Explorer, now.plus_ms(MINUTE_MS)).is_ok());
    }
}
