//! What time brings: the credits of the next month, the end of a period, another attempt at what
//! was not paid, and the end of waiting for somebody's bank.

use supervision::{Retrying as _, Timestamp, Turn};
use types::{GrantId, TenantId};

use super::charges::{self, Due, What};
use super::terms::{Choice, Mode, Status, Term};
use super::{
    CHARGE_CENTS_MIN, CONFIRM_MS, PeriodBegun, PlanCredits, Subscription, SubscriptionEffect,
    SubscriptionEnded, SubscriptionEvent, tell,
};

/// How many things one turn lets come due: more than there are to one moment.
const STEPS_MAX: usize = 16;
/// How many periods may have passed while nobody looked: a hundred years of months.
const PASSED_MAX: u32 = 1_200;

/// When the next thing comes due.
pub(super) fn next_deadline(state: &Subscription) -> Option<Timestamp> {
    let term = state.running();
    let of_charge = state.charge.as_ref().and_then(|due| waits_until(due, term));
    let is_asked = state.asked().is_some();
    let of_term = term.and_then(|term| match (&state.charge, term.status) {
        (None, Status::PastDue) => term.retry_at,
        (Some(due), _) if is_asked || matches!(due.what, What::Renew(_)) => None,
        _ => Some(term.period_end()),
    });
    let of_credits = term.and_then(Term::credits_at);
    [state.retry_at(), of_charge, of_term, of_credits].into_iter().flatten().min()
}

/// Until when an undecided charge is left alone.
fn waits_until(due: &Due, term: Option<&Term>) -> Option<Timestamp> {
    match due.what {
        _ if due.is_asked => None,
        What::Renew(_) => term.and_then(|term| term.retry_at),
        _ => due.undecided_since.map(|since| since.plus_ms(CONFIRM_MS)),
    }
}

/// Does all that is due.
pub(super) fn due(turn: &mut Turn<'_, Subscription>) {
    Subscription::try_again(turn);
    let mut has_done = false;
    for _ in 0..STEPS_MAX {
        if !step(turn) {
            break;
        }
        has_done = true;
    }
    if has_done {
        tell(turn);
    }
}

/// Does the first thing that is due; whether there was one.
fn step(turn: &mut Turn<'_, Subscription>) -> bool {
    let (state, now) = (turn.state(), turn.now());
    let term = state.running();
    if let Some(due) = &state.charge
        && waits_until(due, term).is_some_and(|at| at <= now)
    {
        charges::ask_again(turn);
        return true;
    }
    let Some(term) = term else { return false };
    let is_over = term.period_end() <= now;
    if !is_over && term.credits_at().is_some_and(|at| at <= now) {
        grant_month(turn, None);
        return true;
    }
    match (&state.charge, term.status) {
        (None, Status::Active) if is_over => end_of_period(turn),
        (None, Status::PastDue) if term.retry_at.is_some_and(|at| at <= now) => collect_next(turn),
        (Some(due), _) if is_over && !due.is_asked && !matches!(due.what, What::Renew(_)) => {
            charges::give_up(turn);
        }
        _ => return false,
    }
    true
}

fn end_of_period(turn: &mut Turn<'_, Subscription>) {
    let (tenant, Some(term)) = (turn.state().tenant, turn.state().running().cloned()) else {
        return;
    };
    let Some(tenant) = tenant else { return };
    if term.cancel_at_period_end {
        let status = Status::Cancelled;
        return turn.record(SubscriptionEvent::Ended(SubscriptionEnded { status }));
    }
    match term.mode {
        Mode::Manual => begin_next_period(turn, tenant, term.next().clone()),
        Mode::Card => collect_next(turn),
    }
}

/// Collects what the next period costs, or begins it where that is nothing.
fn collect_next(turn: &mut Turn<'_, Subscription>) {
    let due = renew(turn, None);
    if let Some(due) = due {
        turn.effect(SubscriptionEffect::Collect(Box::new(due)));
    }
}

