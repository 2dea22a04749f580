//! `[tls]`: HTTPS, and who certifies it.

use super::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// The API and the sandboxes over HTTPS: `api.<domain>`, `<port>-<sandbox id>.<domain>`.
/// Without a given certificate and without `[tls.acme]`, Hearth is its own authority;
/// `hearth trust` makes this machine trust it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Address to listen on. Without it: the API's.
    #[schemars(example = "0.0.0.0")]
    pub address: Option<IpAddr>,
    /// TCP port; 0 for none.
    pub port: u16,
    /// File with a certificate chain for `*.<domain>` (PEM, leaf first). Read again when
    /// it changes. Goes with `tls.key`.
    #[schemars(example = "/etc/hearth/fullchain.pem")]
    pub certificate: Option<PathBuf>,
    /// File with the private key (PEM) of `tls.certificate`.
    #[schemars(example = "/etc/hearth/privkey.pem")]
    pub key: Option<PathBuf>,
    /// Obtains the certificate from an authority that browsers trust.
    pub acme: Option<AcmeSettings>,
}

/// A certificate authority that speaks ACME. Its terms of service are taken for accepted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeSettings {
    /// URL of the authority's directory. Required.
    #[schemars(example = "https://acme.example.com/directory")]
    pub directory: String,
    /// Where the authority sends warnings.
    #[schemars(example = "mailto:ops@example.com")]
    pub contact: Option<String>,
    /// File with certificates (PEM) to trust when connecting to the authority. Without
    /// it: the system's.
    #[schemars(example = "/etc/hearth/acme-ca.pem")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Program that puts challenges into the domain's name server. Without it `hearth
    /// dns` must be that name server.
    #[schemars(example = "/usr/local/bin/dns-hook")]
    pub dns_hook: Option<PathBuf>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            address: None,
            port: 3443,
            certificate: None,
            key: None,
            acme: None,
        }
    }
}

impl TlsSettings {
    /// Whether clients trust the certificate without knowing Hearth's authority.
    pub fn is_public(&self) -> bool {
        self.certificate.is_some() || self.acme.is_some()
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => Err(Problem::new("tls.certificate", "needs tls.key too")),
            (None, Some(_)) => Err(Problem::new("tls.key", "needs tls.certificate too")),
            (Some(_), Some(_)) if self.acme.is_some() => Err(Problem::new(
                "tls.certificate",
                "is given: tls.acme would get another",
            )),
            _ => Ok(()),
        }
    }
}
