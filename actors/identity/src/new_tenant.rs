//! A new tenant for somebody who has an account: its name is taken, it is made with its owner, the
//! owner's user is told.
//!
//! A process, as signing up is: durable before its first step, every step repeatable. The name is
//! reserved first and confirmed last. The wallet needs no step: it is there when first asked.

use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Origin, Process, Refusal,
    Retried, Retry, Retrying, System, Timestamp, Turn, retry,
};
use types::{JsonBytes, TenantId, UserId, home_of, owner_of_tenant};

use crate::claim::{Claim, ClaimTarget, Confirm, Release, Reserve, claim_address};
use crate::membership::TENANT_NAMES;
use crate::role::OWNER_ROLE;
use crate::service::Identity;
use crate::tenant::{self, Tenant};

/// A tenant's creation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NewTenant {
    started: Option<Started>,
    retry: Retry,
    ended: Option<Ended>,
}

/// It began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The tenant's id.
    pub tenant: TenantId,
    /// Who will own it.
    pub owner: UserId,
    /// What it is called.
    pub name: String,
    /// What it is addressed by, beside its id.
    pub address_name: Option<String>,
    /// Its settings, a JSON object.
    pub settings: JsonBytes,
}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Why it was not done.
    pub refusal: Option<Refusal>,
}

supervision::events! {
    /// What happens to a creation.
    pub enum NewTenantEvent {
        /// It began.
        Started(Started) = "started", 1;
        /// It is tried once more.
        Retried(Retried) = "retried", 1;
        /// It is over.
        Ended(Ended) = "ended", 1;
    }
}

/// What a creation asks for.
#[derive(Clone, Debug)]
pub enum NewTenantEffect {
    /// All its steps, in order.
    Go(Box<Started>),
}

impl NewTenant {
    /// The address of a tenant's creation.
    pub fn address(tenant: TenantId) -> Address<Self> {
        crate::address(&tenant.to_string(), owner_of_tenant(tenant), home_of(tenant))
    }
}

impl Entity for NewTenant {
    const KIND: &'static str = "new_tenant";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = NewTenantEvent;
    type Effect = NewTenantEffect;

    fn apply(&mut self, event: &NewTenantEvent, at: Timestamp) {
        match event {
            NewTenantEvent::Started(started) => {
                self.started = Some(started.clone());
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            NewTenantEvent::Retried(_) => self.retry.again(at, Backoff::USUAL),
            NewTenantEvent::Ended(ended) => self.ended = Some(ended.clone()),
        }
    }

    fn is_pending(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    fn resume(&self) -> Vec<NewTenantEffect> {
        let pending = self.started.iter().filter(|_| self.is_pending());
        pending.map(|started| NewTenantEffect::Go(Box::new(started.clone()))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(NewTenantEffect::Go(started): NewTenantEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let outcome = steps(&system, *started, &origin).await;
        let Some(outcome) = retry::verdict(outcome) else { return };
        let end = End(Ended { refusal: outcome.err() });
        if let Err(refusal) = system.directory::<Self>().ask(&address, end, origin).await {
            tracing::debug!(%refusal, "the end of a creation is not noted yet; it is tried again");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let tenant = self.started.as_ref().map(|started| started.tenant.to_string());
        let refusal = self.ended.as_ref().and_then(|ended| ended.refusal.as_ref());
        let code = refusal.map(|refusal| refusal.code.as_str());
        serde_json::json!({ "tenant": tenant, "ended": self.ended.is_some(), "refusal": code })
    }
}

impl Retrying for NewTenant {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> NewTenantEvent {
        NewTenantEvent::Retried(Retried {})
    }
}

async fn steps(system: &System, started: Started, origin: &Origin) -> Result<(), Refusal> {
    let Started { tenant, owner, name, address_name, settings } = started;
    let (identity, claims) = (system.port::<Identity>(), system.directory::<Claim>());
    let claim = address_name.map(|name| claim_address(TENANT_NAMES, &name, identity.claim_key()));
    if let Some(claim) = &claim {
        claims.ask(claim, Reserve { holder: tenant.0 }, origin.clone()).await?;
    }
    let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(tenant));
    let owner_role = OWNER_ROLE.to_owned();
    let create = tenant::Create { id: tenant, name, owner, owner_role, direct: false };
    tenants.ask(&address, create, origin.clone()).await?;
    let update = tenant::Update { name: None, settings: Some(settings) };
    tenants.ask(&address, update, origin.clone()).await?;
    identity.tell_members(tenant, origin.clone()).await?;
    if let Some(claim) = &claim {
        let confirm = Confirm { holder: tenant.0, target: ClaimTarget { user: owner, tenant } };
        claims.ask(claim, confirm, origin.clone()).await?;
    }
    Ok(())
}

/// Begins a creation. A repetition is no change.
pub struct Start(pub Started);

impl Command for Start {
    const NAME: &'static str = "start";
}

impl Handle<Start> for NewTenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Start(started): Start) -> Result<(), Refusal> {
        if let Some(known) = &turn.state().started {
            let message = "this Idempotency-Key was used with another body; use a new key";
            let reused = || Refusal::new(Class::Invalid, "idempotency_key_reused", message);
            return (*known == started).then_some(()).ok_or_else(reused);
        }
        tenant::check_new(&started.name, &started.settings)?;
        turn.effect(NewTenantEffect::Go(Box::new(started.clone())));
        turn.record(NewTenantEvent::Started(started));
        Ok(())
    }
}

/// Notes how the steps went.
struct End(Ended);

impl Command for End {
    const NAME: &'static str = "end";
}

impl Handle<End> for NewTenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(ended): End) -> Result<(), Refusal> {
        if turn.state().is_pending() {
            turn.record(NewTenantEvent::Ended(ended));
        }
        Ok(())
    }
}