/// Records the charge of the next period; where it costs nothing the period begins instead.
pub(super) fn renew(turn: &mut Turn<'_, Subscription>, request: Option<u128>) -> Option<Due> {
    let state = turn.state();
    let (tenant, choice) = (state.tenant?, state.running()?.next().clone());
    let amount_cents = choice.price_cents();
    if amount_cents < CHARGE_CENTS_MIN {
        begin_next_period(turn, tenant, choice);
        return None;
    }
    Some(charges::begin(turn, tenant, What::Renew(choice), (amount_cents, 0), request))
}

/// A run of periods begins now. `credits` are what its first month brings, where that is not what
/// the plan says.
pub(super) fn begin_run(
    turn: &mut Turn<'_, Subscription>,
    tenant: TenantId,
    choice: Choice,
    credits: Option<i64>,
) {
    let (run, anchor) = (next_run(turn.state()), turn.now());
    turn.record(SubscriptionEvent::PeriodBegun(PeriodBegun {
        tenant,
        run,
        anchor,
        from_month: 0,
        until_month: choice.period.months(),
        choice,
        mode: Mode::Card,
        contract_amount_cents: None,
        note: None,
    }));
    grant_month(turn, credits);
}

/// The number that the next run has.
pub(super) fn next_run(state: &Subscription) -> u32 {
    state.term.as_ref().map_or(1, |term| term.run + 1)
}

/// The next period of the run begins: the one that holds the present moment, where some have
/// passed meanwhile.
pub(super) fn begin_next_period(
    turn: &mut Turn<'_, Subscription>,
    tenant: TenantId,
    choice: Choice,
) {
    let now = turn.now();
    let Some(term) = turn.state().running().cloned() else { return };
    let months = choice.period.months();
    let mut from_month = term.until_month;
    for _ in 0..PASSED_MAX {
        if term.month_start(from_month + months) > now {
            break;
        }
        from_month += months;
    }
    turn.record(SubscriptionEvent::PeriodBegun(PeriodBegun {
        tenant,
        run: term.run,
        anchor: term.anchor,
        from_month,
        until_month: from_month + months,
        choice,
        mode: term.mode,
        contract_amount_cents: term.contract_amount_cents,
        note: term.note,
    }));
    grant_month(turn, None);
}

/// The credits of the latest month that has begun, once.
pub(super) fn grant_month(turn: &mut Turn<'_, Subscription>, credits: Option<i64>) {
    let (state, now) = (turn.state(), turn.now());
    let (Some(tenant), Some(term)) = (state.tenant, state.running()) else { return };
    if term.credited_until >= term.until_month {
        return;
    }
    let month = term.latest_month(term.credited_until, term.until_month, now);
    let plan = term.choice.catalogued();
    let credits = PlanCredits {
        grant: GrantId(Subscription::number(tenant, "credits", [term.run, month, 0])),
        plan: plan.id.to_owned(),
        run: term.run,
        month,
        is_whole_month: true,
        credits: credits.unwrap_or(plan.included_tokens),
        expires_at: term.month(month).until,
    };
    turn.record(SubscriptionEvent::PlanCredits(credits));
}

/// Credits on top of what the present month has brought.
pub(super) fn grant_extra(turn: &mut Turn<'_, Subscription>, credits: i64) {
    let (state, now) = (turn.state(), turn.now());
    let (Some(tenant), Some(term)) = (state.tenant, state.running()) else { return };
    if credits <= 0 {
        return;
    }
    let month = term.latest_month(term.from_month, term.until_month, now);
    let number = Subscription::number(tenant, "more credits", [term.run, month, state.granted]);
    let credits = PlanCredits {
        grant: GrantId(number),
        plan: term.choice.plan.clone(),
        run: term.run,
        month,
        is_whole_month: false,
        credits,
        expires_at: term.month(month).until,
    };
    turn.record(SubscriptionEvent::PlanCredits(credits));
}
