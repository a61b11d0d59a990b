//! What a subscription promises: single stories.

use supervision::{Class, Refusal};
use types::rfc3339;

use super::charges::ChargeSettled;
use super::orders::{Asked, Assign, Cancel, ChangePlan, Outcome, Renew, Resume, Subscribe};
use super::sim::{Mood, TENANT, World, choice};
use super::terms::Period;
use super::*;
use crate::charging::Charged;

const DAY: i64 = 24;

fn subscribe(world: &mut World, plan: &str, period: Period) -> Result<Asked, Refusal> {
    let request = world.request();
    world.order(Subscribe { tenant: TENANT, choice: choice(plan, period), request })
}

fn change(world: &mut World, plan: &str, period: Period) -> Result<Asked, Refusal> {
    let request = world.request();
    world.order(ChangePlan { tenant: TENANT, choice: choice(plan, period), request })
}

fn renew(world: &mut World) -> Result<Asked, Refusal> {
    let request = world.request();
    world.order(Renew { tenant: TENANT, request })
}

fn assign(plan: &str, period: Period) -> Assign {
    let (tenant, note) = (TENANT, Some("by contract".to_owned()));
    Assign { tenant, choice: choice(plan, period), contract_amount_cents: Some(9_900), note }
}

fn code<T>(result: Result<T, Refusal>) -> String {
    result.err().map(|refusal| refusal.code).unwrap_or_else(|| panic!("not refused"))
}

fn status(world: &World) -> String {
    world.state().view().status
}

/// On pro by the month, from 2026-01-01 on.
fn on_pro() -> World {
    let mut world = World::new();
    subscribe(&mut world, "pro", Period::Monthly).unwrap();
    assert_eq!(world.shown(), ("pro", 50_000));
    world
}

#[test]
fn nobody_is_on_the_free_plan_by_a_subscription() {
    let world = World::new();
    let view = world.state().view();
    assert_eq!((view.plan.as_str(), view.status.as_str()), ("free", "active"));
    assert_eq!((view.billing_mode.as_str(), view.card_required), ("free", false));
    assert_eq!((view.started_at, view.expires_at), (None, None));
}

#[test]
fn a_plan_is_paid_for_before_it_is_in_effect_and_brings_its_credits() {
    let mut world = World::new();
    let request = world.request();
    let order = || Subscribe { tenant: TENANT, choice: choice("pro", Period::Monthly), request };
    let asked = world.begin(order()).unwrap();
    assert!(matches!(asked.outcome, Outcome::Charge(due) if due.amount_cents == 4_500));
    assert_eq!(world.shown(), ("free", 0));
    world.run();
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 4_500));
    let view = world.state().view();
    assert_eq!(view.expires_at.as_deref(), Some("2026-02-01T00:00:00.000Z"));
    assert_eq!((view.billing_mode.as_str(), view.card_required), ("card", true));
    // The same request again is answered alike, another is refused.
    assert!(matches!(world.order(order()).unwrap().outcome, Outcome::Done));
    assert_eq!(code(subscribe(&mut world, "pro", Period::Monthly)), "already_subscribed");
    assert_eq!(world.cents_paid(), 4_500);
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let mut world = World::new();
    for plan in ["free", "starter", "enterprise"] {
        let refused = code(subscribe(&mut world, plan, Period::Monthly));
        assert_eq!(refused, "plan_not_self_service", "{plan}");
    }
    assert_eq!(code(subscribe(&mut world, "gold", Period::Monthly)), "validation_error");
    assert_eq!(code(change(&mut world, "pro", Period::Monthly)), "no_subscription");
    assert_eq!(code(renew(&mut world)), "no_subscription");
    assert_eq!(code(world.tell(Cancel)), "no_subscription");
    assert_eq!(code(world.tell(Resume)), "no_subscription");
    assert!(world.events.is_empty());
}

#[test]
fn a_refused_card_changes_nothing_and_the_next_attempt_is_another_charge() {
    let mut world = World::new();
    for mood in [Mood::HasNoCard, Mood::Declines] {
        world.bank.mood = mood;
        subscribe(&mut world, "pro", Period::Monthly).unwrap();
        assert_eq!((world.shown(), world.state().view().plan.as_str()), (("free", 0), "free"));
    }
    world.bank.mood = Mood::Pays;
    subscribe(&mut world, "pro", Period::Yearly).unwrap();
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 54_000));
}

