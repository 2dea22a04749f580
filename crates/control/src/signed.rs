//! JSON Web Tokens (RFC 7519) of our own, signed by HMAC-SHA256 under keys that are
//! derived from the seed of all tokens: one for each purpose, so that no token is good
//! for another one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Names the signing key, of which each purpose has one.
pub(crate) const KEY_NAME: &str = "hearth-1";
/// Far more than a token of ours has.
const MAX_TOKEN_BYTES: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// Why a token is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    Malformed,
    Signature,
}

fn sign(seed: &SecretString, purpose: &str, message: &str) -> Hmac<Sha256> {
    let new =
        |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    let mut derived = new(seed.expose_secret().as_bytes());
    derived.update(purpose.as_bytes());
    let mut mac = new(&derived.finalize().into_bytes());
    mac.update(message.as_bytes());
    mac
}

/// A token that says this.
pub(crate) fn encode(
    seed: &SecretString,
    purpose: &str,
    claims: &impl Serialize,
) -> Result<String, serde_json::Error> {
    let header = Header {
        alg: "HS256".to_owned(),
        typ: "JWT".to_owned(),
        kid: KEY_NAME.to_owned(),
    };
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?);
    let message = format!("{header}.{claims}");
    let signature = sign(seed, purpose, &message).finalize().into_bytes();
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What a token says, whose time is not looked at.
pub(crate) fn decode<T: DeserializeOwned>(
    seed: &SecretString,
    purpose: &str,
    token: &str,
) -> Result<T, Foreign> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Foreign::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Foreign::Malformed)?;
    let read = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Foreign::Malformed);
    let (header, claims) = message.split_once('.').ok_or(Foreign::Malformed)?;
    let mac = sign(seed, purpose, message);
    mac.verify_slice(&read(signature)?)
        .map_err(|_| Foreign::Signature)?;
    // What we signed has the one algorithm; a header that says another is none of ours.
    let header: Header = serde_json::from_slice(&read(header)?).map_err(|_| Foreign::Malformed)?;
    if header.alg != "HS256" {
        return Err(Foreign::Malformed);
    }
    serde_json::from_slice(&read(claims)?).map_err(|_| Foreign::Malformed)
}
