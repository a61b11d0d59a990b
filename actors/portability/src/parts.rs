//! What the parts of a tenant's file say: see [`persistence::tenant_file`].

use persistence::codec;
use persistence::record::Digest;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::UserId;

use crate::problems;

/// The kind of the parts that hold [`Member`]s; all before the first record.
pub(crate) const MEMBERS: u8 = 0;
/// The kind of the parts that hold [`CarriedRecord`]s.
pub(crate) const RECORDS: u8 = 1;
/// When a part of records is written, in bytes.
pub(crate) const PART_BYTES: usize = 1024 * 1024;
/// How many members one part holds.
pub(crate) const PART_MEMBERS: usize = 1_000;

/// A member, by whose e-mail address a user is found or made elsewhere.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    pub(crate) email: String,
    pub(crate) name: Option<String>,
}

/// A record of the tenant's chain.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CarriedRecord {
    /// As it stands in the chain, encoded.
    pub(crate) header: Vec<u8>,
    /// SHA-256 of the payload as it was sealed.
    pub(crate) payload_digest: Digest,
    pub(crate) link: Digest,
    /// The payload in clear; `None` for what stays.
    pub(crate) payload: Option<Vec<u8>>,
}

impl CarriedRecord {
    /// About how long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.payload.as_ref().map_or(0, Vec::len) + 80
    }
}

pub(crate) fn encode<T: Serialize>(part: &T) -> Result<Vec<u8>, Refusal> {
    codec::encode(part).map_err(|error| problems::failed("encoding a part", &error))
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(part: &[u8]) -> Result<T, Refusal> {
    codec::decode(part).map_err(|error| problems::unfit(&error))
}
