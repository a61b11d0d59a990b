//! New data folders made of old ones: from a backup, or from another folder.
//!
//! Everything is checked before anything is written. The new folder is filled beside its place,
//! under the name `*.new`, and renamed once it is durable: a folder that has its name is whole, and
//! one that was not finished is taken away again.
//!
//! A restored store is a new *generation*: it may have forgotten what its original went on to
//! acknowledge, so neither's engine, head file or log is ever taken for the other's. A copied store
//! is the same store in another place, or on another engine.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::{ARCHIVE_FOLDER, ArchiveId};
use crate::backup::{BackupError, BackupReport, Piece, Progress, check_backup, read_backup};
use crate::blocks::sync_folder;
use crate::codec;
use crate::engine::{Direction, Engine, EngineError, Pair, WriteBatch};
use crate::head_file::HeadFile;
use crate::layout::{META, Meta};
use crate::marker::EngineKind;
use crate::open::{
    OpenError, Options, compare as compare_head, open_engine, read_from_disk, read_meta,
};
use crate::sealing::{KeyRing, MasterKey, SealError};

/// The key file's name in a data folder.
pub const KEY_FILE: &str = "data-keys";
/// The master key's name in a data folder, where there is one.
pub const MASTER_KEY_FILE: &str = "master.key";
/// How much one commit of a copy holds, about, in bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many pairs one page of a copy reads.
const PAGE_PAIRS: usize = 64;

/// Why there is no new folder. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its place is taken.
    #[error("{0} is not empty: give a folder that is new")]
    NotEmpty(PathBuf),
    /// An attempt that was killed left something.
    #[error("{0} was left by an attempt that was cut short: remove it first")]
    Leftover(PathBuf),
    /// A file or folder could not be used.
    #[error("{path} cannot be used: {source}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The key file.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// An engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The folder to copy.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Something could not be encoded.
    #[error("the store's figures do not encode: {0}")]
    Codec(#[from] codec::CodecError),
    /// There is nothing to copy.
    #[error("{0} holds no journal")]
    NoJournal(PathBuf),
    /// The file changed between being checked and being read.
    #[error("{0} changed while it was read")]
    Changed(PathBuf),
    /// The copy is not what was copied.
    #[error("the copy differs from its original behind {0} pairs: the engine did not keep them")]
    Differs(u64),
}

fn unusable(path: &Path) -> impl Fn(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Folder { path: path.clone(), source }
}

/// A data folder in the making.
pub struct NewFolder {
    target: PathBuf,
    working: PathBuf,
    finished: bool,
}

impl NewFolder {
    /// Begins the folder that will be at `target`, which must be empty or not there.
    pub fn begin(target: &Path) -> Result<Self, RestoreError> {
        let is_empty = match std::fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(unusable(target)(error)),
        };
        if !is_empty {
            return Err(RestoreError::NotEmpty(target.to_owned()));
        }
        let name = target.file_name().ok_or(RestoreError::NotEmpty(target.to_owned()))?;
        let mut name = name.to_owned();
        name.push(".new");
        let working = target.with_file_name(name);
        if working.exists() {
            return Err(RestoreError::Leftover(working));
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&working);
        made.map_err(unusable(&working))?;
        Ok(Self { target: target.to_owned(), working, finished: false })
    }

    /// Where it is filled.
    pub fn path(&self) -> &Path {
        &self.working
    }

    /// Gives it its name. Nothing may have it open.
    pub fn finish(mut self) -> Result<(), RestoreError> {
        let done = sync_folder(Some(&self.working))
            .and_then(|()| std::fs::rename(&self.working, &self.target))
            .and_then(|()| sync_folder(self.target.parent()));
        done.map_err(unusable(&self.target))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_dir_all(&self.working);
        }
    }
}

/// Gathers changes into commits.
struct Filler {
    engine: Arc<dyn Engine>,
    batch: WriteBatch,
    bytes: usize,
}

