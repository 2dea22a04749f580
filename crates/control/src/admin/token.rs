//! The operator's token, of which only a digest is kept in memory.

use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// Characters that a token has at least.
pub const MIN_TOKEN_LENGTH: usize = 32;

/// A token that is shorter than [`MIN_TOKEN_LENGTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("holds fewer than {MIN_TOKEN_LENGTH} characters")]
pub struct ShortToken;

/// What a request has to show to act as an operator.
#[derive(Clone)]
pub struct OperatorToken([u8; 32]);

impl OperatorToken {
    /// # Errors
    /// [`ShortToken`]: such a token could be guessed.
    pub fn new(text: &str) -> Result<Self, ShortToken> {
        if text.chars().count() < MIN_TOKEN_LENGTH {
            return Err(ShortToken);
        }
        Ok(Self(Sha256::digest(text.as_bytes()).into()))
    }

    /// Whether this is the token, in a time that tells nothing of it.
    #[must_use]
    pub fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        self.0.ct_eq(&shown).into()
    }
}

// Not derived: a digest of a secret is in no log.
impl fmt::Debug for OperatorToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OperatorToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_alone_and_not_short() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = OperatorToken::new(text).expect("is long enough");
        assert!(token.is(text));
        for other in ["", "0123456789abcdef0123456789abcdeF", &text[1..]] {
            assert!(!token.is(other), "{other:?}");
        }
        assert_eq!(OperatorToken::new(&text[1..]).err(), Some(ShortToken));
        assert_eq!(format!("{token:?}"), "OperatorToken");
    }
}
