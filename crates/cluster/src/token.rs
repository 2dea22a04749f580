//! What a machine joins with: a secret that is good once, and whom to trust meanwhile.

use crate::{Error, Fingerprint};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::str::FromStr;

/// What a token begins with, so that one can be told from other secrets.
const PREFIX: &str = "hjt_";
/// The secret, and the fingerprint of the authority.
const BYTES: usize = 64;

/// A token to join a cluster with. Its text is `hjt_` and 86 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: [u8; 32],
    authority: Fingerprint,
}

impl JoinToken {
    /// A new one, for the cluster of this authority.
    #[must_use]
    pub fn random(authority: Fingerprint) -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the kernel's random source answers after boot");
        Self { secret, authority }
    }

    /// The authority whose certificate the control plane has to show.
    #[must_use]
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// What the control plane is shown, in hex.
    #[must_use]
    pub fn secret(&self) -> String {
        hex::encode(self.secret)
    }

    /// What is kept of a secret that a machine shows, in hex.
    #[must_use]
    pub fn digest(secret: &str) -> String {
        Fingerprint::of(secret.as_bytes()).to_string()
    }

    /// The whole token, to be handed to the machine that joins.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut bytes = [0; BYTES];
        bytes[..32].copy_from_slice(&self.secret);
        bytes[32..].copy_from_slice(&self.authority.0);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let no_token = Error::Token(
            "this is no token to join with: one begins with hjt_ and has 90 characters; `hearth \
             node token` on the control plane prints one",
        );
        let Some(text) = text.trim().strip_prefix(PREFIX) else {
            return Err(no_token);
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let (Some((secret, rest)), BYTES) = (bytes.split_first_chunk(), bytes.len()) else {
            return Err(no_token);
        };
        let authority = rest.first_chunk().map(|bytes| Fingerprint(*bytes));
        Ok(Self {
            secret: *secret,
            authority: authority.ok_or(no_token)?,
        })
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("JoinToken");
        shown.field("authority", &self.authority.to_string());
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text() {
        let token = JoinToken::random(Fingerprint::of(b"authority"));
        let text = token.reveal();
        assert_eq!(text.len(), 90);
        assert_eq!(text.parse::<JoinToken>().expect("a token"), token);
        assert_eq!(
            format!(" {text}\n").parse::<JoinToken>().ok(),
            Some(token.clone())
        );
        assert!(!format!("{token:?}").contains(&token.secret()));
        assert_ne!(JoinToken::digest(&token.secret()), token.secret());
        for other in ["", "hjt_", "e2b_abc", &text[..89], &format!("{text}A")] {
            assert!(other.parse::<JoinToken>().is_err(), "{other}");
        }
    }
}
