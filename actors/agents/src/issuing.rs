//! The keys that agent tokens are signed with, kept: one entity, `issuing_keys/main`, of the
//! platform. Ed25519 always, whatever user tokens are signed with.
//!
//! Invariants
//! - A set is durable before anything is signed with it: it is published from what is stored.
//! - Installing happens once; a rotation must know the generation that it replaces, so of two at
//!   the same time one is refused.
//! - [`IssuingKeys`] never goes back to an older generation.
//! - A key that no longer signs stays public for longer than any token that it has signed lives
//!   (see [`identity::signing_keys`], whose sets these are).
//!
//! Deliberate limit: after a leak there is no rotation but a new installation's keys.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::signing_keys::{KeySet, SigningAlgorithm, SigningKey, Standing, StoredKeySet};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, System, Timestamp, Turn,
};
use types::{TenantId, home_of, platform, rfc3339};

use crate::token::VerifyingKey;
use crate::{internal, unix_ms};

/// The id of the one entity.
const MAIN: &str = "main";

/// The stored set, and how many there were before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IssuingKeyRing {
    set: Option<StoredKeySet>,
    generation: u64,
    changed_at: Timestamp,
}

impl IssuingKeyRing {
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
    /// What happens to the issuing keys.
    pub enum IssuingEvent {
        /// The first set.
        Installed(Installed) = "issuing_keys_installed", 1;
        /// The next set.
        Rotated(Rotated) = "issuing_keys_rotated", 1;
    }
}

/// What the issuing keys ask of others.
#[derive(Clone, Debug)]
pub enum IssuingEffect {
    /// Sign and verify with the stored set from now on.
    Publish,
}

impl Entity for IssuingKeyRing {
    const KIND: &'static str = "issuing_keys";
    type Event = IssuingEvent;
    type Effect = IssuingEffect;

    fn apply(&mut self, event: &IssuingEvent, at: Timestamp) {
        let (IssuingEvent::Installed(Installed { set }) | IssuingEvent::Rotated(Rotated { set })) =
            event;
        self.set = Some(set.clone());
        self.generation += 1;
        self.changed_at = at;
    }

    async fn perform(effect: IssuingEffect, context: EffectContext<Self>) {
        let IssuingEffect::Publish = effect;
        if let Err(refusal) = context.system.port::<IssuingKeys>().load(&context.system).await {
            tracing::error!(%refusal, "new issuing keys were stored but are not used yet");
        }
    }

    fn observe(&self) -> Value {
        json!({
            "generation": self.generation,
            "previous": self.set.as_ref().map_or(0, |set| set.previous.len()),
            "changed_at": rfc3339(self.changed_at),
        })
    }
}

/// Stores the first set. Answers whether it was: a repetition changes nothing.
pub struct Install {
    /// The keys.
    pub set: StoredKeySet,
}

impl Command for Install {
    const NAME: &'static str = "install_issuing_keys";
}

impl Handle<Install> for IssuingKeyRing {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: Install) -> Result<bool, Refusal> {
        if turn.state().set.is_some() {
            return Ok(false);
        }
        turn.record(IssuingEvent::Installed(Installed { set: command.set }));
        turn.effect(IssuingEffect::Publish);
        Ok(true)
    }
}

/// Stores the set after the present one. Refused with `issuing_keys_changed` when that is not the
/// one it was made from.
pub struct Rotate {
    /// The keys.
    pub set: StoredKeySet,
    /// The generation they were made from.
    pub replaces: u64,
}

impl Command for Rotate {
    const NAME: &'static str = "rotate_issuing_keys";
}

impl Handle<Rotate> for IssuingKeyRing {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Rotate) -> Result<(), Refusal> {
        if turn.state().set.is_none() || turn.state().generation != command.replaces {
            let message = "the issuing keys were changed meanwhile";
            return Err(Refusal::conflict("issuing_keys_changed", message));
        }
        turn.record(IssuingEvent::Rotated(Rotated { set: command.set }));
        turn.effect(IssuingEffect::Publish);
        Ok(())
    }
}

/// A public key that tokens may be signed by.
struct Issuer {
    key_id: [u8; 32],
    key: VerifyingKey,
    /// From when on no token of it can be valid (ms since 1970).
    kept_until_ms: u64,
}

/// A set that is in use.
pub struct Published {
    /// How many sets there were, this one included.
    pub generation: u64,
    /// Since when it is stored (ms since 1970).
    pub since_ms: u64,
    /// The keys.
    pub set: KeySet,
    issuers: Vec<Issuer>,
}

impl Published {
    fn new(generation: u64, since_ms: u64, set: KeySet) -> Result<Self, Refusal> {
        let unfit = || internal("an issuing key is no Ed25519 key");
        let issuer = |(key, standing): (&SigningKey, Standing)| {
            let public = key.ed25519_public_key()?;
            let kept_until_ms = match standing {
                Standing::Previous { kept_until_ms } => kept_until_ms,
                Standing::Next | Standing::Current => u64::MAX,
            };
            let key_id = key_id(key)?;
            Some(Issuer { key_id, key: VerifyingKey::from_bytes(&public).ok()?, kept_until_ms })
        };
        let issuers = set.standings().map(issuer).collect::<Option<_>>().ok_or_else(unfit)?;
        Ok(Self { generation, since_ms, set, issuers })
    }

    /// The public key of a thumbprint, unless it has served its time.
    pub fn find(&self, key_id: &[u8; 32], now_ms: u64) -> Option<VerifyingKey> {
        let is_it = |it: &&Issuer| it.key_id == *key_id && now_ms < it.kept_until_ms;
        self.issuers.iter().find(is_it).map(|it| it.key)
    }

