//! What limits promise: single stories, and any sequence over simulated months, under which the
//! counters must be what the ledger says and nothing goes beyond a limit.

use std::collections::BTreeMap;

use persistence::codec;
use proptest::prelude::*;
use supervision::testkit::{Given, Then};
use types::{Amount, Credits, KeyIdentifier, Page, SharePercent, UserId};

use super::*;

const TENANT: TenantId = TenantId(7);
const ADA: Subject = Subject::User(UserId(1));
const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn app(name: &str) -> AppId {
    AppId::new(name).unwrap()
}

/// Spenders that share subjects with each other.
fn spender(which: usize) -> Spender {
    let (ada, bob) = (Some(UserId(1)), Some(UserId(2)));
    let nobody = Spender::default;
    match which % 5 {
        0 => Spender { user: ada, ..nobody() },
        1 => Spender { user: ada, app: Some(app("notes")), ..nobody() },
        2 => Spender { user: bob, key: Some(KeyIdentifier(5)), ..nobody() },
        3 => Spender { user: bob, app: Some(app("notes")), ..nobody() },
        _ => nobody(),
    }
}

fn subject(which: usize) -> Subject {
    match which % 4 {
        0 => Subject::Tenant,
        1 => ADA,
        2 => Subject::App(app("notes")),
        _ => Subject::Key(KeyIdentifier(5)),
    }
}

fn window(which: usize) -> Window {
    [Window::Hour, Window::Day, Window::Month, Window::Total][which % 4]
}

fn credits(amount: i64) -> Amount {
    Amount::new(amount).unwrap()
}

fn grant(id: u128, amount: i64) -> Grant {
    Grant::new(GrantId(id), TENANT, credits(amount), Kind::Paid, Reason::Topup)
}

fn debit(id: u128, amount: i64, spender: Spender) -> Debit {
    let (id, amount) = (TransactionId(id), credits(amount));
    Debit { id, amount, reason: Reason::Action, description: None, spender }
}

fn hold(id: u128, amount: i64, ttl_ms: i64, spender: Spender) -> PlaceHold {
    PlaceHold {
        id: HoldId(id),
        amount: credits(amount),
        ttl_ms,
        reason: "a call".to_owned(),
        call: None,
        spender,
        actions: Actions::default(),
    }
}

fn settle(hold: u128, prices: &[i64], end: bool) -> Settle {
    let item = |(id, price): (usize, &i64)| SettleItem {
        id: id as u128,
        app: app("notes"),
        price: Credits(*price),
        fee: Credits(0),
        share: SharePercent::new(50).unwrap(),
    };
    Settle { hold: HoldId(hold), items: prices.iter().enumerate().map(item).collect(), end }
}

fn set(subject: Subject, window: Window, amount: i64) -> SetLimit {
    SetLimit { subject, window, amount }
}

fn with(paid: i64) -> Given<Wallet> {
    Given::nothing().when(grant(1, paid)).then()
}

fn facts<R>(then: &Then<Wallet, R>) -> serde_json::Value {
    let refusal = then.outcome.as_ref().err().unwrap();
    serde_json::from_str(refusal.facts.as_deref().unwrap()).unwrap()
}

fn view(given: &Given<Wallet>, subject: &Subject, window: Window) -> LimitView {
    let all = given.state().limits(Page { limit: LIMITS_MAX, offset: 0 }, given.now());
    let is_it = |it: &&LimitView| it.subject == subject.to_string() && it.window == window;
    all.iter().find(is_it).unwrap().clone()
}

fn warnings<R>(then: &Then<Wallet, R>) -> Vec<(u8, i64)> {
    let warned = then.events.iter().filter_map(|event| match event {
        WalletEvent::LimitWarned(warned) => Some((warned.percent, warned.used)),
        _ => None,
    });
    warned.collect()
}

