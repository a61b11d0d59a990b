//! Clients that go away in the middle of a call and come back with the same key: what was done is
//! done once, and they are told what came of it.

use futures::future::join_all;
use hyper::Method;
use journeys::{Server, User};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::hosts::{COST, Got, app, server};

/// Calls that are left at once.
const LEFT: usize = 40;

/// A host that answers how many calls it has taken, once it is let; tells each that it takes.
async fn host(let_go: watch::Receiver<bool>) -> (String, UnboundedReceiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/call", listener.local_addr().unwrap());
    let (send, receive) = unbounded_channel();
    tokio::spawn(async move {
        let mut taken = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            if Got::read(&mut stream).await.is_none() {
                continue;
            }
            taken += 1;
            send.send(taken).unwrap();
            let mut let_go = let_go.clone();
            tokio::spawn(async move {
                let_go.wait_for(|let_go| *let_go).await.unwrap();
                let body = json!({"result": {"said": taken}}).to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {length}\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, receive)
}

/// Sends a call and reads nothing.
async fn sent(server: &Server, user: &User, (app, key): (&str, &str), call: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(server.running.address).await.unwrap();
    let (body, token) = (call.to_string(), &user.token);
    let request = format!(
        "POST /v1/extensions/{app}/call HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {token}\r\n\
         idempotency-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\
         {body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn repeated(server: &Server, user: &User, (app, key): (&str, &str), call: &Value) -> Value {
    let path = format!("/v1/extensions/{app}/call");
    server.api.post(&path, call).as_user(user).key(key).send().await.ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_call_finds_its_outcome_with_the_same_key() {
    let server = server().await;
    let user = server.api.user("ada").await;
    let (let_go, is_let_go) = watch::channel(false);
    let (url, mut taken) = host(is_let_go).await;
    app(&server, &user, "echo", &url).await;
    let before = server.api.balance(&user).await;
    let call = json!({"function": "echo", "params": {}});
    let stream = sent(&server, &user, ("echo", "k1"), &call).await;
    assert_eq!(taken.recv().await, Some(1));
    drop(stream);
    // One that comes back while it is still under way waits for it, and calls nobody.
    let repeating = repeated(&server, &user, ("echo", "k1"), &call);
    let letting = async { let_go.send_replace(true) };
    let (answer, _) = tokio::join!(repeating, letting);
    assert_eq!((&answer["status"], &answer["data"]["said"]), (&json!("success"), &json!(1)));
    assert_eq!(repeated(&server, &user, ("echo", "k1"), &call).await, answer);
    assert!(taken.try_recv().is_err(), "the host was called once");
    assert_eq!(server.api.settled_balance(&user).await, before - COST);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_when_and_comes_back_it_is_done_once() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    server.api.shelf(&user, "shelf").await;
    let before = server.api.balance(&user).await;
    let add = |n: usize| json!({"function": "add_book", "params": {"title": format!("Book {n}")}});
    let keys: Vec<String> = (0..LEFT).map(|n| format!("k{n}")).collect();
    let leave = |n: usize| {
        let (server, user, key) = (&server, &user, &keys[n]);
        async move {
            let stream = sent(server, user, ("shelf", key), &add(n)).await;
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
            drop(stream);
            repeated(server, user, ("shelf", key), &add(n)).await
        }
    };
    for answer in join_all((0..LEFT).map(leave)).await {
        assert_eq!(answer["status"], "success", "{answer}");
    }
    let list = json!({"function": "books"});
    let path = "/v1/extensions/shelf/call";
    let listed = server.api.request(Method::POST, path).json(list.to_string()).as_user(&user);
    let listed = listed.send().await.ok(200);
    assert_eq!(listed["data"]["count"], 20, "the list is cut off: {listed}");
    // Every book costs 3, the list 2, and nothing was paid twice.
    assert_eq!(server.api.settled_balance(&user).await, before - 3 * LEFT as i64 - 2);
    server.stop().await;
}
