//! The history of templates' tags.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTagAssignment {
    /// A UUID.
    pub assignment_id: String,
    pub build_id: String,
    #[serde(serialize_with = "crate::time::serialize")]
    pub assigned_at: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub build_created_at: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::option::serialize")]
    pub build_finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTagGroup {
    pub tag: String,
    /// Of ready builds, the latest first.
    pub assignments: Vec<TemplateTagAssignment>,
    pub has_more: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTagGroups {
    pub tags: Vec<TemplateTagGroup>,
    /// For `tagsCursor`; null on the last page.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTagAssignments {
    /// Of ready builds, the latest first.
    pub data: Vec<TemplateTagAssignment>,
    /// For `cursor`; null on the last page.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TemplateTagsCount {
    /// Tags that name a ready build.
    pub total: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTagExists {
    pub exists: bool,
    /// The tag as it is kept.
    pub normalized_tag: String,
}
