//! The server loop: it takes connections in, as many as there is room for, and as many of one
//! address as that may have; the rest is [`connection`](crate::connection)'s.
//!
//! A stop takes no more connections, lets the requests in flight finish, and cuts off whoever
//! does not get on with it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::connection::{self, Protocols};
use crate::places::{Places, Taken};
use crate::tls::{HANDSHAKE_LIMIT, Tls};

/// How long a stop waits for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
/// How long the accept loop rests after an error like "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is refused may take to hear it.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// How many connections are told at once that they are refused; further ones are just closed.
const REFUSALS_MAX: usize = 64;
/// What a client hears that has too many connections.
const TOO_MANY: &str = concat!(
    "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\n",
    "content-length: 224\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
    r#"{"type":"urn:bailiwick:problem:too_many_connections","title":"Too Many Requests","#,
    r#""status":429,"detail":"your address has too many connections","#,
    r#""error":"too_many_connections","message":"your address has too many connections"}"#,
);

/// Answers requests.
pub trait Serve: Clone + Send + Sync + 'static {
    /// Answers one.
    fn serve(
        &self,
        request: Request<Body>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// What the loop keeps to.
pub struct Limits {
    /// Connections at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// Connections of one address, but for loopback.
    pub connections_per_address: usize,
}

/// Serves until `stop` changes, then lets the requests in flight finish.
pub async fn run<S: Serve>(
    listener: TcpListener,
    serve: S,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let places = Places::new(limits.connections_per_address);
    let protocols = Protocols::default();
    loop {
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(taken) = places.take(peer.ip()) else {
            let is_plain = tls.is_none();
            if let (true, Ok(turn)) = (is_plain, refusals.clone().try_acquire_owned()) {
                tokio::spawn(async move {
                    let _ = timeout(REFUSAL_LIMIT, refuse(stream)).await;
                    drop(turn);
                });
            }
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (protocols, serve, tls) = (protocols.clone(), serve.clone(), tls.clone());
        let (watcher, stop) = (graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            let _held: (_, Taken) = (place, taken);
            let Some(tls) = tls else {
                return connection::serve(&protocols, stream, peer, serve, watcher, stop).await;
            };
            if let Some(stream) = shake_hands(&tls, stream, peer, stop.clone()).await {
                connection::serve(&protocols, stream, peer, serve, watcher, stop).await;
            }
        });
    }
    drop(listener);
    if timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight after {DRAIN_LIMIT:?}; they are cut off");
    }
}

async fn shake_hands(
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE_LIMIT, tls.acceptor().accept(stream)) => shaken,
        _ = stop.wait_for(|stop| *stop) => return None,
    };
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Says so, and waits until the client has heard it: closing at once would take the words back.
async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(TOO_MANY.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says_and_is_json() {
        let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["error"], &body["status"]),
            (&"too_many_connections".into(), &429.into())
        );
        assert_eq!(body["detail"], body["message"]);
    }
}
