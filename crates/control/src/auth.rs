//! Who is calling.
//!
//! Only the hash of a key is compared: with the store's index, and once more in
//! constant time. Verified keys are remembered for [`TTL`], in a map of at most
//! [`CAPACITY`], so that a revoked key stops within that time even when another
//! process revoked it. Unknown keys are never remembered.

use crate::error::{Error, Kind};
use crate::sandboxes::time_to_live;
use crate::{Control, keys};
use chrono::{TimeDelta, Utc};
use hearth_ids::TeamId;
use hearth_store::{KeyGrant, Team};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

const TTL: Duration = Duration::from_secs(Control::KEY_CACHE_SECONDS);
const CAPACITY: usize = 4096;
/// How often at most the time of a key's last use is written.
const TOUCH_EVERY: TimeDelta = TimeDelta::minutes(1);

/// An authenticated caller: a key, and the team that it acts for.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Names the key in lists and in the audit log.
    pub key_id: Uuid,
    /// Whom it acts for.
    pub team: Arc<Team>,
    /// What it may be used for.
    pub grant: Arc<KeyGrant>,
}

impl Caller {
    #[must_use]
    pub fn team_id(&self) -> TeamId {
        self.team.id
    }

    /// Refuses a time to live that is over the team's limit, whatever sandbox it is
    /// for and whether or not there is one.
    pub fn check_timeout(&self, seconds: i64) -> Result<(), Error> {
        time_to_live(seconds, 0, self.team.limits).map(drop)
    }
}

#[derive(Default)]
pub(crate) struct KeyCache {
    entries: Mutex<HashMap<String, (Instant, Caller)>>,
}

impl KeyCache {
    fn find(&self, hash: &str, now: Instant) -> Option<Caller> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, caller) = entries.get(hash)?;
        (now.duration_since(*since) < TTL).then(|| caller.clone())
    }

    fn insert(&self, hash: String, caller: Caller, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY {
            entries.retain(|_, (since, _)| now.duration_since(*since) < TTL);
        }
        if entries.len() < CAPACITY {
            entries.insert(hash, (now, caller));
        }
    }

    fn knows(&self, hash: &str) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.contains_key(hash)
    }

    pub(crate) fn clear(&self) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clear();
    }

    fn remove(&self, hash: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(hash);
    }

    fn forget(&self, key: Uuid) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (_, caller)| caller.key_id != key);
    }
}

impl Control {
    /// How long a revoked key may still be taken.
    pub const KEY_CACHE_SECONDS: u64 = 5;

    /// Whether a key proved good lately, so that it need not be taken for a guess. It
    /// may have been revoked since.
    #[must_use]
    pub fn key_is_familiar(&self, key: &str) -> bool {
        keys::well_formed(key) && self.keys.knows(&keys::hash(key))
    }

    /// The caller behind a key, whose time may be over: see [`Caller::check_use`].
    ///
    /// Errors: `Unauthenticated` when there is no such key.
    pub async fn authenticate(&self, key: &str) -> Result<Caller, Error> {
        if !keys::well_formed(key) {
            return Err(unauthenticated("Invalid API key format"));
        }
        let hash = keys::hash(key);
        let now = Instant::now();
        if let Some(caller) = self.keys.find(&hash, now) {
            return Ok(caller);
        }
        let Some((key, team)) = self.store.api_key_by_hash(&hash).await? else {
            self.keys.remove(&hash);
            return Err(unauthenticated("Invalid API key"));
        };
        if !bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())) {
            return Err(unauthenticated("Invalid API key"));
        }
        let at = Utc::now();
        if key.last_used_at.is_none_or(|last| at - last >= TOUCH_EVERY)
            && let Err(error) = self.store.api_key_touch(key.id, at).await
        {
            // A key is no worse for it; the store's trouble shows elsewhere.
            tracing::warn!(%error, "cannot note the use of an API key");
        }
        let caller = Caller {
            key_id: key.id,
            team: Arc::new(team),
            grant: Arc::new(key.grant),
        };
        self.keys.insert(hash, caller.clone(), now);
        Ok(caller)
    }

    /// Forgets what is remembered of keys whenever the store tells that it may be wrong.
    pub(crate) async fn keys_follow(&self) {
        loop {
            if let Err(error) = self.store.api_keys_changed().await {
                tracing::warn!(%error, "waiting for changes of API keys failed");
                tokio::time::sleep(TTL).await;
            }
            self.keys.clear();
        }
    }

    /// Ends a key of the caller's team, at once in this process.
    pub async fn key_revoke(&self, team: TeamId, id: Uuid) -> Result<(), Error> {
        keys::revoke(self.store.as_ref(), team, id).await?;
        self.keys.forget(id);
        Ok(())
    }
}

fn unauthenticated(message: &str) -> Error {
    Error::new(Kind::Unauthenticated, message)
}
