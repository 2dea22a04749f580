//! The local certificate authority: made once, kept in files that only root reads,
//! replaced well before it expires or when the domain changes.

use crate::{Error, file};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority is valid; how long before its end its successor is made,
/// which clients are to trust beside it; and how long before it the successor signs.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
const AUTHORITY_RENEWAL: Duration = DAY.saturating_mul(180);
const AUTHORITY_SWITCH: Duration = DAY.saturating_mul(60);
/// How long a leaf is valid. Clients refuse leaves of more than 825 days.
pub(crate) const LEAF_LIFE: Duration = DAY.saturating_mul(90);
/// For clients whose clock is behind.
const CLOCK_SKEW: Duration = DAY;

/// Issues certificates for the names of one domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    not_after: SystemTime,
    /// The certificate of the authority that follows, once there is one.
    successor: Option<String>,
}

/// Where an authority is kept.
struct Files {
    key: PathBuf,
    certificate: PathBuf,
}

impl Files {
    fn new(keys_dir: &Path, name: &str) -> Self {
        Self {
            key: keys_dir.join(format!("{name}.key")),
            certificate: keys_dir.join(format!("{name}.crt")),
        }
    }

    fn read(&self) -> Result<Option<(String, Authority)>, Error> {
        let key = file::read_if_there(&self.key)?;
        let pem = file::read_if_there(&self.certificate)?;
        let (Some(key), Some(pem)) = (key, pem) else {
            return Ok(None);
        };
        let authority = Authority::from_pem(&key, &pem, &self.certificate)?;
        Ok(Some((key, authority)))
    }

    /// Puts an authority in the place of any other.
    fn write(&self, key: &str, pem: &str) -> Result<Authority, Error> {
        // Between these steps there is no certificate: then all is made anew.
        file::remove(&self.certificate)?;
        file::write(&self.key, key.as_bytes(), 0o600)?;
        file::write(&self.certificate, pem.as_bytes(), 0o600)?;
        Authority::from_pem(key, pem, &self.certificate)
    }

    fn create(&self, domain: &str) -> Result<Authority, Error> {
        let (key, pem) = generate(domain, AUTHORITY_LIFE)?;
        self.write(&key, &pem)
    }

    fn remove(&self) -> Result<(), Error> {
        file::remove(&self.certificate)?;
        file::remove(&self.key)
    }
}

impl Authority {
    /// Opens the authority in `keys_dir`, or makes one: when there is none, when it
    /// ends, and when it is not for `domain` (a host name without a port). Well
    /// before its end its successor is made and published, so that clients trust
    /// that one by the time it signs. The one that is replaced is kept as
    /// `ca.crt.old`.
    pub fn open_or_create(keys_dir: &Path, domain: &str) -> Result<Self, Error> {
        let (own, next) = (Files::new(keys_dir, "ca"), Files::new(keys_dir, "ca.next"));
        let Some((_, mut authority)) = own.read()? else {
            return own.create(domain);
        };
        let (fits, left) = (authority.is_for(domain), authority.left());
        if fits && left >= AUTHORITY_RENEWAL {
            return Ok(authority);
        }
        let successor = next
            .read()?
            .filter(|(_, next)| next.is_for(domain) && next.left() >= AUTHORITY_RENEWAL);
        if fits && left >= AUTHORITY_SWITCH {
            authority.successor = Some(match successor {
                Some((_, successor)) => successor.pem,
                None => {
                    tracing::info!(domain, "created the next certificate authority");
                    next.create(domain)?.pem
                }
            });
            return Ok(authority);
        }
        tracing::warn!(
            domain,
            announced = successor.is_some(),
            "certificate authority replaced: clients must trust the new one"
        );
        let old = keys_dir.join("ca.crt.old");
        file::write(&old, authority.pem.as_bytes(), 0o600)?;
        let authority = match successor {
            Some((key, successor)) => own.write(&key, &successor.pem)?,
            None => own.create(domain)?,
        };
        next.remove()?;
        Ok(authority)
    }

