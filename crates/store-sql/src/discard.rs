//! Builds that are to be discarded.

use crate::row::parse;
use crate::{Columns, Database, SqlStore, Statement};
use async_trait::async_trait;
use hearth_ids::BuildId;
use hearth_store::{DiscardStore, LeaseName, OwnerId, Result};

fn builds(rows: &[impl Columns]) -> Result<Vec<BuildId>> {
    rows.iter()
        .map(|row| parse("build id", row.text("build_id")?))
        .collect()
}

#[async_trait]
impl<D: Database> DiscardStore for SqlStore<D> {
    async fn discard_add(&self, build: BuildId, owner: &OwnerId) -> Result<()> {
        let insert = Statement::new(
            "INSERT INTO build_discards (build_id, owner) VALUES ($1, $2)
             ON CONFLICT (build_id) DO UPDATE SET owner = excluded.owner",
        )
        .text(build)
        .text(owner);
        self.database.execute(insert).await.map(drop)
    }

    async fn discard_remove(&self, build: BuildId) -> Result<()> {
        let delete = Statement::new("DELETE FROM build_discards WHERE build_id = $1").text(build);
        self.database.execute(delete).await.map(drop)
    }

    async fn discard_list(&self) -> Result<Vec<BuildId>> {
        let query = Statement::new("SELECT build_id FROM build_discards ORDER BY build_id");
        builds(&self.database.rows(query).await?)
    }

    async fn discard_take_over(&self, by: &OwnerId) -> Result<Vec<BuildId>> {
        let prefix = LeaseName::PRESENCE;
        let take = format!(
            "UPDATE build_discards SET owner = $1
             WHERE NOT EXISTS (SELECT 1 FROM leases
                WHERE leases.name = '{prefix}' || build_discards.owner
                    AND leases.until > {})
             RETURNING build_id",
            D::NOW
        );
        builds(&self.database.rows(Statement::new(take).text(by)).await?)
    }
}
