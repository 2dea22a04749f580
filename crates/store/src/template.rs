//! Templates and their names.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{TeamId, TemplateId};

/// A template to be made.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    /// Its id for ever.
    pub id: TemplateId,
    /// Whose it is.
    pub team_id: TeamId,
    /// Whether other teams may use it.
    pub public: bool,
    /// One of the templates that every installation has.
    pub is_default: bool,
    /// Its first names.
    pub aliases: Vec<TemplateAlias>,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id for ever.
    pub id: TemplateId,
    /// Whose it is.
    pub team_id: TeamId,
    /// What it is for, in its team's words.
    pub description: Option<String>,
    /// Whether other teams may use it.
    pub public: bool,
    /// One of the templates that every installation has.
    pub is_default: bool,
    /// Sandboxes that were started from it.
    pub spawn_count: u64,
    /// When the last of them was.
    pub last_spawned_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it, or what its tags name, last changed.
    pub updated_at: DateTime<Utc>,
}

/// A name of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateAlias {
    /// Empty for names that need none.
    pub namespace: String,
    /// The name within it.
    pub alias: String,
}

/// The part of the store that keeps templates and their names.
#[async_trait]
pub trait TemplateStore: Send + Sync {
    /// Errors: [`crate::Error::Conflict`] when the id or one of the aliases is taken.
    async fn template_create(&self, template: NewTemplate) -> Result<Template>;
    /// The template of this id.
    async fn template(&self, id: &TemplateId) -> Result<Option<Template>>;
    /// `namespace` is empty for names that need none.
    async fn template_by_alias(&self, namespace: &str, alias: &str) -> Result<Option<Template>>;
    /// A team's templates, newest first; snapshots are not among them.
    async fn template_list(&self, team: TeamId) -> Result<Vec<Template>>;
    /// The templates that every team sees, newest first.
    async fn template_list_default(&self) -> Result<Vec<Template>>;
    /// Opens a template to other teams, or closes it. Answers whether it exists.
    async fn template_set_public(
        &self,
        id: &TemplateId,
        public: bool,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// Says what a template is for, or no longer. Answers whether it exists.
    async fn template_describe(
        &self,
        id: &TemplateId,
        description: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// Deletes a template with its aliases, builds and tags. The builds are noted as
    /// ones that `owner` discards: see [`crate::DiscardStore`].
    async fn template_delete(&self, id: &TemplateId, owner: &crate::OwnerId) -> Result<bool>;
    /// Counts a start of a sandbox from the template.
    async fn template_spawned(&self, id: &TemplateId, now: DateTime<Utc>) -> Result<()>;

    /// Errors: [`crate::Error::Conflict`] when the alias is taken.
    async fn alias_create(&self, template: &TemplateId, namespace: &str, alias: &str)
    -> Result<()>;
    /// A template's names, in order.
    async fn alias_list(&self, template: &TemplateId) -> Result<Vec<TemplateAlias>>;
}