    /// How much longer it is valid.
    fn left(&self) -> Duration {
        let left = self.not_after.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }

    fn from_pem(key: &str, pem: &str, path: &Path) -> Result<Self, Error> {
        let broken = |what| Error::Content {
            path: path.to_owned(),
            what,
        };
        let certificate = file::certificates(path, pem.as_bytes())?.swap_remove(0);
        let key = KeyPair::from_pem(key)?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| broken("readable certificate"))?;
        if parsed.public_key().raw != key_info(&key) {
            return Err(broken("certificate of the key beside it"));
        }
        let not_after = system_time(&parsed);
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            pem: pem.to_owned(),
            not_after,
            successor: None,
        })
    }

    /// The authority's own certificate, which clients are to trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What clients are to trust: its certificate, and its successor's.
    #[must_use]
    pub fn published(&self) -> String {
        format!(
            "{}{}",
            self.pem,
            self.successor.as_deref().unwrap_or_default()
        )
    }

    /// The authority's own certificate, which clients are to trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a server certificate with a key of its own. Names that parse as
    /// addresses are addresses.
    pub fn issue(&self, names: &[String]) -> Result<CertifiedKey, Error> {
        let (leaf, key) = self.make(names)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::from_der(
            vec![leaf.der().clone()],
            key,
            &rustls::crypto::ring::default_provider(),
        )?)
    }

    /// The same as PEM: the certificate, and its key.
    pub fn issue_pem(&self, names: &[String]) -> Result<(String, String), Error> {
        let (leaf, key) = self.make(names)?;
        Ok((leaf.pem(), key.serialize_pem()))
    }

    fn make(&self, names: &[String]) -> Result<(rcgen::Certificate, KeyPair), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => {
                    let name = name.as_str().try_into();
                    Ok(SanType::DnsName(name.map_err(|_| {
                        Error::Name(names.first().cloned().unwrap_or_default())
                    })?))
                }
            })
            .collect::<Result<_, Error>>()?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Hearth");
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + LEAF_LIFE).into();
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf, key))
    }

    /// Whether the names that this authority is constrained to are those of `domain`.
    fn is_for(&self, domain: &str) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.certificate) else {
            return false;
        };
        let Ok(Some(constraints)) = parsed.name_constraints() else {
            return false;
        };
        let permitted: Vec<&str> = constraints
            .value
            .permitted_subtrees
            .iter()
            .flatten()
            .filter_map(|subtree| match subtree.base {
                GeneralName::DNSName(name) => Some(name),
                _ => None,
            })
            .collect();
        permitted == names(domain)
    }
}

/// The names below which an authority for `domain` may certify.
fn names(domain: &str) -> Vec<&str> {
    let mut names = vec!["localhost"];
    if domain != "localhost" && !domain.ends_with(".localhost") {
        names.push(domain);
    }
    names
}

/// Key and certificate of a new authority, as PEM.
fn generate(domain: &str, life: Duration) -> Result<(String, String), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).expect("the kernel's random source answers after boot");
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Hearth");
    // Told apart from those of other machines in a list of authorities.
    let name = format!("Hearth local CA {}", hex::encode(tag));
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut permitted: Vec<GeneralSubtree> = names(domain)
        .into_iter()
        .map(|name| GeneralSubtree::DnsName(name.to_owned()))
        .collect();
    permitted.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
        Ipv4Addr::new(127, 0, 0, 0).into(),
        8,
    )));
    permitted.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
        Ipv6Addr::LOCALHOST.into(),
        128,
    )));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: Vec::new(),
    });
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

fn key_info(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    key.subject_public_key_info()
}

/// When a certificate ends.
pub(crate) fn system_time(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = certificate.validity().not_after.timestamp();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Puts an authority into `keys_dir` that is valid for `days` more days.
#[cfg(test)]
pub(crate) fn put_ending(keys_dir: &Path, domain: &str, days: u32) {
    let (key, pem) = generate(domain, DAY * days).expect("made");
    let files = Files::new(keys_dir, "ca");
    files.write(&key, &pem).expect("written");
}
