//! Templates and their names.

use crate::row::{record, records, returned};
use crate::{Database, Session, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{TeamId, TemplateId};
use hearth_store::{NewTemplate, OwnerId, Result, Template, TemplateAlias, TemplateStore};

/// Adds a template with its first names to a transaction.
pub(crate) async fn insert(session: &mut impl Session, template: NewTemplate) -> Result<Template> {
    let insert = Statement::new(
        "INSERT INTO templates (id, team_id, public, is_default, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
    )
    .text(&template.id)
    .text(template.team_id)
    .number(template.public)
    .number(template.is_default)
    .number(millis(template.created_at))
    .number(millis(template.created_at));
    let row = session.row(insert).await;
    let made = returned(row.map_err(conflict("the template"))?.as_ref())?;
    for alias in &template.aliases {
        let insert = alias_insert(&template.id, &alias.namespace, &alias.alias);
        let inserted = session.execute(insert).await;
        inserted.map_err(conflict("the template alias"))?;
    }
    Ok(made)
}

fn alias_insert(template: &TemplateId, namespace: &str, alias: &str) -> Statement {
    Statement::new(
        "INSERT INTO template_aliases (namespace, alias, template_id) VALUES ($1, $2, $3)",
    )
    .text(namespace)
    .text(alias)
    .text(template)
}

#[async_trait]
impl<D: Database> TemplateStore for SqlStore<D> {
    async fn template_create(&self, template: NewTemplate) -> Result<Template> {
        let mut session = self.database.begin().await?;
        let made = insert(&mut session, template).await?;
        session.commit().await?;
        Ok(made)
    }

    async fn template(&self, id: &TemplateId) -> Result<Option<Template>> {
        let query = Statement::new("SELECT * FROM templates WHERE id = $1").text(id);
        record(self.database.row(query).await?.as_ref())
    }

    async fn template_by_alias(&self, namespace: &str, alias: &str) -> Result<Option<Template>> {
        let query = Statement::new(
            "SELECT templates.* FROM templates
             JOIN template_aliases ON template_aliases.template_id = templates.id
             WHERE template_aliases.namespace = $1 AND template_aliases.alias = $2",
        )
        .text(namespace)
        .text(alias);
        record(self.database.row(query).await?.as_ref())
    }

    async fn template_list(&self, team: TeamId) -> Result<Vec<Template>> {
        let query = Statement::new(
            "SELECT * FROM templates WHERE team_id = $1
                AND NOT EXISTS (SELECT 1 FROM snapshots WHERE template_id = templates.id)
             ORDER BY created_at DESC, id DESC",
        )
        .text(team);
        records(&self.database.rows(query).await?)
    }

    async fn template_list_default(&self) -> Result<Vec<Template>> {
        let query = Statement::new(
            "SELECT * FROM templates WHERE is_default = 1 ORDER BY created_at DESC, id DESC",
        );
        records(&self.database.rows(query).await?)
    }

    async fn template_set_public(
        &self,
        id: &TemplateId,
        public: bool,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let update =
            Statement::new("UPDATE templates SET public = $1, updated_at = $2 WHERE id = $3")
                .number(public)
                .number(millis(now))
                .text(id);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn template_describe(
        &self,
        id: &TemplateId,
        description: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let update =
            Statement::new("UPDATE templates SET description = $1, updated_at = $2 WHERE id = $3")
                .text_option(description)
                .number(millis(now))
                .text(id);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn template_delete(&self, id: &TemplateId, owner: &OwnerId) -> Result<bool> {
        let mut session = self.database.begin().await?;
        // Held from here on, so that no build is added that would go without a note.
        let lock = format!("SELECT id FROM templates WHERE id = $1{}", D::LOCK_ROWS);
        session.rows(Statement::new(lock).text(id)).await?;
        let note = Statement::new(
            "INSERT INTO build_discards (build_id, owner)
             SELECT id, $2 FROM builds WHERE template_id = $1
             ON CONFLICT (build_id) DO UPDATE SET owner = excluded.owner",
        );
        session.execute(note.text(id).text(owner)).await?;
        let delete = Statement::new("DELETE FROM templates WHERE id = $1").text(id);
        let deleted = session.execute(delete).await?;
        session.commit().await?;
        Ok(deleted > 0)
    }

    async fn template_spawned(&self, id: &TemplateId, now: DateTime<Utc>) -> Result<()> {
        let update = Statement::new(
            "UPDATE templates SET spawn_count = spawn_count + 1, last_spawned_at = $1
             WHERE id = $2",
        )
        .number(millis(now))
        .text(id);
        self.database.execute(update).await.map(drop)
    }

    async fn alias_create(
        &self,
        template: &TemplateId,
        namespace: &str,
        alias: &str,
    ) -> Result<()> {
        let insert = alias_insert(template, namespace, alias);
        let inserted = self.database.execute(insert).await;
        inserted.map(drop).map_err(conflict("the template alias"))
    }

    async fn alias_list(&self, template: &TemplateId) -> Result<Vec<TemplateAlias>> {
        let query = Statement::new(
            "SELECT namespace, alias FROM template_aliases WHERE template_id = $1
             ORDER BY namespace, alias",
        )
        .text(template);
        records(&self.database.rows(query).await?)
    }
}
