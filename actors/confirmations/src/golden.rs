//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use persistence::{KeyRing, MasterKey, codec};
use serde_json::json;
use supervision::testkit::Golden;
use supervision::{Entity, Timestamp};
use types::{AppId, CallId, ConfirmationId, HoldId, JsonBytes, Personal, TenantId, UserId};

use crate::confirmation::*;
use crate::executor::Changed;
use crate::rules::{Decider, Group, Rules, Stage, Who};

const AT: Timestamp = Timestamp(1_767_225_600_000);
const ID: ConfirmationId = ConfirmationId(0x0190_1234_5678_7abc_8def_0123_4567_89ab);

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

/// Sealing draws a random nonce: what is stored is a sealed field with fixed bytes.
fn personal() -> Personal {
    codec::decode(&codec::encode(&vec![7_u8; 24]).unwrap()).unwrap()
}

fn opened() -> Opened {
    let facts = vec![Fact::new("app", "shelf"), Fact::new("price", "3")];
    let groups = vec![
        Group { who: Who::Users(vec![UserId(8)]), quorum: 1 },
        Group { who: Who::Role("approver".to_owned()), quorum: 2 },
        Group { who: Who::Anybody, quorum: 3 },
    ];
    Opened {
        id: ID,
        round: 2,
        tenant: TenantId(7),
        user: UserId(8),
        principal: "user/imp_u_00000000000000000000000008".to_owned(),
        subject: Subject {
            kind: "call".to_owned(),
            digest: Digest::of("call", &facts),
            facts,
            title: "shelf: drop".to_owned(),
            app: Some(AppId::new("shelf").unwrap()),
            function: "drop".to_owned(),
            action: "destructive".to_owned(),
            price: 3,
            data: JsonBytes::from(json!({"app": "shelf"})),
            content: personal(),
        },
        rules: Rules { stages: vec![Stage { any_of: groups }], allow_self: true, in_panel: false },
        run: CallId(9),
        held: Some(Held { hold: HoldId(10), call: CallId(9) }),
        expires_at: Timestamp(1_767_226_500_000),
    }
}

fn samples() -> Vec<ConfirmationEvent> {
    let (id, user) = (ID, UserId(8));
    let by = Decider { user, role: "owner".to_owned() };
    let refused = Refused {
        id,
        user,
        by: "user/imp_u_00000000000000000000000008".to_owned(),
        reason: Some("not now".to_owned()),
    };
    let done = |error_code: Option<&str>| Done {
        id,
        user,
        answer: Some(personal()),
        error_code: error_code.map(str::to_owned),
        settles: true,
    };
    let price = Changed { name: "price".to_owned(), was: "3".to_owned(), is: "4".to_owned() };
    vec![
        ConfirmationEvent::Opened(Box::new(opened())),
        ConfirmationEvent::Approved(Approved { by: by.clone() }),
        ConfirmationEvent::Confirmed(Confirmed { id, user, by }),
        ConfirmationEvent::Cancelled(refused.clone()),
        ConfirmationEvent::Rejected(refused),
        ConfirmationEvent::Expired(Expired { id, user }),
        ConfirmationEvent::Voided(Voided {
            id,
            user,
            why: "changed".to_owned(),
            changed: vec![price],
        }),
        ConfirmationEvent::Executed(done(None)),
        ConfirmationEvent::Failed(done(Some("step_failed"))),
        ConfirmationEvent::HoldOver(HoldOver {}),
        ConfirmationEvent::Collected(Collected {}),
        ConfirmationEvent::Retried(supervision::Retried {}),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&samples());
}

#[test]
fn rows_and_states_are_stored_as_they_always_were() {
    let mut rows = Vec::new();
    Confirmation::default().rows(&samples()[0], AT, &mut rows);
    golden().check("rows/confirmation_open", rows[0].value.as_ref().unwrap());
    golden().check("rows/confirmation_round", rows[1].value.as_ref().unwrap());
    let mut card = Confirmation::default();
    for event in [0, 1, 2, 8, 9, 10].map(|index| samples()[index].clone()) {
        card.apply(&event, AT);
    }
    golden().check_state(&card);
}

#[test]
fn what_waits_and_what_came_of_it_show_nothing_of_themselves() {
    let keys = KeyRing::in_memory(&MasterKey::from_bytes([1; 32])).unwrap();
    let mut opened = opened();
    opened.subject.content = Personal::seal(&keys, UserId(8), CONTENT, "{\"secret\":1}").unwrap();
    let event = ConfirmationEvent::Opened(Box::new(opened));
    assert!(!format!("{event:?}").contains("secret"));
    let mut card = Confirmation::default();
    card.apply(&event, AT);
    assert!(!card.observe().to_string().contains("secret"));
    let content = card.card().unwrap().content(&keys);
    assert_eq!(content.as_deref(), Some("{\"secret\":1}"));
}
