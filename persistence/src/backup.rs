//! A backup of a journal, running or not, that never makes the writer wait.
//!
//! It is taken in one walk over the engine's keys, a bounded page at a time. Meanwhile a *tap*
//! copies every commit that the writer makes, and those changes are written between the pages, in
//! their order. A key's last change in the file is therefore its value at the last commit copied:
//! either it changed during the walk, and the copied commits have it, or it did not, and the page
//! has it. Two barriers make this exact: the walk begins once every commit that was not copied can
//! be read, and the copying ends once every commit that a page may have seen was copied. No engine
//! needs snapshots for this.
//!
//! The file is one of checksummed blocks ([`crate::blocks`]), `bwbackup`: a header (format version,
//! the store's generation, engine, when it began and at which commit), changes and pieces of
//! archive files, then the end: what the whole file stands for, which is the commit number, the
//! last position of each of the 256 shards and the rolling hash, how much there is of it, and how
//! many data keys there were.
//!
//! Limits: the keys are not in it; what is sealed stays sealed. The writer outruns a backup on a
//! slow disk once [`TAP_BYTES_MAX`] wait to be written: then the backup fails, never the writer.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::MutexGuard;
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveId;
use crate::blocks::{self, BlockError, BlockReader, BlockWriter, END, Sort};
use crate::codec;
use crate::engine::{Direction, EngineError, WriteBatch};
use crate::journal::{Journal, Shared};
use crate::layout::{self, LAYOUT_VERSION, META, Meta};
use crate::record::{Digest, Shard};
use crate::sealing::{KeyRing, SealError};

/// The newest format of a backup that this build reads, and the one it writes.
pub const BACKUP_FORMAT: u16 = 1;
/// How many bytes of commits may wait to be written into the backup.
pub const TAP_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The keys of a backup by their first byte, but the records, and how many one page reads. What
/// begins with `m` is the engine's own.
const PAGES: &[(u8, usize)] =
    &[(b'a', 64), (b'c', 512), (b'h', 512), (b'n', 32), (b'p', 512), (b's', 512)];
/// How many values of records one page reads: each has those of one shard in a whole batch.
const PAGE_VALUES: usize = 16;
/// When a block of changes is written, in bytes.
const BLOCK_BYTES: usize = 1024 * 1024;
/// How much of an archive one block has, in bytes.
const PIECE_BYTES: usize = 1024 * 1024;

const SORT: Sort = Sort { magic: b"bwbackup", name: "a Bailiwick backup" };
const HEADER: u8 = 1;
const CHANGES: u8 = 2;
const ARCHIVE: u8 = 3;

