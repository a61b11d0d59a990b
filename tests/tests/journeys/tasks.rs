//! Tasks over HTTP: a call that is answered at once and goes on, shown, told, stopped and paid for,
//! with a host that takes as long as it likes and through a restart.

use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use hyper::Method;
use journeys::{Api, Server, User, WELCOME, background_document, text};
use serde_json::{Value, json};
use supervision::Home;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use types::{UserId, home_of};

/// What a task costs: the price and the fee.
const COST: i64 = 5;
/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(20);

/// What a host sees.
#[derive(Debug)]
enum Seen {
    /// A request's body.
    Asked(Value),
    /// Whoever asked has let go before it was answered.
    Closed,
}

async fn body_of(stream: &mut TcpStream) -> Option<Value> {
    let (mut bytes, mut part) = (Vec::new(), [0; 8_192]);
    loop {
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
        if let Some(body) = end.and_then(|end| serde_json::from_slice(&bytes[end + 4..]).ok()) {
            return Some(body);
        }
    }
}

async fn serve(mut stream: TcpStream, seen: UnboundedSender<Seen>) {
    while let Some(body) = body_of(&mut stream).await {
        let waits = body["params"]["mood"] == "waits";
        seen.send(Seen::Asked(body)).unwrap();
        if waits {
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
            let _ = seen.send(Seen::Closed);
            return;
        }
        let answer = r#"{"result": {"pages": 3}}"#;
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n";
        stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
    }
}

/// A host that answers, unless the param `mood` is `waits`.
async fn host() -> (String, UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/call", listener.local_addr().unwrap());
    let (send, receive) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, send.clone()));
        }
    });
    (url, receive)
}

async fn seen(host: &mut UnboundedReceiver<Seen>) -> Seen {
    tokio::time::timeout(LIMIT, host.recv()).await.unwrap().unwrap()
}

/// Makes somebody's app `press` with this host; tells its secret.
async fn press(api: &Api, user: &User, url: &str) -> String {
    let body = json!({"nickname": "press"});
    api.post("/v1/developer/register", &body).as_user(user).send().await.ok(200);
    api.deploy(user, "press", &background_document("press")).await;
    let body = json!({"host_url": url}).to_string();
    let set = api.request(Method::PUT, "/v1/developer/apps/press/host").json(body).as_user(user);
    text(&set.send().await.ok(200)["secret"])
}

async fn begin(api: &Api, user: &User, function: &str, params: Value) -> String {
    let body = json!({"function": function, "params": params});
    let call = api.post("/v1/extensions/press/call", &body).as_user(user).send().await.ok(200);
    assert_eq!(call["status"], "success", "{call}");
    text(&call["data"]["task_id"])
}

async fn shown(api: &Api, user: &User, id: &str) -> Value {
    api.get(&format!("/v1/tasks/{id}")).as_user(user).send().await.ok(200)
}

