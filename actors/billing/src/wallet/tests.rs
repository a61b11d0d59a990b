//! What the wallet promises: single stories, and a storm under which the books must balance.

use std::collections::BTreeMap;

use persistence::codec;
use proptest::prelude::*;
use supervision::Event;
use supervision::testkit::{Given, Then};
use types::{Amount, Credits, Page, SharePercent};

use super::*;

const TENANT: TenantId = TenantId(7);
const HOLD: HoldId = HoldId(900);

fn credits(amount: i64) -> Amount {
    Amount::new(amount).unwrap()
}

fn grant(id: u128, amount: i64, kind: Kind) -> Grant {
    Grant::new(GrantId(id), TENANT, credits(amount), kind, Reason::Topup)
}

fn debit(id: u128, amount: i64) -> Debit {
    let (id, amount) = (TransactionId(id), credits(amount));
    let spender = Spender::default();
    Debit { id, amount, reason: Reason::Action, description: None, spender }
}

fn hold(id: HoldId, amount: i64, ttl_ms: i64) -> PlaceHold {
    PlaceHold {
        id,
        amount: credits(amount),
        ttl_ms,
        reason: "a call".to_owned(),
        call: None,
        spender: Spender::default(),
        actions: Actions::default(),
    }
}

fn reverse(id: u128, amount: i64) -> Reverse {
    let (id, credits) = (TransactionId(id), credits(amount));
    Reverse { id, credits, reason: Reason::Refund, description: None }
}

fn item(id: u128, price: i64, fee: i64, percent: u8) -> SettleItem {
    let (price, fee, share) = (Credits(price), Credits(fee), SharePercent::new(percent).unwrap());
    SettleItem { id, app: AppId::new("notes").unwrap(), price, fee, share }
}

fn with(paid: i64) -> Given<Wallet> {
    Given::nothing().when(grant(1, paid, Kind::Paid)).then()
}

fn balance(given: &Given<Wallet>) -> Balance {
    given.state().balance(given.now())
}

fn facts<R>(then: &Then<Wallet, R>) -> serde_json::Value {
    let refusal = then.outcome.as_ref().err().unwrap();
    serde_json::from_str(refusal.facts.as_deref().unwrap()).unwrap()
}

#[test]
fn promotional_credits_are_spent_first_and_sooner_lapsing_ones_before_others() {
    let given = with(100);
    let soon = given.now().plus_ms(60_000);
    let given = given.when(grant(2, 100, Kind::Promotional)).then();
    let lapsing = Grant { expires_at: Some(soon), ..grant(3, 100, Kind::Promotional) };
    let given = given.when(lapsing).then();
    let (receipt, given) = given.when(debit(10, 150)).reply();
    assert_eq!(receipt, Receipt::of(TransactionId(10), -150, 150));
    assert_eq!(balance(&given).promotional, 50);
    // All that would lapse is spent already.
    let given = given.later_ms(60_000).when_due().then();
    assert_eq!(balance(&given).balance, 150);
}

#[test]
fn a_debit_is_done_once_and_answered_alike() {
    let then = with(100).when(debit(10, 30));
    assert_eq!(then.rows.len(), 1);
    let first = then.outcome.clone().unwrap();
    let given = then.then().when(debit(11, 30)).then();
    let again = given.when(debit(10, 30));
    assert!(again.events.is_empty());
    let (second, given) = again.reply();
    assert_eq!(first, second);
    let (code, given) = given.when(debit(10, 31)).refused();
    assert_eq!(code, "id_reused");
    assert_eq!(balance(&given).balance, 40);
}

#[test]
fn a_debit_that_is_not_covered_changes_nothing_and_names_the_limit() {
    let given = with(100).when(hold(HOLD, 60, 10_000)).then();
    let then = given.when(debit(10, 41));
    let expected = serde_json::json!(
        {"balance": 100, "available": 40, "price": 41, "limit": "open_holds"});
    assert_eq!(facts(&then), expected);
    assert_eq!(then.outcome.as_ref().err().unwrap().class, Class::Payment);
    let then = then.then().when(debit(10, 101));
    assert_eq!(facts(&then)["limit"], "balance");
    assert_eq!(balance(&then.then()).available, 40);
}