/// Called with the bytes written or read so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// Why there is no backup, or why it is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file.
    #[error(transparent)]
    File(#[from] BlockError),
    /// The engine could not be read or written.
    #[error("the engine failed during the backup: {0}")]
    Engine(#[from] EngineError),
    /// What stands in the store or in the file does not decode.
    #[error("a stored value does not decode: {0}")]
    Codec(#[from] codec::CodecError),
    /// The keys could not be made durable.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// Another one is being taken.
    #[error("a backup is being taken already")]
    Running,
    /// The writer is faster than the disk of the backup.
    #[error("the backup's disk is too slow: more than {TAP_BYTES_MAX} bytes of commits waited")]
    Overrun,
    /// The journal was closed meanwhile.
    #[error("the journal was closed while the backup was taken")]
    Closed,
    /// There is nothing to back up.
    #[error("the journal is empty")]
    Empty,
    /// The keys are not the backup's.
    #[error("the key file does not fit the backup: {0}")]
    ForeignKeys(String),
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Which store it is of: made anew when a store is created or restored.
    pub generation: u128,
    /// Which engine carried it.
    pub engine: String,
    /// The number of the last commit in it.
    pub commit: u64,
    /// The last position of each shard.
    pub positions: Vec<u64>,
    /// The rolling hash over all commits up to that one.
    pub rolling: Digest,
    /// How many changes it has.
    pub changes: u64,
    /// How many archive files it has.
    pub archives: u64,
    /// How many data keys there were: a key file with fewer is too old for it.
    pub keys: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 in its end, over everything before that.
    pub sha256: Digest,
}

#[derive(Serialize, Deserialize)]
struct BackupHeader {
    format: u16,
    generation: u128,
    engine: String,
    begun_ms: i64,
    commit: u64,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BackupEnd {
    pub(crate) meta: Meta,
    pub(crate) changes: u64,
    pub(crate) archives: u64,
    pub(crate) keys: u64,
}

impl BackupReport {
    fn new(engine: String, end: &BackupEnd, bytes: u64, sha256: Digest) -> Self {
        Self {
            generation: end.meta.generation,
            engine,
            commit: end.meta.commit,
            positions: end.meta.positions.clone(),
            rolling: end.meta.rolling,
            changes: end.changes,
            archives: end.archives,
            keys: end.keys,
            bytes,
            sha256,
        }
    }
}

type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The writer's end of a running backup.
pub(crate) struct Tap {
    commits: mpsc::Sender<(Meta, Changes)>,
    waiting_bytes: Arc<AtomicUsize>,
    overrun: Arc<AtomicBool>,
}

fn bytes_of(changes: &Changes) -> usize {
    changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

impl Shared {
    /// A copy of what is about to be committed, if a backup wants one.
    pub(crate) fn copy_for_tap(&self, batch: &WriteBatch) -> Option<Changes> {
        self.tap.lock().is_some().then(|| batch.changes.clone())
    }

    /// Hands a commit over, once it is durable.
    pub(crate) fn tap_commit(&self, meta: &Meta, changes: Changes) {
        let mut slot = self.tap.lock();
        let Some(tap) = slot.as_ref() else { return };
        let bytes = bytes_of(&changes);
        let waiting = tap.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = waiting <= TAP_BYTES_MAX;
        tap.overrun.store(!fits, Ordering::Relaxed);
        if !fits || tap.commits.send((meta.clone(), changes)).is_err() {
            *slot = None;
        }
    }
}

/// The backup's end of the tap; while it lives, no other backup is taken.
struct Tapped<'a> {
    shared: &'a Shared,
    commits: mpsc::Receiver<(Meta, Changes)>,
    waiting_bytes: Arc<AtomicUsize>,
    overrun: Arc<AtomicBool>,
    _running: MutexGuard<'a, ()>,
}

impl<'a> Tapped<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, BackupError> {
        // Held until the whole backup is done, archives and all: the slot alone is free before.
        let Some(running) = shared.backup_running.try_lock() else {
            return Err(BackupError::Running);
        };
        let (sender, commits) = mpsc::channel();
        let (waiting_bytes, overrun) = (Arc::default(), Arc::default());
        let tap = Tap { commits: sender, waiting_bytes, overrun };
        let (waiting_bytes, overrun) = (tap.waiting_bytes.clone(), tap.overrun.clone());
        *shared.tap.lock() = Some(tap);
        Ok(Self { shared, commits, waiting_bytes, overrun, _running: running })
    }

    /// Writes down what was committed meanwhile.
    fn drain(&self, pages: &mut Pages) -> Result<(), BackupError> {
        while let Ok((meta, changes)) = self.commits.try_recv() {
            self.waiting_bytes.fetch_sub(bytes_of(&changes), Ordering::Relaxed);
            for (key, value) in &changes {
                pages.put(key, value.as_deref())?;
            }
            if meta.commit > pages.meta.commit {
                pages.meta = meta;
            }
        }
        let overrun = self.overrun.load(Ordering::Relaxed);
        if overrun { Err(BackupError::Overrun) } else { Ok(()) }
    }
}

impl Drop for Tapped<'_> {
    fn drop(&mut self) {
        *self.shared.tap.lock() = None;
    }
}

/// What is being written.
struct Pages {
    writer: BlockWriter,
    body: Vec<u8>,
    changes: u64,
    archives: BTreeSet<ArchiveId>,
    meta: Meta,
}

