//! Which certificate a handshake gets: a resolver that can be changed while
//! connections live. A handshake in progress keeps what it was given; established
//! connections never look again, so a change breaks nothing.

use crate::authority::{LEAF_LIFE, system_time};
use crate::{Authority, Error, file};
use hearth_util::{LockExt as _, RwLockExt as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names for which a leaf is kept.
const MAX_LEAVES: usize = 4096;
/// A leaf is replaced when this part of its life is over.
const RENEWAL: Duration = Duration::from_secs(LEAF_LIFE.as_secs() / 2);
/// A given certificate that ends sooner is worth a warning.
const WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// Answers every handshake with a certificate.
pub struct Certificates(RwLock<Arc<Source>>);

enum Source {
    Own(Box<Own>),
    Given(Given),
}

/// Certificates of the local authority.
struct Own {
    authority: Authority,
    keys_dir: PathBuf,
    domain: String,
    leaves: Mutex<HashMap<String, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    key: Arc<CertifiedKey>,
    issued: SystemTime,
}

/// A chain and key in files that somebody else renews.
struct Given {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<(Arc<CertifiedKey>, Vec<SystemTime>)>,
}

impl Certificates {
    /// Certificates of the authority in `keys_dir` (which is made if there is none)
    /// for `domain` (a host name without a port) and everything below it.
    pub fn own(keys_dir: &Path, domain: &str) -> Result<Self, Error> {
        let own = Own::open(keys_dir, &domain.to_ascii_lowercase())?;
        Ok(Self(RwLock::new(Arc::new(Source::Own(Box::new(own))))))
    }

    /// A given certificate: `chain` with the leaf first, and its `key`, both PEM.
    pub fn given(chain: &Path, key: &Path) -> Result<Self, Error> {
        let given = Given::open(chain, key)?;
        Ok(Self(RwLock::new(Arc::new(Source::Given(given)))))
    }

    /// Answers with a given certificate from now on, whatever was before.
    pub fn use_given(&self, chain: &Path, key: &Path) -> Result<(), Error> {
        let given = Given::open(chain, key)?;
        self.put(Source::Given(given));
        Ok(())
    }

    /// Takes over what has changed in the files: given ones, or an authority that
    /// was replaced, by us as it ends or by somebody else. On a failure what was
    /// before goes on. True when something changed.
    pub fn reload(&self) -> Result<bool, Error> {
        match &*self.source() {
            Source::Given(given) => given.reload(),
            Source::Own(own) => {
                let now = Authority::open_or_create(&own.keys_dir, &own.domain)?;
                if now.published() == own.authority.published() {
                    return Ok(false);
                }
                self.put(Source::Own(Box::new(Own::open(
                    &own.keys_dir,
                    &own.domain,
                )?)));
                Ok(true)
            }
        }
    }

    /// What clients are to trust, as PEM, when it is the local authority.
    #[must_use]
    pub fn authority_pem(&self) -> Option<String> {
        match &*self.source() {
            Source::Own(own) => Some(own.authority.published()),
            Source::Given(_) => None,
        }
    }

    fn source(&self) -> Arc<Source> {
        Arc::clone(&self.0.read_unpoisoned())
    }

    fn put(&self, source: Source) {
        *self.0.write_unpoisoned() = Arc::new(source);
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match &*self.source() {
            Source::Given(given) => Some(Arc::clone(&given.current().0)),
            Source::Own(own) => {
                let name = name.unwrap_or_default().to_ascii_lowercase();
                let name = if own.needs_own_leaf(&name) { &name } else { "" };
                own.leaf(name)
                    .inspect_err(|error| tracing::error!(%error, name, "issue certificate failed"))
                    .ok()
            }
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificates")
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

impl Own {
    fn open(keys_dir: &Path, domain: &str) -> Result<Self, Error> {
        let own = Self {
            authority: Authority::open_or_create(keys_dir, domain)?,
            keys_dir: keys_dir.to_owned(),
            domain: domain.to_owned(),
            leaves: Mutex::default(),
        };
        // Whatever may fail fails now.
        own.leaf("")?;
        Ok(own)
    }

    /// Clients accept no wildcard directly below a single label, nor one that
    /// stands for two.
    fn needs_own_leaf(&self, name: &str) -> bool {
        match name.strip_suffix(&self.domain) {
            Some(rest) => rest
                .strip_suffix('.')
                .is_some_and(|rest| !self.domain.contains('.') || rest.contains('.')),
            None => name.ends_with(".localhost"),
        }
    }

    /// The leaf of one name, or the common one for the empty name.
    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, Error> {
        let now = SystemTime::now();
        // A clock that was set back counts as old, too.
        let fresh = |leaf: &Leaf| {
            now.duration_since(leaf.issued)
                .is_ok_and(|age| age < RENEWAL)
        };
        if let Some(leaf) = self.leaves().get(name).filter(|leaf| fresh(leaf)) {
            return Ok(Arc::clone(&leaf.key));
        }
        let names = if name.is_empty() {
            self.common_names()
        } else {
            vec![name.to_owned()]
        };
        let key = Arc::new(self.authority.issue(&names)?);
        let mut leaves = self.leaves();
        if leaves.len() >= MAX_LEAVES {
            forget_oldest(&mut leaves);
        }
        let leaf = Leaf {
            key: Arc::clone(&key),
            issued: now,
        };
        leaves.insert(name.to_owned(), leaf);
        Ok(key)
    }

    fn common_names(&self) -> Vec<String> {
        let domain = &self.domain;
        let mut names = vec![domain.clone(), format!("api.{domain}")];
        // Below a single label some clients take a wildcard for a broken name.
        if domain.contains('.') {
            names.push(format!("*.{domain}"));
        }
        for name in ["localhost", "127.0.0.1", "::1"] {
            if name != domain {
                names.push(name.to_owned());
            }
        }
        names
    }

    fn leaves(&self) -> MutexGuard<'_, HashMap<String, Leaf>> {
        self.leaves.lock_unpoisoned()
    }
}

/// Makes room: half of the names go, those issued first.
fn forget_oldest(leaves: &mut HashMap<String, Leaf>) {
    let mut times: Vec<SystemTime> = leaves.values().map(|leaf| leaf.issued).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    leaves.retain(|name, leaf| name.is_empty() || leaf.issued > middle);
}

impl Given {
    fn open(chain: &Path, key: &Path) -> Result<Self, Error> {
        Ok(Self {
            current: Mutex::new((load(chain, key)?, changed(chain, key))),
            chain: chain.to_owned(),
            key: key.to_owned(),
        })
    }

    fn reload(&self) -> Result<bool, Error> {
        let now = changed(&self.chain, &self.key);
        if self.current().1 == now {
            return Ok(false);
        }
        let key = load(&self.chain, &self.key)?;
        *self.current() = (key, now);
        Ok(true)
    }

    fn current(&self) -> MutexGuard<'_, (Arc<CertifiedKey>, Vec<SystemTime>)> {
        self.current.lock_unpoisoned()
    }
}

fn load(chain_path: &Path, key_path: &Path) -> Result<Arc<CertifiedKey>, Error> {
    let chain = file::certificates(chain_path, &file::read(chain_path)?)?;
    let key = file::read(key_path)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| Error::Content {
        path: key_path.to_owned(),
        what: "private key",
    })?;
    warn_of_end(&chain[0], chain_path);
    let provider = rustls::crypto::ring::default_provider();
    let key =
        CertifiedKey::from_der(chain, key, &provider).map_err(|source| Error::KeyMismatch {
            path: key_path.to_owned(),
            source,
        })?;
    Ok(Arc::new(key))
}

fn warn_of_end(leaf: &CertificateDer<'_>, path: &Path) {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return;
    };
    match system_time(&parsed).duration_since(SystemTime::now()) {
        Err(_) => tracing::error!(path = %path.display(), "the certificate has expired"),
        Ok(left) if left < WARNING => {
            let days = left.as_secs() / (24 * 3600);
            tracing::warn!(path = %path.display(), days, "the certificate expires soon");
        }
        Ok(_) => {}
    }
}

/// When the files were last changed, as far as that can be told.
fn changed(chain: &Path, key: &Path) -> Vec<SystemTime> {
    [chain, key]
        .iter()
        .filter_map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
        .collect()
}

/// TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1 by ALPN.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests;
