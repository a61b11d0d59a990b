//! Archives: old records in files of their own, read through as if they had never moved.
//!
//! A value (the records of one shard in one batch) is old when every record in it is older than
//! the rules say and stands behind its stream's snapshot, so that no entity needs it to start.
//! Old values of a shard are written to `archive/SHARD-NUMBER` in the data folder, synced, and only
//! then does one commit put a *stub* in the place of each, which says where it went, and writes
//! down what the archive holds. A crash before that commit leaves a file that nothing names, and
//! the next archive of that shard takes its place. Indexes, chain heads, rows and snapshots stay in
//! the engine; records stay sealed and keep their links, so that chains verify through archives.
//!
//! The file is one of checksummed blocks ([`crate::blocks`]), `bwarchiv`: a header, one block for
//! each value, and an end with first and last position and link and the Merkle root (RFC 9162) over
//! the links. The engine keeps the end's words and the file's digest ([`ArchiveEntry`]).
//!
//! Limits: archives are never removed or merged; an archive file that is lost loses its records.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::blocks::{self, BlockError, BlockReader, BlockWriter, END, Sort};
use crate::chain::ChainHead;
use crate::codec::CodecError;
use crate::engine::{Direction, EngineError, WriteBatch};
use crate::generations::Generations;
use crate::journal::{Journal, Shared, Work, decode};
use crate::layout;
use crate::record::{self, Digest, Header, Shard, StreamName};
use crate::{ReadError, codec};

/// The newest format of an archive that this build reads, and the one it writes.
pub const ARCHIVE_FORMAT: u16 = 1;
/// How much one archive holds, about, in bytes.
pub const ARCHIVE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many values one step looks at.
const STEP_VALUES_MAX: usize = 65_536;
/// How many values one page of a step reads.
const PAGE_VALUES: usize = 16;
/// A step that has met so many values that are not old is at the end: records of a shard are in
/// the order of their times, but for clocks that jumped.
const NEWER_VALUES_MAX: usize = 16;
/// How many archives stay open for reading, at most twice over.
const OPEN_FILES_MAX: usize = 64;
/// The first byte of a stub, where a value has its format.
const STUB: u8 = u8::MAX;
/// The folder of the archives in the data folder.
pub const ARCHIVE_FOLDER: &str = "archive";

const SORT: Sort = Sort { magic: b"bwarchiv", name: "a Bailiwick archive" };
const HEADER: u8 = 1;
const VALUE: u8 = 2;

/// Which archive: numbered from 1 within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArchiveId {
    /// The shard whose records it holds.
    pub shard: Shard,
    /// Its number.
    pub number: u64,
}

impl std::fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:03}-{:020}", self.shard.0, self.number)
    }
}

impl ArchiveId {
    const BYTES: usize = 9;

    fn key(self) -> Vec<u8> {
        [b"a".as_slice(), &self.bytes()].concat()
    }

    /// The archive whose entry stands under an engine key.
    pub(crate) fn of_key(key: &[u8]) -> Option<Self> {
        let (id, rest) = Self::split(key.strip_prefix(b"a")?)?;
        rest.is_empty().then_some(id)
    }

    pub(crate) fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [self.shard.0; Self::BYTES];
        bytes[1..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// What [`ArchiveId::bytes`] stand for, and what follows them.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (shard, rest) = bytes.split_first()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        Some((Self { shard: Shard(*shard), number: u64::from_be_bytes(*number) }, rest))
    }

    /// Its file in a data folder.
    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        folder.join(ARCHIVE_FOLDER).join(self.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct ArchiveHeader {
    format: u16,
    id: ArchiveId,
}

/// What an archive holds: the end of its file says so, and the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveContents {
    /// The first position in it.
    pub first_pos: u64,
    /// The link of the record there.
    pub first_link: Digest,
    /// The last position in it. Positions in between may be elsewhere.
    pub last_pos: u64,
    /// The link of the record there.
    pub last_link: Digest,
    /// How many values.
    pub values: u64,
    /// How many records.
    pub records: u64,
    /// The Merkle root (RFC 9162) over the records' links, in the order of their positions.
    pub root: Digest,
}

/// What the engine knows of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveEntry {
    /// What it holds.
    pub contents: ArchiveContents,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The SHA-256 in the file's end, over everything before that.
    pub sha256: Digest,
}

