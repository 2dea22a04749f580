//! The REST API: HTTP on one side, [`hearth_control::Control`] on the other.
//!
//! ```text
//!  request ─▶ route ─▶ key, rate limits ─▶ limits (time, size)
//!          ─▶ path, query, body ─▶ control ─▶ wire type ─▶ JSON
//! ```
//!
//! Handlers translate and decide nothing. Every answer that is an error is JSON
//! whose `code` repeats the status; [`error`] is the only place that maps the
//! application's errors to HTTP. Routes match the path as it was sent, so that
//! `%2F` in an id does not split it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod audit;
mod content_failure;
mod content_permits;
mod convert;
mod error;
mod extract;
mod guard;
mod layers;
mod metadata;
mod openapi;
mod operator;
mod query;
mod rate_limit;
mod routes;
mod source;
mod state;

pub use openapi::{openapi, openapi_json};
pub use rate_limit::{Rate, RateLimits};
pub use source::{BySession, Source};
pub use state::AppState;

use axum::Router;

/// All routes of the API, with its limits. Mount it at the root of a listener, or
/// as the fallback of one that serves other things too.
pub fn router(state: AppState) -> Router {
    let (routes, _document) = routes::routes().split_for_parts();
    let uploads = guard::apply_to_uploads(routes::uploads::router(), &state);
    let content = guard::apply_to_volume_content(routes::volume_content::router(), &state);
    layers::apply(routes, &state)
        .merge(uploads)
        .merge(layers::apply_to_volume_content(content))
        .layer(axum::middleware::map_response(layers::harden))
        .with_state(state)
}