/// Answers that it is over: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
}

impl Handle<Conclude> for NewTenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        let over = turn.state().ended.is_some();
        over.then_some(()).ok_or_else(|| Refusal::conflict("pending", "it is not over yet"))
    }
}

impl Process for NewTenant {
    type Outcome = Result<(), Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        self.ended.as_ref().map(|ended| ended.refusal.clone().map_or(Ok(()), Err))
    }
}

impl Identity {
    /// Makes a tenant and waits for the end. 409 `tenant_exists` when the name it is to be
    /// addressed by is taken, `too_many_memberships` when the owner has too many.
    pub async fn create_tenant(&self, started: Started, origin: Origin) -> Result<(), Refusal> {
        let system = self.system()?;
        let (tenant, address) = (started.tenant, NewTenant::address(started.tenant));
        let (claims, key) = (system.directory::<Claim>(), self.claim_key());
        let claim = started.address_name.as_ref();
        let claim = claim.map(|name| claim_address(TENANT_NAMES, name, key));
        let taken = || {
            let message = "there is a tenant with this tenant_id already";
            Refusal::conflict("tenant_exists", message)
        };
        if let Some(claim) = &claim {
            let now = system.clock().now();
            let is_taken =
                move |claim: &Claim| claim.holder(now).is_some_and(|holder| holder != tenant.0);
            // Asked before anything is begun: a name that is taken costs no process.
            if claims.look(claim, origin.clone(), is_taken).await? {
                return Err(taken());
            }
        }
        self.check_room(started.owner).await?;
        let processes = system.directory::<NewTenant>();
        processes.ask(&address, Start(started), origin.clone()).await?;
        let outcome = processes.wait(&address, origin.clone()).await?;
        if let (Err(refusal), Some(claim)) = (&outcome, &claim) {
            let _ = claims.ask(claim, Release { holder: tenant.0 }, origin).await;
            if refusal.code == "already_claimed" {
                return Err(taken());
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use supervision::testkit::Given;

    use super::*;

    fn started(name: &str) -> Started {
        Started {
            tenant: TenantId(5),
            owner: UserId(7),
            name: name.to_owned(),
            address_name: Some("acme".to_owned()),
            settings: json!({}).into(),
        }
    }

    #[test]
    fn a_creation_is_pending_until_its_end_is_noted_and_ends_once() {
        let then = Given::<NewTenant>::nothing().when(Start(started("Acme")));
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        let then = then.given.when(Start(started("Acme")));
        assert!(then.events.is_empty() && then.effects.is_empty());
        let (code, given) = then.given.when(Start(started("Other"))).refused();
        assert_eq!(code, "idempotency_key_reused");
        assert_eq!(given.when(Conclude).refused().0, "pending");
        let given = Given::<NewTenant>::nothing().when(Start(started("Acme"))).then();
        let then = given.later_ms(Backoff::USUAL.first_ms).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1), "tried again");
        let given = then.given.when(End(Ended { refusal: None })).then();
        assert!(!given.state().is_pending());
        assert_eq!(given.state().outcome(), Some(Ok(())));
        let late = End(Ended { refusal: Some(Refusal::busy()) });
        let then = given.when(late);
        assert!(then.events.is_empty());
        assert_eq!(then.given.state().outcome(), Some(Ok(())));
    }

    #[test]
    fn a_name_that_does_not_fit_begins_nothing() {
        let (code, _) = Given::<NewTenant>::nothing().when(Start(started(" "))).refused();
        assert_eq!(code, "validation_error");
    }
}
