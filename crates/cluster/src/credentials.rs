//! What a member shows to others, and what it asks of them. A renewed certificate takes the
//! place of the old one while connections live: those keep what they have shown.

use crate::authority::request_of;
use crate::{Authority, Error, Member, Peer};
use hearth_util::RwLockExt as _;
use rcgen::KeyPair;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

/// A certificate is renewed when this much of its life is left.
const RENEWAL: Duration = Duration::from_secs(crate::CERTIFICATE_LIFE.as_secs() / 3);

/// A member's key and certificate, and the authority that it trusts.
pub struct Credentials {
    key: KeyPair,
    authority_pem: String,
    authority: CertificateDer<'static>,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    pem: String,
    peer: Peer,
    shown: Arc<CertifiedKey>,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn parse(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Certificate("is not in PEM"))
}

impl Credentials {
    /// Of a key, its certificate and the authority's, all in PEM.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not belong together.
    pub fn new(key: &str, certificate: &str, authority: &str) -> Result<Arc<Self>, Error> {
        let key = KeyPair::from_pem(key)?;
        let root = parse(authority)?;
        let current = current(&key, certificate, &root)?;
        Ok(Arc::new(Self {
            key,
            authority_pem: authority.to_owned(),
            authority: root,
            current: RwLock::new(current),
        }))
    }

    /// Those of the control plane, with a key that lives in memory alone.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn control(authority: &Authority) -> Result<Arc<Self>, Error> {
        let (key, request) = crate::request()?;
        let issued = authority.issue(&request, Member::Control)?;
        Self::new(&key, &issued.pem, authority.pem())
    }

    /// Whose they are, as the present certificate says.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.current.read_unpoisoned().peer
    }

    /// The present certificate, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.current.read_unpoisoned().pem.clone()
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// A request for the next certificate of the same key.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<String, Error> {
        request_of(&self.key)
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// Where it is another member's, or of another key; the present one stays.
    pub fn renew(&self, certificate: &str) -> Result<(), Error> {
        let next = current(&self.key, certificate, &self.authority)?;
        let mut current = self.current.write_unpoisoned();
        if next.peer.member != current.peer.member {
            return Err(Error::Certificate("is another member's"));
        }
        *current = next;
        Ok(())
    }

    /// When the next certificate is to be asked for.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.peer().not_after - RENEWAL
    }

    /// For a listener that only members connect to.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, Error> {
        self.server(false)
    }

    /// For a listener that those who want to join connect to as well, who have no
    /// certificate. One that is shown has to be good.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn open_server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, Error> {
        self.server(true)
    }

    fn server(self: &Arc<Self>, open: bool) -> Result<Arc<ServerConfig>, Error> {
        let roots = Arc::new(self.roots()?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if open {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier
            .build()
            .map_err(|_| Error::Certificate("of the authority cannot be trusted"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection proves anew who it is.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For connections to members, which are to be named with each.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client_config(self: &Arc<Self>) -> Result<Arc<ClientConfig>, Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        Ok(roots)
    }
}

fn current(
    key: &KeyPair,
    pem: &str,
    authority: &CertificateDer<'static>,
) -> Result<Current, Error> {
    let leaf = parse(pem)?;
    let peer = Peer::of(&leaf)?;
    let der = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|_| Error::Certificate("has a key that cannot be read"))?;
    // The authority's goes along for those who know its fingerprint alone.
    let chain = vec![leaf, authority.clone()];
    let shown = CertifiedKey::from_der(chain, der, &provider())?;
    Ok(Current {
        pem: pem.to_owned(),
        peer,
        shown: Arc::new(shown),
    })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

/// Shows the present certificate in each handshake.
#[derive(Debug)]
struct Shown(Arc<Credentials>);

impl Shown {
    fn present(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.current.read_unpoisoned().shown)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
