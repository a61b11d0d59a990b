//! The frames of the log: what one commit is in a segment.
//!
//! A frame: length of the body (u32), CRC-32 of number and body (u32), commit number (u64), body.
//! A body: for each change the lengths of key and value (u32 each, the latter [`DELETED`] for a
//! deletion), key, value. Integers are big endian. Eight zeros are no frame, because the CRC-32 of
//! zeros is not zero: so a segment may end with zeros that were written in advance.

use std::collections::BTreeMap;

/// How long a frame is beside its body, in bytes.
pub(super) const FRAME_HEAD_BYTES: usize = 4 + 4 + 8;
/// A value's length when there is none.
const DELETED: u32 = u32::MAX;

pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);
pub(super) type Table = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

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

/// Takes a body's changes into `table`; answers its length, `None` if it is malformed.
pub(super) fn decode_body(mut body: &[u8], table: &mut Table) -> Option<usize> {
    let whole = body.len();
    while !body.is_empty() {
        let (key_length, rest) = body.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key_length) as usize)?;
        let length = u32::from_be_bytes(*length);
        if length == DELETED {
            table.insert(key.to_vec(), None);
            body = rest;
        } else {
            let (value, rest) = rest.split_at_checked(length as usize)?;
            table.insert(key.to_vec(), Some(value.to_vec()));
            body = rest;
        }
    }
    Some(whole)
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
