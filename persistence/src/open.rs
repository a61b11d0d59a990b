//! Opening a data folder: one process at a time, keys, engine, and the head file's veto.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::archive::Archives;
use crate::codec;
use crate::engine::{Engine, EngineError, LoggedEngine, MemoryEngine, RedbEngine, TABLE_BYTES};
use crate::head_file::HeadFile;
use crate::journal::{Counters, Journal, Moved, Queue, Shared};
use crate::layout::{LAYOUT_VERSION, META, Meta};
use crate::marker::EngineKind;
use crate::record::SHARDS;
use crate::sealing::{KeyRing, MasterKey, SealError};
use crate::space::Space;
use crate::writer::{OnFatal, ROLLING_START, Writer};

/// How to open a journal.
pub struct Options {
    /// The data folder. Made if it is missing.
    pub folder: PathBuf,
    /// The engine.
    pub engine: EngineKind,
    /// The engine's cache, in bytes.
    pub cache_bytes: usize,
    /// How much the log's table in memory holds before it is moved into the engine, in bytes.
    pub table_bytes: usize,
    /// Less room on the disk than this, in bytes, and new work is refused; 0 for never. By
    /// default [`crate::LOW_SPACE_BYTES`].
    pub low_space_bytes: Option<u64>,
    /// The rolling hash of a journal that is behind its head file, to go on with it all the same.
    pub accept_loss: Option<String>,
    /// What a failed write means: by default the process ends with code 74 (EX_IOERR).
    pub on_fatal: OnFatal,
}

impl Options {
    /// The defaults, for a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            engine: EngineKind::Redb,
            cache_bytes: 32 * 1024 * 1024,
            table_bytes: TABLE_BYTES,
            low_space_bytes: None,
            accept_loss: None,
            on_fatal: Box::new(|reason| {
                tracing::error!(reason, "the journal failed; the process ends and will replay");
                std::process::exit(74);
            }),
        }
    }
}

/// Why a journal did not open. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made, read or written.
    #[error("the data folder {path} cannot be used")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the data folder {0} is in use by another process")]
    InUse(PathBuf),
    /// The journal is there, the keys to it are not.
    #[error("the key file {0} is missing: without it the journal beside it cannot be read")]
    KeysMissing(PathBuf),
    /// The folder belongs to another engine.
    #[error(
        "the data folder {folder} belongs to the engine {found}, not {asked}. Start it with \
         --engine {found}, or move it with `bailiwick journal copy`"
    )]
    OtherEngine {
        /// The folder.
        folder: PathBuf,
        /// Its engine.
        found: &'static str,
        /// The engine that was asked for.
        asked: &'static str,
    },
    /// The disk has too little room for this engine to be opened on.
    #[error(
        "the disk of {folder} has {free_bytes} bytes left, which is too little to open the engine \
         {engine} on: it may hang. Make room first"
    )]
    LowSpace {
        /// The folder.
        folder: PathBuf,
        /// What is left.
        free_bytes: u64,
        /// The engine.
        engine: &'static str,
    },
    /// The engine does not open. What it says is in the message, and so is no source.
    #[error("the journal does not open: {0}")]
    Engine(EngineError),
    /// The keys do not open.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// The store is damaged.
    #[error("the journal's own figures do not decode")]
    Damaged(#[from] crate::CodecError),
    /// A newer version wrote the store.
    #[error("the journal has layout version {found}, this build reads up to {known}")]
    Newer {
        /// The version found.
        found: u16,
        /// The newest known here.
        known: u16,
    },
    /// The engine lost commits that were acknowledged.
    #[error(
        "the journal is behind by {lost} commits: the head file saw commit {seen}, the engine \
         has {found}. Acknowledged changes are missing. Restore a backup, or go on without them \
         with --accept-loss={hash}"
    )]
    Behind {
        /// How many commits are missing.
        lost: u64,
        /// The commit the head file saw.
        seen: u64,
        /// The engine's last good commit.
        found: u64,
        /// The rolling hash of what is left.
        hash: String,
    },
    /// The head file is gone, or nothing of it is whole.
    #[error(
        "the head file {path} is missing or unreadable, though the journal has {commit} commits: \
         whether acknowledged changes are missing cannot be told. Put it back, or go on with \
         --accept-loss={hash}"
    )]
    NoHead {
        /// Where it should be.
        path: PathBuf,
        /// The engine's commit.
        commit: u64,
        /// The rolling hash of what is there.
        hash: String,
    },
    /// The engine and the head file tell different stories.
    #[error(
        "the journal is not the one that the head file saw (commit {commit}). Put the right files \
         together, or go on with --accept-loss={hash}"
    )]
    Foreign {
        /// The engine's commit.
        commit: u64,
        /// The rolling hash of what is there.
        hash: String,
    },
    /// The writer's thread did not start.
    #[error("the writer's thread did not start")]
    Thread(#[source] std::io::Error),
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// Keeps other processes out of a data folder while it lives.
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder, made if missing. The lock ends with the process, however that ends.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Folder { path, source }
        };
        create_synced(folder).map_err(failed(folder))?;
        let path = folder.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
        }
    }
}

