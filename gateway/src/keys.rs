//! `bailiwick keys`: the keys of a data folder that no server is using.
//!
//! `rotate` replaces the signing key, as `POST /v1/operator/signing-keys/rotate` does on a running
//! server. `rewrap` puts every data key under a new master key.
//!
//! Deliberate limit: a rotation is refused until the next key has been public for an hour, here
//! too: other servers would meet tokens whose key they have not seen.

use std::path::PathBuf;

use activity::operator_act::{self, Noted};
use identity::claim::ClaimKey;
use identity::password::{Hasher, PasswordPolicy};
use identity::signing::SigningKeyRing;
use identity::signing_keys::SigningAlgorithm;
use identity::{Identity, IdentitySettings};
use persistence::{FolderLock, Journal, MasterKey, Options, SealError};
use supervision::{Entity as _, Home, Refusal, System, SystemOptions};

use crate::config::Hidden;
use crate::start::{StartError, given_master_key, master_key};

/// The options of `bailiwick keys`.
#[derive(clap::Args, Debug)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
    /// The data folder
    #[arg(long, global = true, env = "BAILIWICK_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// The master key as 64 hex digits; without it DATA_DIR/master.key is used
    #[arg(long, global = true, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    master_key: Option<Hidden>,
}

#[derive(clap::Subcommand, Debug)]
enum KeysCommand {
    /// Replace the key that user tokens are signed with; the next one signs from now on
    Rotate {
        /// Why; it stands in the platform's chain
        #[arg(long)]
        reason: String,
        /// The algorithm of the fresh key is EdDSA instead of RS256, as for `serve`
        #[arg(long, env = "BAILIWICK_EDDSA")]
        eddsa: bool,
    },
    /// Put every data key under a new master key; the old one then opens nothing here
    Rewrap {
        /// The new master key as 64 hex digits, where the old one is given like that; else
        /// DATA_DIR/master.key is replaced by a fresh one
        #[arg(long, env = "BAILIWICK_NEW_MASTER_KEY", hide_env_values = true)]
        new_master_key: Option<Hidden>,
    },
}

