//! What a subscription does outside of its turns: collecting, telling the wallet; and the orders of
//! a tenant, from the wish to what became of it.
//!
//! Who orders is answered with what became of the charge. The waiting is not theirs alone: a caller
//! who goes away takes nothing back, and what a stopped process has left is taken up at its start.
//!
//! Limits: a charge is waited for [`CHARGE_WAIT`]; after that it is unknown what became of it, and
//! it is asked for again under its id. In a sandbox, a home whose time is its own, every charge is
//! paid, with the payment `sandbox`, and nobody is asked: see [`supervision::own_time`].

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Serialize;
use supervision::{Class, Origin, Refusal, System, Timestamp};
use types::{Amount, GrantId, TenantId, home_of, rfc3339};

use super::charges::{ChargeSettled, Due, What};
use super::orders::{Asked, ChangePlan, Outcome, Renew, Subscribe};
use super::terms::Choice;
use super::{InEffect, PlanCredits, Subscription, WalletTold};
use crate::charging::{Charge, Charged, Charging};
use crate::wallet::{Grant, Kind, NotePlan, Reason, Wallet, wallet_address};

/// How long a charge is waited for.
pub const CHARGE_WAIT: Duration = Duration::from_secs(25);
/// Plan credits are spent before what was bought: the lower, the sooner.
const PRIORITY: u8 = 50;
/// The payment of what is paid in a sandbox.
const SANDBOX_PAYMENT: &str = "sandbox";

/// The port by which subscriptions find who collects for them. A system without one has
/// [`NoMethods`].
pub struct Collector(Arc<dyn Charging>);

impl Collector {
    /// With who collects.
    pub fn new(charging: Arc<dyn Charging>) -> Arc<Self> {
        Arc::new(Self(charging))
    }
}

/// Nobody has a payment method.
pub struct NoMethods;

impl Charging for NoMethods {
    fn charge(&self, _: Charge, _: Origin) -> BoxFuture<'static, Result<Charged, Refusal>> {
        std::future::ready(Ok(Charged::NoMethod)).boxed()
    }
}

/// What the wallet has not taken in yet.
#[derive(Clone, Debug)]
pub struct News {
    pub(super) tenant: TenantId,
    pub(super) grants: Vec<PlanCredits>,
    pub(super) said: u64,
    pub(super) in_effect: InEffect,
}

impl News {
    /// Its grants, as the wallet takes them.
    pub(super) fn grants(&self) -> impl Iterator<Item = (GrantId, Option<Grant>)> {
        self.grants.iter().map(|it| (it.grant, grant(self.tenant, it)))
    }

    /// The plan in effect, as the wallet takes it.
    pub(super) fn note(&self) -> NotePlan {
        let InEffect { plan, is_past_due, needs_card } = self.in_effect;
        NotePlan { number: self.said, plan: plan.id.to_owned(), is_past_due, needs_card }
    }

    /// What the subscription hears when all of it is told.
    pub(super) fn told(&self) -> WalletTold {
        let grants = self.grants.iter().map(|credits| credits.grant).collect();
        WalletTold { grants, said: self.said }
    }
}

fn grant(tenant: TenantId, credits: &PlanCredits) -> Option<Grant> {
    let amount = Amount::new(credits.credits).ok()?;
    Some(Grant {
        priority: PRIORITY,
        description: Some(format!("Credits of the plan {}", credits.plan)),
        expires_at: Some(credits.expires_at),
        ..Grant::new(credits.grant, tenant, amount, Kind::Paid, Reason::PlanCredit)
    })
}

/// Collects a charge, or says what became of it before.
pub(super) async fn collect(
    system: &System,
    due: &Due,
    origin: Origin,
) -> Result<Charged, Refusal> {
    if system.own_time(home_of(due.tenant)).is_some() {
        return Ok(Charged::Succeeded { payment: SANDBOX_PAYMENT.to_owned() });
    }
    let charge = match system.find_port::<Collector>() {
        Some(collector) => collector.0.charge(due.charge(), origin),
        None => NoMethods.charge(due.charge(), origin),
    };
    let waited = tokio::time::timeout(CHARGE_WAIT, charge).await;
    waited.unwrap_or_else(|_| Err(Refusal::in_doubt()))
}

/// Tells a tenant's subscription what became of a charge of its own: at once, or later, when the
/// payer has acted. May be repeated.
///
/// # Errors
/// It could not be told now: to be repeated.
pub async fn settle(
    system: &System,
    tenant: TenantId,
    charge: u128,
    outcome: Charged,
    origin: Origin,
) -> Result<(), Refusal> {
    let settled = ChargeSettled { charge, outcome };
    let subscriptions = system.directory::<Subscription>();
    subscriptions.ask(&Subscription::address(tenant), settled, origin).await
}

/// Tells the wallet. Credits whose time has passed are told no more.
pub(super) async fn tell_wallet(
    system: &System,
    news: News,
    origin: Origin,
) -> Result<(), Refusal> {
    let (wallets, wallet) = (system.directory::<Wallet>(), wallet_address(news.tenant));
    for (_, grant) in news.grants() {
        let Some(grant) = grant else { continue };
        match wallets.ask(&wallet, grant, origin.clone()).await {
            Err(refusal) if refusal.class == Class::Invalid => {
                tracing::info!(%refusal, tenant = %news.tenant, "plan credits came too late");
            }
            granted => drop(granted?),
        }
    }
    wallets.ask(&wallet, news.note(), origin.clone()).await?;
    let subscriptions = system.directory::<Subscription>();
    subscriptions.ask(&Subscription::address(news.tenant), news.told(), origin).await
}

