//! Sending events to webhooks.
//!
//! ```text
//!  store: deliveries that are due ──▶ Deliverer ──▶ an attempt each ──▶ receiver
//!             ▲                          │ one process at a time, by lease
//!             └── attempt and verdict ───┘
//! ```
//!
//! What is to be sent, when and how often is in the store, so a deliverer that dies loses
//! nothing: the next one goes on, and a receiver may hear of an event twice. Of one
//! sandbox's events a receiver hears in their order. A slow receiver has a few places of its
//! own and holds up nobody else. Receivers are strangers: connections are checked and
//! pinned ([`hearth_dial`]), redirects are not followed, answers are read up to a bound.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod body;
mod client;
mod deliverer;
mod schedule;
mod seal;
mod sign;

pub use deliverer::Deliverer;
pub use schedule::DEFAULT_RETRIES;
pub use seal::Sealer;
pub use sign::{e2b_signature, hearth_signature};

use http::Uri;
use std::path::PathBuf;
use std::time::Duration;

/// The type of the event that tells that a webhook was disabled for failing.
pub const DISABLED_EVENT: &str = "webhook.disabled";
/// The longest address of a receiver.
const MAX_URL_BYTES: usize = 2048;

/// How webhooks are served.
#[derive(Debug, Clone)]
pub struct Config {
    /// What an attempt may take, from the connection to the end of the answer.
    pub attempt_limit: Duration,
    /// When a delivery that failed is tried again, each time counted from the failure.
    pub retries: Vec<Duration>,
    /// Attempts at one webhook at the same time.
    pub concurrency: usize,
    /// A webhook all of whose attempts have failed for so long is disabled when a
    /// delivery is given up.
    pub disable_after: Duration,
    /// `host[:port]` and networks that may be reached though they are not public.
    pub private: Vec<String>,
    /// Certificates, in PEM, of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attempt_limit: Duration::from_secs(15),
            retries: DEFAULT_RETRIES.to_vec(),
            concurrency: 8,
            disable_after: Duration::from_secs(20 * 3600),
            private: Vec::new(),
            ca_file: None,
        }
    }
}

/// Why webhooks cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of certificates.
    #[error("read the certificates that receivers are checked by")]
    Certificates(#[from] hearth_dial::RootsError),
    /// TLS does not work at all.
    #[error("prepare TLS")]
    Tls(#[from] rustls::Error),
}

/// Whether events can be sent to such an address: http or https, a host, no password.
#[must_use]
pub fn check_url(url: &str) -> bool {
    if url.len() > MAX_URL_BYTES {
        return false;
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host().is_some_and(|host| !host.is_empty());
    let plain = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'));
    scheme && host && plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_the_web() {
        for (url, fits) in [
            ("https://example.com/hook?x=1", true),
            ("http://example.com:8080", true),
            ("https://[2001:db8::1]/", true),
            ("ftp://example.com/", false),
            ("example.com", false),
            ("/hook", false),
            ("https://", false),
            ("https://user:word@example.com/", false),
            ("https://example.com/ x", false),
            ("", false),
        ] {
            assert_eq!(check_url(url), fits, "{url}");
        }
        let long = format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES));
        assert!(!check_url(&long));
    }
}