impl Pages {
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), BackupError> {
        if key.first() == META.first() {
            return Ok(());
        }
        self.archives.extend(ArchiveId::of_key(key));
        blocks::put_change(&mut self.body, key, value);
        self.changes += 1;
        if self.body.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        if !self.body.is_empty() {
            self.writer.write(CHANGES, &self.body)?;
            self.body.clear();
        }
        Ok(())
    }

    /// Copies an archive file: it never changes once it has its name.
    fn put_archive(&mut self, id: ArchiveId, path: &Path) -> Result<(), BackupError> {
        let failed = |source| BlockError::File { path: path.to_owned(), operation: "read", source };
        let mut file = File::open(path).map_err(failed)?;
        loop {
            let mut body = id.bytes().to_vec();
            let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut body);
            if read.map_err(failed)? == 0 {
                return Ok(());
            }
            self.writer.write(ARCHIVE, &body)?;
        }
    }
}

impl Journal {
    /// Writes a backup to `target`, which must not exist; see the module's head. `now_ms` is when,
    /// in milliseconds since 1970. Blocks until it is durable.
    pub fn backup(
        &self,
        target: &Path,
        now_ms: i64,
        progress: Progress<'_>,
    ) -> Result<BackupReport, BackupError> {
        let tapped = Tapped::begin(&self.shared)?;
        self.barrier().ok_or(BackupError::Closed)?;
        let meta = self.shared.engine.get(META)?.ok_or(BackupError::Empty)?;
        let meta: Meta = codec::decode(&meta)?;
        let engine = self.engine_name().to_owned();
        let header = BackupHeader {
            format: BACKUP_FORMAT,
            generation: meta.generation,
            engine: engine.clone(),
            begun_ms: now_ms,
            commit: meta.commit,
        };
        let mut writer = BlockWriter::create(target, SORT)?;
        writer.write(HEADER, &codec::encode(&header)?)?;
        let (body, archives) = (Vec::new(), BTreeSet::new());
        let mut pages = Pages { writer, body, changes: 0, archives, meta };
        for (prefix, limit) in PAGES {
            let range = (vec![*prefix], layout::successor(&[*prefix]));
            self.walk(range, *limit, &tapped, &mut pages, progress)?;
        }
        // Later records are copied from their commits, so that a walk behind a fast writer ends.
        for (shard, last) in pages.meta.positions.clone().into_iter().enumerate() {
            let shard = Shard(shard as u8);
            let range = (layout::records(shard, 0), layout::records(shard, last + 1));
            self.walk(range, PAGE_VALUES, &tapped, &mut pages, progress)?;
        }
        self.barrier().ok_or(BackupError::Closed)?;
        // From here on nothing is copied any more; what was copied is drained for the last time.
        *self.shared.tap.lock() = None;
        tapped.drain(&mut pages)?;
        pages.flush()?;
        for id in pages.archives.clone() {
            let path = self.shared.archive_path(id).ok_or(BackupError::Closed)?;
            pages.put_archive(id, &path)?;
            progress(pages.writer.bytes());
        }
        // Counted first: what is counted is durable then.
        let keys = self.keys().count();
        self.keys().sync()?;
        let archives = pages.archives.len() as u64;
        let end = BackupEnd { meta: pages.meta, changes: pages.changes, archives, keys };
        let (bytes, sha256) = pages.writer.finish(&codec::encode(&end)?)?;
        progress(bytes);
        Ok(BackupReport::new(engine, &end, bytes, sha256))
    }

    /// One pass over a range of keys.
    fn walk(
        &self,
        (mut start, end): (Vec<u8>, Vec<u8>),
        limit: usize,
        tapped: &Tapped<'_>,
        pages: &mut Pages,
        progress: Progress<'_>,
    ) -> Result<(), BackupError> {
        loop {
            let page = self.shared.engine.scan(&start, &end, Direction::Forward, limit)?;
            for (key, value) in &page {
                pages.put(key, Some(value))?;
            }
            tapped.drain(pages)?;
            progress(pages.writer.bytes());
            match page.last() {
                Some((last, _)) if page.len() == limit => {
                    start = [last.as_slice(), &[0]].concat();
                }
                _ => return Ok(()),
            }
        }
    }

    /// Waits until everything queued so far is done; `None` if the journal was closed meanwhile.
    pub(crate) fn barrier(&self) -> Option<()> {
        let (sender, done) = mpsc::channel();
        self.ride(Box::new(move |_| {
            let _ = sender.send(());
        }));
        done.recv().ok()
    }
}