/// What became of an order of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Ordered {
    /// `subscribe`, `upgrade`, `downgrade`, `keep` or `renew`
    pub action: &'static str,
    /// The plan that was wanted.
    pub plan: String,
    /// Whether it is done, or arranged.
    pub succeeded: bool,
    /// Whether the payer's bank wants the payer to act first.
    pub requires_action: bool,
    /// With what the payer's page goes on then.
    pub client_secret: Option<String>,
    /// From when on it is so, RFC 3339.
    pub effective_at: Option<String>,
    /// Whether it comes about later.
    pub pending: bool,
    /// The payment, where there was one.
    #[serde(skip)]
    pub payment: Option<String>,
}

impl Ordered {
    fn new(action: &'static str, plan: &str, at: Timestamp) -> Self {
        Self {
            action,
            plan: plan.to_owned(),
            succeeded: true,
            requires_action: false,
            client_secret: None,
            effective_at: Some(rfc3339(at)),
            pending: false,
            payment: None,
        }
    }
}

/// Subscribes a tenant to a plan that it may choose by itself. Refused: 403
/// `plan_not_self_service`; 409 `already_subscribed`, `plan_is_managed`, `past_due`,
/// `payment_pending`; 402 `payment_method_required`, `payment_declined`.
pub async fn subscribe(
    system: &Arc<System>,
    tenant: TenantId,
    (choice, request): (Choice, u128),
    origin: Origin,
) -> Result<Ordered, Refusal> {
    let address = Subscription::address(tenant);
    let command = Subscribe { tenant, choice, request };
    let asked = system.directory::<Subscription>().ask(&address, command, origin.clone()).await?;
    carry_out(system, tenant, asked, origin).await
}

/// Changes the plan: at once and for the share that is left where it is dearer or its period
/// longer, with the next period otherwise; to stay takes back what was scheduled. Refused: as
/// [`subscribe`], and 409 `no_subscription`, `already_on_plan`, `ends_with_period`.
pub async fn change_plan(
    system: &Arc<System>,
    tenant: TenantId,
    (choice, request): (Choice, u128),
    origin: Origin,
) -> Result<Ordered, Refusal> {
    let address = Subscription::address(tenant);
    let command = ChangePlan { tenant, choice, request };
    let asked = system.directory::<Subscription>().ask(&address, command, origin.clone()).await?;
    carry_out(system, tenant, asked, origin).await
}

/// Collects one new period of a plan that is past due or has expired. Refused: 409 `not_expired`,
/// and 402 also when the payer's bank wants the payer to act, `payment_action_required`.
pub async fn renew(
    system: &Arc<System>,
    tenant: TenantId,
    request: u128,
    origin: Origin,
) -> Result<Ordered, Refusal> {
    let address = Subscription::address(tenant);
    let command = Renew { tenant, request };
    let asked = system.directory::<Subscription>().ask(&address, command, origin.clone()).await?;
    let ordered = carry_out(system, tenant, asked, origin).await?;
    if !ordered.requires_action {
        return Ok(ordered);
    }
    let message = "the bank wants the payer to confirm this payment first";
    let facts = serde_json::json!({"payment_intent_id": ordered.payment});
    Err(Refusal::new(Class::Payment, "payment_action_required", message).with_facts(&facts))
}

async fn carry_out(
    system: &Arc<System>,
    tenant: TenantId,
    asked: Asked,
    origin: Origin,
) -> Result<Ordered, Refusal> {
    let Asked { action, plan, outcome } = asked;
    let now = system.now_in(home_of(tenant));
    match outcome {
        Outcome::Done => Ok(Ordered::new(action, &plan, now)),
        Outcome::From(at) => Ok(Ordered { pending: true, ..Ordered::new(action, &plan, at) }),
        Outcome::Charge(due) => {
            let done = Ordered::new(action, &plan, now);
            // Beside the caller, who may go away meanwhile.
            let system = system.clone();
            let paid = tokio::spawn(async move { pay(&system, *due, done, origin).await });
            paid.await.unwrap_or_else(|_| Err(Refusal::in_doubt()))
        }
    }
}

/// Collects a charge, notes what became of it, and says it to who ordered.
async fn pay(system: &System, due: Due, done: Ordered, origin: Origin) -> Result<Ordered, Refusal> {
    let outcome = collect(system, &due, origin.clone()).await?;
    settle(system, due.tenant, due.id, outcome.clone(), origin).await?;
    match outcome {
        Charged::Succeeded { payment } => Ok(Ordered { payment: Some(payment), ..done }),
        Charged::RequiresAction { payment, client_secret } => Ok(Ordered {
            succeeded: false,
            requires_action: true,
            client_secret: Some(client_secret),
            effective_at: None,
            pending: true,
            payment: Some(payment),
            ..done
        }),
        Charged::Declined { code } => {
            let message = format!("the payment of {} cents was refused: {code}", due.amount_cents);
            let facts = serde_json::json!({"code": code, "amount_cents": due.amount_cents});
            Err(Refusal::new(Class::Payment, "payment_declined", message).with_facts(&facts))
        }
        Charged::NoMethod => Err(no_method(&due)),
    }
}

fn no_method(due: &Due) -> Refusal {
    let message = "add a payment method first";
    let facts = serde_json::json!({"amount_cents": due.amount_cents, "plan": what(&due.what)});
    Refusal::new(Class::Payment, "payment_method_required", message).with_facts(&facts)
}

fn what(what: &What) -> &str {
    &what.choice().plan
}
