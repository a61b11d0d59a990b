//! One connection: which protocol it speaks, how it is served, and what ends it when the server
//! stops.
//!
//! Invariants
//! - Until it is known what a client speaks, its time is limited: no byte at all and a part of the
//!   HTTP/2 preface (RFC 9113, section 3.4) end after the same time as headers that do not come.
//! - A stopping server waits for whom it is working, and for clients that send or take something;
//!   one that does neither for [`STALL_GRACE`] is cut off, and a body that does not arrive is an
//!   error for whoever reads it.
//! - A client that takes nothing of its answer for [`WRITE_LIMIT`] is cut off.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::server::Serve;

/// How long a client may take to send a request's headers, or to say what it speaks.
pub const HEADERS_LIMIT: Duration = Duration::from_secs(10);
/// How long a stopping server waits for a client that neither sends nor takes anything.
pub const STALL_GRACE: Duration = Duration::from_secs(2);
/// How long a client may take nothing at all of what is written to it.
pub const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// The most bytes of a connection's read buffer: what a request's headers must fit into.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// How an HTTP/2 client begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Builder = auto::Builder<TokioExecutor>;

/// How connections of each protocol are served.
#[derive(Clone)]
pub struct Protocols {
    http1: Builder,
    http2: Builder,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { http1: builder().http1_only(), http2: builder().http2_only() }
    }
}

fn builder() -> Builder {
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

/// Serves one connection to its end. `watcher` makes it end after the request in flight once the
/// server stops.
pub async fn serve<S, IO>(
    protocols: &Protocols,
    mut stream: IO,
    peer: SocketAddr,
    serve: S,
    watcher: Watcher,
    mut stop: watch::Receiver<bool>,
) where
    S: Serve,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let spoken = tokio::select! {
        spoken = timeout(HEADERS_LIMIT, Spoken::of(&mut stream)) => spoken,
        () = stopped(&mut stop) => return,
    };
    let Ok(Ok(Some(Spoken { is_http2, begun }))) = spoken else { return };
    let activity = Arc::new(Activity::default());
    let io = Watched { begun, stream, activity: activity.clone(), stall: None };
    let (working, stopping) = (activity.clone(), stop.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (serve, at_work) = (serve.clone(), AtWork::new(&working));
        let request = request.map(|body| match body.is_end_stream() {
            // Most requests have no body, and nothing of it can stall.
            true => Body::empty(),
            false => Body::new(Arriving::new(body, stopping.clone())),
        });
        async move {
            let response: Response<Body> = serve.serve(request, peer).await;
            drop(at_work);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = if is_http2 { &protocols.http2 } else { &protocols.http1 };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::select! {
        // What ends a connection early is the client's affair; nothing here depends on it.
        ended = watcher.watch(connection.into_owned()) => if let Err(error) = ended {
            tracing::debug!(%error, %peer, "a connection ended early");
        },
        () = activity.stalled(&mut stop) => {
            tracing::debug!(%peer, "a silent connection was cut off by the stop");
        }
    }
}

/// Resolves once the server stops. A server whose owner went away does not stop by itself.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a client speaks, and what it has said so far.
struct Spoken {
    is_http2: bool,
    begun: Bytes,
}

impl Spoken {
    /// Reads until it is clear; `None` when the client leaves before.
    async fn of(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let (mut begun, mut length) = ([0; PREFACE.len()], 0);
        loop {
            let read = stream.read(&mut begun[length..]).await?;
            if read == 0 {
                return Ok(None);
            }
            length += read;
            let said = &begun[..length];
            let is_http2 = PREFACE.starts_with(said);
            if !is_http2 || length == PREFACE.len() {
                return Ok(Some(Self { is_http2, begun: Bytes::copy_from_slice(said) }));
            }
        }
    }
}

/// When a connection was last used, and whether somebody is at work for it.
struct Activity {
    since: Instant,
    last_ms: AtomicU64,
    at_work: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0), at_work: AtomicUsize::new(0) }
    }
}

