//! What clients read: the authority's certificate, and a bundle of it with the
//! system's authorities, for programs that take one file for all.

use crate::{Error, file};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Where distributions keep their bundle.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's bundle of authorities, where there is one.
#[must_use]
pub fn system_bundle() -> Option<PathBuf> {
    SYSTEM.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The common name of the first certificate in PEM text.
#[must_use]
pub fn common_name(pem: &[u8]) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// Writes `ca.crt` and `ca-bundle.crt` into `dir`, readable by everybody, unless
/// they hold that already.
pub fn publish(dir: &Path, authority_pem: &str, system: Option<&Path>) -> Result<(), Error> {
    let mut bundle = authority_pem.as_bytes().to_vec();
    if let Some(system) = system {
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        bundle.extend(file::read(system)?);
    }
    for (name, content) in [
        ("ca.crt", authority_pem.as_bytes()),
        ("ca-bundle.crt", &bundle),
    ] {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|now| now == content) {
            continue;
        }
        file::write(&path, content, 0o644)?;
    }
    Ok(())
}
