//! A tenant's subscription: which plan it is on, until when, and how that is paid for.
//!
//! A plan is in effect from the moment it is paid for until its period has ended. What the next
//! period costs is collected when the present one has ended; while it is not paid the subscription
//! is past due, the plan stays in effect and no credits come, and it is tried again after
//! [`DUNNING_DAYS`]. When the last of these has failed it expires, and the tenant is on the free
//! plan.
//!
//! What holds at every record
//! - There is at most one open charge. Its id follows from the tenant, the run and month it is for,
//!   what it is for and its number, and is recorded before anybody is asked to pay: so whatever
//!   breaks, it is collected once. Nothing else is collected before it is known what became of it.
//! - A month of a run brings its credits once: the grant's id follows from tenant, run and month.
//!   They end with their month and do not roll over, and are spent before those that were bought.
//! - What is to be told to the wallet (credits, the plan in effect) stays due until the wallet has
//!   taken it in. The wallet is what everybody asks for a tenant's plan: see
//!   [`crate::plan_limits`].
//! - What is paid and can no longer be used is recorded as `payment_unplaced`: a person gives it
//!   back.
//!
//! Rules that were chosen
//! - A period that passes whole while nobody could be asked (the server stood still, the tenant was
//!   frozen) is neither collected nor are its credits given: the next one holds the present moment.
//! - A plan that an operator has arranged is collected by nobody here, and goes on until an
//!   operator ends it.
//! - An amount below [`CHARGE_CENTS_MIN`] is not collected.
//! - In a sandbox every charge is paid at once and nothing is collected: see [`collect`].
//!
//! Deliberate limits: one currency, no trials, no taxes, no giving back of money.

pub mod charges;
pub mod collecting;
mod due;
pub mod orders;
pub mod tell;
pub mod terms;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;

use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Backoff, EffectContext, Entity, Retried, Retry, Retrying, Timestamp, Turn,
};
use types::{GrantId, TenantId, base32, home_of, owner_of_tenant, rfc3339};

use crate::plans::{FREE, Plan, plan};
use charges::{
    ChargeAskedAgain, ChargeBegun, ChargeDeclined, ChargeGivenUp, ChargePaid, ChargeUndecided, Due,
    PaymentUnplaced, What,
};
use collecting::{News, collect, settle, tell_wallet};
use terms::{Choice, Mode, Status, Term};

/// How many days after the end of a period it is tried again to collect what the next one costs.
pub const DUNNING_DAYS: [i64; 3] = [1, 3, 7];
/// How long somebody has to confirm a payment with their bank before it is no longer waited for.
pub const CONFIRM_MS: i64 = 24 * 60 * 60 * 1_000;
/// Below so many cents nothing is collected: providers take no less.
pub const CHARGE_CENTS_MIN: i64 = 50;
/// How many charges that are no longer waited for are remembered, in case they are paid.
pub const LATE_MAX: usize = 16;
/// How many grants may wait for the wallet before nothing more is ordered.
pub const GRANTS_WAITING_MAX: usize = 64;

/// The pauses between attempts at what says nothing: longer than an attempt may take.
const PAUSES: Backoff = Backoff { first_ms: 30_000, max_ms: 10 * 60 * 1_000 };

/// A tenant's subscription.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Subscription {
    tenant: Option<TenantId>,
    term: Option<Term>,
    /// What is being collected.
    charge: Option<Due>,
    /// What was no longer waited for, the oldest first.
    late: Vec<Due>,
    /// How many charges there were.
    charges: u32,
    /// The request whose wish was fulfilled last.
    fulfilled: Option<u128>,
    /// Credits that the wallet has not taken in yet.
    grants: Vec<PlanCredits>,
    /// How many grants there were.
    granted: u32,
    /// How often the plan in effect has changed, and up to which change the wallet knows of it.
    said: u64,
    heard: u64,
    retry: Retry,
}

/// A period has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeriodBegun {
    /// Whose.
    pub tenant: TenantId,
    /// Of which run: the present one, or the next.
    pub run: u32,
    /// From when the run's months count.
    pub anchor: Timestamp,
    /// The first month of the period.
    pub from_month: u32,
    /// The month after its last.
    pub until_month: u32,
    /// What was chosen.
    pub choice: Choice,
    /// How it is paid for.
    pub mode: Mode,
    /// What was agreed for it, in cents.
    pub contract_amount_cents: Option<i64>,
    /// What the operator has noted.
    pub note: Option<String>,
}

