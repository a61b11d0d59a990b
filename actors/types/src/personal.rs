//! A personal field: sealed under its user's own key, so that erasing the key erases the field
//! everywhere, in events, states and rows alike, while the chains over them still verify.

use persistence::{KeyId, KeyRing};
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use supervision::address::USER_KEY_CLASS;

use crate::id::UserId;
use crate::sealed::Sealed;

/// A sealed personal text. It shows nothing of itself, in JSON and `Debug` neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal(Sealed);

impl Personal {
    /// Seals `plain` under the user's key. `label` names the field, and only the same label opens
    /// it. Refused when the keys fail (no randomness, no memory).
    pub fn seal(keys: &KeyRing, user: UserId, label: &str, plain: &str) -> Result<Self, Refusal> {
        let key = KeyId { class: USER_KEY_CLASS, id: user.0 };
        Sealed::seal(keys, key, label, plain.as_bytes()).map(Self)
    }

    /// The text; `None` once the user's key is erased, or when the field is not what `label` says.
    pub fn open(&self, keys: &KeyRing, label: &str) -> Option<String> {
        String::from_utf8(self.0.open(keys, label)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistence::MasterKey;
    use persistence::codec::{decode, encode};

    const USER: UserId = UserId(7);

    fn key_ring() -> KeyRing {
        KeyRing::in_memory(&MasterKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_field_opens_under_its_label_until_its_key_is_erased() {
        let keys = key_ring();
        let sealed = Personal::seal(&keys, USER, "user.email", "a@example.org").unwrap();
        let stored: Personal = decode(&encode(&sealed).unwrap()).unwrap();
        assert_eq!(stored, sealed);
        assert_eq!(stored.open(&keys, "user.email").as_deref(), Some("a@example.org"));
        assert_eq!(stored.open(&keys, "user.name"), None);
        keys.erase(KeyId { class: USER_KEY_CLASS, id: USER.0 }).unwrap();
        assert_eq!(stored.open(&keys, "user.email"), None);
    }

    #[test]
    fn a_field_shows_nothing_of_itself() {
        let sealed = Personal::seal(&key_ring(), USER, "user.name", "Ada").unwrap();
        assert_eq!(format!("{sealed:?}"), "Personal(sealed)");
        assert_eq!(serde_json::to_string(&sealed).unwrap(), "\"sealed\"");
    }
}
