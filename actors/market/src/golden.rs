//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use identity::frozen::{ReasonClass, Target};
use supervision::testkit::Golden;
use supervision::{Entity, Retried, Timestamp};
use types::{AppId, CallId, ConfirmationId, HoldId, Personal, TenantId, TransactionId, UserId};

use crate::developer::*;
use crate::earnings::{self, AppTotal, CreditLine, Credited, DayTotal, Earnings, EarningsEvent};
use crate::freeze::*;
use crate::install::{self, Grant, Holder, Install, InstallEvent};
use crate::listing::{self, DeployNote, Listing, ListingEvent, Ranks, StoredReview};
use crate::payout::{Payout, PayoutDecided, PayoutRequested, PayoutStatus};
use crate::shares::SharesFitted;
use crate::terms::Terms;
use crate::tier::{TierEnded, TierNextSet, TierOrder, TierOrdered, TierSettled};

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn samples() -> Vec<DeveloperEvent> {
    let app = |id: &str| AppId::new(id).unwrap();
    vec![
        DeveloperEvent::Registered(Registered {
            user: UserId(3),
            tenant: TenantId(4),
            tier: Tier::Studio,
            nickname: "ada".to_owned(),
        }),
        DeveloperEvent::NicknameSettled(NicknameSettled { kept: true }),
        DeveloperEvent::AppAdded(AppAdded { app: app("shelf") }),
        DeveloperEvent::AppRemoved(AppRemoved { app: app("notes") }),
        DeveloperEvent::TierOrdered(TierOrdered {
            order: TierOrder {
                id: TransactionId(9),
                tier: Tier::Partner,
                price: 79_000,
                renewal: false,
            },
        }),
        DeveloperEvent::TierRetried(Retried {}),
        DeveloperEvent::TierSettled(TierSettled { id: TransactionId(9), paid: true }),
        DeveloperEvent::TierNextSet(TierNextSet { next: Some(Tier::Indie) }),
        DeveloperEvent::TierEnded(TierEnded {}),
        DeveloperEvent::SharesFitted(SharesFitted { tier: Tier::Indie }),
    ]
}

fn shelf() -> AppId {
    AppId::new("shelf").unwrap()
}

fn listing_samples() -> Vec<ListingEvent> {
    // A sealed field is other bytes each time: an empty one stands for it.
    let sealed = || persistence::codec::decode::<Personal>(&[0]).unwrap();
    let review = StoredReview {
        id: 17,
        author: 5,
        rating: 4,
        title: sealed(),
        body: sealed(),
        created_at: Timestamp(1_767_225_600_000),
        updated_at: Timestamp(1_767_225_600_001),
        helpful: 1,
        unhelpful: 2,
    };
    let (app, before) = (shelf(), Ranks { rating: 4, helpful: 1 });
    let note = DeployNote {
        commit_sha: "0a1b2c".to_owned(),
        status: "failed".to_owned(),
        error_message: "no such branch".to_owned(),
        at: Timestamp(1_767_225_600_000),
    };
    vec![
        ListingEvent::ReviewsNumbered(listing::ReviewsNumbered {
            app: app.clone(),
            first: 17,
            count: 16,
        }),
        ListingEvent::InstallCounted(listing::InstallCounted {
            app: app.clone(),
            installer: 6,
            number: 1,
            installed: true,
            was_installed: false,
        }),
        ListingEvent::ReviewWritten(listing::ReviewWritten {
            app: app.clone(),
            before: None,
            review: review.clone(),
        }),
        ListingEvent::ReviewVoted(listing::ReviewVoted {
            app: app.clone(),
            voter: 7,
            helpful: true,
            before,
            review,
        }),
        ListingEvent::Featured(listing::Featured { app: app.clone(), featured: true }),
        ListingEvent::Tagged(listing::Tagged { app: app.clone(), tags: vec!["books".to_owned()] }),
        ListingEvent::DeployNoted(listing::DeployNoted { app: app.clone(), note }),
        ListingEvent::ReviewRemoved(listing::ReviewRemoved { app, id: 17, author: 5, before }),
    ]
}