/// Makes a folder and those above it that are missing, with their names in the folders above.
fn create_synced(folder: &Path) -> std::io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Makes what is read from here on what the disk has.
///
/// After a sync that failed, the pages that it could not write stay in the system's cache, and
/// look as if they had been written. A process that starts on them would read, and build upon,
/// what no disk holds. So everything is synced, for the case that the last process was only
/// killed, and what is cached of it is dropped.
pub(crate) fn read_from_disk(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_from_disk(&entry.path())?;
        } else if kind.is_file() {
            let file = File::open(entry.path())?;
            file.sync_all()?;
            #[cfg(target_os = "linux")]
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Checks all that the engine of a folder can check by itself, and changes nothing: for redb every
/// page of its file. The caller holds the [`FolderLock`] and has not opened the journal.
pub fn check_store(folder: &Path) -> Result<(), OpenError> {
    let store_is_there = folder.join("journal.redb").exists();
    match EngineKind::found_in(folder)? {
        Some(EngineKind::Redb) if store_is_there => {
            Ok(RedbEngine::check(folder, Options::new(folder).cache_bytes)?)
        }
        _ => Ok(()),
    }
}

impl Journal {
    /// Opens the journal of a data folder whose [`FolderLock`] the caller holds.
    pub fn open(options: Options, master: &MasterKey) -> Result<Arc<Self>, OpenError> {
        let folder = &options.folder;
        if options.engine == EngineKind::Memory {
            let keys = Arc::new(KeyRing::in_memory(master)?);
            let engine = Arc::new(MemoryEngine::default());
            return Self::start(engine, keys, None, options.accept_loss, options.on_fatal);
        }
        let unread = |source| OpenError::Folder { path: folder.clone(), source };
        read_from_disk(folder).map_err(unread)?;
        let data_keys = folder.join("data-keys");
        let found = EngineKind::found_in(folder)?;
        if has_store(folder) && !data_keys.exists() {
            return Err(OpenError::KeysMissing(data_keys));
        }
        if let Some(found) = found.filter(|found| *found != options.engine) {
            let (found, asked) = (found.name(), options.engine.name());
            return Err(OpenError::OtherEngine { folder: folder.clone(), found, asked });
        }
        let space = Space::of(folder, options.low_space_bytes);
        let figures = space.figures.clone();
        if options.engine == EngineKind::Sled && figures.low.load(Ordering::Relaxed) {
            let free_bytes = figures.free_bytes.load(Ordering::Relaxed);
            let (folder, engine) = (folder.clone(), options.engine.name());
            return Err(OpenError::LowSpace { folder, free_bytes, engine });
        }
        // The keys first: a wrong master key is refused before the engine writes a byte.
        let keys = Arc::new(KeyRing::open(&data_keys, master)?);
        let engine = open_engine(&options)?;
        let failed = |path: PathBuf| move |source| OpenError::Folder { path, source };
        options.engine.mark(folder).map_err(failed(folder.clone()))?;
        let path = folder.join("head");
        let head_file = Some(HeadFile::open(&path).map_err(failed(path))?);
        let Options { folder, accept_loss, on_fatal, .. } = options;
        let journal =
            Self::start_watched(engine, keys, head_file, accept_loss, on_fatal, Some(space))?;
        let _ = journal.shared.folder.set(folder);
        Ok(journal)
    }

    /// Starts a journal on an engine that is already open.
    pub fn start(
        engine: Arc<dyn Engine>,
        keys: Arc<KeyRing>,
        head_file: Option<HeadFile>,
        accept_loss: Option<String>,
        on_fatal: OnFatal,
    ) -> Result<Arc<Self>, OpenError> {
        Self::start_watched(engine, keys, head_file, accept_loss, on_fatal, None)
    }

    fn start_watched(
        engine: Arc<dyn Engine>,
        keys: Arc<KeyRing>,
        mut head_file: Option<HeadFile>,
        accept_loss: Option<String>,
        on_fatal: OnFatal,
        space: Option<Space>,
    ) -> Result<Arc<Self>, OpenError> {
        let meta = read_meta(engine.as_ref())?;
        if let Some(head_file) = &mut head_file {
            compare(&meta, head_file, accept_loss.as_deref())?;
        }
        let shared = Arc::new(Shared {
            engine,
            keys,
            queue: Mutex::new(Queue::default()),
            work_arrived: Condvar::new(),
            durable: 0.into(),
            queued: 0.into(),
            moved: Moved::default(),
            counters: Counters::default(),
            space: space.as_ref().map(|space| space.figures.clone()).unwrap_or_default(),
            listeners: RwLock::new(Vec::new()),
            chain_listeners: RwLock::new(Vec::new()),
            backup_running: Mutex::default(),
            tap: Mutex::default(),
            folder: OnceLock::new(),
            archives: Archives::default(),
        });
        let writer = Writer::new(shared.clone(), meta, head_file, on_fatal, space);
        let thread = std::thread::Builder::new().name("journal".into());
        let thread = thread.spawn(move || writer.run()).map_err(OpenError::Thread)?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(thread)) }))
    }
}

