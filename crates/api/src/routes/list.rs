//! Listing sandboxes.

use crate::convert;
use crate::error::{Failure, Result};
use crate::extract::ForSandboxes;
use crate::metadata;
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hearth_control::{Error, ListRequest};
use hearth_wire::{ApiError, ListedSandbox};

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");

/// List running sandboxes
///
/// All running sandboxes of the team in one answer, newest first. `GET /v2/sandboxes`
/// also lists paused ones, in pages.
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("metadata" = Option<String>, Query, description = "Pairs that must match, as a query string")),
    responses(
        (status = 200, description = "All running sandboxes, newest first", body = Vec<ListedSandbox>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_list_v1(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    query: Query,
) -> Result<Json<Vec<ListedSandbox>>> {
    let filter = query.text("metadata").map(metadata::parse);
    let views = state
        .control
        .sandbox_list_running(&caller, filter.unwrap_or_default())
        .await?;
    Ok(Json(
        views.into_iter().map(convert::listed_sandbox).collect(),
    ))
}

/// List sandboxes in pages
///
/// Running and paused sandboxes of the team, filtered and ordered by the query.
/// `X-Next-Token`, given as `nextToken`, leads to the next page.
#[utoipa::path(get, path = "/v2/sandboxes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(
        ("metadata" = Option<String>, Query, description = "Pairs that must match, as a query string"),
        ("state" = Option<String>, Query, description = "`running` and `paused`, with a comma between; both where left out"),
        ("order" = Option<String>, Query, description = "`desc`, newest first, or `asc`"),
        ("startedAfter" = Option<String>, Query, description = "RFC 3339"),
        ("template" = Option<String>, Query, description = "Id or name, without a tag"),
        ("nextToken" = Option<String>, Query),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
    ),
    responses(
        (status = 200, description = "A page", body = Vec<ListedSandbox>, headers(
            ("X-Next-Token" = String, description = "Where there is a next page"),
            ("X-Total-Running" = u64, description = "Where running sandboxes were asked for"),
        )),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_list_v2(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    query: Query,
) -> Result<(HeaderMap, Json<Vec<ListedSandbox>>)> {
    let request = ListRequest {
        states: query.states()?,
        metadata: query
            .text("metadata")
            .map(metadata::parse)
            .unwrap_or_default(),
        started_after: query.rfc3339("startedAfter")?,
        template: query.text("template").map(str::to_owned),
        page: query.page()?,
    };
    let page = state.control.sandbox_list(&caller, request).await?;
    let mut headers = HeaderMap::new();
    if let Some(total) = page.total_running {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(total));
    }
    next_token(&mut headers, page.next_token)?;
    let sandboxes = page.sandboxes.into_iter();
    Ok((
        headers,
        Json(sandboxes.map(convert::listed_sandbox).collect()),
    ))
}

/// Says where the next page begins, if there is one.
pub(crate) fn next_token(headers: &mut HeaderMap, token: Option<String>) -> Result<()> {
    if let Some(token) = token {
        let value =
            HeaderValue::try_from(token).map_err(|error| Failure::from(Error::internal(error)))?;
        headers.insert(NEXT_TOKEN, value);
    }
    Ok(())
}
