//! The cluster's authority: made once, kept in files that only root reads.

use crate::member::DOMAIN;
use crate::{CERTIFICATE_LIFE, CLOCK_SKEW, Error, Fingerprint, Member, Peer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long the authority is good.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// A clock that was wrong when the authority was made does no harm later.
const SKEW: Duration = Duration::from_secs(24 * 3600);
/// A request that is larger holds what none has to.
const MAX_REQUEST_BYTES: usize = 8192;

/// Signs the certificates of one cluster's members.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A member's certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// In PEM.
    pub pem: String,
    /// What it says.
    pub peer: Peer,
}

impl Authority {
    /// Opens the authority in `keys_dir`, or makes it where there is none.
    ///
    /// # Errors
    /// When the files cannot be read or written, or hold something else.
    pub fn open_or_create(keys_dir: &Path) -> Result<Self, Error> {
        if let Some(authority) = Self::open(keys_dir)? {
            return Ok(authority);
        }
        let (key, pem) = generate()?;
        let (key_file, certificate_file) = files(keys_dir);
        // The certificate last: without it all is made anew.
        hearth_tls::write_private(&key_file, key.as_bytes())?;
        hearth_tls::write_private(&certificate_file, pem.as_bytes())?;
        Self::from_pem(&key, &pem, &certificate_file)
    }

    /// Opens the authority in `keys_dir`; nothing where none has been made.
    ///
    /// # Errors
    /// When the files cannot be read, or hold something else.
    pub fn open(keys_dir: &Path) -> Result<Option<Self>, Error> {
        let (key_file, certificate_file) = files(keys_dir);
        let key = hearth_tls::read_if_there(&key_file)?;
        let pem = hearth_tls::read_if_there(&certificate_file)?;
        let (key, pem) = match (key, pem) {
            (Some(key), Some(pem)) => (key, pem),
            // A new one in its place would be another cluster's.
            (None, Some(_)) => {
                return Err(Error::Content {
                    path: key_file,
                    what: "key, and the certificate beside it is of one",
                });
            }
            // A key alone is a first start that was broken off.
            (_, None) => return Ok(None),
        };
        Self::from_pem(&key, &pem, &certificate_file).map(Some)
    }

    fn from_pem(key: &str, pem: &str, path: &Path) -> Result<Self, Error> {
        let broken = |what| Error::Content {
            path: path.to_owned(),
            what,
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| broken("certificate in PEM"))?;
        let key = KeyPair::from_pem(key)?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| broken("readable certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(broken("certificate of the key beside it"));
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            pem: pem.to_owned(),
        })
    }

    /// Its certificate, which members trust, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Of its certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Certifies that the key of a request is a member's. Nothing else of the request
    /// counts, but that whoever made it has the key.
    ///
    /// # Errors
    /// [`Error::Request`] where it cannot be used.
    pub fn issue(&self, request_pem: &str, member: Member) -> Result<Certificate, Error> {
        self.issue_at(request_pem, member, SystemTime::now())
    }

    /// The same at another time than now.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_at(
        &self,
        request_pem: &str,
        member: Member,
        now: SystemTime,
    ) -> Result<Certificate, Error> {
        let request = read(request_pem)?;
        let mut params = CertificateParams::new(vec![member.name()])?;
        params.distinguished_name = subject(&member.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + CERTIFICATE_LIFE).into();
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Certificate {
            peer: Peer::of(certificate.der())?,
            pem: certificate.pem(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Of the key in a request, once it is proved that whoever made it has the key.
///
/// # Errors
/// [`Error::Request`] where it cannot be used.
pub fn key_of(request_pem: &str) -> Result<Fingerprint, Error> {
    let info = read(request_pem)?.public_key.subject_public_key_info();
    Ok(Fingerprint::of(&info))
}

fn read(request_pem: &str) -> Result<CertificateSigningRequestParams, Error> {
    if request_pem.len() > MAX_REQUEST_BYTES {
        return Err(Error::Request("it is too large"));
    }
    // Reading it checks its signature.
    let request = CertificateSigningRequestParams::from_pem(request_pem)
        .map_err(|_| Error::Request("it cannot be read, or its signature is wrong"))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(Error::Request("its key is not of the curve P-256"));
    }
    Ok(request)
}

/// A new key, and a request to certify it; both in PEM.
///
/// # Errors
/// When no key can be made.
pub fn request() -> Result<(String, String), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((key.serialize_pem(), request_of(&key)?))
}

/// A request to certify a key that there is.
pub(crate) fn request_of(key: &KeyPair) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    // Who it is to be is the control plane's to say.
    params.distinguished_name = subject("member");
    Ok(params.serialize_request(key)?.pem()?)
}

