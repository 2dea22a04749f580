//! HTTP on port 49999: routes, JSON in, JSON lines out, errors to statuses.

use crate::{
    contexts::{Contexts, Error, Info, Job},
    output::{Output, Source},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use serde::Deserialize;
use std::{collections::BTreeMap, convert::Infallible, time::Duration};

/// Code larger than this is a mistake.
const MAX_BODY_BYTES: usize = 64 << 20;
/// A line is sent at least this often, so that nobody on the way takes the
/// connection for dead.
const KEEPALIVE: Duration = Duration::from_secs(5);
const TOKEN_HEADER: &str = "x-access-token";

#[derive(Debug, Deserialize)]
struct ExecuteBody {
    code: String,
    context_id: Option<String>,
    language: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
struct CreateBody {
    language: Option<String>,
    cwd: Option<String>,
}

/// Every route of the contract, and one for sandboxes that are made ahead.
pub fn router(contexts: Contexts) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/execute", post(execute))
        .route("/rehearse", post(rehearse))
        .route("/contexts", get(list).post(create))
        .route("/contexts/{id}", delete(remove))
        .route("/contexts/{id}/restart", post(restart))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(contexts)
}

async fn health(State(contexts): State<Contexts>) -> (StatusCode, &'static str) {
    if contexts.is_ready() {
        (StatusCode::OK, "OK")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the kernels are starting")
    }
}

async fn execute(
    State(contexts): State<Contexts>,
    headers: HeaderMap,
    Json(body): Json<ExecuteBody>,
) -> Result<Response, Error> {
    let token = headers
        .get(TOKEN_HEADER)
        .and_then(|value| value.to_str().ok());
    let job = Job {
        code: body.code,
        context: body.context_id,
        language: body.language,
        variables: body.env_vars.unwrap_or_default(),
        token: token.map(str::to_owned),
    };
    let source = contexts.execute(job).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(lines(source))).into_response())
}

async fn rehearse(State(contexts): State<Contexts>) -> Result<StatusCode, Error> {
    contexts.rehearse().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The lines of an execution, with a sign of life in between.
fn lines(source: Source) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::unfold(source, |mut source| async {
        let line = match tokio::time::timeout(KEEPALIVE, source.next()).await {
            Ok(line) => line?,
            Err(_) => Output::Keepalive.line(),
        };
        Some((Ok(line), source))
    })
}

async fn create(
    State(contexts): State<Contexts>,
    body: Option<Json<CreateBody>>,
) -> Result<Json<Info>, Error> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let info = contexts
        .create(body.language.as_deref(), body.cwd.as_deref())
        .await?;
    Ok(Json(info))
}

async fn list(State(contexts): State<Contexts>) -> Json<Vec<Info>> {
    Json(contexts.list())
}

async fn restart(
    State(contexts): State<Contexts>,
    Path(id): Path<String>,
) -> Result<Json<()>, Error> {
    contexts.restart(&id).await?;
    Ok(Json(()))
}

async fn remove(
    State(contexts): State<Contexts>,
    Path(id): Path<String>,
) -> Result<Json<()>, Error> {
    contexts.remove(&id).await?;
    Ok(Json(()))
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoContext(_) => StatusCode::NOT_FOUND,
            Self::NoKernel { .. }
            | Self::NoDirectory(_)
            | Self::Both
            | Self::Variable(_)
            | Self::VariableValue(_)
            | Self::VariablesUnsupported(_) => StatusCode::BAD_REQUEST,
            Self::TooManyContexts | Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Ended => StatusCode::CONFLICT,
            Self::Start(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, hearth_util::chain(&self)).into_response()
    }
}