#[test]
fn what_goes_beyond_a_limit_is_refused_with_402_and_changes_nothing() {
    let given = with(1_000).when(set(ADA, Window::Day, 100)).then();
    let given = given.when(set(Subject::Tenant, Window::Total, 500)).then();
    let given = given.when(debit(10, 60, spender(0))).then();
    let then = given.when(debit(11, 41, spender(1)));
    assert_eq!(then.outcome.as_ref().err().unwrap().class, Class::Payment);
    let refused = facts(&then);
    assert_eq!((&refused["price"], &refused["balance"]), (&41.into(), &940.into()));
    assert_eq!(refused["limit"], format!("{ADA}/day"));
    assert_eq!(refused["spending_limit"]["remaining"], 40);
    assert_eq!(refused["spending_limit"]["resets_at"], "2026-01-02T00:00:00.000Z");
    let (code, given) = then.then().when(hold(12, 41, 10_000, spender(0))).refused();
    assert_eq!(code, "limit_reached");
    // It is hers alone, and what the wallet does not cover is told as before.
    let given = given.when(debit(13, 400, spender(3))).then();
    let then = given.when(debit(14, 41, spender(4)));
    assert_eq!(facts(&then)["limit"], "tenant/total");
    let given = then.then().when(debit(15, 40, spender(0))).then();
    assert_eq!(view(&given, &ADA, Window::Day).remaining, 0);
    let broke = with(5).when(set(ADA, Window::Day, 100)).then();
    assert_eq!(broke.when(debit(10, 6, spender(0))).refused().0, "insufficient_credits");
}

#[test]
fn a_repetition_is_answered_whatever_the_limits_are_by_now() {
    let given = with(100).when(debit(10, 60, spender(0))).then();
    let given = given.when(hold(11, 20, 10_000, spender(0))).then();
    let given = given.when(set(ADA, Window::Total, 0)).then();
    let again = given.when(debit(10, 60, spender(0)));
    assert!(again.outcome.is_ok() && again.events.is_empty());
    let again = again.then().when(hold(11, 20, 10_000, spender(0)));
    assert!(again.outcome.is_ok() && again.events.is_empty());
    assert_eq!(again.then().when(debit(12, 1, spender(0))).refused().0, "limit_reached");
}

#[test]
fn what_is_held_counts_and_what_is_not_drawn_comes_back() {
    let given = with(1_000).when(hold(20, 30, HOUR_MS, spender(1))).then();
    let given = given.when(set(ADA, Window::Month, 100)).then();
    assert_eq!(view(&given, &ADA, Window::Month).held, 30, "what is held already counts");
    let given = given.when(hold(21, 70, HOUR_MS, spender(0))).then();
    let (code, given) = given.when(debit(22, 1, spender(0))).refused();
    assert_eq!(code, "limit_reached");
    let given = given.when(settle(20, &[10], false)).then();
    let seen = view(&given, &ADA, Window::Month);
    assert_eq!((seen.spent, seen.held, seen.remaining), (10, 90, 0));
    let given = given.when(settle(20, &[10], true)).then();
    let given = given.when(Capture { hold: HoldId(21), amount: Some(credits(25)) }).then();
    let seen = view(&given, &ADA, Window::Month);
    assert_eq!((seen.spent, seen.held, seen.remaining), (35, 0, 65));
    let given = given.when(hold(23, 65, 2_000, spender(0))).then().later_ms(2_000);
    let given = given.when_due().then();
    assert_eq!(view(&given, &ADA, Window::Month).remaining, 65, "it expired");
}

#[test]
fn a_window_begins_anew_and_takes_along_what_is_held() {
    let given = with(1_000).when(set(ADA, Window::Day, 100)).then();
    let given = given.when(debit(10, 50, spender(0))).then();
    let given = given.when(hold(11, 40, 2 * DAY_MS, spender(0))).then().later_ms(DAY_MS);
    let seen = view(&given, &ADA, Window::Day);
    assert_eq!((seen.spent, seen.held, seen.remaining), (0, 40, 60));
    assert_eq!(seen.resets_at.as_deref(), Some("2026-01-03T00:00:00.000Z"));
    let (code, given) = given.when(debit(12, 61, spender(0))).refused();
    assert_eq!(code, "limit_reached");
    let given = given.when(debit(13, 60, spender(0))).then();
    let given = given.when(Capture { hold: HoldId(11), amount: None }).then();
    let seen = view(&given, &ADA, Window::Day);
    assert_eq!((seen.spent, seen.held), (100, 0));
}

#[test]
fn what_comes_late_counts_and_is_not_refused() {
    let given = with(100).when(set(ADA, Window::Total, 60)).then();
    let given = given.when(hold(20, 50, 2_000, spender(1))).then().later_ms(2_000);
    let given = given.when_due().then().when(debit(21, 60, spender(0))).then();
    let then = given.when(settle(20, &[50], true));
    assert!(then.outcome.is_ok());
    let seen = view(&then.given, &ADA, Window::Total);
    assert_eq!((seen.spent, seen.held, seen.remaining), (110, 0, 0));
}

