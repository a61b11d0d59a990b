//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use supervision::testkit::Golden;
use supervision::{Entity, Timestamp};
use types::{AppId, TenantId, UserId};

use crate::developer::*;

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

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut developer = Developer::default();
    for event in samples() {
        developer.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&developer);
}
