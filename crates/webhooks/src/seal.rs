//! Secrets of webhooks at rest: sealed with ChaCha20-Poly1305, by a key that comes from
//! the installation's seed and is not in the database.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use std::fmt;
use uuid::Uuid;

const PURPOSE: &[u8] = b"hearth webhook secrets";
/// Form of a sealed secret.
const VERSION: &str = "v1.";

/// Seals secrets and opens them again, where the seed is the same.
pub struct Sealer {
    key: LessSafeKey,
}

impl Sealer {
    /// By a seed of the installation.
    #[must_use]
    pub fn new(seed: &SecretString) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(seed.expose_secret().as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(PURPOSE);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &mac.finalize().into_bytes())
            .expect("SHA-256 is as long as the key");
        Self {
            key: LessSafeKey::new(key),
        }
    }

    /// The secret of a webhook, for the store: of no use for another webhook.
    #[must_use]
    pub fn seal(&self, webhook: Uuid, secret: &SecretString) -> String {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the kernel's random source answers after boot");
        let mut sealed = secret.expose_secret().as_bytes().to_vec();
        let (aad, once) = (aad(webhook), Nonce::assume_unique_for_key(nonce));
        self.key
            .seal_in_place_append_tag(once, aad, &mut sealed)
            .expect("a secret is shorter than the cipher's limit");
        let whole = [nonce.as_slice(), &sealed].concat();
        format!("{VERSION}{}", BASE64_STANDARD.encode(whole))
    }

    /// The secret again; `None` for one that was sealed by another seed or for another
    /// webhook, or damaged.
    #[must_use]
    pub fn open(&self, webhook: Uuid, sealed: &str) -> Option<SecretString> {
        let whole = BASE64_STANDARD.decode(sealed.strip_prefix(VERSION)?).ok()?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, aad(webhook), &mut sealed);
        let text = String::from_utf8(opened.ok()?.to_vec()).ok()?;
        Some(SecretString::from(text))
    }
}

fn aad(webhook: Uuid) -> Aad<[u8; 16]> {
    Aad::from(webhook.into_bytes())
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sealer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_seed_for_the_same_webhook() {
        let (seed, secret) = (SecretString::from("seed"), SecretString::from("a secret"));
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let sealer = Sealer::new(&seed);
        let sealed = sealer.seal(one, &secret);
        assert!(!sealed.contains("secret"), "{sealed}");
        assert_ne!(sealed, sealer.seal(one, &secret));
        let open = |sealer: &Sealer, id, text: &str| {
            let opened = sealer.open(id, text);
            opened.map(|secret| secret.expose_secret().to_owned())
        };
        assert_eq!(
            open(&Sealer::new(&seed), one, &sealed).as_deref(),
            Some("a secret")
        );
        assert_eq!(open(&sealer, other, &sealed), None);
        assert_eq!(
            open(&Sealer::new(&SecretString::from("x")), one, &sealed),
            None
        );
        for damaged in ["", "v1.", "v1.AAAA", "v2.x", &sealed[..sealed.len() - 8]] {
            assert_eq!(open(&sealer, one, damaged), None, "{damaged}");
        }
    }
}
