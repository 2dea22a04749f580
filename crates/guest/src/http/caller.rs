//! Who a request comes from: the token that lets it in, and the user that it
//! acts as.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ConnectError;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::settings::Settings;
use crate::users::{User, UserDatabase, UserError};

/// The header with the sandbox's token.
pub const ACCESS_TOKEN_HEADER: &str = "x-access-token";

/// The token that a request presents.
pub fn presented_token(headers: &HeaderMap) -> Option<&str> {
    headers.get(ACCESS_TOKEN_HEADER)?.to_str().ok()
}

/// The user an RPC acts as: the name of HTTP Basic authentication (the password
/// is not looked at; the token is what admits), else the default user.
pub fn rpc_user(
    headers: &HeaderMap,
    settings: &Settings,
    users: &UserDatabase,
) -> Result<User, ConnectError> {
    let name = basic_user(headers);
    let name = name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or(&settings.default_user);
    users.by_name(name).map_err(|error| match error {
        UserError::Unknown(name) => {
            ConnectError::unauthenticated(format!("invalid username: '{name}'"))
        }
        UserError::Read(_) => ConnectError::internal(error.to_string()),
    })
}

fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    Some(
        decoded
            .split_once(':')
            .map_or(decoded.as_str(), |(user, _)| user)
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        basic_user(&headers)
    }

    #[test]
    fn the_basic_user_is_read() {
        assert_eq!(user_of("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(user_of("basic dXNlcjpwOnc=").as_deref(), Some("user"));
        assert_eq!(user_of("Basic !!"), None);
        assert_eq!(user_of("Bearer x"), None);
        assert_eq!(user_of("Basic"), None);
    }
}
