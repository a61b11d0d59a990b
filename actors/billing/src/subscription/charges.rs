//! What a subscription collects, and what follows from what became of it.
//!
//! A charge is durable before it is collected. While nobody has said what became of it it is asked
//! for again, under the same id. When the payer's bank wants the payer to act, the verdict comes
//! later ([`ChargeSettled`]); what is not decided in time is given up, and counts all the same if
//! it is paid after that, as long as there is use for it.

use serde::{Deserialize, Serialize};
use supervision::{Command, Handle, Refusal, Timestamp, Turn};
use types::TenantId;

use super::terms::{Choice, Mode, Status, Turnover};
use super::{
    CONFIRM_MS, DUNNING_DAYS, FellDue, PlanChanged, Subscription, SubscriptionEffect,
    SubscriptionEnded, SubscriptionEvent, due, tell,
};
use crate::charging::{Charge, Charged};

/// A day, in milliseconds.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// What lists of payments call a charge of a plan.
pub const PURPOSE: &str = "subscription";
/// The code of a charge that nobody could be asked for: there is no payment method.
pub const NO_METHOD: &str = "no_payment_method";

/// What a charge is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The first period of a run that begins when it is paid.
    Begin(Choice),
    /// The period after the present one.
    Renew(Choice),
    /// A dearer plan for what is left of the period.
    Within(Choice),
    /// A longer period, which begins when it is paid.
    Anew(Choice),
}

impl What {
    /// Its name, in ids and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Begin(_) => "begin",
            Self::Renew(_) => "renew",
            Self::Within(_) => "within",
            Self::Anew(_) => "anew",
        }
    }

    /// What is had for it.
    pub fn choice(&self) -> &Choice {
        match self {
            Self::Begin(it) | Self::Renew(it) | Self::Within(it) | Self::Anew(it) => it,
        }
    }
}

/// What is to be collected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// The charge's id.
    pub id: u128,
    /// Who pays.
    pub tenant: TenantId,
    /// What for.
    pub what: What,
    /// In cents, [`super::CHARGE_CENTS_MIN`] or more.
    pub amount_cents: i64,
    /// The credits that come with it at once, on top of or in place of the month's.
    pub credits: i64,
    /// The run that it belongs to …
    pub run: u32,
    /// … and the month at which the period ended that was present then.
    pub month: u32,
    /// The request that wanted it.
    pub request: Option<u128>,
    /// Whether it is to be found out what became of it.
    pub is_asked: bool,
    /// Since when the payer must act.
    pub undecided_since: Option<Timestamp>,
}

impl Due {
    /// As the port for payments takes it.
    pub fn charge(&self) -> Charge {
        let choice = self.what.choice();
        let name = choice.catalogued().name;
        let description = match &self.what {
            What::Within(_) => format!("{name}, the rest of the present period"),
            _ => format!("{name}, {}", choice.period),
        };
        Charge {
            id: self.id,
            tenant: self.tenant,
            amount_cents: self.amount_cents,
            purpose: PURPOSE.to_owned(),
            description,
        }
    }
}

/// Something is to be collected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargeBegun {
    /// What.
    pub due: Due,
}

/// Who pays must first act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargeUndecided {
    /// The charge.
    pub charge: u128,
    /// The payment's id.
    pub payment: String,
}

/// It is asked once more what became of a charge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargeAskedAgain {
    /// The charge.
    pub charge: u128,
}

/// A charge is paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargePaid {
    /// The charge.
    pub charge: u128,
    /// What for.
    pub what: What,
    /// In cents.
    pub amount_cents: i64,
    /// The payment's id.
    pub payment: String,
    /// The request that wanted it.
    pub request: Option<u128>,
}

/// A charge was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargeDeclined {
    /// The charge.
    pub charge: u128,
    /// What for.
    pub what: What,
    /// In cents.
    pub amount_cents: i64,
    /// The provider's code, or [`NO_METHOD`].
    pub code: String,
}

/// A charge is no longer waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChargeGivenUp {
    /// The charge.
    pub charge: u128,
}

/// What was paid can no longer be used: a person gives it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentUnplaced {
    /// The charge.
    pub charge: u128,
    /// The payment's id.
    pub payment: String,
    /// In cents.
    pub amount_cents: i64,
}

/// Records a charge. Whoever calls has seen that none is open.
pub(super) fn begin(
    turn: &mut Turn<'_, Subscription>,
    tenant: TenantId,
    what: What,
    (amount_cents, credits): (i64, i64),
    request: Option<u128>,
) -> Due {
    let state = turn.state();
    let (run, month) = state.term.as_ref().map_or((0, 0), |term| (term.run, term.until_month));
    let id = Subscription::number(tenant, what.name(), [run, month, state.charges]);
    let due = Due {
        id,
        tenant,
        what,
        amount_cents,
        credits,
        run,
        month,
        request,
        is_asked: true,
        undecided_since: None,
    };
    turn.record(SubscriptionEvent::ChargeBegun(ChargeBegun { due: due.clone() }));
    due
}

/// Tells a subscription what became of a charge of its own, at once or later. A repetition, and a
/// charge that it does not know, change nothing.
pub struct ChargeSettled {
    /// The charge.
    pub charge: u128,
    /// What became of it.
    pub outcome: Charged,
}

impl Command for ChargeSettled {
    const NAME: &'static str = "charge_settled";
    const ESSENTIAL: bool = true;
}

