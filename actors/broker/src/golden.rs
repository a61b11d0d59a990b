//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use supervision::testkit::Golden;
use supervision::{Entity, Timestamp};
use types::Sealed;

use crate::app_secrets::*;

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn samples() -> Vec<AppSecretsEvent> {
    let set = |version| SecretSet {
        name: "api_key".to_owned(),
        sealed: Sealed::from_bytes(vec![1, 2, 3]),
        version,
    };
    vec![
        AppSecretsEvent::Set(set(1)),
        AppSecretsEvent::Rotated(set(2)),
        AppSecretsEvent::Removed(SecretRemoved { name: "api_key".to_owned() }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut secrets = AppSecrets::default();
    for event in samples().into_iter().rev() {
        secrets.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&secrets);
}
