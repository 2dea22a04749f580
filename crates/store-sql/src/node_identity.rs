//! Who may be a node.

use crate::row::{Record, parse, record, returned, time, time_option};
use crate::{Columns, Database, Session, SqlStore, Statement, length};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_store::{NodeIdentity, NodeIdentityStore, Result, TokenUse};
use std::time::Duration;
use uuid::Uuid;

/// How long a token is remembered after it was over, in milliseconds: its holder is told
/// that it was, not that there is none.
const REMEMBERED: i64 = 24 * 60 * 60 * 1000;

/// A time that stands alone in its row.
struct Moment(DateTime<Utc>);

impl Record for Moment {
    fn read(row: &impl Columns) -> Result<Self> {
        time(row, "expires_at").map(Self)
    }
}

impl Record for NodeIdentity {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            node: parse("node id", row.text("node_id")?)?,
            key: row.text("key")?,
            joined_at: time(row, "joined_at")?,
            revoked_at: time_option(row, "revoked_at")?,
        })
    }
}

fn identity(node: Uuid) -> Statement {
    Statement::new("SELECT * FROM node_identities WHERE node_id = $1").text(node)
}

/// Whether the node is heard of now.
async fn is_heard<D: Database>(session: &mut D::Session, node: Uuid) -> Result<bool> {
    let query = Statement::new(format!(
        "SELECT id FROM nodes WHERE id = $1 AND lease_until > {}",
        D::NOW
    ));
    Ok(session.row(query.text(node)).await?.is_some())
}

/// Makes the node who it says, and its token used.
async fn admit<D: Database>(
    session: &mut D::Session,
    digest: &str,
    node: Uuid,
    key: &str,
) -> Result<NodeIdentity> {
    let now = D::NOW;
    let join = Statement::new(format!(
        "INSERT INTO node_identities (node_id, key, joined_at) VALUES ($1, $2, {now})
         ON CONFLICT (node_id) DO UPDATE SET key = excluded.key,
            joined_at = excluded.joined_at, revoked_at = NULL
         RETURNING *"
    ))
    .text(node)
    .text(key);
    let joined = returned(session.row(join).await?.as_ref())?;
    let used = Statement::new("UPDATE node_tokens SET used_by = $2 WHERE digest = $1")
        .text(digest)
        .text(node);
    session.execute(used).await?;
    Ok(joined)
}

#[async_trait]
impl<D: Database> NodeIdentityStore for SqlStore<D> {
    async fn node_token_create(&self, digest: &str, lifetime: Duration) -> Result<DateTime<Utc>> {
        let now = D::NOW;
        let forget = format!("DELETE FROM node_tokens WHERE expires_at < {now} - {REMEMBERED}");
        self.database.execute(Statement::new(forget)).await?;
        let insert = Statement::new(format!(
            "INSERT INTO node_tokens (digest, created_at, expires_at)
             VALUES ($1, {now}, {now} + $2) RETURNING expires_at"
        ))
        .text(digest)
        .number(length(lifetime));
        let made: Moment = returned(self.database.row(insert).await?.as_ref())?;
        Ok(made.0)
    }

    async fn node_token_use(&self, digest: &str, node: Uuid, key: &str) -> Result<TokenUse> {
        // Strangers may try as often as they like: they take no lock on writing.
        let known = Statement::new("SELECT digest FROM node_tokens WHERE digest = $1");
        if self.database.row(known.text(digest)).await?.is_none() {
            return Ok(TokenUse::Unknown);
        }
        let mut session = self.database.begin().await?;
        let (now, lock) = (D::NOW, D::LOCK_ROWS);
        let query = Statement::new(format!(
            "SELECT *, CAST(CASE WHEN expires_at > {now} THEN 1 ELSE 0 END AS BIGINT) AS good
             FROM node_tokens WHERE digest = $1{lock}"
        ));
        let Some(token) = session.row(query.text(digest)).await? else {
            return Ok(TokenUse::Unknown);
        };
        let known: Option<NodeIdentity> = record(session.row(identity(node)).await?.as_ref())?;
        let same = known.filter(|known| known.key == key && known.revoked_at.is_none());
        if let Some(by) = token.text_option("used_by")? {
            return Ok(match same {
                Some(known) if by == node.to_string() => TokenUse::Admitted(known),
                _ => TokenUse::Used,
            });
        }
        if token.number("good")? == 0 {
            return Ok(TokenUse::Expired(time(&token, "expires_at")?));
        }
        if same.is_none() && is_heard::<D>(&mut session, node).await? {
            return Ok(TokenUse::Taken);
        }
        let joined = admit::<D>(&mut session, digest, node, key).await?;
        session.commit().await?;
        Ok(TokenUse::Admitted(joined))
    }

    async fn node_identity(&self, node: Uuid) -> Result<Option<NodeIdentity>> {
        record(self.database.row(identity(node)).await?.as_ref())
    }

    async fn node_identity_revoke(&self, node: Uuid) -> Result<bool> {
        let now = D::NOW;
        let mut session = self.database.begin().await?;
        let revoke = Statement::new(format!(
            "UPDATE node_identities SET revoked_at = COALESCE(revoked_at, {now})
             WHERE node_id = $1"
        ));
        let joined = session.execute(revoke.text(node)).await? > 0;
        if joined {
            let end = Statement::new(format!(
                "UPDATE nodes SET lease_until = {now} WHERE id = $1 AND lease_until > {now}"
            ));
            session.execute(end.text(node)).await?;
        }
        session.commit().await?;
        Ok(joined)
    }
}
