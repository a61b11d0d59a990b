//! A sealed value: bytes that open under one key and for one purpose alone.

use persistence::{KeyId, KeyRing, Opened};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use supervision::{Class, Refusal};
use zeroize::Zeroizing;

/// Sealed bytes. They show nothing of themselves, in JSON and `Debug` neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Seals `plain` under a key. `label` names the purpose, and only the same label opens it.
    /// Refused when the keys fail (no randomness, no memory).
    pub fn seal(keys: &KeyRing, key: KeyId, label: &str, plain: &[u8]) -> Result<Self, Refusal> {
        let failed = |error| {
            let message = format!("a value was not sealed: {error}");
            Refusal::new(Class::Crashed, "internal_error", message)
        };
        keys.seal(key, label.as_bytes(), plain).map(Self).map_err(failed)
    }

    /// The value; `None` once the key is erased, or when it is not what `label` says.
    pub fn open(&self, keys: &KeyRing, label: &str) -> Option<Zeroizing<Vec<u8>>> {
        match keys.open_blob(label.as_bytes(), &self.0) {
            Ok(Opened::Plain(plain)) => Some(Zeroizing::new(plain)),
            Ok(Opened::Erased) | Err(_) => None,
        }
    }

    /// What it is sealed as: nothing of the value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What was sealed elsewhere.
    pub fn from_bytes(sealed: Vec<u8>) -> Self {
        Self(sealed)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sealed")
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.serialize_str("sealed"),
            false => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistence::MasterKey;
    use persistence::codec::{decode, encode};

    #[test]
    fn a_value_opens_under_its_label_until_its_key_is_erased() {
        let keys = KeyRing::in_memory(&MasterKey::generate().unwrap()).unwrap();
        let key = KeyId { class: 1, id: 7 };
        let sealed = Sealed::seal(&keys, key, "a/b", b"canary").unwrap();
        let stored: Sealed = decode(&encode(&sealed).unwrap()).unwrap();
        assert_eq!(stored, sealed);
        assert_eq!(stored.open(&keys, "a/b").as_deref(), Some(&b"canary".to_vec()));
        assert!(stored.open(&keys, "a/c").is_none());
        assert!(!format!("{stored:?} {}", serde_json::json!(stored)).contains("canary"));
        keys.erase(key).unwrap();
        assert!(stored.open(&keys, "a/b").is_none());
    }
}