    /// The thumbprint of the key that signs.
    pub fn current_key_id(&self) -> Option<[u8; 32]> {
        key_id(self.set.current())
    }

    /// The signature of the key that signs.
    pub fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.set.current().sign(message).ok()?.try_into().ok()
    }
}

/// A key's thumbprint: what its `kid` is the base64url of.
fn key_id(key: &SigningKey) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(key.kid()).ok()?.try_into().ok()
}

/// The keys that tokens are signed and verified with now. A port; empty until loaded.
#[derive(Default)]
pub struct IssuingKeys {
    published: RwLock<Option<Arc<Published>>>,
}

impl IssuingKeys {
    /// The set in use; refused as busy before the first one is loaded.
    pub fn get(&self) -> Result<Arc<Published>, Refusal> {
        self.published.read().clone().ok_or_else(Refusal::busy)
    }

    /// Takes over the stored set, if there is one and it is newer. Says whether there is one.
    pub async fn load(&self, system: &System) -> Result<bool, Refusal> {
        let directory = system.directory::<IssuingKeyRing>();
        let look = |ring: &IssuingKeyRing| ring.clone();
        let address = IssuingKeyRing::address();
        let ring = directory.look(&address, system.system_origin(), look).await?;
        let Some(stored) = ring.set else { return Ok(false) };
        let set = KeySet::from_stored(stored).map_err(|error| internal(error.code()))?;
        let new = Published::new(ring.generation, unix_ms(ring.changed_at), set)?;
        let mut published = self.published.write();
        if published.as_ref().is_none_or(|old| old.generation < new.generation) {
            *published = Some(Arc::new(new));
        }
        Ok(true)
    }

    /// Loads the stored set, or makes and stores the first one. Once, before the first request.
    pub async fn start(&self, system: &System) -> Result<(), Refusal> {
        if self.load(system).await? {
            return Ok(());
        }
        let now_ms = unix_ms(system.clock().now());
        let set = KeySet::generate(SigningAlgorithm::EdDsa, now_ms);
        let set = set.map_err(|error| internal(error.code()))?.to_stored();
        let directory = system.directory::<IssuingKeyRing>();
        let origin = system.system_origin();
        directory.ask(&IssuingKeyRing::address(), Install { set }, origin).await?;
        self.load(system).await.map(drop)
    }

    /// Replaces the key that signs: the next one signs, a fresh one follows it. Refused with
    /// `signing_key_rotation_too_soon` while the next one is not public for an hour.
    pub async fn rotate(&self, system: &System) -> Result<(), Refusal> {
        let present = self.get()?;
        let set = present
            .set
            .rotate(unix_ms(system.clock().now()))
            .map_err(|error| Refusal::conflict(error.code(), error.to_string()))?;
        let rotate = Rotate { set: set.to_stored(), replaces: present.generation };
        let directory = system.directory::<IssuingKeyRing>();
        let origin = system.system_origin();
        directory.ask(&IssuingKeyRing::address(), rotate, origin).await?;
        self.load(system).await.map(drop)
    }
}

impl fmt::Debug for IssuingKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.published.read().as_ref().map(|published| published.generation);
        write!(formatter, "IssuingKeys(generation {generation:?})")
    }
}

#[cfg(test)]
mod tests {
    use identity::signing_keys::NEXT_PUBLISHED_MS_MIN;
    use supervision::testkit::Given;

    use super::*;

    #[test]
    fn a_set_is_installed_once_and_rotated_from_the_one_it_was_made_of() {
        let first = KeySet::generate(SigningAlgorithm::EdDsa, 0).unwrap();
        let second = first.rotate(NEXT_PUBLISHED_MS_MIN).unwrap();
        let rotate = |replaces| Rotate { set: second.to_stored(), replaces };
        let (code, given) = Given::<IssuingKeyRing>::nothing().when(rotate(0)).refused();
        assert_eq!(code, "issuing_keys_changed");
        let (installed, given) = given.when(Install { set: first.to_stored() }).reply();
        assert!(installed);
        let (installed, given) = given.when(Install { set: second.to_stored() }).reply();
        assert!(!installed);
        let then = given.when(rotate(1));
        assert_eq!((then.effects.len(), then.outcome), (1, Ok(())));
        assert_eq!(then.given.when(rotate(1)).refused().0, "issuing_keys_changed");
    }

    #[test]
    fn a_key_is_found_by_its_thumbprint_until_it_has_served_its_time() {
        let first = KeySet::generate(SigningAlgorithm::EdDsa, 0).unwrap();
        let second = first.rotate(NEXT_PUBLISHED_MS_MIN).unwrap();
        let before = Published::new(1, 0, first).unwrap();
        let id = before.current_key_id().unwrap();
        let after = Published::new(2, 0, second).unwrap();
        let now_ms = NEXT_PUBLISHED_MS_MIN;
        assert!(after.find(&id, now_ms).is_some() && after.current_key_id().unwrap() != id);
        assert!(after.find(&id, now_ms + 3 * 24 * 3_600_000).is_none());
        assert!(after.find(&[0; 32], now_ms).is_none());
        let signature = before.sign(b"x").unwrap();
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        assert!(after.find(&id, now_ms).unwrap().verify_strict(b"x", &signature).is_ok());
    }

    #[test]
    fn keys_of_another_algorithm_are_refused() {
        let set = KeySet::generate(SigningAlgorithm::Rs256, 0).unwrap();
        assert!(Published::new(1, 0, set).is_err());
    }
}
