//! How far the journal got, kept outside the engine.
//!
//! Every engine may silently lose the tail of its log when a sector rots. So after each commit,
//! before its riders run, the commit's number and rolling hash are written here; an engine that
//! opens behind this file is refused. There are two slots of 4 KiB, each with a checksum. One is
//! written with each commit until it is synced; then it rests and the other one is written. So a
//! power cut that tears what was not synced yet always leaves a slot that was. The first slot is
//! synced before the first commit, so a journal with commits whose head file has no whole slot has
//! lost it, and is refused as well.
//!
//! The file is written with each commit and synced each second and at shutdown: a lost tail is
//! always noticed after a crash of the process, and after a power cut except for the last second.
//! It is written after the commit's sync, so it never knows more than the engine kept.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::blocks::sync_folder;
use crate::layout::Meta;
use crate::record::SHARDS;

const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"bwhead\0\x01";
/// Magic, generation, commit number, rolling hash, positions; then the checksum.
const BODY_BYTES: usize = 8 + 16 + 8 + 32 + 8 * SHARDS;

/// The head file's handle.
pub struct HeadFile {
    path: PathBuf,
    /// `None` until there is one.
    file: Option<File>,
    /// Which slot is written now; the other one is synced.
    turn: usize,
}

impl HeadFile {
    /// Opens the file. One that is missing is made when a journal starts on it.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // The newest slot rests from here on: a killed process may have left it unsynced.
        if let Some(file) = &file {
            file.sync_all()?;
        }
        let mut head = Self { path: path.to_owned(), file, turn: 0 };
        let newest = head.newest()?;
        head.turn = newest.map_or(0, |(slot, _)| 1 - slot);
        Ok(head)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest slot whose checksum holds; `None` in a new or unreadable file.
    pub(crate) fn read(&self) -> std::io::Result<Option<Meta>> {
        Ok(self.newest()?.map(|(_, meta)| meta))
    }

    fn newest(&self) -> std::io::Result<Option<(usize, Meta)>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let length = file.metadata()?.len().min(bytes.len() as u64) as usize;
        file.read_exact_at(&mut bytes[..length], 0)?;
        let slots = bytes.chunks_exact(SLOT_BYTES).map(decode_slot).enumerate();
        let whole = slots.filter_map(|(slot, meta)| Some((slot, meta?)));
        Ok(whole.max_by_key(|(_, meta)| meta.commit))
    }

    /// Writes the slot whose turn it is. Not synced.
    pub(crate) fn write(&self, meta: &Meta) -> std::io::Result<()> {
        self.made()?.write_all_at(&encode_slot(meta), (self.turn * SLOT_BYTES) as u64)
    }

    fn made(&self) -> std::io::Result<&File> {
        self.file.as_ref().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    /// Forgets both slots and writes one, synced: the journal is new, or the operator gave up what
    /// came after.
    pub(crate) fn restart_from(&mut self, meta: &Meta) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        self.file = Some(options.open(&self.path)?);
        self.turn = 0;
        self.write(meta)?;
        self.made()?.sync_all()?;
        sync_folder(self.path.parent())?;
        self.turn = 1;
        Ok(())
    }

    /// Syncs what was written; the other slot's turn begins.
    pub(crate) fn sync(&mut self) -> std::io::Result<()> {
        self.made()?.sync_data()?;
        self.turn = 1 - self.turn;
        Ok(())
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
    fn a_torn_slot_falls_back_to_one_that_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        let mut head = HeadFile::open(&path).unwrap();
        assert_eq!(head.read().unwrap(), None);
        head.restart_from(&meta(0)).unwrap();
        for synced in [1, 5, 9] {
            head.write(&meta(synced)).unwrap();
            head.sync().unwrap();
            head.write(&meta(synced + 1)).unwrap();
            head.write(&meta(synced + 2)).unwrap();
            assert_eq!(head.read().unwrap(), Some(meta(synced + 2)));
            let torn = (head.turn * SLOT_BYTES) as u64 + 100;
            head.made().unwrap().write_all_at(b"torn", torn).unwrap();
            assert_eq!(head.read().unwrap(), Some(meta(synced)));
            // Whoever opens it next leaves the good slot alone, too.
            head = HeadFile::open(&path).unwrap();
            head.write(&meta(synced + 3)).unwrap();
            assert_eq!(head.read().unwrap(), Some(meta(synced + 3)));
            let torn = (head.turn * SLOT_BYTES) as u64 + 100;
            head.made().unwrap().write_all_at(b"torn", torn).unwrap();
            assert_eq!(head.read().unwrap(), Some(meta(synced)));
        }
    }

    #[test]
    fn after_a_loss_was_accepted_the_head_goes_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        let mut head = HeadFile::open(&path).unwrap();
        head.write(&meta(7)).unwrap_err();
        head.restart_from(&meta(6)).unwrap();
        head.write(&meta(7)).unwrap();
        head.sync().unwrap();
        head.restart_from(&meta(3)).unwrap();
        assert_eq!(head.read().unwrap(), Some(meta(3)));
        head.write(&meta(4)).unwrap();
        assert_eq!(HeadFile::open(&path).unwrap().read().unwrap(), Some(meta(4)));
    }
}
