//! Idempotency keys.
//!
//! ```text
//!  (none) ──claim──▶ held ──finish──▶ done ──expiry──▶ (none)
//!     ▲               │ │
//!     └────release────┘ └─ lease over ─claim─▶ held by another, same sandbox id
//! ```
//!
//! The sandbox's id is fixed by the first claim and kept by those who take it
//! over: whatever the first holder had begun, the next one meets it under that
//! id, so no key ever makes two sandboxes.

use super::row::parse;
use super::{SqliteStore, millis};
use crate::{IdempotencyClaim, IdempotencyRequest, Result};
use hearth_ids::{SandboxId, TeamId};

#[derive(sqlx::FromRow)]
struct IdempotencyRow {
    request_hash: String,
    sandbox_id: String,
    outcome: Option<String>,
    lease_until: i64,
}

pub(super) async fn claim(
    store: &SqliteStore,
    request: IdempotencyRequest,
) -> Result<IdempotencyClaim> {
    let now = millis(request.now);
    let mut transaction = store.write().await?;
    sqlx::query("DELETE FROM idempotency WHERE expires_at <= ?")
        .bind(now)
        .execute(&mut *transaction)
        .await?;
    let found: Option<IdempotencyRow> = sqlx::query_as(
        "SELECT request_hash, sandbox_id, outcome, lease_until FROM idempotency
         WHERE team_id = ? AND key = ?",
    )
    .bind(request.team_id.to_string())
    .bind(&request.key)
    .fetch_optional(&mut *transaction)
    .await?;
    let claim = match found {
        None => {
            sqlx::query(
                "INSERT INTO idempotency (team_id, key, request_hash, sandbox_id, lease_until,
                    expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(request.team_id.to_string())
            .bind(&request.key)
            .bind(&request.request_hash)
            .bind(request.sandbox_id.as_str())
            .bind(millis(request.lease_until))
            .bind(millis(request.expires_at))
            .execute(&mut *transaction)
            .await?;
            IdempotencyClaim::Fresh
        }
        Some(row) if row.request_hash != request.request_hash => IdempotencyClaim::Mismatch,
        Some(IdempotencyRow {
            outcome: Some(outcome),
            ..
        }) => IdempotencyClaim::Done { outcome },
        Some(row) if row.lease_until > now => IdempotencyClaim::InProgress,
        Some(row) => {
            sqlx::query("UPDATE idempotency SET lease_until = ? WHERE team_id = ? AND key = ?")
                .bind(millis(request.lease_until))
                .bind(request.team_id.to_string())
                .bind(&request.key)
                .execute(&mut *transaction)
                .await?;
            IdempotencyClaim::TakenOver {
                sandbox_id: parse("sandbox id", row.sandbox_id)?,
            }
        }
    };
    transaction.commit().await?;
    Ok(claim)
}

pub(super) async fn finish(
    store: &SqliteStore,
    team: TeamId,
    key: &str,
    sandbox: &SandboxId,
    outcome: &str,
) -> Result<()> {
    sqlx::query(
        "UPDATE idempotency SET outcome = ? WHERE team_id = ? AND key = ? AND sandbox_id = ?",
    )
    .bind(outcome)
    .bind(team.to_string())
    .bind(key)
    .bind(sandbox.as_str())
    .execute(&store.pool)
    .await?;
    Ok(())
}

pub(super) async fn release(
    store: &SqliteStore,
    team: TeamId,
    key: &str,
    sandbox: &SandboxId,
) -> Result<()> {
    sqlx::query(
        "DELETE FROM idempotency
         WHERE team_id = ? AND key = ? AND sandbox_id = ? AND outcome IS NULL",
    )
    .bind(team.to_string())
    .bind(key)
    .bind(sandbox.as_str())
    .execute(&store.pool)
    .await?;
    Ok(())
}

pub(super) async fn give_up_lease(
    store: &SqliteStore,
    team: TeamId,
    key: &str,
    sandbox: &SandboxId,
) -> Result<()> {
    sqlx::query(
        "UPDATE idempotency SET lease_until = 0
         WHERE team_id = ? AND key = ? AND sandbox_id = ? AND outcome IS NULL",
    )
    .bind(team.to_string())
    .bind(key)
    .bind(sandbox.as_str())
    .execute(&store.pool)
    .await?;
    Ok(())
}

pub(super) async fn end_leases(store: &SqliteStore) -> Result<()> {
    sqlx::query("UPDATE idempotency SET lease_until = 0 WHERE outcome IS NULL")
        .execute(&store.pool)
        .await?;
    Ok(())
}
