//! A name and a password for a registry, and the header that shows them.

use crate::Error;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

/// A name and a password.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: SecretString,
}

impl Login {
    /// Both as HTTP's basic authorization has them.
    pub(crate) fn basic(&self) -> Result<HeaderValue, Error> {
        let text = format!("{}:{}", self.username, self.password.expose_secret());
        header(&format!("Basic {}", STANDARD.encode(text)))
    }
}

/// The value of a header that no log shows.
pub(crate) fn header(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::Credentials("the credentials hold characters that cannot be sent".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}
