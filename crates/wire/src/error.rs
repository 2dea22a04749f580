//! The one shape of every error body.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `code` repeats the HTTP status: clients read it from the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Error)]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// What went wrong, for a person.
    pub message: String,
    /// What went wrong, for a program, where the contract names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}
