//! Lifecycle events.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxEvent {
    /// A UUID; the same whenever and wherever the event is told.
    pub id: String,
    /// `v2`.
    pub version: String,
    /// For example `sandbox.lifecycle.created`.
    pub r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_category: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_label: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub event_data: Option<Value>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub timestamp: DateTime<Utc>,
    /// Empty, as the following ids, in events that are about no sandbox.
    pub sandbox_id: String,
    /// Changes with every start of the sandbox.
    pub sandbox_execution_id: String,
    pub sandbox_template_id: String,
    pub sandbox_build_id: String,
    pub sandbox_team_id: String,
}