#[test]
fn welcome_credits_show_in_full_and_are_locked_until_the_address_is_verified() {
    let welcome = Grant::welcome(GrantId(1), TENANT);
    let given = Given::<Wallet>::nothing().when(welcome).then();
    assert_eq!(balance(&given).balance, WELCOME_CREDITS);
    assert_eq!(balance(&given).available, WELCOME_SPENDABLE);
    let then = given.when(debit(10, 501));
    assert_eq!(facts(&then)["limit"], "email_unverified");
    let given = then.then().when(debit(10, 500)).then().when(UnlockWelcome).then();
    let given = given.when(debit(11, 4_500)).then();
    assert_eq!(balance(&given).balance, 0);
    assert!(given.when(UnlockWelcome).events.is_empty());
}

#[test]
fn an_address_that_is_verified_first_gets_its_welcome_credits_unlocked() {
    let given = Given::<Wallet>::nothing().when(UnlockWelcome).then();
    let given = given.when(Grant::welcome(GrantId(1), TENANT)).then();
    assert_eq!(balance(&given).available, WELCOME_CREDITS);
}

#[test]
fn a_hold_is_captured_in_part_and_ends_once() {
    let given = with(100).when(hold(HOLD, 60, 10_000)).then();
    assert_eq!(given.state().holds(Page { limit: 10, offset: 0 }).len(), 1);
    let capture = |amount| Capture { hold: HOLD, amount };
    let (code, given) = given.when(capture(Some(credits(61)))).refused();
    assert_eq!(code, "hold_exceeded");
    let (ended, given) = given.when(capture(Some(credits(20)))).reply();
    assert_eq!(ended, Ended { id: HOLD, status: End::Captured, amount: 60, captured: 20 });
    assert_eq!(balance(&given), Balance { balance: 80, available: 80, ..Balance::default() });
    let (again, given) = given.when(capture(Some(credits(20)))).reply();
    assert_eq!(again, ended);
    let (code, given) = given.when(capture(None)).refused();
    assert_eq!(code, "hold_ended");
    let then = given.when(Release { hold: HOLD, call: None });
    assert_eq!(facts(&then)["status"], "captured");
}

#[test]
fn a_hold_expires_by_itself_and_cannot_be_captured_from_that_moment_on() {
    let given = with(100).when(hold(HOLD, 60, 10_000)).then().later_ms(10_000);
    assert_eq!(given.state().next_deadline(), Some(given.now()));
    let capture = Capture { hold: HOLD, amount: None };
    let (code, given) = given.when(capture).refused();
    assert_eq!(code, "hold_expired");
    let given = given.when_due().then();
    assert_eq!(balance(&given).available, 100);
    assert_eq!(given.state().next_deadline(), None);
    let then = given.when(capture);
    assert_eq!(then.outcome.as_ref().err().unwrap().class, Class::Gone);
    let (code, _) = then.then().when(hold(HOLD, 60, 10_000)).refused();
    assert_eq!(code, "hold_expired");
}

#[test]
fn what_was_done_is_paid_for_even_after_its_hold_has_expired() {
    let given = with(100).when(hold(HOLD, 60, 10_000)).then().later_ms(10_000).when_due().then();
    // 20 are left when the settlement comes: the server was down in between.
    let given = given.when(debit(3, 80)).then();
    let settle = |items: &[SettleItem], end| Settle { hold: HOLD, items: items.to_vec(), end };
    let (code, given) = given.when(settle(&[item(1, 30, 0, 50)], false)).refused();
    assert_eq!(code, "hold_expired", "only what ends it may come late");
    let (code, given) = given.when(settle(&[item(1, 61, 0, 50)], true)).refused();
    assert_eq!(code, "hold_exceeded");
    let late = settle(&[item(1, 30, 0, 50), item(2, 20, 0, 50)], true);
    let (settled, given) = given.when(late.clone()).reply();
    assert_eq!(settled, Settlement { hold: HOLD, captured: 50, remaining: 0, ended: true });
    let owing = Balance { balance: -30, owed: 30, ..Balance::default() };
    assert_eq!(balance(&given), owing);
    let then = given.when(late);
    assert_eq!((then.outcome.clone(), then.events.len()), (Ok(settled), 0));
    let given = then.then().when(grant(4, 50, Kind::Paid)).then();
    assert_eq!(balance(&given).available, 20);
}

