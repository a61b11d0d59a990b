//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use serde_json::json;
use supervision::testkit::Golden;
use supervision::{Entity, Timestamp};
use types::{AppId, JsonBytes, SharePercent, TenantId, UserId};

use crate::app::*;
use crate::pricing::PricingModel;
use crate::registration::{Part, PartSet, Registration, RegistrationEvent, Tools};

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
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
        AppEvent::HostSet(HostSet {
            url: Some("https://shelf.example/call".to_owned()),
            digest: Some([9; 32]),
        }),
        AppEvent::HostKeyMade(HostKeyMade {
            number: 1,
            older_ends_at: Timestamp(1_767_225_600_000),
        }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
}

#[test]
fn a_state_is_stored_as_it_always_was() {
    let mut app = App::default();
    for event in samples() {
        app.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&app);
}

fn registered() -> Vec<RegistrationEvent> {
    let json = |text: &str| JsonBytes::new(text).unwrap();
    let tools = Tools {
        tools: json(r#"[{"name":"add_book"}]"#),
        tools_count: 1,
        sections: json("[]"),
        sections_count: 0,
        version: Some("1.0.0".to_owned()),
    };
    let parts = [
        Part::Config(json(r#"{"region":"eu"}"#)),
        Part::Settings(json(r#"{"general":{"name":"Shelf"}}"#)),
        Part::Manifest(json(r#"{"app_id":"shelf"}"#)),
        Part::Tools(tools),
    ];
    let app = AppId::new("shelf").unwrap();
    let set = |part| RegistrationEvent::PartSet(PartSet { app: app.clone(), part });
    parts.map(set).into()
}

#[test]
fn every_event_of_a_registration_is_stored_as_it_always_was() {
    golden().check_events(&registered());
}

#[test]
fn a_registration_is_stored_as_it_always_was() {
    let mut registration = Registration::default();
    for event in registered() {
        registration.apply(&event, Timestamp(1_767_225_600_000));
    }
    golden().check_state(&registration);
}
