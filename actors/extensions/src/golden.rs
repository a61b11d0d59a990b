//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use persistence::codec;
use serde_json::json;
use supervision::testkit::Golden;
use supervision::{Entity, Event, Timestamp};
use types::{
    AppId, CallId, ConfirmationId, HoldId, JsonBytes, KeyIdentifier, SharePercent, TenantId, UserId,
};

use crate::install_keys::*;
use crate::oauth::*;
use crate::session::indexes::*;
use crate::session::*;

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> StoredDocument {
    StoredDocument {
        version: 2,
        created_at: Timestamp(1_767_225_600_000),
        updated_at: Timestamp(1_767_225_660_000),
        data: JsonBytes::from(json!({"title": "Emma", "pages": 474})),
    }
}

fn item(index: u32, action: Action, error_code: Option<&str>) -> RanItem {
    let succeeded = error_code.is_none();
    RanItem {
        index,
        function: "add_book".to_owned(),
        action,
        succeeded,
        price: if succeeded { 2 } else { 0 },
        fee: i64::from(succeeded),
        error_code: error_code.map(str::to_owned),
        duration_us: 300,
    }
}

fn scope() -> Scope {
    Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
}

fn samples() -> Vec<SessionEvent> {
    let id = CallId(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
    let write = |id, document| DocumentWrite { kind: "book".to_owned(), id, document };
    vec![
        SessionEvent::Ran(Ran {
            id,
            scope: scope(),
            app_version: "1.0.0".to_owned(),
            items: vec![
                item(0, Action::Read, None),
                item(1, Action::Write, Some("step_failed")),
                item(2, Action::Destructive, None),
            ],
            writes: vec![write(1, Some(document())), write(2, None)],
            hold: Some(HoldId(9)),
            share: SharePercent::new(70).unwrap(),
            confirmation: Some(ConfirmationId(11)),
        }),
        SessionEvent::Emitted(Emitted {
            id,
            scope: Scope {
                tenant: TenantId(7),
                user: UserId(8),
                app: AppId::new("shelf").unwrap(),
            },
            events: vec![AppEvent {
                index: 2,
                function: "add_book".to_owned(),
                name: "shelf.added".to_owned(),
                data: Some(JsonBytes::from(json!({"n": 1}))),
            }],
        }),
        SessionEvent::Settled(Settled { id, charged: 0, refused: Some("hold_expired".to_owned()) }),
        SessionEvent::Retried(supervision::Retried {}),
        SessionEvent::Started(Started {
            id,
            scope: scope(),
            app_version: "1.0.0".to_owned(),
            calls: vec![StartedCall {
                index: 0,
                function: "add_book".to_owned(),
                action: Action::Write,
            }],
            hold: Some(HoldId(9)),
            share: SharePercent::new(70).unwrap(),
            until: Timestamp(1_767_225_780_000),
        }),
        SessionEvent::Lost(Lost {
            id,
            scope: scope(),
            app_version: "1.0.0".to_owned(),
            items: vec![item(0, Action::Write, Some("outcome_unknown"))],
        }),
        SessionEvent::Completed(Completed {
            id,
            usage: vec![Usage {
                index: 0,
                model: "small".to_owned(),
                prompt_tokens: 12,
                completion_tokens: 34,
            }],
        }),
        SessionEvent::Indexed(Indexed { scope: scope(), change: grown() }),
    ]
}

fn index() -> Index {
    Index {
        number: 3,
        kind: "book".to_owned(),
        field: "title".to_owned(),
        salt: 12,
        stage: Stage::Building(Some(4)),
    }
}

fn grown() -> IndexChange {
    let made = vec![IndexEntry { number: 3, digest: 5, id: 6 }];
    IndexChange::Grown { number: 3, made, stage: Stage::Ready }
}

/// The other changes of indexes, which are stored in the same event.
fn changes() -> Vec<(&'static str, IndexChange)> {
    let entry = |id| vec![IndexEntry { number: 3, digest: 5, id }];
    vec![
        ("planned", IndexChange::Planned { begun: vec![index()], dropped: vec![1, 2] }),
        ("written", IndexChange::Written { gone: entry(6), made: entry(7) }),
        ("swept", IndexChange::Swept { number: 3, gone: entry(6), is_last: true }),
    ]
}

fn install_key() -> InstallKey {
    let mut key: InstallKey = serde_json::from_value(json!({"id": KeyIdentifier(11), "app":
        "shelf", "name": "payments", "shown": "bw_hook_abcd", "hash": vec![3; 32],
        "made_by": UserId(8), "created_at": 0}))
    .unwrap();
    key.created_at = Timestamp(1_767_225_600_000);
    key
}

fn bound() -> Bound {
    Bound {
        id: 5,
        tenant: TenantId(7),
        user: UserId(8),
        app: AppId::new("shelf").unwrap(),
        provider: "hub".to_owned(),
        hash: StateHash([1; 32]),
        browser: Some([2; 32]),
    }
}

fn sample(name: &str) -> SessionEvent {
    samples().into_iter().find(|event| event.name() == name).unwrap()
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
    for (name, change) in changes() {
        let bytes = codec::encode(&change).unwrap();
        golden().check(&format!("events/index_change_{name}"), &bytes);
    }
    golden().check_events(&[
        InstallKeyEvent::Made(InstallKeyMade { key: install_key() }),
        InstallKeyEvent::Revoked(InstallKeyRevoked { id: KeyIdentifier(11) }),
    ]);
    let until = Timestamp(1_767_225_600_000);
    golden().check_events(&[
        OAuthFlowEvent::Began(OAuthBegan { bound: bound(), until }),
        OAuthFlowEvent::Taken(OAuthTaken {}),
        OAuthFlowEvent::Expired(OAuthExpired {}),
        OAuthFlowEvent::Ended(OAuthEnded { outcome: "connected".to_owned() }),
    ]);
}

#[test]
fn rows_and_states_are_stored_as_they_always_were() {
    golden().check("rows/document", &codec::encode(&document()).unwrap());
    let mut session = ExtensionSession::default();
    for name in ["started", "ran", "completed", "started"] {
        session.apply(&sample(name), Timestamp(1_767_225_600_000));
    }
    let change = IndexChange::Planned { begun: vec![index()], dropped: Vec::new() };
    let planned = SessionEvent::Indexed(Indexed { scope: scope(), change });
    session.apply(&planned, Timestamp(1_767_225_600_000));
    golden().check_state(&session);
    let mut keys = InstallKeys::default();
    let made = InstallKeyEvent::Made(InstallKeyMade { key: install_key() });
    keys.apply(&made, Timestamp(1_767_225_600_000));
    golden().check_state(&keys);
    let mut flow = OAuthFlow::default();
    let until = Timestamp(1_767_225_600_000);
    flow.apply(&OAuthFlowEvent::Began(OAuthBegan { bound: bound(), until }), until);
    golden().check_state(&flow);
}

#[test]
fn each_call_of_a_run_is_an_action() {
    let event = sample("ran");
    let actions = crate::describe("ran", 2, &event.encode().unwrap());
    let told: Vec<_> = actions.iter().map(|it| (it.index, it.price, it.error.clone())).collect();
    assert_eq!(told, [(0, 3, None), (1, 0, Some("step_failed".to_owned())), (2, 3, None)]);
    let lost = crate::describe("lost", 1, &sample("lost").encode().unwrap());
    assert_eq!(lost[0].error.as_deref(), Some("outcome_unknown"));
    assert!(crate::describe("settled", 1, &sample("settled").encode().unwrap()).is_empty());
    assert_eq!(actions[0].confirmation.as_deref(), Some("user_accepted"));
    assert!(lost[0].confirmation.is_none());
    assert!(crate::describe("ran", 9, &[]).is_empty());
}
