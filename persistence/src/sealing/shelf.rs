//! Where wrapped data keys lie: in the key file, one entry of [`ENTRY_BYTES`] a number, in order
//! and without a gap; and in memory those that the file does not have yet.
//!
//! What a number stands for is read from the file when it is asked for. Most keys are those of
//! tenants that nobody uses at the moment: they take room on the disk and none in memory.
//!
//! An entry: class (1 byte), id (u128), number (u32), nonce (12), wrapped key and tag (48), CRC-32
//! of all that. That of an erased key is one without an owner, so that its number is never given
//! again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{FILE_MAGIC, KeyId, SealError, TAG_BYTES};

pub(super) const ENTRY_BYTES: usize = 17 + 4 + 12 + 32 + TAG_BYTES + 4;

/// Stands for an erased key, so that its number is never given again.
const TOMBSTONE: KeyId = KeyId { class: 0, id: 0 };

/// A data key under the master key.
pub(super) struct Entry {
    pub(super) id: KeyId,
    pub(super) nonce: [u8; 12],
    pub(super) wrapped: [u8; 32 + TAG_BYTES],
}

/// The entries of a key file, and those that come after them.
#[derive(Default)]
pub(super) struct Shelf {
    file: Option<(PathBuf, File)>,
    /// How many of the entries the file has.
    filed: usize,
    /// The others, as they are written.
    unfiled: Vec<u8>,
}

impl Shelf {
    /// The first `filed` entries of a file.
    pub(super) fn of(path: &Path, file: File, filed: usize) -> Self {
        Self { file: Some((path.to_owned(), file)), filed, unfiled: Vec::new() }
    }

    /// How many there are, those that were erased with them.
    pub(super) fn len(&self) -> usize {
        self.filed + self.unfiled.len() / ENTRY_BYTES
    }

    /// How many of them the file has.
    pub(super) fn filed(&self) -> usize {
        self.filed
    }

    /// Puts an entry behind the others; its number is the [`Shelf::len`] of before.
    pub(super) fn push(&mut self, entry: &Entry) {
        let bytes = encode_entry(self.len() as u32, Some(entry));
        self.unfiled.extend_from_slice(&bytes);
    }

    /// The entry of a number, `None` if it was erased: one that was never given is that of a key
    /// file that was lost.
    pub(super) fn get(&self, number: u32) -> Result<Option<Entry>, SealError> {
        let index = number as usize;
        let mut bytes = [0; ENTRY_BYTES];
        match (index.checked_sub(self.filed), &self.file) {
            (Some(index), _) => {
                let (entries, _) = self.unfiled.as_chunks::<ENTRY_BYTES>();
                bytes = *entries.get(index).ok_or(SealError::UnknownKey)?;
            }
            (None, Some((path, file))) => {
                let failed = |source| {
                    let path = path.clone();
                    SealError::File { path, operation: "read", source }
                };
                file.read_exact_at(&mut bytes, place_of(index) as u64).map_err(failed)?;
            }
            (None, None) => return Err(SealError::UnknownKey),
        }
        let entry = decode_entry(number, &bytes);
        entry.ok_or_else(|| SealError::Damaged(self.path(), place_of(index)))
    }

    fn path(&self) -> PathBuf {
        self.file.as_ref().map(|(path, _)| path.clone()).unwrap_or_default()
    }

    /// What the file does not have yet.
    pub(super) fn unfiled(&self) -> &[u8] {
        &self.unfiled
    }

    /// The file has so many bytes more of it.
    pub(super) fn note_filed(&mut self, bytes: usize) {
        self.unfiled.drain(..bytes);
        self.filed += bytes / ENTRY_BYTES;
        if self.unfiled.is_empty() {
            self.unfiled = Vec::new();
        }
    }

    /// Overwrites the entries of keys that no file has.
    pub(super) fn erase_unfiled(&mut self, numbers: &[u32]) {
        let (entries, _) = self.unfiled.as_chunks_mut::<ENTRY_BYTES>();
        for number in numbers {
            let index = (*number as usize).checked_sub(self.filed);
            if let Some(entry) = index.and_then(|index| entries.get_mut(index)) {
                *entry = encode_entry(*number, None);
            }
        }
    }
}

/// Where the entry of a number begins in the file.
pub(super) fn place_of(index: usize) -> usize {
    FILE_MAGIC.len() + index * ENTRY_BYTES
}

/// What a wrapped key is bound to.
pub(super) fn entry_label(id: KeyId, number: u32) -> [u8; 21] {
    let mut label = [0; 21];
    label[0] = id.class;
    label[1..17].copy_from_slice(&id.id.to_be_bytes());
    label[17..].copy_from_slice(&number.to_be_bytes());
    label
}

/// An entry as the file has it; without one, that of an erased key.
pub(super) fn encode_entry(number: u32, entry: Option<&Entry>) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    let id = entry.map_or(TOMBSTONE, |entry| entry.id);
    bytes[..21].copy_from_slice(&entry_label(id, number));
    if let Some(entry) = entry {
        bytes[21..33].copy_from_slice(&entry.nonce);
        bytes[33..81].copy_from_slice(&entry.wrapped);
    }
    let checksum = crc32fast::hash(&bytes[..81]);
    bytes[81..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The entry of this number, or that its key was erased; `None` for anything else.
pub(super) fn decode_entry(number: u32, bytes: &[u8]) -> Option<Option<Entry>> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(body) {
        return None;
    }
    let (class, body) = body.split_first()?;
    let (id, body) = body.split_first_chunk::<16>()?;
    let (found, body) = body.split_first_chunk::<4>()?;
    let (nonce, body) = body.split_first_chunk::<12>()?;
    let wrapped = *body.first_chunk::<48>()?;
    if u32::from_be_bytes(*found) != number {
        return None;
    }
    let id = KeyId { class: *class, id: u128::from_be_bytes(*id) };
    Some((id != TOMBSTONE).then_some(Entry { id, nonce: *nonce, wrapped }))
}
