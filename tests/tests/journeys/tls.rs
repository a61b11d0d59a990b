//! TLS: both protocols by ALPN, a certificate that is read again, and one that does not fit.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use journeys::Server;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Writes a new certificate for `localhost` and its key, and answers the certificate.
fn certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

async fn connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(server.running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn healthz() -> Request<Empty<Bytes>> {
    Request::get("https://localhost/healthz")
        .header("host", "localhost")
        .body(Empty::new())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_speaks_tls() {
    let files = tempfile::tempdir().unwrap();
    let first = certificate(files.path());
    let server = Server::start_with(|settings| {
        settings.tls_cert = Some(files.path().join("cert.pem"));
        settings.tls_key = Some(files.path().join("key.pem"));
    })
    .await;
    assert!(server.running.url().starts_with("https://"));

    let stream = connect(&server, &first, b"http/1.1").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut one, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = one.send_request(healthz()).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_11));
    response.into_body().collect().await.unwrap();

    let stream = connect(&server, &first, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = TokioExecutor::new();
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = two.send_request(healthz()).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    drop((response, two));

    // A new certificate counts for new connections; the old connection goes on.
    let second = certificate(files.path());
    server.running.reload();
    assert!(connect(&server, &first, b"h2").await.is_err(), "the first certificate is still used");
    connect(&server, &second, b"h2").await.unwrap();
    assert_eq!(one.send_request(healthz()).await.unwrap().status(), StatusCode::OK);
    drop(one);
    // A certificate that does not fit changes nothing.
    std::fs::write(files.path().join("key.pem"), "no key").unwrap();
    server.running.reload();
    connect(&server, &second, b"h2").await.unwrap();
    server.stop().await;
}
