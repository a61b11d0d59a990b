//! Tenants that move between two servers, and sandboxes whose clocks are moved.

use gateway::mail::OUTBOX;
use gateway::portability::{ExportArgs, ImportArgs, export_tenant, import_tenant};
use gateway::reindex::{self, ReindexArgs};
use gateway::start::start;
use gateway::verify::{self, VerifyArgs};
use hyper::Method;
use identity::mail_link::{LinkKey, Purpose};
use journeys::{Answer, Api, PASSWORD, Server, User, settings, text};
use serde_json::{Value, json};
use types::InvitationId;

const IMPORT: &str = "/v1/operator/tenants/import";

async fn log_in(api: &Api, email: &str, tenant: &str) -> User {
    let login = json!({"email": email, "password": PASSWORD, "tenant_id": tenant});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    let token = text(&tokens["access_token"]);
    let me = api.get("/v1/auth/me").bearer(&token).send().await.ok(200);
    let (id, refresh) = (text(&me["imperal_id"]), text(&tokens["refresh_token"]));
    User { email: email.to_owned(), id, token, refresh }
}

/// Sets a password by the mail that a lost one is replaced with.
async fn set_password(server: &Server, email: &str) {
    let api = &server.api;
    api.post("/v1/auth/password/forgot", &json!({"email": email})).send().await.ok(202);
    let mail = loop {
        let mails = std::fs::read_dir(server.folder().join(OUTBOX)).into_iter().flatten();
        let paths = mails.map(|entry| entry.unwrap().path());
        let mut whole = paths.filter(|path| path.extension().is_some_and(|it| it == "eml"));
        let is_to = |mail: &String| mail.contains(&format!("To: {email}"));
        let found = whole.find_map(|path| std::fs::read_to_string(path).ok().filter(is_to));
        match found {
            Some(mail) => break mail,
            None => tokio::task::yield_now().await,
        }
    };
    let link = mail.lines().find(|line| line.starts_with("http")).unwrap();
    let token = link.split_once("?token=").unwrap().1;
    let body = json!({"token": token, "new_password": PASSWORD});
    api.post("/v1/auth/password/reset", &body).send().await.ok(200);
}

async fn join(server: &Server, owner: &User, guest: &User, role: &str) {
    let api = &server.api;
    let path = format!("/v1/tenants/{}/invitations", owner.id);
    let invite = json!({"email": guest.email, "role": role});
    let invited = api.post(&path, &invite).as_user(owner).send().await.ok(201);
    let id: InvitationId = text(&invited["id"]).parse().unwrap();
    let keys = server.running.app.system.port::<LinkKey>();
    let token = keys.token(Purpose::Invitation, id.0).to_string();
    api.post("/v1/invitations/accept", &json!({"token": token}))
        .as_user(guest)
        .send()
        .await
        .ok(200);
}

async fn call(api: &Api, user: &User, function: &str, params: &Value) -> Value {
    let body = json!({"function": function, "params": params});
    let answer = api.post("/v1/extensions/shelf/call", &body).as_user(user).send().await.ok(200);
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"].clone()
}

/// A tenant with credits, an app, documents, a hold and a second member.
async fn furnished(server: &Server) -> (User, User) {
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let operator = api.operator().await;
    api.grant(&operator, &ada.id, 10_000).await;
    api.shelf(&ada, "shelf").await;
    call(api, &ada, "add_book", &json!({"title": "Emma"})).await;
    join(server, &ada, &bob, "developer").await;
    let hold = json!({"amount": 5, "ttl_seconds": 3_600, "reason": "mine"});
    api.post("/v1/billing/holds", &hold).as_user(&ada).send().await.ok(201);
    api.settled_balance(&ada).await;
    (ada, bob)
}

async fn export(api: &Api, user: &User) -> (Vec<u8>, String) {
    let path = format!("/v1/tenants/{}/export", user.id);
    let answer = api.get(&path).as_user(user).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["cache-control"], "no-store");
    let key = answer.headers["x-export-key"].to_str().unwrap().to_owned();
    (answer.bytes.to_vec(), key)
}

async fn import(api: &Api, operator: &User, file: &[u8], key: &str) -> Answer {
    let request = api.request(Method::POST, IMPORT).body("application/octet-stream", file.to_vec());
    request.header("x-export-key", key).as_user(operator).send().await
}

