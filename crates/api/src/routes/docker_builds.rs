//! The first generation of template builds, in which a client builds an image with
//! Docker and pushes it to the service's registry. There is no such registry here;
//! whoever tries is told what works instead.

use crate::error::Result;
use crate::state::AppState;
use axum::routing::post;
use hearth_control::{Error, Kind};
use utoipa_axum::router::OpenApiRouter;

const INSTEAD: &str = "Hearth has no registry for images that clients build with Docker. Use \
    `e2b template create` of a newer CLI (`build-v2` in 2.2), an SDK's Template, or \
    `hearth template build`: these build from the same Dockerfile";

/// Not part of the documented API.
pub(crate) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .route("/templates", post(refuse))
        .route("/templates/{templateID}", post(refuse))
        .route("/templates/{templateID}/builds/{buildID}", post(refuse))
}

async fn refuse() -> Result<()> {
    Err(Error::new(Kind::Unimplemented, INSTEAD)
        .never_retry()
        .into())
}