#[test]
fn of_a_limit_that_comes_close_is_warned_once_a_window_and_step() {
    let given = with(1_000).when(set(ADA, Window::Day, 100)).then();
    let then = given.when(debit(10, 79, spender(0)));
    assert_eq!(warnings(&then), []);
    let then = then.then().when(hold(11, 1, 10_000, spender(0)));
    assert_eq!(warnings(&then), [(80, 80)]);
    let then = then.then().when(Release { hold: HoldId(11), call: None });
    let then = then.then().when(debit(12, 1, spender(0)));
    assert_eq!(warnings(&then), [], "it was warned of");
    let then = then.then().when(debit(13, 20, spender(0)));
    assert_eq!(warnings(&then), [(100, 100)]);
    // More is allowed: what is not reached under that is warned of again.
    let given = then.then().when(set(ADA, Window::Day, 200)).then();
    let then = given.when(debit(14, 60, spender(0)));
    assert_eq!(warnings(&then), [(80, 160)]);
    let given = then.then().later_ms(DAY_MS);
    let then = given.when(debit(15, 200, spender(0)));
    assert_eq!(warnings(&then), [(100, 200)], "another day, both steps at once");
}

#[test]
fn a_limit_is_set_once_changed_in_place_and_removed() {
    let (first, given) = with(100).when(set(ADA, Window::Hour, 50)).reply();
    let again = given.when(set(ADA, Window::Hour, 50));
    assert!(again.events.is_empty());
    let given = again.then().when(debit(10, 20, spender(0))).then();
    let (changed, given) = given.when(set(ADA, Window::Hour, 30)).reply();
    assert_eq!((first.remaining, changed.remaining, changed.spent), (50, 10, 20));
    let gone = RemoveLimit { subject: ADA, window: Window::Hour };
    let (last, given) = given.when(gone.clone()).reply();
    assert_eq!(last, changed);
    let (code, given) = given.when(gone).refused();
    assert_eq!(code, "not_found");
    let given = given.when(debit(11, 40, spender(0))).then();
    for amount in [-1, BALANCE_MAX + 1] {
        let then = with(1).when(set(ADA, Window::Hour, amount));
        assert_eq!(then.refused().0, "validation_error");
    }
    let seen = given.state().observe().to_string();
    assert!(seen.contains("\"limits\":[]"), "{seen}");
}

#[test]
fn there_are_only_so_many_limits() {
    let full = (0..LIMITS_MAX as u128).map(|number| {
        let (subject, window) = (Subject::User(UserId(number)), Window::Day);
        WalletEvent::LimitSet(LimitSet { subject, window, amount: 1 })
    });
    let given = Given::<Wallet>::events(full);
    let (code, given) = given.when(set(Subject::Tenant, Window::Day, 1)).refused();
    assert_eq!(code, "too_many_limits");
    assert!(given.when(set(ADA, Window::Day, 2)).outcome.is_ok());
}

fn acting(id: u128, count: u32, month_max: Option<u64>) -> PlaceHold {
    let call = Some(CallId(id));
    let actions = Actions { count, month_max };
    PlaceHold { actions, call, ..hold(id, 10, HOUR_MS, spender(1)) }
}

#[test]
fn a_role_lets_so_many_actions_be_done_a_month_and_no_more() {
    let given = with(1_000).when(acting(20, 3, Some(5))).then();
    let then = given.when(acting(21, 3, Some(5)));
    let refusal = then.outcome.as_ref().err().unwrap();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::TooMany, "monthly_action_limit"));
    assert_eq!(refusal.retry_after_ms, Some(31 * DAY_MS as u64));
    assert_eq!((&facts(&then)["used"], &facts(&then)["limit"]), (&3.into(), &5.into()));
    // One of the three failed, and so there is room for three.
    let given = then.then().when(settle(20, &[5, 5], true)).then();
    let given = given.when(acting(21, 3, Some(5))).then();
    let own = |given: &Given<Wallet>| given.state().month(Some(UserId(1)), given.now()).own_actions;
    assert_eq!(own(&given), 5);
    let free = CountActions { user: UserId(1), actions: Actions { count: 1, month_max: Some(5) } };
    assert_eq!(given.when(free).refused().0, "monthly_action_limit");
    // What was begun in January does not come back in February.
    let given = with(1_000).when(acting(20, 3, Some(5))).then().later_ms(31 * DAY_MS);
    let given = given.when(free).then();
    let given = given.when(Release { hold: HoldId(20), call: Some(CallId(20)) }).then();
    assert_eq!(own(&given), 1);
    let month = given.state().month(Some(UserId(2)), given.now());
    assert_eq!((month.actions, month.own_actions), (1, 0));
}

