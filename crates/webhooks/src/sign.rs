//! Signatures of deliveries.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// E2B's: the unpadded base64 of SHA-256 over the secret and the body. It says nothing of
/// the time, so a delivery that was overheard can be sent again.
#[must_use]
pub fn e2b_signature(secret: &str, body: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(secret.as_bytes());
    digest.update(body);
    BASE64_STANDARD_NO_PAD.encode(digest.finalize())
}

/// Ours: `t=SECONDS,v1=HEX`, the HMAC-SHA256 by the secret over the seconds since 1970 of
/// the attempt, a dot and the body.
#[must_use]
pub fn hearth_signature(secret: &str, time: i64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{time}.").as_bytes());
    mac.update(body);
    format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_the_documented_ones() {
        // printf 'secret{}' | openssl dgst -sha256 -binary | base64 | tr -d =
        assert_eq!(
            e2b_signature("secret", b"{}"),
            "e9B8ejqc2/sG6v6Lh2cAHsXgRKkAkGentpGLCOuoSYs"
        );
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            hearth_signature("secret", 1_700_000_000, b"{}"),
            "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
        );
    }
}
