//! TLS, when a certificate is set: rustls with aws-lc-rs, TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by
//! ALPN (RFC 7301).
//!
//! The files are read at the start and again when asked to ([`Tls::reload`]): a new certificate
//! counts for the next connection, those that stand go on, and files that do not fit change
//! nothing.
//!
//! Deliberate limits: one certificate chain for all names, no client certificates, no session
//! tickets shared between servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig};

/// How long a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// What is spoken inside, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate without a key, or a key without a certificate.
    #[error("--tls-cert and --tls-key go together: give both or none")]
    Half,
    /// A file cannot be read, or does not hold what it must.
    #[error("{path} holds no {what} in PEM form: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not fit together, or are not usable.
    #[error("the certificate in {path} cannot be used: {source}")]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
}

/// The certificate in use and where it came from.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files, if they are set.
    pub fn load(
        certificate: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate.to_owned(), key.to_owned()),
            (None, None) => return Ok(None),
            _ => return Err(TlsError::Half),
        };
        let config = RwLock::new(read(&certificate, &key)?);
        Ok(Some(Arc::new(Self { certificate, key, config })))
    }

    /// Reads the files again. When they do not fit, what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.certificate, &self.key)?;
        *self.config.write() = config;
        Ok(())
    }

    /// What shakes hands with the next client.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.read().clone().into()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, what, source }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(failed(certificate, "certificate"));
    let chain = chain?;
    if chain.is_empty() {
        return Err(failed(certificate, "certificate")(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed(key, "private key"))?;
    let unfit = |source| TlsError::Unfit { path: certificate.to_owned(), source };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(unfit)?;
    let mut config =
        builder.with_no_client_auth().with_single_cert(chain, private).map_err(unfit)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        assert!(Tls::load(None, None).unwrap().is_none());
        let half = Tls::load(Some(&certificate), None).err().unwrap();
        assert!(matches!(half, TlsError::Half), "{half}");
        for text in [None, Some("nothing"), Some("-----BEGIN CERTIFICATE-----\nno")] {
            if let Some(text) = text {
                std::fs::write(&certificate, text).unwrap();
            }
            let error = Tls::load(Some(&certificate), Some(&key)).err().unwrap();
            assert!(error.to_string().contains("cert.pem holds no certificate"), "{error}");
        }
    }
}
