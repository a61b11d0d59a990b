//! Connections that do not get on: they are timed, and they do not hold the stop.

use std::time::Instant;

use gateway::connection::STALL_GRACE;
use journeys::{Server, User};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection that has said something, and goes on saying nothing.
async fn begun(server: &Server, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.running.address).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream
}

fn head(user: &User, more: &str) -> String {
    let token = &user.token;
    format!(
        "POST /v1/billing/debits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stalls_does_not_hold_the_stop() {
    let server = Server::start().await;
    let user = server.api.user("ada").await;
    let length = "content-type: application/json\r\ncontent-length: 40\r\n\r\n{\"amount\": 1,";
    let mut body = begun(&server, &head(&user, length)).await;
    let mut silent = [
        begun(&server, "").await,
        begun(&server, "PRI * HTTP/2.0").await,
        begun(&server, "GET /healthz HTTP/1.1\r\nhost:").await,
        begun(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
    ];
    // What was answered after them has been accepted after them; and in so many turns of the
    // threads the head that is there has been read.
    for _ in 0..50 {
        server.api.get("/healthz").send().await.ok(200);
    }
    let begun = Instant::now();
    server.stop().await;
    let took = begun.elapsed();
    assert!(took < 3 * STALL_GRACE, "the stop took {took:?}");
    let mut answer = Vec::new();
    // What it still sends meets a closed door: a reset may follow the answer.
    let _ = body.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("nothing was changed"), "{answer}");
    for stream in &mut silent {
        let mut rest = Vec::new();
        // Cut off or closed: it is over either way.
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_are_spoken_without_tls() {
    let server = Server::start().await;
    let mut plain = begun(&server, "G").await;
    let rest = "ET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    plain.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let stream = TcpStream::connect(server.running.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driven = tokio::spawn(connection);
    let url = format!("http://{}/healthz", server.running.address);
    let body = http_body_util::Empty::<hyper::body::Bytes>::new();
    let request = hyper::Request::get(url).body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (hyper::StatusCode::OK, hyper::Version::HTTP_2)
    );
    drop((response, sender));
    let _ = driven.await;
    server.stop().await;
}