impl Filler {
    fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, batch: WriteBatch::default(), bytes: 0 }
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), EngineError> {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.batch.changes.push((key, value));
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        self.engine.commit(std::mem::take(&mut self.batch))
    }

    /// The store's figures come last: without them the rest is no store.
    fn finish(mut self, meta: &Meta, folder: &Path) -> Result<(), RestoreError> {
        self.batch.put(META.to_vec(), codec::encode(meta)?);
        self.engine.commit(self.batch)?;
        let path = folder.join("head");
        let head = HeadFile::open(&path).and_then(|mut head| head.restart_from(meta));
        head.map_err(unusable(&path))
    }
}

/// Copies a file, readable by its owner only, and syncs it.
fn copy_file(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let mut source = File::open(from).map_err(unusable(from))?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut target = target.map_err(unusable(to))?;
    let copied = std::io::copy(&mut source, &mut target).and_then(|_| target.sync_all());
    copied.map_err(unusable(to))
}

fn make_archive_folder(folder: &Path) -> Result<PathBuf, RestoreError> {
    let archives = folder.join(ARCHIVE_FOLDER);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&archives);
    made.map_err(unusable(&archives))?;
    Ok(archives)
}

/// Fills an empty `folder` from a backup, on an engine of `kind`, with a copy of the key file
/// `keys`. First the whole backup is checked, and that `keys` under `master` are the keys it was
/// sealed under. Answers what the backup holds.
pub fn restore(
    backup: &Path,
    folder: &Path,
    kind: EngineKind,
    keys: &Path,
    master: &MasterKey,
    progress: Progress<'_>,
) -> Result<BackupReport, RestoreError> {
    let report = check_restore(backup, keys, master, progress)?;
    copy_file(keys, &folder.join(KEY_FILE))?;
    let engine = open_engine(&Options { engine: kind, ..Options::new(folder) })?;
    let mut filler = Filler::new(engine);
    let mut archive: Option<(ArchiveId, File)> = None;
    let (again, end) = read_backup(backup, progress, |piece| {
        match piece {
            Piece::Change(key, value) => filler.put(key.to_vec(), value.map(<[u8]>::to_vec))?,
            Piece::Archive(id, bytes) => write_archive(folder, &mut archive, id, bytes)?,
        }
        Ok(())
    })?;
    if again != report {
        return Err(RestoreError::Changed(backup.to_owned()));
    }
    finish_archive(folder, archive.take()).map_err(unusable(folder))?;
    let generation = uuid::Uuid::now_v7().as_u128();
    filler.finish(&Meta { generation, ..end.meta }, folder)?;
    kind.mark(folder).map_err(unusable(folder))?;
    Ok(report)
}

/// Checks a backup, and that `keys` under `master` are the keys it was sealed under. Writes
/// nothing.
pub fn check_restore(
    backup: &Path,
    keys: &Path,
    master: &MasterKey,
    progress: Progress<'_>,
) -> Result<BackupReport, RestoreError> {
    let ring = KeyRing::open_read_only(keys, master)?;
    Ok(check_backup(backup, Some(&ring), progress)?)
}

/// Appends a piece to its archive; a piece of another one ends the one before.
fn write_archive(
    folder: &Path,
    open: &mut Option<(ArchiveId, File)>,
    id: ArchiveId,
    bytes: &[u8],
) -> Result<(), BackupError> {
    let path = id.path(folder);
    let failed = |source| {
        let path = path.clone();
        BackupError::File(crate::BlockError::File { path, operation: "written", source })
    };
    if open.as_ref().is_none_or(|(current, _)| *current != id) {
        finish_archive(folder, open.take()).map_err(failed)?;
        let made = make_archive_folder(folder);
        made.map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        *open = Some((id, file.map_err(failed)?));
    }
    match open {
        Some((_, file)) => file.write_all(bytes).map_err(failed),
        None => Ok(()),
    }
}

fn finish_archive(folder: &Path, open: Option<(ArchiveId, File)>) -> std::io::Result<()> {
    let Some((_, file)) = open else { return Ok(()) };
    file.sync_all()?;
    sync_folder(Some(&folder.join(ARCHIVE_FOLDER)))
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// The engine of the original.
    pub from: &'static str,
    /// The engine of the copy.
    pub to: &'static str,
    /// Keys with their values.
    pub pairs: u64,
    /// Archive files.
    pub archives: u64,
    /// The number of the last commit.
    pub commit: u64,
}

