//! Tasks that run when the server is killed: whatever each of them was at, it ends once. What ran
//! in the server is done after the restart, what may have acted outside is lost, and what was held
//! for it is taken or given back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hyper::Method;
use journeys::child::ServerProcess;
use journeys::{Answer, Api, User, background_document, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Random;

const ROUNDS: usize = 3;
/// Users, each with as many tasks as a built-in role allows.
const USERS: usize = 4;
/// What each of them begins: in the server, on a host that answers, on one that does not.
const BEGUN: [(&str, &str); 3] = [("stock", ""), ("copy", ""), ("scan", "waits")];
/// How long tasks may take to end after a restart.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// Serves one connection of an app's host: it answers, unless the param `mood` is `waits`.
async fn serve(mut stream: TcpStream) {
    let (mut bytes, mut part) = (Vec::new(), [0; 8_192]);
    loop {
        let Ok(count @ 1..) = stream.read(&mut part).await else { return };
        bytes.extend_from_slice(&part[..count]);
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
        let body = end.and_then(|end| serde_json::from_slice::<Value>(&bytes[end + 4..]).ok());
        let Some(body) = body else { continue };
        bytes.clear();
        if body["params"]["mood"] == "waits" {
            while stream.read(&mut part).await.is_ok_and(|count| count > 0) {}
            return;
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 24\
                      \r\n\r\n{\"result\": {\"pages\": 3}}";
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn host() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/call", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

async fn begin(api: &Api, user: &User, (round, number): (usize, usize)) -> Result<Answer, String> {
    let (function, mood) = BEGUN[number];
    let params = json!({"title": format!("Volume {round}"), "mood": mood});
    let body = json!({"function": function, "params": params});
    let call = api.post("/v1/extensions/press/call", &body).as_user(user);
    call.key(&format!("{round}-{number}")).try_send().await
}

async fn tasks(api: &Api, user: &User) -> Vec<Value> {
    let list = api.get("/v1/tasks?limit=100").as_user(user).send().await.ok(200);
    list["items"].as_array().unwrap().clone()
}

/// Begins all tasks at once, until the process is killed; what was answered, by user and number.
async fn storm(
    process: ServerProcess,
    (api, users): (&Api, &[User]),
    (round, answers): (usize, u64),
) -> BTreeMap<(usize, usize), Answer> {
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let each = (0..users.len()).flat_map(|user| (0..BEGUN.len()).map(move |it| (user, it)));
    let begun: Vec<_> = each
        .map(|(user, number)| {
            let (api, of, sender) = (api.clone(), users[user].clone(), sender.clone());
            tokio::spawn(async move {
                let answer = begin(&api, &of, (round, number)).await;
                let _ = sender.send(());
                (answer.ok(), (user, number))
            })
        })
        .collect();
    for _ in 0..answers {
        arrived.recv().await.unwrap();
    }
    drop(process);
    let answered = join_all(begun).await.into_iter().map(Result::unwrap);
    answered.filter_map(|(answer, of)| Some((of, answer?))).collect()
}

/// Waits until nothing goes on but what waits for its host, and stops that.
async fn end_all(api: &Api, user: &User) {
    let begun = Instant::now();
    loop {
        let open = tasks(api, user).await.into_iter().filter(|task| task["ended_at"].is_null());
        let (waiting, others): (Vec<_>, Vec<_>) = open.partition(|task| task["function"] == "scan");
        for task in &waiting {
            let path = format!("/v1/tasks/{}", text(&task["task_id"]));
            let stop = api.request(Method::DELETE, &path).as_user(user).send().await;
            assert!(matches!(stop.status, 200 | 409), "{}", stop.text());
        }
        if others.is_empty() && waiting.is_empty() {
            return;
        }
        assert!(begun.elapsed() < ENDED_WITHIN, "{waiting:?} {others:?}");
        tokio::task::yield_now().await;
    }
}

/// Everything that a user began has ended once, and is paid for or not.
async fn audit(api: &Api, user: &User, rounds: usize, balance: i64) {
    let (all, mut charged) = (tasks(api, user).await, 0);
    assert_eq!(all.len(), rounds * BEGUN.len(), "{all:?}");
    for task in &all {
        let cost = ["held", "charged", "released"].map(|it| task["cost"][it].as_i64().unwrap());
        assert_eq!(cost[0], cost[1] + cost[2], "{task}");
        let ends: &[&str] = match task["function"].as_str().unwrap() {
            "stock" => &["succeeded"],
            "copy" => &["succeeded", "lost"],
            _ => &["cancelled", "lost"],
        };
        assert!(ends.contains(&task["status"].as_str().unwrap()), "{task}");
        assert_eq!(task["status"] == "succeeded", cost[1] > 0, "{task}");
        charged += cost[1];
    }
    // A kill between a hold and its task leaves the hold to its time: what was taken counts.
    let begun = Instant::now();
    while api.balance(user).await != balance - charged {
        assert!(begun.elapsed() < ENDED_WITHIN, "{charged} of {balance} were charged");
        tokio::task::yield_now().await;
    }
    let ledger = api.ledger(user).await;
    let paid: i64 = ledger.iter().map(|it| it["amount"].as_i64().unwrap()).sum();
    assert_eq!(paid, balance - charged);
    let chain = api.get("/v1/actions/verify").as_user(user).send().await.ok(200);
    assert_eq!(chain["verified"], true, "{chain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_run_when_the_server_is_killed_end_once_and_are_paid_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let (process, api) = ServerProcess::start(folder.path(), &[]).await;
    let mut users = Vec::new();
    for name in ["ada", "bob", "cyd", "dan"] {
        users.push(api.user(name).await);
    }
    assert_eq!(users.len(), USERS);
    let ada = &users[0];
    let body = json!({"nickname": "press"});
    api.post("/v1/developer/register", &body).as_user(ada).send().await.ok(200);
    api.deploy(ada, "press", &background_document("press")).await;
    let host = json!({"host_url": host().await}).to_string();
    let set = api.request(Method::PUT, "/v1/developer/apps/press/host").json(host).as_user(ada);
    set.send().await.ok(200);
    api.post("/v1/admin/apps/press/approve", &json!({})).service().send().await.ok(200);
    let mut balances = Vec::new();
    for user in &users {
        balances.push(api.settled_balance(user).await);
    }
    assert!(process.stop(), "the server did not stop in order");
    let mut random = Random::from_environment();
    for round in 0..ROUNDS {
        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        let answers = random.between((1, (USERS * BEGUN.len()) as u64));
        let answered = storm(process, (&api, &users), (round, answers)).await;

        let (process, api) = ServerProcess::start(folder.path(), &[]).await;
        for (which, user) in users.iter().enumerate() {
            for number in 0..BEGUN.len() {
                let again = begin(&api, user, (round, number)).await.unwrap();
                let id = again.ok(200)["data"]["task_id"].clone();
                assert!(id.is_string(), "{}", again.text());
                if let Some(first) = answered.get(&(which, number)) {
                    assert_eq!(first.ok(200)["data"]["task_id"], id, "the same key, the same task");
                }
            }
            end_all(&api, user).await;
            audit(&api, user, round + 1, balances[which]).await;
        }
        assert!(process.stop(), "the server did not stop in order");
    }
    let args = gateway::verify::VerifyArgs::folder(folder.path().to_owned());
    gateway::verify::run(&args).await.unwrap();
}
