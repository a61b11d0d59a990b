//! A small HTTP/1.1 client for the generator: one keep-alive connection a worker.
//!
//! The task that sends also drives its connection, so an exchange costs no hop to another task.
//! Requests are built once and cloned (a clone shares the body's bytes). A body is only kept when
//! somebody will read it: a refusal, or an answer that is to be checked.
//!
//! Deliberate limits: plain `http` only, no redirects, no proxy, no pipelining, no HTTP/2.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};

use super::LoadError;

/// The largest body that is kept, in bytes; what is longer is cut off there.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The port of an address that names none.
const HTTP_PORT: u16 = 80;

/// A request that is ready to be sent; cloning it copies its headers and shares its body.
pub(crate) type Prepared = Request<Full<Bytes>>;

/// Where the requests go: an address that has answered, and the `Host` it is called by.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    host: HeaderValue,
    address: SocketAddr,
}

impl Target {
    /// Resolves `url` (`http://host[:port]`; its path is ignored) to the first address that
    /// accepts a connection.
    pub(crate) async fn resolve(url: &str) -> Result<Self, LoadError> {
        let invalid = || LoadError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        if uri.scheme_str() != Some("http") || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid())?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(HTTP_PORT);
        let failed = |source| LoadError::Connect { url: url.to_owned(), source };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in lookup_host((name, port)).await.map_err(failed)? {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(Self { host, address }),
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// Opens a connection that speaks nothing yet.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.address).await
    }

    /// Builds a request to `path` (origin form); a body is sent as JSON.
    pub(crate) fn prepare(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<Bytes>,
    ) -> Result<Prepared, LoadError> {
        let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| LoadError::Url { url: path.to_owned() })?;
        request.headers_mut().insert(HOST, self.host.clone());
        if body.is_some() {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        for (name, value) in headers {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request)
    }
}

/// What came back: the status, and the body if it was kept.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

/// Why no whole answer came back.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection had been closed before the request was written: nothing was asked.
    Unsent,
    /// The connection broke while the answer was awaited or read.
    Broken(hyper::Error),
}

type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// One open keep-alive connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// None once it has ended; dropping it is what tells the sender.
    driver: Option<Driver>,
}

impl Connection {
    /// Opens a connection with `TCP_NODELAY`.
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(driver) })
    }

    /// Sends one request and reads its whole answer; the body of a 2xx answer is kept only when
    /// `keep` says so. After a failure the connection is of no more use.
    pub(crate) async fn exchange(
        &mut self,
        request: Prepared,
        keep: bool,
    ) -> Result<Answer, Failure> {
        let Self { sender, driver } = self;
        let work = async move {
            sender.ready().await.map_err(|_| Failure::Unsent)?;
            let response = match sender.send_request(request).await {
                Ok(response) => response,
                Err(error) if error.is_canceled() => return Err(Failure::Unsent),
                Err(error) => return Err(Failure::Broken(error)),
            };
            let status = response.status();
            let keep = keep || !status.is_success();
            let mut incoming = response.into_body();
            let mut body = Vec::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(Failure::Broken)?;
                if let (true, Some(data)) = (keep, frame.data_ref()) {
                    let room = KEPT_BYTES_MAX - body.len();
                    body.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            Ok(Answer { status, body })
        };
        drive(driver, work).await
    }
}

/// Polls `work` and the connection that it depends on in one task. Work that the connection has
/// just completed is taken in the same poll, without waiting to be woken.
async fn drive<Work: Future>(driver: &mut Option<Driver>, work: Work) -> Work::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        if let Some(connection) = driver
            && Pin::new(connection).poll(context).is_ready()
        {
            // Its error, if any, reaches the work through the request in flight.
            *driver = None;
        }
        work.as_mut().poll(context)
    })
    .await
}
