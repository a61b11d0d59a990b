//! What automations have to do when a person or a tenant is erased: a person's rules end while
//! there is a key to say so under, and a tenant's events are looked at no more.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use supervision::{Origin, Refusal, System};
use types::UserId;

use crate::automations::Automations;
use crate::automator::Automator;
use crate::commands::ForgetUser;

/// Automations' part.
pub struct AutomationsFarewell {
    automator: Arc<Automator>,
}

impl AutomationsFarewell {
    /// With what is known of rules.
    pub fn new(automator: Arc<Automator>) -> Arc<Self> {
        Arc::new(Self { automator })
    }

    async fn forget(
        &self,
        system: &Arc<System>,
        user: UserId,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        for tenant in self.automator.tenants(Some(user)) {
            let (all, address) = (system.directory::<Automations>(), Automations::address(tenant));
            match all.ask(&address, ForgetUser(user), origin.clone()).await {
                Ok(ended) => ended.into_iter().for_each(|rule| self.automator.forget(rule)),
                Err(refusal) if refusal.is_erased() => self.automator.forget_tenant(tenant),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }
}

impl Farewell for AutomationsFarewell {
    fn part<'a>(
        &'a self,
        system: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        match subject {
            Subject::User(user) => self.forget(system, user, origin).boxed(),
            Subject::Tenant(tenant) => {
                self.automator.forget_tenant(tenant);
                std::future::ready(Ok(())).boxed()
            }
        }
    }
}
