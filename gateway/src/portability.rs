//! `bailiwick export` and `bailiwick import`: a tenant out of a data folder that no server uses,
//! and into another. A running server does the same over HTTP.
//!
//! An export's key is written to a file of its own beside the export, readable by its owner only:
//! whoever has both has the tenant.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use identity::Identity;
use persistence::tenant_file::ExportKey;
use portability::export::{Exported, Order, export};
use portability::history::verify_import;
use portability::tenant_import::TenantImport;
use portability::{Imported, Portability};
use supervision::{Entity as _, Refusal, System};
use types::TenantId;

use crate::offline::{FolderArgs, OfflineError, Progress, note, open_system, say};
use crate::routes::parse_export_key;

/// The options of `bailiwick export`.
#[derive(clap::Args, Clone, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// The tenant's id
    #[arg(long, value_name = "ID")]
    pub tenant: String,
    /// The file to write, which must not exist
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// The file to write the export's key to; FILE.key if left out
    #[arg(long, value_name = "FILE")]
    pub key_to: Option<PathBuf>,
}

/// The options of `bailiwick import`.
#[derive(clap::Args, Clone, Debug)]
pub struct ImportArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// The file that was exported
    pub file: PathBuf,
    /// The file with its key; FILE.key if left out
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

impl ExportArgs {
    /// An export of a folder's tenant into a file, by default settings.
    pub fn new(data_dir: &Path, tenant: &str, to: &Path) -> Self {
        let folder = FolderArgs { data_dir: data_dir.to_owned(), master_key: None };
        Self { folder, tenant: tenant.to_owned(), to: to.to_owned(), key_to: None }
    }
}

impl ImportArgs {
    /// An import of a file into a folder, by default settings.
    pub fn new(data_dir: &Path, file: &Path) -> Self {
        let folder = FolderArgs { data_dir: data_dir.to_owned(), master_key: None };
        Self { folder, file: file.to_owned(), key: None }
    }
}

fn key_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

fn write_key(path: &Path, key: &ExportKey) -> Result<(), OfflineError> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        writeln!(file, "{}", HEXLOWER.encode(key.bytes()))?;
        file.sync_all()
    });
    written.map_err(OfflineError::file(path))
}

/// Exports a tenant, and prints what the file holds.
pub async fn export_tenant(args: &ExportArgs) -> Result<(), OfflineError> {
    let tenant: TenantId = args.tenant.parse().map_err(|_| Refusal::not_found("tenant"))?;
    if args.to.exists() {
        return Err(persistence::BlockError::Exists(args.to.clone()).into());
    }
    let open = open_system(&args.folder)?;
    let key = ExportKey::generate().map_err(|error| OfflineError::Usage(error.to_string()))?;
    let key_to = args.key_to.clone().unwrap_or_else(|| key_path(&args.to));
    // First, so that there is no export without its key.
    write_key(&key_to, &key)?;
    let mut progress = Progress::new("exporting", "records");
    let order = Order { tenant, at: None, leaves: true };
    let exported = export(&open.system, order, &args.to, &key, &mut |it| progress.at(it));
    drop(progress);
    open.system.stop().await;
    let Exported { manifest, carried, members, bytes, sha256 } = match exported {
        Ok(exported) => exported,
        Err(refusal) => {
            let _ = std::fs::remove_file(&key_to);
            return Err(refusal.into());
        }
    };
    let (to, records) = (args.to.display(), manifest.records);
    say(&format!(
        "{to}: {tenant}, {records} records, {carried} of them with what they say, {members} \
         members, {bytes} bytes, SHA-256 {}",
        HEXLOWER.encode(&sha256)
    ));
    say(&format!("the chain's Merkle root is {}", HEXLOWER.encode(&manifest.root)));
    say(&format!("its key is in {}: keep it elsewhere than the export", key_to.display()));
    Ok(())
}

/// Imports a tenant, and prints what came.
pub async fn import_tenant(args: &ImportArgs) -> Result<(), OfflineError> {
    let key_path = args.key.clone().unwrap_or_else(|| key_path(&args.file));
    let text = std::fs::read_to_string(&key_path).map_err(OfflineError::file(&key_path))?;
    let key = parse_export_key(&text)?;
    let open = open_system(&args.folder)?;
    let system = &open.system;
    let (identity, portability) = (system.port::<Identity>(), system.port::<Portability>());
    identity.start(system).await?;
    let incoming = portability.receive(system)?;
    std::fs::copy(&args.file, incoming.path()).map_err(OfflineError::file(&args.file))?;
    note("checking the whole file, then taking it over");
    let imported = portability.import(system, incoming, key, system.system_origin()).await;
    system.stop().await;
    let Imported { manifest, tenant, records, entities, found, made } = imported?;
    say(&format!(
        "{tenant}: {records} records of {} taken over, {entities} entities, {found} members found \
         and {made} created",
        manifest.records
    ));
    Ok(())
}

/// Verifies where tenants came from: how many there are, and how many are wrong.
pub(crate) fn verify_imports(system: &System) -> Result<(u64, u64), OfflineError> {
    let (mut after, mut imports, mut wrong) = (None, 0, 0);
    while let Some(stream) = system.journal().next_stream(TenantImport::KIND, after.as_ref())? {
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        let verified = match system.locate(TenantImport::KIND, id) {
            Some(place) => verify_import(system, &place),
            None => Err("it has no first record".to_owned()),
        };
        match verified {
            Ok(verified) => imports += u64::from(verified.is_some()),
            Err(problem) => {
                wrong += 1;
                say(&format!("{stream}: {problem}"));
            }
        }
        after = Some(stream);
    }
    Ok((imports, wrong))
}
