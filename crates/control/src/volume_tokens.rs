//! Tokens for the content of volumes.
//!
//! A token names the API key that it was given to and is good for as long as that key is,
//! and for no more than that key: at most [`LIFETIME`].

use crate::signed::{self, Foreign, KEY_NAME};
use crate::{Caller, Control, Error, Kind};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{TeamId, VolumeId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// How long a token is good.
const LIFETIME: TimeDelta = TimeDelta::hours(1);
const PURPOSE: &str = "volume-tokens";
const VOLUME_TYPE: &str = "directory";

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

fn decode(
    seed: &SecretString,
    token: &str,
    volume: VolumeId,
    now: DateTime<Utc>,
) -> Result<Claims, Refusal> {
    let claims: Claims = signed::decode(seed, PURPOSE, token)?;
    if claims.exp <= now.timestamp() {
        return Err(Refusal::Expired);
    }
    match claims.volid == volume {
        true => Ok(claims),
        false => Err(Refusal::OtherVolume),
    }
}

impl From<Foreign> for Refusal {
    fn from(foreign: Foreign) -> Self {
        match foreign {
            Foreign::Malformed => Self::Malformed,
            Foreign::Signature => Self::Signature,
        }
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
        let token =
            signed::encode(&self.config.token_seed, PURPOSE, &claims).map_err(Error::internal)?;
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
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;

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
        let token = signed::encode(&seed, PURPOSE, &claims).expect("is written");
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
        let token = signed::encode(&seed, PURPOSE, &claims).expect("is written");
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
        let token =
            signed::encode(&seed, PURPOSE, &claims(VolumeId::random(), 5)).expect("is written");
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
