//! What stands before every route: whose request it is, and whether there may be one
//! more of that caller. Handlers find the caller where this has left it.
//!
//! A key that has proved good lately is asked for at once; any other, and a request
//! without one, costs first a token of the source it comes from. A flood of guesses from
//! an address therefore neither reaches the store nor keeps those out who work from the
//! same address.

use crate::error::Failure;
use crate::extract::api_key;
use crate::layers::REQUEST_TIMEOUT;
use crate::rate_limit::{Allowance, Exceeded, Group};
use crate::source::Source;
use crate::state::AppState;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, HeaderMap};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hearth_control::{Caller, Control, Error, Kind};

/// Who a request is of, or why that is nobody.
#[derive(Clone)]
struct Identity(Result<Caller, Error>);

/// The caller of a request that passed the guard.
pub(crate) fn caller(extensions: &Extensions) -> Result<Caller, Failure> {
    let identity = extensions.get::<Identity>().cloned();
    let Identity(caller) = identity
        .ok_or_else(|| Error::internal("the request did not pass the guard of the routes"))?;
    Ok(caller?)
}

pub(crate) async fn guard(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get().map(MatchedPath::as_str);
    let Some(group) = Group::of(request.method(), route) else {
        return next.run(request).await;
    };
    match admit(&state, group, &mut request).await {
        Ok(allowance) => {
            let mut response = next.run(request).await;
            if let Some(allowance) = allowance {
                allowance.show(response.headers_mut());
            }
            response
        }
        Err(exceeded) => exceeded.into_response(),
    }
}

async fn admit(
    state: &AppState,
    group: Group,
    request: &mut Request,
) -> Result<Option<Allowance>, Exceeded> {
    let key = api_key(request.headers());
    let familiar = key
        .as_ref()
        .is_ok_and(|key| state.control.key_is_familiar(key));
    let mut allowance = None;
    if !familiar {
        allowance = state.limiter.source(&Source::of(request.extensions()))?;
    }
    let identity = identify(&state.control, request.headers()).await;
    if let Ok(caller) = &identity {
        allowance = state.limiter.caller(caller, group)?;
    }
    request.extensions_mut().insert(Identity(identity));
    Ok(allowance)
}

async fn identify(control: &Control, headers: &HeaderMap) -> Result<Caller, Error> {
    let asked = control.authenticate(api_key(headers)?);
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "The request took too long")))
}

/// Uploads show a signed link instead of a key: each is counted to its source.
pub(crate) fn apply_to_uploads(uploads: Router<AppState>, state: &AppState) -> Router<AppState> {
    uploads.layer(middleware::from_fn_with_state(state.clone(), guard_upload))
}

async fn guard_upload(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.limiter.source(&Source::of(request.extensions())) {
        Ok(_) => next.run(request).await,
        Err(exceeded) => exceeded.into_response(),
    }
}
