//! Volumes, which there are none of: whoever asks for them is told so, and what keeps
//! files instead.

use crate::error::Result;
use crate::extract::ForSandboxes;
use crate::state::AppState;
use axum::Json;
use axum::http::StatusCode;
use axum::routing::any;
use hearth_control::no_volumes;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;

/// Not part of the documented API.
pub(crate) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .route("/volumes", any(refuse))
        .route("/volumes/{volumeID}", any(refuse))
        .route("/volumecontent/{*path}", any(refuse_content))
}

async fn refuse(_: ForSandboxes) -> Result<()> {
    Err(no_volumes().into())
}

/// The API for volumes' contents has errors of its own form, and tokens of its own, of
/// which none was ever given out.
async fn refuse_content() -> (StatusCode, Json<Value>) {
    let body = json!({"code": "NOT_SUPPORTED", "message": no_volumes().message});
    (StatusCode::NOT_IMPLEMENTED, Json(body))
}
