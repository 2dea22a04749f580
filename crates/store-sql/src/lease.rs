//! Leases.

use crate::row::parse_owner;
use crate::{Columns, Database, SqlStore, Statement};
use async_trait::async_trait;
use hearth_store::{LeaseName, LeaseStore, OwnerId, Result};
use std::time::Duration;

#[async_trait]
impl<D: Database> LeaseStore for SqlStore<D> {
    async fn lease_acquire(
        &self,
        name: &LeaseName,
        owner: &OwnerId,
        length: Duration,
    ) -> Result<bool> {
        let now = D::NOW;
        let acquire = format!(
            "INSERT INTO leases (name, owner, until) VALUES ($1, $2, {now} + $3)
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
             WHERE leases.owner = excluded.owner OR leases.until <= {now}"
        );
        let acquire = Statement::new(acquire)
            .text(name.as_str())
            .text(owner)
            .number(crate::length(length));
        Ok(self.database.execute(acquire).await? > 0)
    }

    async fn lease_release(&self, name: &LeaseName, owner: &OwnerId) -> Result<()> {
        let delete = Statement::new("DELETE FROM leases WHERE name = $1 AND owner = $2")
            .text(name.as_str())
            .text(owner);
        self.database.execute(delete).await.map(drop)
    }

    async fn lease_holder(&self, name: &LeaseName) -> Result<Option<OwnerId>> {
        let query = format!(
            "SELECT owner FROM leases WHERE name = $1 AND until > {}",
            D::NOW
        );
        let row = self.database.row(Statement::new(query).text(name.as_str()));
        let row = row.await?;
        row.map(|row| parse_owner(row.text("owner")?)).transpose()
    }
}