#[test]
fn what_is_held_for_a_call_is_ended_by_the_call_alone() {
    let call = Some(CallId(5));
    let given = with(100).when(PlaceHold { call, ..hold(HOLD, 60, 10_000) }).then();
    let (code, given) = given.when(Release { hold: HOLD, call: None }).refused();
    assert_eq!(code, "held_for_a_call");
    let (code, given) = given.when(Capture { hold: HOLD, amount: Some(credits(1)) }).refused();
    assert_eq!(code, "held_for_a_call");
    let (ended, _) = given.when(Release { hold: HOLD, call }).reply();
    assert_eq!(ended.status, End::Released);
}

#[test]
fn a_hold_past_its_time_settles_as_long_as_nothing_has_taken_it_back() {
    let given = with(100).when(hold(HOLD, 60, 10_000)).then().later_ms(20_000);
    let settle = Settle { hold: HOLD, items: vec![item(1, 30, 0, 50)], end: true };
    let (settled, given) = given.when(settle).reply();
    assert_eq!((settled.captured, balance(&given).available), (30, 70));
}

#[test]
fn a_settlement_draws_each_item_once_and_pays_developers_from_paid_credits_alone() {
    let given = with(1_000).when(grant(2, 150, Kind::Promotional)).then();
    let given = given.when(hold(HOLD, 1_000, 10_000)).then();
    let settle = |items: &[SettleItem], end| Settle { hold: HOLD, items: items.to_vec(), end };
    // 110 of the first are promotional; of the second 40, which pay its fee and 30 of its price.
    let items = [item(1, 99, 11, 80), item(2, 99, 10, 80)];
    let then = given.when(settle(&items, false));
    let app = AppId::new("notes").unwrap();
    let earned = sum_of(then.events[0].postings(), |it| *it == Account::Payable(app.clone()));
    assert_eq!(earned, 69 * 80 / 100);
    assert_eq!(then.rows.len(), 1);
    let (settlement, given) = then.reply();
    let expected = Settlement { hold: HOLD, captured: 219, remaining: 781, ended: false };
    assert_eq!(settlement, expected);
    let again = given.when(settle(&items, false));
    assert!(again.events.is_empty());
    let (settlement, given) = again.reply();
    assert_eq!(settlement, expected);
    let (code, given) = given.when(settle(&[item(3, 782, 0, 80)], true)).refused();
    assert_eq!(code, "hold_exceeded");
    let last = [item(2, 99, 10, 80), item(3, 0, 1, 80)];
    let (settlement, given) = given.when(settle(&last, true)).reply();
    assert_eq!(settlement, Settlement { hold: HOLD, captured: 220, remaining: 0, ended: true });
    assert_eq!(balance(&given).available, 930);
    let again = given.when(settle(&last, true));
    assert!(again.events.is_empty());
    assert_eq!(again.reply().0, settlement);
}

#[test]
fn what_was_held_when_its_grant_lapsed_may_be_drawn_but_not_spent_again() {
    let given = Given::<Wallet>::nothing();
    let soon = given.now().plus_ms(5_000);
    let given = given.when(Grant { expires_at: Some(soon), ..grant(1, 100, Kind::Paid) }).then();
    let given = given.when(hold(HOLD, 60, 10_000)).then().later_ms(5_000);
    // It is over, though nothing has said so yet.
    assert_eq!(balance(&given).available, 0);
    let (code, given) = given.when(debit(10, 1)).refused();
    assert_eq!(code, "insufficient_credits");
    let given = given.when_due().then();
    let given = given.when(Capture { hold: HOLD, amount: Some(credits(25)) }).then();
    assert_eq!(balance(&given), Balance::default());
}

