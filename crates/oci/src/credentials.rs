//! What a registry is shown by those who read from it.

use secrecy::SecretString;

/// Never printed; kept for one build.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    #[default]
    Anonymous,
    /// A name and a password or token, as every registry takes them.
    Basic {
        username: String,
        password: SecretString,
    },
    /// Keys that an AWS registry gives a password for.
    Aws {
        access_key_id: String,
        secret_access_key: SecretString,
        region: String,
    },
    /// A service account's key file, which Google's registries take as it is.
    Gcp { service_account_json: SecretString },
}

impl Credentials {
    #[must_use]
    pub fn basic(username: String, password: String) -> Self {
        Self::Basic {
            username,
            password: password.into(),
        }
    }

    #[must_use]
    pub fn aws(access_key_id: String, secret_access_key: String, region: String) -> Self {
        Self::Aws {
            access_key_id,
            secret_access_key: secret_access_key.into(),
            region,
        }
    }

    #[must_use]
    pub fn gcp(service_account_json: String) -> Self {
        Self::Gcp {
            service_account_json: service_account_json.into(),
        }
    }
}
