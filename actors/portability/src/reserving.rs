//! The members of a tenant that comes, who are not here yet: first their addresses become theirs,
//! all of them or none, then their accounts are made.
//!
//! An address may be somebody else's by the time: who signs up with it has it. So every claim is
//! reserved before anything else is done, and confirmed before the first account is made; whoever
//! loses one gives all back. A process that ends in between leaves reservations that lapse, or an
//! import that goes on here.
//!
//! Invariants
//! - No account is made unless every address is its member's.
//! - Where an address was lost, no claim is left that this import has taken, reserved or confirmed.
//!
//! Deliberate limit: between its claim and its account an address leads to nobody. A login with it
//! is refused as any wrong one.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Release, Reserve};
use identity::user::{AuthMethod, Create, Membership, User};
use serde_json::json;
use supervision::{Address, Class, Command, Handle, Origin, Refusal, System};
use types::{JsonBytes, TenantId, UserId};

use crate::parts::Member;
use crate::problems;
use crate::tenant_import::Arrival;

/// How many claims are asked at a time.
const TOGETHER_MAX: usize = 32;

/// A member who is not here yet.
struct Comer {
    user: UserId,
    membership: Membership,
    email: EmailAddress,
    name: Option<String>,
    claim: Address<Claim>,
}

/// All of an import.
pub(crate) struct Comers<'a> {
    system: &'a Arc<System>,
    tenant: TenantId,
    all: Vec<Comer>,
}

/// 409: so many of the addresses are somebody else's by now.
fn taken(count: usize) -> Refusal {
    let message = format!(
        "{count} of its members' addresses were taken meanwhile, by people who sign up here; \
         nothing was imported. Try again: who has an account by then is found by the address"
    );
    Refusal::conflict("addresses_taken", message).with_facts(&json!({"addresses": count}))
}

impl<'a> Comers<'a> {
    /// Those of `arrivals` who are to be made.
    pub(crate) fn new(
        system: &'a Arc<System>,
        tenant: TenantId,
        arrivals: &[Arrival],
        members: &[Member],
    ) -> Result<Self, Refusal> {
        let key = system.port::<ClaimKey>();
        let comer = |arrival: &Arrival| {
            let membership = arrival.made_as.clone()?;
            let member = members.iter().find(|member| member.user == arrival.old);
            let missing = || problems::unfit(&"a member's address is missing");
            Some(member.ok_or_else(missing).and_then(|member| {
                let email = EmailAddress::new(&member.email)?;
                let (user, name, claim) = (arrival.new, member.name.clone(), email.claim(&key));
                Ok(Comer { user, membership, email, name, claim })
            }))
        };
        let all: Result<_, Refusal> = arrivals.iter().filter_map(comer).collect();
        Ok(Self { system, tenant, all: all? })
    }

    /// Takes all addresses for a while; 409 `addresses_taken` says how many are somebody else's,
    /// and then none is taken.
    pub(crate) async fn reserve(&self, origin: &Origin) -> Result<(), Refusal> {
        self.all_or_none(|comer| Reserve { holder: comer.user.0 }, origin).await
    }

    /// Makes all addresses their members' for good, or none: as [`Comers::reserve`].
    pub(crate) async fn secure(&self, origin: &Origin) -> Result<(), Refusal> {
        self.reserve(origin).await?;
        let tenant = self.tenant;
        let confirm = |comer: &Comer| {
            let user = comer.user;
            Confirm { holder: user.0, target: ClaimTarget { user, tenant } }
        };
        self.all_or_none(confirm, origin).await
    }

    /// Asks each claim. When one is somebody else's, all are given back.
    async fn all_or_none<C: Command>(
        &self,
        command: impl Fn(&Comer) -> C,
        origin: &Origin,
    ) -> Result<(), Refusal>
    where
        Claim: Handle<C>,
    {
        let claims = self.system.directory::<Claim>();
        let ask = |comer: &Comer| {
            let (claims, origin, command) = (claims.clone(), origin.clone(), command(comer));
            let claim = comer.claim.clone();
            async move { claims.ask(&claim, command, origin).await.err() }
        };
        let asks: Vec<_> = self.all.iter().map(ask).collect();
        let asks = stream::iter(asks).buffer_unordered(TOGETHER_MAX);
        let refused: Vec<Refusal> = asks.filter_map(std::future::ready).collect().await;
        let lost = refused.iter().filter(|it| it.class == Class::Conflict).count();
        if lost == 0 {
            // What says nothing about an address is tried again as a whole.
            return refused.into_iter().next().map_or(Ok(()), Err);
        }
        self.release(origin).await?;
        Err(taken(lost))
    }

    async fn release(&self, origin: &Origin) -> Result<(), Refusal> {
        let claims = self.system.directory::<Claim>();
        for comer in &self.all {
            let release = Release { holder: comer.user.0 };
            claims.ask(&comer.claim, release, origin.clone()).await?;
        }
        Ok(())
    }

    /// Makes the accounts: without a password, so that the first thing is to set one by a mail to
    /// the address, which shows at once whose it is. A repetition is no change.
    pub(crate) async fn make(&self, origin: &Origin) -> Result<(), Refusal> {
        let users = self.system.directory::<User>();
        for comer in &self.all {
            let create = Create {
                id: comer.user,
                home: self.tenant,
                membership: comer.membership.clone(),
                email: comer.email.as_str().to_owned(),
                name: comer.name.clone(),
                password: None,
                auth_method: AuthMethod::Password,
                email_verified: false,
                attributes: JsonBytes::default(),
            };
            let address = User::address(comer.user, self.tenant);
            users.ask(&address, create, origin.clone()).await?;
        }
        Ok(())
    }
}
