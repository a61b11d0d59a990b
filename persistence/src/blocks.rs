//! Files of checksummed blocks: what backups and archives are made of.
//!
//! A file: magic (8 bytes), then blocks. A block: kind (u8), number (u64, from 0 without a gap),
//! length of the body (u32), CRC-32 of the body (u32), CRC-32 of the head so far (u32), body. The
//! last block has the kind [`END`], its body begins with the SHA-256 of every byte before the
//! block, and nothing follows it. Integers are big endian.
//!
//! So a file that was cut short has no end, a changed byte breaks a checksum, and a block that was
//! left out, repeated or moved breaks the numbers; each is told with the byte where it stands. The
//! digest is against accidents and for comparing copies, not against forgers: who can write the
//! file can make a new digest.
//!
//! A file is made under the name `*.part`, synced, and renamed, so that one that has its name is
//! whole.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::record::Digest;

/// The kind of the last block.
pub(crate) const END: u8 = 0;
/// The longest body, in bytes: above the largest value that one commit can hold.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
const HEAD_BYTES: usize = 1 + 8 + 4 + 4 + 4;
const DIGEST_BYTES: usize = 32;
/// Stands for the length of a value that is deleted.
const DELETED: u32 = u32::MAX;
/// What the name of an unfinished file ends with.
const PART_SUFFIX: &str = ".part";

/// What is wrong with a file of blocks.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It could not be read or written.
    #[error("{path} could not be {operation}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There is one already.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// It is something else.
    #[error("{path} is not {expected}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// It ends before its end block.
    #[error("{path} is cut short at byte {at}")]
    CutShort {
        /// Which file.
        path: PathBuf,
        /// Where it ends.
        at: u64,
    },
    /// It was changed.
    #[error("{path} is damaged at byte {at}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the damaged block begins.
        at: u64,
    },
    /// A newer version wrote it.
    #[error("{path} has format {found}, this build reads up to {known}")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The format found.
        found: u16,
        /// The newest known here.
        known: u16,
    },
}

impl BlockError {
    fn file<'a>(
        path: &'a Path,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::File { path: path.to_owned(), operation, source }
    }
}

/// What one sort of file is called and begins with.
#[derive(Clone, Copy)]
pub(crate) struct Sort {
    pub(crate) magic: &'static [u8; 8],
    pub(crate) name: &'static str,
}

fn encode_head(kind: u8, number: u64, body: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = kind;
    head[1..9].copy_from_slice(&number.to_be_bytes());
    head[9..13].copy_from_slice(&(body.len() as u32).to_be_bytes());
    head[13..17].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
    let checksum = crc32fast::hash(&head[..17]);
    head[17..].copy_from_slice(&checksum.to_be_bytes());
    head
}

/// Kind, number, length and checksum of the body; `None` if the head's own checksum does not hold.
fn decode_head(head: &[u8; HEAD_BYTES]) -> Option<(u8, u64, usize, u32)> {
    let (&kind, rest) = head.split_first()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_first_chunk::<4>()?;
    let checksum = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let length = u32::from_be_bytes(*length) as usize;
    let holds = checksum == crc32fast::hash(&head[..17]) && length <= BODY_BYTES_MAX;
    holds.then(|| (kind, u64::from_be_bytes(*number), length, u32::from_be_bytes(*body)))
}

/// Writes a file of blocks. One that is dropped before its end leaves nothing.
pub(crate) struct BlockWriter {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    part: PathBuf,
    /// It has its name.
    finished: bool,
    digest: digest::Context,
    number: u64,
    bytes: u64,
}

