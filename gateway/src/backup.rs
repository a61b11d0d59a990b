//! `bailiwick backup`: one file that a store can be made from again.
//!
//! Of a stopped folder this process takes it. Of one that a server has open, the server takes it,
//! into `DATA_DIR/backups`, asked by an operator whose credentials stand in the environment; the
//! file is then moved to where it was wanted. Either way it is read again and checked.
//!
//! Limits: the server must be on this machine, because the file is in its folder; the key file is
//! never in a backup.

use std::path::{Path, PathBuf};

use persistence::OpenError;
use persistence::backup::{BackupReport, check_backup};
use persistence::restore::KEY_FILE;
use serde_json::json;
use supervision::Timestamp;

use crate::config::Hidden;
use crate::offline::{FolderArgs, OfflineError, Progress, note, open_journal, say};
use crate::remote::Remote;
use crate::start::StartError;

/// Where a server puts backups, in its data folder.
pub const BACKUP_FOLDER: &str = "backups";
/// The server that is asked when none is named.
const SERVER: &str = "http://127.0.0.1:8787";

/// The options of `bailiwick backup`.
#[derive(clap::Args, Clone, Debug)]
pub struct BackupArgs {
    /// The file to write, which must not exist, or a folder to write it into
    pub target: PathBuf,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// The server that has the folder open; asked for the backup if one does
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// For https: the only certificates, in PEM form, that the server's may be signed by, instead
    /// of this machine's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The operator's e-mail address, for the server
    #[arg(
        long,
        env = "BAILIWICK_OPERATOR_EMAIL",
        default_value = "operator@localhost.localdomain"
    )]
    pub operator_email: String,
    /// The operator's password, for the server
    #[arg(long, env = "BAILIWICK_OPERATOR_PASSWORD", hide_env_values = true)]
    pub operator_password: Option<Hidden>,
}

impl BackupArgs {
    /// A backup of a folder into a file, by default settings.
    pub fn new(folder: &Path, target: &Path) -> Self {
        Self {
            target: target.to_owned(),
            folder: FolderArgs { data_dir: folder.to_owned(), master_key: None },
            server: None,
            ca: None,
            operator_email: String::new(),
            operator_password: None,
        }
    }
}

/// Removes what backups have left in a data folder when the process that took them was killed. The
/// caller has the folder.
pub(crate) fn remove_unfinished(data_dir: &Path) {
    match persistence::remove_unfinished(&data_dir.join(BACKUP_FOLDER)) {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "unfinished backups were removed"),
        Err(error) => tracing::warn!(%error, "unfinished backups could not be removed"),
    }
}

/// What a backup begun at this time is called.
pub(crate) fn file_name(at: Timestamp) -> String {
    let time: String =
        types::rfc3339(at).chars().filter(|c| !['-', ':', '.'].contains(c)).collect();
    format!("bailiwick-{time}.backup")
}

pub(crate) fn now() -> Timestamp {
    use supervision::Clock as _;
    supervision::SystemClock::default().now()
}

/// Takes a backup, and prints what it holds.
pub async fn run(args: &BackupArgs) -> Result<(), OfflineError> {
    let target = match args.target.is_dir() {
        true => args.target.join(file_name(now())),
        false => args.target.clone(),
    };
    if target.exists() {
        return Err(persistence::BlockError::Exists(target).into());
    }
    let report = match &args.server {
        Some(server) => ask(args, server, &target).await?,
        None => match open_journal(&args.folder) {
            Err(OfflineError::Start(StartError::Open(OpenError::InUse(_)))) => {
                note(&format!("a server has the folder open: asking {SERVER} (or --server URL)"));
                ask(args, SERVER, &target).await?
            }
            opened => {
                let mut progress = Progress::new("backing up", "bytes");
                opened?.journal.backup(&target, now().0, &mut |bytes| progress.at(bytes))?
            }
        },
    };
    let mut progress = Progress::new("checking", "bytes");
    let checked = check_backup(&target, None, &mut |bytes| progress.at(bytes))?;
    drop(progress);
    if checked != report {
        return Err(OfflineError::Usage(format!("{} changed meanwhile", target.display())));
    }
    say(&format!("{}: {report}", target.display()));
    let keys = args.folder.data_dir.join(KEY_FILE);
    say(&format!("keep {} and the master key too: they are not in it", keys.display()));
    Ok(())
}

impl From<persistence::BlockError> for OfflineError {
    fn from(error: persistence::BlockError) -> Self {
        Self::Backup(error.into())
    }
}

/// Has the server take it, and moves it to where it was wanted.
async fn ask(args: &BackupArgs, server: &str, target: &Path) -> Result<BackupReport, OfflineError> {
    let Some(password) = &args.operator_password else {
        let message = "asking a server needs an operator: set BAILIWICK_OPERATOR_EMAIL and \
            BAILIWICK_OPERATOR_PASSWORD";
        return Err(OfflineError::Usage(message.to_owned()));
    };
    let remote = Remote::new(server, args.ca.as_deref())?;
    let login = json!({"email": args.operator_email, "password": password.0});
    let tokens = remote.post("/v1/auth/login", None, &login).await?;
    let token = tokens["access_token"].as_str().unwrap_or_default();
    let taken = remote.post("/v1/operator/backups", Some(token), &json!({})).await?;
    let name = taken["name"].as_str().unwrap_or_default();
    let source = args.folder.data_dir.join(BACKUP_FOLDER).join(name);
    let report = check_backup(&source, None, &mut |_| {})?;
    let moved = std::fs::rename(&source, target).or_else(|_| {
        std::fs::copy(&source, target)?;
        std::fs::File::open(target)?.sync_all()?;
        std::fs::remove_file(&source)
    });
    moved.map_err(OfflineError::file(target))?;
    Ok(report)
}