impl Activity {
    fn note(&self) {
        self.last_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves once the server stops and the connection was silent for [`STALL_GRACE`] since,
    /// with nobody at work for it.
    async fn stalled(&self, stop: &mut watch::Receiver<bool>) {
        stopped(stop).await;
        self.note();
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let silent = self.since.elapsed().saturating_sub(last);
            let is_idle = self.at_work.load(Ordering::Relaxed) == 0;
            if is_idle && silent >= STALL_GRACE {
                return;
            }
            let rest = if is_idle { STALL_GRACE - silent } else { STALL_GRACE };
            sleep(rest.max(Duration::from_millis(1))).await;
        }
    }
}

/// Somebody works for a connection until this is dropped.
struct AtWork(Arc<Activity>);

impl AtWork {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.at_work.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.note();
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that gives back what was read of it already, and notes when it is used.
struct Watched<IO> {
    begun: Bytes,
    stream: IO,
    activity: Arc<Activity>,
    /// Made when a write has to wait.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let length = self.begun.len().min(buffer.remaining());
            let part = self.begun.split_to(length);
            buffer.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.activity.note();
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> Watched<IO> {
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_LIMIT)));
            ready!(stall.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.stall = None;
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.note();
        }
        written
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The server stops, and a body did not go on arriving.
#[derive(Debug, thiserror::Error)]
#[error("the server stops and the body did not arrive")]
pub struct BodyStalled;

impl BodyStalled {
    /// Whether this is what is behind an error.
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// A request's body that ends with [`BodyStalled`] when the server stops and nothing of it came
/// for [`STALL_GRACE`].
struct Arriving {
    body: Incoming,
    stop: watch::Receiver<bool>,
    /// Made when there is something to wait for, and anew after each part.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Arriving {
    fn new(body: Incoming, stop: watch::Receiver<bool>) -> Self {
        Self { body, stop, cut: None }
    }
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, stop, cut } = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            *cut = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let cut = cut.get_or_insert_with(|| {
            let mut stop = stop.clone();
            Box::pin(async move {
                stopped(&mut stop).await;
                sleep(STALL_GRACE).await;
            })
        });
        ready!(cut.as_mut().poll(context));
        Poll::Ready(Some(Err(Box::new(BodyStalled))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn what_is_spoken_is_known_from_its_first_bytes_and_none_is_lost() {
        for (said, is_http2) in [("GET / HTTP/1.1\r\n", false), ("PRI x", false)] {
            let spoken = Spoken::of(&mut said.as_bytes()).await.unwrap().unwrap();
            assert_eq!((&spoken.begun[..], spoken.is_http2), (said.as_bytes(), is_http2));
        }
        let mut preface = PREFACE.chain(&b"and more"[..]);
        let spoken = Spoken::of(&mut preface).await.unwrap().unwrap();
        assert!(spoken.is_http2);
        assert_eq!(&spoken.begun[..], PREFACE);
        assert!(Spoken::of(&mut &PREFACE[..5]).await.unwrap().is_none());

        let (begun, activity) = (Bytes::from_static(b"GET "), Arc::default());
        let mut watched = Watched { begun, stream: &b"/ HTTP"[..], activity, stall: None };
        let mut all = String::new();
        watched.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_given_up_only_after_the_stop_and_with_nobody_at_work() {
        let (sender, mut stop) = watch::channel(false);
        let activity = Arc::new(Activity::default());
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, activity.stalled(&mut stop)).await.is_err());
        sender.send_replace(true);
        let at_work = AtWork::new(&activity);
        assert!(timeout(hour, activity.stalled(&mut stop)).await.is_err());
        drop(at_work);
        assert!(timeout(hour, activity.stalled(&mut stop)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(8);
        let (begun, activity) = (Bytes::new(), Arc::default());
        let mut watched = Watched { begun, stream: near, activity, stall: None };
        let slow = async {
            for _ in 0..3 {
                // sleep: the clock is paused, and time is what is tried.
                sleep(WRITE_LIMIT / 2).await;
                let mut taken = [0; 8];
                far.read_exact(&mut taken).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(watched.write_all(&[7; 32]), slow);
        assert!(written.is_ok(), "slow is not silent");
        let silent = watched.write_all(&[7; 32]).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_stalled_body_is_found_behind_other_errors() {
        let stalled = axum::Error::new(Box::<dyn Error + Send + Sync>::from(BodyStalled));
        assert!(BodyStalled::caused(&stalled));
        assert!(!BodyStalled::caused(&axum::Error::new(io::Error::other("no"))));
    }
}
