//! A server that a command speaks to: JSON over HTTP/1.1, plain or with TLS.
//!
//! One connection a request. With `https` the server's certificate must be signed by one of the
//! machine's own certificates or, when a file is named, by one of those in it and by no other.
//!
//! Deliberate limits: no redirects, no proxies. What a server does may take long, so only reaching
//! it has a limit, [`REACH_LIMIT`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls_native_certs::load_native_certs;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::offline::{OfflineError, whole};

/// How long connecting and shaking hands may take.
const REACH_LIMIT: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connection = SendRequest<Full<Bytes>>;

/// A server by its address, such as `https://127.0.0.1:8787`.
pub(crate) struct Remote {
    server: String,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Remote {
    /// The server at `server`. With `https` its certificate is checked against those in the file
    /// `ca`, or against the machine's.
    pub(crate) fn new(server: &str, ca: Option<&Path>) -> Result<Self, OfflineError> {
        let unfit = |why: &str| OfflineError::Usage(format!("{server} {why}"));
        let server = server.trim_end_matches('/').to_owned();
        let url: Uri = server.parse().map_err(|_| unfit("is no URL"))?;
        let tls = match (url.scheme_str(), ca) {
            (Some("https"), ca) => Some(connector(ca)?),
            (Some("http"), None) => None,
            (Some("http"), Some(_)) => return Err(unfit("is not https, which --ca is for")),
            _ => return Err(unfit("is neither http:// nor https://")),
        };
        let host = url.host().ok_or_else(|| unfit("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { server, host, port, tls })
    }

    /// Sends `body` and answers what came back, if that was a success.
    pub(crate) async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<Value, OfflineError> {
        let asked = format!("{}{path}", self.server);
        let unreachable =
            |error: BoxError| OfflineError::Unreachable(asked.clone(), whole(error.as_ref()));
        let reached = tokio::time::timeout(REACH_LIMIT, self.connect()).await;
        let reached = reached.unwrap_or_else(|_| Err("nothing was heard of it".into()));
        let mut connection = reached.map_err(unreachable)?;
        let host = self.server.split_once("://").map_or("", |(_, host)| host);
        let mut request =
            Request::post(path).header(HOST, host).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())));
        let request = request.map_err(|error| unreachable(error.into()))?;
        let response = connection.send_request(request).await;
        let (head, body) = response.map_err(|error| unreachable(error.into()))?.into_parts();
        let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let bytes = read.map_err(unreachable)?.to_bytes();
        if head.status.is_success() {
            return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let answer = problem["detail"].as_str().unwrap_or("no reason given").to_owned();
        Err(OfflineError::Answered { asked, status: head.status.as_u16(), answer })
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some(tls) = &self.tls else {
            let (connection, driver) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(driver);
            return Ok(connection);
        };
        let stream = tls.connect(ServerName::try_from(self.host.clone())?, stream).await?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection)
    }
}

fn connector(ca: Option<&Path>) -> Result<TlsConnector, OfflineError> {
    let unusable = |what: String, why: String| {
        OfflineError::Usage(format!("the certificates of {what} cannot be used: {why}"))
    };
    let mut roots = RootCertStore::empty();
    let source = match ca {
        Some(path) => {
            let failed = |error: BoxError| unusable(path.display().to_string(), error.to_string());
            let found =
                CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| failed(error.into()))?;
                roots.add(certificate).map_err(|error| failed(error.into()))?;
            }
            path.display().to_string()
        }
        None => {
            // A machine may have some that nobody can use: those count for nothing.
            roots.add_parsable_certificates(load_native_certs().certs);
            "this machine".to_owned()
        }
    };
    if roots.is_empty() {
        return Err(unusable(source, "there are none; name a file with --ca".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(source, error.to_string()))?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_one_that_does_not_fit_is_named() {
        let remote = Remote::new("http://[::1]:8787/", None).unwrap();
        assert_eq!((remote.host.as_str(), remote.port), ("::1", 8787));
        assert_eq!(Remote::new("http://example.test", None).unwrap().port, 80);
        for (server, ca) in [("localhost:8787", false), ("ftp://a", false), ("http://a", true)] {
            let refused = Remote::new(server, ca.then_some(Path::new("ca.pem")));
            let Err(error) = refused else { panic!("{server} was taken") };
            assert!(error.to_string().contains(server), "{error}");
            assert_eq!(error.exit_code(), 64);
        }
        let Err(error) = Remote::new("https://a", Some(Path::new("/nowhere/ca.pem"))) else {
            panic!("a file that is not there was taken");
        };
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}
