//! Apps that are called from outside: by anybody, as the app declares, paid by its developer or by
//! the tenant whose install key stands in the address.

use control::app::{App, SetStatus, Status};
use hyper::Method;
use journeys::{Answer, Api, Call, Server, User, text};
use serde_json::{Value, json};
use supervision::Address;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use types::AppId;

use super::hosts::Got;

/// What a delivery costs: the price and the fee.
const COST: i64 = 5;

/// A host that answers what the header `x-answer` of a delivery says, as the function's result; an
/// error for `fail`. Tells the params that it was handed.
async fn host() -> (String, UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/call", listener.local_addr().unwrap());
    let (send, receive) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let send = send.clone();
            tokio::spawn(async move {
                while let Some(got) = Got::read(&mut stream).await {
                    let params = got.value()["params"].clone();
                    let wish = params["headers"]["x-answer"].as_str().unwrap_or("null").to_owned();
                    let body = match wish.as_str() {
                        "fail" => json!({"error": "what went wrong inside"}),
                        wish => {
                            json!({"result": serde_json::from_str::<Value>(wish).unwrap()})
                        }
                    };
                    let (body, _) = (body.to_string(), send.send(params));
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: \
                         {length}\r\n\r\n{body}"
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, receive)
}

fn document(app: &str) -> Value {
    let note = json!({"kind": "declarative", "steps": [{"id": "put", "op": "store.create",
        "args": {"kind": "note", "data": {"body": "{{args.body}}"}}}]});
    let notes = json!({"kind": "declarative", "steps": [{"id": "all", "op": "store.list",
        "args": {"kind": "note"}}]});
    let code = json!({"kind": "code", "module": "main", "entry": "handle"});
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Inbox",
        "webhooks": [{"path": "note", "methods": ["POST", "PUT"], "function": "note"},
            {"path": "hosted", "methods": ["GET", "POST"], "function": "handle"}],
        "functions": [
            {"name": "note", "action_type": "write", "params_schema": {}, "impl": note},
            {"name": "notes", "action_type": "read", "params_schema": {}, "impl": notes},
            {"name": "handle", "action_type": "write", "params_schema": {}, "impl": code}]}})
}

async fn deploy(api: &Api, user: &User, app: &str, host: Option<&str>) {
    let body = json!({"nickname": format!("n-{app}")});
    api.post("/v1/developer/register", &body).as_user(user).send().await.ok(200);
    let body = json!({"app_id": app, "display_name": "Inbox", "pricing_model": "per_action",
        "git_url": "https://example.com/inbox.git",
        "pricing_config": {"default": COST - 1, "functions": {"notes": 0}}});
    api.post("/v1/developer/apps", &body).as_user(user).send().await.ok(200);
    let params = json!({"app_id": app, "ir_dict": document(app)});
    let answer = api.built_in(user, "deploy_ir", &params).await;
    assert_eq!(answer["status"], "success", "{answer}");
    if let Some(url) = host {
        let (path, body) = (format!("/v1/developer/apps/{app}/host"), json!({"host_url": url}));
        let set = api.request(Method::PUT, &path).json(body.to_string()).as_user(user);
        set.send().await.ok(200);
    }
}

/// What a reviewer does.
async fn activate(server: &Server, app: &str) {
    let (system, id) = (&server.running.app.system, AppId::new(app).unwrap());
    let address: Address<App> =
        Address::from_place(system.locate("app", id.as_str()).unwrap()).unwrap();
    let active = SetStatus { status: Status::Active, reason: None };
    system.directory::<App>().ask(&address, active, system.system_origin()).await.unwrap();
    server.running.app.extensions.apps().forget(&id);
}

fn hook(server: &Server, method: Method, path: &str) -> Call {
    server.api.request(method, &format!("/v1/ext/{path}"))
}

fn post(server: &Server, path: &str, body: &str) -> Call {
    hook(server, Method::POST, path).body("text/plain", body.to_owned())
}

