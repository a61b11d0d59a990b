//! What a wallet stores, as it always was: see [`supervision::testkit::Golden`].

use persistence::codec;
use supervision::testkit::Golden;
use types::{KeyIdentifier, UserId};

use super::*;

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn postings() -> Vec<Posting> {
    let given = Bucket {
        kind: Kind::Promotional,
        priority: 7,
        expiry: Expiry::At(Timestamp(1_767_225_600_000)),
    };
    let paid = Bucket { kind: Kind::Paid, priority: 100, expiry: Expiry::Never };
    let app = AppId::new("notes").unwrap();
    let accounts = [
        (Account::Available(given), -1),
        (Account::Locked(given), 2),
        (Account::Held(paid), -300),
        (Account::Arrears, 40_000),
        (Account::Issued(Kind::Paid), -40_000),
        (Account::Lapsed, 9),
        (Account::Payable(app), 200),
        (Account::Platform, 90),
    ];
    accounts.map(|(account, amount)| Posting { account, amount }).into()
}

fn samples() -> Vec<WalletEvent> {
    [of_credits(), of_limits()].concat()
}

fn of_credits() -> Vec<WalletEvent> {
    let (postings, hold) = (postings(), HoldId(0x0190_1234_5678_7abc_8def_0123_4567_89ab));
    let description = Some("tea".to_owned());
    let (transaction, app) = (TransactionId(5), AppId::new("notes").unwrap());
    let spender = Spender {
        user: Some(UserId(7)),
        key: Some(KeyIdentifier(8)),
        agent: None,
        app: Some(app.clone()),
    };
    vec![
        WalletEvent::Granted(Granted {
            id: GrantId(3),
            tenant: TenantId(4),
            reason: Reason::Bonus,
            description: description.clone(),
            postings: postings.clone(),
        }),
        WalletEvent::Unlocked(Unlocked { postings: postings.clone() }),
        WalletEvent::Reversed(Reversed {
            id: transaction,
            reason: Reason::Refund,
            description: None,
            postings: postings.clone(),
        }),
        WalletEvent::Debited(Debited {
            id: transaction,
            reason: Reason::Action,
            spender: spender.clone(),
            description,
            postings: postings.clone(),
        }),
        WalletEvent::HoldPlaced(HoldPlaced {
            id: hold,
            expires_at: Timestamp(1_767_225_610_000),
            reason: "a call".to_owned(),
            call: Some(CallId(6)),
            spender: spender.clone(),
            actions: 3,
            postings: postings.clone(),
        }),
        WalletEvent::HoldDrawn(HoldDrawn {
            hold,
            draws: vec![AppDraw {
                app: app.clone(),
                items: vec![DrawnItem { id: 1, charged: 290, earned: 200 }],
            }],
            ended: true,
            postings: postings.clone(),
        }),
        WalletEvent::LateDrawn(LateDrawn {
            hold,
            draws: vec![AppDraw {
                app,
                items: vec![DrawnItem { id: 1, charged: 290, earned: 200 }],
            }],
            postings: postings.clone(),
        }),
        WalletEvent::HoldEnded(HoldEnded { hold, end: End::Expired, postings: postings.clone() }),
        WalletEvent::Lapsed(Lapsed { postings }),
        WalletEvent::LedgerNumbered(LedgerNumbered { first_line: 1, first_id: 257, count: 256 }),
    ]
}

fn of_limits() -> Vec<WalletEvent> {
    let (subject, window) = (Subject::User(UserId(7)), Window::Month);
    vec![
        WalletEvent::LimitSet(LimitSet { subject: subject.clone(), window, amount: 100 }),
        WalletEvent::LimitRemoved(LimitRemoved {
            subject: Subject::App(AppId::new("notes").unwrap()),
            window: Window::Total,
        }),
        WalletEvent::LimitWarned(LimitWarned {
            subject,
            window,
            percent: 80,
            used: 81,
            amount: 100,
            ends: Some(Timestamp(1_769_904_000_000)),
        }),
        WalletEvent::ActionsCounted(ActionsCounted { user: UserId(7), actions: 3 }),
        WalletEvent::UsageTracked(UsageTracked {
            meter: "pages".to_owned(),
            quantity: 12,
            user: UserId(7),
            app: AppId::new("notes").ok(),
        }),
        WalletEvent::PlanNoted(PlanNoted {
            number: 3,
            plan: "pro".to_owned(),
            is_past_due: true,
            needs_card: true,
        }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
}

#[test]
fn the_ledgers_rows_are_stored_as_they_always_were() {
    let line = LedgerLine {
        transaction: 5,
        amount: -290,
        reason: Reason::Commission,
        app: AppId::new("notes").ok(),
        description: Some("tea".to_owned()),
        at: Timestamp(1_767_225_600_000),
    };
    golden().check("rows/ledger", &codec::encode(&line).unwrap());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut wallet = Wallet::default();
    for event in of_limits().into_iter().take(1).chain(of_credits().into_iter().take(6)) {
        wallet.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&wallet);
}
