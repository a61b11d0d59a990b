//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use supervision::testkit::Golden;
use supervision::{Entity, Refusal, Timestamp};
use types::{TenantId, UserId};

use crate::sandbox::{
    ClockMoved, Opened, Sandbox, SandboxBegun, SandboxEvent, SandboxOver, Sandboxes, SandboxesEvent,
};
use crate::tenant_import::tests::{begun, noted};
use crate::tenant_import::{
    Arrival, Begun, Ended, Planted, Retried, TenantImport, TenantImportEvent,
};

fn imports() -> Vec<TenantImportEvent> {
    let membership = identity::user::Membership {
        role: "owner".to_owned(),
        scopes: ["*".to_owned()].into_iter().collect(),
    };
    let (old, new) = (UserId(1), UserId(2));
    let arrivals = vec![Arrival { old, new, made_as: Some(membership) }];
    let sandbox = Some("copy".to_owned());
    vec![
        TenantImportEvent::Begun(Begun { arrivals, sandbox, ..begun() }),
        TenantImportEvent::Noted(noted(1)),
        TenantImportEvent::Retried(Retried {}),
        TenantImportEvent::Planted(Planted { records: 3, entities: 2 }),
        TenantImportEvent::Ended(Ended { refusal: Some(Refusal::busy()) }),
    ]
}

fn clocks() -> Vec<SandboxEvent> {
    let (tenant, of) = (TenantId(5), TenantId(4));
    vec![
        SandboxEvent::Opened(Opened { tenant, of, name: "copy".to_owned() }),
        SandboxEvent::ClockMoved(ClockMoved { ahead_ms: 60_000, really_at: Timestamp(7) }),
    ]
}

fn sandboxes() -> Vec<SandboxesEvent> {
    let begun = |sandbox| SandboxBegun { sandbox, name: "copy".to_owned() };
    vec![
        SandboxesEvent::SandboxBegun(begun(TenantId(5))),
        SandboxesEvent::SandboxOver(SandboxOver { sandbox: TenantId(5) }),
        SandboxesEvent::SandboxBegun(begun(TenantId(6))),
    ]
}

fn state<E: Entity>(events: &[E::Event]) -> E {
    let mut entity = E::default();
    for event in events {
        entity.apply(event, Timestamp(1_767_225_600_000));
    }
    entity
}

#[test]
fn every_event_and_state_is_stored_as_it_always_was() {
    let golden = Golden::of(env!("CARGO_MANIFEST_DIR"));
    golden.check_events(&imports());
    golden.check_events(&clocks());
    golden.check_events(&sandboxes());
    golden.check_state(&state::<TenantImport>(&imports()));
    golden.check_state(&state::<Sandbox>(&clocks()));
    golden.check_state(&state::<Sandboxes>(&sandboxes()));
}
