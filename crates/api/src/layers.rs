//! What holds for every request: limits of time and size, answers to what no
//! route takes, panics, cross-origin rules.

use crate::error::Failure;
use crate::guard;
use crate::state::AppState;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{self, CorsLayer};

pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(70);
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Headers that scripts in a browser may read.
const EXPOSED: [HeaderName; 7] = [
    guard::REQUEST_ID,
    HeaderName::from_static("x-next-token"),
    HeaderName::from_static("x-total-running"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("retry-after"),
];

pub(crate) fn apply(routes: Router<AppState>, state: &AppState) -> Router<AppState> {
    routes
        .fallback(|| async { Failure::http(StatusCode::NOT_FOUND, "Not found") })
        .method_not_allowed_fallback(|| async {
            Failure::http(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(limit_time))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .layer(cors())
        .layer(middleware::from_fn(trace))
}

/// The same for volumes' content: files have no limit of size, and uploads one of silence
/// instead of one of time.
pub(crate) fn apply_to_volume_content(routes: Router<AppState>) -> Router<AppState> {
    routes
        // Of what is read whole, which files are not.
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors())
        .layer(middleware::from_fn(trace))
}

fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(cors::Any)
        .allow_methods(cors::Any)
        .allow_headers(cors::Any)
        .expose_headers(EXPOSED)
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Failure::http(StatusCode::GATEWAY_TIMEOUT, "The request took too long").into_response()
        }
    }
}

/// A panic is a defect of ours; the caller learns that and no more.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the payload over"
)]
fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let what = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Failure::from(hearth_control::Error::internal(format!("panic: {what}"))).into_response()
}

/// Answers are data, whatever a browser takes them for. Pages bring a policy of their
/// own.
pub(crate) async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// One line for each request, without query and headers, which hold secrets.
async fn trace(request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(%method, path, status, elapsed_ms, "request");
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn answer(router: Router) -> (StatusCode, hearth_wire::ApiError) {
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("cannot fail");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body");
        let error = serde_json::from_slice(&body.to_bytes()).expect("the contract's error");
        (status, error)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_given_up() {
        let router = Router::new()
            .route("/", get(std::future::pending::<()>))
            .layer(middleware::from_fn(limit_time));
        let (status, error) = answer(router).await;
        assert_eq!((status.as_u16(), error.code), (504, 504));
    }

    async fn defective() {
        panic!("secret");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let router = Router::new()
            .route("/", get(defective))
            .layer(CatchPanicLayer::custom(panicked));
        let (status, error) = answer(router).await;
        assert_eq!((status.as_u16(), error.code), (500, 500));
        assert!(!error.message.contains("secret"));
    }
}
