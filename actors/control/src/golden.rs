//! What was stored once is read for ever: a file for each event and state of each version that was
//! ever written, as hexadecimal bytes.
//!
//! A file that is missing is written by running these tests with `WRITE_FIXTURES=1`; one that
//! differs is a change of the stored format, and needs a new version.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use persistence::codec;
use serde_json::json;
use supervision::{Entity, Event, Timestamp};
use types::{AppId, JsonBytes, SharePercent, TenantId, UserId};

use crate::app::*;
use crate::pricing::PricingModel;

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

fn samples() -> Vec<AppEvent> {
    let listing = Listing {
        display_name: "Shelf".to_owned(),
        description: "Books".to_owned(),
        category: "general".to_owned(),
        icon: String::new(),
        git_url: "https://example.test/shelf".to_owned(),
        pricing_model: PricingModel::PerAction,
        pricing_config: Some(JsonBytes::from(json!({"default": 1}))),
        revenue_split_dev: SharePercent::new(70).unwrap(),
    };
    vec![
        AppEvent::Created(Created {
            id: AppId::new("shelf").unwrap(),
            developer: UserId(3),
            tenant: TenantId(4),
            listing: listing.clone(),
        }),
        AppEvent::Deployed(Deployed {
            version: "1.0.0".to_owned(),
            digest: [9; 32],
            ir: JsonBytes::from(json!({"ir_version": "1.0"})),
            status: Status::PendingReview,
        }),
        AppEvent::Updated(Updated { listing }),
        AppEvent::StatusSet(StatusSet {
            status: Status::Suspended,
            reason: Some("a complaint".to_owned()),
        }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    let samples = samples();
    let stored: Vec<_> = samples.iter().map(|event| (event.name(), event.version())).collect();
    assert_eq!(stored, AppEvent::catalogue(), "a sample for each event");
    for event in samples {
        let (name, version) = (event.name(), event.version());
        let bytes = event.encode().unwrap();
        check(&format!("events/{name}.{version}"), &bytes);
        assert_eq!(AppEvent::decode(name, version, &bytes).unwrap(), event);
    }
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut app = App::default();
    for event in samples() {
        app.apply(&event, Timestamp(1_767_225_600_000));
    }
    let bytes = codec::encode(&app).unwrap();
    check(&format!("states/app.{}", App::SNAPSHOT_VERSION), &bytes);
    let read: App = codec::decode(&bytes).unwrap();
    assert_eq!(codec::encode(&read).unwrap(), bytes);
}
