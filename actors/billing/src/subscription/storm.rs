//! A year in the life of a subscription, the same on every run; histories at random against a plain
//! recount; and a kill between any two steps of each kind of history.

use std::collections::BTreeSet;

use proptest::prelude::*;
use supervision::Timestamp;

use super::charges::What;
use super::orders::{Assign, Cancel, ChangePlan, Renew, Resume, Subscribe};
use super::sim::{Mood, TENANT, World, choice};
use super::terms::Period;
use super::*;
use crate::wallet::Wallet;

const DAY: i64 = 24;

/// Something that somebody does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Subscribe(&'static str, Period),
    Change(&'static str, Period),
    Renew,
    Cancel,
    Resume,
    Assign(&'static str, Period),
    Mood(Mood),
    Decide(bool),
    Wait { hours: i64 },
    Sleep { hours: i64 },
}

/// Does it, as far as the first commit. What is refused is refused.
fn begin(world: &mut World, act: Act) {
    let (tenant, request) = (TENANT, world.request());
    match act {
        Act::Subscribe(plan, period) => {
            let _ = world.begin(Subscribe { tenant, choice: choice(plan, period), request });
        }
        Act::Change(plan, period) => {
            let _ = world.begin(ChangePlan { tenant, choice: choice(plan, period), request });
        }
        Act::Renew => drop(world.begin(Renew { tenant, request })),
        Act::Cancel => drop(world.tell(Cancel)),
        Act::Resume => drop(world.tell(Resume)),
        Act::Assign(plan, period) => {
            let choice = choice(plan, period);
            let assign = Assign { tenant, choice, contract_amount_cents: None, note: None };
            drop(world.tell(assign));
        }
        Act::Mood(mood) => world.bank.mood = mood,
        Act::Decide(pays) => world.decide(pays),
        Act::Wait { hours } => world.pass_hours(hours),
        Act::Sleep { hours } => world.now = world.now.plus_ms(hours * 60 * 60 * 1_000),
    }
}

/// The year: two changes of plan, renewals, a card that fails and pays again, a plan that expires
/// and is renewed, one that is cancelled and resumed.
fn year() -> World {
    let mut world = World::new();
    let acts = [
        Act::Subscribe("pro", Period::Monthly),
        Act::Wait { hours: 40 * DAY },
        Act::Change("business", Period::Monthly),
        Act::Wait { hours: 30 * DAY },
        Act::Change("pro", Period::Monthly),
        Act::Wait { hours: 45 * DAY },
        Act::Mood(Mood::Declines),
        Act::Wait { hours: 18 * DAY },
        Act::Mood(Mood::Pays),
        Act::Wait { hours: 30 * DAY },
        Act::Mood(Mood::HasNoCard),
        Act::Wait { hours: 40 * DAY },
        Act::Mood(Mood::Pays),
        Act::Renew,
        Act::Cancel,
        Act::Wait { hours: 10 * DAY },
        Act::Resume,
        Act::Wait { hours: 60 * DAY },
        Act::Mood(Mood::Asks),
        Act::Change("business", Period::Yearly),
        Act::Wait { hours: 5 },
        Act::Decide(true),
        Act::Wait { hours: 100 * DAY },
    ];
    for act in acts {
        begin(&mut world, act);
        world.run();
    }
    world
}

#[test]
fn a_year_is_the_same_on_every_run() {
    let world = year();
    recount(&world);
    let begun = Timestamp(1_767_225_600_000);
    assert!(world.now.0 - begun.0 > 365 * DAY * 60 * 60 * 1_000, "a whole year");
    for name in [
        "period_begun",
        "plan_changed",
        "change_scheduled",
        "cancellation_set",
        "fell_due",
        "subscription_ended",
        "charge_undecided",
        "charge_declined",
    ] {
        assert!(world.names(0).contains(&name), "the year has no {name}");
    }
    assert_eq!(world.state().view().plan, "business");
    assert_eq!(world.digest(), year().digest());
}

/// What a share of an amount is, counted once more.
fn share(amount: i64, (from, until): (Timestamp, Timestamp), now: Timestamp) -> i64 {
    let length = i128::from((until.0 - from.0) / 1_000);
    let left = i128::from((until.0 - now.0) / 1_000).clamp(0, length);
    (i128::from(amount) * left / length) as i64
}

/// Counts again, from the events alone, what was paid and what it brought.
fn recount(world: &World) {
    let (mut paid, mut months, mut periods) = (0, BTreeSet::new(), BTreeSet::new());
    let (mut credits, mut grants, mut charges) = (0, BTreeSet::new(), BTreeSet::new());
    let (mut paid_periods, mut card_periods) = (0, 0);
    let mut state = Subscription::default();
    for (at, event) in &world.events {
        match event {
            SubscriptionEvent::ChargeBegun(it) => {
                assert!(charges.insert(it.due.id), "a charge's id was used twice");
                assert!(state.charge.is_none(), "two charges are open");
                assert_eq!(it.due.amount_cents, expected(&state, &it.due.what, *at));
            }
            SubscriptionEvent::ChargePaid(it) => {
                paid += it.amount_cents;
                paid_periods += i32::from(!matches!(it.what, What::Within(_)));
            }
            SubscriptionEvent::PaymentUnplaced(it) => {
                let is_within = world.bank.paid.get(&it.charge);
                paid_periods -= i32::from(!matches!(is_within, Some((What::Within(_), _))));
            }
            SubscriptionEvent::PeriodBegun(it) => {
                assert!(periods.insert((it.run, it.from_month)), "a period began twice");
                assert!(it.from_month < it.until_month);
                card_periods += i32::from(it.mode == Mode::Card);
            }
            SubscriptionEvent::PlanCredits(it) => {
                credits += it.credits;
                assert!(grants.insert(it.grant), "a grant's id was used twice");
                let is_new = !it.is_whole_month || months.insert((it.run, it.month));
                assert!(is_new, "a month brought its credits twice");
                assert!(it.expires_at > *at, "credits that have lapsed already");
            }
            _ => {}
        }
        state.apply(event, *at);
    }
    let collected: i64 = world.bank.paid.values().map(|(_, cents)| cents).sum();
    assert_eq!(paid, collected, "what the bank has collected");
    assert_eq!(paid_periods, card_periods, "each period was paid for once");
    assert_eq!(credits, world.credits_granted(), "what the wallet was granted");
    let (wallet, ledger) = (world.wallet(), world.ledger.iter().map(|line| line.amount).sum());
    assert_eq!(wallet.check_books(ledger), Ok(()));
    let in_effect = world.state().in_effect();
    assert_eq!((wallet.plan(), wallet.needs_card()), (in_effect.plan, in_effect.needs_card));
    assert!(!world.state().is_pending() || world.bank.mood == Mood::IsAway);
}

/// What a charge must come to, by the rules in [`super::terms`].
fn expected(state: &Subscription, what: &What, now: Timestamp) -> i64 {
    let price = |choice: &Choice| {
        let months = if choice.period == Period::Yearly { 12 } else { 1 };
        plan(&choice.plan).unwrap().price * 100 * months
    };
    let Some(term) = &state.term else { return price(what.choice()) };
    let span = (term.month_start(term.from_month), term.period_end());
    match what {
        What::Begin(choice) | What::Renew(choice) => price(choice),
        What::Within(choice) => share(price(choice) - price(&term.choice), span, now),
        What::Anew(choice) => price(choice) - share(price(&term.choice), span, now),
    }
}

fn act() -> impl Strategy<Value = Act> {
    let plan = prop_oneof![Just("pro"), Just("business")];
    let arranged = prop_oneof![Just("free"), Just("starter"), Just("pro"), Just("enterprise")];
    let period = prop_oneof![3 => Just(Period::Monthly), 1 => Just(Period::Yearly)];
    let mood = prop_oneof![
        4 => Just(Mood::Pays),
        2 => Just(Mood::Declines),
        2 => Just(Mood::Asks),
        1 => Just(Mood::HasNoCard),
        1 => Just(Mood::IsAway),
    ];
    prop_oneof![
        4 => (plan.clone(), period.clone()).prop_map(|(plan, it)| Act::Subscribe(plan, it)),
        4 => (plan, period.clone()).prop_map(|(plan, it)| Act::Change(plan, it)),
        2 => Just(Act::Renew),
        2 => Just(Act::Cancel),
        1 => Just(Act::Resume),
        1 => (arranged, period).prop_map(|(plan, it)| Act::Assign(plan, it)),
        4 => mood.prop_map(Act::Mood),
        3 => any::<bool>().prop_map(Act::Decide),
        8 => (1i64..45 * DAY).prop_map(|hours| Act::Wait { hours }),
        1 => (1i64..120 * DAY).prop_map(|hours| Act::Sleep { hours }),
    ]
}

/// Lets everything that is on its way end, with a bank that answers.
fn settle(world: &mut World) {
    world.bank.mood = Mood::Declines;
    world.kill();
    world.run();
    world.wake();
}

proptest! {
    #[test]
    fn whatever_happens_each_period_is_paid_and_credited_once(
        acts in proptest::collection::vec((act(), 0usize..8), 1..40),
    ) {
        let mut world = World::new();
        for (act, steps) in acts {
            begin(&mut world, act);
            // So far it gets, and the process ends; from 7 on it gets to its end.
            if steps < 7 {
                (0..steps).all(|_| world.step());
                world.kill();
            }
            world.run();
        }
        settle(&mut world);
        recount(&world);
    }
}

/// What a world has come to, but for how often it was tried.
fn outcome(world: &World) -> (Vec<(What, i64)>, i64, Option<Term>, String) {
    let paid = world.bank.paid.values().cloned().collect();
    let wallet: &Wallet = world.wallet();
    let shown = format!("{:?}", wallet.view(world.now));
    (paid, world.credits_granted(), world.state().term().cloned(), shown)
}

/// Runs a history and kills it after the `kill_after`-th step of its last act; `None` when it has
/// no such step.
fn killed(before: &[Act], last: Act, kill_after: usize) -> Option<World> {
    let mut world = World::new();
    for act in before {
        begin(&mut world, *act);
        world.run();
    }
    begin(&mut world, last);
    for _ in 0..kill_after {
        if !world.step() {
            return None;
        }
    }
    world.kill();
    world.run();
    Some(world)
}

#[test]
fn a_kill_between_any_two_steps_charges_once_and_grants_once() {
    let pro = Act::Subscribe("pro", Period::Monthly);
    let late = [pro, Act::Mood(Mood::Declines), Act::Wait { hours: 39 * DAY }];
    let expired = [late[0], late[1], late[2], Act::Mood(Mood::Pays)];
    let histories: [(&[Act], Act); 5] = [
        (&[], pro),
        (&[pro], Act::Change("business", Period::Monthly)),
        (&[pro], Act::Change("business", Period::Yearly)),
        (&expired, Act::Renew),
        (&[pro, Act::Sleep { hours: 31 * DAY }], Act::Mood(Mood::Pays)),
    ];
    for (before, last) in histories {
        let mut whole = killed(before, last, 0).unwrap_or_else(|| panic!("it has a beginning"));
        whole.wake();
        recount(&whole);
        let mut kills = 0;
        for kill_after in 1.. {
            let Some(mut world) = killed(before, last, kill_after) else { break };
            world.wake();
            recount(&world);
            assert_eq!(outcome(&world), outcome(&whole), "{last:?} killed after {kill_after}");
            kills += 1;
        }
        assert!(kills >= 3 || matches!(last, Act::Mood(_)), "{last:?} has {kills} steps");
    }
}

#[test]
fn a_renewal_that_is_killed_anywhere_is_collected_once() {
    for kill_after in 0..8 {
        let mut world = World::new();
        begin(&mut world, Act::Subscribe("pro", Period::Monthly));
        world.run();
        world.now = world.now.plus_ms(31 * DAY * 60 * 60 * 1_000);
        world.remind();
        (0..kill_after).all(|_| world.step());
        world.kill();
        world.run();
        world.wake();
        recount(&world);
        assert_eq!((world.cents_paid(), world.shown()), (9_000, ("pro", 50_000)));
    }
}