/// Another plan is in effect within the period, or is paid for in another way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanChanged {
    /// The plan's id.
    pub plan: String,
    /// What it was before.
    pub from: String,
    /// How it is paid for.
    pub mode: Mode,
    /// What was agreed for it, in cents.
    pub contract_amount_cents: Option<i64>,
    /// What the operator has noted.
    pub note: Option<String>,
    /// The request that wanted it.
    pub request: Option<u128>,
}

/// The next period will be another than the present one, or will not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeScheduled {
    /// What it will be; `None` for the same.
    pub next: Option<Choice>,
}

/// It ends with the present period, or does not after all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CancellationSet {
    /// Whether it ends.
    pub at_period_end: bool,
}

/// What the next period costs could not be collected yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FellDue {
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionEnded {
    /// How: cancelled or expired.
    pub status: Status,
}

/// A plan's credits, on their way to the wallet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanCredits {
    /// The grant's id.
    pub grant: GrantId,
    /// The plan's id.
    pub plan: String,
    /// The run …
    pub run: u32,
    /// … and month that they are for.
    pub month: u32,
    /// Whether they are all that the month brings, or come on top after a change.
    pub is_whole_month: bool,
    /// How many; 0 for none.
    pub credits: i64,
    /// When they lapse.
    pub expires_at: Timestamp,
}

/// The wallet has taken in what it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalletTold {
    /// These grants.
    pub grants: Vec<GrantId>,
    /// The plan in effect, up to this change.
    pub said: u64,
}

supervision::events! {
    /// What happens to a subscription.
    pub enum SubscriptionEvent {
        /// A period has begun.
        PeriodBegun(PeriodBegun) = "period_begun", 1;
        /// Another plan is in effect within the period.
        PlanChanged(PlanChanged) = "plan_changed", 1;
        /// The next period will be another, or will not.
        ChangeScheduled(ChangeScheduled) = "change_scheduled", 1;
        /// It ends with the present period, or does not.
        CancellationSet(CancellationSet) = "cancellation_set", 1;
        /// What the next period costs could not be collected yet.
        FellDue(FellDue) = "fell_due", 1;
        /// It is over.
        Ended(SubscriptionEnded) = "subscription_ended", 1;
        /// A plan's credits are on their way to the wallet.
        PlanCredits(PlanCredits) = "plan_credits", 1;
        /// Something is to be collected.
        ChargeBegun(ChargeBegun) = "charge_begun", 1;
        /// Who pays must first act.
        ChargeUndecided(ChargeUndecided) = "charge_undecided", 1;
        /// It is asked once more what became of it.
        ChargeAskedAgain(ChargeAskedAgain) = "charge_asked_again", 1;
        /// It is paid.
        ChargePaid(ChargePaid) = "charge_paid", 1;
        /// It was refused.
        ChargeDeclined(ChargeDeclined) = "charge_declined", 1;
        /// It is no longer waited for.
        ChargeGivenUp(ChargeGivenUp) = "charge_given_up", 1;
        /// What was paid can no longer be used.
        PaymentUnplaced(PaymentUnplaced) = "payment_unplaced", 1;
        /// The wallet has taken in what it was told.
        WalletTold(WalletTold) = "wallet_told", 1;
        /// It is tried once more.
        Retried(Retried) = "subscription_retried", 1;
    }
}

/// What a subscription asks for.
#[derive(Clone, Debug)]
pub enum SubscriptionEffect {
    /// Something is to be collected.
    Collect(Box<Due>),
    /// The wallet is to be told.
    Tell(Box<News>),
}

/// The plan in effect, as a tenant's limits and prices need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InEffect {
    /// The plan.
    pub plan: &'static Plan,
    /// Whether it is not paid for at present.
    pub is_past_due: bool,
    /// Whether it is paid for by the tenant's payment method.
    pub needs_card: bool,
}

