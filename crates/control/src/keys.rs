//! API keys: `e2b_` and 40 hex digits, kept as a hash and a mask.
//!
//! These are functions over the store alone, so that a command line tool can
//! manage keys while no server runs.

use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chrono::{TimeDelta, Utc};
use hearth_ids::TeamId;
use hearth_store::{ApiKey, KeyGrant, KeyMask, NewApiKey, Store};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What every key begins with.
pub const PREFIX: &str = "e2b_";
const RANDOM_BYTES: usize = 20;
const MAX_NAME_LENGTH: usize = 256;
const MAX_KEY_LENGTH: usize = 256;
const MAX_NETWORKS: usize = 64;

/// Makes a key for a team, for everything and for ever. The secret is answered this
/// once.
pub async fn create(
    store: &dyn Store,
    team: TeamId,
    name: &str,
) -> Result<(ApiKey, SecretString), Error> {
    issue(store, team, name, KeyGrant::default()).await
}

/// Makes a key for a team. The secret is answered this once.
///
/// Errors: `Invalid` for a name or a grant that makes no key.
pub async fn issue(
    store: &dyn Store,
    team: TeamId,
    name: &str,
    grant: KeyGrant,
) -> Result<(ApiKey, SecretString), Error> {
    let (new, secret) = draft(team, name, grant)?;
    Ok((store.api_key_create(new).await?, secret))
}

/// Makes a key like another one, which ends when `overlap` is over. One that has an end
/// is followed by one that lasts as long as it was made to. The secret is answered this
/// once.
///
/// Errors: `NotFound`; `Invalid` when the key is over already.
pub async fn rotate(
    store: &dyn Store,
    team: TeamId,
    id: Uuid,
    overlap: TimeDelta,
) -> Result<(ApiKey, SecretString), Error> {
    let unknown = || Error::not_found(format!("API key {id} does not exist"));
    let keys = store.api_key_list(team).await?;
    let old = keys.into_iter().find(|key| key.id == id);
    let old = old.ok_or_else(unknown)?;
    let now = Utc::now();
    if old.grant.expired(now) {
        return Err(Error::invalid("id", "the key is over: make a new one"));
    }
    let grant = KeyGrant {
        expires_at: old.grant.expires_at.map(|end| now + (end - old.created_at)),
        ..old.grant
    };
    let (new, secret) = draft(team, &old.name, grant)?;
    let replaced = store.api_key_replace(id, now + overlap, new).await?;
    Ok((replaced.ok_or_else(unknown)?, secret))
}

/// The unrevoked key with this secret, if there is one.
///
/// Errors: `Internal`, when the store cannot be read.
pub async fn find(store: &dyn Store, secret: &SecretString) -> Result<Option<ApiKey>, Error> {
    let found = store.api_key_by_hash(&hash(secret.expose_secret())).await?;
    Ok(found.map(|(key, _)| key))
}

fn draft(team: TeamId, name: &str, grant: KeyGrant) -> Result<(NewApiKey, SecretString), Error> {
    let name = check_name(name)?;
    let now = Utc::now();
    if grant.scopes.is_empty() {
        return Err(Error::invalid(
            "scopes",
            "must name at least one of sandboxes, templates, secrets, admin",
        ));
    }
    if grant.expired(now) {
        return Err(Error::invalid("expiresAt", "must be in the future"));
    }
    if grant.networks.len() > MAX_NETWORKS {
        return Err(Error::invalid(
            "networks",
            format_args!("at most {MAX_NETWORKS} are allowed"),
        ));
    }
    let secret = generate()?;
    let new = NewApiKey {
        id: Uuid::new_v4(),
        team_id: team,
        name: name.to_owned(),
        hash: hash(secret.expose_secret()),
        mask: mask(secret.expose_secret()),
        grant,
        created_at: now,
    };
    Ok((new, secret))
}

fn check_name(name: &str) -> Result<&str, Error> {
    let name = name.trim();
    let fits = (1..=MAX_NAME_LENGTH).contains(&name.chars().count());
    if !fits || name.contains(char::is_control) {
        return Err(Error::invalid(
            "name",
            format_args!("must have 1 to {MAX_NAME_LENGTH} characters, none of control"),
        ));
    }
    Ok(name)
}

/// Gives a key of the team another name.
///
/// Errors: `NotFound`; `Invalid` for a name that is none.
pub async fn rename(store: &dyn Store, team: TeamId, id: Uuid, name: &str) -> Result<(), Error> {
    if store.api_key_rename(team, id, check_name(name)?).await? {
        Ok(())
    } else {
        Err(Error::not_found(format!("API key {id} does not exist")))
    }
}

/// A team's unrevoked keys, oldest first.
pub async fn list(store: &dyn Store, team: TeamId) -> Result<Vec<ApiKey>, Error> {
    Ok(store.api_key_list(team).await?)
}

/// Ends a key. A running server notices within
/// [`crate::Control::KEY_CACHE_SECONDS`].
pub async fn revoke(store: &dyn Store, team: TeamId, id: Uuid) -> Result<(), Error> {
    if store.api_key_revoke(team, id, Utc::now()).await? {
        Ok(())
    } else {
        Err(Error::not_found(format!("API key {id} does not exist")))
    }
}

fn generate() -> Result<SecretString, Error> {
    let mut bytes = [0u8; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal(error.to_string()))?;
    Ok(SecretString::from(format!(
        "{PREFIX}{}",
        hex::encode(bytes)
    )))
}

/// `$sha256$` and the unpadded base64 of the SHA-256 of the random bytes: of
/// what the digits say, where the key is well-formed.
pub(crate) fn hash(key: &str) -> String {
    let value = key.strip_prefix(PREFIX).unwrap_or(key);
    let bytes = hex::decode(value).unwrap_or_else(|_| value.as_bytes().to_vec());
    format!("$sha256${}", STANDARD_NO_PAD.encode(Sha256::digest(bytes)))
}

/// Whether a text can be a key at all, so that garbage never reaches the store.
pub(crate) fn well_formed(key: &str) -> bool {
    key.len() <= MAX_KEY_LENGTH
        && key
            .strip_prefix(PREFIX)
            .is_some_and(|value| !value.is_empty() && hex::decode(value).is_ok())
}

fn mask(key: &str) -> KeyMask {
    let value = key.strip_prefix(PREFIX).unwrap_or(key);
    KeyMask {
        prefix: PREFIX.to_owned(),
        value_length: u32::try_from(value.len()).unwrap_or(u32::MAX),
        first: value.chars().take(2).collect(),
        last: value
            .chars()
            .skip(value.chars().count().saturating_sub(4))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_documented_form_hash_and_mask() {
        let key = generate().expect("random");
        let text = key.expose_secret();
        assert_eq!(text.len(), 44);
        assert!(well_formed(text));
        // printf '\x00\x01' | openssl dgst -sha256 -binary | base64 | tr -d =
        assert_eq!(
            hash("e2b_0001"),
            "$sha256$tBP0fRPuL+bIRbLuFBr4HehY307FSaWLeXC7lmRbyNI"
        );
        let shown = mask("e2b_0123456789");
        assert_eq!((shown.first.as_str(), shown.last.as_str()), ("01", "6789"));
        assert_eq!(shown.value_length, 10);
    }

    #[test]
    fn malformed_keys_are_refused_before_the_store() {
        for text in ["", "e2b_", "test", "e2b_xyz", "sk_e2b_00", "e2b_0"] {
            assert!(!well_formed(text), "{text:?}");
        }
        assert!(!well_formed(&format!("e2b_{}", "0".repeat(400))));
    }
}
