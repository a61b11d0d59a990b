//! Where an entity lives: its kind and id name its stream, its owner places it, its home is the
//! tenant whose chain its records go into.
//!
//! What a user owns is sealed under that user's key, everything else under its home's: so whoever
//! is erased takes along all that was theirs, and nothing that was not.

use std::marker::PhantomData;

pub use persistence::{Home, OwnerKey};
use persistence::{KeyId, Shard, StreamName};
use serde::{Deserialize, Serialize};

use crate::entity::Entity;

/// The key class of tenants' data keys ([`persistence::KeyId`]).
pub const TENANT_KEY_CLASS: u8 = 1;
/// The key class of users' own keys, and the class that users have as owners.
pub const USER_KEY_CLASS: u8 = 2;

/// An address without its kind's type: what rows and the console carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The stream, `kind/id`.
    pub stream: StreamName,
    /// Who owns the entity.
    pub owner: OwnerKey,
    /// Whose chain, and whose key unless the owner is a user.
    pub home: Home,
}

impl Place {
    /// The shard of everything the owner owns.
    pub fn shard(&self) -> Shard {
        self.owner.shard()
    }

    /// The key that the entity's records, rows and snapshots are sealed under from now on. What
    /// is sealed already says itself under which.
    pub fn key(&self) -> KeyId {
        match self.owner.class {
            USER_KEY_CLASS => KeyId { class: USER_KEY_CLASS, id: self.owner.id },
            _ => KeyId { class: TENANT_KEY_CLASS, id: self.home.0 },
        }
    }

    /// The kind, the part before the slash.
    pub fn kind(&self) -> &str {
        self.stream.as_str().split_once('/').map_or("", |(kind, _)| kind)
    }

    /// The id, the part behind the slash.
    pub fn id(&self) -> &str {
        self.stream.as_str().split_once('/').map_or("", |(_, id)| id)
    }
}

/// The address of one entity of kind `E`.
pub struct Address<E> {
    place: Place,
    kind: PhantomData<fn() -> E>,
}

impl<E> Clone for Address<E> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone(), kind: PhantomData }
    }
}

impl<E> std::fmt::Debug for Address<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.place.stream.as_str())
    }
}

impl<E: Entity> Address<E> {
    /// The address of the entity `id`; `None` when the id is empty, too long or not printable.
    pub fn new(id: &str, owner: OwnerKey, home: Home) -> Option<Self> {
        let stream = StreamName::new(&format!("{}/{id}", E::KIND))?;
        (!id.is_empty()).then_some(Self { place: Place { stream, owner, home }, kind: PhantomData })
    }

    /// The address a place stands for, if it is of this kind.
    pub fn from_place(place: Place) -> Option<Self> {
        (place.kind() == E::KIND).then_some(Self { place, kind: PhantomData })
    }

    /// The address without its kind's type.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The id.
    pub fn id(&self) -> &str {
        self.place.id()
    }
}
