//! The one place where values become bytes and bytes become values.
//!
//! The encoding is bincode 2, standard configuration (little endian, variable-length integers),
//! through serde. It is not self-describing: it cannot add a field to an old record and cannot
//! read back `serde_json::Value` or tagged, flattened and untagged types. Hence the rules: every
//! stored type has a name and a version in its frame, a changed type is a new version with an
//! upcast, and JSON is stored as text in a newtype. Decoding has a size limit and must consume
//! every byte.

use serde::{Serialize, de::DeserializeOwned};

/// The most bytes one decode may claim, in bytes. Above every body the server accepts.
pub const DECODE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A value could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be written in this encoding (a programmer's mistake, never a user's).
    #[error("a value could not be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not a value of this type.
    #[error("bytes could not be decoded: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// The value ended before the bytes did.
    #[error("{0} bytes are left over after the value")]
    LeftOver(usize),
    /// The frame's name or version is not one that this build reads.
    #[error("{name} version {version} is not known here")]
    Unknown {
        /// The stable name in the frame.
        name: String,
        /// The version in the frame.
        version: u16,
    },
    /// The bytes are shorter than their own header says.
    #[error("the bytes end at {0}, before the value does")]
    Short(usize),
}

fn configuration() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_BYTES_MAX>,
> {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::serde::encode_to_vec(value, configuration())?)
}

/// Decodes a `T` that must take up all of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, configuration())?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(CodecError::LeftOver(left)),
    }
}

/// Decodes a `T` from the front of `bytes` and says how many bytes it took.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    Ok(bincode::serde::decode_from_slice(bytes, configuration())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        amount: i64,
        note: Option<String>,
        tags: Vec<u128>,
    }

    #[test]
    fn a_value_comes_back_as_it_went_in() {
        let sample = Sample { amount: -7, note: Some("tea".into()), tags: vec![1, u128::MAX] };
        let bytes = encode(&sample).unwrap();
        assert_eq!(decode::<Sample>(&bytes).unwrap(), sample);
    }

    #[test]
    fn left_over_and_missing_bytes_are_refused() {
        let mut bytes = encode(&Sample { amount: 1, note: None, tags: vec![] }).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<Sample>(&bytes), Err(CodecError::LeftOver(1))));
        assert!(matches!(decode::<Sample>(&bytes[..2]), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_length_that_lies_does_not_allocate() {
        let lie = encode(&u64::MAX).unwrap();
        assert!(matches!(decode::<Vec<u8>>(&lie), Err(CodecError::Decode(_))));
    }
}
