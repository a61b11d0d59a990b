//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use identity::frozen::{ReasonClass, Target};
use supervision::testkit::Golden;
use supervision::{Entity, Timestamp};
use types::{AppId, CallId, HoldId, TenantId, UserId};

use crate::developer::*;
use crate::freeze::*;

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
        FreezeEvent::ReceiptNoted(ReceiptNoted {}),
        FreezeEvent::Resumed(Resumed { reason: text("changed"), by: text("user/operator") }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
    golden().check_events(&freeze_samples());
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
}
