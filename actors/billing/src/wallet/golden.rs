//! What was stored once is read for ever: a file for each event, row and state of each version
//! that was ever written, as hexadecimal bytes.
//!
//! A file that is missing is written by running these tests with `WRITE_FIXTURES=1`; one that
//! differs is a change of the stored format, and needs a new version.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use persistence::codec;
use supervision::Event;

use super::*;

fn fixture(name: &str, bytes: &[u8]) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let path = folder.join(format!("{name}.hex"));
    if !path.exists() && std::env::var_os("WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, HEXLOWER.encode(bytes) + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no {}", path.display()));
    HEXLOWER.decode(text.trim().as_bytes()).unwrap()
}

fn check(name: &str, bytes: &[u8]) {
    assert_eq!(fixture(name, bytes), bytes, "{name} is stored otherwise than it was");
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
    let (postings, hold) = (postings(), HoldId(0x0190_1234_5678_7abc_8def_0123_4567_89ab));
    let description = Some("tea".to_owned());
    let (transaction, app) = (TransactionId(5), AppId::new("notes").unwrap());
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
            app: Some(app.clone()),
            description,
            postings: postings.clone(),
        }),
        WalletEvent::HoldPlaced(HoldPlaced {
            id: hold,
            expires_at: Timestamp(1_767_225_610_000),
            reason: "a call".to_owned(),
            call: Some(CallId(6)),
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

#[test]
fn every_event_is_stored_as_it_always_was() {
    let samples = samples();
    let stored: Vec<_> = samples.iter().map(|event| (event.name(), event.version())).collect();
    assert_eq!(stored, WalletEvent::catalogue(), "a sample for each event");
    for event in samples {
        let (name, version) = (event.name(), event.version());
        let bytes = event.encode().unwrap();
        check(&format!("events/{name}.{version}"), &bytes);
        assert_eq!(WalletEvent::decode(name, version, &bytes).unwrap(), event);
    }
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
    check("rows/ledger", &codec::encode(&line).unwrap());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut wallet = Wallet::default();
    for event in samples().into_iter().take(6) {
        wallet.apply(&event, Timestamp(1_767_225_600_000));
    }
    let bytes = codec::encode(&wallet).unwrap();
    check(&format!("states/wallet.{}", Wallet::SNAPSHOT_VERSION), &bytes);
    let read: Wallet = codec::decode(&bytes).unwrap();
    assert_eq!(codec::encode(&read).unwrap(), bytes);
}