async fn ended(api: &Api, user: &User, id: &str) -> Value {
    let ended = async {
        loop {
            let task = shown(api, user, id).await;
            if !task["ended_at"].is_null() {
                return task;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.unwrap()
}

async fn server() -> Server {
    Server::start_with(|settings| settings.dev = true).await
}

/// A report of the host's, signed as the host was asked.
async fn report(api: &Api, id: &str, secret: &str, body: &Value) -> u16 {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (seconds, body) = (seconds.as_secs().to_string(), body.to_string());
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    let content = format!("page.{seconds}.{body}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), content.as_bytes());
    let report = api.request(Method::POST, &format!("/v1/tasks/{id}/progress")).json(body);
    let report = report.header("webhook-id", "page").header("webhook-timestamp", &seconds);
    let signature = format!("v1,{}", BASE64.encode(tag.as_ref()));
    report.header("webhook-signature", &signature).send().await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_begun_shown_told_stopped_and_costs_nothing_then() {
    let server = server().await;
    let api = &server.api;
    let (user, other) = (api.user("ada").await, api.user("bob").await);
    let (url, mut host) = host().await;
    let secret = press(api, &user, &url).await;
    let mut stream = api.get("/v1/events/stream").as_user(&user).events().await;
    let id = begin(api, &user, "copy", json!({"mood": "waits"})).await;
    assert!(id.starts_with("task_"), "{id}");
    let Seen::Asked(asked) = seen(&mut host).await else { panic!("it asks") };
    assert_eq!(asked["task_id"], id.as_str());
    assert!(asked["deadline_ms"].as_u64() > Some(30_000), "a task's step has longer: {asked}");
    let half = json!({"fraction": 0.5, "message": "page 2 of 4"});
    assert_eq!(report(api, &id, &secret, &half).await, 204);
    let wrong = format!("whsec_{}", BASE64.encode(&[1; 32]));
    assert_eq!(report(api, &id, &wrong, &half).await, 404);
    let unsigned = api.post(&format!("/v1/tasks/{id}/progress"), &half).send().await;
    unsigned.problem(401, "unauthorized");
    assert_eq!(stream.named("task_started").await.data["task_id"], id.as_str());
    assert_eq!(stream.named("task_progress").await.data["message"], "page 2 of 4");
    let active = api.get("/v1/tasks/active").as_user(&user).send().await.ok(200);
    assert_eq!((&active["count"], &active["max_concurrent_tasks"]), (&json!(1), &json!(3)));
    let task = &active["tasks"][0];
    assert_eq!((&task["status"], &task["progress"]["fraction"]), (&json!("running"), &json!(0.5)));
    assert_eq!(task["cost"], json!({"held": COST, "charged": 0, "released": 0}));

    for _ in 0..2 {
        begin(api, &user, "scan", json!({"mood": "waits"})).await;
    }
    let body = json!({"function": "copy"});
    let full = api.post("/v1/extensions/press/call", &body).as_user(&user).send().await;
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(full.problem(429, "too_many_tasks")["max_concurrent_tasks"], 3);
    let check = format!("/v1/tasks/internal/check-limit?user_id={}", user.id);
    let limit = api.get(&check).service().send().await.ok(200);
    assert_eq!((&limit["allowed"], &limit["active"]), (&json!(false), &json!(3)));
    api.get(&check).as_user(&user).send().await.problem(403, "forbidden");

    let foreign = api.get(&format!("/v1/tasks/{id}")).as_user(&other).send().await;
    foreign.problem(404, "not_found");
    let path = format!("/v1/tasks/{id}/cancel");
    api.post(&path, &json!({})).as_user(&other).send().await.problem(404, "not_found");
    let stopped = api.post(&path, &json!({})).as_user(&user).send().await.ok(200);
    assert_eq!(
        (&stopped["status"], &stopped["cancel_requested"]),
        (&json!("cancelled"), &json!(true))
    );
    assert_eq!(stopped["cost"], json!({"held": COST, "charged": 0, "released": COST}));
    let sent = json!([{"kind": "host", "app_id": "press", "function": "copy",
        "outcome": "unknown"}]);
    assert_eq!(stopped["done"]["sent"], sent, "{stopped}");
    let delete = api.request(Method::DELETE, &format!("/v1/tasks/{id}")).as_user(&user);
    assert_eq!(delete.send().await.ok(200), stopped, "once more is the same");
    loop {
        if matches!(seen(&mut host).await, Seen::Closed) {
            break;
        }
    }
    assert_eq!(stream.named("task_ended").await.data["status"], "cancelled");
    let items = api.get("/v1/tasks?limit=2").as_user(&user).send().await.ok(200);
    let cursor = text(&items["next_cursor"]);
    let rest = api.get(&format!("/v1/tasks?cursor={cursor}")).as_user(&user).send().await.ok(200);
    assert_eq!(rest["items"][0]["task_id"], id.as_str(), "{rest}");
    assert_eq!(
        items["items"].as_array().unwrap().len() + rest["items"].as_array().unwrap().len(),
        3
    );
    let theirs = format!("/v1/tasks?user_id={}", user.id);
    api.get(&theirs).as_user(&other).send().await.problem(403, "forbidden");
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ends_is_paid_and_one_that_a_restart_cut_off_is_lost_and_not() {
    let mut server = server().await;
    let api = server.api.clone();
    let user = api.user("ada").await;
    let (url, mut host) = host().await;
    press(&api, &user, &url).await;
    let done = begin(&api, &user, "copy", json!({})).await;
    let task = ended(&api, &user, &done).await;
    assert_eq!(
        (&task["status"], &task["answer"]["data"]["pages"]),
        (&json!("succeeded"), &json!(3))
    );
    let late = api.request(Method::DELETE, &format!("/v1/tasks/{done}")).as_user(&user);
    assert_eq!(late.send().await.problem(409, "task_ended")["state"], "succeeded");
    let here = begin(&api, &user, "stock", json!({"title": "Emma"})).await;
    assert_eq!(ended(&api, &user, &here).await["done"]["documents_written"], 1);
    let cut_off = begin(&api, &user, "scan", json!({"mood": "waits"})).await;
    while !matches!(seen(&mut host).await, Seen::Asked(body) if body["params"]["mood"] == "waits") {
    }
    server = server.restart().await;
    let api = server.api.clone();
    let task = ended(&api, &user, &cut_off).await;
    assert_eq!((&task["status"], &task["error_code"]), (&json!("lost"), &json!("outcome_unknown")));
    assert_eq!(task["cost"]["released"], COST);
    assert_eq!(shown(&api, &user, &done).await["status"], "succeeded");
    assert_eq!(api.settled_balance(&user).await, WELCOME.0 - 2 * COST);
    let verified = api.get("/v1/actions/verify").as_user(&user).send().await.ok(200);
    assert_eq!(verified["verified"], true, "{verified}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_is_under_way_and_stops_it_and_a_freeze_lists_tasks() {
    let server = server().await;
    let api = &server.api;
    let (user, operator) = (api.user("ada").await, api.operator().await);
    let (url, mut host) = host().await;
    press(api, &user, &url).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(begin(api, &user, "copy", json!({"mood": "waits"})).await);
        let _ = seen(&mut host).await;
    }
    let flights = "/v1/operator/flights";
    api.get(flights).as_user(&user).send().await.problem(403, "forbidden");
    let list = api.get(flights).as_user(&operator).send().await.ok(200);
    let first = &list["items"][0];
    assert_eq!((&list["total"], &first["id"]), (&json!(3), &json!(ids[0])), "{list}");
    assert_eq!((&first["kind"], &first["status"]), (&json!("task"), &json!("running")));
    assert_eq!((&first["app_id"], &first["function"]), (&json!("press"), &json!("copy")));
    let cancel = api.post(&format!("{flights}/{}/cancel", ids[0]), &json!({})).as_user(&operator);
    assert_eq!(cancel.send().await.ok(200)["outcome"], "cancelled");
    let path = format!("/v1/operator/tenants/{}/tasks/{}/cancel", user.id, ids[1]);
    let stop = || api.post(&path, &json!({"reason": "it hangs"})).as_user(&operator).send();
    let stopped = stop().await.ok(200);
    assert_eq!((&stopped["status"], stop().await.ok(200)), (&json!("cancelled"), stopped.clone()));
    let gone = api.post(&format!("{flights}/{}/cancel", ids[0]), &json!({})).as_user(&operator);
    gone.send().await.problem(404, "not_found");
    let home: Home = home_of(user.id.parse::<UserId>().unwrap().direct_tenant());
    let journal = server.running.app.system.journal();
    let records = journal.read_chain(home, 0, false, 10_000).unwrap();
    let acts = records.iter().filter(|it| it.header.stream.as_str().starts_with("operator_act/"));
    assert_eq!(acts.count(), 2, "each stop is noted once in the tenant's chain");

    let why = json!({"reason": "for the test"});
    let freeze = format!("/v1/operator/users/{}/freeze", user.id);
    let receipt = api.post(&freeze, &why).as_user(&operator).send().await.ok(200);
    let item = json!({"kind": "task", "id": ids[2], "outcome": "cancelled"});
    assert_eq!(receipt["receipt"]["items"], json!([item]), "{receipt}");
    let resume = format!("/v1/operator/users/{}/resume", user.id);
    api.post(&resume, &why).as_user(&operator).send().await.ok(200);
    let task = shown(api, &user, &ids[2]).await;
    assert_eq!((&task["status"], &task["error_code"]), (&json!("cancelled"), &json!("frozen")));
    assert_eq!(api.settled_balance(&user).await, WELCOME.0);
    server.stop().await;
}