/// The keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is nothing here.
    #[error("{0} holds no Bailiwick data")]
    NoData(PathBuf),
    /// It does not open.
    #[error(transparent)]
    Open(#[from] persistence::OpenError),
    /// The master key is none, or the start failed otherwise.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The keys do not open, or could not be written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The password hasher did not start.
    #[error("the password hasher did not start: {0}")]
    Hasher(#[from] identity::password::HashError),
    /// The rotation was refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A given master key is replaced by a given one, and one in a file by one in a file.
    #[error("the master key was given, so give the new one in BAILIWICK_NEW_MASTER_KEY")]
    NewMasterKeyMissing,
    /// See [`KeysError::NewMasterKeyMissing`].
    #[error("the master key is in a file, which gets a fresh one: give no new one")]
    NewMasterKeyGiven,
}

/// Changes keys, and prints what it did.
pub async fn run(args: &KeysArgs) -> Result<(), KeysError> {
    let folder = &args.data_dir;
    if !folder.join("data-keys").exists() {
        return Err(KeysError::NoData(folder.clone()));
    }
    let _lock = FolderLock::take(folder)?;
    let master = master_key(folder, args.master_key.as_ref())?;
    match &args.command {
        KeysCommand::Rotate { reason, eddsa } => rotate(args, &master, reason, *eddsa).await,
        KeysCommand::Rewrap { new_master_key } => rewrap(args, &master, new_master_key.as_ref()),
    }
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn say(line: &str) {
    println!("{line}");
}

async fn rotate(
    args: &KeysArgs,
    master: &MasterKey,
    reason: &str,
    eddsa: bool,
) -> Result<(), KeysError> {
    let algorithm = if eddsa { SigningAlgorithm::EdDsa } else { SigningAlgorithm::Rs256 };
    let settings = IdentitySettings { algorithm, ..IdentitySettings::default() };
    // Nobody logs in here: one thread that waits.
    let hasher = Hasher::start_with(PasswordPolicy::default(), 1, 1)?;
    let identity = Identity::new(settings, hasher, ClaimKey::of(master)?);
    let journal = Journal::open(Options::new(&args.data_dir), master)?;
    let builder = identity::register(System::builder(SystemOptions::new(journal)), &identity);
    let system = activity::register(builder).start();
    let rotated = rotate_in(&system, &identity, reason).await;
    system.stop().await;
    rotated?;
    for (key, standing) in identity.signing_keys().get()?.set.standings() {
        say(&format!("{} {} {standing:?}", key.kid(), key.algorithm().name()));
    }
    Ok(())
}

async fn rotate_in(
    system: &std::sync::Arc<System>,
    identity: &Identity,
    reason: &str,
) -> Result<(), Refusal> {
    identity.start(system).await?;
    // Whether it may be is found out before it is noted.
    drop(identity.rotation().await?);
    let text = |text: &str| text.to_owned();
    let (kind, id) = (text(SigningKeyRing::KIND), text(SigningKeyRing::address().id()));
    let act = Noted { kind, id, action: text("rotate"), reason: text(reason) };
    operator_act::note(system, Home(0), act, system.system_origin()).await?;
    identity.rotate_keys().await
}

fn rewrap(
    args: &KeysArgs,
    old: &MasterKey,
    new_master_key: Option<&Hidden>,
) -> Result<(), KeysError> {
    let folder = &args.data_dir;
    let new = match (&args.master_key, new_master_key) {
        (Some(_), Some(new)) => Some(given_master_key(new)?),
        (Some(_), None) => return Err(KeysError::NewMasterKeyMissing),
        (None, Some(_)) => return Err(KeysError::NewMasterKeyGiven),
        (None, None) => None,
    };
    let keys = persistence::rewrap(folder, old, new)?;
    say(&format!("{keys} data keys are under the new master key; the old one opens none"));
    say("Backups made before need the old one. The service token, if it was derived, is the same.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use identity::login::{LoginAttempt, TokenLife};

    use super::*;
    use crate::config::ServeArgs;
    use crate::start::{Running, start};

    const OLD: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const NEW: &str = "0202020202020202020202020202020202020202020202020202020202020202";

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        keys: KeysArgs,
    }

    async fn keys(folder: &std::path::Path, words: &[&str]) -> Result<(), KeysError> {
        let folder = folder.to_str().unwrap();
        let words = [&["bailiwick", "--data-dir", folder][..], words].concat();
        run(&Cli::parse_from(words).keys).await
    }

    async fn serve(
        folder: &std::path::Path,
        master_key: Option<&str>,
    ) -> Result<Running, StartError> {
        let hidden = |text: &str| Hidden(text.to_owned());
        let args = ServeArgs {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir: folder.to_owned(),
            operator_password: Some(hidden("a-long-enough-password")),
            master_key: master_key.map(hidden),
            ..ServeArgs::default()
        };
        start(&args).await
    }

    /// The operator logs in, and the service token is what it was: everything opens, and what is
    /// derived from the first master key has stayed.
    async fn check(running: Running) -> Running {
        let attempt = LoginAttempt {
            email: ServeArgs::default().operator_email,
            password: "a-long-enough-password".to_owned(),
            tenant: None,
            address: "127.0.0.1".to_owned(),
            device: None,
            life: TokenLife::Standard,
            request: 1.into(),
        };
        running.app.identity.login(attempt).await.unwrap();
        running
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_folder_goes_on_under_another_master_key_and_only_under_that() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(matches!(keys(folder, &["rewrap"]).await, Err(KeysError::NoData(_))));
        let running = check(serve(folder, None).await.unwrap()).await;
        let in_use = keys(folder, &["rewrap"]).await.unwrap_err();
        assert!(matches!(in_use, KeysError::Open(persistence::OpenError::InUse(_))), "{in_use}");
        running.stop().await;
        let before = std::fs::read(folder.join("master.key")).unwrap();
        keys(folder, &["rewrap"]).await.unwrap();
        let after = std::fs::read(folder.join("master.key")).unwrap();
        assert_ne!(before, after);
        check(serve(folder, None).await.unwrap()).await.stop().await;
        std::fs::write(folder.join("master.key"), &before).unwrap();
        let refused = serve(folder, None).await.err().unwrap();
        assert!(matches!(refused, StartError::Open(persistence::OpenError::Keys(_))), "{refused}");
        std::fs::write(folder.join("master.key"), &after).unwrap();
        let soon = keys(folder, &["rotate", "--reason", "a test"]).await.unwrap_err();
        assert!(soon.to_string().contains("signing_key_rotation_too_soon"), "{soon}");
        check(serve(folder, None).await.unwrap()).await.stop().await;
    }

    #[tokio::test]
    async fn a_rotation_is_noted_and_done_once_the_next_key_is_known() {
        let master = MasterKey::generate().unwrap();
        let engine = persistence::EngineKind::Memory;
        let journal = Journal::open(Options { engine, ..Options::new("unused") }, &master).unwrap();
        let clock = supervision::SimulatedClock::at(supervision::Timestamp(1_800_000_000_000));
        let hasher = Hasher::start_with(PasswordPolicy::default(), 1, 1).unwrap();
        let claim_key = ClaimKey::of(&master).unwrap();
        let identity = Identity::new(IdentitySettings::default(), hasher, claim_key);
        let options = SystemOptions { clock: clock.clone(), ..SystemOptions::new(journal) };
        let builder = identity::register(System::builder(options), &identity);
        let system = activity::register(builder).start();
        let kids = || {
            let set = identity.signing_keys().get().unwrap().set;
            set.standings().map(|(key, _)| key.kid().to_owned()).collect::<Vec<_>>()
        };
        let records = || system.journal().chain_head(Home(0)).unwrap().chain_seq;
        let soon = rotate_in(&system, &identity, "a test").await.unwrap_err();
        assert_eq!(soon.code, "signing_key_rotation_too_soon");
        let (before, noted) = (kids(), records());
        clock.advance_ms(identity::signing_keys::NEXT_PUBLISHED_MS_MIN as i64);
        rotate_in(&system, &identity, "a test").await.unwrap();
        assert_eq!(kids()[1..], before);
        assert_eq!(records(), noted + 2, "the act and the rotation");
        let unfit = rotate_in(&system, &identity, " ").await.unwrap_err();
        assert_eq!(unfit.code, "signing_key_rotation_too_soon");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_given_master_key_is_replaced_by_the_one_given() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        check(serve(folder, Some(OLD)).await.unwrap()).await.stop().await;
        let given = ["--master-key", OLD, "rewrap"];
        let missing = keys(folder, &given).await;
        assert!(matches!(missing, Err(KeysError::NewMasterKeyMissing)));
        let new = ["--new-master-key", NEW];
        keys(folder, &[&given[..], &new].concat()).await.unwrap();
        assert!(serve(folder, Some(OLD)).await.is_err());
        check(serve(folder, Some(NEW)).await.unwrap()).await.stop().await;
        assert!(!folder.join("master.key").exists());
    }
}
