//! What the tags of templates named in the course of time: the assignments, of which the
//! latest of a tag holds ([`crate::BuildStore::tag_build`]). All of it is of builds that are
//! ready.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TemplateId};

/// A tag was given to a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagEvent {
    /// Its place in the order of all assignments, of this template and of others.
    pub sequence: u64,
    /// The build.
    pub build_id: BuildId,
    /// When it got the tag.
    pub assigned_at: DateTime<Utc>,
    /// When the build was asked for.
    pub build_created_at: DateTime<Utc>,
    /// When it became ready.
    pub build_finished_at: Option<DateTime<Utc>>,
}

/// A tag with its latest assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagLatest {
    /// The tag.
    pub tag: String,
    /// The assignment's place in the order of all.
    pub sequence: u64,
}

/// The order of a list of tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TagOrder {
    /// The tag that was assigned last comes first.
    #[default]
    LatestFirst,
    /// The tag that was assigned last comes last.
    LatestLast,
    /// By name, upwards.
    NameAscending,
    /// By name, downwards.
    NameDescending,
}

/// Which tags of a template are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagQuery {
    /// A part of the tag, in lower case; empty for all.
    pub search: String,
    /// The order.
    pub order: TagOrder,
    /// Only those that come after this one in the order.
    pub after: Option<TagLatest>,
    /// At most so many.
    pub limit: u32,
}

/// The part of the store that knows the history of tags.
#[async_trait]
pub trait TagStore: Send + Sync {
    /// A tag's assignments, the latest first, at most `limit`, from before `before` on.
    async fn tag_events(
        &self,
        template: &TemplateId,
        tag: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<TagEvent>>;
    /// A template's tags, in the order and within the bounds of the query.
    async fn tag_search(&self, template: &TemplateId, query: &TagQuery) -> Result<Vec<TagLatest>>;
    /// How many tags a template has.
    async fn tag_count(&self, template: &TemplateId) -> Result<u32>;
}
