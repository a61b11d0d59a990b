//! The client against hosts that do whatever they like, and name servers that lie.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// More than any of these tests takes.
const LONG: Duration = Duration::from_secs(20);
/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_millis(300);

/// A name server that answers as it is told, one answer after the other.
#[derive(Default)]
struct Names {
    answers: Mutex<Vec<Vec<&'static str>>>,
    asked: Mutex<Vec<String>>,
}

impl LookUp for Arc<Names> {
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().push(name);
        let answer = self.answers.lock().pop();
        let found = answer.map(|it| it.iter().map(|address| address.parse().unwrap()).collect());
        Box::pin(async move { found.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

fn egress(private: bool, answers: &[&[&'static str]]) -> (Egress, Arc<Names>) {
    let names = Arc::new(Names::default());
    *names.answers.lock() = answers.iter().rev().map(|answer| answer.to_vec()).collect();
    let rules = Rules { private, ports: Vec::new() };
    (Egress::looking_up(rules, Arc::new(names.clone())), names)
}

fn post(url: &str, time: Duration) -> Post {
    Post {
        url: url.to_owned(),
        headers: vec![("webhook-id", "call_1".to_owned())],
        body: b"{}".to_vec(),
        answer_bytes_max: 1_000,
        ends: Instant::now() + time,
    }
}

/// A host whose connections are each given to `serve`, with what was sent first.
async fn host<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream, String) -> F + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4_096];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                serve(stream, String::from_utf8_lossy(&bytes[..count]).into_owned()).await;
            });
        }
    });
    address
}

/// A host that sends these bytes and then goes.
async fn saying(text: &'static str) -> SocketAddr {
    host(move |mut stream, _| async move {
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await
}

async fn said(text: &'static str) -> Result<Answered, PostError> {
    let (egress, _) = egress(true, &[]);
    egress.post(post(&format!("http://{}/call", saying(text).await), LONG)).await
}

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

#[tokio::test]
async fn a_name_that_leads_inside_is_not_reached() {
    for answer in [
        &["127.0.0.1"][..],
        &["169.254.169.254"],
        &["::ffff:10.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["2606:4700::1111", "192.168.0.1"],
        &["8.8.8.8", "::1"],
    ] {
        let (egress, names) = egress(false, &[answer]);
        let refused = egress.post(post("https://app.example/call", LONG)).await;
        assert!(matches!(refused, Err(PostError::Forbidden(_))), "{answer:?}: {refused:?}");
        assert_eq!(*names.asked.lock(), ["app.example"], "it is looked up once");
    }
    let (egress, names) = egress(false, &[]);
    for url in ["https://127.0.0.1/", "https://[::1]/", "http://app.example/", "https://u@a.b/"] {
        let refused = egress.post(post(url, LONG)).await;
        assert!(matches!(refused, Err(PostError::Forbidden(_))), "{url}: {refused:?}");
    }
    assert!(names.asked.lock().is_empty());
    let unknown = egress.post(post("https://app.example/", LONG)).await;
    assert!(matches!(unknown, Err(PostError::Unreachable(_))), "{unknown:?}");
}

#[tokio::test]
async fn what_was_looked_up_is_what_is_connected_to() {
    let body = "content-length: 2\r\n\r\n{}";
    let address = host(move |mut stream, sent| async move {
        let head = sent.to_ascii_lowercase();
        assert!(head.contains("host: app.example:"), "{head}");
        assert!(!head.contains("accept-encoding"), "{head}");
        let _ = stream.write_all(format!("{JSON}{body}").as_bytes()).await;
    })
    .await;
    // A second look-up would lead elsewhere.
    let (egress, names) = egress(true, &[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://app.example:{}/call", address.port());
    let answered = egress.post(post(&url, LONG)).await.unwrap();
    assert_eq!((answered.status, answered.body.as_slice()), (200, &b"{}"[..]));
    assert_eq!(names.asked.lock().len(), 1);
}

#[tokio::test]
async fn a_host_that_misbehaves_is_over_in_time() {
    let answered = said("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n").await;
    assert_eq!(answered.unwrap().status, 302, "a redirect is an answer, and not followed");
    for garbage in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let broken = said(garbage).await;
        assert!(matches!(broken, Err(PostError::Unanswered(_))), "{garbage:?}: {broken:?}");
    }
    let long = host(|mut stream, _| async move {
        let head = format!("{JSON}content-length: 1001\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&[b' '; 1_001]).await;
    });
    let (egress, _) = egress(true, &[]);
    let url = format!("http://{}/call", long.await);
    assert_eq!(egress.post(post(&url, LONG)).await, Err(PostError::AnswerTooLong(1_000)));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = egress.post(post(&format!("http://{closed}/"), LONG)).await;
    assert!(matches!(nobody, Err(PostError::Unreachable(_))), "{nobody:?}");
}

#[tokio::test]
async fn a_host_that_is_slow_is_cut_off_by_the_whole_exchanges_deadline() {
    let hangs = host(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let drips = host(|mut stream, _| async move {
        let _ = stream.write_all(format!("{JSON}content-length: 900\r\n\r\n").as_bytes()).await;
        while stream.write_all(b" ").await.is_ok() {
            // sleep: a host that drips is what is tested
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (egress, _) = egress(true, &[]);
    for address in [hangs.await, drips.await] {
        let begun = Instant::now();
        let url = format!("http://{address}/call");
        let cut_off = egress.post(post(&url, SHORT)).await;
        assert!(matches!(cut_off, Err(PostError::Unanswered(_))), "{cut_off:?}");
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
    }
}
