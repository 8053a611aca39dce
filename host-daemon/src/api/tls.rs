//! TLS for the API over TCP.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::listen::ApiError;

/// Reads certificate chain and key.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, ApiError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: pem::Error| ApiError::Tls { path, detail: error.to_string() }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(certificate))?;
    if chain.is_empty() {
        let detail = "there is no certificate in it".to_owned();
        return Err(ApiError::Tls { path: certificate.to_owned(), detail });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    let failed = |error: tokio_rustls::rustls::Error| ApiError::Tls {
        path: certificate.to_owned(),
        detail: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