#[test]
fn credits_come_each_month_of_a_year_and_end_with_their_month() {
    let mut world = World::new();
    subscribe(&mut world, "pro", Period::Yearly).unwrap();
    for _ in 0..360 {
        world.pass_hours(DAY);
        assert_eq!(world.shown(), ("pro", 50_000));
    }
    assert_eq!((world.credits_granted(), world.cents_paid()), (600_000, 54_000));
    world.pass_hours(6 * DAY);
    assert_eq!((world.cents_paid(), world.credits().count()), (108_000, 13));
}

#[test]
fn a_dearer_plan_is_in_effect_at_once_for_the_share_that_is_left() {
    let mut world = on_pro();
    world.pass_hours(21 * DAY);
    // Ten of thirty-one days are left of 115 dollars and 150,000 credits.
    let asked = change(&mut world, "business", Period::Monthly).unwrap();
    assert_eq!(asked.action, "upgrade");
    let (cents, credits) = (11_500 * 10 / 31, 150_000 * 10 / 31);
    assert_eq!(world.cents_paid(), 4_500 + cents);
    assert_eq!(world.shown(), ("business", 50_000 + credits));
    world.pass_hours(10 * DAY);
    assert_eq!(world.cents_paid(), 4_500 + cents + 16_000);
    assert_eq!(world.shown(), ("business", 200_000));
}

#[test]
fn a_cheaper_plan_comes_with_the_next_period_and_may_be_taken_back() {
    let mut world = World::new();
    subscribe(&mut world, "business", Period::Monthly).unwrap();
    let asked = change(&mut world, "pro", Period::Monthly).unwrap();
    assert_eq!(asked.action, "downgrade");
    let at = |asked: &Asked| match &asked.outcome {
        Outcome::From(at) => rfc3339(*at),
        _ => String::new(),
    };
    assert_eq!(at(&asked), "2026-02-01T00:00:00.000Z");
    assert_eq!(change(&mut world, "business", Period::Monthly).unwrap().action, "keep");
    assert_eq!(code(change(&mut world, "business", Period::Monthly)), "already_on_plan");
    change(&mut world, "pro", Period::Yearly).unwrap();
    world.pass_hours(30 * DAY);
    assert_eq!(world.shown().0, "business");
    world.pass_hours(DAY);
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 16_000 + 54_000));
    assert_eq!(world.state().view().expires_at.unwrap(), "2027-02-01T00:00:00.000Z");
}

#[test]
fn the_year_begins_at_once_for_what_the_month_had_left() {
    let mut world = on_pro();
    world.pass_hours(31 * DAY / 2);
    change(&mut world, "pro", Period::Yearly).unwrap();
    assert_eq!(world.cents_paid(), 4_500 + 54_000 - 2_250);
    assert_eq!(world.shown(), ("pro", 75_000), "the month's own, and half of the new one's");
    let view = world.state().view();
    assert_eq!(view.started_at.unwrap(), "2026-01-01T00:00:00.000Z");
    assert_eq!(view.expires_at.unwrap(), "2027-01-16T12:00:00.000Z");
}

#[test]
fn what_ends_with_its_period_may_be_resumed_until_then() {
    let mut world = on_pro();
    assert!(world.tell(Cancel).unwrap().cancel_at_period_end);
    let events = world.events.len();
    assert!(world.tell(Cancel).unwrap().cancel_at_period_end);
    assert_eq!(world.events.len(), events, "a repetition");
    assert_eq!(code(change(&mut world, "business", Period::Monthly)), "ends_with_period");
    assert!(!world.tell(Resume).unwrap().cancel_at_period_end);
    assert_eq!(code(world.tell(Resume)), "not_cancelled");
    assert_eq!(code(renew(&mut world)), "not_expired");
    world.tell(Cancel).unwrap();
    world.pass_hours(31 * DAY);
    assert_eq!((status(&world).as_str(), world.shown()), ("cancelled", ("free", 0)));
    assert_eq!(code(renew(&mut world)), "not_expired");
    world.pass_hours(90 * DAY);
    assert_eq!(world.cents_paid(), 4_500);
    subscribe(&mut world, "pro", Period::Monthly).unwrap();
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 9_000));
}

