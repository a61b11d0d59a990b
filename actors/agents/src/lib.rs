//! Agents of tenants, and the tokens that they act with.
//!
//! [`token`] is the format, which knows nothing else. [`agent`] is the kind, [`roster`] counts the
//! agents of a tenant, [`issuing`] has the keys that tokens are signed with, [`revocations`] the
//! tokens that are revoked. [`service::Agents`] is what the gateway and the crates to the right
//! call: making and changing agents is in [`service`], issuing and revoking tokens in [`issue`],
//! checking them in [`check`].

pub mod agent;
pub mod check;
mod encoding;
pub mod farewell;
pub mod issue;
pub mod issuing;
pub mod revocations;
pub mod roster;
pub mod secret;
pub mod service;
pub mod tell;
pub mod token;

#[cfg(test)]
mod golden;

use std::sync::Arc;

use supervision::system::SystemBuilder;
use supervision::{Address, Class, Entity, Home, OwnerKey, Refusal, Timestamp};

pub use service::{AgentSettings, Agents};

/// Registers the kinds and the ports.
pub fn register(builder: SystemBuilder, agents: &Arc<Agents>) -> SystemBuilder {
    builder
        .kind::<agent::Agent>()
        .kind::<roster::Roster>()
        .kind::<issuing::IssuingKeyRing>()
        .kind::<revocations::RevokedTokens>()
        .port(agents.issuing_keys().clone())
        .port(agents.revocations().clone())
        .port(agents.clone())
}

/// The address of an entity whose id is made of an id's text or of digits, so that it always fits.
fn address<E: Entity>(id: &str, owner: OwnerKey, home: Home) -> Address<E> {
    Address::new(id, owner, home).unwrap_or_else(|| panic!("{id:?} is no id of a {}", E::KIND))
}

/// The time as tokens count it: ms since 1970, none before.
fn unix_ms(at: Timestamp) -> u64 {
    at.0.max(0) as u64
}

/// 500: what must work did not. `what` is for the log; the caller learns nothing of it.
fn internal(what: &str) -> Refusal {
    tracing::error!(what, "agents failed");
    Refusal::new(Class::Crashed, "internal_error", "this could not be done; it was noted")
}

/// What was erased is not there.
fn unless_erased<T>(found: Result<Option<T>, Refusal>) -> Result<Option<T>, Refusal> {
    found.or_else(|refusal| if refusal.is_erased() { Ok(None) } else { Err(refusal) })
}
