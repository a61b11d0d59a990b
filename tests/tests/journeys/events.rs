//! The event feed: who reads along hears what happens, in order, nothing of others, and nothing
//! is lost while it is away.

use std::time::Duration;

use journeys::{Api, Event, EventStream, SERVICE_TOKEN, Server, User, shelf_document};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::interval;

const STREAM: &str = "/v1/events/stream";

async fn read(api: &Api, user: &User) -> EventStream {
    api.get(STREAM).as_user(user).events().await
}

async fn read_from(api: &Api, user: &User, last_id: &str) -> EventStream {
    api.get(STREAM).as_user(user).header("last-event-id", last_id).events().await
}

async fn debit(api: &Api, user: &User) {
    let body = json!({"amount": 1, "reason": "r"});
    api.post("/v1/billing/debits", &body).as_user(user).send().await.ok(201);
}

async fn publish(api: &Api, tenant: &str, body: &Value) -> Value {
    let call = api.post("/v1/internal/events/publish", body).service();
    call.header("x-tenant-id", tenant).send().await.ok(200)
}

/// The shelf with a panel, and with an event for a book that was added.
fn telling_shelf() -> Value {
    let mut shelf = shelf_document("shelf");
    shelf["app"]["version"] = json!("1.1.0");
    shelf["app"]["functions"][0]["event"] = json!("book_added");
    let tree = json!({"type": "Text", "props": {"text": "hello"}});
    shelf["app"]["ui"] = json!({"panels": [{"panel_id": "books", "slot": "center",
        "title": "Books", "render": {"kind": "static", "tree": tree}}]});
    shelf
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_hears_of_calls_money_apps_and_panels() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    api.shelf(&user, "shelf").await;
    let mut events = read(api, &user).await;
    assert_eq!(events.headers["cache-control"], "no-store");
    assert_eq!(events.headers["referrer-policy"], "no-referrer");
    let params = json!({"app_id": "shelf", "ir_dict": telling_shelf()});
    assert_eq!(api.built_in(&user, "deploy_ir", &params).await["status"], "success");
    let deployed = events.named("app.deployed").await;
    assert_eq!(
        (&deployed.data["app_id"], &deployed.data["version"]),
        (&json!("shelf"), &json!("1.1.0"))
    );

    let before = api.balance(&user).await;
    let path = "/v1/extensions/shelf/call";
    let call = json!({"function": "add_book", "params": {"title": "Emma"}});
    let answer = api.post(path, &call).as_user(&user).send().await;
    answer.ok(200);
    let mut told = events.until("hold.captured").await;
    // What is told once may come before or after what is recorded at the same time.
    let is_ours = |it: &Event| it.name == "panel_refresh" && it.data["app_id"] == "shelf";
    while !told.iter().any(is_ours) {
        told.push(events.next().await.unwrap());
    }
    let find = |name: &str| told.iter().find(|event| event.name == name).unwrap();
    let is_call = |it: &&Event| it.name == "call.finished" && it.data["app_id"] == "shelf";
    let finished = told.iter().find(is_call).unwrap();
    assert_eq!(finished.data["function"], "add_book");
    assert_eq!(finished.data["price"], 3);
    assert_eq!(finished.data["trace_id"], answer.headers["x-request-id"].to_str().unwrap());
    let added = find("shelf.book_added");
    assert!(added.data["data"]["id"].is_string(), "{added:?}");
    assert_eq!(find("hold.placed").data["amount"], 3);
    assert_eq!(find("hold.captured").data["captured"], 3);
    let panels = told.iter().find(|event| is_ours(event)).unwrap();
    assert_eq!((&panels.id, &panels.data["panels"]), (&None, &json!(["books"])));
    let changed = events.named("wallet.changed").await;
    assert_eq!(changed.data["balance"], before - 3, "{changed:?}");
    assert_eq!(changed.data["available"].as_i64(), Some(journeys::WELCOME.1 - 3));

    let calls = json!({"calls": [call, {"function": "gone"}, {"function": "books"}]});
    let batch = api.post("/v1/extensions/shelf/batch", &calls).as_user(&user).send().await;
    batch.ok(200);
    let batch = events.named("batch.finished").await;
    assert_eq!((&batch.data["calls"], &batch.data["failed"]), (&json!(3), &json!(1)));
    let wrong = json!({"function": "gone"});
    api.post(path, &wrong).as_user(&user).send().await.ok(200);
    let failed = events.named("call.failed").await;
    assert_eq!(failed.data["error_code"], "function_not_found", "{failed:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_after_a_restart_misses_nothing_and_hears_nothing_twice() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    let mut witness = read(&server.api, &user).await;
    let begun = witness.last_id.clone();
    let mut reader = read(&server.api, &user).await;
    for _ in 0..10 {
        debit(&server.api, &user).await;
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(reader.named("wallet.changed").await);
    }
    drop(reader);
    for _ in 0..10 {
        debit(&server.api, &user).await;
    }
    let mut all = Vec::new();
    while all.len() < 20 {
        all.extend(witness.next().await.filter(|event| event.name == "wallet.changed"));
    }
    let server = server.restart().await;
    let last = witness.until("closed").await;
    assert_eq!(last.last().unwrap().data["reason"], "server_stopping");
    assert!(witness.next().await.is_none());

    let last_id = seen.last().unwrap().id.clone().unwrap();
    let mut reader = read_from(&server.api, &user, &last_id).await;
    debit(&server.api, &user).await;
    while seen.len() < 21 {
        seen.extend(reader.next().await.filter(|event| event.name == "wallet.changed"));
    }
    assert_eq!(seen[..20], all[..], "neither gap nor duplicate, and the same as live");
    let balance = |event: &Event| event.data["balance"].as_i64().unwrap();
    assert!(seen.windows(2).all(|pair| balance(&pair[1]) == balance(&pair[0]) - 1));
    // All of it once more, over the border between what is kept and what is read again.
    let mut again = read_from(&server.api, &user, &begun).await;
    let mut repeated = Vec::new();
    while repeated.len() < 21 {
        repeated.extend(again.next().await.filter(|event| event.name == "wallet.changed"));
    }
    assert_eq!(repeated, seen);
    let mut lost = read_from(&server.api, &user, "999999").await;
    assert_eq!(lost.next().await.unwrap().data, json!({"reason": "unknown_id"}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_another_tenant_is_told() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let (mut of_ada, mut of_bob) = (read(api, &ada).await, read(api, &bob).await);
    api.shelf(&bob, "shelf").await;
    for _ in 0..5 {
        debit(api, &bob).await;
    }
    publish(api, &bob.id.replace("_u_", "_t_"), &json!({"action": "x"})).await;
    debit(api, &ada).await;
    let first = of_ada.next().await.unwrap();
    assert_eq!(first.name, "wallet.changed");
    assert_eq!(first.data["tenant_id"], ada.id.replace("_u_", "_t_"));
    let heard = of_bob.until("x").await;
    assert!(
        !serde_json::to_string(&heard.iter().map(|it| &it.data).collect::<Vec<_>>())
            .unwrap()
            .contains(ada.id.rsplit('_').next().unwrap())
    );
    let other = format!("{STREAM}?tenant_id={}", bob.id.replace("_u_", "_t_"));
    api.get(&other).as_user(&ada).send().await.problem(403, "forbidden");
    // An id of another chain is a number of the own one, or none.
    let mut from = read_from(api, &ada, &of_bob.last_id).await;
    debit(api, &ada).await;
    assert_eq!(from.until("wallet.changed").await[0].data["tenant_id"], Value::Null);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_may_stand_in_the_query_and_ends_the_stream_when_it_is_revoked() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let path = format!("{STREAM}?tenant_id=default&token={}", user.token);
    let mut events = api.get(&path).events().await;
    debit(api, &user).await;
    assert_eq!(events.next().await.unwrap().name, "wallet.changed");
    api.get(&path).as_user(&user).send().await.problem(401, "unauthorized");
    api.get(&format!("{path}&token=x")).send().await.problem(401, "unauthorized");
    let wrong = api.get(&format!("{STREAM}?token=wrong")).send().await;
    let wrong = wrong.problem(401, "invalid_token");
    assert_eq!(wrong["instance"], STREAM, "the token is not repeated");

    let key = json!({"name": "k", "scopes": "events:read wallet:read"});
    let key = api.post("/v1/keys", &key).as_user(&user).send().await.ok(201);
    let shown = key["key"].as_str().or(key["api_key"].as_str()).unwrap();
    let mut by_key = api.get(STREAM).bearer(shown).events().await;
    debit(api, &user).await;
    assert_eq!(by_key.next().await.unwrap().name, "wallet.changed");
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    let gone = api.request(hyper::Method::DELETE, &path).as_user(&user).send().await;
    assert!((200..300).contains(&gone.status), "{}", gone.text());
    assert_eq!(by_key.until("closed").await.last().unwrap().data["reason"], "token_revoked");

    let mut other = read(api, &user).await;
    let logout = json!({"refresh_token": user.refresh});
    api.post("/v1/auth/logout", &logout).send().await.ok(200);
    for stream in [&mut events, &mut other] {
        let closed = stream.until("closed").await;
        assert_eq!(closed.last().unwrap().data["reason"], "token_revoked");
        assert!(stream.next().await.is_none());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_tells_and_reads_and_counts() {
    let server = Server::start().await;
    let api = &server.api.over_http2();
    let user = api.user("ada").await;
    let tenant = user.id.replace("_u_", "_t_");
    let stats = async || api.get("/v1/events/stats").service().send().await.ok(200);
    let nobody = json!({"channels": 0, "clients": 0, "dropped": {}, "published": 0,
        "published_by_app": {}});
    assert_eq!(stats().await, nobody);
    let body = json!({"action": "panel_refresh", "data": {"panels": ["a"]}});
    assert_eq!(publish(api, &tenant, &body).await, json!({"published": true, "clients": 0}));

    // All over one connection.
    let mut events = read(api, &user).await;
    let as_service = api.get(STREAM).service().header("x-tenant-id", &tenant);
    let mut of_service = as_service.events().await;
    let named = api.get(&format!("{STREAM}?tenant_id={tenant}")).service().events().await;
    assert_eq!(stats().await["clients"], 3);
    drop(named);
    assert_eq!(publish(api, &tenant, &body).await["published"], true);
    let refresh = events.next().await.unwrap();
    assert_eq!((refresh.name.as_str(), &refresh.id), ("panel_refresh", &None));
    assert_eq!(refresh.data["panels"], json!(["a"]));
    let nobody = format!("imp_u_{}", "7".repeat(26));
    let body = json!({"tenant_id": tenant, "scope": "task", "action": "moved", "id": "7",
        "user_id": nobody, "data": {"percent": 40}});
    publish(api, &tenant, &body).await;
    debit(api, &user).await;
    assert_eq!(events.next().await.unwrap().name, "wallet.changed", "told to somebody else");
    let moved = of_service.named("task.moved").await;
    assert_eq!((&moved.data["id"], &moved.data["percent"]), (&json!("7"), &json!(40)));
    api.get(STREAM).service().send().await.problem(422, "validation_error");
    let reserved = json!({"action": "closed"});
    let reserved = api.post("/v1/internal/events/publish", &reserved).service();
    let reserved = reserved.header("x-tenant-id", &tenant).send().await;
    reserved.problem(422, "validation_error");

    let metrics = api.get("/metrics").send().await.text();
    assert!(metrics.contains("bailiwick_event_readers 2"), "{metrics}");
    let operator = api.operator().await;
    let tree = api.get("/v1/operator/tree").as_user(&operator).send().await.ok(200);
    assert_eq!(tree["feed"]["tenants"][0]["tenant_id"], json!(tenant), "{}", tree["feed"]);
    drop((events, of_service));
    while stats().await["channels"] != 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_belongs_who_left_and_what_is_low_is_told_until_the_tenant_is_off() {
    let server = Server::start().await;
    let api = &server.api;
    let (ada, bob) = (api.user("ada").await, api.user("bob").await);
    let mut own = read(api, &ada).await;
    let debit = json!({"amount": journeys::WELCOME.1 - 50, "reason": "r"});
    api.post("/v1/billing/debits", &debit).as_user(&ada).send().await.ok(201);
    let low = own.named("wallet.low").await;
    assert_eq!((&low.data["available"], &low.data["below"]), (&json!(50), &json!(100)));
    let hold = json!({"amount": 5, "ttl_seconds": 600, "reason": "mine"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(&ada).send().await.ok(201);
    let path = format!("/v1/billing/holds/{}/release", hold["id"].as_str().unwrap());
    let released = api.post(&path, &json!({})).as_user(&ada).send().await;
    assert!((200..300).contains(&released.status), "{}", released.text());
    assert_eq!(own.named("hold.released").await.data["hold_id"], hold["id"]);
    let login = json!({"email": ada.email, "password": journeys::PASSWORD});
    let second = api.post("/v1/auth/login", &login).send().await.ok(200);
    let logout = json!({"refresh_token": second["refresh_token"]});
    api.post("/v1/auth/logout", &logout).send().await.ok(200);
    let ended = own.named("session.ended").await;
    assert_eq!(ended.data["reason"], "revoked");

    let acme = json!({"tenant_id": "acme", "name": "Acme"});
    api.post("/v1/tenants", &acme).as_user(&ada).send().await.ok(201);
    let login = json!({"email": ada.email, "password": journeys::PASSWORD, "tenant_id": "acme"});
    let tokens = api.post("/v1/auth/login", &login).send().await.ok(200);
    let owner = journeys::text(&tokens["access_token"]);
    let mut of_acme = api.get(STREAM).bearer(&owner).events().await;
    let invite = json!({"email": bob.email, "role": "developer"});
    let invitation = api.post("/v1/tenants/acme/invitations", &invite).bearer(&owner);
    let invitation = invitation.send().await.ok(201);
    let accept = json!({"token": super::tenants::link(&server, &invitation)});
    api.post("/v1/invitations/accept", &accept).as_user(&bob).send().await.ok(200);
    let joined = of_acme.named("member.changed").await;
    let expected = (&json!(bob.id), &json!("developer"));
    assert_eq!((&joined.data["user_id"], &joined.data["role"]), expected);
    let delete = api.request(hyper::Method::DELETE, "/v1/tenants/acme").bearer(&owner);
    delete.send().await.ok(200);
    assert_eq!(of_acme.until("closed").await.last().unwrap().data["reason"], "token_revoked");
    server.stop().await;
}

/// A reader that takes little at a time and, after the first bytes, nothing.
async fn stalled(server: &Server, tenant: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.running.address).await.unwrap();
    let head = format!(
        "GET {STREAM} HTTP/1.1\r\nhost: x\r\nx-service-token: {SERVICE_TOKEN}\r\n\
         x-tenant-id: {tenant}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_is_dropped_while_others_go_on() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user("ada").await;
    let tenant = user.id.replace("_u_", "_t_");
    let mut stream = stalled(&server, &tenant).await;
    let mut lively = read(api, &user).await;
    let body = json!({"action": "flood", "data": {"text": "x".repeat(4_000)}});
    let mut told = 0;
    let mut ticks = interval(Duration::from_millis(100));
    // More than the system keeps for a connection, then as long as it takes.
    loop {
        let count = if told < 2_000 { 50 } else { 1 };
        for _ in 0..count {
            publish(api, &tenant, &body).await;
        }
        for _ in 0..count {
            assert_eq!(lively.next().await.unwrap().name, "flood");
        }
        told += count;
        let stats = api.get("/v1/events/stats").service().send().await.ok(200);
        if stats["dropped"]["lagging"] == 1 {
            assert_eq!(stats["clients"], 1);
            break;
        }
        if told >= 2_000 {
            ticks.tick().await;
        }
    }
    // Once it reads again it is told why, and it is the end.
    let mut text = Vec::new();
    let mut part = vec![0; 1 << 16];
    while !text.ends_with(b"0\r\n\r\n") {
        let read = stream.read(&mut part).await.unwrap();
        assert!(read > 0, "the connection was cut");
        text.extend_from_slice(&part[..read]);
        text.drain(..text.len().saturating_sub(4_096));
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("event: closed\ndata: {\"reason\":\"lagging\"}\n\n"), "{text}");
    debit(api, &user).await;
    assert_eq!(names(&lively.until("wallet.changed").await), ["wallet.changed"]);
    server.stop().await;
}