fn files(keys_dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    (
        keys_dir.join("cluster-ca.key"),
        keys_dir.join("cluster-ca.crt"),
    )
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Hearth");
    // A common name has at most 64 characters.
    subject.push(
        DnType::CommonName,
        name.chars().take(64).collect::<String>(),
    );
    subject
}

/// Key and certificate of a new authority, as PEM.
fn generate() -> Result<(String, String), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).expect("the kernel's random source answers after boot");
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("Hearth cluster CA {}", hex::encode(tag)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(DOMAIN.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + LIFE).into();
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::SanType;
    use std::os::unix::fs::PermissionsExt as _;
    use uuid::Uuid;

    #[test]
    fn an_authority_is_made_once_and_for_root_alone() {
        let folder = tempfile::tempdir().expect("a directory");
        let keys = folder.path().join("keys");
        assert!(Authority::open(&keys).expect("reads").is_none());
        let made = Authority::open_or_create(&keys).expect("is made");
        let again = Authority::open_or_create(&keys).expect("is read");
        assert_eq!(made.fingerprint(), again.fingerprint());
        for name in ["cluster-ca.key", "cluster-ca.crt"] {
            let meta = std::fs::metadata(keys.join(name)).expect("is there");
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        }
        let (other, _) = generate().expect("a key");
        std::fs::write(keys.join("cluster-ca.key"), other).expect("writable");
        let mismatch = Authority::open(&keys).expect_err("another key").to_string();
        assert!(mismatch.ends_with("holds no certificate of the key beside it"));
    }

    #[test]
    fn a_certificate_says_who_was_asked_for_whatever_the_request_says() {
        let folder = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(folder.path()).expect("is made");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::new(vec![Member::Control.name()]).expect("a name");
        params
            .subject_alt_names
            .push(SanType::DnsName("example.com".try_into().expect("a name")));
        let request = params.serialize_request(&key).expect("a request");
        let node = Member::Node(Uuid::new_v4());
        let issued = authority
            .issue(&request.pem().expect("PEM"), node)
            .expect("is signed");
        assert_eq!(issued.peer.member, node);
        let info = key.subject_public_key_info();
        assert_eq!(issued.peer.key, Fingerprint::of(&info));
        let asked = key_of(&request.pem().expect("PEM")).expect("a good request");
        assert_eq!(asked, issued.peer.key);
    }

    #[test]
    fn requests_that_cannot_be_used_are_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(folder.path()).expect("is made");
        let refused = |request: &str| match authority.issue(request, Member::Control) {
            Err(Error::Request(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused("nonsense").contains("cannot be read"));
        assert!(refused(&"x".repeat(MAX_REQUEST_BYTES + 1)).contains("too large"));
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        assert!(refused(&request_of(&key).expect("a request")).contains("P-256"));
        // A signature of another key's: what follows the body is changed.
        let (_, good) = request().expect("a request");
        let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
        let last = lines.len() - 2;
        lines[last] = lines[last].chars().rev().collect();
        let forged = lines.join("\n");
        assert!(authority.issue(&forged, Member::Control).is_err());
    }
}
