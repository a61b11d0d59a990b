//! Connecting: look the name up once, check every address, connect to one of them, shake hands.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use futures::future::BoxFuture;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::guard::{Rules, Target};

/// How long it takes at most until a connection can be written to.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How many of a name's addresses are tried.
pub(super) const ADDRESSES_TRIED_MAX: usize = 4;
/// How many addresses a name may have; every one is checked.
pub(super) const ADDRESSES_MAX: usize = 64;

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It may not be reached.
    #[error("{0}")]
    Forbidden(String),
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(String),
}

/// How names are looked up.
pub trait LookUp: Send + Sync + 'static {
    /// The addresses of a name.
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the machine does it.
pub struct SystemLookUp;

impl LookUp for SystemLookUp {
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Makes connections that keep to the rules.
#[derive(Clone)]
pub(super) struct Connector {
    rules: Arc<Rules>,
    names: Arc<dyn LookUp>,
    /// What is wrong with the machine's certificates, if they cannot be used.
    tls: Result<TlsConnector, String>,
}

impl Connector {
    pub(super) fn new(rules: Arc<Rules>, names: Arc<dyn LookUp>) -> Self {
        Self { rules, names, tls: tls() }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, Refused> {
        let ends = Instant::now() + CONNECT_LIMIT;
        let late = || Refused::Unreachable("it was not connected to in time".to_owned());
        let target = self.rules.target(&uri).map_err(Refused::Forbidden)?;
        let addresses = timeout_at(ends, self.addresses(&target)).await.map_err(|_| late())??;
        let tcp = timeout_at(ends, reach(addresses, target.port)).await.map_err(|_| late())??;
        // Requests are small and answered at once.
        let _ = tcp.set_nodelay(true);
        if !target.is_tls {
            return Ok(Stream::Plain(TokioIo::new(tcp)));
        }
        let unfit = |why: &dyn std::fmt::Display| Refused::Unreachable(format!("TLS: {why}"));
        let tls = self.tls.as_ref().map_err(|why| unfit(why))?;
        let name = ServerName::try_from(target.host).map_err(|error| unfit(&error))?;
        let shaken = timeout_at(ends, tls.connect(name, tcp)).await.map_err(|_| late())?;
        let stream = shaken.map_err(|error| unfit(&error))?;
        Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
    }

    /// The addresses of a target, all of which may be reached.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, Refused> {
        let addresses = match target.host.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = self.names.look_up(target.host.clone()).await;
                found.map_err(|_| Refused::Unreachable("its name is not found".to_owned()))?
            }
        };
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            let message = "its name has no address, or too many";
            return Err(Refused::Unreachable(message.to_owned()));
        }
        for address in &addresses {
            self.rules.check(*address).map_err(Refused::Forbidden)?;
        }
        Ok(addresses)
    }
}

fn tls() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this machine has no certificates to trust".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The first address that takes the connection.
async fn reach(addresses: Vec<IpAddr>, port: u16) -> Result<TcpStream, Refused> {
    let share = CONNECT_LIMIT / addresses.len().clamp(1, ADDRESSES_TRIED_MAX) as u32;
    for address in addresses.into_iter().take(ADDRESSES_TRIED_MAX) {
        let tried = TcpStream::connect(SocketAddr::new(address, port));
        if let Ok(Ok(stream)) = tokio::time::timeout(share, tried).await {
            return Ok(stream);
        }
    }
    Err(Refused::Unreachable("nobody answers there".to_owned()))
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Refused>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection.
pub(super) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