#[test]
fn what_was_done_late_was_done() {
    let given = with(1_000).when(acting(20, 3, None)).then().later_ms(HOUR_MS).when_due().then();
    let actions = |given: &Given<Wallet>| given.state().month(None, given.now()).actions;
    assert_eq!(actions(&given), 0);
    let given = given.when(settle(20, &[4, 4], true)).then();
    assert_eq!((actions(&given), given.state().month(None, given.now()).spent), (2, 8));
}

#[test]
fn services_meter_what_they_know_of() {
    let track = |meter: &str, quantity| TrackUsage {
        meter: meter.to_owned(),
        quantity,
        user: UserId(1),
        app: None,
    };
    let given = with(1).when(track("pages", 3)).then().when(track("pages", 4)).then();
    for unfit in [track("", 1), track("Pages", 1), track("a-b", 1), track("pages", 0)] {
        assert_eq!(with(1).when(unfit).refused().0, "validation_error");
    }
    assert_eq!(given.state().month(None, given.now()).meters["pages"], 7);
    let given = given.later_ms(31 * DAY_MS);
    assert!(given.state().month(None, given.now()).meters.is_empty());
    let mut given = given;
    for number in 0..METERS_MAX {
        given = given.when(track(&format!("m{number}"), 1)).then();
    }
    assert_eq!(given.when(track("pages", 1)).refused().0, "too_many_meters");
}

#[derive(Clone, Debug)]
enum Step {
    Set { subject: usize, window: usize, amount: i64 },
    Remove { subject: usize, window: usize },
    Debit { who: usize, amount: i64 },
    Hold { who: usize, amount: i64, ttl_ms: i64 },
    Capture { hold: usize, amount: Option<i64> },
    Release { hold: usize },
    Settle { hold: usize, prices: Vec<i64>, end: bool },
    Wait { ms: i64 },
    Due,
}

fn step() -> impl Strategy<Value = Step> {
    let prices = proptest::collection::vec(0i64..40, 0..4);
    let ttl = prop_oneof![1_000i64..60_000, HOUR_MS..7 * DAY_MS];
    let wait = prop_oneof![1i64..30_000, HOUR_MS..DAY_MS, DAY_MS..40 * DAY_MS];
    prop_oneof![
        3 => (0usize..4, 0usize..4, 0i64..400)
            .prop_map(|(subject, window, amount)| Step::Set { subject, window, amount }),
        1 => (0usize..4, 0usize..4).prop_map(|(subject, window)| Step::Remove { subject, window }),
        5 => (0usize..5, 1i64..80).prop_map(|(who, amount)| Step::Debit { who, amount }),
        5 => (0usize..5, 1i64..80, ttl)
            .prop_map(|(who, amount, ttl_ms)| Step::Hold { who, amount, ttl_ms }),
        2 => (0usize..4, proptest::option::of(1i64..80))
            .prop_map(|(hold, amount)| Step::Capture { hold, amount }),
        1 => (0usize..4).prop_map(|hold| Step::Release { hold }),
        4 => (0usize..4, prices, any::<bool>())
            .prop_map(|(hold, prices, end)| Step::Settle { hold, prices, end }),
        3 => wait.prop_map(|ms| Step::Wait { ms }),
        3 => Just(Step::Due),
    ]
}

/// What an accountant knows who reads the ledger, and knows who asked for what.
#[derive(Default)]
struct Books {
    ledger: Vec<LedgerLine>,
    spenders: BTreeMap<u128, Spender>,
    holds: Vec<HoldId>,
    held: BTreeMap<HoldId, i64>,
    /// The amount of each limit, and how long the ledger was when it was set first.
    limits: BTreeMap<(Subject, Window), (i64, usize)>,
}

