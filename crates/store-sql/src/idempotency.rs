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
//! id, so no key ever makes two sandboxes. Whoever changes a claim says in the same
//! statement from where it leads, so that of several who compete one wins.

use crate::row::parse;
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use hearth_store::{
    IdempotencyClaim, IdempotencyHolder, IdempotencyRequest, IdempotencyStore, OwnerId, Result,
};

/// A statement whose values begin with the holder, `$1` to `$4`.
fn of_holder(text: &'static str, holder: &IdempotencyHolder) -> Statement {
    Statement::new(text)
        .text(holder.team_id)
        .text(&holder.key)
        .text(&holder.sandbox_id)
        .text(&holder.owner)
}

/// Makes the key the caller's, where it is nobody's. Answers whether it was.
async fn claim_fresh(session: &mut impl Session, request: &IdempotencyRequest) -> Result<bool> {
    let insert = of_holder(
        "INSERT INTO idempotency (team_id, key, sandbox_id, owner, request_hash, lease_until,
            expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (team_id, key) DO NOTHING",
        &request.holder,
    )
    .text(&request.request_hash)
    .number(millis(request.lease_until))
    .number(millis(request.expires_at));
    Ok(session.execute(insert).await? > 0)
}

/// What became of a key that somebody claimed before; `None` where that one has just
/// given it up.
async fn claim_again(
    session: &mut impl Session,
    request: &IdempotencyRequest,
    lock_rows: &str,
) -> Result<Option<IdempotencyClaim>> {
    let holder = &request.holder;
    let query = Statement::new(format!(
        "SELECT request_hash, sandbox_id, outcome, lease_until FROM idempotency
         WHERE team_id = $1 AND key = $2{lock_rows}"
    ))
    .text(holder.team_id)
    .text(&holder.key);
    let Some(row) = session.row(query).await? else {
        return Ok(None);
    };
    if row.text("request_hash")? != request.request_hash {
        return Ok(Some(IdempotencyClaim::Mismatch));
    }
    if let Some(outcome) = row.text_option("outcome")? {
        return Ok(Some(IdempotencyClaim::Done { outcome }));
    }
    if row.number("lease_until")? > millis(request.now) {
        return Ok(Some(IdempotencyClaim::InProgress));
    }
    let take = Statement::new(
        "UPDATE idempotency SET lease_until = $1, owner = $2 WHERE team_id = $3 AND key = $4",
    )
    .number(millis(request.lease_until))
    .text(&holder.owner)
    .text(holder.team_id)
    .text(&holder.key);
    session.execute(take).await?;
    Ok(Some(IdempotencyClaim::TakenOver {
        sandbox_id: parse("sandbox id", row.text("sandbox_id")?)?,
    }))
}

#[async_trait]
impl<D: Database> IdempotencyStore for SqlStore<D> {
    async fn idempotency_claim(&self, request: IdempotencyRequest) -> Result<IdempotencyClaim> {
        let mut session = self.database.begin().await?;
        let expire = Statement::new("DELETE FROM idempotency WHERE expires_at <= $1")
            .number(millis(request.now));
        session.execute(expire).await?;
        let claim = loop {
            if claim_fresh(&mut session, &request).await? {
                break IdempotencyClaim::Fresh;
            }
            if let Some(claim) = claim_again(&mut session, &request, D::LOCK_ROWS).await? {
                break claim;
            }
        };
        session.commit().await?;
        Ok(claim)
    }

    async fn idempotency_finish(&self, holder: &IdempotencyHolder, outcome: &str) -> Result<()> {
        let update = of_holder(
            "UPDATE idempotency SET outcome = $5
             WHERE team_id = $1 AND key = $2 AND sandbox_id = $3 AND owner = $4",
            holder,
        )
        .text(outcome);
        self.database.execute(update).await.map(drop)
    }

    async fn idempotency_release(&self, holder: &IdempotencyHolder) -> Result<()> {
        let delete = of_holder(
            "DELETE FROM idempotency WHERE team_id = $1 AND key = $2 AND sandbox_id = $3
                AND owner = $4 AND outcome IS NULL",
            holder,
        );
        self.database.execute(delete).await.map(drop)
    }

    async fn idempotency_yield(&self, holder: &IdempotencyHolder) -> Result<()> {
        let update = of_holder(
            "UPDATE idempotency SET lease_until = 0 WHERE team_id = $1 AND key = $2
                AND sandbox_id = $3 AND owner = $4 AND outcome IS NULL",
            holder,
        );
        self.database.execute(update).await.map(drop)
    }

    async fn idempotency_end_leases(&self, owner: &OwnerId) -> Result<()> {
        let update = Statement::new(
            "UPDATE idempotency SET lease_until = 0 WHERE outcome IS NULL AND owner = $1",
        )
        .text(owner);
        self.database.execute(update).await.map(drop)
    }
}
