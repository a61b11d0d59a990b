//! API keys over HTTP: made, used within what they are for and beyond, expired, deleted, never
//! shown again; and the list of sessions beside them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use journeys::{Answer, Api, PASSWORD, Server, User, WELCOME, text};
use serde_json::{Value, json};
use types::rfc3339;

const MAKERS: [(&str, &str); 3] = [
    ("/v1/keys", "bw_live_"),
    ("/api/v1/auth/api-keys", "eng_live_sk_"),
    ("/v1/api-keys", "rai_pk_live_"),
];

async fn make(api: &Api, user: &User, scopes: &str) -> (String, String) {
    let body = json!({"name": "a key", "scopes": scopes});
    let made = api.post("/v1/keys", &body).as_user(user).send().await.ok(201);
    (text(&made["id"]), text(&made["key"]))
}

async fn debit(api: &Api, key: &str) -> Answer {
    let body = json!({"amount": 1, "reason": "by key"});
    api.post("/v1/billing/debits", &body).bearer(key).send().await
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_api_makes_lists_and_deletes_keys_in_its_own_shape() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let mut secrets = Vec::new();
    for (path, prefix) in MAKERS {
        let scopes = if path == "/v1/keys" { json!("*") } else { json!(["*"]) };
        let body = json!({"name": prefix, "scopes": scopes});
        let answer = api.post(path, &body).as_user(&user).send().await;
        let made = answer.ok(201);
        assert_eq!(answer.headers["cache-control"], "no-store");
        let secret = text(&made["key"]);
        assert!(secret.starts_with(prefix) && secret.len() == prefix.len() + 43, "{made}");
        assert!(text(&made["id"]).starts_with("key_"), "{made}");
        assert_eq!((&made["name"], &made["scopes"]), (&json!(prefix), &scopes));
        let me = api.get("/v1/auth/me").bearer(&secret).send().await.ok(200);
        assert_eq!((&me["imperal_id"], &me["role"]), (&json!(user.id), &json!("owner")));
        secrets.push((text(&made["id"]), secret));
    }
    let platform = api.get("/v1/keys").as_user(&user).send().await.ok(200);
    let account = api.get("/api/v1/auth/api-keys").as_user(&user).send().await.ok(200);
    let agents = api.get("/v1/api-keys").as_user(&user).send().await.ok(200);
    assert_eq!(account, agents);
    let keys = ["id", "key_prefix", "name", "scopes", "last_used_at", "created_at", "expires_at"];
    assert_eq!(names(&platform[0]), keys);
    for (index, (id, secret)) in secrets.iter().rev().enumerate() {
        assert_eq!(platform[index]["id"], id.as_str(), "the newest first");
        assert_eq!(account["items"][index]["id"], id.as_str());
        let shown = text(&platform[index]["key_prefix"]);
        assert!(secret.starts_with(&shown) && shown.len() < secret.len() - 30, "{shown}");
        let dotted = text(&account["items"][index]["key_prefix"]);
        assert_eq!(dotted, format!("{shown}..."));
        assert!(platform[index]["last_used_at"].is_string());
    }
    let page = api.get("/v1/keys?limit=1&offset=1").as_user(&user).send().await.ok(200);
    assert_eq!(page, json!([platform[1]]));

    let stranger = api.user("bob").await;
    for ((path, _), (id, secret)) in MAKERS.iter().zip(&secrets) {
        let at = |id: &str| api.request(Method::DELETE, &format!("{path}/{id}"));
        at(id).as_user(&stranger).send().await.problem(404, "not_found");
        at("nonsense").as_user(&user).send().await.problem(404, "not_found");
        api.get("/v1/auth/me").bearer(secret).send().await.ok(200);
        let deleted = at(id).as_user(&user).send().await;
        match *path {
            "/v1/api-keys" => assert_eq!((deleted.status, deleted.text().as_str()), (204, "")),
            _ => assert_eq!(deleted.ok(200)["success"], true),
        }
        let dead = api.get("/v1/auth/me").bearer(secret).send().await;
        dead.problem(401, "invalid_api_key");
        assert_eq!(dead.headers["www-authenticate"], "Bearer");
        at(id).as_user(&user).send().await.problem(404, "not_found");
    }
    assert_eq!(api.get("/v1/keys").as_user(&user).send().await.ok(200), json!([]));
    let server = server.restart().await;
    for (_, secret) in &secrets {
        let dead = server.api.get("/v1/auth/me").bearer(secret).send().await;
        dead.problem(401, "invalid_api_key");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_does_what_it_was_made_for_and_nothing_else() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let (_, spender) = make(api, &user, "wallet:spend").await;
    let (_, reader) = make(api, &user, "auth:read, wallet:read shelf:read").await;
    let (_, all) = make(api, &user, "*").await;

    let call = json!({"function": "books", "params": {}});
    let add = json!({"function": "add_book", "params": {"title": "Emma"}});
    let calls = "/v1/extensions/shelf/call";
    debit(api, &spender).await.ok(201);
    debit(api, &reader).await.problem(403, "scope_missing");
    api.get("/v1/billing/balance").bearer(&reader).send().await.ok(200);
    api.get("/v1/billing/balance").bearer(&spender).send().await.problem(403, "scope_missing");
    let me = api.get("/v1/auth/me").bearer(&reader).send().await.ok(200);
    assert_eq!(me["scopes"], json!(["auth:read", "wallet:read", "shelf:read"]));
    api.get("/v1/auth/me").bearer(&spender).send().await.problem(403, "scope_missing");
    assert_eq!(api.post(calls, &call).bearer(&reader).send().await.ok(200)["status"], "success");
    api.post(calls, &add).bearer(&reader).send().await.problem(403, "scope_missing");
    api.post(calls, &call).bearer(&spender).send().await.problem(403, "scope_missing");
    // What a route itself asks nothing for is not open to every key either.
    for (method, path) in [
        (Method::GET, "/v1/keys"),
        (Method::GET, "/v1/actions"),
        (Method::GET, "/v1/auth/sessions"),
        (Method::POST, "/v1/auth/sessions/revoke-others"),
        (Method::GET, "/v1/developer/apps"),
        (Method::POST, "/v1/developer/apps/shelf/submit"),
    ] {
        let answer = api.request(method, path).bearer(&spender).send().await;
        answer.problem(403, "scope_missing");
    }
    let wider = json!({"name": "wider", "scopes": "wallet:*"});
    api.post("/v1/keys", &wider).bearer(&spender).send().await.problem(403, "scope_missing");
    let (_, maker) = make(api, &user, "keys:write,wallet:spend").await;
    api.post("/v1/keys", &wider).bearer(&maker).send().await.problem(403, "scope_not_held");
    let own = json!({"name": "own", "scopes": "*"});
    let own = api.post("/v1/keys", &own).bearer(&maker).send().await.ok(201);
    assert_eq!(own["scopes"], "keys:write,wallet:spend");

    debit(api, &all).await.ok(201);
    assert_eq!(api.post(calls, &add).bearer(&all).send().await.ok(200)["status"], "success");
    api.get("/v1/operator/tree").bearer(&all).send().await.problem(403, "forbidden");
    for unfit in [
        json!({"name": ""}),
        json!({"name": "x", "scopes": ""}),
        json!({"name": "x", "scopes": "a b\u{7}"}),
        json!({"name": "x", "expires_at": "tomorrow"}),
        json!({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}),
    ] {
        let refused = api.post("/v1/keys", &unfit).as_user(&user).send().await;
        refused.problem(422, "validation_error");
    }
    let server = server.restart().await;
    let listed = server.api.get("/v1/keys").as_user(&user).send().await.ok(200);
    let used = listed.as_array().unwrap().iter().filter(|key| key["last_used_at"].is_string());
    assert_eq!(used.count(), 4, "all but the one that nobody used: {listed}");
    debit(&server.api, &spender).await.ok(201);
    debit(&server.api, &reader).await.problem(403, "scope_missing");
    assert_eq!(server.api.settled_balance(&user).await, WELCOME.0 - 3 - 2 - 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_sent_in_one_place() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let (_, key) = make(api, &user, "*").await;
    let apps = || api.get("/v1/developer/apps");
    // A user who is no developer: known, and refused for that.
    apps().header("x-api-key", &key).send().await.problem(403, "not_a_developer");
    apps().bearer(&key).send().await.problem(403, "not_a_developer");
    let both = apps().bearer(&key).header("x-api-key", &key).send().await;
    both.problem(401, "unauthorized");
    let with_service = apps().service().header("x-api-key", &key).send().await;
    with_service.problem(401, "unauthorized");
    apps().header("x-api-key", &user.token).send().await.problem(401, "unauthorized");
    apps().header("x-api-key", &key.replace("bw_live_", "bw_live_x")).send().await.ok(401);
    let elsewhere = api.get("/v1/auth/me").header("x-api-key", &key).send().await;
    elsewhere.problem(401, "unauthorized");
    let unknown = format!("{}{}", &key[..key.len() - 4], "AAAA");
    api.get("/v1/auth/me").bearer(&unknown).send().await.problem(401, "invalid_api_key");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_ends_with_its_time() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let clock = server.running.app.system.clock().clone();
    let until = clock.now().plus_ms(1_500);
    let body = json!({"name": "short", "scopes": ["*"], "expires_at": rfc3339(until)});
    let made = api.post("/api/v1/auth/api-keys", &body).as_user(&user).send().await.ok(201);
    assert_eq!(made["expires_at"], rfc3339(until));
    let key = text(&made["key"]);
    loop {
        let before = clock.now();
        let answer = api.get("/v1/auth/me").bearer(&key).send().await;
        let after = clock.now();
        if before >= until {
            answer.problem(401, "invalid_api_key");
            break;
        }
        assert!(answer.status == 200 || after >= until, "{}", answer.text());
        // sleep: the server's clock is the machine's, and it is asked often enough
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It goes from the list by itself.
    while api.get("/v1/keys").as_user(&user).send().await.ok(200) != json!([]) {
        tokio::task::yield_now().await;
    }
    server.stop().await;
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once_and_kept_nowhere() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let create = |body: Value| api.post("/v1/keys", &body).as_user(&user).key("make-one");
    let first = create(json!({"name": "once"})).send().await.ok(201);
    // The client that lost the answer is the one that has the idempotency key.
    let again = create(json!({"name": "once"})).send().await.ok(201);
    assert_eq!(first, again);
    create(json!({"name": "other"})).send().await.problem(422, "idempotency_key_reused");
    let (id, key) = (text(&first["id"]), text(&first["key"]));
    debit(api, &key).await.ok(201);
    let mut told = String::new();
    for path in ["/v1/keys", "/v1/api-keys", "/api/v1/auth/api-keys", "/v1/actions?per_page=200"] {
        let answer = api.get(path).as_user(&user).send().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        told += &answer.text();
    }
    let refused = api.get("/v1/operator/tree").bearer(&key).send().await;
    told += &refused.text();
    let operator = api.operator().await;
    let actor =
        format!("/v1/operator/actors/api_keys/{0}.{1}", user.id, user.id.replace("imp_u", "imp_t"));
    let observed = api.get(&actor).as_user(&operator).send().await;
    assert!(observed.text().contains(&id), "{}", observed.text());
    told += &observed.text();
    let deleted = api.request(Method::DELETE, &format!("/v1/keys/{id}")).as_user(&user);
    told += &deleted.send().await.text();
    told += &api.get("/v1/auth/me").bearer(&key).send().await.text();
    told += &api.get("/metrics").send().await.text();
    let secret = &key["bw_live_".len()..];
    assert!(!told.contains(secret), "the secret was told again");
    server.running.app.system.settle().await;
    let needles = [secret.as_bytes(), &secret.as_bytes()[..16]];
    let kept = files(server.folder());
    assert!(!kept.is_empty());
    for path in kept {
        let bytes = std::fs::read(&path).unwrap();
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
        assert!(!needles.iter().any(|needle| holds(needle)), "{} holds it", path.display());
    }
    server.stop().await;
}

async fn log_in(api: &Api, user: &User, agent: &str) -> Value {
    let body = json!({"email": user.email, "password": PASSWORD});
    api.post("/v1/auth/login", &body).header("user-agent", agent).send().await.ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_and_ended() {
    let server = Server::start().await;
    let api = &server.api;
    let (user, stranger) = (api.user("ada").await, api.user("bob").await);
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    let here = text(&log_in(api, &user, firefox).await["access_token"]);
    let there = log_in(api, &user, "curl/8.5.0").await;
    let list = |token: String| async move {
        let list = api.get("/v1/auth/sessions").bearer(&token).send().await.ok(200);
        list["sessions"].as_array().unwrap().clone()
    };
    let sessions = list(here.clone()).await;
    assert_eq!(sessions.len(), 3);
    let current: Vec<_> = sessions.iter().filter(|it| it["current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["device"], "Firefox on Linux");
    assert_eq!(current[0]["user_agent"], firefox);
    assert_eq!(current[0]["place"], "127.0.0.x");
    assert_eq!(current[0]["tenant_id"], user.id.as_str());
    assert_eq!(current[0]["created_at"], current[0]["last_used_at"]);
    let other = sessions.iter().find(|it| it["device"] == "curl").unwrap();
    let path = |id: &Value| format!("/v1/auth/sessions/{}/revoke", text(id));

    let refresh = json!({"refresh_token": there["refresh_token"]});
    let moved = api.post("/v1/auth/refresh", &refresh).header("user-agent", "wget/1.25");
    let there = moved.send().await.ok(200);
    assert!(list(here.clone()).await.iter().any(|it| it["device"] == "wget"));

    let foreign = api.request(Method::POST, &path(&other["id"])).as_user(&stranger).send().await;
    foreign.problem(404, "not_found");
    let there_me = api.get("/v1/auth/me").bearer(&text(&there["access_token"]));
    there_me.clone().send().await.ok(200);
    let revoke = api.request(Method::POST, &path(&other["id"])).bearer(&here);
    assert_eq!(revoke.clone().key("end").send().await.ok(200), json!({"revoked": 1}));
    there_me.clone().send().await.problem(401, "invalid_token");
    let refresh = json!({"refresh_token": there["refresh_token"]});
    api.post("/v1/auth/refresh", &refresh).send().await.problem(401, "invalid_token");
    assert_eq!(revoke.clone().key("end").send().await.ok(200), json!({"revoked": 1}));
    assert_eq!(revoke.send().await.ok(200), json!({"revoked": 0}));

    let others = api.request(Method::POST, "/v1/auth/sessions/revoke-others").bearer(&here);
    assert_eq!(others.clone().key("rest").send().await.ok(200), json!({"revoked": 1}));
    assert_eq!(others.clone().key("rest").send().await.ok(200), json!({"revoked": 1}));
    assert_eq!(others.send().await.ok(200), json!({"revoked": 0}));
    api.get("/v1/auth/me").as_user(&user).send().await.problem(401, "invalid_token");
    api.get("/v1/auth/me").as_user(&stranger).send().await.ok(200);
    let left = list(here.clone()).await;
    assert_eq!((left.len(), &left[0]["current"]), (1, &json!(true)));
    let server = server.restart().await;
    let dead = server.api.get("/v1/auth/me").bearer(&text(&there["access_token"])).send().await;
    dead.problem(401, "invalid_token");
    server.api.get("/v1/auth/me").bearer(&here).send().await.ok(200);
    server.stop().await;
}
