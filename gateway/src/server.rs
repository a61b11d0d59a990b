//! The server loop: hyper connections with the timeouts and limits that no framework sets.
//!
//! Every connection has a header timeout (a slow client cannot hold one for ever), a limit on
//! header size and count, and, over HTTP/2, on streams; their number is bounded; a stop lets the
//! requests in flight finish.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// How long a client may take to send a request's headers.
const HEADERS_LIMIT: Duration = Duration::from_secs(10);
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// The most bytes of a connection's read buffer: what a request's headers must fit into.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// How long a stop waits for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
/// How long the accept loop rests after an error like "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests.
pub trait Serve: Clone + Send + Sync + 'static {
    /// Answers one.
    fn serve(
        &self,
        request: Request<Body>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves until `stop` changes, then lets the requests in flight finish.
pub async fn run<S: Serve>(
    listener: TcpListener,
    serve: S,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(connections_max));
    let builder = connection_builder();
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
        let (builder, serve, watcher) = (builder.clone(), serve.clone(), graceful.watcher());
        let mut stop = stop.clone();
        tokio::spawn(async move {
            // Until the first byte hyper does not know which protocol it is, and sets no limit.
            let mut byte = [0];
            let first = tokio::select! {
                first = tokio::time::timeout(HEADERS_LIMIT, stream.peek(&mut byte)) => first,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if !matches!(first, Ok(Ok(1..))) {
                return;
            }
            let watched = watcher.watch(connect(&builder, stream, peer, serve));
            // What ends a connection early is the client's affair; nothing here depends on it.
            if let Err(error) = watched.await {
                tracing::debug!(%error, %peer, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight after {DRAIN_LIMIT:?}; they are cut off");
    }
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_LIMIT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

fn connect<S: Serve>(
    builder: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    serve: S,
) -> impl hyper_util::server::graceful::GracefulConnection<Error: std::fmt::Display> + use<S> {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let serve = serve.clone();
        async move { Ok::<_, Infallible>(serve.serve(request.map(Body::new), peer).await) }
    });
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned()
}
