//! What stands before every route: whose request it is, and whether there may be one
//! more of that caller; and what is written down of it. Handlers find the caller where
//! this has left it.
//!
//! A key that has proved good lately is asked for at once; any other, and a request
//! without one, costs first a token of the source it comes from. A flood of guesses from
//! an address therefore neither reaches the store nor keeps those out who work from the
//! same address.

use crate::audit::Entry;
use crate::content_failure::ContentFailure;
use crate::error::Failure;
use crate::extract::{ADMIN_TOKEN, SegmentPath, TEAM_ID, api_key, only};
use crate::layers::REQUEST_TIMEOUT;
use crate::rate_limit::{Allowance, Exceeded, Group};
use crate::source::Source;
use crate::state::AppState;
use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use hearth_control::{Caller, Control, Error, Kind};
use uuid::Uuid;

/// Names the request in the audit log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who a request is of, or why that is nobody.
#[derive(Clone)]
struct Identity(Result<Caller, Error>);

/// Marks a request that shows the operators' token.
#[derive(Clone, Copy)]
struct ByOperator;

/// Whether a request that passed the guard is an operator's.
///
/// Errors: `Unauthenticated` where it is not.
pub(crate) fn operator(extensions: &Extensions) -> Result<(), Failure> {
    if extensions.get::<ByOperator>().is_some() {
        return Ok(());
    }
    let Identity(identity) = extensions
        .get::<Identity>()
        .cloned()
        .ok_or_else(unguarded)?;
    // Why the token that was shown is none is known there.
    let refused = match identity {
        Err(error) if extensions.get::<ShowsAdminToken>().is_some() => error,
        _ => Error::new(
            Kind::Unauthenticated,
            "This takes the operator's token: send it in the X-Admin-Token header",
        ),
    };
    Err(refused.into())
}

/// Marks a request that has the header, whatever is in it.
#[derive(Clone, Copy)]
struct ShowsAdminToken;

fn unguarded() -> Error {
    Error::internal("the request did not pass the guard of the routes")
}

/// The caller of a request that passed the guard.
pub(crate) fn caller(extensions: &Extensions) -> Result<Caller, Failure> {
    let identity = extensions.get::<Identity>().cloned();
    let Identity(caller) = identity.ok_or_else(unguarded)?;
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
    let id = Uuid::new_v4().simple().to_string();
    let mut entry = state.begin(&request, &id);
    let admitted = admit(&state, group, &mut request, entry.as_mut()).await;
    let mut response = match admitted {
        Ok(allowance) => {
            let mut response = carry_out(entry, request, next, StatusCode::UNAUTHORIZED).await;
            if let Some(allowance) = allowance {
                allowance.show(response.headers_mut());
            }
            response
        }
        Err(exceeded) => refuse(entry, exceeded),
    };
    identify_request(&mut response, &id);
    response
}

async fn admit(
    state: &AppState,
    group: Group,
    request: &mut Request,
    entry: Option<&mut Entry>,
) -> Result<Option<Allowance>, Exceeded> {
    if request.headers().contains_key(ADMIN_TOKEN) {
        return admit_operator(state, request, entry).await;
    }
    let key = api_key(request.headers());
    let familiar = key
        .as_ref()
        .is_ok_and(|key| state.control.key_is_familiar(key));
    let mut allowance = None;
    if !familiar {
        allowance = state.limiter.source(&Source::of(request.extensions()))?;
    }
    let mut identity = identify(&state.control, request.headers()).await;
    if let Ok(caller) = &identity {
        if let Some(entry) = entry {
            entry.caller(caller);
        }
        allowance = state.limiter.caller(caller, group)?;
        let source = Source::of(request.extensions()).address();
        if let Err(refused) = caller.check_use(Utc::now(), source) {
            identity = Err(refused);
        }
    }
    request.extensions_mut().insert(Identity(identity));
    Ok(allowance)
}

/// Operators are not limited; whoever guesses their token is, as with keys.
async fn admit_operator(
    state: &AppState,
    request: &mut Request,
    entry: Option<&mut Entry>,
) -> Result<Option<Allowance>, Exceeded> {
    let shown = only(request.headers(), ADMIN_TOKEN);
    let known = shown.is_ok_and(|shown| shown.is_some_and(|shown| state.is_operator(shown)));
    let mut allowance = None;
    let identity = if known {
        let identity = operator_as(&state.control, request.headers()).await;
        if let Some(entry) = entry {
            entry.operator(identity.as_ref().ok());
        }
        request.extensions_mut().insert(ByOperator);
        identity
    } else {
        allowance = state.limiter.source(&Source::of(request.extensions()))?;
        let message = "Invalid operator's token in the X-Admin-Token header";
        Err(Error::new(Kind::Unauthenticated, message))
    };
    request.extensions_mut().insert(ShowsAdminToken);
    request.extensions_mut().insert(Identity(identity));
    Ok(allowance)
}

/// The team that an operator acts for, where the request names one.
async fn operator_as(control: &Control, headers: &HeaderMap) -> Result<Caller, Error> {
    let refuse = |message: &str| Error::new(Kind::Unauthenticated, message);
    let team = only(headers, TEAM_ID)?;
    let team = team.ok_or_else(|| {
        refuse("An operator acts for a team here: name it in the X-Team-ID header")
    })?;
    let asked = control.operator_as(team);
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "The request took too long")))
}