#[test]
fn what_is_not_paid_is_tried_on_the_days_of_the_schedule_and_expires_after_the_last() {
    let mut world = on_pro();
    world.bank.mood = Mood::Declines;
    world.pass_hours(31 * DAY);
    assert_eq!((status(&world).as_str(), world.shown()), ("past_due", ("pro", 0)));
    assert_eq!(code(change(&mut world, "business", Period::Monthly)), "past_due");
    assert_eq!(code(subscribe(&mut world, "pro", Period::Monthly)), "past_due");
    let retry = |world: &World| world.state().term().unwrap().retry_at.map(rfc3339);
    for (hours, next) in [(0, 2), (DAY, 4), (2 * DAY, 8)] {
        world.pass_hours(hours);
        assert_eq!(retry(&world).unwrap(), format!("2026-02-0{next}T00:00:00.000Z"));
    }
    world.pass_hours(4 * DAY);
    assert_eq!((status(&world).as_str(), world.shown()), ("expired", ("free", 0)));
    let declined = world.names(0).into_iter().filter(|name| *name == "charge_declined");
    assert_eq!(declined.count(), 4);
    // The plan that has expired is had again by one period from now on.
    world.bank.mood = Mood::Pays;
    world.pass_hours(2 * DAY);
    renew(&mut world).unwrap();
    assert_eq!((status(&world).as_str(), world.shown()), ("active", ("pro", 50_000)));
    assert_eq!(world.state().view().expires_at.unwrap(), "2026-03-10T00:00:00.000Z");
    assert_eq!(code(renew(&mut world)), "not_expired");
}

#[test]
fn a_card_that_pays_on_a_later_day_pays_for_the_whole_period() {
    let mut world = on_pro();
    world.bank.mood = Mood::HasNoCard;
    world.pass_hours(32 * DAY);
    world.bank.mood = Mood::Pays;
    world.pass_hours(2 * DAY);
    assert_eq!((status(&world).as_str(), world.shown()), ("active", ("pro", 50_000)));
    assert_eq!(world.state().view().expires_at.unwrap(), "2026-03-01T00:00:00.000Z");
    assert_eq!(world.cents_paid(), 9_000);
    // And one who renews while it is past due does not wait for that day.
    world.bank.mood = Mood::Declines;
    world.pass_hours(26 * DAY);
    assert_eq!(status(&world), "past_due");
    renew(&mut world).unwrap();
    assert_eq!(status(&world), "past_due");
    world.bank.mood = Mood::Pays;
    renew(&mut world).unwrap();
    assert_eq!((status(&world).as_str(), world.shown()), ("active", ("pro", 50_000)));
    assert_eq!(world.state().view().expires_at.unwrap(), "2026-04-01T00:00:00.000Z");
}

#[test]
fn one_who_must_confirm_is_waited_for_under_the_same_charge() {
    let mut world = World::new();
    world.bank.mood = Mood::Asks;
    subscribe(&mut world, "pro", Period::Monthly).unwrap();
    assert_eq!(code(subscribe(&mut world, "business", Period::Monthly)), "payment_pending");
    assert!(!world.state().is_pending(), "it waits for a person");
    // The same order again is the same charge.
    subscribe(&mut world, "pro", Period::Monthly).unwrap();
    assert_eq!(world.bank.asked.len(), 1);
    world.decide(true);
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 4_500));
    // At the end of the period it is the bank that keeps one from paying.
    world.pass_hours(33 * DAY);
    assert_eq!((status(&world).as_str(), world.bank.asked.len()), ("past_due", 1));
    world.decide(true);
    assert_eq!((status(&world).as_str(), world.cents_paid()), ("active", 9_000));
    assert_eq!(world.credits_granted(), 100_000);
}

#[test]
fn what_is_decided_too_late_counts_where_there_is_use_for_it() {
    let mut world = World::new();
    world.bank.mood = Mood::Asks;
    subscribe(&mut world, "pro", Period::Monthly).unwrap();
    world.pass_hours(2 * DAY);
    assert_eq!(world.state().view().plan, "free");
    world.bank.mood = Mood::Pays;
    subscribe(&mut world, "business", Period::Monthly).unwrap();
    world.decide(true);
    assert_eq!(world.names(world.events.len() - 1), ["payment_unplaced"]);
    assert_eq!(world.shown(), ("business", 200_000));
    // One that expired is taken up again.
    world.bank.mood = Mood::Asks;
    world.pass_hours(45 * DAY);
    assert_eq!(status(&world), "expired");
    assert!(world.state().charge.is_none(), "it is waited for no longer");
    world.decide(true);
    assert_eq!((status(&world).as_str(), world.shown()), ("active", ("business", 200_000)));
}

