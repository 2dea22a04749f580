//! Tokens for the content of volumes: JSON Web Tokens (RFC 7519) signed by HMAC-SHA256,
//! under a key that is derived from the seed of all tokens.
//!
//! A token names the API key that it was given to and is good for as long as that key is,
//! and for no more than that key: at most [`LIFETIME`].

use crate::{Caller, Control, Error, Kind};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{TeamId, VolumeId};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::sync::Arc;
use uuid::Uuid;

/// How long a token is good.
const LIFETIME: TimeDelta = TimeDelta::hours(1);
/// Names the signing key, of which there is one.
const KEY_NAME: &str = "hearth-1";
const VOLUME_TYPE: &str = "directory";
/// Far more than a token of ours has.
const MAX_TOKEN_BYTES: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    aud: String,
    iss: String,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: Uuid,
    /// The team.
    sub: TeamId,
    teamid: TeamId,
    volid: VolumeId,
    voltype: String,
    tokid: String,
    /// The API key that it was given to.
    keyid: Uuid,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Malformed,
    Signature,
    Expired,
    OtherVolume,
}

fn sign(seed: &SecretString, message: &str) -> Hmac<Sha256> {
    let new =
        |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    let mut derived = new(seed.expose_secret().as_bytes());
    derived.update(b"volume-tokens");
    let mut mac = new(&derived.finalize().into_bytes());
    mac.update(message.as_bytes());
    mac
}

fn encode(seed: &SecretString, claims: &Claims) -> Result<String, serde_json::Error> {
    let header = Header {
        alg: "HS256".to_owned(),
        typ: "JWT".to_owned(),
        kid: KEY_NAME.to_owned(),
    };
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?);
    let message = format!("{header}.{claims}");
    let signature = sign(seed, &message).finalize().into_bytes();
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn decode(
    seed: &SecretString,
    token: &str,
    volume: VolumeId,
    now: DateTime<Utc>,
) -> Result<Claims, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let read = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed);
    let (header, claims) = message.split_once('.').ok_or(Refusal::Malformed)?;
    let mac = sign(seed, message);
    mac.verify_slice(&read(signature)?)
        .map_err(|_| Refusal::Signature)?;
    // What we signed has the one algorithm; a header that says another is none of ours.
    let header: Header = serde_json::from_slice(&read(header)?).map_err(|_| Refusal::Malformed)?;
    if header.alg != "HS256" {
        return Err(Refusal::Malformed);
    }
    let claims: Claims = serde_json::from_slice(&read(claims)?).map_err(|_| Refusal::Malformed)?;
    if claims.exp <= now.timestamp() {
        return Err(Refusal::Expired);
    }
    match claims.volid == volume {
        true => Ok(claims),
        false => Err(Refusal::OtherVolume),
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(
            Kind::Unauthenticated,
            match refusal {
                Refusal::Malformed => "The volume token is malformed",
                Refusal::Signature => {
                    "The volume token was not given out by this server, or has been changed"
                }
                Refusal::Expired => {
                    "The volume token has expired: get a new one (GET /volumes/{volumeID})"
                }
                Refusal::OtherVolume => "The volume token is for another volume",
            },
        )
    }
}

impl Control {
    /// A token for the content of a volume, as good as the caller's key.
    pub(crate) fn volume_token(
        &self,
        caller: &Caller,
        volume: VolumeId,
    ) -> Result<SecretString, Error> {
        let now = Utc::now();
        let address = format!("https://api.{}", self.config.domain);
        let claims = Claims {
            aud: address.clone(),
            iss: address,
            exp: (now + LIFETIME).timestamp(),
            iat: now.timestamp(),
            nbf: now.timestamp(),
            jti: Uuid::new_v4(),
            sub: caller.team_id(),
            teamid: caller.team_id(),
            volid: volume,
            voltype: VOLUME_TYPE.to_owned(),
            tokid: KEY_NAME.to_owned(),
            keyid: caller.key_id,
        };
        let token = encode(&self.config.token_seed, &claims).map_err(Error::internal)?;
        Ok(token.into())
    }

