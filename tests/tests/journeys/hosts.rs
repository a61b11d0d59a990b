//! Apps whose functions run on their own hosts, which do as they like: each call is over in time,
//! paid for by the rule, and no other app's call waits for it.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use journeys::{Server, User, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a host has in these tests.
pub(super) const HOST_TIME: Duration = Duration::from_secs(2);
/// What a call costs: the price and the fee.
pub(super) const COST: i64 = 5;

/// One request as the host got it.
pub(super) struct Got {
    head: String,
    body: Vec<u8>,
}

impl Got {
    pub(super) async fn read(stream: &mut TcpStream) -> Option<Self> {
        let (mut bytes, mut part) = (Vec::new(), [0; 8_192]);
        loop {
            let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&part[..count]);
            let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length: usize = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |it| it.lines().next().unwrap().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(Self { head, body: bytes[end + 4..].to_vec() });
            }
        }
    }

    pub(super) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A header as it was sent; the head is in small letters, so that a signature is not here.
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap()
    }
}

/// What a host does by the param `mood`.
async fn act(stream: &mut TcpStream, got: &Got) -> Option<()> {
    let say = |status: &str, kind: &str, body: String| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let json = "application/json";
    let call = got.value();
    let well = json!({"result": {"said": call["params"]["say"], "by": call["entry"]}}).to_string();
    let answer = match call["params"]["mood"].as_str().unwrap_or_default() {
        "hangs" => std::future::pending().await,
        "resets" => return None,
        "drips" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(b" ").await.ok()?;
                // sleep: a host that drips is what is tested
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        "garbage" => "\u{7f}ELF garbage\r\n\r\n".to_owned(),
        "tells" => say("200 OK", json, json!({"result": call["secrets"]}).to_string()),
        "no_json" => say("200 OK", json, "<html>".to_owned()),
        "html" => say("200 OK", "text/html", well),
        "fails" => say("500 Oh no", json, well),
        "moved" => say("302 Found\r\nlocation: http://127.0.0.1:1/", json, well),
        "long" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                        content-length: 9000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            let part = vec![b' '; 1_000_000];
            for _ in 0..9 {
                stream.write_all(&part).await.ok()?;
            }
            return None;
        }
        _ => say("200 OK", json, well),
    };
    stream.write_all(answer.as_bytes()).await.ok()
}

/// Starts a host; tells its URL, and what it gets as `(webhook-id, head, body)`.
pub(super) async fn host() -> (String, tokio::sync::mpsc::UnboundedReceiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/call", listener.local_addr().unwrap());
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let send = send.clone();
            tokio::spawn(async move {
                while let Some(got) = Got::read(&mut stream).await {
                    let done = act(&mut stream, &got).await;
                    let _ = send.send(got);
                    if done.is_none() {
                        return;
                    }
                }
            });
        }
    });
    (url, receive)
}

pub(super) async fn server() -> Server {
    Server::start_with(|settings| {
        settings.dev = true;
        settings.host_timeout_s = HOST_TIME.as_secs();
    })
    .await
}

pub(super) fn document(app: &str) -> Value {
    let code = |name: &str, action: &str| {
        json!({"name": name, "action_type": action, "params_schema": {},
            "impl": {"kind": "code", "module": "main", "entry": name}})
    };
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Echo",
        "functions": [code("echo", "write"), code("peek", "read")]}})
}

/// Makes an app of somebody's with a host of its own; tells the key's secret.
pub(super) async fn app(server: &Server, user: &User, app: &str, url: &str) -> String {
    let api = &server.api;
    let body = json!({"nickname": format!("n-{app}")});
    api.post("/v1/developer/register", &body).as_user(user).send().await.ok(200);
    let body = json!({"app_id": app, "display_name": "Echo", "pricing_model": "per_action",
        "git_url": "https://example.com/echo.git", "pricing_config": {"default": COST - 1}});
    api.post("/v1/developer/apps", &body).as_user(user).send().await.ok(200);
    let params = json!({"app_id": app, "ir_dict": document(app)});
    let answer = api.built_in(user, "deploy_ir", &params).await;
    assert_eq!(answer["status"], "success", "{answer}");
    let path = format!("/v1/developer/apps/{app}/host");
    let body = json!({"host_url": url}).to_string();
    let set = api.request(hyper::Method::PUT, &path).json(body).as_user(user).send().await;
    assert_eq!(set.headers["cache-control"], "no-store");
    let set = set.ok(200);
    assert_eq!((&set["host_url"], &set["keys"][0]["number"]), (&json!(url), &json!(1)));
    assert_eq!(text(&set["manifest_digest"]).len(), 64);
    text(&set["secret"])
}

