//! Erasing a person and a tenant: what is answered, and that nothing is found afterwards, in any
//! file of the folder, in any answer and in the log; that everything else goes on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gateway::archive;
use gateway::backup::BACKUP_FOLDER;
use gateway::mail::OUTBOX;
use gateway::reindex::ReindexArgs;
use gateway::restore::RestoreArgs;
use gateway::start::start;
use gateway::verify::VerifyArgs;
use gateway::{reindex, restore, verify};
use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, WELCOME, settings, text};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Found nowhere once it is erased, and before that in a mail at least.
const EMAIL: &str = "kestrel-canary@example.org";
const NAME: &str = "Quetzalcoatlus";

/// The log of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Takes everything that is logged from now on.
    fn begin() -> Self {
        let log = Self::default();
        let taken = log.clone();
        let builder = tracing_subscriber::fmt().with_ansi(false);
        let builder = builder.with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG);
        let _ = builder.with_writer(move || taken.clone()).try_init();
        log
    }
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    let lower = bytes.to_ascii_lowercase();
    let canary = canary.to_ascii_lowercase();
    lower.windows(canary.len()).any(|window| window == canary.as_bytes())
}

/// The files below a folder that hold a canary.
fn found_in(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found_in(&path, into);
        } else if let Ok(bytes) = std::fs::read(&path)
            && [EMAIL, "kestrel-canary", NAME].iter().any(|canary| holds(&bytes, canary))
        {
            into.push(path.display().to_string());
        }
    }
}

fn canaries(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    found_in(folder, &mut found);
    found
}

async fn log_in(api: &Api, email: &str, tenant: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD, "tenant_id": tenant});
    api.post("/v1/auth/login", &body).send().await
}

async fn logged_in(api: &Api, email: &str, tenant: &str) -> User {
    let tokens = log_in(api, email, tenant).await.ok(200);
    let (token, refresh) = (text(&tokens["access_token"]), text(&tokens["refresh_token"]));
    let me = api.get("/v1/auth/me").bearer(&token).send().await.ok(200);
    User { email: email.to_owned(), id: text(&me["imperal_id"]), token, refresh }
}

/// What a refusal says, but for what names the request.
fn said(answer: &Answer) -> (u16, Value) {
    let mut problem = answer.value();
    for key in ["trace_id", "request_id", "instance"] {
        problem.as_object_mut().unwrap().remove(key);
    }
    (answer.status, problem)
}

/// Signs the canary up by mail, and lets them in by the link.
async fn canary(server: &Server) -> User {
    let api = &server.api;
    let body = json!({"email": EMAIL, "password": PASSWORD, "first_name": NAME});
    api.post("/v1/auth/signup", &body).send().await.ok(201);
    let outbox = server.folder().join(OUTBOX);
    let mail = loop {
        let mails = std::fs::read_dir(&outbox).into_iter().flatten().flatten();
        let mut texts = mails.filter_map(|mail| std::fs::read_to_string(mail.path()).ok());
        if let Some(mail) = texts.find(|mail| mail.contains("?token=") && mail.contains(EMAIL)) {
            break mail;
        }
        tokio::task::yield_now().await;
    };
    let token = mail.split_once("?token=").unwrap().1.lines().next().unwrap().trim().to_owned();
    api.post("/v1/auth/verify-email", &json!({"token": token})).send().await.ok(200);
    logged_in(api, EMAIL, "").await
}

/// Everything that operators and the tenant's people can read.
async fn nobody_shows_it(api: &Api, operator: &User, bob: &User, canary: &User) {
    let bare = canary.id.rsplit('_').next().unwrap();
    let mut paths = vec!["/v1/operator/tree".to_owned(), "/v1/actions?per_page=200".to_owned()];
    paths.push("/metrics".to_owned());
    paths.push("/v1/tenants?limit=200".to_owned());
    for kind in ["user", "tenant", "erasure", "sign_up", "wallet", "api_keys"] {
        for id in [format!("imp_u_{bare}"), format!("imp_t_{bare}")] {
            paths.push(format!("/v1/operator/actors/{kind}/{id}"));
        }
    }
    for path in paths {
        let answer = api.get(&path).as_user(operator).send().await;
        assert!(answer.status != 500 && answer.status != 503, "{path}: {}", answer.text());
        for canary in [EMAIL, NAME] {
            assert!(!holds(&answer.bytes, canary), "{path}: {}", answer.text());
        }
    }
    for path in ["/v1/users", "/v1/actions?per_page=200"] {
        let answer = api.get(path).as_user(bob).send().await;
        assert!(!holds(&answer.bytes, EMAIL), "{path}: {}", answer.text());
    }
}

