//! Certificates for the edge's TLS port.
//!
//! ```text
//!  keys/ca.key, keys/ca.crt ─▶ Authority ─▶ Certificates ─▶ a leaf per handshake
//!  a given chain and key ────────────────────▲  (swapped while connections live)
//!  an ACME authority ─▶ Acme ─▶ chain and key ─┘
//! ```
//!
//! Without a certificate of the user's, Hearth is its own certificate authority.
//! Only the authority is kept on disk; leaves and their keys live in memory and are
//! made anew at every start and before they expire, so nothing else has to be
//! rotated, backed up or guarded. The authority is constrained to the names it is
//! for: who trusts it trusts it for nothing but this Hearth's domain.
//!
//! A leaf with a wildcard serves `*.{domain}`, except where the domain is a single
//! label such as `localhost`: clients refuse `*.localhost`. There a leaf is issued
//! for each name as it is asked for, from a bounded cache.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod acme;
mod authority;
mod bundle;
mod certificates;
mod file;

pub use acme::{Acme, AcmeError, challenges};
pub use authority::Authority;
pub use bundle::{common_name, publish, system_bundle};
pub use certificates::{Certificates, server_config};
pub use file::{read_if_there, write_private};

use std::path::PathBuf;

/// Why there is no certificate.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no {what}", path.display())]
    Content { path: PathBuf, what: &'static str },
    #[error("the key in {} does not belong to the certificate", path.display())]
    KeyMismatch {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{0:?} is no host name")]
    Name(String),
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("set TLS up")]
    Tls(#[from] rustls::Error),
}