pub(super) async fn call(
    server: &Server,
    user: &User,
    app: &str,
    function: &str,
    params: Value,
) -> Value {
    let body = json!({"function": function, "params": params});
    let path = format!("/v1/extensions/{app}/call");
    server.api.post(&path, &body).as_user(user).send().await.ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_to_the_apps_own_host_signed_and_is_paid_for() {
    let server = server().await;
    let user = server.api.user("ada").await;
    let (url, mut gets) = host().await;
    let secret = app(&server, &user, "echo", &url).await;
    let before = server.api.balance(&user).await;
    let answer = call(&server, &user, "echo", "echo", json!({"say": "hello"})).await;
    assert_eq!((&answer["data"]["said"], &answer["data"]["by"]), (&json!("hello"), &json!("echo")));
    assert_eq!(server.api.settled_balance(&user).await, before - COST);

    let got = gets.recv().await.unwrap();
    let (body, id) = (got.value(), got.header("webhook-id").to_owned());
    assert_eq!((&body["app"], &body["module"]), (&json!("echo"), &json!("main")));
    assert_eq!(body["user"]["imperal_id"], user.id.as_str());
    assert!(text(&body["call_id"]).eq_ignore_ascii_case(&id));
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    let content = [
        format!("{}.{}.", text(&body["call_id"]), got.header("webhook-timestamp")).as_bytes(),
        &got.body,
    ]
    .concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &content);
    let signature = format!("v1,{}", BASE64.encode(tag.as_ref())).to_ascii_lowercase();
    assert_eq!(got.header("webhook-signature"), signature);

    let keys = "/v1/developer/apps/echo/host/keys";
    let made = server.api.post(keys, &json!({})).as_user(&user).send().await.ok(201);
    assert!(text(&made["secret"]) != secret && made["keys"][1]["ends_at"].is_string(), "{made}");
    call(&server, &user, "echo", "peek", json!({})).await;
    let got = gets.recv().await.unwrap();
    assert_eq!(got.header("webhook-signature").split(' ').count(), 2);
    assert_eq!(got.header("bailiwick-key"), "2 1");
    let shown = server.api.get("/v1/developer/apps/echo/host").as_user(&user).send().await.ok(200);
    assert!(shown["secret"].is_null() && shown["keys"].as_array().unwrap().len() == 2, "{shown}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_misbehaves_costs_nothing_and_nobody_elses_time() {
    let server = server().await;
    let (ada, bob) = (server.api.user("ada").await, server.api.user("bob").await);
    let (url, _gets) = host().await;
    app(&server, &ada, "echo", &url).await;
    app(&server, &bob, "well", &url).await;
    let before = server.api.balance(&ada).await;
    let moods =
        [("hangs", "in time"), ("drips", "in time"), ("resets", "broke"), ("garbage", "broke")];
    for (mood, why) in moods {
        let begun = Instant::now();
        let calling = call(&server, &ada, "echo", "echo", json!({"mood": mood}));
        let healthy = async {
            let begun = Instant::now();
            let answer = call(&server, &bob, "well", "echo", json!({"say": 1})).await;
            (answer, begun.elapsed())
        };
        let (failed, (answer, took)) = tokio::join!(calling, healthy);
        assert!(failed["error"].as_str().unwrap().contains(why), "{mood}: {failed}");
        assert_eq!(answer["data"]["said"], 1, "{answer}");
        assert!(took < HOST_TIME, "{mood} slowed another app: {took:?}");
        assert!(begun.elapsed() < HOST_TIME * 5, "{mood} took {:?}", begun.elapsed());
    }
    // One success, or the row of failures would open the circuit.
    for mood in ["", "no_json", "html", "fails", "moved", "long"] {
        let answer = call(&server, &ada, "echo", "echo", json!({"mood": mood})).await;
        let status = if mood.is_empty() { "success" } else { "error" };
        assert_eq!(answer["status"], status, "{mood}: {answer}");
    }
    assert_eq!(server.api.settled_balance(&ada).await, before - COST);
    let figures = server.api.get("/metrics").send().await.text();
    assert!(figures.contains("bailiwick_hosts_unknown_total 4"), "{figures}");
    let actions = server.api.get("/v1/actions?app_id=echo&per_page=50").as_user(&ada);
    let actions = actions.send().await.ok(200).to_string();
    assert_eq!(actions.matches("outcome_unknown").count(), 4, "{actions}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_only_this_network_reaches_is_refused_without_dev() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    server.api.shelf(&user, "shelf").await;
    let path = "/v1/developer/apps/shelf/host";
    for url in ["http://example.com/", "https://127.0.0.1/", "https://u@example.com/", ""] {
        let body = json!({"host_url": url}).to_string();
        let put = server.api.request(hyper::Method::PUT, path).json(body).as_user(&user);
        let refused = put.send().await.ok(422);
        assert_eq!(refused["details"][0]["field"], "host_url", "{refused}");
    }
    let keys = server.api.post(&format!("{path}/keys"), &json!({})).as_user(&user);
    assert_eq!(keys.send().await.ok(409)["error"], "no_host");
    server.stop().await;
}
