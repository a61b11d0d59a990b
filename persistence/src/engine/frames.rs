//! The frames of the log: what one commit is in a segment.
//!
//! A frame: length of the body (u32), CRC-32 of number and body (u32), commit number (u64), body.
//! A body: for each change the lengths of key and value (u32 each, the latter [`DELETED`] for a
//! deletion), key, value. Integers are big endian. Eight zeros are no frame, because the CRC-32 of
//! zeros is not zero: so a segment may end with zeros that were written in advance.
//!
//! A table holds the bodies as they were written, and points into them: a commit is one piece of
//! memory, which goes with the table, and not two for each of its changes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// How long a frame is beside its body, in bytes.
pub(super) const FRAME_HEAD_BYTES: usize = 4 + 4 + 8;
/// A value's length when there is none.
const DELETED: u32 = u32::MAX;

pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);
pub(super) type Table = BTreeMap<Slice, Option<Slice>>;

/// A key or a value, where it stands in a frame's body.
#[derive(Clone)]
pub(super) struct Slice {
    body: Arc<[u8]>,
    at: u32,
    length: u32,
}

impl Slice {
    /// The next `length` bytes from `at` on, which moves behind them; `None` if there are fewer.
    fn next(body: &Arc<[u8]>, at: &mut usize, length: u32) -> Option<Self> {
        let slice = Self { body: body.clone(), at: u32::try_from(*at).ok()?, length };
        *at = at.checked_add(length as usize).filter(|end| *end <= body.len())?;
        Some(slice)
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body[self.at as usize..][..self.length as usize]
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Slice {}

impl PartialOrd for Slice {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

/// Puts one frame into `buffer`, in place of what it held.
pub(super) fn encode_frame(buffer: &mut Vec<u8>, number: u64, changes: &[Change]) {
    buffer.clear();
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&number.to_be_bytes());
    for (key, value) in changes {
        let length = value.as_ref().map_or(DELETED, |value| value.len() as u32);
        buffer.extend_from_slice(&(key.len() as u32).to_be_bytes());
        buffer.extend_from_slice(&length.to_be_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let length = (buffer.len() - FRAME_HEAD_BYTES) as u32;
    buffer[..4].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32fast::hash(&buffer[8..]);
    buffer[4..8].copy_from_slice(&checksum.to_be_bytes());
}

/// The first frame's number, body and length; `None` if it is cut short or does not check.
pub(super) fn decode_frame(bytes: &[u8]) -> Option<(u64, &[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let checked = rest.get(..8 + length)?;
    if crc32fast::hash(checked) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (number, body) = checked.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), body, FRAME_HEAD_BYTES + length))
}

/// Takes a body's changes into `table`; `None` if it is malformed.
pub(super) fn take_body(body: &[u8], table: &mut Table) -> Option<()> {
    let (body, mut at): (Arc<[u8]>, usize) = (body.into(), 0);
    while at < body.len() {
        let (key_length, rest) = body[at..].split_first_chunk::<4>()?;
        let (length, _) = rest.split_first_chunk::<4>()?;
        at += 8;
        let key = Slice::next(&body, &mut at, u32::from_be_bytes(*key_length))?;
        let value = match u32::from_be_bytes(*length) {
            DELETED => None,
            length => Some(Slice::next(&body, &mut at, length)?),
        };
        table.insert(key, value);
    }
    Some(())
}

/// Whether a whole frame of a later commit than `last` follows a bad one. It was written only once
/// the bad one had been synced, so that one was whole, and acknowledged.
pub(super) fn has_later_frame(bytes: &[u8], last: u64) -> bool {
    let number_at = |at: usize| {
        let number = bytes.get(at + 8..at + FRAME_HEAD_BYTES)?;
        Some(u64::from_be_bytes(number.try_into().ok()?))
    };
    // So many frames fit at most: a number beyond that is none, and needs no checksum.
    let frames_max = (bytes.len() / FRAME_HEAD_BYTES) as u64;
    let may_be = |at: &usize| {
        number_at(*at).is_some_and(|number| number > last && number - last <= frames_max + 1)
    };
    (1..bytes.len()).filter(may_be).any(|at| decode_frame(&bytes[at..]).is_some())
}
