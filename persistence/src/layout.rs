//! Where everything stands in the engine's one keyspace.
//!
//! | prefix | key | value |
//! | --- | --- | --- |
//! | `a` | shard (1), number (8) | what one archive file holds ([`crate::archive`]) |
//! | `c` | home (16), first chain number (8) | chain index entry: where the batch's records are |
//! | `h` | home (16) | [`crate::chain::ChainHead`] |
//! | `m` | name | the store's own figures |
//! | `n` | stream | the stream's snapshot |
//! | `p` | shard (1), family, 0, key | a row |
//! | `r` | shard (1), first position (8) | the shard's records of one batch, or their stub |
//! | `s` | stream, 0, first number (8) | stream index entry |
//!
//! Integers in keys are big endian, so that keys sort as their numbers do.

use serde::{Deserialize, Serialize};

use crate::record::{Home, Shard, StreamName};

/// The key of one row: rows of one family in one shard sort by `key`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    /// The shard of the owner whose stream writes it.
    pub shard: Shard,
    /// The family, a short word.
    pub family: std::borrow::Cow<'static, str>,
    /// The key within the family.
    pub key: Vec<u8>,
}

impl RowKey {
    /// A row's key.
    pub fn new(shard: Shard, family: &'static str, key: impl Into<Vec<u8>>) -> Self {
        Self { shard, family: family.into(), key: key.into() }
    }

    /// The key as the engine sees it: also what the row's seal is bound to.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = family_prefix(self.shard, &self.family);
        bytes.extend_from_slice(&self.key);
        bytes
    }
}

impl RowKey {
    /// The row's key that an engine key stands for; `None` if it is none.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let [b'p', shard, rest @ ..] = bytes else { return None };
        let end = rest.iter().position(|byte| *byte == 0)?;
        let family = std::str::from_utf8(&rest[..end]).ok()?.to_owned().into();
        Some(Self { shard: Shard(*shard), family, key: rest[end + 1..].to_vec() })
    }
}

/// A bounded range of rows: one family in one shard, keys that start with `prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRange {
    /// The shard.
    pub shard: Shard,
    /// The family.
    pub family: &'static str,
    /// What every key begins with.
    pub prefix: Vec<u8>,
    /// Only keys after this one (before it, if `newest_first`); used to page on.
    pub after: Option<Vec<u8>>,
    /// From the last key to the first.
    pub newest_first: bool,
    /// How many at most.
    pub limit: usize,
}

impl RowRange {
    /// The engine keys `[start, end)` of the range.
    pub(crate) fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let base = family_prefix(self.shard, self.family);
        let join = |key: &[u8]| [base.as_slice(), key].concat();
        let mut start = join(&self.prefix);
        let mut end = successor(&start);
        match &self.after {
            Some(after) if self.newest_first => end = join(after).min(end),
            Some(after) => start = [join(after), vec![0]].concat().max(start),
            None => {}
        }
        (start, end)
    }

    /// The row key that an engine key of this range stands for.
    pub(crate) fn row_key(&self, bytes: &[u8]) -> RowKey {
        let base = family_prefix(self.shard, self.family).len();
        RowKey::new(self.shard, self.family, bytes.get(base..).unwrap_or_default())
    }
}

fn family_prefix(shard: Shard, family: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(family.len() + 48);
    bytes.extend_from_slice(&[b'p', shard.0]);
    bytes.extend_from_slice(family.as_bytes());
    bytes.push(0);
    bytes
}

/// The smallest key greater than every key that begins with `prefix`.
pub(crate) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 8]
}

pub(crate) fn records(shard: Shard, first_pos: u64) -> Vec<u8> {
    [&[b'r', shard.0], first_pos.to_be_bytes().as_slice()].concat()
}

/// The first position that a key made by [`records`] names.
pub(crate) fn first_pos_of(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

pub(crate) fn stream(stream: &StreamName, first_seq: u64) -> Vec<u8> {
    [b"s", stream.as_str().as_bytes(), &[0], &first_seq.to_be_bytes()].concat()
}

pub(crate) fn snapshot(stream: &StreamName) -> Vec<u8> {
    [b"n", stream.as_str().as_bytes()].concat()
}

pub(crate) fn chain(home: Home, first_chain_seq: u64) -> Vec<u8> {
    [b"c", home.0.to_be_bytes().as_slice(), &first_chain_seq.to_be_bytes()].concat()
}

pub(crate) fn chain_head(home: Home) -> Vec<u8> {
    [b"h", home.0.to_be_bytes().as_slice()].concat()
}

/// The one meta row: [`Meta`].
pub(crate) const META: &[u8] = b"mstore";

/// How far the store has come; written with every commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The layout's version. A build refuses a newer one before it writes.
    pub(crate) version: u16,
    /// Made anew when the store is created or restored.
    pub(crate) generation: u128,
    /// The number of the last commit.
    pub(crate) commit: u64,
    /// `SHA-256(previous rolling hash, the commit's links)`.
    pub(crate) rolling: [u8; 32],
    /// The last position of each shard.
    pub(crate) positions: Vec<u64>,
}

/// The version of everything in this file. 2: values in the store have checksums behind them.
pub(crate) const LAYOUT_VERSION: u16 = 2;

/// Where one stream's records of one batch stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamEntry {
    pub(crate) shard: Shard,
    /// Names the value that holds them.
    pub(crate) first_pos: u64,
    pub(crate) last_seq: u64,
}

/// Where one home's records of one batch stand: runs of chain numbers, each in one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainEntry {
    /// When the first of them was recorded.
    pub(crate) time_ms: i64,
    pub(crate) last_chain_seq: u64,
    /// The values that hold them: (shard, first position).
    pub(crate) values: Vec<(Shard, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_the_least_key_behind_all_with_the_prefix() {
        assert_eq!(successor(b"ab"), b"ac");
        assert_eq!(successor(&[1, 255, 255]), [2]);
        assert!(successor(&[255, 255]) > vec![255, 255, 255, 7]);
    }

    #[test]
    fn paging_leaves_out_the_key_it_stands_on() {
        let mut range = RowRange {
            shard: Shard(1),
            family: "hold",
            prefix: b"t".to_vec(),
            after: Some(b"t5".to_vec()),
            newest_first: false,
            limit: 10,
        };
        let key = |k: &[u8]| RowKey::new(Shard(1), "hold", k).bytes();
        let (start, end) = range.bounds();
        assert!(key(b"t5") < start && start <= key(b"t50") && key(b"tz") < end && end <= key(b"u"));
        range.newest_first = true;
        let (start, end) = range.bounds();
        assert!(start <= key(b"t") && key(b"t4") < end && end <= key(b"t5"));
    }
}
