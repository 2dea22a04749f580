//! Whom the proxy trusts when it opens a connection of its own over TLS: whoever
//! the host trusts, and an authority of the configuration beside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Where distributions keep the certificates that the host trusts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The cryptography of every TLS connection here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The host's authorities, and those in the files of `extra`.
pub(crate) fn client<'a>(extra: impl IntoIterator<Item = &'a PathBuf>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        add(&mut roots, bundle)?;
    }
    for file in extra {
        add(&mut roots, file)?;
    }
    with_roots(roots)
}

/// The authorities in `pem` and nobody else.
pub(crate) fn client_trusting(pem: &str) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no certificate can be read",
        ));
    }
    with_roots(roots)
}

fn with_roots(roots: RootCertStore) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder
        .with_root_certificates(Arc::new(roots))
        .with_no_client_auth())
}

fn add(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    let text = std::fs::read(path)?;
    // Bundles hold certificates that no verifier can read; they are left out.
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
    Ok(())
}
