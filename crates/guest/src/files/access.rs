//! Who may use `/files`: the holder of the token, or of a URL that was signed
//! with it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Actor;
use crate::Agent;
use crate::http::{HttpError, caller};
use crate::settings::Settings;
use crate::users::UserError;

/// What a signed URL allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The query of a `/files` request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileQuery {
    /// As written; `None` when absent.
    pub path: Option<String>,
    pub username: Option<String>,
    pub signature: Option<String>,
    pub signature_expiration: Option<String>,
}

impl FileQuery {
    pub fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*name {
                "path" => &mut parsed.path,
                "username" => &mut parsed.username,
                "signature" => &mut parsed.signature,
                "signature_expiration" => &mut parsed.signature_expiration,
                _ => continue,
            };
            // The first one counts.
            field.get_or_insert_with(|| value.into_owned());
        }
        parsed
    }

    /// The path, where an absent one is an empty one.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("")
    }
}

/// Lets the request in or says why not.
pub fn authorize(
    settings: &Settings,
    headers: &HeaderMap,
    query: &FileQuery,
    operation: Operation,
    now: SystemTime,
) -> Result<(), HttpError> {
    let Some(token) = settings.access_token() else {
        return Ok(());
    };
    if let Some(presented) = caller::presented_token(headers) {
        if settings.token_accepts(Some(presented)) {
            return Ok(());
        }
        return Err(HttpError::unauthorized(
            "access token present in header but does not match",
        ));
    }
    let Some(signature) = &query.signature else {
        return Err(HttpError::unauthorized("missing signature query parameter"));
    };
    let user = query.username.as_deref().unwrap_or("");
    let expiration = query.signature_expiration.as_deref();
    let expected = sign(query.path(), operation, user, token, expiration);
    if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return Err(HttpError::unauthorized("invalid signature"));
    }
    if let Some(expiration) = expiration {
        let expiration: u64 = expiration
            .parse()
            .map_err(|_| HttpError::unauthorized("invalid signature expiration"))?;
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if expiration < now {
            return Err(HttpError::unauthorized("signature is already expired"));
        }
    }
    Ok(())
}

/// The signature of a URL. Path, user and expiration as they are written in it.
fn sign(
    path: &str,
    operation: Operation,
    user: &str,
    token: &str,
    expiration: Option<&str>,
) -> String {
    let mut hash = Sha256::new();
    for part in [path, ":", operation.name(), ":", user, ":", token] {
        hash.update(part);
    }
    if let Some(expiration) = expiration {
        hash.update(":");
        hash.update(expiration);
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(hash.finalize()))
}

/// The user that a `/files` request acts as.
pub fn actor(
    agent: &Agent,
    settings: &Settings,
    username: Option<&str>,
) -> Result<Actor, HttpError> {
    let name = username
        .filter(|name| !name.is_empty())
        .unwrap_or(&settings.default_user);
    let user = agent.users.by_name(name).map_err(|error| match error {
        UserError::Unknown(_) => HttpError::unauthorized(format!(
            "error looking up user '{name}': user: unknown user {name}"
        )),
        UserError::Read(_) => HttpError::internal(error.to_string()),
    })?;
    Ok(Actor::new(user, settings, &agent.users))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    const KNOWN: &str = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";

    fn secured() -> Settings {
        let mut settings = Settings::default();
        settings.set_access_token(Some(TOKEN.into()));
        settings
    }

    fn check(query: &FileQuery, operation: Operation, now: u64) -> Result<(), String> {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        authorize(&secured(), &HeaderMap::new(), query, operation, now)
            .map_err(|error| error.message)
    }

    #[test]
    fn known_vector() {
        assert_eq!(
            sign("hello.txt", Operation::Read, "user", TOKEN, None),
            KNOWN
        );
    }

    #[test]
    fn a_signed_url_is_good_for_what_was_signed() {
        let encoded: String = form_urlencoded::byte_serialize(KNOWN.as_bytes()).collect();
        let query = format!("path=hello.txt&username=user&signature={encoded}");
        let query = FileQuery::parse(&query);
        assert_eq!(check(&query, Operation::Read, 0), Ok(()));
        assert_eq!(
            check(&query, Operation::Write, 0),
            Err("invalid signature".into())
        );
        let other = FileQuery {
            path: Some("hello.tx".into()),
            ..query.clone()
        };
        assert_eq!(
            check(&other, Operation::Read, 0),
            Err("invalid signature".into())
        );
        let unsigned = FileQuery {
            signature: None,
            ..query
        };
        let missing = Err("missing signature query parameter".into());
        assert_eq!(check(&unsigned, Operation::Read, 0), missing);
    }

    #[test]
    fn expiry_is_told_exactly() {
        let signature = sign("", Operation::Write, "", TOKEN, Some("100"));
        let query = FileQuery {
            signature: Some(signature),
            signature_expiration: Some("100".into()),
            ..Default::default()
        };
        assert_eq!(check(&query, Operation::Write, 100), Ok(()));
        let expired = Err("signature is already expired".into());
        assert_eq!(check(&query, Operation::Write, 101), expired);
        let stretched = FileQuery {
            signature_expiration: Some("999".into()),
            ..query
        };
        assert_eq!(
            check(&stretched, Operation::Write, 101),
            Err("invalid signature".into())
        );
    }

    proptest! {
        #[test]
        fn a_changed_signature_is_refused(at in 0_usize..46, bit in 0_u8..7, path in ".{0,20}") {
            let mut signature = sign(&path, Operation::Read, "", TOKEN, None).into_bytes();
            signature[at] ^= 1 << bit;
            let signature = String::from_utf8(signature).ok();
            let query = FileQuery { path: Some(path), signature, ..Default::default() };
            prop_assert!(check(&query, Operation::Read, 0).is_err());
        }
    }
}
