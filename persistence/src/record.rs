//! What one record is, and how the records of one shard in one batch are framed as one value.
//!
//! A record is a header in the clear, a payload that is already sealed, and the link that ties it
//! into its home's chain. The header is the action record: who did what to which stream, when, and
//! because of what. The format is for ever: a change is a new [`FORMAT`], and every old one stays
//! readable (`testdata/` holds bytes of each).
//!
//! A value: format (1 byte), count (u32), then for each record: header length (u16), payload
//! length (u32), header (bincode), link (32 bytes), payload. Integers are big endian.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::codec::CodecError;

/// The version of the frame and header that this build writes.
pub const FORMAT: u8 = 1;
/// How many shards there are, for ever: positions name them.
pub const SHARDS: usize = 256;
/// The longest stream name, in bytes.
pub const STREAM_BYTES_MAX: usize = 200;
/// The most bytes one payload may have once sealed.
pub const PAYLOAD_BYTES_MAX: usize = 48 * 1024 * 1024;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// SHA-256 over the parts in order.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// One of 256 independent sequences of positions. All streams of one owner share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard(pub u8);

/// Where a record stands: contiguous from 1 within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The shard.
    pub shard: Shard,
    /// The place in it, from 1.
    pub pos: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard.0, self.pos)
    }
}

/// Who owns a stream: a class (tenant, user, app, platform; the layer above names them) and an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OwnerKey {
    /// What kind of owner.
    pub class: u8,
    /// Its id.
    pub id: u128,
}

impl OwnerKey {
    /// The shard of everything this owner owns. The formula is for ever.
    pub fn shard(&self) -> Shard {
        Shard(sha256(&[&[self.class], &self.id.to_be_bytes()])[0])
    }
}

/// Whose chain a record belongs to: the id of a tenant, or 0 for the platform's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Home(pub u128);

