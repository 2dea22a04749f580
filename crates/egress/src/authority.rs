//! A sandbox's own certificate authority. Only that sandbox trusts it, and it signs
//! only for the hosts whose requests the proxy changes.
//!
//! It is kept in a file that only root reads, beside the sandbox's other state: a
//! guest that was told to trust it goes on trusting it over a restart of the daemon.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longer than any sandbox lives, paused or not.
const LIFE: Duration = DAY.saturating_mul(3650);
/// For guests whose clock is behind.
const CLOCK_SKEW: Duration = DAY;
/// Hosts whose certificates are kept at a time.
const MOST_LEAVES: usize = 64;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("keep a sandbox's certificate authority")]
    File(#[from] io::Error),
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("use a certificate")]
    Use(#[from] rustls::Error),
}

/// One sandbox's authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// TLS settings by host.
    leaves: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

impl Authority {
    /// Opens the authority kept at `path`, or makes one and keeps it there.
    ///
    /// # Errors
    /// When the file can be neither read nor written. One that is damaged is
    /// replaced: the guest is told of the new one when it next starts.
    pub fn open_or_create(path: &Path) -> Result<Self, AuthorityError> {
        match fs::read_to_string(path) {
            Ok(text) => match Self::from_pem(&text) {
                Ok(authority) => return Ok(authority),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "replace a damaged authority");
                    fs::rename(path, path.with_extension("damaged"))?;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let text = generate()?;
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Self::from_pem(&text)
    }

    fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(text)?;
        let start = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(0);
        let pem = text[start..].to_owned();
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key)?,
            pem,
            leaves: Mutex::new(HashMap::new()),
        })
    }

    /// The certificate that the guest is to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS settings under which the guest takes us for `host`.
    pub(crate) fn server(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = leaves.get(host) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.issue(host)?);
        if leaves.len() >= MOST_LEAVES {
            leaves.clear();
        }
        leaves.insert(host.to_owned(), Arc::clone(&config));
        Ok(config)
    }

    fn issue(&self, host: &str) -> Result<ServerConfig, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Hearth");
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + DAY * 365).into();
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(crate::trust::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Key and certificate, one after the other.
fn generate() -> Result<String, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Hearth");
    subject.push(DnType::CommonName, "Hearth sandbox egress");
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LIFE).into();
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authority(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_the_same_when_it_is_opened_again_and_replaced_when_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authority.pem");
        let first = Authority::open_or_create(&path).unwrap();
        assert!(first.server("api.example.com").is_ok());
        let again = Authority::open_or_create(&path).unwrap();
        assert_eq!(first.pem(), again.pem());
        assert!(!again.pem().contains("PRIVATE"));
        fs::write(&path, "rubbish").unwrap();
        let other = Authority::open_or_create(&path).unwrap();
        assert_ne!(first.pem(), other.pem());
    }
}
