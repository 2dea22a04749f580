//! Who may be a node of the cluster: tokens to join with, and the key that each node has
//! shown since.
//!
//! ```text
//!  token ──used by a node with its key──▶ identity ──revoked──▶ refused
//!    └─ time over ─▶ refused                 └─ another key, with another token, once the
//!                                               node is not heard of any more
//! ```
//!
//! A token is good once. What is kept of it is a digest: who reads the database cannot join.
//! Times are the store's, so that no node's clock decides.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node: Uuid,
    /// Digest of the public key that it shows.
    pub key: String,
    /// When it joined with that key.
    pub joined_at: DateTime<Utc>,
    /// Since when it is refused.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What became of the use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// The node is who it said from now on. Also where the same node with the same key had
    /// used it: an answer may get lost.
    Admitted(NodeIdentity),
    /// There is no such token, or it was over for long.
    Unknown,
    /// It was over then.
    Expired(DateTime<Utc>),
    /// Another node has used it.
    Used,
    /// A node of this id is there, with another key.
    Taken,
}

/// The part of the store that keeps who may be a node.
#[async_trait]
pub trait NodeIdentityStore: Send + Sync {
    /// Keeps a token by its digest; answers when it is over. Tokens that were over for a day
    /// are forgotten.
    async fn node_token_create(&self, digest: &str, lifetime: Duration) -> Result<DateTime<Utc>>;
    /// Uses a token for a node with a key. One of two that use it at the same time succeeds.
    async fn node_token_use(&self, digest: &str, node: Uuid, key: &str) -> Result<TokenUse>;
    /// Who a node is; nothing of one that has never joined.
    async fn node_identity(&self, node: Uuid) -> Result<Option<NodeIdentity>>;
    /// Refuses a node from now on, and ends its lease. Answers whether it had joined.
    async fn node_identity_revoke(&self, node: Uuid) -> Result<bool>;
}