#[test]
fn a_reversal_takes_what_is_there_and_the_rest_is_owed_until_it_is_paid() {
    let given = with(100).when(hold(HOLD, 30, 10_000)).then();
    let (receipt, given) = given.when(reverse(20, 100)).reply();
    assert_eq!(receipt, Receipt::of(TransactionId(20), -100, 0));
    assert_eq!(balance(&given).owed, 30);
    assert!(given.state().cover(1, given.now()).is_err());
    let (again, given) = given.when(reverse(20, 100)).reply();
    assert_eq!(again, receipt);
    // What the hold gives back pays a part, and so does the next grant.
    let given = given.when(Capture { hold: HOLD, amount: Some(credits(10)) }).then();
    assert_eq!(balance(&given).owed, 10);
    let then = given.when(debit(10, 1));
    assert_eq!(facts(&then)["limit"], "arrears");
    let given = then.then().when(grant(2, 50, Kind::Promotional)).then();
    assert_eq!(
        balance(&given),
        Balance { balance: 40, available: 40, promotional: 40, ..Balance::default() }
    );
}

#[test]
fn limits_are_refused_by_name() {
    let given = with(1_000);
    let far = Grant { expires_at: Some(given.now()), ..grant(2, 1, Kind::Paid) };
    let (code, given) = given.when(far).refused();
    assert_eq!(code, "validation_error");
    let (code, given) = given.when(Grant { locked: 2, ..grant(2, 1, Kind::Paid) }).refused();
    assert_eq!(code, "validation_error");
    let foreign = Grant { tenant: TenantId(8), ..grant(2, 1, Kind::Paid) };
    let (code, mut given) = given.when(foreign).refused();
    assert_eq!(code, "validation_error");
    for ttl_ms in [HOLD_TTL_MS_MIN - 1, HOLD_TTL_MS_MAX + 1] {
        let (code, after) = given.when(hold(HOLD, 1, ttl_ms)).refused();
        assert_eq!(code, "validation_error");
        given = after;
    }
    for place in 1..BUCKETS_MAX as u8 {
        let priority = place + 100;
        let id = u128::from(place) + 10;
        given = given.when(Grant { priority, ..grant(id, 1, Kind::Paid) }).then();
    }
    let (code, given) = given.when(Grant { priority: 0, ..grant(200, 1, Kind::Paid) }).refused();
    assert_eq!(code, "too_many_grants");
    let long = "é".repeat(DESCRIPTION_CHARACTERS_MAX + 1);
    let (code, given) = given.when(Debit { description: Some(long), ..debit(10, 1) }).refused();
    assert_eq!(code, "validation_error");
    let (code, given) = given.when(Release { hold: HOLD, call: None }).refused();
    assert_eq!(code, "not_found");
    let full = Given::<Wallet>::events([WalletEvent::Granted(Granted {
        id: GrantId(1),
        tenant: TENANT,
        reason: Reason::Topup,
        description: None,
        postings: vec![Posting { account: Account::Locked(bucket()), amount: BALANCE_MAX }],
    })]);
    assert_eq!(full.when(grant(2, 1, Kind::Paid)).refused().0, "wallet_full");
    drop(given);
}

fn bucket() -> Bucket {
    Bucket { kind: Kind::Paid, priority: 100, expiry: Expiry::Never }
}

#[test]
fn an_operator_sees_figures_and_no_descriptions() {
    let secret = Some("for my divorce".to_owned());
    let given = with(100).when(Debit { description: secret, ..debit(10, 30) }).then();
    let seen = given.state().observe().to_string();
    assert!(seen.contains("\"balance\":70") && !seen.contains("divorce"), "{seen}");
}

#[derive(Clone, Debug)]
enum Step {
    Grant { amount: i64, locked_percent: i64, paid: bool, lapses_in_s: Option<i64> },
    Unlock,
    Debit { amount: i64 },
    Reverse { amount: i64 },
    PlaceHold { amount: i64, ttl_s: i64 },
    Capture { hold: usize, amount: Option<i64> },
    Release { hold: usize },
    Settle { hold: usize, items: Vec<(u8, i64, i64, u8)>, end: bool },
    Wait { s: i64 },
    Due,
}

