//! Backups, restores, copies, archives and rebuilt rows: the operator's tools, from outside.

use std::path::{Path, PathBuf};

use gateway::backup::BackupArgs;
use gateway::config::Hidden;
use gateway::offline::OfflineError;
use gateway::reindex::ReindexArgs;
use gateway::restore::{CopyArgs, RestoreArgs};
use gateway::start::start;
use gateway::verify::VerifyArgs;
use gateway::{archive, backup, reindex, restore, verify};
use journeys::{Api, OPERATOR, PASSWORD, Server, User, WELCOME, settings, text};
use persistence::{FolderLock, Journal, MasterKey, Options, Shard};
use serde_json::{Value, json};

/// Later than anything a test records, in milliseconds since 1970: 91 days from now.
fn in_91_days() -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    now + 91 * 24 * 60 * 60 * 1_000
}

async fn debit(api: &Api, user: &User) -> Value {
    let body = json!({"amount": 1, "reason": "for the test"});
    api.post("/v1/billing/debits", &body).as_user(user).send().await.ok(201)
}

async fn chain_verifies(api: &Api, user: &User) -> Value {
    let verified = api.get("/v1/actions/verify").as_user(user).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    verified
}

fn restore_args(backup: &Path, data_dir: &Path, keys: &Path) -> RestoreArgs {
    let (backup, data_dir, keys) = (backup.to_owned(), data_dir.to_owned(), keys.to_owned());
    RestoreArgs { backup, data_dir, keys, master_key: None, engine: "redb".to_owned() }
}

/// The backup that a server takes of itself.
async fn taken(server: &Server, operator: &User) -> PathBuf {
    let path = "/v1/operator/backups";
    let taken = server.api.post(path, &json!({})).as_user(operator).send().await.ok(201);
    let name = text(&taken["name"]);
    let listed = server.api.get(path).as_user(operator).send().await.ok(200);
    let listed = listed.as_array().unwrap();
    assert!(listed.iter().any(|file| file["name"] == name && file["bytes"] == taken["bytes"]));
    server.folder().join(backup::BACKUP_FOLDER).join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_restored_elsewhere_to_the_credit() {
    let server = Server::start().await;
    let (user, operator) = (server.api.user("ada").await, server.api.operator().await);
    server.api.grant(&operator, &user.id, 100_000).await;
    let (api, spender) = (server.api.clone(), user.clone());
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        while !*stopped.borrow_and_update() {
            debit(&api, &spender).await;
        }
    });
    let before = server.api.balance(&user).await;
    let under_load = taken(&server, &operator).await;
    let after = server.api.balance(&user).await;
    stop.send_replace(true);
    load.await.unwrap();
    let (ledger, balance) = (server.api.ledger(&user).await, server.api.balance(&user).await);

    // The command asks the server that has the folder open.
    let elsewhere = tempfile::tempdir().unwrap();
    let quiet = elsewhere.path().join("quiet.backup");
    let mut args = BackupArgs::new(server.folder(), &quiet);
    args.server = Some(format!("http://{}", server.running.address));
    assert!(matches!(backup::run(&args).await, Err(OfflineError::Usage(_))), "no credentials");
    args.operator_email = OPERATOR.to_owned();
    args.operator_password = Some(Hidden(PASSWORD.to_owned()));
    backup::run(&args).await.unwrap();
    verify::run(&VerifyArgs::backup(quiet.clone())).await.unwrap();
    let keys = server.folder().join("data-keys");

    for (file, exact) in [(&under_load, None), (&quiet, Some(balance))] {
        let folder = elsewhere.path().join(format!("restored-{}", exact.is_some()));
        restore::restore(&restore_args(file, &folder, &keys)).await.unwrap();
        verify::run(&VerifyArgs::folder(folder.clone())).await.unwrap();
        reindex::run(&ReindexArgs::new(&folder, true)).await.unwrap();
        let running = start(&settings(&folder)).await.unwrap();
        let restored = Api::new(running.address);
        let found = restored.balance(&user).await;
        match exact {
            Some(balance) => assert_eq!(found, balance),
            None => assert!((after..=before).contains(&found), "{after} {found} {before}"),
        }
        let lines = restored.ledger(&user).await;
        assert_eq!(lines[..], ledger[ledger.len() - lines.len()..]);
        chain_verifies(&restored, &user).await;
        debit(&restored, &user).await;
        assert_eq!(restored.balance(&user).await, found - 1);
        running.stop().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_named_and_leaves_nothing() {
    let server = Server::start().await;
    let operator = server.api.operator().await;
    let file = taken(&server, &operator).await;
    let other = Server::start().await;
    let foreign = other.folder().join("data-keys");
    let keys = server.folder().join("data-keys");
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("restored");
    let whole = std::fs::read(&file).unwrap();
    let bent = elsewhere.path().join("bent.backup");
    let refused = async |file: &Path, keys: &Path, code: u8, said: &str| {
        let error = restore::restore(&restore_args(file, &target, keys)).await.unwrap_err();
        let text = error.to_string();
        assert!(error.exit_code() == code && text.contains(said), "{text}: {}", error.exit_code());
        let left: Vec<_> = std::fs::read_dir(elsewhere.path()).unwrap().collect();
        assert!(left.iter().all(|one| one.as_ref().unwrap().path() == bent), "{left:?}");
    };
    std::fs::write(&bent, &whole[..whole.len() - 1]).unwrap();
    refused(&bent, &keys, 65, "bent.backup is cut short at byte").await;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&bent, flipped).unwrap();
    refused(&bent, &keys, 65, "bent.backup is damaged at byte").await;
    std::fs::write(&bent, "something else").unwrap();
    refused(&bent, &keys, 65, "is not a Bailiwick backup").await;
    refused(&file, &foreign, 78, "the key file does not fit the backup").await;
    refused(&file, &elsewhere.path().join("none"), 66, "none").await;
    let args = restore_args(&file, server.folder(), &keys);
    assert_eq!(restore::restore(&args).await.unwrap_err().exit_code(), 73);
    other.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archived_history_is_served_as_before() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    for _ in 0..30 {
        debit(&server.api, &user).await;
    }
    let path = format!("/v1/operator/actors/wallet/{}", user.id.rsplit('_').next().unwrap());
    let operator = server.api.operator().await;
    let seen = async |api: &Api, operator: &User| {
        let at = api.get(&format!("{path}?at=5")).as_user(operator).send().await.ok(200);
        let actions = api.get("/v1/actions?per_page=50").as_user(&user).send().await.ok(200);
        let ledger = api.ledger(&user).await;
        let verified = chain_verifies(api, &user).await;
        let root = (verified["records"].clone(), verified["root"].clone());
        (at["state"].clone(), at["history"].clone(), actions, ledger, root)
    };
    // The first look at a ledger numbers its lines, which is a record.
    server.api.ledger(&user).await;
    let before = seen(&server.api, &operator).await;
    let system = server.running.app.system.clone();
    let pass = move || archive::pass(&system, in_91_days(), 1).unwrap();
    let passed = tokio::task::spawn_blocking(pass).await.unwrap();
    assert!(passed.archives > 3 && passed.records > 30, "{passed:?}");
    let after = seen(&server.api, &operator).await;
    assert!(after == before, "{after:?}");
    debit(&server.api, &user).await;

    let server = server.restart().await;
    assert_eq!(server.api.balance(&user).await, WELCOME.0 - 31);
    chain_verifies(&server.api, &user).await;
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("copied");
    let from = server.folder().to_owned();
    let copy = CopyArgs {
        from: from.clone(),
        to: copied.clone(),
        engine: "redb".to_owned(),
        master_key: None,
    };
    let in_use = restore::copy(&copy).await.unwrap_err();
    assert_eq!(in_use.exit_code(), 75, "{in_use}");
    let _kept = server.halt().await;
    verify::run(&VerifyArgs::folder(from.clone())).await.unwrap();
    restore::copy(&copy).await.unwrap();
    verify::run(&VerifyArgs::folder(copied.clone())).await.unwrap();
    let running = start(&settings(&copied)).await.unwrap();
    assert_eq!(Api::new(running.address).balance(&user).await, WELCOME.0 - 31);
    running.stop().await;

    let archives = std::fs::read_dir(from.join("archive")).unwrap();
    let file = archives.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let wrong = verify::run(&VerifyArgs::folder(from)).await.unwrap_err();
    assert!(matches!(wrong, OfflineError::Wrong(1..)), "{wrong}");
}

