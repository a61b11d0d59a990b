//! `/v1/operator/backups`: backups of the running server, into its own folder and nowhere else.
//!
//! Nothing a caller sends becomes a path: the server names the file by the time. A backup is taken
//! beside the writer, one at a time; what the caller sees of a failure is that there was one, and
//! the log says why.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use activity::operator_act::{self, Noted};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use data_encoding::HEXLOWER;
use persistence::backup::{BackupError, BackupReport};
use serde::{Deserialize, Serialize};
use supervision::{Class, Home, Refusal};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Operator;
use crate::backup::{BACKUP_FOLDER, file_name};
use crate::extract::JsonBody;
use crate::openapi::tag;
use crate::problem::Problem;

/// How many backups may lie in the folder: whoever has them taken moves them away.
const BACKUPS_KEPT_MAX: usize = 64;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_backups, take_backup))
}

/// Why a backup is taken.
#[derive(Deserialize, ToSchema)]
struct BackupRequest {
    /// For people; it stands in the platform's chain
    #[serde(default)]
    reason: Option<String>,
}

/// A backup that was taken.
#[derive(Serialize, ToSchema)]
struct BackupView {
    /// The file's name in the server's folder `backups`
    name: String,
    /// Its length
    bytes: u64,
    /// The SHA-256 in its end, over everything before that
    sha256: String,
    /// The number of the last commit in it
    commit: u64,
    /// How many records it has
    records: u64,
    /// How many archive files it has
    archives: u64,
    /// The generation of the store
    generation: String,
}

impl BackupView {
    fn new(name: String, report: &BackupReport) -> Self {
        Self {
            name,
            bytes: report.bytes,
            sha256: HEXLOWER.encode(&report.sha256),
            commit: report.commit,
            records: report.positions.iter().sum(),
            archives: report.archives,
            generation: HEXLOWER.encode(&report.generation.to_be_bytes()),
        }
    }
}

/// A backup that lies in the server's folder.
#[derive(Serialize, ToSchema)]
struct BackupFile {
    name: String,
    bytes: u64,
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(error = crate::offline::whole(error), "a backup could not be taken");
    let message = "the backup could not be taken; the server's log says why";
    Refusal::new(Class::Crashed, "backup_failed", message)
}

fn folder(app: &App) -> Result<PathBuf, Refusal> {
    let folder = app.system.journal().folder().map(|folder| folder.join(BACKUP_FOLDER));
    let message = "this server keeps nothing on a disk";
    folder.ok_or_else(|| Refusal::new(Class::Conflict, "no_data_folder", message))
}

fn backups_in(folder: &Path) -> std::io::Result<Vec<BackupFile>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // One that is being taken has another name until it is whole.
        if name.ends_with(".backup") {
            files.push(BackupFile { name, bytes: entry.metadata()?.len() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The backups in the server's folder, the oldest first
#[utoipa::path(get, path = "/v1/operator/backups", tag = tag::OPERATOR,
    responses((status = 200, body = Vec<BackupFile>), (status = 401), (status = 403)))]
async fn list_backups(
    State(app): State<App>,
    Operator(_entered): Operator,
) -> Result<Json<Vec<BackupFile>>, Problem> {
    let folder = folder(&app)?;
    let listed = tokio::task::spawn_blocking(move || backups_in(&folder)).await;
    let files = listed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Json(files))
}

/// Take a backup of the running server into its folder; answers once it is durable
#[utoipa::path(post, path = "/v1/operator/backups", tag = tag::OPERATOR,
    request_body = BackupRequest,
    responses((status = 201, body = BackupView), (status = 401), (status = 403), (status = 409),
        (status = 422)))]
async fn take_backup(
    State(app): State<App>,
    Operator(entered): Operator,
    body: JsonBody<BackupRequest>,
) -> Result<(StatusCode, Json<BackupView>), Problem> {
    let folder = folder(&app)?;
    if app.system.journal().is_low_on_space() {
        return Err(Refusal::low_space().into());
    }
    let now = app.system.clock().now();
    let name = file_name(now);
    let text = |text: &str| text.to_owned();
    let reason = body.value.reason.unwrap_or_else(|| text("a backup"));
    let act = Noted { kind: text("journal"), id: name.clone(), action: text("backup"), reason };
    let origin = app.origin(&entered.caller, entered.request);
    operator_act::note(&app.system, Home(0), act, origin).await?;
    let (journal, target) = (app.system.journal().clone(), folder.join(&name));
    let taking = tokio::task::spawn_blocking(move || {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| failed(&error))?;
        if backups_in(&folder).map_err(|error| failed(&error))?.len() >= BACKUPS_KEPT_MAX {
            let message = "the server's folder `backups` is full: move some of them away";
            return Err(Refusal::new(Class::Conflict, "too_many_backups", message));
        }
        journal.backup(&target, now.0, &mut |_| {}).map_err(|error| match error {
            BackupError::Running => {
                Refusal::new(Class::Conflict, "backup_running", error.to_string())
            }
            error => failed(&error),
        })
    });
    let report = taking.await.map_err(|error| failed(&error))??;
    Ok((StatusCode::CREATED, Json(BackupView::new(name, &report))))
}