/// A ledger without what each installation gives anew.
async fn ledger(api: &Api, user: &User) -> Vec<Value> {
    let lines = api.ledger(user).await.into_iter();
    lines
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("id");
            line
        })
        .collect()
}

async fn verified(api: &Api, user: &User) -> Value {
    let verified = api.get("/v1/actions/verify").as_user(user).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    verified
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_with_all_that_it_has() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (ada, _) = furnished(&a).await;
    let (bob_here, operator) = (b.api.user("bob").await, b.api.operator().await);
    let (balance, lines) = (a.api.balance(&ada).await, ledger(&a.api, &ada).await);
    let old = verified(&a.api, &ada).await;
    let (file, key) = export(&a.api, &ada).await;
    for secret in ["Emma", "ada@example.com", "$argon2", "for the test"] {
        assert!(!String::from_utf8_lossy(&file).contains(secret), "{secret}");
    }
    // Bob has never shown that his address is his own: by it nobody becomes a member.
    let refused = import(&b.api, &operator, &file, &key).await;
    refused.problem(409, "member_unverified");
    set_password(&b, "bob@example.com").await;
    let came = import(&b.api, &operator, &file, &key).await.ok(201);
    assert_eq!((&came["members_found"], &came["members_created"]), (&json!(1), &json!(1)));
    assert_eq!((&came["chain_records"], &came["chain_root"]), (&old["records"], &old["root"]));

    // Ada has no password here before she has set one by mail.
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    let refused = b.api.post("/v1/auth/login", &login).send().await;
    refused.problem(401, "invalid_credentials");
    set_password(&b, "ada@example.com").await;
    let ada_here = log_in(&b.api, "ada@example.com", &ada.id).await;
    assert_eq!(ada_here.id, ada.id);
    assert_eq!(b.api.balance(&ada_here).await, balance);
    assert_eq!(ledger(&b.api, &ada_here).await, lines);
    let holds = b.api.get("/v1/billing/holds").as_user(&ada_here).send().await.ok(200);
    assert_eq!((holds.as_array().unwrap().len(), &holds[0]["reason"]), (1, &json!("mine")));
    let books = call(&b.api, &ada_here, "books", &json!({})).await;
    assert_eq!(books["docs"][0]["data"]["title"], "Emma");
    call(&b.api, &ada_here, "add_book", &json!({"title": "Ulysses"})).await;
    let bob = log_in(&b.api, "bob@example.com", &ada.id).await;
    assert_eq!(bob.id, bob_here.id, "found by the address, under the id of here");
    let me = b.api.get("/v1/auth/me").as_user(&bob).send().await.ok(200);
    assert_eq!(me["role"], "developer");
    let new = verified(&b.api, &ada_here).await;
    assert!(new["records"].as_u64() > old["records"].as_u64(), "{new}");
    let path = "/v1/actions?search=hold_placed&per_page=200";
    let placed = b.api.get(path).as_user(&ada_here).send().await.ok(200);
    assert!(placed.to_string().contains(&ada.id), "{placed}");

    // All of it is in the records: after a restart as well, and for the tools.
    let b = b.restart().await;
    let ada_here = log_in(&b.api, "ada@example.com", &ada.id).await;
    assert_eq!(b.api.settled_balance(&ada_here).await, balance - 2 - 3);
    let folder = b.halt().await;
    verify::run(&VerifyArgs::folder(folder.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(folder.path(), true)).await.unwrap();
    // Where it came from nothing has changed.
    assert_eq!(a.api.balance(&ada).await, balance);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_whole_export_or_does_not_fit_changes_nothing() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (ada, bob) = furnished(&a).await;
    let path = format!("/v1/tenants/{}/export", ada.id);
    a.api.get(&path).as_user(&bob).send().await.problem(403, "forbidden");
    let at_ada = log_in(&a.api, "bob@example.com", &ada.id).await;
    a.api.get(&path).as_user(&at_ada).send().await.problem(403, "forbidden");
    let (file, key) = export(&a.api, &ada).await;
    let operator_a = a.api.operator().await;
    let back = import(&a.api, &operator_a, &file, &key).await;
    back.problem(409, "tenant_exists");

    let eve = b.api.user("eve").await;
    let operator = b.api.operator().await;
    let commit = || b.running.app.system.journal().standing().unwrap().commit;
    let before = commit();
    let other_key = format!("{}{}", if key.starts_with('0') { '1' } else { '0' }, &key[1..]);
    let mut changed = file.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let cut = &file[..file.len() - 1];
    let cases: [(&[u8], &str, &str); 6] = [
        (cut, &key, "export_cut_short"),
        (&file[..40], &key, "export_cut_short"),
        (&changed, &key, "export_damaged"),
        (b"something else", &key, "not_an_export"),
        (&file, &other_key, "wrong_export_key"),
        (&file, "no key", "validation_error"),
    ];
    for (file, key, code) in cases {
        import(&b.api, &operator, file, key).await.problem(422, code);
    }
    import(&b.api, &eve, &file, &key).await.problem(403, "forbidden");
    assert_eq!(commit(), before, "nothing was written");
    b.api.shelf(&eve, "shelf").await;
    let before = commit();
    let taken = import(&b.api, &operator, &file, &key).await.problem(409, "app_id_taken");
    assert_eq!(
        taken["conflicts"],
        json!([
            {"error": "app_id_taken", "id": "shelf"}, {"error": "nickname_taken", "id": "n-shelf"}
        ])
    );
    assert_eq!(commit(), before, "nothing was written");
    let left = std::fs::read_dir(b.folder().join("tenants")).unwrap().count();
    assert_eq!(left, 0, "no file stays");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_stopped_folders() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (ada, _) = furnished(&a).await;
    let lines = ledger(&a.api, &ada).await;
    let balance = a.api.balance(&ada).await;
    let (from, to) = (a.halt().await, b.halt().await);
    let file = from.path().join("ada.bailiwick");
    export_tenant(&ExportArgs::new(from.path(), &ada.id, &file)).await.unwrap();
    let again = export_tenant(&ExportArgs::new(from.path(), &ada.id, &file)).await.unwrap_err();
    assert_eq!(again.exit_code(), 73, "{again}");
    import_tenant(&ImportArgs::new(to.path(), &file)).await.unwrap();
    let twice = import_tenant(&ImportArgs::new(to.path(), &file)).await.unwrap_err();
    assert!(twice.to_string().contains("tenant_exists"), "{twice}");
    verify::run(&VerifyArgs::folder(to.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(to.path(), true)).await.unwrap();
    let running = start(&settings(to.path())).await.unwrap();
    let api = Api::new(running.address);
    let as_ada = |path: &str| {
        api.get(path).service().header("x-tenant-id", &ada.id).header("x-acting-user", &ada.id)
    };
    let wallet = as_ada("/v1/billing/balance").send().await.ok(200);
    assert_eq!(wallet["balance"], balance);
    let page = as_ada("/v1/billing/wallet/history?limit=200").send().await.ok(200);
    assert_eq!(page.as_array().unwrap().len(), lines.len());
    running.stop().await;
    let left = std::fs::read_dir(to.path().join("tenants")).unwrap().count();
    assert_eq!(left, 0, "no file stays");
}

async fn holds(api: &Api, user: &User) -> usize {
    let holds = api.get("/v1/billing/holds").as_user(user).send().await.ok(200);
    holds.as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_has_a_clock_of_its_own_and_touches_nobody() {
    let server = Server::start().await;
    let (ada, _) = furnished(&server).await;
    let api = &server.api;
    let balance = api.balance(&ada).await;
    let path = format!("/v1/tenants/{}/sandbox", ada.id);
    let make = || api.post(&path, &json!({"name": "Try"})).as_user(&ada).key("s");
    let made = make().send().await.ok(201);
    assert_eq!(make().send().await.ok(201), made, "the same key, the same sandbox");
    assert_eq!((&made["sandbox"], &made["name"]), (&json!(true), &json!("Try")));
    let sandbox = text(&made["tenant_id"]);
    let mine = log_in(api, &ada.email, &sandbox).await;
    let seen = api.get(&format!("/v1/tenants/{sandbox}")).as_user(&mine).send().await.ok(200);
    assert_eq!((&seen["sandbox"], &seen["name"]), (&json!(true), &json!("Try")));
    let real = api.get(&format!("/v1/tenants/{}", ada.id)).as_user(&ada).send().await.ok(200);
    assert!(real.get("sandbox").is_none(), "{real}");
    assert_eq!((api.balance(&mine).await, holds(api, &mine).await), (balance, 1));
    let books = call(api, &mine, "books", &json!({})).await;
    assert_eq!(books["docs"][0]["data"]["title"], "Emma");

    let clock = |tenant: &str, user: &User, seconds: i64| {
        let path = format!("/v1/tenants/{tenant}/clock");
        api.post(&path, &json!({"advance_seconds": seconds})).as_user(user)
    };
    clock(&ada.id, &ada, 60).send().await.problem(404, "not_found");
    clock(&sandbox, &mine, -5).send().await.problem(422, "validation_error");
    clock(&sandbox, &ada, 60).send().await.problem(403, "forbidden");
    let moved = clock(&sandbox, &mine, 7_200).key("c").send().await.ok(200);
    assert_eq!(moved["ahead_seconds"], 7_200);
    let again = clock(&sandbox, &mine, 7_200).key("c").send().await.ok(200);
    assert_eq!(again, moved, "a repetition moves nothing");
    while holds(api, &mine).await > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(holds(api, &ada).await, 1, "the original's hold goes on");
    call(api, &mine, "add_book", &json!({"title": "Ulysses"})).await;
    let books = call(api, &ada, "books", &json!({})).await;
    assert_eq!(books["docs"].as_array().unwrap().len(), 1);
    verified(api, &mine).await;

    // Its time goes on after a restart, and it ends as other tenants do.
    let server = server.restart().await;
    let api = &server.api;
    let mine = log_in(api, &ada.email, &sandbox).await;
    let hold = json!({"amount": 5, "ttl_seconds": 60, "reason": "later"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(&mine).send().await.ok(201);
    let expires = types::parse_rfc3339(&text(&hold["expires_at"])).unwrap();
    let now = server.running.app.system.clock().now();
    assert!(expires.0 > now.plus_ms(7_000_000).0, "{hold}");
    let end = api.request(Method::DELETE, &format!("/v1/tenants/{sandbox}")).as_user(&mine);
    end.send().await.ok(200);
    let folder = server.halt().await;
    verify::run(&VerifyArgs::folder(folder.path().to_owned())).await.unwrap();
    reindex::run(&ReindexArgs::new(folder.path(), true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_are_few_and_of_an_earlier_time_if_wanted() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, operator) = (api.user("ada").await, api.operator().await);
    let balance = api.balance(&ada).await;
    let now = server.running.app.system.clock().now();
    while server.running.app.system.clock().now() == now {
        tokio::task::yield_now().await;
    }
    let at = types::rfc3339(now);
    api.grant(&operator, &ada.id, 77).await;
    let path = format!("/v1/tenants/{}/sandbox", ada.id);
    let make = |body: Value| api.post(&path, &body).as_user(&ada);
    make(json!({"at": "2001-01-01T00:00:00Z"})).send().await.problem(422, "before_the_tenant");
    make(json!({"at": "soon"})).send().await.problem(422, "validation_error");
    make(json!({"name": " "})).send().await.problem(422, "validation_error");
    let first = make(json!({"at": at})).send().await.ok(201);
    let mine = log_in(api, &ada.email, &text(&first["tenant_id"])).await;
    assert_eq!(api.balance(&mine).await, balance, "without the later credits");
    let of_sandbox = format!("/v1/tenants/{}/sandbox", text(&first["tenant_id"]));
    let nested = api.post(&of_sandbox, &json!({})).as_user(&mine).send().await;
    nested.problem(409, "sandbox");
    let export = format!("/v1/tenants/{}/export", text(&first["tenant_id"]));
    api.get(&export).as_user(&mine).send().await.problem(409, "sandbox");
    for _ in 0..2 {
        make(json!({})).send().await.ok(201);
    }
    make(json!({})).send().await.problem(409, "too_many_sandboxes");
    let end = format!("/v1/tenants/{}", text(&first["tenant_id"]));
    api.request(Method::DELETE, &end).as_user(&mine).send().await.ok(200);
    make(json!({})).send().await.ok(201);
    server.stop().await;
}