impl Books {
    fn read<R>(&mut self, then: Then<Wallet, R>) -> (Option<Refusal>, Given<Wallet>) {
        for event in &then.events {
            let held = sum_of(event.postings(), |it| matches!(it, Account::Held(_)));
            let hold = match event {
                WalletEvent::HoldPlaced(it) => it.id,
                WalletEvent::HoldDrawn(it) => it.hold,
                WalletEvent::HoldEnded(it) => it.hold,
                _ => continue,
            };
            if matches!(event, WalletEvent::HoldPlaced(_)) {
                self.holds.push(hold);
            }
            *self.held.entry(hold).or_default() += held;
        }
        for row in then.rows.iter().filter(|row| row.family == LEDGER_FAMILY) {
            self.ledger.push(codec::decode(row.value.as_ref().unwrap()).unwrap());
        }
        (then.outcome.err(), then.given)
    }

    fn counts(&self, id: u128, subject: &Subject) -> bool {
        self.spenders.get(&id).is_some_and(|it| it.subjects().any(|one| one == *subject))
    }

    /// What is spent and held of a limit at `now`, from the ledger's lines and the open holds.
    fn used(&self, (subject, window): &(Subject, Window), now: Timestamp) -> (i64, i64) {
        let (_, from) = self.limits[&(subject.clone(), *window)];
        let lines = self.ledger[from..].iter();
        let lines = lines.filter(|line| window.ends(line.at) == window.ends(now));
        let lines = lines.filter(|line| self.counts(line.transaction, subject));
        let spent = -lines.map(|line| line.amount).sum::<i64>();
        let held = self.held.iter().filter(|(hold, _)| self.counts(hold.0, subject));
        (spent, held.map(|(_, amount)| amount).sum())
    }

    /// The limits that spending would go beyond.
    fn hits(&self, spender: &Spender, price: i64, now: Timestamp) -> Vec<String> {
        let matching = self
            .limits
            .iter()
            .filter(|(limit, _)| spender.subjects().any(|subject| subject == limit.0));
        let beyond = matching.filter(|(limit, (amount, _))| {
            let (spent, held) = self.used(limit, now);
            spent + held + price > *amount
        });
        beyond.map(|((subject, window), _)| format!("{subject}/{window}")).collect()
    }

    fn audit(&self, given: &Given<Wallet>) {
        let (wallet, now) = (given.state(), given.now());
        assert_eq!(wallet.limits.len(), self.limits.len());
        for (limit, (amount, _)) in &self.limits {
            let seen = wallet.limits.get(&limit.0, limit.1, now).unwrap();
            let expected = self.used(limit, now);
            assert_eq!((seen.amount, (seen.spent, seen.held)), (*amount, expected), "{limit:?}");
        }
        let month = |line: &&LedgerLine| Window::Month.ends(line.at) == Window::Month.ends(now);
        let spent = self.ledger.iter().filter(month).filter(|line| line.reason == Reason::Action);
        assert_eq!(wallet.month(None, now).spent, -spent.map(|line| line.amount).sum::<i64>());
        let sum = self.ledger.iter().map(|line| line.amount).sum();
        assert_eq!(wallet.check_books(sum), Ok(()));
    }
}

/// Spends: it is admitted exactly if no limit is in the way, and says which one is.
fn spend<C>(given: Given<Wallet>, books: &mut Books, command: C, price: i64) -> Given<Wallet>
where
    C: supervision::Command + Clone,
    Wallet: supervision::Handle<C>,
    C: Spends,
{
    let now = given.now();
    books.spenders.insert(command.id(), command.spender().clone());
    let hits = books.hits(command.spender(), price, now);
    let then = given.when(command.clone());
    let named = then.outcome.as_ref().err().filter(|it| it.code == "limit_reached").map(|it| {
        let facts: serde_json::Value = serde_json::from_str(it.facts.as_deref().unwrap()).unwrap();
        facts["limit"].as_str().unwrap().to_owned()
    });
    match &named {
        Some(named) => assert!(hits.contains(named), "{named} is not among {hits:?}"),
        None => assert!(hits.is_empty(), "{hits:?} were not in the way"),
    }
    let (refused, given) = books.read(then);
    assert!(refused.is_none_or(|it| it.class == Class::Payment));
    given
}

