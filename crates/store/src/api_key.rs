//! API keys, of which only hash and mask are kept.

use crate::{Result, Team};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// A part of the API that a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Sandboxes and their snapshots, logs and metrics.
    Sandboxes,
    /// Templates and their builds, and deleting snapshots.
    Templates,
    /// Secrets that rules put into requests.
    Secrets,
    /// The team's API keys and webhooks.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sandboxes, Self::Templates, Self::Secrets, Self::Admin];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::Templates => "templates",
            Self::Secrets => "secrets",
            Self::Admin => "admin",
        }
    }

    /// The scope that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What a key may be used for, until when, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// Parts of the API; never empty.
    pub scopes: BTreeSet<Scope>,
    /// Only for what changes nothing.
    pub read_only: bool,
    /// From then on it is refused.
    pub expires_at: Option<DateTime<Utc>>,
    /// Only for requests from these; from everywhere where there are none.
    pub networks: Vec<IpNet>,
}

impl Default for KeyGrant {
    /// Everything, for ever, from everywhere.
    fn default() -> Self {
        Self {
            scopes: Scope::ALL.into(),
            read_only: false,
            expires_at: None,
            networks: Vec::new(),
        }
    }
}

impl KeyGrant {
    /// Whether the time of the key is over.
    #[must_use]
    pub fn expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether requests from this address are allowed. What has no address comes from
    /// no network.
    #[must_use]
    pub fn allows_source(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(|address| address.to_canonical());
        let within = |network: &IpNet| address.is_some_and(|address| network.contains(&address));
        self.networks.is_empty() || self.networks.iter().any(within)
    }

    /// The scopes as they are written, separated by commas; `read-only` after them.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut words: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        if self.scopes.len() == Scope::ALL.len() {
            words = vec!["all"];
        }
        if self.read_only {
            words.push("read-only");
        }
        words.join(",")
    }
}

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
    /// What it may be used for.
    pub grant: KeyGrant,
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
    /// What it may be used for.
    pub grant: KeyGrant,
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
    /// The unrevoked key with this hash, whether or not its time is over, and its team.
    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<(ApiKey, Team)>>;
    /// A team's unrevoked keys, those whose time is over among them, oldest first.
    async fn api_key_list(&self, team: TeamId) -> Result<Vec<ApiKey>>;
    /// Answers whether there was such an unrevoked key of the team.
    async fn api_key_rename(&self, team: TeamId, id: Uuid, name: &str) -> Result<bool>;
    /// Makes a key in the place of another one of its team, which ends at `old_until` or
    /// when it would have ended before. `None` where there is no such unrevoked key.
    async fn api_key_replace(
        &self,
        old: Uuid,
        old_until: DateTime<Utc>,
        new: NewApiKey,
    ) -> Result<Option<ApiKey>>;
    /// Answers whether there was such an unrevoked key of the team.
    async fn api_key_revoke(&self, team: TeamId, id: Uuid, now: DateTime<Utc>) -> Result<bool>;
    /// Waits until a key or its team may have changed since the last wait, in whichever
    /// process; for one task of each process. Never answers where the store does not tell
    /// that: what is remembered of keys has to grow old there.
    async fn api_keys_changed(&self) -> Result<()>;
    /// Notes a use of the key.
    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()>;
}