#[test]
fn a_plan_that_is_arranged_is_collected_by_nobody_and_changed_by_operators_alone() {
    let mut world = World::new();
    let view = world.tell(assign("business", Period::Monthly)).unwrap();
    assert_eq!((view.billing_mode.as_str(), view.card_required), ("manual", false));
    assert_eq!(
        (view.contract_amount_cents, view.billing_note.as_deref()),
        (Some(9_900), Some("by contract"))
    );
    assert_eq!(world.shown(), ("business", 200_000));
    let events = world.events.len();
    world.tell(assign("business", Period::Monthly)).unwrap();
    assert_eq!(world.events.len(), events, "a repetition");
    for refused in [
        code(subscribe(&mut world, "pro", Period::Monthly)),
        code(change(&mut world, "pro", Period::Monthly)),
        code(world.tell(Cancel)),
    ] {
        assert_eq!(refused, "plan_is_managed");
    }
    world.pass_hours(62 * DAY);
    assert_eq!((world.shown(), world.cents_paid()), (("business", 200_000), 0));
    assert_eq!(world.credits().count(), 3);
    world.tell(assign("enterprise", Period::Monthly)).unwrap();
    assert_eq!(world.shown(), ("enterprise", 200_000), "nothing is taken back");
    world.tell(assign("free", Period::Monthly)).unwrap();
    assert_eq!((status(&world).as_str(), world.shown().0), ("cancelled", "free"));
    assert_eq!(code(world.tell(assign("gold", Period::Monthly))), "validation_error");
}

#[test]
fn an_operator_takes_over_a_plan_that_a_card_has_paid_for() {
    let mut world = on_pro();
    world.tell(assign("business", Period::Monthly)).unwrap();
    assert_eq!(world.shown(), ("business", 200_000), "the whole month was left");
    world.tell(assign("pro", Period::Monthly)).unwrap();
    world.tell(assign("business", Period::Yearly)).unwrap();
    assert_eq!(world.state().view().expires_at.unwrap(), "2027-01-01T00:00:00.000Z");
    world.pass_hours(31 * DAY);
    assert_eq!(world.cents_paid(), 4_500);
}

#[test]
fn periods_that_passed_whole_are_neither_collected_nor_credited() {
    let mut world = on_pro();
    // Nothing wakes it for more than three months.
    world.now = world.now.plus_ms(100 * DAY * 60 * 60 * 1_000);
    world.wake();
    assert_eq!((world.cents_paid(), world.credits_granted()), (9_000, 100_000));
    assert_eq!(world.state().view().expires_at.unwrap(), "2026-05-01T00:00:00.000Z");
}

#[test]
fn a_bank_that_is_away_is_asked_again_under_the_same_charge() {
    let mut world = on_pro();
    world.bank.mood = Mood::IsAway;
    world.pass_hours(33 * DAY);
    assert_eq!((status(&world).as_str(), world.state().is_pending()), ("active", true));
    assert_eq!(code(world.tell(Cancel)), "payment_pending");
    assert_eq!(code(world.tell(assign("pro", Period::Monthly))), "payment_pending");
    world.bank.mood = Mood::Pays;
    world.pass_hours(1);
    assert_eq!((world.shown(), world.cents_paid()), (("pro", 50_000), 9_000));
    assert!(!world.state().is_pending());
}

#[test]
fn a_verdict_on_a_charge_of_nobodys_changes_nothing() {
    let mut world = on_pro();
    let events = world.events.len();
    let outcome = Charged::Succeeded { payment: "pi_x".to_owned() };
    world.tell(ChargeSettled { charge: 5, outcome }).unwrap();
    assert_eq!(world.events.len(), events);
}

#[test]
fn limits_of_what_an_operator_says_are_refused_by_name() {
    let mut world = World::new();
    let note = Some("é".repeat(orders::NOTE_CHARACTERS_MAX + 1));
    let long = Assign { note, ..assign("pro", Period::Monthly) };
    let refusal = world.tell(long).err().unwrap();
    assert_eq!(refusal.class, Class::Invalid);
    let less = Assign { contract_amount_cents: Some(-1), ..assign("pro", Period::Monthly) };
    assert_eq!(code(world.tell(less)), "validation_error");
}