/// The name of one entity's stream, `kind/id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// A stream name; `None` when it is empty, too long or holds a control character.
    pub fn new(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() <= STREAM_BYTES_MAX;
        (fits && !name.bytes().any(|b| b < 0x20)).then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place in a distributed trace that a caller sent along (W3C Trace Context, `traceparent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// The caller's own span in it.
    pub parent: u64,
}

/// The request that something was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRef {
    /// Its id, a UUIDv7.
    pub id: u128,
    /// The trace it belongs to, if its caller named one.
    pub trace: Option<TraceParent>,
}

impl From<u128> for RequestRef {
    /// A request outside of any trace.
    fn from(id: u128) -> Self {
        Self { id, trace: None }
    }
}

/// What a record says in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Where it stands. Given by the writer.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamName,
    /// Its number in the stream, from 1.
    pub seq: u64,
    /// Who owns the stream.
    pub owner: OwnerKey,
    /// Whose chain it is in.
    pub home: Home,
    /// Its number in that chain, from 1. Given by the writer.
    pub chain_seq: u64,
    /// Who asked, as the layer above writes it (ids only, nothing personal).
    pub caller: Arc<str>,
    /// The request it was part of.
    pub request: RequestRef,
    /// The record whose effect asked for this one.
    pub cause: Option<Position>,
    /// The command that recorded it.
    pub command: Arc<str>,
    /// The event's stable name.
    pub event: Arc<str>,
    /// The version of the event's payload.
    pub event_version: u16,
    /// When, in milliseconds since 1970, by the clock of the turn.
    pub time_ms: i64,
}

/// A record as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says in the clear.
    pub header: Header,
    /// `SHA-256(previous link, header digest, payload digest)` in its home's chain.
    pub link: Digest,
    /// The sealed payload.
    pub payload: Vec<u8>,
}

/// A record on its way in: what the writer does not know by itself.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// The event's stable name.
    pub event: Arc<str>,
    /// The version of its payload.
    pub event_version: u16,
    /// The sealed payload.
    pub payload: Vec<u8>,
}

/// The link of a record: over ciphertext, so that a shredded chain still verifies.
pub fn link(previous: &Digest, header: &[u8], payload: &[u8]) -> Digest {
    link_of(previous, &sha256(&[header]), &sha256(&[payload]))
}

/// The link of a record of which only the digests of header and payload are at hand.
pub fn link_of(previous: &Digest, header: &Digest, payload: &Digest) -> Digest {
    sha256(&[previous, header, payload])
}

/// Builds the value of one shard in one batch.
#[derive(Default)]
pub(crate) struct ValueBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl ValueBuilder {
    pub(crate) fn push(&mut self, header: &[u8], link: &Digest, payload: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
        }
        self.count += 1;
        // A header holds names that are at most a few hundred bytes: see STREAM_BYTES_MAX.
        self.bytes.extend_from_slice(&(header.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(link);
        self.bytes.extend_from_slice(payload);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes[1..5].copy_from_slice(&self.count.to_be_bytes());
        self.bytes
    }
}

/// One framed record, borrowed from its value, header not yet decoded.
pub(crate) struct Frame<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) link: Digest,
    pub(crate) payload: &'a [u8],
}

/// Splits a value into its frames.
pub(crate) fn frames(value: &[u8]) -> Result<Vec<Frame<'_>>, CodecError> {
    let short = || CodecError::Short(value.len());
    let (&format, rest) = value.split_first().ok_or_else(short)?;
    if format != FORMAT {
        return Err(CodecError::Unknown { name: "record value".into(), version: format.into() });
    }
    let (count, mut rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let mut out = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (header_len, after) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (payload_len, after) = after.split_first_chunk::<4>().ok_or_else(short)?;
        let header_len = usize::from(u16::from_be_bytes(*header_len));
        let payload_len = u32::from_be_bytes(*payload_len) as usize;
        let (header, after) = after.split_at_checked(header_len).ok_or_else(short)?;
        let (link, after) = after.split_first_chunk::<32>().ok_or_else(short)?;
        let (payload, after) = after.split_at_checked(payload_len).ok_or_else(short)?;
        out.push(Frame { header, link: *link, payload });
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(CodecError::LeftOver(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn header() -> Header {
        Header {
            position: Position { shard: Shard(7), pos: 42 },
            stream: StreamName::new("wallet/01arz3ndektsv4rrffq69g5fav").unwrap(),
            seq: 3,
            owner: OwnerKey { class: 1, id: 0x0123_4567_89ab_cdef },
            home: Home(0x0123_4567_89ab_cdef),
            chain_seq: 9,
            caller: "user/01arz3ndektsv4rrffq69g5fav".into(),
            request: RequestRef {
                id: 0xfeed,
                trace: Some(TraceParent { trace: 0x4bf9_2f35, parent: 0x00f0_67aa }),
            },
            cause: Some(Position { shard: Shard(7), pos: 41 }),
            command: "debit".into(),
            event: "debited".into(),
            event_version: 1,
            time_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_value_splits_into_what_was_pushed() {
        let mut value = ValueBuilder::default();
        let bytes = codec::encode(&header()).unwrap();
        value.push(&bytes, &[7; 32], b"sealed");
        value.push(&bytes, &[8; 32], b"");
        let value = value.finish();
        let frames = frames(&value).unwrap();
        assert_eq!(frames.len(), 2);
        assert_eq!(codec::decode::<Header>(frames[0].header).unwrap(), header());
        assert_eq!((frames[0].link, frames[0].payload), ([7; 32], b"sealed".as_slice()));
    }

    #[test]
    fn every_truncation_and_every_foreign_format_is_refused() {
        let mut value = ValueBuilder::default();
        value.push(&codec::encode(&header()).unwrap(), &[7; 32], b"sealed");
        let mut value = value.finish();
        for cut in 0..value.len() {
            assert!(frames(&value[..cut]).is_err(), "cut at {cut}");
        }
        value[0] = 99;
        assert!(matches!(frames(&value), Err(CodecError::Unknown { version: 99, .. })));
    }

    /// The bytes of format 1, for ever. A change here is a new format with its own file.
    #[test]
    fn the_first_format_is_pinned() {
        let mut value = ValueBuilder::default();
        value.push(&codec::encode(&header()).unwrap(), &[7; 32], b"sealed");
        let hex = data_encoding::HEXLOWER.encode(&value.finish());
        assert_eq!(hex, include_str!("../testdata/value_format_1.hex").trim());
    }
}