    /// The caller that a token for a volume was given to. Whether there is such a volume,
    /// and what the caller may do, is not looked at.
    ///
    /// Errors: `Unauthenticated` for a token that is not ours, is over or for another
    /// volume, or whose API key was deleted.
    pub async fn volume_authenticate(
        &self,
        token: &str,
        volume: VolumeId,
    ) -> Result<Caller, Error> {
        let claims = decode(&self.config.token_seed, token, volume, Utc::now())?;
        let gone = || {
            let message = "The API key that the volume token was given to was deleted";
            Error::new(Kind::Unauthenticated, message)
        };
        let team = self.store.team(claims.teamid).await?.ok_or_else(gone)?;
        let keys = self.store.api_key_list(team.id).await?;
        let key = keys.into_iter().find(|key| key.id == claims.keyid);
        let key = key.ok_or_else(gone)?;
        Ok(Caller {
            key_id: key.id,
            team: Arc::new(team),
            grant: Arc::new(key.grant),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(volume: VolumeId, end: i64) -> Claims {
        let team = TeamId::random();
        Claims {
            aud: "https://api.example.com".to_owned(),
            iss: "https://api.example.com".to_owned(),
            exp: end,
            iat: 0,
            nbf: 0,
            jti: Uuid::new_v4(),
            sub: team,
            teamid: team,
            volid: volume,
            voltype: VOLUME_TYPE.to_owned(),
            tokid: KEY_NAME.to_owned(),
            keyid: Uuid::new_v4(),
        }
    }

    #[test]
    fn a_token_is_good_for_its_volume_until_it_is_over() {
        let seed = SecretString::from("seed");
        let (volume, now) = (VolumeId::random(), Utc::now());
        let claims = claims(volume, now.timestamp() + 1);
        let token = encode(&seed, &claims).expect("is written");
        assert_eq!(decode(&seed, &token, volume, now), Ok(claims));
        let later = now + TimeDelta::seconds(1);
        assert_eq!(decode(&seed, &token, volume, later), Err(Refusal::Expired));
        let other = decode(&seed, &token, VolumeId::random(), now);
        assert_eq!(other, Err(Refusal::OtherVolume));
        let foreign = SecretString::from("other seed");
        let foreign = decode(&foreign, &token, volume, now);
        assert_eq!(foreign, Err(Refusal::Signature));
    }

    #[test]
    fn no_changed_token_is_taken() {
        let seed = SecretString::from("seed");
        let (volume, now) = (VolumeId::random(), Utc::now());
        let claims = claims(volume, now.timestamp() + 60);
        let token = encode(&seed, &claims).expect("is written");
        for index in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            // Another digit of base 64, in a bit that counts everywhere.
            changed[index] = if changed[index] == b'A' { b'Q' } else { b'A' };
            let changed = String::from_utf8(changed).expect("is text");
            assert!(decode(&seed, &changed, volume, now).is_err(), "{index}");
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT","kid":"hearth-1"}"#);
        let body = token.split('.').nth(1).expect("a body");
        for unsigned in [
            format!("{header}.{body}."),
            String::new(),
            ".".to_owned(),
            "x".repeat(9999),
        ] {
            assert!(decode(&seed, &unsigned, volume, now).is_err());
        }
    }

    /// What other readers of such tokens find, with the key that openssl derives.
    #[test]
    fn a_token_is_a_json_web_token() {
        let seed = SecretString::from("seed");
        let token = encode(&seed, &claims(VolumeId::random(), 5)).expect("is written");
        let mut parts = token.split('.');
        let header = URL_SAFE_NO_PAD.decode(parts.next().expect("a header"));
        assert_eq!(
            header.expect("is base 64"),
            br#"{"alg":"HS256","typ":"JWT","kid":"hearth-1"}"#
        );
        // printf %s volume-tokens | openssl dgst -sha256 -hmac seed
        let key = "2efcd0a4fa743ae22beff4fcd4f503e68ffbaef50805f6b00e7d8366f5da0f5e";
        let key = hex::decode(key).expect("is hexadecimal");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("is a key");
        let (message, signature) = token.rsplit_once('.').expect("a signature");
        mac.update(message.as_bytes());
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("is base 64");
        assert!(mac.verify_slice(&signature).is_ok());
    }
}
