//! A personal field: sealed under its user's own key, so that erasing the key erases the field
//! everywhere, in events, states and rows alike, while the chains over them still verify.

use persistence::{KeyId, KeyRing, Opened};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use supervision::address::USER_KEY_CLASS;
use supervision::{Class, Refusal};

use crate::id::UserId;

/// A sealed personal text. It shows nothing of itself, in JSON and `Debug` neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Personal(Vec<u8>);

impl Personal {
    /// Seals `plain` under the user's key. `label` names the field, and only the same label opens
    /// it. Refused when the keys fail (no randomness, no memory).
    pub fn seal(keys: &KeyRing, user: UserId, label: &str, plain: &str) -> Result<Self, Refusal> {
        let key = KeyId { class: USER_KEY_CLASS, id: user.0 };
        let sealed = keys.seal(key, label.as_bytes(), plain.as_bytes());
        let failed = |error| {
            Refusal::new(
                Class::Crashed,
                "internal_error",
                format!("a field was not sealed: {error}"),
            )
        };
        sealed.map(Self).map_err(failed)
    }

    /// The text; `None` once the user's key is erased, or when the field is not what `label` says.
    pub fn open(&self, keys: &KeyRing, label: &str) -> Option<String> {
        match keys.open_blob(label.as_bytes(), &self.0) {
            Ok(Opened::Plain(plain)) => String::from_utf8(plain).ok(),
            Ok(Opened::Erased) | Err(_) => None,
        }
    }
}

impl std::fmt::Debug for Personal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("personal")
    }
}

impl Serialize for Personal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.serialize_str("personal"),
            false => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Personal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
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
        assert_eq!(format!("{sealed:?}"), "personal");
        assert_eq!(serde_json::to_string(&sealed).unwrap(), "\"personal\"");
    }
}
