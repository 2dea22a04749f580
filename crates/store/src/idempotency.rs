//! Requests that are carried out once, however often they are sent.

use crate::{OwnerId, Result};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{SandboxId, TeamId};

/// Whoever carries the request of an idempotency key out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyHolder {
    /// Whose key it is.
    pub team_id: TeamId,
    /// The key.
    pub key: String,
    /// The sandbox that is made under the claim.
    pub sandbox_id: SandboxId,
    /// The process that makes it.
    pub owner: OwnerId,
}

/// A claim to be made.
#[derive(Debug, Clone)]
pub struct IdempotencyRequest {
    /// Who claims. Its sandbox id is the one that the sandbox gets if this is the
    /// first claim.
    pub holder: IdempotencyHolder,
    /// Tells one request from another.
    pub request_hash: String,
    /// Now.
    pub now: DateTime<Utc>,
    /// Until when nobody else may take the claim over.
    pub lease_until: DateTime<Utc>,
    /// When the key may be used afresh.
    pub expires_at: DateTime<Utc>,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyClaim {
    /// The key is the caller's, who now carries the request out.
    Fresh,
    /// The key is the caller's; an earlier holder did not finish and may or may
    /// not have made this sandbox.
    TakenOver {
        /// The sandbox of the first claim.
        sandbox_id: SandboxId,
    },
    /// Somebody is carrying the same request out.
    InProgress,
    /// The same request was carried out, with this outcome.
    Done {
        /// As it was recorded.
        outcome: String,
    },
    /// The key was used for another request.
    Mismatch,
}

/// The part of the store that keeps idempotency keys. What ends a claim does nothing
/// for somebody who does not hold it.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Claims an idempotency key, or says what became of it. Expired records
    /// are dropped on the way.
    async fn idempotency_claim(&self, request: IdempotencyRequest) -> Result<IdempotencyClaim>;
    /// Records the outcome of a claim.
    async fn idempotency_finish(&self, holder: &IdempotencyHolder, outcome: &str) -> Result<()>;
    /// Gives up an unfinished claim, so that the key can be used afresh.
    async fn idempotency_release(&self, holder: &IdempotencyHolder) -> Result<()>;
    /// Ends the lease of an unfinished claim but keeps the claim: the next one
    /// takes it over.
    async fn idempotency_yield(&self, holder: &IdempotencyHolder) -> Result<()>;
    /// Ends the leases of all unfinished claims of one owner. Only for a process that
    /// knows that the one which had this id before it is gone.
    async fn idempotency_end_leases(&self, owner: &OwnerId) -> Result<()>;
}
