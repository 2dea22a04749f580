//! Whether this process takes requests.

use crate::state::AppState;
use axum::extract::State;
use axum::http::StatusCode;

/// Check whether the server takes requests
///
/// Needs no API key. Answers 503 once the server has begun to shut down.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "Takes requests", body = String, content_type = "text/plain"),
    (status = 503, description = "Is going away", body = String, content_type = "text/plain"),
))]
pub(crate) async fn health_check(State(state): State<AppState>) -> (StatusCode, &'static str) {
    if state.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "Draining")
    } else {
        (StatusCode::OK, "Health check successful")
    }
}