async fn identify(control: &Control, headers: &HeaderMap) -> Result<Caller, Error> {
    let asked = control.authenticate(api_key(headers)?);
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "The request took too long")))
}

/// Runs what comes next and writes the record. `refusal` is the status by which
/// credentials are refused.
async fn carry_out(
    entry: Option<Entry>,
    request: Request,
    next: Next,
    refusal: StatusCode,
) -> Response {
    let Some(entry) = entry else {
        return next.run(request).await;
    };
    let response = entry.scope(next.run(request)).await;
    let status = response.status();
    entry.finish(status, status == refusal);
    response
}

/// What was never begun has no record: a flood does not become one of the log.
fn refuse(entry: Option<Entry>, exceeded: Exceeded) -> Response {
    if let Some(entry) = entry {
        entry.discard();
    }
    exceeded.into_response()
}

fn identify_request(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

/// Uploads show a signed link instead of a key: each is counted to its source.
pub(crate) fn apply_to_uploads(uploads: Router<AppState>, state: &AppState) -> Router<AppState> {
    uploads.layer(middleware::from_fn_with_state(state.clone(), guard_upload))
}

async fn guard_upload(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().simple().to_string();
    let entry = state.begin(&request, &id);
    let mut response = match state.limiter.upload(&Source::of(request.extensions())) {
        Ok(allowance) => {
            let mut response = carry_out(entry, request, next, StatusCode::FORBIDDEN).await;
            if let Some(allowance) = allowance {
                allowance.show(response.headers_mut());
            }
            response
        }
        Err(exceeded) => refuse(entry, exceeded),
    };
    identify_request(&mut response, &id);
    response
}

/// Volumes' content is opened by tokens, each of which stands for the key that it was
/// given to: what holds for that key holds for it.
pub(crate) fn apply_to_volume_content(
    routes: Router<AppState>,
    state: &AppState,
) -> Router<AppState> {
    routes.layer(middleware::from_fn_with_state(
        state.clone(),
        guard_volume_content,
    ))
}

async fn guard_volume_content(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let id = Uuid::new_v4().simple().to_string();
    let mut entry = state.begin(&request, &id);
    let (mut parts, body) = request.into_parts();
    let identity = match volume_caller(&state, &mut parts).await {
        Ok(caller) => {
            if let Some(entry) = &mut entry {
                entry.caller(&caller);
            }
            let group = Group::of(&parts.method, None).unwrap_or(Group::Write);
            let allowance = state.limiter.caller(&caller, group);
            let source = Source::of(&parts.extensions).address();
            allowance.map(|allowance| {
                let usable = caller.check_use(Utc::now(), source);
                (allowance, usable.map(|()| caller))
            })
        }
        Err(refused) => {
            let allowance = state.limiter.source(&Source::of(&parts.extensions));
            allowance.map(|allowance| (allowance, Err(refused)))
        }
    };
    let mut response = match identity {
        Ok((allowance, identity)) => {
            parts.extensions.insert(Identity(identity));
            let request = Request::from_parts(parts, body);
            let mut response = carry_out(entry, request, next, StatusCode::UNAUTHORIZED).await;
            if let Some(allowance) = allowance {
                allowance.show(response.headers_mut());
            }
            response
        }
        Err(exceeded) => {
            let told = refuse(entry, exceeded);
            let message = "Rate limit exceeded";
            let failure = ContentFailure::new(told.status(), "RATE_LIMITED", message);
            let mut response = failure.into_response();
            let content_type = response.headers_mut().remove(CONTENT_TYPE);
            let length = response.headers_mut().remove(CONTENT_LENGTH);
            *response.headers_mut() = told.headers().clone();
            for (name, value) in [(CONTENT_TYPE, content_type), (CONTENT_LENGTH, length)] {
                if let Some(value) = value {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
    };
    identify_request(&mut response, &id);
    response
}

/// The caller that the request's token was given to.
async fn volume_caller(
    state: &AppState,
    parts: &mut axum::http::request::Parts,
) -> Result<Caller, Error> {
    let refuse = |message: &str| Error::new(Kind::Unauthenticated, message);
    let missing = "The volume token is missing: send it as Authorization: Bearer TOKEN";
    let value = parts.headers.get(AUTHORIZATION).cloned();
    let value = value.ok_or_else(|| refuse(missing))?;
    let text = value.to_str().map_err(|_| refuse(missing))?;
    let (scheme, token) = text.split_once(' ').ok_or_else(|| refuse(missing))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refuse(missing));
    }
    let Ok(SegmentPath(volume)) = SegmentPath::from_request_parts(parts, state).await else {
        return Err(Error::new(Kind::Invalid, "Invalid volume ID"));
    };
    let volume = volume.parse();
    let volume = volume.map_err(|_| Error::new(Kind::Invalid, "Invalid volume ID"))?;
    let asked = state.control.volume_authenticate(token.trim(), volume);
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "The request took too long")))
}
