//! Whom clients trust: what the system does, and what the operator adds.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{io, path::Path};

/// Where Linux distributions keep the certificates that the system trusts.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read.
    #[error("read the file of certificates")]
    Read(#[source] io::Error),
    /// It holds something else, or nothing.
    #[error("{0}")]
    Damaged(String),
}

fn certificates(
    pem: &[u8],
) -> impl Iterator<Item = Result<CertificateDer<'static>, rustls_pki_types::pem::Error>> + '_ {
    CertificateDer::pem_slice_iter(pem)
}

/// The authorities that the system trusts and those of a file, in PEM.
///
/// # Errors
/// When there is something wrong with the file.
pub fn trusted_roots(file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for bundle in SYSTEM_BUNDLES {
        // A host keeps one of them, or none: then only what is configured counts.
        if let Ok(text) = std::fs::read(bundle) {
            roots.add_parsable_certificates(certificates(&text).filter_map(Result::ok));
            break;
        }
    }
    let Some(file) = file else {
        return Ok(roots);
    };
    let text = std::fs::read(file).map_err(RootsError::Read)?;
    let before = roots.len();
    for certificate in certificates(&text) {
        let certificate = certificate.map_err(|error| RootsError::Damaged(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| RootsError::Damaged(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(RootsError::Damaged("it holds no certificate".to_owned()));
    }
    Ok(roots)
}
