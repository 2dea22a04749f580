//! Requests that are carried out once, however often they are sent.
//!
//! A claim in the store fixes the sandbox's id before anything is begun. Whoever
//! holds the claim carries the request out and records what came of it; whoever
//! finds it held is told so; whoever takes over a claim that was left behind
//! looks on the node for the sandbox of that id before making it.

use crate::error::{Error, Kind, code};
use crate::{Control, sandboxes::NewSandbox};
use chrono::{TimeDelta, Utc};
use hearth_ids::{SandboxId, TeamId};
use hearth_store::{IdempotencyClaim, IdempotencyHolder, IdempotencyRequest};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longer than any request may take, so that a lease that is over has no holder.
const LEASE: TimeDelta = TimeDelta::seconds(90);
/// How long an outcome is remembered.
const RETENTION: TimeDelta = TimeDelta::hours(24);

/// A caller's key: 1 to 255 characters of a-z, 0-9 and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let valid = (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(
                "Idempotency-Key",
                "must have 1 to 255 characters of a-z, 0-9 and \"-\"",
            ))
        }
    }
}

/// What is remembered of a finished create. Tokens are derived anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) sandbox_id: SandboxId,
    pub(crate) template_id: String,
    pub(crate) alias: Option<String>,
    pub(crate) envd_version: String,
    pub(crate) public: bool,
    /// Whether the agent asks for a token; outcomes from before this was a choice do
    /// not say.
    #[serde(default = "yes")]
    pub(crate) secured: bool,
}

fn yes() -> bool {
    true
}

/// How a create with a key begins.
pub(crate) enum Begin {
    /// Carry it out under this id; `resumed` says that an earlier holder may
    /// have got somewhere.
    Go {
        claim: IdempotencyHolder,
        resumed: bool,
    },
    /// It has been carried out.
    Done(Outcome),
}

impl Control {
    pub(crate) async fn idempotency_begin(
        &self,
        team: TeamId,
        key: &IdempotencyKey,
        request: &NewSandbox,
        sandbox_id: SandboxId,
    ) -> Result<Begin, Error> {
        let now = Utc::now();
        let mut claim = IdempotencyHolder {
            team_id: team,
            key: key.0.clone(),
            sandbox_id,
            owner: self.config.owner.clone(),
        };
        let claimed = self
            .store
            .idempotency_claim(IdempotencyRequest {
                holder: claim.clone(),
                request_hash: request_hash(request)?,
                now,
                lease_until: now + LEASE,
                expires_at: now + RETENTION,
            })
            .await?;
        match claimed {
            IdempotencyClaim::Fresh => Ok(Begin::Go {
                claim,
                resumed: false,
            }),
            IdempotencyClaim::TakenOver { sandbox_id } => {
                claim.sandbox_id = sandbox_id;
                Ok(Begin::Go {
                    claim,
                    resumed: true,
                })
            }
            IdempotencyClaim::Done { outcome } => serde_json::from_str(&outcome)
                .map(Begin::Done)
                .map_err(Error::internal),
            IdempotencyClaim::InProgress => Err(Error::new(
                Kind::Conflict,
                "A request with this Idempotency-Key is in progress",
            )
            .with_code(code::IDEMPOTENCY_IN_PROGRESS)),
            IdempotencyClaim::Mismatch => Err(Error::new(
                Kind::Unprocessable,
                "This Idempotency-Key was used for a different request",
            )
            .with_code(code::IDEMPOTENCY_MISMATCH)),
        }
    }

    /// Ends a claim with what came of the request. A request that surely did
    /// nothing frees its key; one whose outcome is unknown keeps it, and the
    /// next holder finds out.
    pub(crate) async fn idempotency_end(
        &self,
        claim: &IdempotencyHolder,
        result: &Result<Outcome, Error>,
        outcome_unknown: bool,
    ) {
        let ended = match result {
            Ok(outcome) => match serde_json::to_string(outcome) {
                Ok(text) => self.store.idempotency_finish(claim, &text).await,
                Err(error) => {
                    tracing::error!(%error, "cannot write the outcome of a request");
                    return;
                }
            },
            Err(_) if outcome_unknown => self.store.idempotency_yield(claim).await,
            Err(_) => self.store.idempotency_release(claim).await,
        };
        if let Err(error) = ended {
            // The lease ends by itself, and the next holder finds the sandbox.
            tracing::warn!(%error, "cannot end the claim of an idempotency key");
        }
    }
}

/// Names a request by what it asks for, not by how it was written.
fn request_hash(request: &NewSandbox) -> Result<String, Error> {
    let text = serde_json::to_vec(request).map_err(Error::internal)?;
    Ok(hex::encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_form() {
        let longest = "a".repeat(255);
        for text in ["a", "0-z", longest.as_str()] {
            assert!(IdempotencyKey::parse(text).is_ok());
        }
        let too_long = "a".repeat(256);
        for text in ["", "A", "a_b", "é", too_long.as_str()] {
            assert!(IdempotencyKey::parse(text).is_err());
        }
    }
}
