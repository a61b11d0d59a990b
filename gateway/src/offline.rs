//! What the commands that work on a data folder share: opening one that no server uses, one error
//! with its exit code, and lines of progress on stderr.
//!
//! Nothing here serves or wakes anything: actors are there only so that their kinds can replay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use persistence::archive::ArchiveError;
use persistence::backup::BackupError;
use persistence::restore::{KEY_FILE, MASTER_KEY_FILE, RestoreError};
use persistence::{
    EngineKind, FolderLock, Home, Journal, MasterKey, OpenError, Options, ReadError, SealError,
    check_store,
};
use supervision::{Refusal, System, SystemOptions};

use crate::config::{Hidden, ServeArgs};
use crate::load::progress;
use crate::start::{StartError, build, master_key, new_identity};

/// How many chains one step lists.
const HOMES_STEP: usize = 1_000;
/// How often a line of progress is written at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

/// Which data folder a command works on.
#[derive(clap::Args, Clone, Debug)]
pub struct FolderArgs {
    /// The data folder
    #[arg(long, env = "BAILIWICK_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The master key as 64 hex digits; without it DATA_DIR/master.key is used
    #[arg(long, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<Hidden>,
}

/// Why a command on a data folder did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is nothing to work on.
    #[error("{0} holds no Bailiwick data")]
    NoData(PathBuf),
    /// The folder or its keys do not open.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A backup could not be taken or read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A new folder could not be made.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Archives could not be read or made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The journal could not be read.
    #[error("the journal could not be read: {0}")]
    Read(#[from] ReadError),
    /// A step was refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A file could not be used.
    #[error("{path} cannot be used: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The settings do not go together.
    #[error("{0}")]
    Usage(String),
    /// The server could not be reached.
    #[error("{0} could not be reached: {1}")]
    Unreachable(String, String),
    /// The server did not do it.
    #[error("{asked} was answered {status}: {answer}")]
    Answered {
        /// What was asked.
        asked: String,
        /// The status.
        status: u16,
        /// What the answer says.
        answer: String,
    },
    /// Something is wrong; it was printed.
    #[error("{0} of what was checked is wrong")]
    Wrong(u64),
}

impl From<OpenError> for OfflineError {
    fn from(error: OpenError) -> Self {
        Self::Start(error.into())
    }
}

impl From<SealError> for OfflineError {
    fn from(error: SealError) -> Self {
        Self::Start(error.into())
    }
}

impl OfflineError {
    /// The process's exit code, as `sysexits.h` names them; 1 for what was checked and is wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 64,
            Self::NoData(_) | Self::Restore(RestoreError::NoJournal(_)) => 66,
            Self::Unreachable(..) | Self::Answered { .. } => 69,
            Self::Refused(_) => 70,
            Self::Restore(RestoreError::NotEmpty(_) | RestoreError::Leftover(_)) => 73,
            Self::Start(error) => error.exit_code(),
            Self::Restore(RestoreError::Keys(_)) => 78,
            Self::Backup(error) | Self::Restore(RestoreError::Backup(error)) => match error {
                BackupError::File(persistence::BlockError::Exists(_)) => 73,
                BackupError::File(persistence::BlockError::File { .. }) => 74,
                BackupError::File(_) | BackupError::Codec(_) => 65,
                BackupError::ForeignKeys(_) | BackupError::Keys(_) => 78,
                _ => 74,
            },
            Self::Restore(_) | Self::Archive(_) | Self::Read(_) | Self::File { .. } => 74,
        }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// A journal that no server uses. Field by field in the order in which they must go.
pub(crate) struct OpenJournal {
    pub(crate) journal: Arc<Journal>,
    pub(crate) master: MasterKey,
    pub(crate) _lock: FolderLock,
}