trait Spends {
    fn id(&self) -> u128;
    fn spender(&self) -> &Spender;
}

impl Spends for Debit {
    fn id(&self) -> u128 {
        self.id.0
    }

    fn spender(&self) -> &Spender {
        &self.spender
    }
}

impl Spends for PlaceHold {
    fn id(&self) -> u128 {
        self.id.0
    }

    fn spender(&self) -> &Spender {
        &self.spender
    }
}

fn take_step(given: Given<Wallet>, books: &mut Books, id: u128, step: Step) -> Given<Wallet> {
    let nth = |books: &Books, nth: usize| books.holds.iter().rev().nth(nth).copied();
    let known = |books: &Books, which: usize| nth(books, which).unwrap_or(HoldId(0));
    match step {
        Step::Set { subject: on, window: of, amount } => {
            let (on, of) = (subject(on), window(of));
            let from = books.ledger.len();
            books.limits.entry((on.clone(), of)).or_insert((amount, from)).0 = amount;
            books.read(given.when(set(on, of, amount))).1
        }
        Step::Remove { subject: on, window: of } => {
            let (on, of) = (subject(on), window(of));
            let was = books.limits.remove(&(on.clone(), of)).is_some();
            let (refused, given) = books.read(given.when(RemoveLimit { subject: on, window: of }));
            assert_eq!(refused.is_none(), was);
            given
        }
        Step::Debit { who, amount } => spend(given, books, debit(id, amount, spender(who)), amount),
        Step::Hold { who, amount, ttl_ms } => {
            spend(given, books, hold(id, amount, ttl_ms, spender(who)), amount)
        }
        Step::Capture { hold, amount } => {
            let (hold, amount) = (known(books, hold), amount.map(credits));
            books.read(given.when(Capture { hold, amount })).1
        }
        Step::Release { hold } => {
            let hold = known(books, hold);
            books.read(given.when(Release { hold, call: None })).1
        }
        Step::Settle { hold, prices, end } => {
            let hold = known(books, hold);
            books.read(given.when(settle(hold.0, &prices, end))).1
        }
        Step::Wait { ms } => given.later_ms(ms),
        Step::Due => books.read(given.when_due()).1,
    }
}

#[test]
fn a_limit_that_is_ensured_leaves_the_one_that_there_is() {
    let subject = Subject::Webhook(app("notes"));
    let set = |amount| SetLimit { subject: subject.clone(), window: Window::Day, amount };
    let (view, given) = Given::<Wallet>::nothing().when(EnsureLimit(set(10))).reply();
    assert_eq!((view.subject.as_str(), view.amount), ("webhook:notes", 10));
    let then = given.when(EnsureLimit(set(99)));
    assert!(then.events.is_empty());
    let given = then.then().when(set(20)).then();
    let (view, _) = given.when(EnsureLimit(set(10))).reply();
    assert_eq!(view.amount, 20, "whoever it is for has set another");
}

#[test]
fn what_nobody_spends_on_an_app_has_a_limit_of_its_own() {
    let subject = Subject::Webhook(app("notes"));
    let set = SetLimit { subject, window: Window::Day, amount: 10 };
    let given = Given::<Wallet>::nothing().when(grant(1, 1_000)).then().when(set).then();
    let from_outside = || Spender { app: Some(app("notes")), ..Spender::default() };
    let given = given.when(debit(1, 10, from_outside())).then();
    let (code, given) = given.when(debit(2, 1, from_outside())).refused();
    assert_eq!(code, "limit_reached");
    let given = given.when(debit(3, 50, spender(1))).then();
    let elsewhere = Spender { app: Some(app("other")), ..Spender::default() };
    let given = given.when(debit(4, 50, elsewhere)).then();
    let given = given.later_ms(DAY_MS);
    assert!(given.when(debit(5, 10, from_outside())).outcome.is_ok(), "another day");
}

proptest! {
    #[test]
    fn counters_are_what_the_ledger_says_and_nothing_goes_beyond_a_limit(
        funds in 50i64..3_000,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut books = Books::default();
        let (_, mut given) = books.read(Given::<Wallet>::nothing().when(grant(1, funds)));
        for (place, step) in steps.into_iter().enumerate() {
            given = take_step(given, &mut books, place as u128 + 2, step);
            books.audit(&given);
        }
    }
}