fn step() -> impl Strategy<Value = Step> {
    let lapse = proptest::option::of(1i64..30);
    let item = (0u8..12, 0i64..120, 0i64..30, 0u8..=100);
    let items = proptest::collection::vec(item, 0..5);
    prop_oneof![
        2 => (1i64..900, 0i64..=100, any::<bool>(), lapse).prop_map(
            |(amount, locked_percent, paid, lapses_in_s)| {
                Step::Grant { amount, locked_percent, paid, lapses_in_s }
            }
        ),
        1 => Just(Step::Unlock),
        4 => (1i64..400).prop_map(|amount| Step::Debit { amount }),
        1 => (1i64..600).prop_map(|amount| Step::Reverse { amount }),
        4 => (1i64..400, 1i64..20).prop_map(|(amount, ttl_s)| Step::PlaceHold { amount, ttl_s }),
        2 => (0usize..6, proptest::option::of(1i64..400))
            .prop_map(|(hold, amount)| Step::Capture { hold, amount }),
        1 => (0usize..6).prop_map(|hold| Step::Release { hold }),
        4 => (0usize..6, items, proptest::bool::weighted(0.3))
            .prop_map(|(hold, items, end)| Step::Settle { hold, items, end }),
        2 => (1i64..8).prop_map(|s| Step::Wait { s }),
        2 => Just(Step::Due),
    ]
}

/// What an accountant who reads only events and rows knows.
#[derive(Default)]
struct Books {
    accounts: BTreeMap<Account, i64>,
    ledger: Vec<LedgerLine>,
    ends: BTreeMap<HoldId, u32>,
    holds: Vec<HoldId>,
    items: BTreeSet<(HoldId, u128)>,
    late: BTreeSet<HoldId>,
}

impl Books {
    fn read(&mut self, events: &[WalletEvent], rows: &[RowDraft]) {
        for event in events {
            assert_eq!(event.postings().iter().map(|posting| posting.amount).sum::<i64>(), 0);
            for Posting { account, amount } in event.postings() {
                *self.accounts.entry(account.clone()).or_default() += amount;
            }
            let bytes = event.encode().unwrap();
            let read = WalletEvent::decode(event.name(), event.version(), &bytes);
            assert_eq!(read.unwrap(), *event);
            match event {
                WalletEvent::HoldPlaced(placed) => self.holds.push(placed.id),
                WalletEvent::HoldEnded(ended) => *self.ends.entry(ended.hold).or_default() += 1,
                WalletEvent::HoldDrawn(drawn) => {
                    for item in drawn.draws.iter().flat_map(|draw| &draw.items) {
                        assert!(self.items.insert((drawn.hold, item.id)), "drawn twice");
                        assert!(0 <= item.earned && item.earned <= item.charged);
                    }
                    *self.ends.entry(drawn.hold).or_default() += u32::from(drawn.ended);
                }
                WalletEvent::LateDrawn(late) => {
                    assert_eq!(self.ends.get(&late.hold), Some(&1), "it had expired");
                    assert!(self.late.insert(late.hold), "charged late twice");
                }
                _ => {}
            }
        }
        for row in rows.iter().filter(|row| row.family == LEDGER_FAMILY) {
            let number = u64::from_be_bytes(*row.key.last_chunk::<8>().unwrap());
            assert_eq!(number, self.ledger.len() as u64 + 1);
            self.ledger.push(codec::decode(row.value.as_ref().unwrap()).unwrap());
        }
    }

    fn sum(&self, which: impl Fn(&Account) -> bool) -> i64 {
        self.accounts.iter().filter(|(account, _)| which(account)).map(|(_, sum)| sum).sum()
    }