fn install_samples() -> Vec<InstallEvent> {
    let holder = Holder { tenant: TenantId(4), user: UserId(3), app: shelf() };
    let terms = Terms {
        scopes: ["shelf:read".to_owned()].into(),
        prices: [("add_book".to_owned(), 2)].into(),
        price_default: 1,
        host: Some("https://shelf.example".to_owned()),
    };
    let grant = Grant { version: "1.0.0".to_owned(), digest: [9; 32], terms };
    vec![
        InstallEvent::Installed(install::Installed { holder: holder.clone(), grant, number: 1 }),
        InstallEvent::Retried(Retried {}),
        InstallEvent::Counted(install::Counted { number: 1 }),
        InstallEvent::Switched(install::Switched {
            holder: holder.clone(),
            disabled: Some(install::DisabledBy::Admin),
        }),
        InstallEvent::Uninstalled(install::Uninstalled { holder, number: 2 }),
    ]
}

fn earnings_samples() -> Vec<EarningsEvent> {
    let line = CreditLine {
        app: shelf(),
        day: 20_454,
        calls: 3,
        errors: 1,
        charged: 6,
        earned: 2,
        users: [8].into(),
    };
    let day = DayTotal { day: 20_454, calls: 3, errors: 1, charged: 6, earned: 2, users: 1 };
    let total = AppTotal { app: shelf(), calls: 3, errors: 1, charged: 6, earned: 2 };
    let moved = earnings::moved;
    let (sales, earned) = (earnings::Account::Sales, earnings::Account::Earned);
    let (pending, paid) = (earnings::Account::PayoutPending, earnings::Account::Paid);
    let payout = Payout {
        id: 21,
        developer: UserId(3),
        tenant: TenantId(4),
        amount: 2,
        rate_microdollars: 1_000,
        method: "stripe".to_owned(),
        status: PayoutStatus::Pending,
        note: None,
        requested_at: Timestamp(1_767_225_600_000),
        processed_at: None,
    };
    let decided = Payout {
        status: PayoutStatus::Paid,
        note: Some("sent".to_owned()),
        processed_at: Some(Timestamp(1_767_225_600_001)),
        ..payout.clone()
    };
    vec![
        EarningsEvent::Credited(Credited {
            developer: UserId(3),
            ranges: vec![earnings::Range { shard: 5, from: 1, upto: 9 }],
            lines: vec![line],
            days: vec![day],
            apps: vec![total],
            postings: moved(sales, earned, 2),
        }),
        EarningsEvent::PayoutRequested(PayoutRequested {
            payout,
            postings: moved(earned, pending, 2),
        }),
        EarningsEvent::PayoutDecided(PayoutDecided {
            payout: decided,
            postings: moved(pending, paid, 2),
        }),
    ]
}

fn freeze_samples() -> Vec<FreezeEvent> {
    let text = |text: &str| text.to_owned();
    let wallet_refused = Some(text("busy"));
    let mut tally = Tally { holds_left: 2, requests_left: 3, wallet_refused, ..Tally::default() };
    for (item, outcome) in [
        (Item::Call(CallId(5)), Outcome::Cancelled),
        (Item::Call(CallId(6)), Outcome::Completed),
        (Item::Call(CallId(7)), Outcome::Refused),
        (Item::Call(CallId(8)), Outcome::StillRunning),
        (Item::Hold(HoldId(9)), Outcome::Released),
    ] {
        tally.note(item, outcome);
    }
    vec![
        FreezeEvent::Begun(Begun {
            target: Target::App(AppId::new("shelf").unwrap()),
            number: 1,
            home: TenantId(4),
            class: ReasonClass::Security,
            reason: text("a leaked key"),
            by: text("user/operator"),
            note: 11,
        }),
        FreezeEvent::StoppingRetried(StoppingRetried {}),
        FreezeEvent::AllStopped(AllStopped { tally }),
        FreezeEvent::CardsVoided(CardsVoided { cards: 1 }),
        FreezeEvent::ReceiptNoted(ReceiptNoted {}),
        FreezeEvent::Resumed(Resumed { reason: text("changed"), by: text("user/operator") }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
    golden().check_events(&freeze_samples());
    golden().check_events(&listing_samples());
    golden().check_events(&install_samples());
    golden().check_events(&earnings_samples());
}

#[test]
fn what_is_stopped_keeps_its_place() {
    let card = (Item::Card(ConfirmationId(10)), Outcome::Voided);
    golden().check("items/confirmation", &persistence::codec::encode(&card).unwrap());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut developer = Developer::default();
    for event in samples() {
        developer.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&developer);
    let mut freeze = Freeze::default();
    for event in freeze_samples() {
        freeze.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&freeze);
    let mut listing = Listing::default();
    for event in listing_samples() {
        listing.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&listing);
    let mut install = Install::default();
    for event in install_samples() {
        install.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&install);
    let mut account = Earnings::default();
    for event in earnings_samples() {
        account.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&account);
}
