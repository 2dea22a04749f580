//! Who the machines of a cluster are to each other, and how they talk.
//!
//! ```text
//!  keys/cluster-ca.* ─▶ Authority ──issue──▶ certificate of a member ─▶ Credentials
//!        │                                     (a key never leaves its machine)   │
//!        └ fingerprint ─▶ JoinToken ─▶ a machine that joins trusts that alone     ▼
//!                                                   serve, connector: TLS 1.3, both sides
//!                                                   show a certificate, each knows whose
//! ```
//!
//! A member is the control plane or a node. Its certificate has one name, which says which:
//! `control.hearth.internal` or `<node id>.node.hearth.internal`. Addresses and host names
//! prove nothing, so machines may change theirs. The authority is constrained to names
//! below `hearth.internal`: who trusts it trusts it for nothing else. It is another one
//! than that of the edge, which browsers may be told to trust.
//!
//! Whether a member that has a good certificate is still wanted is not known here: the
//! control plane asks its store at each call.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod authority;
mod connect;
mod credentials;
mod keep;
mod member;
mod pin;
mod serve;
mod token;
mod unauthenticated;

pub use authority::{Authority, Certificate, key_of, request};
pub use connect::{Connect, connector};
pub use credentials::Credentials;
pub use keep::Membership;
pub use member::{Fingerprint, Member, Peer};
pub use pin::{authority_of, pinned};
pub use serve::{Bounds, Connection, MAX_CONNECTIONS, control_only, serve};
pub use token::JoinToken;

use std::path::PathBuf;
use std::time::Duration;

/// How long a member's certificate is good.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// By how much the clock of a machine may be behind that of the control plane.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// What went wrong with certificates and keys.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] hearth_tls::Error),
    #[error("{} holds no {what}", path.display())]
    Content { path: PathBuf, what: &'static str },
    #[error("the request for a certificate cannot be used: {0}")]
    Request(&'static str),
    #[error("the certificate {0}")]
    Certificate(&'static str),
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("set TLS up")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Token(&'static str),
}
