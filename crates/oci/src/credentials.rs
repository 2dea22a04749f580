//! What a registry is shown by those who read from it.

use secrecy::SecretString;

/// Never printed; kept for one build.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// None, as public images need none.
    #[default]
    Anonymous,
    /// A name and a password or token, as every registry takes them.
    Basic {
        /// The name; for tokens often a fixed one.
        username: String,
        /// The password or token.
        password: SecretString,
    },
    /// Keys that an AWS registry gives a password for.
    Aws {
        /// Public half of the key.
        access_key_id: String,
        /// Secret half of the key.
        secret_access_key: SecretString,
        /// Region of the registry, such as `eu-central-1`.
        region: String,
    },
    /// A service account's key file, which Google's registries take as it is.
    Gcp {
        /// The whole file.
        service_account_json: SecretString,
    },
}

impl Credentials {
    /// A user name and a password.
    #[must_use]
    pub fn basic(username: String, password: String) -> Self {
        Self::Basic {
            username,
            password: password.into(),
        }
    }

    /// An access key of AWS, for its registries in a region.
    #[must_use]
    pub fn aws(access_key_id: String, secret_access_key: String, region: String) -> Self {
        Self::Aws {
            access_key_id,
            secret_access_key: secret_access_key.into(),
            region,
        }
    }

    /// The key file of a service account of Google's.
    #[must_use]
    pub fn gcp(service_account_json: String) -> Self {
        Self::Gcp {
            service_account_json: service_account_json.into(),
        }
    }
}