impl Subscription {
    /// Where a tenant's lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant));
        // 26 characters of base32 are neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{tenant} has no address"))
    }

    /// What was subscribed to, now or last.
    pub fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }

    fn running(&self) -> Option<&Term> {
        self.term.as_ref().filter(|term| term.is_running())
    }

    /// The plan in effect.
    pub fn in_effect(&self) -> InEffect {
        let Some(term) = self.running() else {
            return InEffect { plan: &FREE, is_past_due: false, needs_card: false };
        };
        InEffect {
            plan: plan(&term.choice.plan).unwrap_or(&FREE),
            is_past_due: term.status == Status::PastDue,
            needs_card: term.mode == Mode::Card,
        }
    }

    /// What the wallet has not taken in yet.
    fn news(&self) -> Option<News> {
        let tenant = self.tenant?;
        let is_news = !self.grants.is_empty() || self.said > self.heard;
        is_news.then(|| News {
            tenant,
            grants: self.grants.clone(),
            said: self.said,
            in_effect: self.in_effect(),
        })
    }

    /// What is being collected, while nobody has said what became of it.
    fn asked(&self) -> Option<&Due> {
        self.charge.as_ref().filter(|due| due.is_asked)
    }

    /// The number that a charge or a grant of this tenant has for ever.
    fn number(tenant: TenantId, what: &str, parts: [u32; 3]) -> u128 {
        let [run, month, count] = parts.map(u32::to_be_bytes);
        let digest = sha256(&[
            b"bailiwick subscription ",
            what.as_bytes(),
            b" ",
            &tenant.0.to_be_bytes(),
            &run,
            &month,
            &count,
        ]);
        u128::from_be_bytes(digest[..16].try_into().unwrap_or_default())
    }

    fn take_in(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        match event {
            SubscriptionEvent::PeriodBegun(it) => self.begin_period(it, at),
            SubscriptionEvent::PlanCredits(it) => {
                if let Some(term) = self.term.as_mut().filter(|_| it.is_whole_month) {
                    term.credited_until = it.month + 1;
                }
                self.granted += 1;
                if it.credits > 0 {
                    self.grants.push(it.clone());
                }
            }
            SubscriptionEvent::WalletTold(it) => {
                self.grants.retain(|credits| !it.grants.contains(&credits.grant));
                self.heard = self.heard.max(it.said);
            }
            SubscriptionEvent::Retried(_) => self.retry.again(at, PAUSES),
            SubscriptionEvent::ChargeBegun(_)
            | SubscriptionEvent::ChargeUndecided(_)
            | SubscriptionEvent::ChargeAskedAgain(_)
            | SubscriptionEvent::ChargePaid(_)
            | SubscriptionEvent::ChargeDeclined(_)
            | SubscriptionEvent::ChargeGivenUp(_)
            | SubscriptionEvent::PaymentUnplaced(_) => self.take_in_charge(event, at),
            SubscriptionEvent::PlanChanged(_)
            | SubscriptionEvent::ChangeScheduled(_)
            | SubscriptionEvent::CancellationSet(_)
            | SubscriptionEvent::FellDue(_)
            | SubscriptionEvent::Ended(_) => self.take_in_change(event, at),
        }
    }

    fn begin_period(&mut self, begun: &PeriodBegun, at: Timestamp) {
        let PeriodBegun { tenant, run, anchor, from_month, until_month, .. } = *begun;
        let before = self.term.take();
        let before = before.filter(Term::is_running);
        let credited = before.as_ref().filter(|term| term.run == run);
        self.tenant = Some(tenant);
        self.term = Some(Term {
            choice: begun.choice.clone(),
            mode: begun.mode,
            contract_amount_cents: begun.contract_amount_cents,
            note: begun.note.clone(),
            started_at: before.as_ref().map_or(at, |term| term.started_at),
            run,
            anchor,
            from_month,
            until_month,
            credited_until: credited.map_or(0, |term| term.credited_until).max(from_month),
            status: Status::Active,
            cancel_at_period_end: false,
            scheduled: None,
            retry_at: None,
            ended_at: None,
        });
    }

    fn take_in_change(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        let Some(term) = &mut self.term else { return };
        match event {
            SubscriptionEvent::PlanChanged(it) => {
                term.choice.plan = it.plan.clone();
                term.mode = it.mode;
                term.contract_amount_cents = it.contract_amount_cents;
                term.note = it.note.clone();
                term.scheduled = None;
                term.cancel_at_period_end = false;
                self.fulfilled = it.request.or(self.fulfilled);
            }
            SubscriptionEvent::ChangeScheduled(it) => term.scheduled = it.next.clone(),
            SubscriptionEvent::CancellationSet(it) => {
                term.cancel_at_period_end = it.at_period_end;
                term.scheduled = None;
            }
            SubscriptionEvent::FellDue(it) => {
                term.status = Status::PastDue;
                term.retry_at = Some(it.retry_at);
            }
            SubscriptionEvent::Ended(it) => {
                term.status = it.status;
                term.ended_at = Some(at);
                term.retry_at = None;
                term.scheduled = None;
                term.cancel_at_period_end = false;
            }
            _ => {}
        }
    }

    fn take_in_charge(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        match event {
            SubscriptionEvent::ChargeBegun(it) => {
                self.tenant = Some(it.due.tenant);
                self.charges += 1;
                if let (What::Renew(_), Some(term)) = (&it.due.what, &mut self.term) {
                    // What the old period has not brought by now it does not bring any more.
                    term.credited_until = term.until_month;
                }
                self.charge = Some(it.due.clone());
            }
            SubscriptionEvent::ChargeUndecided(it) => {
                if let Some(due) = self.charge.as_mut().filter(|due| due.id == it.charge) {
                    due.is_asked = false;
                    due.undecided_since = due.undecided_since.or(Some(at));
                }
            }
            SubscriptionEvent::ChargeAskedAgain(it) => {
                if let Some(due) = self.charge.as_mut().filter(|due| due.id == it.charge) {
                    due.is_asked = true;
                }
            }
            SubscriptionEvent::ChargePaid(it) => {
                self.fulfilled = it.request.or(self.fulfilled);
                self.forget(it.charge);
            }
            SubscriptionEvent::ChargeDeclined(it) => self.forget(it.charge),
            SubscriptionEvent::ChargeGivenUp(it) => {
                if let Some(due) = self.charge.take_if(|due| due.id == it.charge) {
                    if self.late.len() >= LATE_MAX {
                        self.late.remove(0);
                    }
                    self.late.push(due);
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, charge: u128) {
        self.charge.take_if(|due| due.id == charge);
        self.late.retain(|due| due.id != charge);
    }
}

impl Entity for Subscription {
    const KIND: &'static str = "subscription";
    type Event = SubscriptionEvent;
    type Effect = SubscriptionEffect;

    fn apply(&mut self, event: &SubscriptionEvent, at: Timestamp) {
        let (in_effect, asked) = (self.in_effect(), self.asked().map(|due| due.id));
        self.take_in(event, at);
        let is_other = self.in_effect() != in_effect;
        self.said += u64::from(is_other);
        let is_asked = self.asked().is_some_and(|due| asked != Some(due.id));
        if is_other || is_asked || matches!(event, SubscriptionEvent::PlanCredits(_)) {
            self.retry = Retry::begin(at, PAUSES);
        }
    }

    fn is_pending(&self) -> bool {
        self.asked().is_some() || self.news().is_some()
    }

    fn resume(&self) -> Vec<SubscriptionEffect> {
        let collect = self.asked().map(|due| SubscriptionEffect::Collect(Box::new(due.clone())));
        let tell = self.news().map(|news| SubscriptionEffect::Tell(Box::new(news)));
        collect.into_iter().chain(tell).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        due::next_deadline(self)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        due::due(turn);
    }

    async fn perform(effect: SubscriptionEffect, context: EffectContext<Self>) {
        let EffectContext { system, origin, .. } = context;
        let done = match effect {
            SubscriptionEffect::Collect(due) => {
                match collect(&system, &due, origin.clone()).await {
                    Ok(outcome) => settle(&system, due.tenant, due.id, outcome, origin).await,
                    Err(refusal) => Err(refusal),
                }
            }
            SubscriptionEffect::Tell(news) => tell_wallet(&system, *news, origin).await,
        };
        if let Err(refusal) = done {
            tracing::debug!(%refusal, "a subscription's step is tried again later");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let at = |at: Timestamp| rfc3339(at);
        let term = self.term.as_ref().map(|term| {
            serde_json::json!({
                "plan": term.choice.plan, "period": term.choice.period, "mode": term.mode,
                "status": term.status, "run": term.run, "started_at": at(term.started_at),
                "period_begins": at(term.period().from), "period_ends": at(term.period_end()),
                "cancel_at_period_end": term.cancel_at_period_end,
                "next": term.scheduled.as_ref().map(|next| next.plan.as_str()),
                "retry_at": term.retry_at.map(at),
            })
        });
        let charge = self.charge.as_ref().map(|due| {
            serde_json::json!({"id": base32(due.id), "what": due.what.name(),
                "amount_cents": due.amount_cents, "is_asked": due.is_asked,
                "undecided_since": due.undecided_since.map(at)})
        });
        serde_json::json!({
            "tenant": self.tenant, "term": term, "charge": charge, "charges": self.charges,
            "given_up": self.late.len(), "grants_waiting": self.grants.len(),
            "grants": self.granted, "attempts": self.retry.attempts(),
        })
    }
}

impl Retrying for Subscription {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> SubscriptionEvent {
        SubscriptionEvent::Retried(Retried {})
    }
}

/// Asks for what this turn has made due to be told to the wallet.
fn tell(turn: &mut Turn<'_, Subscription>) {
    if turn.has_recorded()
        && let Some(news) = turn.state().news()
    {
        turn.effect(SubscriptionEffect::Tell(Box::new(news)));
    }
}