/// Fills an empty folder `to`, on an engine of `kind`, from the data folder `from`, whose lock the
/// caller holds: everything in the engine, the archives, the key file, the master key where it is
/// in the folder. Then both are read again and compared, pair by pair.
pub fn copy_folder(
    from: &Path,
    to: &Path,
    kind: EngineKind,
    progress: Progress<'_>,
) -> Result<CopyReport, RestoreError> {
    let found = EngineKind::found_in(from)?;
    let found = found.ok_or_else(|| RestoreError::NoJournal(from.to_owned()))?;
    read_from_disk(from).map_err(unusable(from))?;
    let source = open_engine(&Options { engine: found, ..Options::new(from) })?;
    if source.get(META)?.is_none() {
        return Err(RestoreError::NoJournal(from.to_owned()));
    }
    let meta = read_meta(source.as_ref())?;
    // What a server would not start on is not made startable by a copy.
    let head = from.join("head");
    let mut head_file = HeadFile::open(&head).map_err(unusable(&head))?;
    compare_head(&meta, &mut head_file, None)?;
    for name in [KEY_FILE, MASTER_KEY_FILE] {
        if from.join(name).exists() {
            copy_file(&from.join(name), &to.join(name))?;
        }
    }
    let target = open_engine(&Options { engine: kind, ..Options::new(to) })?;
    let mut filler = Filler::new(target.clone());
    let (mut archives, mut bytes) = (0, 0);
    let mut pairs = Pairs::of(source.as_ref());
    while let Some((key, value)) = pairs.next()? {
        if let Some(id) = ArchiveId::of_key(&key) {
            make_archive_folder(to)?;
            copy_file(&id.path(from), &id.path(to))?;
            archives += 1;
        }
        bytes += (key.len() + value.len()) as u64;
        filler.put(key, Some(value))?;
        progress(bytes);
    }
    let pairs = pairs.count;
    if archives > 0 {
        sync_folder(Some(&to.join(ARCHIVE_FOLDER))).map_err(unusable(to))?;
    }
    filler.finish(&meta, to)?;
    kind.mark(to).map_err(unusable(to))?;
    compare(source.as_ref(), target.as_ref())?;
    let (from, to) = (source.name(), target.name());
    Ok(CopyReport { from, to, pairs, archives, commit: meta.commit })
}

fn compare(original: &dyn Engine, copy: &dyn Engine) -> Result<(), RestoreError> {
    let (mut original, mut copy) = (Pairs::of(original), Pairs::of(copy));
    loop {
        let (ours, theirs) = (original.next()?, copy.next()?);
        if ours != theirs {
            return Err(RestoreError::Differs(original.count));
        }
        if ours.is_none() {
            return Ok(());
        }
    }
}

/// Every pair of an engine that is not the engine's own, a page at a time.
struct Pairs<'a> {
    engine: &'a dyn Engine,
    page: std::vec::IntoIter<Pair>,
    start: Vec<u8>,
    is_last: bool,
    count: u64,
}

impl<'a> Pairs<'a> {
    fn of(engine: &'a dyn Engine) -> Self {
        let page = Vec::new().into_iter();
        Self { engine, page, start: vec![0], is_last: false, count: 0 }
    }

    fn next(&mut self) -> Result<Option<Pair>, EngineError> {
        loop {
            // What begins with `m` is the engine's own, or the store's figures, which come last.
            if let Some(pair) = self.page.find(|(key, _)| key.first() != META.first()) {
                self.count += 1;
                return Ok(Some(pair));
            }
            if self.is_last {
                return Ok(None);
            }
            let end = vec![u8::MAX; 8];
            let page = self.engine.scan(&self.start, &end, Direction::Forward, PAGE_PAIRS)?;
            self.is_last = page.len() < PAGE_PAIRS;
            if let Some((last, _)) = page.last() {
                self.start = [last.as_slice(), &[0]].concat();
            }
            self.page = page.into_iter();
        }
    }
}