impl BlockWriter {
    /// Begins the file that will be at `path`.
    pub(crate) fn create(path: &Path, sort: Sort) -> Result<Self, BlockError> {
        if path.exists() {
            return Err(BlockError::Exists(path.to_owned()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(PART_SUFFIX);
        let part = path.with_file_name(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(BlockError::file(&part, "created"))?;
        let mut writer = Self {
            file: Some(BufWriter::with_capacity(1 << 20, file)),
            path: path.to_owned(),
            part,
            finished: false,
            digest: digest::Context::new(&digest::SHA256),
            number: 0,
            bytes: 0,
        };
        writer.put(sort.magic)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(BlockError::file(&self.part, "written"))?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes a block, and answers at which byte it begins.
    pub(crate) fn write(&mut self, kind: u8, body: &[u8]) -> Result<u64, BlockError> {
        let begins = self.bytes;
        let head = encode_head(kind, self.number, body);
        self.number += 1;
        self.put(&head)?;
        self.put(body)?;
        Ok(begins)
    }

    /// How many bytes are written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the end, makes the file durable and gives it its name. Answers its length in bytes
    /// and the digest of what is before its end.
    pub(crate) fn finish(mut self, body: &[u8]) -> Result<(u64, Digest), BlockError> {
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(self.digest.clone().finish().as_ref());
        self.write(END, &[digest.as_slice(), body].concat())?;
        let failed = |operation| {
            let path = self.part.clone();
            move |source| BlockError::File { path, operation, source }
        };
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(|error| failed("written")(error.into_error()))?;
            file.sync_all().map_err(failed("synced"))?;
        }
        std::fs::rename(&self.part, &self.path).map_err(failed("renamed"))?;
        self.finished = true;
        sync_folder(self.path.parent()).map_err(failed("renamed"))?;
        Ok((self.bytes, digest))
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        if !self.finished {
            drop(self.file.take());
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// Removes from a folder what processes that were killed left of unfinished files; says how many.
/// Nobody may be writing one there. A folder that is missing has none.
pub fn remove_unfinished(folder: &Path) -> std::io::Result<usize> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let is_part = entry.file_name().as_encoded_bytes().ends_with(PART_SUFFIX.as_bytes());
        if is_part && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: Option<&Path>) -> std::io::Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// One block that was read.
pub(crate) struct Block {
    pub(crate) kind: u8,
    /// The byte at which it begins.
    pub(crate) at: u64,
    /// Of the end, without the digest.
    pub(crate) body: Vec<u8>,
}

/// Reads a file of blocks from its beginning to its end.
pub(crate) struct BlockReader {
    file: BufReader<File>,
    path: PathBuf,
    length: u64,
    digest: digest::Context,
    number: u64,
    at: u64,
    /// The digest, once the end has been read.
    ended: Option<Digest>,
}

impl BlockReader {
    /// Opens a file that should be of this sort.
    pub(crate) fn open(path: &Path, sort: Sort) -> Result<Self, BlockError> {
        let file = File::open(path).map_err(BlockError::file(path, "opened"))?;
        let metadata = file.metadata().map_err(BlockError::file(path, "opened"))?;
        let mut reader = Self {
            file: BufReader::with_capacity(1 << 20, file),
            path: path.to_owned(),
            length: metadata.len(),
            digest: digest::Context::new(&digest::SHA256),
            number: 0,
            at: 0,
            ended: None,
        };
        let mut magic = [0; 8];
        let is_one = metadata.is_file() && reader.fill(&mut magic).is_ok() && magic == *sort.magic;
        if !is_one {
            return Err(BlockError::Foreign { path: path.to_owned(), expected: sort.name });
        }
        reader.digest.update(&magic);
        Ok(reader)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// How far it was read, in bytes.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The digest of what is before the end, once that was read.
    pub(crate) fn digest(&self) -> Digest {
        self.ended.unwrap_or_default()
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), BlockError> {
        if self.length - self.at < into.len() as u64 {
            return Err(BlockError::CutShort { path: self.path.clone(), at: self.length });
        }
        self.file.read_exact(into).map_err(BlockError::file(&self.path, "read"))?;
        self.at += into.len() as u64;
        Ok(())
    }

    /// The next block; `None` behind the end.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, BlockError> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let at = self.at;
        let damaged = |path: &Path| BlockError::Damaged { path: path.to_owned(), at };
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head)?;
        let decoded = decode_head(&head).filter(|(_, number, ..)| *number == self.number);
        let (kind, _, length, checksum) = decoded.ok_or_else(|| damaged(&self.path))?;
        // Before the memory for it is taken: a length that lies costs nothing.
        if self.length - self.at < length as u64 {
            return Err(BlockError::CutShort { path: self.path.clone(), at: self.length });
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        if crc32fast::hash(&body) != checksum {
            return Err(damaged(&self.path));
        }
        self.number += 1;
        if kind != END {
            self.digest.update(&head);
            self.digest.update(&body);
            return Ok(Some(Block { kind, at, body }));
        }
        let found = self.digest.clone().finish();
        let Some((digest, rest)) = body.split_first_chunk::<DIGEST_BYTES>() else {
            return Err(damaged(&self.path));
        };
        if digest.as_slice() != found.as_ref() || self.at != self.length {
            return Err(damaged(&self.path));
        }
        self.ended = Some(*digest);
        Ok(Some(Block { kind, at, body: rest.to_vec() }))
    }
}

/// Reads the one block that begins at a byte of an open file.
pub(crate) fn read_at(file: &File, path: &Path, at: u64) -> Result<Block, BlockError> {
    let damaged = || BlockError::Damaged { path: path.to_owned(), at };
    let read = |into: &mut [u8], at| match file.read_exact_at(into, at) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(BlockError::CutShort { path: path.to_owned(), at })
        }
        read => read.map_err(BlockError::file(path, "read")),
    };
    let mut head = [0; HEAD_BYTES];
    read(&mut head, at)?;
    let (kind, _, length, checksum) = decode_head(&head).ok_or_else(damaged)?;
    let mut body = vec![0; length];
    read(&mut body, at + HEAD_BYTES as u64)?;
    if crc32fast::hash(&body) != checksum {
        return Err(damaged());
    }
    Ok(Block { kind, at, body })
}

/// Adds a change to a body of changes: length of the key (u32), length of the value (u32, or
/// [`DELETED`]), key, value.
pub(crate) fn put_change(body: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let length = value.map_or(DELETED, |value| value.len() as u32);
    body.extend_from_slice(&(key.len() as u32).to_be_bytes());
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(key);
    body.extend_from_slice(value.unwrap_or_default());
}

/// A key and its new value, `None` where it is deleted.
pub(crate) type ChangeRef<'a> = (&'a [u8], Option<&'a [u8]>);

/// Takes the first change from a body of changes; `None` if it is none.
pub(crate) fn take_change<'a>(body: &mut &'a [u8]) -> Option<ChangeRef<'a>> {
    let (key_length, rest) = body.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key_length) as usize)?;
    let length = u32::from_be_bytes(*length);
    if length == DELETED {
        *body = rest;
        return Some((key, None));
    }
    let (value, rest) = rest.split_at_checked(length as usize)?;
    *body = rest;
    Some((key, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SORT: Sort = Sort { magic: b"bwtested", name: "a file of this test" };

    fn read(path: &Path) -> Result<Vec<(u8, Vec<u8>)>, BlockError> {
        let mut reader = BlockReader::open(path, SORT)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next()? {
            blocks.push((block.kind, block.body));
        }
        Ok(blocks)
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("file");
        let mut writer = BlockWriter::create(&path, SORT).unwrap();
        writer.write(1, b"first").unwrap();
        writer.write(2, b"").unwrap();
        writer.finish(b"last").unwrap();
        path
    }

    #[test]
    fn blocks_come_back_in_order_and_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let expected = [(1, b"first".to_vec()), (2, Vec::new()), (END, b"last".to_vec())];
        assert_eq!(read(&path).unwrap(), expected);
        let second = (SORT.magic.len() + HEAD_BYTES + 5) as u64;
        assert_eq!(read_at(&File::open(&path).unwrap(), &path, second).unwrap().kind, 2);
        assert!(matches!(BlockWriter::create(&path, SORT), Err(BlockError::Exists(_))));
    }

    #[test]
    fn every_cut_every_changed_byte_and_every_addition_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = read(&path).unwrap_err();
            let said = matches!(error, BlockError::CutShort { .. } | BlockError::Foreign { .. });
            assert!(said, "cut at {cut}: {error}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).unwrap();
            let error = read(&path).unwrap_err();
            let said = matches!(error, BlockError::Damaged { .. } | BlockError::Foreign { .. });
            assert!(said, "changed at {at}: {error}");
        }
        std::fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(matches!(read(&path), Err(BlockError::Damaged { .. })));
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = BlockWriter::create(&folder.path().join("file"), SORT).unwrap();
        writer.write(1, b"first").unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn changes_come_back_and_nonsense_is_none() {
        let mut body = Vec::new();
        put_change(&mut body, b"key", Some(b"value"));
        put_change(&mut body, b"gone", None);
        let mut rest = body.as_slice();
        assert_eq!(take_change(&mut rest), Some((b"key".as_slice(), Some(b"value".as_slice()))));
        assert_eq!(take_change(&mut rest), Some((b"gone".as_slice(), None)));
        assert!(rest.is_empty());
        assert_eq!(take_change(&mut &body[..body.len() - 1][3..]), None);
    }
}
