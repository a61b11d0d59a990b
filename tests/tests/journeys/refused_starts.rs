//! A server that cannot serve says why, with the exit code that scripts look at, and leaves the
//! data folder as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gateway::config::{Hidden, ServeArgs};
use gateway::start::{StartError, start};
use journeys::{Server, settings};
use persistence::{FolderLock, OpenError, SealError};

/// The engine's own file: redb marks in its head that it is open, so it is compared by whether the
/// server starts on it again.
const STORE: &str = "journal.redb";

/// Every file with its bytes, but the store's and the lock's, which holds none.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_compared = |path: &PathBuf| !path.ends_with("lock") && !path.ends_with(STORE);
    let files = entries.filter(|path| path.is_file() && is_compared(path));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

async fn refusal(args: &ServeArgs) -> StartError {
    match start(args).await {
        Ok(running) => {
            running.stop().await;
            panic!("the server started");
        }
        Err(error) => error,
    }
}

/// A folder that a server has served from and left.
async fn used_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    start(&settings(folder.path())).await.unwrap().stop().await;
    folder
}

/// Refused with this code, and nothing in the folder is another than before.
async fn leaves_all_as_it_was(args: &ServeArgs, code: u8) -> StartError {
    let before = contents(&args.data_dir);
    let error = refusal(args).await;
    assert_eq!(error.exit_code(), code, "{error}");
    let after = contents(&args.data_dir);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "{error}");
    for (path, bytes) in &before {
        assert!(after[path] == *bytes, "{} was changed: {error}", path.display());
    }
    error
}

/// The only file whose name starts so.
fn file(folder: &Path, start: &str) -> PathBuf {
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(start);
    contents(folder).into_keys().find(is_it).unwrap()
}

fn flip_bytes(path: &Path, at: impl Iterator<Item = usize>) {
    let mut bytes = std::fs::read(path).unwrap();
    for at in at {
        bytes[at] ^= 0xff;
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_touches_no_data() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let args = ServeArgs { listen: taken.local_addr().unwrap(), ..settings(&data) };
    let error = refusal(&args).await;
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("--listen"), "{error}");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_is_refused_until_it_is_free() {
    let server = Server::start().await;
    let folder = server.folder().to_owned();
    let error = refusal(&settings(&folder)).await;
    assert!(matches!(error, StartError::Open(OpenError::InUse(_))), "{error}");
    assert_eq!(error.exit_code(), 75);
    server.api.get("/readyz").send().await.ok(200);
    server.restart().await.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    leaves_all_as_it_was(&settings(folder.path()), 75).await;
    drop(lock);
    start(&settings(folder.path())).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let error = refusal(&settings(&file)).await;
    assert!(matches!(error, StartError::Open(OpenError::Folder { .. })), "{error}");
    assert_eq!(error.exit_code(), 73);
    assert!(error.to_string().contains("file"), "{error}");
    if rustix::process::geteuid().is_root() {
        println!("skipped: to root every folder is writable");
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(refusal(&settings(&closed)).await.exit_code(), 73);
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_key_that_does_not_fit_is_refused() {
    let folder = used_folder().await;
    let wrong = |hex: &str| ServeArgs {
        master_key: Some(Hidden(hex.to_owned())),
        ..settings(folder.path())
    };
    let error = leaves_all_as_it_was(&wrong("abc"), 78).await;
    assert!(matches!(error, StartError::MasterKey), "{error}");
    let other = "5a".repeat(32);
    let error = leaves_all_as_it_was(&wrong(&other), 78).await;
    let is_named = matches!(error, StartError::Open(OpenError::Keys(SealError::MasterKey(_))));
    assert!(is_named, "{error}");
    assert!(!error.to_string().contains(&other), "{error}");
    start(&settings(folder.path())).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_key_file_is_refused() {
    let folder = used_folder().await;
    let args = settings(folder.path());
    let master = file(folder.path(), "master.key");
    let good = std::fs::read(&master).unwrap();
    std::fs::write(&master, &good[..31]).unwrap();
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::Keys(SealError::Damaged(..))), "{error}");
    std::fs::write(&master, &good).unwrap();

    let data_keys = file(folder.path(), "data-keys");
    let good_keys = std::fs::read(&data_keys).unwrap();
    let middle = good_keys.len() / 2;
    flip_bytes(&data_keys, middle..middle + 1);
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::Open(OpenError::Keys(_))), "{error}");
    std::fs::write(&data_keys, good_keys).unwrap();

    // Without its master key a used folder is unreadable: a new key would not help, and hide it.
    std::fs::remove_file(&master).unwrap();
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::MasterKeyMissing(_)), "{error}");
    std::fs::write(&master, good).unwrap();
    start(&args).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_and_kept() {
    let folder = used_folder().await;
    let args = settings(folder.path());
    let log = file(folder.path(), "log-");
    let good_log = std::fs::read(&log).unwrap();
    assert!(good_log.len() > 1_000, "{} bytes", good_log.len());
    // In the middle, where frames follow.
    flip_bytes(&log, 100..101);
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::Open(OpenError::Engine(_))), "{error}");
    assert!(error.to_string().contains("log-"), "it names the file: {error}");
    // At the end, where it looks like a frame that was cut short: the head file knows better. What
    // follows the last frame are zeros, which are no loss.
    let end = good_log.iter().rposition(|byte| *byte != 0).unwrap();
    std::fs::write(&log, &good_log[..end]).unwrap();
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::Open(OpenError::Behind { .. })), "{error}");
    assert!(error.to_string().contains("--accept-loss="), "{error}");
    std::fs::write(&log, &good_log).unwrap();
    start(&args).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_file_that_is_gone_or_unreadable_is_missed() {
    let folder = used_folder().await;
    let mut args = settings(folder.path());
    let head = folder.path().join("head");
    let good_head = std::fs::read(&head).unwrap();
    for bad in [Some(vec![0; good_head.len()]), Some(Vec::new()), None] {
        match bad {
            Some(bytes) => std::fs::write(&head, bytes).unwrap(),
            None => std::fs::remove_file(&head).unwrap(),
        }
        let error = leaves_all_as_it_was(&args, 78).await;
        assert!(matches!(error, StartError::Open(OpenError::NoHead { .. })), "{error}");
    }
    let error = leaves_all_as_it_was(&args, 78).await;
    let StartError::Open(OpenError::NoHead { hash, .. }) = &error else { panic!("{error}") };
    assert!(error.to_string().contains(&format!("--accept-loss={hash}")), "{error}");
    args.accept_loss = Some(hash.clone());
    start(&args).await.unwrap().stop().await;
    args.accept_loss = None;
    start(&args).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_refused() {
    let folder = used_folder().await;
    let args = settings(folder.path());
    let store = folder.path().join(STORE);
    let good_store = std::fs::read(&store).unwrap();
    // All of the head page: redb keeps two commit slots in it and may use either.
    flip_bytes(&store, 0..320);
    let error = leaves_all_as_it_was(&args, 78).await;
    assert!(matches!(error, StartError::Open(OpenError::Engine(_))), "{error}");
    std::fs::write(&store, good_store).unwrap();
    start(&args).await.unwrap().stop().await;
}