/// Archiving failed, or an archive is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file.
    #[error(transparent)]
    File(#[from] BlockError),
    /// The engine or a value in it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something could not be encoded or decoded.
    #[error("the archive does not decode: {0}")]
    Codec(#[from] CodecError),
    /// A file that is whole in itself, and another than the engine knows.
    #[error("the archive {0} is another than the journal knows")]
    Exchanged(ArchiveId),
    /// The journal is in memory, or was closed meanwhile.
    #[error("the journal has no folder, or was closed")]
    Closed,
}

impl From<EngineError> for ArchiveError {
    fn from(error: EngineError) -> Self {
        Self::Read(error.into())
    }
}

/// What counts as old.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveRules {
    /// Records from before this time, in milliseconds since 1970.
    pub before_ms: i64,
    /// Less than so many bytes are not worth a file.
    pub bytes_min: usize,
}

/// What one step did.
#[derive(Debug, Default)]
pub struct ArchiveStep {
    /// The archive it made.
    pub made: Option<(ArchiveId, ArchiveEntry)>,
    /// Where the next step goes on; `None` when the shard is done.
    pub next_pos: Option<u64>,
}

/// Archives that are open for reading, and who may make one.
pub(crate) struct Archives {
    open: Mutex<Generations<ArchiveId, Arc<File>>>,
    making: Mutex<()>,
}

impl Default for Archives {
    fn default() -> Self {
        let open = Mutex::new(Generations::new(OPEN_FILES_MAX));
        Self { open, making: Mutex::default() }
    }
}

fn stub(number: u64, at: u64) -> Vec<u8> {
    [&[STUB], number.to_be_bytes().as_slice(), &at.to_be_bytes()].concat()
}

/// The archive's number and the byte of it that a stub names; `None` if the value is none.
fn decode_stub(value: &[u8]) -> Option<(u64, u64)> {
    let rest = value.strip_prefix(&[STUB])?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let at = rest.first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*at)))
}

impl Shared {
    /// The file of an archive.
    pub(crate) fn archive_path(&self, id: ArchiveId) -> Option<PathBuf> {
        self.folder.get().map(|folder| id.path(folder))
    }

    /// The value of one shard's records of one batch, wherever it is.
    pub(crate) fn records(
        &self,
        shard: Shard,
        first_pos: u64,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let value = self.engine.get(&layout::records(shard, first_pos))?;
        match value.as_deref().and_then(decode_stub) {
            Some((number, at)) => {
                let id = ArchiveId { shard, number };
                self.archived(id, first_pos, at).map(Some)
            }
            None => Ok(value),
        }
    }

    fn archived(&self, id: ArchiveId, first_pos: u64, at: u64) -> Result<Vec<u8>, ReadError> {
        let path = self.archive_path(id).unwrap_or_else(|| id.to_string().into());
        let held = self.archives.open.lock().get_mut(&id).cloned();
        let file = match held {
            Some(file) => file,
            None => {
                let failed = |source| {
                    let path = path.clone();
                    BlockError::File { path, operation: "opened", source }
                };
                let file = Arc::new(File::open(&path).map_err(failed)?);
                self.archives.open.lock().insert(id, file.clone());
                file
            }
        };
        let block = blocks::read_at(&file, &path, at)?;
        match block.body.split_first_chunk::<8>() {
            Some((pos, value)) if u64::from_be_bytes(*pos) == first_pos && block.kind == VALUE => {
                Ok(value.to_vec())
            }
            _ => Err(BlockError::Damaged { path, at }.into()),
        }
    }

    fn snapshot_seq(&self, stream: &StreamName) -> Result<u64, ReadError> {
        let value = self.engine.get(&layout::snapshot(stream))?;
        let seq = value.as_deref().and_then(<[u8]>::first_chunk::<8>);
        Ok(seq.map_or(0, |seq| u64::from_be_bytes(*seq)))
    }
}

/// A value that may be archived.
struct Candidate {
    first_pos: u64,
    value: Vec<u8>,
    headers: Vec<Header>,
}

fn headers(shard: Shard, first_pos: u64, value: &[u8]) -> Result<Vec<Header>, ReadError> {
    let at = || format!("shard {} position {first_pos}", shard.0);
    let frames = record::frames(value).map_err(|source| ReadError::Damaged { at: at(), source })?;
    frames.iter().map(|frame| decode(frame.header, at)).collect()
}

