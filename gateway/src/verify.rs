//! `bailiwick verify`: checks a data folder that no server is using, or a backup.
//!
//! Of a folder: that the engine is where the head file saw it (a store behind it does not open);
//! every chain (no record missing, every link right, the Merkle root as its head says, archives
//! read through); every archive file; every entity of every kind (its records replay, and what its
//! snapshot and the records after it give is what all records give; of what was erased, that its
//! records are in their chains); every wallet (its books
//! balance, nothing is negative). Whether rows are as the records say is `bailiwick reindex
//! --check`; here they are counted.
//!
//! Of a backup: every checksum, number and count; with its key file also that the keys fit.

use std::path::PathBuf;

use billing::wallet::Wallet;
use persistence::KeyRing;
use persistence::backup::check_backup;
use supervision::system::Registered;
use supervision::{Entity as _, System};

use crate::offline::{
    FolderArgs, OfflineError, Progress, check_engine, master_beside, open_system, say,
    verify_chains, whole,
};
use crate::portability::verify_imports;

/// How many archives one step lists.
const ARCHIVES_STEP: usize = 256;

/// The options of `bailiwick verify`.
#[derive(clap::Args, Clone, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// Check this backup instead of the data folder
    #[arg(long, value_name = "FILE")]
    pub backup: Option<PathBuf>,
    /// With --backup: check too that this key file fits, under the master key
    #[arg(long, value_name = "FILE", requires = "backup")]
    pub keys: Option<PathBuf>,
}

impl VerifyArgs {
    /// A folder.
    pub fn folder(data_dir: PathBuf) -> Self {
        let folder = FolderArgs { data_dir, master_key: None };
        Self { folder, backup: None, keys: None }
    }

    /// A backup.
    pub fn backup(file: PathBuf) -> Self {
        Self { backup: Some(file), ..Self::folder(PathBuf::new()) }
    }
}

/// Verifies, and prints what it found.
pub async fn run(args: &VerifyArgs) -> Result<(), OfflineError> {
    if let Some(backup) = &args.backup {
        return verify_backup(args, backup);
    }
    check_engine(&args.folder)?;
    let open = open_system(&args.folder)?;
    let system = open.system.as_ref();
    let standing = system.journal().standing()?;
    let generation = data_encoding::HEXLOWER.encode(&standing.generation.to_be_bytes());
    say(&format!("commit {} of generation {generation}, head file agrees", standing.commit));
    let (chains, records, wrong_chains) = verify_chains(system.journal())?;
    say(&format!("{chains} chains with {records} records: {wrong_chains} wrong"));
    let (archives, wrong_archives) = archives(system)?;
    say(&format!("{archives} archives: {wrong_archives} wrong"));
    let mut wrong = wrong_chains + wrong_archives;
    for kind in system.kinds() {
        let (entities, wrong_entities) = entities(system, kind.as_ref())?;
        say(&format!("{entities} of kind {}: {wrong_entities} wrong", kind.kind()));
        wrong += wrong_entities;
    }
    let (imports, wrong_imports) = verify_imports(system)?;
    say(&format!("{imports} tenants from elsewhere, with their old chains: {wrong_imports} wrong"));
    wrong += wrong_imports;
    for (family, count) in system.journal().count_rows()? {
        say(&format!("{count} rows of family {family}"));
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(OfflineError::Wrong(wrong)),
    }
}

fn verify_backup(args: &VerifyArgs, backup: &std::path::Path) -> Result<(), OfflineError> {
    let keys = match &args.keys {
        Some(path) => {
            let (master, _) = master_beside(path, args.folder.master_key.as_ref())?;
            Some(KeyRing::open_read_only(path, &master)?)
        }
        None => None,
    };
    let mut progress = Progress::new("checking", "bytes");
    let report = check_backup(backup, keys.as_ref(), &mut |bytes| progress.at(bytes))?;
    drop(progress);
    say(&format!("{}: {report}", backup.display()));
    Ok(())
}

fn archives(system: &System) -> Result<(u64, u64), OfflineError> {
    let (mut after, mut archives, mut wrong) = (None, 0, 0);
    loop {
        let page = system.journal().archives(after, ARCHIVES_STEP)?;
        for (id, entry) in &page {
            archives += 1;
            if let Err(error) = system.journal().verify_archive(*id, entry) {
                wrong += 1;
                say(&format!("archive {id}: {}", whole(&error)));
            }
        }
        after = page.last().map(|(id, _)| *id);
        if page.len() < ARCHIVES_STEP {
            return Ok((archives, wrong));
        }
    }
}

fn entities(system: &System, kind: &dyn Registered) -> Result<(u64, u64), OfflineError> {
    let (mut after, mut entities, mut wrong) = (None, 0, 0);
    let mut progress = Progress::new("replaying", "entities");
    while let Some(stream) = system.journal().next_stream(kind.kind(), after.as_ref())? {
        entities += 1;
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        if let Err(problem) = entity(system, kind, id) {
            wrong += 1;
            say(&format!("{stream}: {problem}"));
        }
        progress.at(entities);
        after = Some(stream);
    }
    Ok((entities, wrong))
}

fn entity(system: &System, kind: &dyn Registered, id: &str) -> Result<(), String> {
    let place = system.locate(kind.kind(), id).ok_or("it has no first record")?;
    let same = match kind.verify(&place) {
        // Nobody can tell any more, and that is as it should be.
        Err(refusal) if refusal.is_erased() => return Ok(()),
        same => same.map_err(|refusal| refusal.to_string())?,
    };
    if !same {
        return Err("its snapshot and its records give different states".to_owned());
    }
    if kind.kind() != Wallet::KIND {
        return Ok(());
    }
    let wallet: Wallet =
        system.directory::<Wallet>().replay(&place).map_err(|refusal| refusal.to_string())?;
    let tenant = types::TenantId(place.home.0);
    wallet.check_books(billing::wallet::ledger_sum(system, tenant)?)
}
