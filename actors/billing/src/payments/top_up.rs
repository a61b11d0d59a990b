//! What credits cost: a few tiers, and between two limits any amount at one rate.

use serde::Serialize;
use supervision::Refusal;
use types::{AMOUNT_MAX, TenantId, UserId};

use super::payment::{Asked, Purpose};
use super::provider::Way;

/// What everything is paid in (ISO 4217, in lower case).
pub const CURRENCY: &str = "usd";
/// Cents of a US dollar.
const CENTS: i64 = 100;

/// So many credits for so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Tier {
    /// Credits.
    pub tokens: i64,
    /// US cents.
    pub price_cents: i64,
}

/// What credits cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The tiers, the smallest first.
    pub tiers: Vec<Tier>,
    /// The least that another amount costs, in US cents.
    pub custom_min_cents: i64,
    /// The most.
    pub custom_max_cents: i64,
    /// Credits for a US dollar, where it is no tier.
    pub token_rate: i64,
}

impl Default for Terms {
    fn default() -> Self {
        let tiers = [(5_000, 500), (20_000, 2_000), (52_500, 5_000), (110_000, 10_000)];
        Self {
            tiers: tiers.map(|(tokens, price_cents)| Tier { tokens, price_cents }).to_vec(),
            custom_min_cents: 500,
            custom_max_cents: 100_000,
            token_rate: 1_000,
        }
    }
}

impl Terms {
    /// Refuses (422) credits that do not cost so much.
    pub fn check(&self, tokens: i64, price_cents: i64) -> Result<(), Refusal> {
        if !(1..=AMOUNT_MAX).contains(&tokens) {
            return Err(Refusal::invalid("tokens", "must be a positive number of credits"));
        }
        if self.tiers.contains(&Tier { tokens, price_cents }) {
            return Ok(());
        }
        if !(self.custom_min_cents..=self.custom_max_cents).contains(&price_cents) {
            let (least, most) = (self.custom_min_cents, self.custom_max_cents);
            let message = format!("is no tier, and beside the tiers from {least} to {most}");
            return Err(Refusal::invalid("price_cents", message));
        }
        if i128::from(tokens) * i128::from(CENTS)
            != i128::from(price_cents) * i128::from(self.token_rate)
        {
            let message = "does not agree with tokens; see /v1/billing/topup-config";
            return Err(Refusal::invalid("price_cents", message));
        }
        Ok(())
    }

    /// What so many credits cost; 422 for what is not sold.
    pub fn price_of(&self, tokens: i64) -> Result<i64, Refusal> {
        if let Some(tier) = self.tiers.iter().find(|tier| tier.tokens == tokens) {
            return Ok(tier.price_cents);
        }
        let price = i128::from(tokens) * i128::from(CENTS) / i128::from(self.token_rate.max(1));
        let price = i64::try_from(price).unwrap_or(i64::MAX);
        let refused =
            |_| Refusal::invalid("recharge_tokens", "so many credits are not sold at once");
        self.check(tokens, price).map_err(refused)?;
        Ok(price)
    }
}

/// Credits for a tenant.
pub fn order(
    (id, tenant, user): (u128, TenantId, Option<UserId>),
    tier: Tier,
    purpose: Purpose,
    way: Way,
) -> Asked {
    Asked {
        id: types::PaymentId(id),
        tenant,
        user,
        tokens: tier.tokens,
        amount_cents: tier.price_cents,
        currency: CURRENCY.to_owned(),
        purpose,
        description: format!("{} credits", tier.tokens),
        way,
    }
}

/// 402: no card is kept.
pub fn no_method() -> Refusal {
    let message = "add a payment method first";
    Refusal::new(supervision::Class::Payment, "payment_method_required", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_cost_what_the_terms_say_and_nothing_else() {
        let terms = Terms::default();
        for tier in &terms.tiers {
            assert!(terms.check(tier.tokens, tier.price_cents).is_ok());
            assert_eq!(terms.price_of(tier.tokens), Ok(tier.price_cents));
        }
        assert!(terms.check(7_770, 777).is_ok());
        assert!(terms.check(1_000_000, 100_000).is_ok());
        let wrong = [(52_500, 4_999), (7_771, 777), (4_990, 499), (1_000_010, 100_001), (0, 500)];
        for (tokens, price) in wrong {
            let refusal = terms.check(tokens, price).unwrap_err();
            assert_eq!(refusal.code, "validation_error", "{tokens} for {price}");
        }
        assert!(terms.check(-5_000, 500).is_err() && terms.check(i64::MAX, i64::MAX).is_err());
        assert!(terms.price_of(1).is_err() && terms.price_of(i64::MAX).is_err());
        assert_eq!(terms.price_of(5_010), Ok(501));
    }
}
