//! Carrying out what was confirmed: the call goes the way of every call once more, with leave.

use std::sync::Arc;

use confirmations::{Execution, Executor, Order};
use futures::future::BoxFuture;
use identity::confirmation_policy::ConfirmationPolicy;
use serde_json::Value;
use supervision::{IdempotencyKey, Origin, Refusal, System};
use types::{Caller, TenantId, UserId};

use super::card::StoredCall;
use super::{CALL_KIND, Confirmed, Guard, Leave, VOID};
use crate::answer::CallAnswer;
use crate::flights::{Flying, Sort};
use crate::outside::Nesting;
use crate::runtime::{Call, Extensions, Request};

impl Executor for Extensions {
    fn kind(&self) -> &'static str {
        CALL_KIND
    }

    fn execute<'a>(
        &'a self,
        system: &'a Arc<System>,
        order: Order,
        origin: Origin,
    ) -> BoxFuture<'a, Result<Execution, Refusal>> {
        Box::pin(async move {
            // Asked for again while it still runs here: whoever runs it says what came of it.
            let is_it = |it: &Flying| it.id == order.run && it.sort != Sort::Task;
            if self.flights().all().iter().any(is_it) {
                return Err(Refusal::busy());
            }
            let (call, request) = self.reopened(&order, origin).await?;
            let Order { id, run, held, facts, content, .. } = order;
            let content = content.ok_or_else(Refusal::erased)?;
            let confirmed = Confirmed { id, run, held, facts, content };
            let leave = Leave::Confirmed(Arc::new(confirmed));
            let nesting = Nesting { leave, ..Nesting::root() };
            let (answer, settles) = match self.call_nested(system, request, call, nesting).await {
                Ok(answer) => (answer, true),
                Err(refusal) if refusal.class.may_pass() => return Err(refusal),
                Err(refusal) if refusal.code == VOID => {
                    let facts: Value = refusal.facts.as_deref().map_or(Value::Null, |facts| {
                        serde_json::from_str(facts).unwrap_or_default()
                    });
                    let changed = serde_json::from_value(facts["changed"].clone());
                    return Ok(Execution::Changed(changed.unwrap_or_default()));
                }
                Err(refusal) => (CallAnswer::error(&refusal.code, refusal.message), false),
            };
            let body = serde_json::to_string(&answer).map_err(|_| Refusal::crashed())?;
            let (succeeded, error_code) = (answer.is_success(), answer.error_code);
            Ok(Execution::Done { succeeded, error_code, answer: body, settles })
        })
    }
}

impl Extensions {
    /// The call as it was asked for, by whoever asked, with the rights that are left of theirs.
    async fn reopened(&self, order: &Order, origin: Origin) -> Result<(Call, Request), Refusal> {
        let guard = self.guard().ok_or_else(|| Refusal::forbidden("nothing is confirmed here"))?;
        let stored: StoredCall = order.data.read().map_err(|_| Refusal::crashed())?;
        let content = order.content.as_ref().ok_or_else(Refusal::erased)?;
        let params = serde_json::from_str(content).map_err(|_| Refusal::crashed())?;
        let caller = guard.restore(stored.caller).await?;
        let (key, bytes) = (order.id.to_string(), content.as_bytes());
        let key =
            IdempotencyKey::new(order.tenant.0, "confirmation", "confirmed call", &key, bytes);
        let call = Call { function: stored.function, params };
        let request = Request {
            caller,
            tenant: order.tenant,
            user: Some(order.user),
            app: stored.app,
            idempotency: Some(key),
            origin,
        };
        Ok((call, request))
    }
}

/// Who may act for whom, agents included.
impl Guard for agents::Agents {
    fn policy<'a>(
        &'a self,
        tenant: TenantId,
        user: UserId,
        role: &'a str,
    ) -> BoxFuture<'a, Result<ConfirmationPolicy, Refusal>> {
        Box::pin(self.identity().confirmation_policy(tenant, user, role))
    }

    fn restore(&self, caller: Caller) -> BoxFuture<'_, Result<Caller, Refusal>> {
        Box::pin(self.as_of_now(caller))
    }
}

impl Guard for identity::Identity {
    fn policy<'a>(
        &'a self,
        tenant: TenantId,
        user: UserId,
        role: &'a str,
    ) -> BoxFuture<'a, Result<ConfirmationPolicy, Refusal>> {
        Box::pin(self.confirmation_policy(tenant, user, role))
    }

    fn restore(&self, caller: Caller) -> BoxFuture<'_, Result<Caller, Refusal>> {
        Box::pin(self.as_of_now(caller))
    }
}