/// The bodies of the notes that belong to nobody in particular of a tenant.
async fn notes(server: &Server, user: &User, app: &str) -> Vec<String> {
    let path = format!("/v1/extensions/{app}/call");
    let call = server.api.post(&path, &json!({"function": "notes"})).service();
    let listed = call.header("x-tenant-id", &user.id).send().await.ok(200);
    let docs = listed["data"]["docs"].as_array().unwrap().iter();
    docs.map(|doc| text(&doc["data"]["body"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_runs_as_declared_and_its_developer_pays() {
    let server = Server::start().await;
    let ada = server.api.user("ada").await;
    deploy(&server.api, &ada, "inbox", None).await;
    let before = server.api.settled_balance(&ada).await;
    let taken = post(&server, "inbox/webhook/note?x=1", "hello").send().await;
    assert_eq!(taken.ok(200), json!({"status": "ok"}), "what it answered is not told");
    assert_eq!(taken.headers["content-security-policy"], "default-src 'none'; sandbox");
    let limit = taken.headers["ratelimit"].to_str().unwrap();
    assert!(limit.contains("\"webhook-app\";r=599"), "{limit}");
    hook(&server, Method::PUT, "inbox/webhook/note").send().await.ok(200);
    assert_eq!(notes(&server, &ada, "inbox").await, ["hello", ""]);
    // The list costs the fee.
    assert_eq!(server.api.settled_balance(&ada).await, before - 2 * COST - 1);
    let actions = server.api.get("/v1/actions?app_id=inbox&per_page=50").as_user(&ada);
    let actions = actions.send().await.ok(200).to_string();
    assert!(actions.contains("webhook/inbox"), "{actions}");

    for (method, path) in [
        (Method::POST, "inbox/webhook/other"),
        (Method::POST, "no-such/webhook/note"),
        (Method::POST, "inbox/webhook/x/note"),
        (Method::POST, "Inbox!/webhook/note"),
    ] {
        hook(&server, method, path).send().await.problem(404, "not_found");
    }
    let wrong = hook(&server, Method::DELETE, "inbox/webhook/note").send().await;
    wrong.problem(405, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST, PUT");
    let long = post(&server, "inbox/webhook/note", &"x".repeat(1024 * 1024 + 1)).send().await;
    long.problem(413, "body_too_large");
    assert_eq!(notes(&server, &ada, "inbox").await.len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_handed_the_request_and_answers_it() {
    let server = Server::start_with(|settings| settings.dev = true).await;
    let ada = server.api.user("ada").await;
    let (url, mut gets) = host().await;
    deploy(&server.api, &ada, "inbox", Some(&url)).await;
    let wish = json!({"status_code": 202, "body": "got it", "headers":
        {"content-type": "text/html", "set-cookie": "a=b", "location": "/", "etag": "\"1\""}});
    let sent = post(&server, "inbox/webhook/hosted?a=1&a=2&b=x%20y", "{\"raw\": 1 }")
        .header("x-answer", &wish.to_string())
        .header("x-signature", "v1,abc")
        .header("cookie", "session=1")
        .header("authorization", "Bearer their-own")
        .header("x-service-token", journeys::SERVICE_TOKEN);
    let answer = sent.send().await;
    assert_eq!((answer.status, answer.text().as_str()), (202, "got it"));
    assert_eq!(answer.headers["content-type"], "text/html");
    assert_eq!(answer.headers["etag"], "\"1\"");
    assert!(!answer.headers.contains_key("set-cookie"));
    assert!(!answer.headers.contains_key("location"));
    let got = gets.recv().await.unwrap();
    assert_eq!((&got["method"], &got["path"]), (&json!("POST"), &json!("hosted")));
    assert_eq!((&got["body"], &got["is_base64"]), (&json!("{\"raw\": 1 }"), &json!(false)));
    assert_eq!(got["query"], json!({"a": "2", "b": "x y"}));
    assert_eq!(got["query_string"], "a=1&a=2&b=x%20y");
    assert_eq!(got["headers"]["x-signature"], "v1,abc");
    assert_eq!(got["headers"]["authorization"], "Bearer their-own");
    for ours in ["cookie", "x-service-token"] {
        assert!(got["headers"][ours].is_null(), "{ours}: {got}");
    }
    let own = post(&server, "inbox/webhook/hosted", "").as_user(&ada).send().await;
    own.ok(200);
    assert!(gets.recv().await.unwrap()["headers"]["authorization"].is_null());
    let bytes = hook(&server, Method::POST, "inbox/webhook/hosted");
    bytes.body("application/octet-stream", vec![0xff, 0]).send().await.ok(200);
    let got = gets.recv().await.unwrap();
    assert_eq!((&got["body"], &got["is_base64"]), (&json!("/wA="), &json!(true)));

    let before = server.api.settled_balance(&ada).await;
    let failed = post(&server, "inbox/webhook/hosted", "").header("x-answer", "fail");
    let failed = failed.send().await;
    assert_eq!(failed.ok(502), json!({"status": "failed"}), "why is not told");
    assert_eq!(server.api.settled_balance(&ada).await, before, "a failure costs nothing");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_succeeded_is_carried_out_once_and_what_failed_is_tried_again() {
    let server = Server::start_with(|settings| settings.dev = true).await;
    let ada = server.api.user("ada").await;
    let (url, mut gets) = host().await;
    deploy(&server.api, &ada, "inbox", Some(&url)).await;
    let send = |id: &str, body: &str, wish: &str| {
        let sent = post(&server, "inbox/webhook/hosted", body).header("webhook-id", id);
        sent.header("x-answer", wish).send()
    };
    assert_eq!(send("msg_1", "a", "fail").await.status, 502);
    let wish = json!({"status_code": 201, "body": {"n": 1}}).to_string();
    let first = send("msg_1", "a", &wish).await;
    let again = send("msg_1", "a", "fail").await;
    assert_eq!((first.status, first.ok(201)), (again.status, again.ok(201)));
    send("msg_1", "another body", &wish).await.ok(201);
    for _ in 0..3 {
        gets.recv().await.unwrap();
    }
    assert!(gets.try_recv().is_err(), "one failed, two were carried out, one was repeated");
    let keyed = |body: &str| post(&server, "inbox/webhook/note", body).key("k1").send();
    keyed("a").await.ok(200);
    keyed("a").await.ok(200);
    keyed("b").await.problem(422, "idempotency_key_reused");
    assert_eq!(notes(&server, &ada, "inbox").await, ["a"]);
    let both = futures::future::join_all((0..8).map(|_| {
        let sent = post(&server, "inbox/webhook/note", "race").header("webhook-id", "msg_2");
        sent.send()
    }));
    assert!(both.await.iter().all(|answer| answer.status == 200));
    assert_eq!(notes(&server, &ada, "inbox").await, ["a", "race"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_address_empties_no_wallet() {
    let server = Server::start_with(|settings| settings.webhook_app_rate = 4).await;
    let ada = server.api.user("ada").await;
    deploy(&server.api, &ada, "inbox", None).await;
    for _ in 0..4 {
        post(&server, "inbox/webhook/note", "x").send().await.ok(200);
    }
    let refused = post(&server, "inbox/webhook/note", "x").send().await;
    let told = refused.problem(429, "rate_limited");
    assert_eq!(told["limit"], "webhook-app");
    assert!(refused.headers.contains_key("retry-after"));
    let policy = refused.headers["ratelimit-policy"].to_str().unwrap();
    assert!(policy.contains("\"webhook-app\";q=4;w=60"), "{policy}");
    assert!(refused.headers["ratelimit"].to_str().unwrap().contains("\"webhook-app\";r=0"));
    // Another app of another developer is let in all the same.
    deploy(&server.api, &server.api.user("bob").await, "other", None).await;
    post(&server, "other/webhook/note", "x").send().await.ok(200);
    server.stop().await;
}

/// Two payers of one app: what one of them has used up leaves the other alone.
async fn two_payers(server: &Server) -> (User, User, String) {
    let (ada, bob) = (server.api.user("ada").await, server.api.user("bob").await);
    deploy(&server.api, &ada, "inbox", None).await;
    activate(server, "inbox").await;
    let key = text(&install(server, &bob, "inbox").await["key"]);
    (ada, bob, format!("inbox/webhook/{key}/note"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_payer_has_a_rate_of_its_own() {
    let server = Server::start_with(|settings| settings.webhook_app_rate = 3).await;
    let (ada, bob, of_bob) = two_payers(&server).await;
    for path in ["inbox/webhook/note", &of_bob] {
        for _ in 0..3 {
            post(&server, path, "x").send().await.ok(200);
        }
        let refused = post(&server, path, "x").send().await.problem(429, "rate_limited");
        assert_eq!(refused["limit"], "webhook-app");
    }
    for user in [&ada, &bob] {
        assert_eq!(notes(&server, user, "inbox").await.len(), 3);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_cost_a_payer_so_much_a_day_and_no_more() {
    let server = Server::start_with(|settings| settings.webhook_credits_a_day = 2 * COST).await;
    let (ada, bob, of_bob) = two_payers(&server).await;
    let api = &server.api;
    let before = api.settled_balance(&ada).await;
    let send = async |path: &str| -> Answer { post(&server, path, "x").send().await };
    for _ in 0..2 {
        send("inbox/webhook/note").await.ok(200);
    }
    let refused = send("inbox/webhook/note").await;
    let told = refused.problem(429, "webhook_limit_reached");
    assert_eq!(told["limit"], "webhook:inbox/day");
    assert!(told["balance"].is_null() && told["spending_limit"].is_null(), "{told}");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=24 * 60 * 60).contains(&wait), "{wait}");
    assert_eq!(api.settled_balance(&ada).await, before - 2 * COST);
    // It is one of the payer's limits, and only deliveries meet it.
    let limits = api.get("/v1/billing/limits").as_user(&ada).send().await.ok(200);
    let limit = &limits[0];
    assert_eq!((&limit["subject"], &limit["window"]), (&json!("webhook:inbox"), &json!("day")));
    let figures = ["amount", "spent", "remaining"].map(|name| limit[name].as_i64().unwrap());
    assert_eq!(figures, [2 * COST, 2 * COST, 0]);
    let call = json!({"function": "note", "params": {"body": "by hand"}});
    let call = api.post("/v1/extensions/inbox/call", &call).as_user(&ada).send().await;
    assert_eq!(call.ok(200)["status"], "success");
    send(&of_bob).await.ok(200);
    // Whoever pays lets more through, or none.
    let put = async |user: &User, amount: i64| {
        let path = "/v1/billing/limits/webhook:inbox/day";
        let put = api.request(Method::PUT, path).json(json!({"amount": amount}).to_string());
        put.as_user(user).send().await.ok(200)
    };
    put(&ada, 3 * COST).await;
    send("inbox/webhook/note").await.ok(200);
    assert_eq!(send("inbox/webhook/note").await.status, 429);
    put(&bob, 0).await;
    assert_eq!(send(&of_bob).await.status, 429);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cannot_pay_or_is_stopped_is_the_same_503() {
    let server = Server::start().await;
    let ada = server.api.user("ada").await;
    deploy(&server.api, &ada, "inbox", None).await;
    let held = server.api.balance(&ada).await;
    let hold = json!({"amount": 500, "ttl_seconds": 600, "reason": "all that can be spent"});
    server.api.post("/v1/billing/holds", &hold).as_user(&ada).send().await.ok(201);
    let poor = post(&server, "inbox/webhook/note", "x").send().await;
    let told = poor.problem(503, "webhook_unavailable");
    assert!(told["balance"].is_null() && told["price"].is_null(), "{told}");
    assert_eq!(poor.headers["retry-after"], "60");
    assert_eq!(server.api.balance(&ada).await, held);
    server.stop().await;
}

async fn install(server: &Server, user: &User, app: &str) -> Value {
    let path = format!("/v1/extensions/{app}/install-keys");
    let made = server.api.post(&path, &json!({"name": "payments"})).as_user(user).send().await;
    assert_eq!(made.headers["cache-control"], "no-store");
    made.ok(201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_key_names_the_tenant_that_runs_and_pays() {
    let server = Server::start().await;
    let (ada, bob) = (server.api.user("ada").await, server.api.user("bob").await);
    deploy(&server.api, &ada, "inbox", None).await;
    let keys = "/v1/extensions/inbox/install-keys";
    let hidden = server.api.post(keys, &json!({})).as_user(&bob).send().await;
    hidden.problem(404, "not_found");
    activate(&server, "inbox").await;
    let made = install(&server, &bob, "inbox").await;
    let (key, id) = (text(&made["key"]), text(&made["id"]));
    assert!(key.starts_with("bw_hook_") && key.starts_with(&text(&made["key_prefix"])));
    assert!(text(&made["webhook_base"]).ends_with(&format!("/v1/ext/inbox/webhook/{key}/")));
    let before = (server.api.balance(&ada).await, server.api.balance(&bob).await);
    let path = format!("inbox/webhook/{key}/note");
    let send = async |path: &str| -> Answer { post(&server, path, "for bob").send().await };
    send(&path).await.ok(200);
    assert_eq!(server.api.settled_balance(&bob).await, before.1 - COST);
    assert_eq!(server.api.settled_balance(&ada).await, before.0);
    assert_eq!(notes(&server, &bob, "inbox").await, ["for bob"]);
    assert_eq!(notes(&server, &ada, "inbox").await, [""; 0]);

    let listed = server.api.get(keys).as_user(&bob).send().await.ok(200);
    assert!(listed[0]["key"].is_null() && listed[0]["id"] == id.as_str(), "{listed}");
    assert!(!listed.to_string().contains(&key));
    let of_ada = server.api.get(keys).as_user(&ada).send().await.ok(200);
    assert_eq!(of_ada, json!([]));
    // Not for another app, not revoked by another tenant, not in the records.
    deploy(&server.api, &bob, "other", None).await;
    send(&format!("other/webhook/{key}/note")).await.problem(404, "not_found");
    let revoke = |user: &User| {
        server.api.request(Method::DELETE, &format!("{keys}/{id}")).as_user(user).send()
    };
    revoke(&ada).await.problem(404, "not_found");
    let actions = server.api.get("/v1/actions?per_page=100").as_user(&bob).send().await.text();
    assert!(!actions.contains(&key));
    assert_eq!(revoke(&bob).await.status, 204);
    send(&path).await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_install_key_is_good_no_more_even_after_a_restart() {
    let server = Server::start().await;
    let ada = server.api.user("ada").await;
    deploy(&server.api, &ada, "inbox", None).await;
    let (one, two) = (install(&server, &ada, "inbox").await, install(&server, &ada, "inbox").await);
    let path = |key: &Value| format!("inbox/webhook/{}/note", text(&key["key"]));
    let server = server.restart().await;
    post(&server, &path(&one), "x").send().await.ok(200);
    let keys = format!("/v1/extensions/inbox/install-keys/{}", text(&one["id"]));
    let revoked = server.api.request(Method::DELETE, &keys).as_user(&ada).send().await;
    assert_eq!(revoked.status, 204);
    post(&server, &path(&one), "x").send().await.problem(404, "not_found");
    let server = server.restart().await;
    post(&server, &path(&one), "x").send().await.problem(404, "not_found");
    post(&server, &path(&two), "x").send().await.ok(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apps_health_is_what_is_known_of_it() {
    let server = Server::start_with(|settings| settings.dev = true).await;
    let ada = server.api.user("ada").await;
    let (url, mut gets) = host().await;
    deploy(&server.api, &ada, "inbox", Some(&url)).await;
    let health = || hook(&server, Method::GET, "inbox/health").send();
    health().await.problem(404, "not_found");
    activate(&server, "inbox").await;
    let told = health().await.ok(200);
    assert_eq!((&told["status"], &told["circuit"]), (&json!("unknown"), &json!("closed")));
    assert!(gets.try_recv().is_err(), "a stranger's question calls no host");
    post(&server, "inbox/webhook/hosted", "").send().await.ok(200);
    let told = health().await.ok(200);
    assert_eq!((&told["status"], &told["version"]), (&json!("healthy"), &json!("1.0.0")));
    assert!(told["last_success_at"].is_string() && told["last_failure_at"].is_null(), "{told}");
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let body = json!({"host_url": url}).to_string();
    let set = server.api.request(Method::PUT, "/v1/developer/apps/inbox/host").json(body);
    set.as_user(&ada).send().await.ok(200);
    for _ in 0..5 {
        assert_eq!(post(&server, "inbox/webhook/hosted", "").send().await.status, 502);
    }
    let told = health().await.ok(200);
    assert_eq!((&told["status"], &told["circuit"]), (&json!("unavailable"), &json!("open")));
    assert!(!told.to_string().contains(&ada.id));
    // Nothing is sent, and nothing held: whoever calls is told when to come back.
    let refused = post(&server, "inbox/webhook/hosted", "").send().await;
    refused.problem(503, "app_unavailable");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    let call = json!({"function": "handle"});
    let call = server.api.post("/v1/extensions/inbox/call", &call).as_user(&ada).send().await;
    call.problem(503, "app_unavailable");
    assert!(call.headers.contains_key("retry-after"));
    let holds = server.api.get("/v1/billing/holds").as_user(&ada).send().await.ok(200);
    assert_eq!(holds, json!([]));
    server.stop().await;
}