impl Journal {
    /// Archives what is old in `shard` from position `from` on, one bounded step; see the module's
    /// head. `cover` is asked, once a stream, to queue a snapshot of a stream whose old records no
    /// snapshot covers yet; a stream that stays without keeps its records. Blocks until durable.
    pub fn archive_step(
        &self,
        shard: Shard,
        from: u64,
        rules: &ArchiveRules,
        cover: &mut dyn FnMut(&Header),
    ) -> Result<ArchiveStep, ArchiveError> {
        let _one = self.shared.archives.making.lock();
        let (mut old, next_pos) = self.old_values(shard, from, rules)?;
        let size = |old: &[Candidate]| old.iter().map(|one| one.value.len()).sum::<usize>();
        if old.is_empty() || size(&old) < rules.bytes_min {
            return Ok(ArchiveStep { made: None, next_pos });
        }
        let covered = self.cover(&old, cover)?;
        old.retain(|one| {
            one.headers.iter().all(|header| covered.get(&header.stream) >= Some(&header.seq))
        });
        if old.is_empty() || size(&old) < rules.bytes_min {
            return Ok(ArchiveStep { made: None, next_pos });
        }
        Ok(ArchiveStep { made: Some(self.make(shard, &old)?), next_pos })
    }

    fn old_values(
        &self,
        shard: Shard,
        from: u64,
        rules: &ArchiveRules,
    ) -> Result<(Vec<Candidate>, Option<u64>), ArchiveError> {
        let (mut start, end) = (layout::records(shard, from), layout::records(shard, u64::MAX));
        let (mut old, mut bytes, mut looked, mut newer) = (Vec::new(), 0, 0, 0);
        loop {
            let page = self.shared.engine.scan(&start, &end, Direction::Forward, PAGE_VALUES)?;
            let Some((last, _)) = page.last() else { return Ok((old, None)) };
            start = [last.as_slice(), &[0]].concat();
            let next_pos = layout::first_pos_of(last) + 1;
            let is_last = page.len() < PAGE_VALUES;
            looked += page.len();
            for (key, value) in page {
                if decode_stub(&value).is_some() {
                    continue;
                }
                let first_pos = layout::first_pos_of(&key);
                let headers = headers(shard, first_pos, &value)?;
                if headers.iter().any(|header| header.time_ms >= rules.before_ms) {
                    newer += 1;
                    continue;
                }
                bytes += value.len();
                old.push(Candidate { first_pos, value, headers });
            }
            if is_last || newer >= NEWER_VALUES_MAX {
                return Ok((old, None));
            }
            if bytes >= ARCHIVE_BYTES_MAX || looked >= STEP_VALUES_MAX {
                return Ok((old, Some(next_pos)));
            }
        }
    }

    /// Up to which number each of the candidates' streams has a snapshot.
    fn cover(
        &self,
        old: &[Candidate],
        cover: &mut dyn FnMut(&Header),
    ) -> Result<HashMap<StreamName, u64>, ArchiveError> {
        let (mut covered, mut asked) = (HashMap::new(), HashSet::new());
        for header in old.iter().flat_map(|one| &one.headers) {
            if !covered.contains_key(&header.stream) {
                covered.insert(header.stream.clone(), self.shared.snapshot_seq(&header.stream)?);
            }
            let behind = covered.get(&header.stream) >= Some(&header.seq);
            if !behind && asked.insert(header.stream.clone()) {
                cover(header);
            }
        }
        self.barrier().ok_or(ArchiveError::Closed)?;
        for stream in asked {
            let seq = self.shared.snapshot_seq(&stream)?;
            covered.insert(stream, seq);
        }
        Ok(covered)
    }

