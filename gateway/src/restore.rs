//! `bailiwick restore` and `bailiwick journal copy`: a new data folder made of a backup, or of
//! another folder.
//!
//! Both verify every chain in the new folder before it gets its name. A restore starts a new
//! generation of the store and stands in the platform's chain as an operator's act.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use activity::operator_act::{self, Noted};
use data_encoding::HEXLOWER;
use persistence::restore::{
    KEY_FILE, MASTER_KEY_FILE, NewFolder, copy_folder, restore as restore_backup,
};
use persistence::{EngineKind, FolderLock, Home, Journal, Options, SealError};
use supervision::{System, SystemOptions};

use crate::config::Hidden;
use crate::offline::{OfflineError, Progress, master_beside, note, say, verify_chains};
use crate::start::master_key;

/// The options of `bailiwick restore`.
#[derive(clap::Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup file
    pub backup: PathBuf,
    /// The data folder to make; it must be empty or not there
    #[arg(long, env = "BAILIWICK_DATA_DIR")]
    pub data_dir: PathBuf,
    /// The key file, `data-keys`, as it was at the backup or is later
    #[arg(long)]
    pub keys: PathBuf,
    /// The master key as 64 hex digits; without it the `master.key` beside the key file is used,
    /// and copied
    #[arg(long, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<Hidden>,
    /// The storage engine of the new folder
    #[arg(long, env = "BAILIWICK_ENGINE", default_value = "redb")]
    pub engine: String,
}

/// What `bailiwick journal` does.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum JournalCommand {
    /// Copy a data folder that no server uses, onto the same engine or another
    Copy(CopyArgs),
}

/// The options of `bailiwick journal`.
#[derive(clap::Args, Clone, Debug)]
pub struct JournalArgs {
    #[command(subcommand)]
    pub(crate) command: JournalCommand,
}

/// The options of `bailiwick journal copy`.
#[derive(clap::Args, Clone, Debug)]
pub struct CopyArgs {
    /// The data folder to copy
    #[arg(long)]
    pub from: PathBuf,
    /// The data folder to make; it must be empty or not there
    #[arg(long)]
    pub to: PathBuf,
    /// The storage engine of the new folder
    #[arg(long, default_value = "redb")]
    pub engine: String,
    /// The master key as 64 hex digits; without it the folder's `master.key` is used
    #[arg(long, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<Hidden>,
}

fn engine(name: &str) -> Result<EngineKind, OfflineError> {
    EngineKind::named(name).ok_or_else(|| OfflineError::Usage(format!("no engine {name:?}")))
}

/// Restores a backup, and prints what it holds.
pub async fn restore(args: &RestoreArgs) -> Result<(), OfflineError> {
    let kind = engine(&args.engine)?;
    let (master, beside) = master_beside(&args.keys, args.master_key.as_ref())?;
    let new = NewFolder::begin(&args.data_dir)?;
    let mut progress = Progress::new("restoring", "bytes");
    let (backup, keys) = (&args.backup, &args.keys);
    let mut at = |bytes| progress.at(bytes);
    let report = restore_backup(backup, new.path(), kind, keys, &master, &mut at)?;
    drop(progress);
    if let Some(beside) = beside {
        copy_secret(&beside, &new.path().join(MASTER_KEY_FILE))?;
    }
    note("every checksum holds; verifying the restored chains");
    let lock = FolderLock::take(new.path())?;
    let options = Options { engine: kind, ..Options::new(new.path()) };
    let journal = Journal::open(options, &master)?;
    let chains = verify_chains(&journal)?;
    wrong_is_an_error(chains)?;
    let generation = note_restore(journal, &report.to_string()).await?;
    drop(lock);
    new.finish()?;
    say(&format!("{}: {report}", args.backup.display()));
    let folder = args.data_dir.display();
    say(&format!("{folder}: generation {generation}, {} chains verified", chains.0));
    Ok(())
}

fn wrong_is_an_error((_, _, wrong): (u64, u64, u64)) -> Result<(), OfflineError> {
    if wrong == 0 { Ok(()) } else { Err(OfflineError::Wrong(wrong)) }
}

/// Copies a file that its owner alone may read.
fn copy_secret(from: &Path, to: &Path) -> Result<(), OfflineError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let bytes = std::fs::read(from).map_err(OfflineError::file(from))?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let written = file.and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written.map_err(OfflineError::file(to))
}

/// The restore stands in the platform's chain. Answers the new generation; closes the journal.
async fn note_restore(journal: Arc<Journal>, what: &str) -> Result<String, OfflineError> {
    let generation = HEXLOWER.encode(&journal.standing()?.generation.to_be_bytes());
    let system = activity::register(System::builder(SystemOptions::new(journal))).start();
    let text = |text: &str| text.to_owned();
    let act = Noted {
        kind: text("journal"),
        id: generation.clone(),
        action: text("restore"),
        reason: format!("a backup was restored: {what}"),
    };
    let noted = operator_act::note(&system, Home(0), act, system.system_origin()).await;
    system.stop().await;
    noted?;
    Ok(generation)
}

/// Carries out `bailiwick journal`.
pub async fn journal(args: &JournalArgs) -> Result<(), OfflineError> {
    let JournalCommand::Copy(args) = &args.command;
    copy(args).await
}

/// Copies a data folder, and prints what was copied.
pub async fn copy(args: &CopyArgs) -> Result<(), OfflineError> {
    let kind = engine(&args.engine)?;
    if !args.from.join(KEY_FILE).exists() {
        return Err(OfflineError::NoData(args.from.clone()));
    }
    let from_lock = FolderLock::take(&args.from)?;
    let master = master_key(&args.from, args.master_key.as_ref())?;
    let new = NewFolder::begin(&args.to)?;
    let mut progress = Progress::new("copying", "bytes");
    let report = copy_folder(&args.from, new.path(), kind, &mut |bytes| progress.at(bytes))?;
    drop(progress);
    note("the copy is the same, pair by pair; verifying its chains");
    let lock = FolderLock::take(new.path())?;
    let opened = Journal::open(Options { engine: kind, ..Options::new(new.path()) }, &master);
    let journal = match opened {
        Err(persistence::OpenError::Keys(SealError::MasterKey(_))) => {
            let keys = args.from.join(KEY_FILE);
            return Err(SealError::MasterKey(keys).into());
        }
        opened => opened?,
    };
    let chains = verify_chains(&journal)?;
    wrong_is_an_error(chains)?;
    journal.close();
    drop((journal, lock));
    new.finish()?;
    drop(from_lock);
    let persistence::restore::CopyReport { from, to, pairs, archives, commit } = report;
    let folder = args.to.display();
    say(&format!("{folder}: {pairs} pairs, {archives} archives, commit {commit}, {from} to {to}"));
    say(&format!("{} chains with {} records verified", chains.0, chains.1));
    Ok(())
}
