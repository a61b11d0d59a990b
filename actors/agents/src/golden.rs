//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use identity::signing_keys::{PrivateKeyDer, SigningAlgorithm, StoredKey, StoredKeySet};
use identity::user::MadeUnder;
use persistence::codec;
use supervision::testkit::Golden;
use supervision::{Entity, Retried, Timestamp};
use types::{AgentId, Scopes, TenantId, TokenId, UserId};

use crate::agent::*;
use crate::issuing::{Installed, IssuingEvent, IssuingKeyRing, Rotated};
use crate::revocations::{RevocationsLapsed, RevokedTokens, RevokedTokensEvent, TokenRevoked};
use crate::roster::{Roster, RosterEvent, SeatOf, SeatReserved, SeatsLapsed};
use crate::secret::SecretHash;
use crate::service::SeenRow;

const AT: Timestamp = Timestamp(1_767_225_600_000);
const AGENT: AgentId = AgentId(3);

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn scopes() -> Scopes {
    ["agents:*", "wallet:read"].into_iter().collect()
}

fn details() -> Details {
    Details {
        name: "Reader".to_owned(),
        owner: "the team".to_owned(),
        description: Some("reads".to_owned()),
        model_provider: Some("someone".to_owned()),
        model_name: Some("a-model".to_owned()),
        framework: None,
    }
}

fn secret() -> SecretHash {
    codec::decode(&[7; 32]).unwrap()
}

fn agent_samples() -> Vec<AgentEvent> {
    let made_under = MadeUnder { user_epoch: 1, membership: 2 };
    let (user, tenant) = (UserId(1), TenantId(2));
    let profile = Profile {
        id: AGENT,
        tenant,
        user,
        made_under,
        details: details(),
        scopes: scopes(),
        public_key: [5; 32],
        secret: secret(),
        created_at: AT,
    };
    let changed =
        AgentChanged { details: details(), scopes: scopes(), user, made_under, ends_tokens: true };
    let issued = TokenIssued {
        token: TokenId(9),
        scopes: scopes(),
        expires_at: AT.plus_ms(300_000),
        target: Some("ledger".to_owned()),
        allowance: Some(10),
        intent: "to read".to_owned(),
    };
    let denied = TokenDenied { code: "agent_paused".to_owned(), scopes: scopes() };
    vec![
        AgentEvent::Created(AgentCreated { profile }),
        AgentEvent::Changed(changed),
        AgentEvent::Paused(StatusSet {}),
        AgentEvent::Resumed(StatusSet {}),
        AgentEvent::TokenIssued(issued),
        AgentEvent::TokenDenied(denied),
        AgentEvent::TokensEnded(StatusSet {}),
        AgentEvent::Revoked(StatusSet {}),
        AgentEvent::TellingRetried(Retried {}),
        AgentEvent::SeatTold(SeatTold {}),
    ]
}

fn roster_samples() -> Vec<RosterEvent> {
    vec![
        RosterEvent::Reserved(SeatReserved { agent: AGENT, until: AT }),
        RosterEvent::Taken(SeatOf { agent: AGENT }),
        RosterEvent::Left(SeatOf { agent: AGENT }),
        RosterEvent::Lapsed(SeatsLapsed { agents: vec![AGENT, AgentId(4)] }),
    ]
}

fn revoked_samples() -> Vec<RevokedTokensEvent> {
    let revoked = TokenRevoked { id: 8, agent: AGENT, is_tree: true, until: AT };
    vec![RevokedTokensEvent::Revoked(revoked), RevokedTokensEvent::Lapsed(RevocationsLapsed {})]
}

fn issuing_samples() -> Vec<IssuingEvent> {
    let key = |byte: u8| StoredKey {
        algorithm: SigningAlgorithm::EdDsa,
        created_at_ms: 1,
        private_key: codec::decode::<PrivateKeyDer>(&[2, byte, byte]).unwrap(),
    };
    let set = || StoredKeySet { next: key(1), current: key(2), previous: Vec::new() };
    vec![
        IssuingEvent::Installed(Installed { set: set() }),
        IssuingEvent::Rotated(Rotated { set: set() }),
    ]
}

#[test]
fn every_event_is_stored_as_it_always_was() {
    golden().check_events(&agent_samples());
    golden().check_events(&roster_samples());
    golden().check_events(&revoked_samples());
    golden().check_events(&issuing_samples());
}

fn state<E: Entity>(events: &[E::Event]) -> E {
    let mut entity = E::default();
    events.iter().for_each(|event| entity.apply(event, AT));
    entity
}

#[test]
fn every_state_and_row_is_stored_as_it_always_was() {
    let agent: Agent = state(&agent_samples());
    golden().check_state(&agent);
    golden().check_state(&state::<Roster>(&roster_samples()[..1]));
    golden().check_state(&state::<RevokedTokens>(&revoked_samples()[..1]));
    golden().check_state(&state::<IssuingKeyRing>(&issuing_samples()));
    let row = codec::encode(&agent.view().unwrap()).unwrap();
    golden().check(&format!("rows/{AGENTS_FAMILY}.1"), &row);
    let seen = SeenRow { used_at: Some(AT), heartbeat_at: None };
    golden().check(&format!("rows/{SEEN_FAMILY}.1"), &codec::encode(&seen).unwrap());
}
