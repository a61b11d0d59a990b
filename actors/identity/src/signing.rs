//! The installation's signing keys, kept: one entity, `signing_keys/main`, of the platform.
//!
//! Invariants
//! - A set is durable before anything is signed with it: it is published from what is stored.
//! - Installing happens once; a rotation must know the generation that it replaces, so of two at
//!   the same time one is refused.
//! - [`SigningKeys`] never goes back to an older generation.
//!
//! Deliberate limits
//! - Keys are made by the caller, outside of the turn: that takes a tenth of a second. The events
//!   hold private keys; they are sealed like every event.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, System, Timestamp, Turn,
};
use types::{TenantId, home_of, platform};

use crate::signing_keys::{KeySet, StoredKeySet};
use crate::{internal, unix_ms};

/// The id of the one entity.
const MAIN: &str = "main";

/// The stored set, and how many there were before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SigningKeyRing {
    set: Option<StoredKeySet>,
    generation: u64,
    changed_at: Timestamp,
}

impl SigningKeyRing {
    /// Where it lives.
    pub fn address() -> Address<Self> {
        crate::address(MAIN, platform(), home_of(TenantId::SYSTEM))
    }
}

/// The first set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// The keys.
    pub set: StoredKeySet,
}

/// The next key signs now, and a fresh one follows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotated {
    /// The keys.
    pub set: StoredKeySet,
}

supervision::events! {
    /// What happens to the signing keys.
    pub enum SigningEvent {
        /// The first set.
        Installed(Installed) = "installed", 1;
        /// The next set.
        Rotated(Rotated) = "rotated", 1;
    }
}

/// What the signing keys ask of others.
#[derive(Clone, Debug)]
pub enum SigningEffect {
    /// Sign and verify with the stored set from now on.
    Publish,
}

impl Entity for SigningKeyRing {
    const KIND: &'static str = "signing_keys";
    type Event = SigningEvent;
    type Effect = SigningEffect;

    fn apply(&mut self, event: &SigningEvent, at: Timestamp) {
        let (SigningEvent::Installed(Installed { set }) | SigningEvent::Rotated(Rotated { set })) =
            event;
        self.set = Some(set.clone());
        self.generation += 1;
        self.changed_at = at;
    }

    async fn perform(effect: SigningEffect, context: EffectContext<Self>) {
        let SigningEffect::Publish = effect;
        if let Err(refusal) = context.system.port::<SigningKeys>().load(&context.system).await {
            tracing::error!(%refusal, "new signing keys were stored but are not used yet");
        }
    }

    fn observe(&self) -> Value {
        json!({
            "generation": self.generation,
            "algorithm": self.set.as_ref().map(|set| set.current.algorithm.name()),
            "previous": self.set.as_ref().map_or(0, |set| set.previous.len()),
            "changed_at": types::rfc3339(self.changed_at),
        })
    }
}

/// Stores the first set. Answers whether it was: a repetition changes nothing.
pub struct Install {
    /// The keys.
    pub set: StoredKeySet,
}

impl Command for Install {
    const NAME: &'static str = "install";
}

impl Handle<Install> for SigningKeyRing {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: Install) -> Result<bool, Refusal> {
        if turn.state().set.is_some() {
            return Ok(false);
        }
        turn.record(SigningEvent::Installed(Installed { set: command.set }));
        turn.effect(SigningEffect::Publish);
        Ok(true)
    }
}

/// Stores the set after the present one. Refused with `signing_keys_changed` when that is not the
/// one it was made from.
pub struct Rotate {
    /// The keys.
    pub set: StoredKeySet,
    /// The generation they were made from.
    pub replaces: u64,
}

impl Command for Rotate {
    const NAME: &'static str = "rotate";
}

impl Handle<Rotate> for SigningKeyRing {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Rotate) -> Result<(), Refusal> {
        if turn.state().set.is_none() || turn.state().generation != command.replaces {
            let message = "the signing keys were changed meanwhile";
            return Err(Refusal::conflict("signing_keys_changed", message));
        }
        turn.record(SigningEvent::Rotated(Rotated { set: command.set }));
        turn.effect(SigningEffect::Publish);
        Ok(())
    }
}

/// A set that is in use.
#[derive(Clone)]
pub struct Published {
    /// How many sets there were, this one included.
    pub generation: u64,
    /// Since when it is stored (ms since 1970).
    pub since_ms: u64,
    /// The keys.
    pub set: Arc<KeySet>,
}

/// The keys that tokens are signed and verified with now. A port; empty until loaded.
#[derive(Default)]
pub struct SigningKeys {
    published: RwLock<Option<Published>>,
}

impl SigningKeys {
    /// The set in use; refused as busy before the first one is loaded.
    pub fn get(&self) -> Result<Published, Refusal> {
        self.published.read().clone().ok_or_else(Refusal::busy)
    }

    /// Takes over the stored set, if there is one and it is newer. Says whether there is one.
    pub async fn load(&self, system: &System) -> Result<bool, Refusal> {
        let directory = system.directory::<SigningKeyRing>();
        let look = |ring: &SigningKeyRing| ring.clone();
        let ring = directory.look(&SigningKeyRing::address(), system.system_origin(), look).await?;
        let Some(stored) = ring.set else { return Ok(false) };
        let set = KeySet::from_stored(stored).map_err(|error| internal(error.code()))?;
        let since_ms = unix_ms(ring.changed_at);
        self.publish(Published { generation: ring.generation, since_ms, set: Arc::new(set) });
        Ok(true)
    }

    fn publish(&self, new: Published) {
        let mut published = self.published.write();
        if published.as_ref().is_none_or(|old| old.generation < new.generation) {
            *published = Some(new);
        }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.published.read().as_ref().map(|published| published.generation);
        write!(formatter, "SigningKeys(generation {generation:?})")
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;
    use crate::signing_keys::{NEXT_PUBLISHED_MS_MIN, SigningAlgorithm};

    fn sets() -> (KeySet, KeySet) {
        let first = KeySet::generate(SigningAlgorithm::EdDsa, 0).unwrap();
        let second = first.rotate(NEXT_PUBLISHED_MS_MIN).unwrap();
        (first, second)
    }

    #[test]
    fn a_set_is_installed_once_and_rotated_from_the_one_it_was_made_of() {
        let (first, second) = sets();
        let rotate = |replaces| Rotate { set: second.to_stored(), replaces };
        let (code, given) = Given::<SigningKeyRing>::nothing().when(rotate(0)).refused();
        assert_eq!(code, "signing_keys_changed");
        let (installed, given) = given.when(Install { set: first.to_stored() }).reply();
        assert!(installed);
        let (installed, given) = given.when(Install { set: second.to_stored() }).reply();
        assert!(!installed);
        let (code, given) = given.when(rotate(0)).refused();
        assert_eq!(code, "signing_keys_changed");
        let then = given.when(rotate(1));
        assert_eq!(then.effects.len(), 1);
        let given = then.given;
        assert_eq!(given.state().set, Some(second.to_stored()));
        assert_eq!(given.state().observe()["generation"], 2);
        assert_eq!(given.when(rotate(1)).refused().0, "signing_keys_changed");
    }

    #[test]
    fn an_older_set_is_never_published_again() {
        let (first, second) = sets();
        let published = |generation, set: &KeySet| Published {
            generation,
            since_ms: 0,
            set: Arc::new(set.clone()),
        };
        let keys = SigningKeys::default();
        assert!(keys.get().is_err());
        keys.publish(published(2, &second));
        keys.publish(published(1, &first));
        assert_eq!(keys.get().unwrap().set.current().kid(), second.current().kid());
    }
}