impl Handle<ChargeSettled> for Subscription {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: ChargeSettled) -> Result<(), Refusal> {
        let ChargeSettled { charge, outcome } = command;
        let state = turn.state();
        let open = state.charge.as_ref().filter(|due| due.id == charge).cloned();
        let late = state.late.iter().find(|due| due.id == charge).cloned();
        let is_open = open.is_some();
        let Some(due) = open.or(late) else { return Ok(()) };
        match outcome {
            Charged::Succeeded { payment } => paid(turn, due, payment),
            Charged::RequiresAction { payment, .. } if is_open => undecided(turn, &due, payment),
            Charged::RequiresAction { .. } => {}
            Charged::Declined { code } => declined(turn, due, code),
            Charged::NoMethod => declined(turn, due, NO_METHOD.to_owned()),
        }
        tell(turn);
        Ok(())
    }
}

fn paid(turn: &mut Turn<'_, Subscription>, due: Due, payment: String) {
    let Due { id: charge, tenant, what, amount_cents, credits, run, month, request, .. } = due;
    turn.record(SubscriptionEvent::ChargePaid(ChargePaid {
        charge,
        what: what.clone(),
        amount_cents,
        payment: payment.clone(),
        request,
    }));
    let term = turn.state().term.as_ref();
    // The period that it was for is still the one that comes next, or is the present one.
    let fits = term.is_some_and(|term| {
        term.is_running() && term.mode == Mode::Card && (term.run, term.until_month) == (run, month)
    });
    let is_free = term.is_none_or(|term| !term.is_running());
    let is_expired = term.is_some_and(|term| term.status == Status::Expired);
    match what {
        What::Renew(choice) if fits => due::begin_next_period(turn, tenant, choice),
        What::Begin(choice) if is_free => due::begin_run(turn, tenant, choice, None),
        What::Renew(choice) if is_expired => due::begin_run(turn, tenant, choice, None),
        What::Within(choice) if fits => change_within(turn, choice, credits, request),
        What::Anew(choice) if fits => due::begin_run(turn, tenant, choice, Some(credits)),
        _ => {
            tracing::warn!(%tenant, payment, amount_cents, "a payment came too late to be used");
            let unplaced = PaymentUnplaced { charge, payment, amount_cents };
            turn.record(SubscriptionEvent::PaymentUnplaced(unplaced));
        }
    }
}

/// A dearer plan is in effect from now on.
pub(super) fn change_within(
    turn: &mut Turn<'_, Subscription>,
    choice: Choice,
    credits: i64,
    request: Option<u128>,
) {
    let Some(term) = turn.state().term.clone() else { return };
    turn.record(SubscriptionEvent::PlanChanged(PlanChanged {
        plan: choice.plan,
        from: term.choice.plan,
        mode: term.mode,
        contract_amount_cents: term.contract_amount_cents,
        note: term.note,
        request,
    }));
    due::grant_extra(turn, credits);
}

fn undecided(turn: &mut Turn<'_, Subscription>, due: &Due, payment: String) {
    if !due.is_asked {
        return;
    }
    let charge = due.id;
    turn.record(SubscriptionEvent::ChargeUndecided(ChargeUndecided { charge, payment }));
    if matches!(due.what, What::Renew(_)) {
        return fall_due(turn);
    }
    let now = turn.now();
    if due.undecided_since.is_some_and(|since| since.plus_ms(CONFIRM_MS) <= now) {
        give_up(turn);
    }
}

fn declined(turn: &mut Turn<'_, Subscription>, due: Due, code: String) {
    let Due { id: charge, what, amount_cents, run, .. } = due;
    let is_open = turn.state().charge.as_ref().is_some_and(|open| open.id == charge);
    let is_renewal = matches!(what, What::Renew(_));
    let declined = ChargeDeclined { charge, what, amount_cents, code };
    turn.record(SubscriptionEvent::ChargeDeclined(declined));
    let is_of_run = turn.state().running().is_some_and(|term| term.run == run);
    if is_open && is_renewal && is_of_run {
        fall_due(turn);
    }
}

/// What the next period costs was not paid: it is tried again on the next day of the schedule, and
/// after the last one it is over.
fn fall_due(turn: &mut Turn<'_, Subscription>) {
    let Some(term) = turn.state().running() else { return };
    let (end, now) = (term.period_end(), turn.now());
    let mut days = DUNNING_DAYS.iter().map(|days| end.plus_ms(days * DAY_MS));
    match days.find(|at| *at > now) {
        Some(retry_at) => turn.record(SubscriptionEvent::FellDue(FellDue { retry_at })),
        None => {
            give_up(turn);
            let status = Status::Expired;
            turn.record(SubscriptionEvent::Ended(SubscriptionEnded { status }));
        }
    }
}

/// An open charge is no longer waited for.
pub(super) fn give_up(turn: &mut Turn<'_, Subscription>) {
    if let Some(charge) = turn.state().charge.as_ref().map(|due| due.id) {
        turn.record(SubscriptionEvent::ChargeGivenUp(ChargeGivenUp { charge }));
    }
}

/// Asks once more what became of the open charge.
pub(super) fn ask_again(turn: &mut Turn<'_, Subscription>) {
    let Some(due) = turn.state().charge.clone() else { return };
    let charge = due.id;
    turn.record(SubscriptionEvent::ChargeAskedAgain(ChargeAskedAgain { charge }));
    turn.effect(SubscriptionEffect::Collect(Box::new(Due { is_asked: true, ..due })));
}

/// What a change costs and brings, or `None` where it is not made at once.
pub(super) fn price_of(turnover: Turnover) -> Option<(i64, i64)> {
    match turnover {
        Turnover::Within { amount_cents, credits } | Turnover::Anew { amount_cents, credits } => {
            Some((amount_cents, credits))
        }
        Turnover::Same | Turnover::Later => None,
    }
}
