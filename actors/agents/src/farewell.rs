//! What agents have to do when a person is erased: those that the person stands for are revoked, in
//! every tenant, so that they act no more and take no seat. A tenant's agents go with its key; what
//! is remembered of their tokens is forgotten.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use identity::erasure::{Farewell, Subject};
use identity::token_cache::{OwnerClass, OwnerKey};
use supervision::{Origin, Refusal, System};

use crate::service::Agents;

/// The agents' part.
pub struct AgentsFarewell(Arc<Agents>);

impl AgentsFarewell {
    /// Of these agents.
    pub fn new(agents: Arc<Agents>) -> Arc<Self> {
        Arc::new(Self(agents))
    }
}

impl Farewell for AgentsFarewell {
    fn part<'a>(
        &'a self,
        _: &'a Arc<System>,
        subject: Subject,
        origin: &'a Origin,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            let Subject::User(user) = subject else { return Ok(()) };
            for tenant in self.0.identity().tenants_ever(user).await? {
                self.0.revoke_all_of(user, tenant, origin).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn forget(&self, subject: Subject) {
        let (class, id) = match subject {
            Subject::User(user) => (OwnerClass::User, user.0),
            Subject::Tenant(tenant) => (OwnerClass::Tenant, tenant.0),
        };
        self.0.forget(&OwnerKey { class, id });
    }
}
