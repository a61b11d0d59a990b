//! The plans, as data, and what a wallet looks like under one of them.
//!
//! The catalogue is fixed: a tenant without a subscription is on [`FREE`]. Prices are whole US
//! dollars a month. Readers of plans take exactly these keys and no more.

use serde::Serialize;
use serde_json::Value;

use crate::wallet::Balance;

/// A plan.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its id, stable.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// In whole US dollars for each interval.
    pub price: i64,
    /// What it is paid for: `month`.
    pub interval: &'static str,
    /// Credits that come with each interval.
    pub included_tokens: i64,
    /// Whether a tenant may choose it by itself.
    pub self_service: bool,
    /// How many agents a tenant may have; `None` is no limit.
    pub agents: Option<i64>,
    /// How many API keys.
    pub api_keys: Option<i64>,
    /// How many automations.
    pub automations: Option<i64>,
    /// Whether credits may be bought by themselves when they run low.
    pub auto_top_up: bool,
}

/// The plan of a tenant that has chosen none.
pub const FREE: Plan = Plan {
    id: "free",
    name: "Free",
    price: 0,
    interval: "month",
    included_tokens: 0,
    self_service: false,
    agents: Some(10),
    api_keys: Some(10),
    automations: Some(5),
    auto_top_up: false,
};

/// Every plan, the smallest first.
pub const PLANS: &[Plan] = &[
    FREE,
    Plan { id: "micro", name: "Micro", price: 1, included_tokens: 500, ..FREE },
    Plan {
        id: "starter",
        name: "Starter",
        price: 15,
        included_tokens: 15_000,
        agents: Some(25),
        api_keys: Some(25),
        automations: Some(20),
        auto_top_up: true,
        ..FREE
    },
    Plan {
        id: "pro",
        name: "Pro",
        price: 45,
        included_tokens: 50_000,
        self_service: true,
        agents: Some(100),
        api_keys: Some(100),
        automations: Some(100),
        auto_top_up: true,
        ..FREE
    },
    Plan {
        id: "business",
        name: "Business",
        price: 160,
        included_tokens: 200_000,
        self_service: true,
        agents: Some(1_000),
        api_keys: Some(1_000),
        automations: Some(1_000),
        auto_top_up: true,
        ..FREE
    },
    Plan {
        id: "enterprise",
        name: "Enterprise",
        price: 0,
        included_tokens: 0,
        agents: None,
        api_keys: None,
        automations: None,
        auto_top_up: true,
        ..FREE
    },
];

/// A plan by its id.
pub fn plan(id: &str) -> Option<&'static Plan> {
    PLANS.iter().find(|plan| plan.id == id)
}

/// How many automations a tenant may have, `None` for as many as it likes, and on which plan.
pub fn automations_cap(_tenant: types::TenantId) -> (Option<i64>, &'static str) {
    (FREE.automations, FREE.id)
}

/// A plan as callers see it: exactly these keys.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PlanResponse {
    /// The plan's id.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// In whole US dollars for each interval.
    pub price: i64,
    /// `month`.
    pub interval: &'static str,
    /// What comes with it, by name.
    #[schema(value_type = Object)]
    pub features: Value,
    /// What a tenant may have, by name; what has no limit is not there.
    #[schema(value_type = Object)]
    pub limits: Value,
}

impl Plan {
    /// What a tenant may have, by name; what has no limit is left out.
    pub fn limits(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let limits = [
            ("agents", self.agents),
            ("api_keys", self.api_keys),
            ("automations", self.automations),
        ];
        limits.into_iter().filter_map(|(name, limit)| Some((name, limit?)))
    }
}

impl From<&Plan> for PlanResponse {
    fn from(plan: &Plan) -> Self {
        let limits = plan.limits().map(|(name, limit)| (name.to_owned(), Value::from(limit)));
        Self {
            id: plan.id,
            name: plan.name,
            price: plan.price,
            interval: plan.interval,
            features: serde_json::json!({
                "included_tokens": plan.included_tokens,
                "self_service": plan.self_service,
                "auto_top_up": plan.auto_top_up,
            }),
            limits: Value::Object(limits.collect()),
        }
    }
}

/// A wallet as callers see it: exactly these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct WalletView {
    /// In credits; below 0 while something is owed.
    pub balance: i64,
    /// The plan's id.
    pub plan: &'static str,
    /// `active`, or `past_due` while something is owed.
    pub status: &'static str,
    /// What a full wallet has: the plan's credits, or the balance where that is more.
    pub cap: i64,
    /// Credits that come with each of the plan's intervals.
    pub included_tokens: i64,
}

impl WalletView {
    /// A wallet under a plan.
    pub fn new(balance: &Balance, plan: &Plan) -> Self {
        Self {
            balance: balance.balance,
            plan: plan.id,
            status: if balance.owed > 0 { "past_due" } else { "active" },
            cap: plan.included_tokens.max(balance.balance),
            included_tokens: plan.included_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(value: impl Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn plans_have_their_own_ids_and_exactly_the_keys_that_readers_take() {
        for plan in PLANS {
            let same_id = PLANS.iter().filter(|other| other.id == plan.id).count();
            assert_eq!((same_id, super::plan(plan.id)), (1, Some(plan)));
            let expected = ["id", "name", "price", "interval", "features", "limits"];
            assert_eq!(keys(PlanResponse::from(plan)), expected);
        }
        let unlimited = PlanResponse::from(super::plan("enterprise").unwrap());
        assert_eq!(unlimited.limits, serde_json::json!({}));
    }

    #[test]
    fn a_wallet_shows_what_it_has_and_whether_it_owes() {
        let pro = super::plan("pro").unwrap();
        let view = WalletView::new(&Balance { balance: 60_000, ..Balance::default() }, pro);
        assert_eq!((view.cap, view.status), (60_000, "active"));
        let view = WalletView::new(&Balance { balance: -5, owed: 5, ..Balance::default() }, pro);
        assert_eq!((view.balance, view.cap, view.status), (-5, 50_000, "past_due"));
        assert_eq!(keys(view), ["balance", "plan", "status", "cap", "included_tokens"]);
    }
}
