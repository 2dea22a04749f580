//! Secrets that egress rules put into requests. A value comes in and never goes out.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

#[derive(Clone, Deserialize, ToSchema)]
pub struct NewSecret {
    /// Kept in lower case; `sec_` begins no name.
    pub name: String,
    pub value: String,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Deserialize, ToSchema)]
pub struct SecretUpdate {
    pub value: String,
    /// Replaces what was kept; left out, that stays.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

// Not derived: a value is in no log.
impl fmt::Debug for NewSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("NewSecret");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretUpdate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SecretUpdate")
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    #[serde(rename = "secretID")]
    pub secret_id: String,
    pub name: String,
    /// 1 for a new secret; each new value is one more.
    pub current_version: u64,
    pub metadata: BTreeMap<String, String>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub updated_at: DateTime<Utc>,
}
