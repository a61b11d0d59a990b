//! `bailiwick backup`: one file that a store can be made from again.
//!
//! Of a stopped folder this process takes it. Of one that a server has open, the server takes it,
//! into `DATA_DIR/backups`, asked by an operator whose credentials stand in the environment; the
//! file is then moved to where it was wanted. Either way it is read again and checked.
//!
//! Limits: the server is spoken to in plain HTTP, so it should be on this machine, whose folder the
//! file is in; the key file is never in a backup.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use persistence::OpenError;
use persistence::backup::{BackupReport, check_backup};
use persistence::restore::KEY_FILE;
use serde_json::{Value, json};
use supervision::Timestamp;

use crate::config::Hidden;
use crate::offline::{FolderArgs, OfflineError, Progress, note, open_journal, say};
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
            operator_email: String::new(),
            operator_password: None,
        }
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
    let client = Client::builder(TokioExecutor::new()).build_http();
    let remote = Remote { server: server.trim_end_matches('/'), client };
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

/// A server that is spoken to.
struct Remote<'a> {
    server: &'a str,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Remote<'_> {
    async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<Value, OfflineError> {
        let asked = format!("{}{path}", self.server);
        let unreachable = |error: &dyn std::error::Error| {
            OfflineError::Unreachable(asked.clone(), crate::offline::whole(error))
        };
        let mut request = Request::post(&asked).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())));
        let request = request.map_err(|error| unreachable(&error))?;
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.map_err(|error| unreachable(&error))?.to_bytes();
        if head.status.is_success() {
            return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let answer = problem["detail"].as_str().unwrap_or("no reason given").to_owned();
        Err(OfflineError::Answered { asked, status: head.status.as_u16(), answer })
    }
}
