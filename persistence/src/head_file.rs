//! How far the journal got, kept outside the engine.
//!
//! Every engine may silently lose the tail of its log when a sector rots. So after each commit,
//! before its riders run, the commit's number and rolling hash are written here; an engine that
//! opens behind this file is refused. Two slots of 4 KiB are written in turn, each with a
//! checksum, so that a torn write costs one commit of memory and never the file.
//!
//! The file is written with each commit and synced each second and at shutdown: a lost tail is
//! always noticed after a crash of the process, and after a power cut except for the last second.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::layout::Meta;
use crate::record::SHARDS;

const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"bwhead\0\x01";
/// Magic, generation, commit number, rolling hash, positions; then the checksum.
const BODY_BYTES: usize = 8 + 16 + 8 + 32 + 8 * SHARDS;

/// The head file's handle.
pub struct HeadFile {
    file: File,
}

impl HeadFile {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    /// The newest slot whose checksum holds; `None` in a new or unreadable file.
    pub(crate) fn read(&self) -> std::io::Result<Option<Meta>> {
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let length = self.file.metadata()?.len().min(bytes.len() as u64) as usize;
        self.file.read_exact_at(&mut bytes[..length], 0)?;
        let slots = bytes.chunks_exact(SLOT_BYTES).filter_map(decode_slot);
        Ok(slots.max_by_key(|meta| meta.commit))
    }

    /// Writes the slot whose turn it is. Not synced.
    pub(crate) fn write(&self, meta: &Meta) -> std::io::Result<()> {
        let slot = meta.commit % 2 * SLOT_BYTES as u64;
        self.file.write_all_at(&encode_slot(meta), slot)
    }

    /// Forgets both slots and writes this one, synced: the operator gave up what came after.
    pub(crate) fn restart_from(&self, meta: &Meta) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.write(meta)?;
        self.file.sync_all()
    }

    /// Syncs what was written.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

fn encode_slot(meta: &Meta) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&meta.generation.to_be_bytes());
    bytes.extend_from_slice(&meta.commit.to_be_bytes());
    bytes.extend_from_slice(&meta.rolling);
    for position in &meta.positions {
        bytes.extend_from_slice(&position.to_be_bytes());
    }
    bytes.resize(BODY_BYTES, 0);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes.resize(SLOT_BYTES, 0);
    bytes
}

fn decode_slot(slot: &[u8]) -> Option<Meta> {
    let (body, rest) = slot.split_at_checked(BODY_BYTES)?;
    let checksum = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    if !body.starts_with(MAGIC) || checksum != crc32fast::hash(body) {
        return None;
    }
    let (generation, body) = body[8..].split_first_chunk::<16>()?;
    let (commit, body) = body.split_first_chunk::<8>()?;
    let (rolling, body) = body.split_first_chunk::<32>()?;
    let position = |bytes: &[u8]| bytes.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
    Some(Meta {
        version: crate::layout::LAYOUT_VERSION,
        generation: u128::from_be_bytes(*generation),
        commit: u64::from_be_bytes(*commit),
        rolling: *rolling,
        positions: body.chunks_exact(8).map(position).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(commit: u64) -> Meta {
        let positions = (0..SHARDS as u64).map(|n| n * commit).collect();
        let version = crate::layout::LAYOUT_VERSION;
        Meta { version, generation: 5, commit, rolling: [commit as u8; 32], positions }
    }

    #[test]
    fn the_newest_whole_slot_is_read_and_a_torn_one_falls_back() {
        let folder = tempfile::tempdir().unwrap();
        let head = HeadFile::open(&folder.path().join("head")).unwrap();
        assert_eq!(head.read().unwrap(), None);
        head.write(&meta(1)).unwrap();
        head.write(&meta(2)).unwrap();
        head.write(&meta(3)).unwrap();
        assert_eq!(head.read().unwrap(), Some(meta(3)));
        head.file.write_all_at(b"torn", SLOT_BYTES as u64 + 100).unwrap();
        assert_eq!(head.read().unwrap(), Some(meta(2)));
    }
}