/// Neither other users nor the person erase somebody by an operator's route.
async fn only_operators_erase_others(api: &Api, path: &str, users: [&User; 2], operator: &User) {
    let reason = json!({"reason": "r"});
    for user in users {
        api.post(path, &reason).as_user(user).send().await.problem(403, "forbidden");
    }
    let none = api.post(path, &json!({"reason": ""})).as_user(operator).send().await;
    none.problem(422, "validation_error");
    let nobody = format!("/v1/users/imp_u_{}/erase", "7".repeat(26));
    api.post(&nobody, &reason).as_user(operator).send().await.problem(404, "not_found");
}

/// A restart brings nothing back; the address signs up anew, without credits to welcome it twice.
async fn stays_erased_and_comes_back_as_somebody_else(
    server: Server,
    [operator, bob, erased]: [&User; 3],
    unknown: (u16, Value),
) {
    let server = server.restart().await;
    let api = &server.api;
    assert_eq!(server.running.app.recovered.pending, 0);
    assert_eq!(said(&log_in(api, EMAIL, "").await), unknown);
    nobody_shows_it(api, operator, bob, erased).await;
    let anew = json!({"email": EMAIL, "password": PASSWORD});
    let tokens = api.post("/v1/auth/register", &anew).service().send().await.ok(201);
    let token = text(&tokens["access_token"]);
    let balance = api.get("/v1/billing/balance").bearer(&token).send().await.ok(200);
    assert_eq!(balance["balance"], 0, "welcome credits come once an address");
    assert_eq!(api.balance(bob).await, WELCOME.0);
    let folder = server.halt().await;
    verify::run(&VerifyArgs::folder(folder.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(folder.path(), true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_erased_person_nothing_is_found_anywhere() {
    let log = Log::begin();
    let server = Server::start().await;
    let api = &server.api;
    let (operator, bob) = (api.operator().await, api.user("bob").await);
    let eve = canary(&server).await;
    // Somebody else tries the address, and a tenant invites it: both hold it under other keys.
    let again = json!({"email": EMAIL, "password": PASSWORD, "first_name": NAME});
    api.post("/v1/auth/signup", &again).send().await.ok(201);
    let path = format!("/v1/tenants/{}/invitations", bob.id);
    let invite = json!({"email": EMAIL});
    api.post(&path, &invite).as_user(&bob).send().await.ok(201);
    let key = json!({"name": "mine", "scopes": "wallet:read"});
    let key = text(&api.post("/v1/keys", &key).as_user(&eve).send().await.ok(201)["key"]);
    api.get("/v1/billing/balance").bearer(&key).send().await.ok(200);
    let me = api.get("/v1/auth/me").as_user(&eve).send().await.ok(200);
    assert_eq!(me["email"], EMAIL);
    assert!(!canaries(server.folder()).is_empty(), "the mails are there");
    let files = || std::fs::read_dir(server.folder().join(OUTBOX)).unwrap().count();
    while files() < 3 {
        tokio::task::yield_now().await;
    }

    let path = format!("/v1/users/{}/erase", eve.id);
    let erase = |reason: &str| api.post(&path, &json!({"reason": reason}));
    only_operators_erase_others(api, &path, [&bob, &eve], &operator).await;

    let asked = erase("asked for by letter").as_user(&operator).key("k1");
    let first = asked.clone().send().await;
    let receipt = first.ok(200);
    assert_eq!(asked.send().await.bytes, first.bytes, "the same bytes each time");
    let other = erase("something else").as_user(&operator).key("k1").send().await;
    other.problem(422, "idempotency_key_reused");
    let unkeyed = erase("once more").as_user(&operator).send().await.ok(200);
    assert_eq!(unkeyed, receipt, "it was done once");
    let counted = ["sessions_ended", "api_keys_ended", "memberships_ended", "invitations_ended"];
    // The link's session and the login's.
    assert_eq!(json!(counted.map(|it| receipt[it].clone())), json!([2, 1, 1, 1]), "{receipt}");
    assert!(receipt["keys_shredded"].as_u64().unwrap() >= 1 && receipt["took_ms"].is_i64());
    assert_eq!(
        (&receipt["id"], &receipt["reason"]),
        (&json!(eve.id), &json!("asked for by letter"))
    );

    for token in [&eve.token, &key] {
        assert_eq!(api.get("/v1/auth/me").bearer(token).send().await.status, 401);
    }
    let refresh = json!({"refresh_token": eve.refresh});
    api.post("/v1/auth/refresh", &refresh).send().await.problem(401, "invalid_token");
    let unknown = said(&log_in(api, "nobody@example.org", "").await);
    assert_eq!(said(&log_in(api, EMAIL, "").await), unknown);
    let page = format!("/v1/operator/actors/user/{}", eve.id);
    let page = api.get(&page).as_user(&operator).send().await.ok(200);
    assert_eq!((&page["is_erased"], &page["state"]), (&json!(true), &Value::Null), "{page}");
    let page = format!("/v1/operator/actors/erasure/{}", eve.id);
    let page = api.get(&page).as_user(&operator).send().await.ok(200);
    assert_eq!(page["state"]["erased_at"], receipt["erased_at"], "{page}");
    let actions = api.get("/v1/actions?per_page=200").as_user(&operator).send().await.text();
    assert!(actions.contains("erase_user") && actions.contains("erase_tenant"), "{actions}");
    nobody_shows_it(api, &operator, &bob, &eve).await;
    assert_eq!(canaries(server.folder()), Vec::<String>::new());
    for canary in [EMAIL, NAME] {
        assert!(!holds(&log.0.lock(), canary), "{canary} is in the log");
    }
    assert!(!log.0.lock().is_empty());

    stays_erased_and_comes_back_as_somebody_else(server, [&operator, &bob, &eve], unknown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ones_own_account_is_erased_with_a_fresh_proof_and_not_from_under_others() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let erase = |body: Value| api.request(Method::DELETE, "/v1/auth/me").json(body.to_string());
    erase(json!({})).as_user(&ada).send().await.problem(422, "validation_error");
    let wrong = erase(json!({"password": "not this one"})).as_user(&ada).send().await;
    wrong.problem(403, "wrong_password");
    let key = json!({"name": "mine", "scopes": "*"});
    let key = text(&api.post("/v1/keys", &key).as_user(&ada).send().await.ok(201)["key"]);
    let by_key = erase(json!({"password": PASSWORD})).bearer(&key).send().await;
    by_key.problem(403, "forbidden");

    // Bob is in Ada's tenant: it would be left with him and without its owner.
    let path = format!("/v1/tenants/{}/invitations", ada.id);
    let invited = api.post(&path, &json!({"email": bob.email})).as_user(&ada).send().await;
    let id: types::InvitationId = text(&invited.ok(201)["id"]).parse().unwrap();
    let links = server.running.app.system.port::<identity::mail_link::LinkKey>();
    let token = links.token(identity::mail_link::Purpose::Invitation, id.0).to_string();
    let accept = json!({"token": token});
    api.post("/v1/invitations/accept", &accept).as_user(&bob).send().await.ok(200);
    let right = json!({"password": PASSWORD});
    let refused = erase(right.clone()).as_user(&ada).send().await.problem(409, "last_owner");
    assert_eq!(refused["tenants"], json!([ada.id]), "{refused}");
    api.get("/v1/auth/me").as_user(&ada).send().await.ok(200);

    // In a tenant's hands a user is removed, and stays a person.
    let path = format!("/v1/users/{}", bob.id);
    let remove = |query: &str| api.request(Method::DELETE, &format!("{path}{query}"));
    remove("?permanent=true").as_user(&ada).send().await.problem(403, "forbidden");
    let removed = remove("?permanent=false").as_user(&ada).send().await.ok(200);
    assert_eq!((&removed["id"], &removed["removed"]), (&json!(bob.id), &json!(true)));
    remove("").as_user(&ada).send().await.problem(404, "not_found");
    api.get("/v1/auth/me").as_user(&bob).send().await.ok(200);

    let receipt = erase(right).as_user(&ada).send().await.ok(200);
    assert_eq!((&receipt["id"], &receipt["sort"]), (&json!(ada.id), &json!("user")));
    assert_eq!(api.get("/v1/auth/me").as_user(&ada).send().await.status, 401);
    let unknown = said(&log_in(api, "nobody@example.com", "").await);
    assert_eq!(said(&log_in(api, &ada.email, "").await), unknown);
    // There is always an operator.
    let operator = api.operator().await;
    let last = erase(json!({"password": PASSWORD})).as_user(&operator).send().await;
    last.problem(409, "last_owner");
    server.stop().await;
}

/// A tenant with an app in it and a member beside its owner.
async fn acme(server: &Server, ada: &User) -> User {
    let api = &server.api;
    let new = json!({"tenant_id": "acme", "name": "Acme & Co"});
    api.post("/v1/tenants", &new).as_user(ada).send().await.ok(201);
    let owner = logged_in(api, &ada.email, "acme").await;
    api.shelf(&owner, "acme-shelf").await;
    let invite = json!({"email": "guest@example.org"});
    api.post("/v1/tenants/acme/invitations", &invite).as_user(&owner).send().await.ok(201);
    owner
}

/// A tenant that was erased is there for nobody, and its records are in order.
async fn is_not_there(server: &Server, acme: &str, ada: &User, operator: &User) {
    let api = &server.api;
    assert_ne!(log_in(api, &ada.email, "acme").await.status, 200);
    for path in [format!("/v1/tenants/{acme}"), "/v1/tenants/acme".to_owned()] {
        api.get(&path).as_user(ada).send().await.problem(404, "not_found");
    }
    let listed = api.get("/v1/tenants?limit=200").as_user(operator).send().await.ok(200);
    assert!(!listed.to_string().contains("Acme & Co"), "{listed}");
    let grant = json!({"credits": 1, "kind": "paid", "reason": "r"});
    let path = format!("/v1/operator/tenants/{acme}/grants");
    api.post(&path, &grant).as_user(operator).send().await.problem(404, "not_found");
    let taken = json!({"tenant_id": "acme", "name": "Another"});
    api.post("/v1/tenants", &taken).as_user(ada).send().await.problem(409, "tenant_exists");
    assert_eq!(api.balance(ada).await, WELCOME.0, "a person's own tenant stays");
    let page = format!("/v1/operator/actors/erasure/{acme}");
    let page = api.get(&page).as_user(operator).send().await.ok(200);
    let (by, platform) = (format!("user/{}", ada.id), types::TenantId::SYSTEM.to_string());
    assert_eq!((&page["state"]["by"], &page["tenant_id"]), (&json!(by), &json!(platform)));
    let verified = api.get("/v1/actions/verify").as_user(operator).send().await.ok(200);
    assert_eq!(verified["verified"], true);
    let id: types::TenantId = acme.parse().unwrap();
    server.running.app.system.journal().verify_chain(supervision::Home(id.0)).unwrap();
    for kind in server.running.app.system.kinds() {
        let view = kind.kind_view();
        assert_eq!((view.crashes, view.quarantined.len()), (0, 0), "{}", view.kind);
    }
}

/// Archives, rows, backups and restores go on, and none of them brings a tenant back.
async fn the_tools_go_on(server: Server, backup: PathBuf, acme: &str, [ada, owner]: [&User; 2]) {
    let system = server.running.app.system.clone();
    let later = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 + 91 * 86_400_000;
    let pass = move || archive::pass(&system, later, 1).unwrap();
    let passed = tokio::task::spawn_blocking(pass).await.unwrap();
    assert!(passed.archives > 0, "{passed:?}");
    let server = server.restart().await;
    assert_eq!(server.api.balance(ada).await, WELCOME.0);
    let folder = server.halt().await;
    verify::run(&VerifyArgs::folder(folder.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(folder.path(), true)).await.unwrap();
    let restored = folder.path().join("restored");
    let args = RestoreArgs {
        backup,
        data_dir: restored.clone(),
        keys: folder.path().join("data-keys"),
        master_key: None,
        engine: "redb".to_owned(),
    };
    restore::restore(&args).await.unwrap();
    verify::run(&VerifyArgs::folder(restored.clone())).await.unwrap();
    let running = start(&settings(&restored)).await.unwrap();
    let api = Api::new(running.address);
    let operator = api.operator().await;
    let page = format!("/v1/operator/actors/tenant/{acme}");
    let page = api.get(&page).as_user(&operator).send().await.ok(200);
    assert_eq!(page["is_erased"], true, "the backup is from before, the key file is not: {page}");
    assert_eq!(api.get("/v1/billing/balance").as_user(owner).send().await.status, 401);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_tenant_is_gone_and_everything_else_goes_on() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    let owner = acme(&server, &ada).await;
    let acme = api.get("/v1/tenants/acme").as_user(&ada).send().await.ok(200);
    let acme = text(&acme["id"]);
    api.grant(&operator, &acme, 1_000).await;
    let hold = json!({"amount": 5, "ttl_seconds": 600, "reason": "open"});
    api.post("/v1/billing/holds", &hold).as_user(&owner).send().await.ok(201);
    let call = json!({"function": "add_book", "params": {"title": "Emma"}});
    let shelf = "/v1/extensions/acme-shelf/call";
    api.post(shelf, &call).as_user(&owner).send().await.ok(200);
    let key = json!({"name": "mine", "scopes": "wallet:read"});
    let key = text(&api.post("/v1/keys", &key).as_user(&owner).send().await.ok(201)["key"]);
    let taken = api.post("/v1/operator/backups", &json!({})).as_user(&operator).send().await;
    let backup = server.folder().join(BACKUP_FOLDER).join(text(&taken.ok(201)["name"]));

    let path = "/v1/tenants/acme/erase";
    let erase = |confirm: &str| api.post(path, &json!({"confirm": confirm}));
    let elsewhere = erase("acme").as_user(&ada).send().await;
    elsewhere.problem(403, "forbidden");
    erase("Acme").as_user(&owner).send().await.problem(422, "validation_error");
    erase("acme").as_user(&operator).send().await.problem(422, "validation_error");
    let own = format!("/v1/tenants/{}/erase", ada.id);
    let refused = api.post(&own, &json!({"confirm": ada.id})).as_user(&ada).send().await;
    refused.problem(409, "own_tenant");
    let receipt = erase("Acme & Co").as_user(&owner).key("k").send().await.ok(200);
    let counted = ["memberships_ended", "invitations_ended", "api_keys_ended", "sessions_ended"];
    assert_eq!(json!(counted.map(|it| receipt[it].clone())), json!([1, 1, 1, 1]), "{receipt}");

    for token in [&owner.token, &key] {
        assert_eq!(api.get("/v1/billing/balance").bearer(token).send().await.status, 401);
    }
    api.post(shelf, &call).as_user(&ada).send().await.problem(404, "not_found");
    is_not_there(&server, &acme, &ada, &operator).await;
    let again = json!({"confirm": acme, "reason": "twice"});
    let path = format!("/v1/tenants/{acme}/erase");
    let again = api.post(&path, &again).as_user(&operator).send().await.ok(200);
    assert_eq!(again, receipt, "an operator reads the same receipt");
    the_tools_go_on(server, backup, &acme, [&ada, &owner]).await;
}
