//! API keys. A key goes out once, when it is made.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// A key to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKey {
    /// What the key is for.
    pub name: String,
    /// Of `sandboxes`, `templates`, `secrets`, `admin`; all where left out.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Whether the key is only for what changes nothing.
    #[serde(default)]
    pub read_only: Option<bool>,
    /// RFC 3339; the key is for ever where left out.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Networks such as `198.51.100.0/24` that requests may come from; all where left out.
    #[serde(default)]
    pub networks: Option<Vec<String>>,
}

/// Another name for a key.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct UpdateApiKey {
    /// The name.
    pub name: String,
}

/// What may be shown of a key.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyMask {
    /// What every key begins with.
    pub prefix: String,
    /// Length of what follows the prefix.
    pub value_length: u32,
    /// The first characters of it.
    pub masked_value_prefix: String,
    /// The last characters of it.
    pub masked_value_suffix: String,
}

/// A key, masked.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamApiKey {
    /// Names the key in requests.
    pub id: String,
    /// What the key is for.
    pub name: String,
    /// What may be shown of it.
    pub mask: ApiKeyMask,
    /// When it was made.
    #[serde(serialize_with = "crate::time::serialize")]
    pub created_at: DateTime<Utc>,
    /// The contract's; keys are teams' and not people's.
    pub created_by: Option<crate::TeamUser>,
    /// When it was last used, to the minute.
    #[serde(serialize_with = "crate::time::option::serialize")]
    pub last_used: Option<DateTime<Utc>>,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Whether it is only for what changes nothing.
    pub read_only: bool,
    /// From then on it is refused.
    #[serde(serialize_with = "crate::time::option::serialize")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Networks that requests may come from; all where there is none.
    pub networks: Vec<String>,
}

/// A new key with the key itself.
#[derive(Clone, Serialize, ToSchema)]
pub struct CreatedApiKey {
    /// The key itself, shown this once.
    pub key: String,
    /// What else there is to it.
    #[serde(flatten)]
    pub shown: TeamApiKey,
}

// Not derived: a key is in no log.
impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("CreatedApiKey");
        shown.field("shown", &self.shown).finish_non_exhaustive()
    }
}