/// A piece of a backup, in the order in which the pieces count.
pub(crate) enum Piece<'a> {
    Change(&'a [u8], Option<&'a [u8]>),
    Archive(ArchiveId, &'a [u8]),
}

/// Reads a backup whole, every checksum checked. The pieces may be believed only once this has
/// answered.
pub(crate) fn read_backup(
    path: &Path,
    progress: Progress<'_>,
    mut each: impl FnMut(Piece<'_>) -> Result<(), BackupError>,
) -> Result<(BackupReport, BackupEnd), BackupError> {
    let mut reader = BlockReader::open(path, SORT)?;
    let damaged = |at| BlockError::Damaged { path: path.to_owned(), at };
    let mut header: Option<BackupHeader> = None;
    let mut changes = 0;
    let mut archives = BTreeSet::new();
    while let Some(block) = reader.next()? {
        let body = block.body.as_slice();
        match (block.kind, &header) {
            (HEADER, None) => header = Some(decode_header(body, &reader, block.at)?),
            (CHANGES, Some(_)) => {
                let mut rest = body;
                while !rest.is_empty() {
                    let change = blocks::take_change(&mut rest).ok_or_else(|| damaged(block.at))?;
                    changes += 1;
                    each(Piece::Change(change.0, change.1))?;
                }
            }
            (ARCHIVE, Some(_)) => {
                let (id, bytes) = ArchiveId::split(body).ok_or_else(|| damaged(block.at))?;
                archives.insert(id);
                each(Piece::Archive(id, bytes))?;
            }
            (END, Some(header)) => {
                let end: BackupEnd = codec::decode(body).map_err(|_| damaged(block.at))?;
                let counts = (end.changes, end.archives) == (changes, archives.len() as u64);
                if !counts || end.meta.version > LAYOUT_VERSION {
                    return Err(damaged(block.at).into());
                }
                let (bytes, sha256) = (reader.length(), reader.digest());
                let report = BackupReport::new(header.engine.clone(), &end, bytes, sha256);
                return Ok((report, end));
            }
            _ => return Err(damaged(block.at).into()),
        }
        progress(reader.at());
    }
    Err(BlockError::CutShort { path: path.to_owned(), at: reader.at() }.into())
}

fn decode_header(body: &[u8], reader: &BlockReader, at: u64) -> Result<BackupHeader, BlockError> {
    let path = reader.path().to_owned();
    // The version comes first, so that it can be read whatever follows it.
    match codec::decode_prefix::<u16>(body) {
        Ok((found, _)) if found > BACKUP_FORMAT => {
            Err(BlockError::Newer { path, found, known: BACKUP_FORMAT })
        }
        Ok(_) => codec::decode(body).map_err(|_| BlockError::Damaged { path, at }),
        Err(_) => Err(BlockError::Damaged { path, at }),
    }
}

/// Reads a backup whole and checks it; with `keys`, also that they are the keys it was sealed
/// under: one row of each data key is opened.
pub fn check_backup(
    path: &Path,
    keys: Option<&KeyRing>,
    progress: Progress<'_>,
) -> Result<BackupReport, BackupError> {
    let mut tried = HashSet::new();
    let (report, end) = read_backup(path, progress, |piece| {
        let (Some(keys), Piece::Change([b'p', ..], Some(_))) = (keys, &piece) else {
            return Ok(());
        };
        let Piece::Change(key, Some(sealed)) = piece else { return Ok(()) };
        if !KeyRing::key_number(sealed).is_some_and(|number| tried.insert(number)) {
            return Ok(());
        }
        let opened = keys.open_blob(key, sealed);
        opened.map(drop).map_err(|error| BackupError::ForeignKeys(error.to_string()))
    })?;
    if let Some(keys) = keys
        && keys.count() < end.keys
    {
        let reason = format!("it has {} keys, the backup needs {}", keys.count(), end.keys);
        return Err(BackupError::ForeignKeys(reason));
    }
    Ok(report)
}

impl std::fmt::Display for BackupReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let records: u64 = self.positions.iter().sum();
        let hash = data_encoding::HEXLOWER.encode(&self.sha256);
        let Self { commit, bytes, archives, .. } = self;
        write!(f, "commit {commit}, {records} records, {archives} archives, {bytes} bytes, ")?;
        write!(f, "sha256 {hash}")
    }
}