/// Opens the journal of a folder that has one.
pub(crate) fn open_journal(args: &FolderArgs) -> Result<OpenJournal, OfflineError> {
    let folder = &args.data_dir;
    if !folder.join(KEY_FILE).exists() {
        return Err(OfflineError::NoData(folder.clone()));
    }
    let lock = FolderLock::take(folder)?;
    let master = master_key(folder, args.master_key.as_ref())?;
    let engine = EngineKind::found_in(folder)?.unwrap_or(EngineKind::Redb);
    let journal = Journal::open(Options { engine, ..Options::new(folder) }, &master)?;
    Ok(OpenJournal { journal, master, _lock: lock })
}

/// Lets the engine of a folder check all that it can by itself.
pub(crate) fn check_engine(args: &FolderArgs) -> Result<(), OfflineError> {
    let folder = &args.data_dir;
    if !folder.join(KEY_FILE).exists() {
        return Err(OfflineError::NoData(folder.clone()));
    }
    let _lock = FolderLock::take(folder)?;
    Ok(check_store(folder)?)
}

/// The master key that goes with a key file: the one given, or the file `master.key` beside it,
/// which is then named too. Makes none.
pub(crate) fn master_beside(
    keys: &Path,
    given: Option<&Hidden>,
) -> Result<(MasterKey, Option<PathBuf>), OfflineError> {
    if !keys.is_file() {
        return Err(OfflineError::NoData(keys.to_owned()));
    }
    let beside = keys.with_file_name(MASTER_KEY_FILE);
    if given.is_some() {
        return Ok((master_key(Path::new(""), given)?, None));
    }
    if !beside.is_file() {
        let message = format!("{} is missing: give --master-key", beside.display());
        return Err(OfflineError::Usage(message));
    }
    Ok((MasterKey::load_or_create(&beside)?, Some(beside)))
}

/// A whole system on a folder that no server uses: every kind is known, nothing is running.
pub(crate) struct OpenSystem {
    pub(crate) system: Arc<System>,
    _lock: FolderLock,
}

/// Opens a folder with every kind registered.
pub(crate) fn open_system(args: &FolderArgs) -> Result<OpenSystem, OfflineError> {
    let OpenJournal { journal, master, _lock } = open_journal(args)?;
    let serve = ServeArgs { data_dir: args.data_dir.clone(), ..ServeArgs::default() };
    let identity = new_identity(&serve, &master)?;
    let builder = System::builder(SystemOptions::new(journal));
    let system = build(&serve, builder, &identity, &master)?.system;
    Ok(OpenSystem { system, _lock })
}

/// Verifies every chain; says how many there are, how many records they have, how many are wrong.
pub(crate) fn verify_chains(journal: &Journal) -> Result<(u64, u64, u64), OfflineError> {
    let (mut after, mut chains, mut records, mut wrong) = (None, 0, 0, 0);
    let mut progress = Progress::new("verifying chains", "records");
    loop {
        let homes = journal.homes(after, HOMES_STEP)?;
        for Home(home) in homes.iter().copied() {
            chains += 1;
            match journal.verify_chain(Home(home)) {
                Ok(report) => records += report.records,
                Err(error) => {
                    wrong += 1;
                    say(&format!("chain {}: {}", types::TenantId(home), whole(&error)));
                }
            }
            progress.at(records);
        }
        after = homes.last().copied();
        if homes.len() < HOMES_STEP {
            return Ok((chains, records, wrong));
        }
    }
}

/// An error with what is behind it, in one line.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A line on stderr that says how far something is: now and then, and on a terminal only.
pub(crate) struct Progress {
    doing: &'static str,
    unit: &'static str,
    shown: Instant,
    any: bool,
}

impl Progress {
    pub(crate) fn new(doing: &'static str, unit: &'static str) -> Self {
        Self { doing, unit, shown: Instant::now(), any: false }
    }

    pub(crate) fn at(&mut self, count: u64) {
        if self.shown.elapsed() >= PROGRESS_PERIOD {
            self.shown = Instant::now();
            self.any = true;
            progress::show(&format!("{}: {count} {}", self.doing, self.unit));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.any {
            progress::show("");
        }
    }
}

/// A line on stderr that stays.
pub(crate) fn note(line: &str) {
    progress::say(line);
}

/// A line on stdout: a command's result.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