fn has_store(folder: &Path) -> bool {
    ["journal.redb", "journal.sled"].iter().any(|store| folder.join(store).exists())
}

/// The engine behind the log, whichever it is: `decisions/0001` and `0006` say why.
pub(crate) fn open_engine(options: &Options) -> Result<Arc<dyn Engine>, OpenError> {
    let Options { folder, cache_bytes, table_bytes, .. } = options;
    match options.engine {
        #[cfg(feature = "sled")]
        EngineKind::Sled => {
            let store = crate::engine::SledEngine::open(folder, *cache_bytes)?;
            Ok(Arc::new(LoggedEngine::open(folder, store, *table_bytes)?))
        }
        #[cfg(not(feature = "sled"))]
        EngineKind::Sled => {
            let (engine, operation) = ("sled", "open");
            let reason = "this build does not have it (the cargo feature `sled`)".to_owned();
            Err(EngineError { engine, operation, reason }.into())
        }
        EngineKind::Redb => {
            let store = RedbEngine::open(folder, *cache_bytes)?;
            Ok(Arc::new(LoggedEngine::open(folder, store, *table_bytes)?))
        }
        EngineKind::Memory => Ok(Arc::new(MemoryEngine::default())),
    }
}

pub(crate) fn read_meta(engine: &dyn Engine) -> Result<Meta, OpenError> {
    let Some(bytes) = engine.get(META)? else {
        return Ok(Meta {
            version: LAYOUT_VERSION,
            generation: uuid::Uuid::now_v7().as_u128(),
            commit: 0,
            rolling: ROLLING_START,
            positions: vec![0; SHARDS],
        });
    };
    // The version comes first, so that it can be read whatever follows it.
    let (found, _) = codec::decode_prefix::<u16>(&bytes)?;
    if found > LAYOUT_VERSION {
        return Err(OpenError::Newer { found, known: LAYOUT_VERSION });
    }
    let mut meta: Meta = codec::decode(&bytes)?;
    meta.positions.resize(SHARDS, 0);
    Ok(meta)
}

pub(crate) fn compare(
    meta: &Meta,
    file: &mut HeadFile,
    accept_loss: Option<&str>,
) -> Result<(), OpenError> {
    let path = file.path().to_owned();
    let failed = |source| OpenError::Folder { path: path.clone(), source };
    let found = file.read().map_err(failed)?;
    let seen = found.as_ref().map_or(0, |seen| seen.commit);
    let hash = data_encoding::HEXLOWER.encode(&meta.rolling);
    let fresh = meta.commit == 0;
    if accept_loss == Some(hash.as_str()) {
        tracing::warn!(
            seen,
            found = meta.commit,
            "going on without commits that were acknowledged, as --accept-loss says"
        );
        return file.restart_from(meta).map_err(failed);
    }
    if fresh && seen == 0 {
        // What a start before the first commit left names another generation, if anything.
        return file.restart_from(meta).map_err(failed);
    }
    let Some(found) = found else {
        return Err(OpenError::NoHead { path, commit: meta.commit, hash });
    };
    let foreign = !fresh && found.generation != meta.generation
        || seen == meta.commit && found.rolling != meta.rolling;
    if foreign {
        return Err(OpenError::Foreign { commit: meta.commit, hash });
    }
    if seen > meta.commit {
        let lost = seen - meta.commit;
        return Err(OpenError::Behind { lost, seen, found: meta.commit, hash });
    }
    Ok(())
}
