//! Opening a data folder: one process at a time, keys, engine, and the head file's veto.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::archive::Archives;
use crate::codec;
use crate::engine::{Engine, EngineError, LoggedEngine, MemoryEngine, RedbEngine, TABLE_BYTES};
use crate::head_file::HeadFile;
use crate::journal::{Counters, Journal, Queue, Shared};
use crate::layout::{LAYOUT_VERSION, META, Meta};
use crate::record::SHARDS;
use crate::sealing::{KeyRing, MasterKey, SealError};
use crate::writer::{OnFatal, ROLLING_START, Writer};

/// Which engine carries the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// redb, the default.
    Redb,
    /// Nothing on disk; tests and simulations.
    Memory,
}

impl EngineKind {
    /// The engine of this name.
    pub fn named(name: &str) -> Option<Self> {
        (name == "redb").then_some(Self::Redb)
    }

    /// Which engine's store a data folder holds.
    pub fn found_in(folder: &Path) -> Result<Option<Self>, OpenError> {
        Ok(folder.join("journal.redb").exists().then_some(Self::Redb))
    }
}

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
    #[error("the data folder {path} cannot be used: {source}")]
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
    /// The engine does not open.
    #[error("the journal does not open: {0}")]
    Engine(#[from] EngineError),
    /// The keys do not open.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// The store is damaged.
    #[error("the journal's own figures do not decode: {0}")]
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
    #[error("the writer's thread did not start: {0}")]
    Thread(#[source] std::io::Error),
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
        let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        created.map_err(failed(folder))?;
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

impl Journal {
    /// Opens the journal of a data folder whose [`FolderLock`] the caller holds.
    pub fn open(options: Options, master: &MasterKey) -> Result<Arc<Self>, OpenError> {
        let folder = &options.folder;
        if options.engine == EngineKind::Memory {
            let keys = Arc::new(KeyRing::in_memory(master)?);
            let engine = Arc::new(MemoryEngine::default());
            return Self::start(engine, keys, None, options.accept_loss, options.on_fatal);
        }
        let data_keys = folder.join("data-keys");
        let has_journal = folder.join("journal.redb").exists();
        if has_journal && !data_keys.exists() {
            return Err(OpenError::KeysMissing(data_keys));
        }
        // The keys first: a wrong master key is refused before the engine writes a byte.
        let keys = Arc::new(KeyRing::open(&data_keys, master)?);
        let engine = open_engine(&options)?;
        let path = folder.join("head");
        let head_file =
            HeadFile::open(&path).map_err(|source| OpenError::Folder { path, source })?;
        let Options { folder, accept_loss, on_fatal, .. } = options;
        let journal = Self::start(engine, keys, Some(head_file), accept_loss, on_fatal)?;
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
        let meta = read_meta(engine.as_ref())?;
        if let Some(head_file) = &head_file {
            compare(&meta, head_file, accept_loss.as_deref())?;
        }
        let shared = Arc::new(Shared {
            engine,
            keys,
            queue: Mutex::new(Queue::default()),
            work_arrived: Condvar::new(),
            durable: 0.into(),
            queued: 0.into(),
            counters: Counters::default(),
            listeners: RwLock::new(Vec::new()),
            tap: Mutex::default(),
            folder: OnceLock::new(),
            archives: Archives::default(),
        });
        let writer = Writer::new(shared.clone(), meta, head_file, on_fatal);
        let thread = std::thread::Builder::new().name("journal".into());
        let thread = thread.spawn(move || writer.run()).map_err(OpenError::Thread)?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(thread)) }))
    }
}

/// The engine that these options name, on their folder.
pub(crate) fn open_engine(options: &Options) -> Result<Arc<dyn Engine>, OpenError> {
    let Options { folder, engine, cache_bytes, table_bytes, .. } = options;
    Ok(match engine {
        EngineKind::Memory => Arc::new(MemoryEngine::default()),
        EngineKind::Redb => {
            let store = RedbEngine::open(folder, *cache_bytes)?;
            Arc::new(LoggedEngine::open(folder, store, *table_bytes)?)
        }
    })
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

fn compare(meta: &Meta, file: &HeadFile, accept_loss: Option<&str>) -> Result<(), OpenError> {
    let failed = |source| OpenError::Folder { path: "head".into(), source };
    let Some(seen) = file.read().map_err(failed)? else {
        return Ok(());
    };
    let hash = data_encoding::HEXLOWER.encode(&meta.rolling);
    let accepted = accept_loss == Some(hash.as_str());
    let fresh = meta.commit == 0;
    let foreign = !fresh && seen.generation != meta.generation
        || seen.commit == meta.commit && seen.rolling != meta.rolling;
    if accepted {
        tracing::warn!(
            seen = seen.commit,
            found = meta.commit,
            "going on without commits that were acknowledged, as --accept-loss says"
        );
        file.restart_from(meta).map_err(failed)?;
        return Ok(());
    }
    if foreign {
        return Err(OpenError::Foreign { commit: meta.commit, hash });
    }
    if seen.commit > meta.commit {
        let lost = seen.commit - meta.commit;
        return Err(OpenError::Behind { lost, seen: seen.commit, found: meta.commit, hash });
    }
    Ok(())
}
