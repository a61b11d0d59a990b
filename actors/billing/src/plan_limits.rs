//! What a tenant's plan lets it have: the one place to ask.
//!
//! The plan in effect is read from the tenant's wallet, which is told of every change. So the
//! answer is as cheap as reading a balance.
//!
//! Limit: who makes something asks before; what two make at the same moment may go beyond by one.

use supervision::{Class, Origin, Refusal, System};
use types::TenantId;

use crate::plans::Plan;
use crate::wallet::{Wallet, wallet_address};

/// What plans limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// A tenant's agents.
    Agents,
    /// The API keys of all users in a tenant.
    ApiKeys,
    /// The automations of all users in a tenant.
    Automations,
}

impl Meter {
    /// Its name, in usage and limits.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::ApiKeys => "api_keys",
            Self::Automations => "automations",
        }
    }

    /// How many a plan allows; `None` for no limit.
    pub fn of(self, plan: &Plan) -> Option<i64> {
        match self {
            Self::Agents => plan.agents,
            Self::ApiKeys => plan.api_keys,
            Self::Automations => plan.automations,
        }
    }
}

/// How many of something a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimit {
    /// The plan in effect.
    pub plan: &'static Plan,
    /// What is limited.
    pub meter: Meter,
    /// How many; `None` for no limit.
    pub limit: Option<i64>,
}

impl PlanLimit {
    /// 402 `plan_limit_reached` when there is no room for one more beside `used`; names the plan,
    /// the meter, the limit and what is used.
    pub fn check(&self, used: u64) -> Result<(), Refusal> {
        let Self { plan, meter, limit: Some(limit) } = *self else { return Ok(()) };
        if i64::try_from(used).is_ok_and(|used| used < limit) {
            return Ok(());
        }
        let (plan, meter) = (plan.id, meter.name());
        let message = format!("the plan {plan} allows {limit} {meter}, and there are {used}");
        let facts = serde_json::json!({"plan": plan, "meter": meter, "limit": limit,
            "used": used});
        Err(Refusal::new(Class::Payment, "plan_limit_reached", message).with_facts(&facts))
    }
}

/// The plans of a system's tenants.
pub struct Plans<'a>(pub &'a System);

impl Plans<'_> {
    async fn look<R: Send + 'static>(
        &self,
        tenant: TenantId,
        origin: Origin,
        look: impl FnOnce(&Wallet) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        self.0.directory::<Wallet>().look(&wallet_address(tenant), origin, look).await
    }

    /// The plan in effect.
    pub async fn plan(&self, tenant: TenantId, origin: Origin) -> Result<&'static Plan, Refusal> {
        self.look(tenant, origin, Wallet::plan).await
    }

    /// How many of something the tenant may have.
    pub async fn limit(
        &self,
        tenant: TenantId,
        meter: Meter,
        origin: Origin,
    ) -> Result<PlanLimit, Refusal> {
        let plan = self.plan(tenant, origin).await?;
        Ok(PlanLimit { plan, meter, limit: meter.of(plan) })
    }

    /// Whether the plan in effect is paid for by the tenant's payment method, so that its only one
    /// must stay.
    pub async fn needs_card(&self, tenant: TenantId, origin: Origin) -> Result<bool, Refusal> {
        self.look(tenant, origin, Wallet::needs_card).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::{FREE, PLANS, plan};

    #[test]
    fn a_plan_refuses_one_too_many_and_names_what_was_reached() {
        let limit = PlanLimit { plan: &FREE, meter: Meter::ApiKeys, limit: Some(2) };
        assert!(limit.check(1).is_ok());
        let refusal = limit.check(2).unwrap_err();
        assert_eq!((refusal.class, refusal.code.as_str()), (Class::Payment, "plan_limit_reached"));
        let facts: serde_json::Value = serde_json::from_str(&refusal.facts.unwrap()).unwrap();
        let expected =
            serde_json::json!({"plan": "free", "meter": "api_keys", "limit": 2, "used": 2});
        assert_eq!(facts, expected);
        let none = PlanLimit { plan: plan("enterprise").unwrap(), limit: None, ..limit };
        assert!(none.check(u64::MAX).is_ok());
    }

    #[test]
    fn each_meter_is_the_limit_of_its_name() {
        for plan in PLANS {
            let all = [Meter::Agents, Meter::ApiKeys, Meter::Automations];
            let named = all.into_iter().filter_map(|it| Some((it.name(), it.of(plan)?)));
            assert_eq!(named.collect::<Vec<_>>(), plan.limits().collect::<Vec<_>>());
        }
    }
}
