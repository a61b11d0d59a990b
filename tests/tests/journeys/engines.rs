//! The other engine, and what works on folders: a server on sled with data, its backup, archives,
//! copies to redb and back, rebuilt rows. What a client sees and what verifying finds must be the
//! same on each.

use std::path::{Path, PathBuf};

use gateway::backup::{self, BackupArgs};
use gateway::config::Hidden;
use gateway::offline::OfflineError;
use gateway::reindex::{self, ReindexArgs};
use gateway::restore::{self, CopyArgs, RestoreArgs};
use gateway::start::start;
use gateway::verify::{self, VerifyArgs};
use gateway::{archive, config::ServeArgs};
use journeys::{Api, OPERATOR, PASSWORD, Server, User, settings};
use persistence::EngineKind;
use serde_json::{Value, json};

const CALL: &str = "/v1/extensions/shelf/call";
/// Later than anything a test records, in milliseconds.
const DAYS_91_MS: i64 = 91 * 24 * 60 * 60 * 1_000;

fn sled(settings: &mut ServeArgs) {
    settings.engine = "sled".to_owned();
}

/// What a client sees: its books, its money to the credit, and its verified chain's root.
async fn seen(api: &Api, user: &User) -> (Value, i64, Vec<Value>, Value) {
    let books = json!({"function": "books", "params": {}});
    let books = api.post(CALL, &books).as_user(user).send().await.ok(200);
    let balance = api.settled_balance(user).await;
    let ledger = api.ledger(user).await;
    let chain = api.get("/v1/actions/verify").as_user(user).send().await.ok(200);
    assert_eq!(chain["verified"], true, "{chain}");
    (books["data"]["docs"].clone(), balance, ledger, chain)
}

/// Serves a folder on its engine, and looks.
async fn seen_in(folder: &Path, engine: &str, user: &User) -> (Value, i64, Vec<Value>) {
    assert_eq!(EngineKind::found_in(folder).unwrap().unwrap().name(), engine);
    let args = ServeArgs { engine: engine.to_owned(), ..settings(folder) };
    let running = start(&args).await.unwrap();
    let (books, balance, ledger, _) = seen(&Api::new(running.address), user).await;
    running.stop().await;
    (books, balance, ledger)
}

async fn copied(from: &Path, to: PathBuf, engine: &str) -> PathBuf {
    let (from, engine) = (from.to_owned(), engine.to_owned());
    restore::copy(&CopyArgs { from, to: to.clone(), engine, master_key: None }).await.unwrap();
    verify::run(&VerifyArgs::folder(to.clone())).await.unwrap();
    to
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_sled_is_backed_up_archived_copied_to_redb_and_back_and_rebuilt() {
    let server = Server::start_with(sled).await;
    let user = server.api.user("ada").await;
    let operator = server.api.operator().await;
    server.api.shelf(&user, "shelf").await;
    for title in ["One", "Two", "Three"] {
        let body = json!({"function": "add_book", "params": {"title": title}});
        server.api.post(CALL, &body).as_user(&user).send().await.ok(200);
    }
    for _ in 0..20 {
        let body = json!({"amount": 1, "reason": "for the test"});
        server.api.post("/v1/billing/debits", &body).as_user(&user).send().await.ok(201);
    }
    seen(&server.api, &user).await;
    let system = server.running.app.system.clone();
    let later = system.clock().now().0 + DAYS_91_MS;
    let passed = tokio::task::spawn_blocking(move || archive::pass(&system, later, 1).unwrap());
    assert!(passed.await.unwrap().records > 20);
    let path = "/v1/operator/backups";
    let taken = server.api.post(path, &json!({})).as_user(&operator).send().await.ok(201);
    let (books, balance, ledger, _) = seen(&server.api, &user).await;
    assert_eq!(books.as_array().unwrap().len(), 3, "{books}");

    let kept = server.halt().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |name: &str| elsewhere.path().join(name);
    verify::run(&VerifyArgs::folder(kept.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(kept.path(), true)).await.unwrap();
    let on_redb = copied(kept.path(), at("redb"), "redb").await;
    reindex::run(&ReindexArgs::new(&on_redb, true)).await.unwrap();
    let again_on_sled = copied(&on_redb, at("sled"), "sled").await;
    reindex::run(&ReindexArgs::new(&again_on_sled, false)).await.unwrap();
    let backup = kept.path().join(backup::BACKUP_FOLDER).join(taken["name"].as_str().unwrap());
    let mut folders = vec![(on_redb, "redb"), (again_on_sled, "sled")];
    for engine in ["sled", "redb"] {
        let (backup, data_dir) = (backup.clone(), at(&format!("restored-{engine}")));
        let keys = kept.path().join("data-keys");
        let engine_name = engine.to_owned();
        let folder = data_dir.clone();
        let args = RestoreArgs { backup, data_dir, keys, master_key: None, engine: engine_name };
        restore::restore(&args).await.unwrap();
        verify::run(&VerifyArgs::folder(folder.clone())).await.unwrap();
        folders.push((folder, engine));
    }
    folders.push((kept.path().to_owned(), "sled"));
    for (folder, engine) in folders {
        let (found_books, found_balance, found_ledger) = seen_in(&folder, engine, &user).await;
        let is_restored = folder.to_string_lossy().contains("restored");
        assert_eq!(found_books, books, "{}", folder.display());
        if is_restored {
            // The look after the backup was a paid call.
            assert!(found_balance >= balance - 1, "{found_balance}, {balance}");
        } else {
            assert_eq!(found_ledger[found_ledger.len() - ledger.len()..], ledger[..]);
        }
        verify::run(&VerifyArgs::folder(folder)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_asked_for_over_tls_and_what_a_killed_one_left_goes_at_the_start() {
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name);
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(at(&format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(at(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    };
    ["right", "other"].into_iter().for_each(certificate);
    let data = tempfile::tempdir().unwrap();
    let backups = data.path().join(backup::BACKUP_FOLDER);
    std::fs::create_dir_all(&backups).unwrap();
    for left in ["bailiwick-1.backup.part", "bailiwick-1.backup", "notes.txt"] {
        std::fs::write(backups.join(left), "x").unwrap();
    }
    let served = ServeArgs {
        tls_cert: Some(at("right.pem")),
        tls_key: Some(at("right.key")),
        ..settings(data.path())
    };
    let running = start(&served).await.unwrap();
    assert!(!backups.join("bailiwick-1.backup.part").exists());
    assert!(backups.join("bailiwick-1.backup").exists() && backups.join("notes.txt").exists());
    std::fs::remove_file(backups.join("bailiwick-1.backup")).unwrap();

    let mut args = BackupArgs::new(data.path(), &at("taken.backup"));
    args.operator_email = OPERATOR.to_owned();
    args.operator_password = Some(Hidden(PASSWORD.to_owned()));
    args.server = Some(format!("https://localhost:{}", running.address.port()));
    // Nobody here trusts it, unless its own certificate is named.
    for ca in [None, Some(at("other.pem"))] {
        args.ca = ca;
        let refused = backup::run(&args).await.unwrap_err();
        assert!(matches!(refused, OfflineError::Unreachable(..) | OfflineError::Usage(_)));
        assert!(!args.target.exists());
    }
    args.ca = Some(at("right.pem"));
    backup::run(&args).await.unwrap();
    verify::run(&VerifyArgs::backup(args.target.clone())).await.unwrap();
    running.stop().await;
}