    fn audit(&self, wallet: &Wallet) {
        let is_available = |account: &Account| matches!(account, Account::Available(_));
        let is_held = |account: &Account| matches!(account, Account::Held(_));
        assert_eq!(self.sum(is_available), total(&wallet.available));
        assert_eq!(self.sum(|it| matches!(it, Account::Locked(_))), total(&wallet.locked));
        assert_eq!(self.sum(is_held), wallet.held);
        assert_eq!(self.sum(|it| *it == Account::Arrears), -wallet.owed);
        assert_eq!(self.ledger.iter().map(|line| line.amount).sum::<i64>(), wallet.sum());
        assert_eq!(self.ledger.len() as u64, wallet.lines);
        for (account, sum) in &self.accounts {
            let own = matches!(account, Account::Available(_) | Account::Locked(_));
            let must_not_owe = own || matches!(account, Account::Held(_) | Account::Payable(_));
            assert!(*sum >= 0 || !must_not_owe, "{account:?} has {sum}");
        }
        assert!(wallet.owed >= 0 && (wallet.owed == 0 || wallet.available.is_empty()));
        for hold in wallet.holds.values() {
            assert_eq!(hold.captured + total(&hold.slices), hold.amount);
            assert!(hold.captured >= 0 && hold.slices.values().all(|amount| *amount > 0));
        }
        assert_eq!(wallet.holds.values().map(|hold| total(&hold.slices)).sum::<i64>(), wallet.held);
        assert_eq!(wallet.holds.len(), wallet.deadlines.len());
        for hold in &self.holds {
            let ends = self.ends.get(hold).copied().unwrap_or_default();
            assert_eq!(ends, u32::from(!wallet.holds.contains_key(hold)), "{hold} ended {ends} x");
        }
    }
}

/// Asks twice: the repetition is answered alike and does nothing.
fn ask<C>(given: Given<Wallet>, books: &mut Books, command: &C) -> Given<Wallet>
where
    C: supervision::Command + Clone,
    Wallet: supervision::Handle<C>,
    <Wallet as supervision::Handle<C>>::Reply: PartialEq + std::fmt::Debug,
{
    let then = given.when(command.clone());
    books.read(&then.events, &then.rows);
    let again = then.given.when(command.clone());
    assert!(again.events.is_empty(), "{} was done twice", C::NAME);
    if then.outcome.is_ok() {
        assert_eq!(then.outcome, again.outcome, "{} was answered otherwise", C::NAME);
    }
    again.given
}

fn take_step(given: Given<Wallet>, books: &mut Books, id: u128, step: Step) -> Given<Wallet> {
    let the_hold =
        |books: &Books, nth: usize| books.holds.iter().rev().nth(nth).copied().unwrap_or(HoldId(0));
    match step {
        Step::Grant { amount, locked_percent, paid, lapses_in_s } => {
            let kind = if paid { Kind::Paid } else { Kind::Promotional };
            let expires_at = lapses_in_s.map(|s| given.now().plus_ms(s * 1_000));
            let locked = amount * locked_percent / 100;
            ask(given, books, &Grant { locked, expires_at, ..grant(id, amount, kind) })
        }
        Step::Unlock => ask(given, books, &UnlockWelcome),
        Step::Debit { amount } => ask(given, books, &debit(id, amount)),
        Step::Reverse { amount } => ask(given, books, &reverse(id, amount)),
        Step::PlaceHold { amount, ttl_s } => {
            ask(given, books, &hold(HoldId(id), amount, ttl_s * 1_000))
        }
        Step::Capture { hold, amount } => {
            let (hold, amount) = (the_hold(books, hold), amount.map(credits));
            ask(given, books, &Capture { hold, amount })
        }
        Step::Release { hold } => {
            let hold = the_hold(books, hold);
            ask(given, books, &Release { hold, call: None })
        }
        Step::Settle { hold, items, end } => {
            let hold = the_hold(books, hold);
            let items = items.into_iter();
            let items = items.map(|(id, price, fee, share)| item(id.into(), price, fee, share));
            ask(given, books, &Settle { hold, items: items.collect(), end })
        }
        Step::Wait { s } => given.later_ms(s * 1_000),
        Step::Due => {
            let then = given.when_due();
            books.read(&then.events, &then.rows);
            assert!(then.given.state().next_deadline().is_none_or(|at| at > then.given.now()));
            then.given
        }
    }
}

proptest! {
    #[test]
    fn the_books_balance_under_any_sequence(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut given, mut books) = (Given::<Wallet>::nothing(), Books::default());
        for (place, step) in steps.into_iter().enumerate() {
            given = take_step(given, &mut books, place as u128 + 1, step);
            books.audit(given.state());
        }
    }
}
