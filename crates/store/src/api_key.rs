//! API keys, of which only hash and mask are kept.

use crate::{Result, Team};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use uuid::Uuid;

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMask {
    /// What every key begins with.
    pub prefix: String,
    /// Length of what follows the prefix.
    pub value_length: u32,
    /// The first characters after the prefix.
    pub first: String,
    /// The last characters.
    pub last: String,
}

/// A key to be kept.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Names the key in lists and in the audit log.
    pub id: Uuid,
    /// Whom it acts for.
    pub team_id: TeamId,
    /// For people.
    pub name: String,
    /// `$sha256$` and the unpadded base64 of the key's hash.
    pub hash: String,
    /// What may be shown of it.
    pub mask: KeyMask,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names the key in lists and in the audit log.
    pub id: Uuid,
    /// Whom it acts for.
    pub team_id: TeamId,
    /// For people.
    pub name: String,
    /// `$sha256$` and the unpadded base64 of the key's hash.
    pub hash: String,
    /// What may be shown of it.
    pub mask: KeyMask,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// The part of the store that keeps API keys.
#[async_trait]
pub trait ApiKeyStore: Send + Sync {
    /// Errors: [`crate::Error::Conflict`] when the hash is known.
    async fn api_key_create(&self, key: NewApiKey) -> Result<ApiKey>;
    /// The unrevoked key with this hash, and its team.
    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<(ApiKey, Team)>>;
    /// A team's unrevoked keys, oldest first.
    async fn api_key_list(&self, team: TeamId) -> Result<Vec<ApiKey>>;
    /// Answers whether there was such an unrevoked key of the team.
    async fn api_key_revoke(&self, team: TeamId, id: Uuid, now: DateTime<Utc>) -> Result<bool>;
    /// Notes a use of the key.
    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()>;
}
