//! `POST /upgrade`: the body is a new version of the agent, which takes over. The
//! answer comes before it does; from then on new connections are the new
//! version's.

use http::StatusCode;
use http_body_util::BodyExt as _;

use super::{HttpError, Response};
use crate::Agent;
use crate::handover::image::{self, ImageError};

/// Receives and tries the program, then begins the handover.
pub async fn handle<B>(agent: &Agent, body: B) -> Result<Response, HttpError>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let image = image::receive(body.map_err(|error| error.to_string())).await;
    let image = image.map_err(refusal)?;
    image::try_out(&image, &agent.launcher.reaper)
        .await
        .map_err(refusal)?;
    if agent.handover.begin(image) {
        tracing::info!("the agent is being replaced");
        Ok(super::no_content())
    } else {
        Err(HttpError::new(
            StatusCode::CONFLICT,
            "the agent is being replaced already",
        ))
    }
}

fn refusal(error: ImageError) -> HttpError {
    let status = match error {
        ImageError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ImageError::Receive(_) | ImageError::NoProgram | ImageError::Format => {
            StatusCode::BAD_REQUEST
        }
        ImageError::Keep(_) | ImageError::Spawn(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    HttpError::new(status, error.to_string())
}