/// Deletes every row of these families by hand. Says how many.
fn delete_rows(folder: &Path, families: &[&str]) -> u64 {
    let _lock = FolderLock::take(folder).unwrap();
    let master = MasterKey::load_or_create(&folder.join("master.key")).unwrap();
    let journal = Journal::open(Options::new(folder), &master).unwrap();
    let mut changes = Vec::new();
    for shard in 0..=u8::MAX {
        let rows = journal.shard_rows(Shard(shard), None, 10_000).unwrap();
        let doomed = rows.into_iter().filter(|(key, _)| families.contains(&key.family.as_ref()));
        changes.extend(doomed.map(|(key, _)| (key, None)));
    }
    let count = changes.len() as u64;
    journal.change_rows(changes, Box::new(|_| {}));
    journal.close();
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_lost_come_back_from_the_records() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    server.api.shelf(&user, "shelf").await;
    for title in ["One", "Two"] {
        let body = json!({"function": "add_book", "params": {"title": title}});
        let path = "/v1/extensions/shelf/call";
        server.api.post(path, &body).as_user(&user).send().await.ok(200);
    }
    debit(&server.api, &user).await;
    let balance = server.api.settled_balance(&user).await;
    let books = async |api: &Api| {
        let body = json!({"function": "books", "params": {}});
        let path = "/v1/extensions/shelf/call";
        api.post(path, &body).as_user(&user).send().await.ok(200)["data"]["docs"].clone()
    };
    let before = books(&server.api).await;
    assert!(before.to_string().contains("Two"), "{before}");
    server.api.settled_balance(&user).await;
    let ledger = server.api.ledger(&user).await;
    let kept = server.halt().await;
    let folder = kept.path().to_owned();
    reindex::run(&ReindexArgs::new(&folder, true)).await.unwrap();
    let families = ["ledger", "session", "document", "due"];
    let deleted = delete_rows(&folder, &families);
    assert!(deleted > 5, "{deleted} rows were deleted");
    let error = reindex::run(&ReindexArgs::new(&folder, true)).await.unwrap_err();
    assert!(matches!(error, OfflineError::Wrong(_)), "{error}");
    let mended = reindex::run(&ReindexArgs::new(&folder, false)).await.unwrap();
    assert!((1..=deleted).contains(&mended.wrong()), "{} of {deleted}", mended.wrong());
    reindex::run(&ReindexArgs::new(&folder, true)).await.unwrap();
    verify::run(&VerifyArgs::folder(folder.clone())).await.unwrap();
    let running = start(&settings(&folder)).await.unwrap();
    let api = Api::new(running.address);
    assert_eq!(api.ledger(&user).await, ledger);
    assert_eq!(books(&api).await, before);
    assert!(api.settled_balance(&user).await < balance);
    running.stop().await;
}