    /// Writes the file, then the commit that moves the values into it.
    fn make(
        &self,
        shard: Shard,
        old: &[Candidate],
    ) -> Result<(ArchiveId, ArchiveEntry), ArchiveError> {
        let number = self.archives_of(shard)?.map_or(1, |last| last.number + 1);
        let id = ArchiveId { shard, number };
        let path = self.shared.archive_path(id).ok_or(ArchiveError::Closed)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let failed = |operation| {
            let path = path.clone();
            move |source| BlockError::File { path, operation, source }
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(failed("created"))?;
        // The folder's own name must be durable before a commit relies on what is in it.
        blocks::sync_folder(folder.parent()).map_err(failed("created"))?;
        if path.exists() {
            // Left by a crash before its commit: no stub names it.
            std::fs::remove_file(&path).map_err(failed("removed"))?;
        }
        let mut writer = BlockWriter::create(&path, SORT)?;
        let header = ArchiveHeader { format: ARCHIVE_FORMAT, id };
        writer.write(HEADER, &codec::encode(&header)?)?;
        let (mut changes, mut tally) = (WriteBatch::default(), Tally::default());
        for Candidate { first_pos, value, .. } in old {
            tally.take(*first_pos, value)?;
            let body = [first_pos.to_be_bytes().as_slice(), value].concat();
            let at = writer.write(VALUE, &body)?;
            changes.put(layout::records(shard, *first_pos), stub(number, at));
        }
        let contents = tally.contents();
        let (bytes, sha256) = writer.finish(&codec::encode(&contents)?)?;
        let entry = ArchiveEntry { contents, bytes, sha256 };
        changes.put(id.key(), codec::encode(&entry)?);
        let (sender, done) = mpsc::channel();
        let rider = Box::new(move |_| {
            let _ = sender.send(());
        });
        self.push(Work::Changes(changes, rider));
        done.recv().map_err(|_| ArchiveError::Closed)?;
        Ok((id, entry))
    }

    /// The last archive of a shard.
    fn archives_of(&self, shard: Shard) -> Result<Option<ArchiveId>, ReadError> {
        let key = |number| ArchiveId { shard, number }.key();
        let found = self.shared.engine.scan(&key(0), &key(u64::MAX), Direction::Backward, 1)?;
        Ok(found.first().and_then(|(key, _)| ArchiveId::of_key(key)))
    }

    /// The archives after `after`, in order, at most `limit`.
    pub fn archives(
        &self,
        after: Option<ArchiveId>,
        limit: usize,
    ) -> Result<Vec<(ArchiveId, ArchiveEntry)>, ReadError> {
        let start = after.map_or(b"a".to_vec(), |id| [id.key().as_slice(), &[0]].concat());
        let found = self.shared.engine.scan(&start, b"b", Direction::Forward, limit)?;
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = ArchiveId::of_key(&key)?;
            Some(decode(&value, || format!("the entry of archive {id}")).map(|entry| (id, entry)))
        };
        found.into_iter().filter_map(entry).collect()
    }

    /// Reads an archive whole: every checksum, every frame, the root, and whether it is the one
    /// that the journal knows.
    pub fn verify_archive(&self, id: ArchiveId, entry: &ArchiveEntry) -> Result<(), ArchiveError> {
        let path = self.shared.archive_path(id).ok_or(ArchiveError::Closed)?;
        if read_archive(&path, id)? == *entry { Ok(()) } else { Err(ArchiveError::Exchanged(id)) }
    }
}

/// What is in an archive's file, by reading all of it.
fn read_archive(path: &Path, id: ArchiveId) -> Result<ArchiveEntry, ArchiveError> {
    let mut reader = BlockReader::open(path, SORT)?;
    let damaged = |at| BlockError::Damaged { path: path.to_owned(), at };
    let mut tally = Tally::default();
    let mut begun = false;
    while let Some(block) = reader.next()? {
        match block.kind {
            HEADER if !begun => {
                let (found, _) = codec::decode_prefix::<u16>(&block.body)?;
                if found > ARCHIVE_FORMAT {
                    let (path, known) = (path.to_owned(), ARCHIVE_FORMAT);
                    return Err(BlockError::Newer { path, found, known }.into());
                }
                let header: ArchiveHeader = codec::decode(&block.body)?;
                if header.id != id {
                    return Err(ArchiveError::Exchanged(id));
                }
                begun = true;
            }
            VALUE if begun => {
                let split = block.body.split_first_chunk::<8>();
                let (pos, value) = split.ok_or_else(|| damaged(block.at))?;
                tally.take(u64::from_be_bytes(*pos), value).map_err(|_| damaged(block.at))?;
            }
            END if begun => {
                let contents: ArchiveContents = codec::decode(&block.body)?;
                if contents != tally.contents() {
                    return Err(damaged(block.at).into());
                }
                let (bytes, sha256) = (reader.length(), reader.digest());
                return Ok(ArchiveEntry { contents, bytes, sha256 });
            }
            _ => return Err(damaged(block.at).into()),
        }
    }
    Err(BlockError::CutShort { path: path.to_owned(), at: reader.at() }.into())
}

/// Counts what goes into an archive.
#[derive(Default)]
struct Tally {
    contents: ArchiveContents,
    tree: ChainHead,
}

impl Tally {
    fn take(&mut self, first_pos: u64, value: &[u8]) -> Result<(), CodecError> {
        let frames = record::frames(value)?;
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
            return Err(CodecError::Short(value.len()));
        };
        let contents = &mut self.contents;
        if contents.values == 0 {
            (contents.first_pos, contents.first_link) = (first_pos, first.link);
        }
        contents.last_pos = first_pos + frames.len() as u64 - 1;
        contents.last_link = last.link;
        contents.values += 1;
        contents.records += frames.len() as u64;
        frames.iter().for_each(|frame| self.tree.push(frame.link));
        Ok(())
    }

    fn contents(&self) -> ArchiveContents {
        ArchiveContents { root: self.tree.root(), ..self.contents.clone() }
    }
}
