//! Leases: who does what only one process may do, and which processes are there.
//!
//! ```text
//!  (none) ──acquire──▶ held ──renew──▶ held
//!     ▲                 │ └─ time over ─acquire by another─▶ held by that one
//!     └─────release─────┘
//! ```
//!
//! Lengths are measured by the store's clock alone, as those of processes on several
//! machines differ. A lease says who should do a job, not that nobody else is still at
//! it: a process that stood still past its lease learns of that at its next renewal.
//! What must not happen twice is therefore checked by the write itself.

use crate::Result;
use async_trait::async_trait;
use std::fmt;
use std::time::Duration;

/// A process that uses the store. One that starts again where an earlier one ended has
/// that one's id, as long as the two surely do not run at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnerId(String);

impl OwnerId {
    /// An id that no other process has.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The id of this text: 1 to 64 characters of a-z, A-Z, 0-9, `-`, `_` and `.`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        ((1..=64).contains(&text.len()) && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a lease is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseName(String);

impl LeaseName {
    /// What the names of presences begin with; the owner follows.
    pub const PRESENCE: &str = "process/";

    /// Taking up what dead processes left.
    #[must_use]
    pub fn sweep() -> Self {
        Self("sweep".to_owned())
    }

    /// Being the daemon whose node the builds in the store are on.
    #[must_use]
    pub fn daemon() -> Self {
        Self("daemon".to_owned())
    }

    /// Sending events to webhooks.
    #[must_use]
    pub fn webhooks() -> Self {
        Self("webhooks".to_owned())
    }

    /// That a process is there. What it owns is nobody else's while it holds this.
    #[must_use]
    pub fn presence(owner: &OwnerId) -> Self {
        Self(format!("{}{owner}", Self::PRESENCE))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The part of the store that keeps leases.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Takes a lease that is free or whose time is over, or renews one's own: from now
    /// on it is `owner`'s for `length`. Answers whether it is.
    async fn lease_acquire(
        &self,
        name: &LeaseName,
        owner: &OwnerId,
        length: Duration,
    ) -> Result<bool>;
    /// Gives one's own lease back. Nothing happens to another one's.
    async fn lease_release(&self, name: &LeaseName, owner: &OwnerId) -> Result<()>;
    /// Who holds a lease now.
    async fn lease_holder(&self, name: &LeaseName) -> Result<Option<OwnerId>>;
}
