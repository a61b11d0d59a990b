//! `bailiwick verify`: checks a data folder that no server is using.
//!
//! Every chain (no record missing, every link right, the Merkle root as its head says), and every
//! wallet: its records replay, what its snapshot gives is what its records give, its books
//! balance, nothing is negative.

use std::path::PathBuf;

use billing::wallet::Wallet;
use persistence::{EngineKind, FolderLock, Home, Journal, Options, check_store};
use supervision::{Entity as _, System, SystemOptions};

use crate::config::Hidden;
use crate::start::master_key;

/// How many chains one step lists.
const HOMES_STEP: usize = 1_000;

/// The options of `bailiwick verify`.
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// The data folder
    #[arg(long, env = "BAILIWICK_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The master key as 64 hex digits; without it DATA_DIR/master.key is used
    #[arg(long, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<Hidden>,
}

/// The folder does not verify, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is nothing to verify.
    #[error("{0} holds no Bailiwick data")]
    NoData(PathBuf),
    /// It does not open.
    #[error(transparent)]
    Open(#[from] persistence::OpenError),
    /// The master key is none, or cannot be read.
    #[error(transparent)]
    MasterKey(#[from] crate::start::StartError),
    /// The journal could not be read.
    #[error("the journal could not be read: {0}")]
    Read(#[from] persistence::ReadError),
    /// Something is wrong; it was printed.
    #[error("{0} of what was checked is wrong")]
    Wrong(usize),
}

/// Verifies, and prints what it found.
pub async fn run(args: &VerifyArgs) -> Result<(), VerifyError> {
    let folder = &args.data_dir;
    if !folder.join("data-keys").exists() {
        return Err(VerifyError::NoData(folder.clone()));
    }
    let _lock = FolderLock::take(folder)?;
    let master = master_key(folder, args.master_key.as_ref())?;
    check_store(folder)?;
    let engine = EngineKind::found_in(folder)?.unwrap_or(EngineKind::Redb);
    let options = Options { engine, ..Options::new(folder) };
    let journal = Journal::open(options, &master)?;
    let builder = System::builder(SystemOptions::new(journal));
    let system = builder.kind::<Wallet>().start();
    let (chains, records, wrong_chains) = chains(&system)?;
    say(&format!("{chains} chains with {records} records: {wrong_chains} wrong"));
    let (wallets, wrong_wallets) = wallets(&system)?;
    say(&format!("{wallets} wallets: {wrong_wallets} wrong"));
    match wrong_chains + wrong_wallets {
        0 => Ok(()),
        wrong => Err(VerifyError::Wrong(wrong)),
    }
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn say(line: &str) {
    println!("{line}");
}

fn chains(system: &System) -> Result<(usize, u64, usize), VerifyError> {
    let (mut after, mut chains, mut records, mut wrong) = (None, 0, 0, 0);
    loop {
        let homes = system.journal().homes(after, HOMES_STEP)?;
        for Home(home) in homes.iter().copied() {
            chains += 1;
            match system.journal().verify_chain(Home(home)) {
                Ok(report) => records += report.records,
                Err(error) => {
                    wrong += 1;
                    say(&format!("chain {}: {error}", types::TenantId(home)));
                }
            }
        }
        after = homes.last().copied();
        if homes.len() < HOMES_STEP {
            return Ok((chains, records, wrong));
        }
    }
}

fn wallets(system: &System) -> Result<(usize, usize), VerifyError> {
    let (mut after, mut wallets, mut wrong) = (None, 0, 0);
    while let Some(stream) = system.journal().next_stream(Wallet::KIND, after.as_ref())? {
        wallets += 1;
        let id = stream.as_str().split_once('/').map_or("", |(_, id)| id);
        if let Err(problem) = wallet(system, id) {
            wrong += 1;
            say(&format!("{stream}: {problem}"));
        }
        after = Some(stream);
    }
    Ok((wallets, wrong))
}

fn wallet(system: &System, id: &str) -> Result<(), String> {
    let place = system.locate(Wallet::KIND, id).ok_or("it has no first record")?;
    let kind = system.kind(Wallet::KIND).ok_or("the kind is not known")?;
    let same = kind.verify(&place).map_err(|refusal| refusal.to_string())?;
    if !same {
        return Err("its snapshot and its records give different states".to_owned());
    }
    let wallet: Wallet =
        system.directory::<Wallet>().replay(&place).map_err(|refusal| refusal.to_string())?;
    let tenant = types::TenantId(place.home.0);
    wallet.check_books(billing::wallet::ledger_sum(system, tenant)?)
}
