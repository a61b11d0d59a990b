//! What a tenant asks of those who log in to it.
//!
//! The entity exists once its tenant has asked for something, so that a login to a tenant that has
//! not finds nothing and costs nothing.
//!
//! Deliberate limit: sessions that are open when the policy changes go on until they end.

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{TenantId, home_of, owner_of_tenant};

/// A tenant's policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SignInPolicy {
    /// Whether members need a second factor.
    pub require_second_factor: bool,
}

impl SignInPolicy {
    /// Where a tenant's policy lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        crate::address(&tenant.to_string(), owner_of_tenant(tenant), home_of(tenant))
    }
}

/// Another policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicySet {
    /// Whether members need a second factor.
    pub require_second_factor: bool,
}

supervision::events! {
    /// What happens to a policy.
    pub enum SignInPolicyEvent {
        /// Another policy.
        PolicySet(PolicySet) = "set", 1;
    }
}

impl Entity for SignInPolicy {
    const KIND: &'static str = "sign_in_policy";
    const PUBLISHED: bool = true;
    type Event = SignInPolicyEvent;
    type Effect = NoEffect;

    fn apply(&mut self, SignInPolicyEvent::PolicySet(it): &SignInPolicyEvent, _: Timestamp) {
        self.require_second_factor = it.require_second_factor;
    }

    fn observe(&self) -> serde_json::Value {
        json!({"require_second_factor": self.require_second_factor})
    }
}

/// Sets the policy. That the caller may, the caller has checked.
pub struct SetPolicy {
    /// Whether members need a second factor.
    pub require_second_factor: bool,
}

impl Command for SetPolicy {
    const NAME: &'static str = "set_policy";
}

impl Handle<SetPolicy> for SignInPolicy {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SetPolicy) -> Result<(), Refusal> {
        let SetPolicy { require_second_factor } = command;
        if turn.state().require_second_factor != require_second_factor {
            turn.record(SignInPolicyEvent::PolicySet(PolicySet { require_second_factor }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    #[test]
    fn setting_it_twice_is_one_change() {
        let set = || SetPolicy { require_second_factor: true };
        let then = Given::<SignInPolicy>::nothing().when(set());
        assert_eq!(then.events.len(), 1);
        let then = then.given.when(set());
        assert!(then.events.is_empty() && then.given.state().require_second_factor);
    }
}
