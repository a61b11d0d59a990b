//! JSON inside stored values: kept as text, because the stored encoding cannot read
//! `serde_json::Value` back.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use serde_json::value::RawValue;

/// A text is no JSON.
#[derive(Debug, thiserror::Error)]
#[error("this is no JSON: {0}")]
pub struct JsonError(#[from] serde_json::Error);

/// A JSON text. In stored bytes a string; inside other JSON the value itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JsonBytes(Arc<str>);

impl JsonBytes {
    /// A JSON text, if it is one.
    pub fn new(text: &str) -> Result<Self, JsonError> {
        let value: &RawValue = serde_json::from_str(text)?;
        Ok(Self(value.get().into()))
    }

    /// The JSON of anything that serialises.
    pub fn of(value: &impl Serialize) -> Result<Self, JsonError> {
        Ok(Self(serde_json::to_string(value)?.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value. What is too deep to be read (128 levels) is null.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Reads it as a `T`.
    pub fn read<T: de::DeserializeOwned>(&self) -> Result<T, JsonError> {
        Ok(serde_json::from_str(&self.0)?)
    }
}

impl Default for JsonBytes {
    fn default() -> Self {
        Self("null".into())
    }
}

impl From<&Value> for JsonBytes {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<Value> for JsonBytes {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl std::fmt::Debug for JsonBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content is a caller's, and may be a secret.
        write!(f, "JSON of {} bytes", self.0.len())
    }
}

impl Serialize for JsonBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_str(&self.0);
        }
        let value: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return Value::deserialize(deserializer).map(Self::from);
        }
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

impl utoipa::ToSchema for JsonBytes {}

impl utoipa::PartialSchema for JsonBytes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        Value::schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistence::codec::{decode, encode};
    use serde_json::json;

    #[test]
    fn json_is_a_value_in_json_and_text_in_stored_bytes() {
        let value = json!({"b": [1, 2.5, null], "a": "é"});
        let stored = JsonBytes::from(&value);
        assert_eq!(stored.value(), value);
        assert_eq!(serde_json::to_value(&stored).unwrap(), value);
        assert_eq!(serde_json::from_value::<JsonBytes>(value.clone()).unwrap(), stored);
        assert_eq!(decode::<JsonBytes>(&encode(&stored).unwrap()).unwrap(), stored);
        assert_eq!(stored.read::<Value>().unwrap(), value);
        assert!(decode::<JsonBytes>(&encode("{").unwrap()).is_err());
    }

    #[test]
    fn only_json_is_taken_and_none_of_it_is_shown() {
        assert!(JsonBytes::new("{\"a\":}").is_err());
        assert!(JsonBytes::new("1 2").is_err());
        assert_eq!(format!("{:?}", JsonBytes::new("\"hush\"").unwrap()), "JSON of 6 bytes");
    }
}
