//! What was stored once is read for ever: a file for each event and state of each version that was
//! ever written, as hexadecimal bytes.
//!
//! A file that is missing is written by running these tests with `WRITE_FIXTURES=1`; one that
//! differs is a change of the stored format, and needs a new version.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use persistence::codec;
use supervision::{Entity, Event, Timestamp};
use types::{AppId, TenantId, UserId};

use crate::developer::*;

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/{name}.hex"));
    if !path.exists() && std::env::var_os("WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, HEXLOWER.encode(bytes) + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no {}", path.display()));
    let stored = HEXLOWER.decode(text.trim().as_bytes()).unwrap();
    assert_eq!(stored, bytes, "{name} is stored otherwise than it was");
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
    let samples = samples();
    let stored: Vec<_> = samples.iter().map(|event| (event.name(), event.version())).collect();
    assert_eq!(stored, DeveloperEvent::catalogue(), "a sample for each event");
    for event in samples {
        let (name, version) = (event.name(), event.version());
        let bytes = event.encode().unwrap();
        check(&format!("events/{name}.{version}"), &bytes);
        assert_eq!(DeveloperEvent::decode(name, version, &bytes).unwrap(), event);
    }
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut developer = Developer::default();
    for event in samples() {
        developer.apply(&event, Timestamp(1_767_225_600_000));
    }
    let bytes = codec::encode(&developer).unwrap();
    check(&format!("states/developer.{}", Developer::SNAPSHOT_VERSION), &bytes);
    let read: Developer = codec::decode(&bytes).unwrap();
    assert_eq!(codec::encode(&read).unwrap(), bytes);
}
