//! Looking at templates.

use super::list::next_token;
use crate::convert;
use crate::error::Result;
use crate::extract::{ForTemplates, SegmentPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use hearth_control::{Caller, Error};
use hearth_wire::{AliasInfo, ApiError, Template, TemplateTag, TemplateWithBuilds};

/// List templates
///
/// All templates of the team in one answer, newest first, without the default ones.
#[utoipa::path(get, path = "/templates", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("teamID" = Option<String>, Query, description = "Must be the key's team")),
    responses(
        (status = 200, description = "The team's own templates, newest first; `/default-templates` has those of every team", body = Vec<Template>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_list_v1(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    query: Query,
) -> Result<Json<Vec<Template>>> {
    check_team(&caller, &query)?;
    let views = state.control.template_list(&caller).await?;
    Ok(Json(views.into_iter().map(convert::template).collect()))
}

/// List templates in pages
///
/// The templates of the team, newest first, without the default ones. `X-Next-Token`,
/// given as `nextToken`, leads to the next page.
#[utoipa::path(get, path = "/v2/templates", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("teamID" = Option<String>, Query, description = "Must be the key's team"),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
        ("nextToken" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "A page", body = Vec<Template>, headers(
            ("X-Next-Token" = String, description = "Where there is a next page"),
        )),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_list_v2(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    query: Query,
) -> Result<(HeaderMap, Json<Vec<Template>>)> {
    check_team(&caller, &query)?;
    let page = state.control.template_page(&caller, &query.page()?).await?;
    let mut headers = HeaderMap::new();
    next_token(&mut headers, page.next_token)?;
    let templates = page.entries.into_iter().map(convert::template);
    Ok((headers, Json(templates.collect())))
}

/// List the default templates
///
/// The templates that every team may use, newest first.
#[utoipa::path(get, path = "/default-templates", tag = "templates", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, description = "The templates that every team has", body = Vec<Template>),
        (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_list_default(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
) -> Result<Json<Vec<Template>>> {
    let views = state.control.template_list_default(&caller).await?;
    Ok(Json(views.into_iter().map(convert::template).collect()))
}

/// Get a template with its builds
///
/// The builds come newest first, in pages.
#[utoipa::path(get, path = "/templates/{templateID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path, description = "Id or name"),
        ("limit" = Option<i64>, Query, description = "Builds: 1 to 100, the default"),
        ("nextToken" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "With a page of its builds", body = TemplateWithBuilds, headers(
            ("X-Next-Token" = String, description = "Where there is a next page of builds"),
        )),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_get(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(reference): SegmentPath,
    query: Query,
) -> Result<(HeaderMap, Json<TemplateWithBuilds>)> {
    let (view, builds) = state
        .control
        .template_detail(&caller, &reference, &query.page()?)
        .await?;
    let mut headers = HeaderMap::new();
    next_token(&mut headers, builds.next_token)?;
    let template = TemplateWithBuilds {
        template: convert::template(view),
        builds: builds.entries.into_iter().map(convert::build).collect(),
    };
    Ok((headers, Json(template)))
}

/// Delete a template or a snapshot
///
/// Deletes it with all of its builds and tags. Refused while a sandbox that was made
/// from it exists.
#[utoipa::path(delete, path = "/templates/{templateID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path, description = "Id or name of a template or a snapshot")),
    responses(
        (status = 204, description = "Deleted, with all of its builds and tags"),
        (status = 400, description = "Sandboxes use it", body = ApiError), (status = 401, body = ApiError),
        (status = 403, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_delete(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(reference): SegmentPath,
) -> Result<StatusCode> {
    state.control.template_delete(&caller, &reference).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the tags of a template
///
/// Each tag with the build that it names, ordered by name.
#[utoipa::path(get, path = "/templates/{templateID}/tags", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Vec<TemplateTag>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tags_list(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(reference): SegmentPath,
) -> Result<Json<Vec<TemplateTag>>> {
    let tags = state.control.template_tags(&caller, &reference).await?;
    Ok(Json(tags.into_iter().map(convert::tag).collect()))
}

/// Resolve the name of a template
///
/// Tells whether a template of this name exists and whether the caller may use it.
#[utoipa::path(get, path = "/templates/aliases/{alias}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("alias" = String, Path, description = "`[namespace/]alias[:tag]`")),
    responses(
        (status = 200, description = "Exists", body = AliasInfo),
        (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 403, description = "Exists, and is another team's", body = ApiError),
        (status = 404, description = "Does not exist", body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_alias_get(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(reference): SegmentPath,
) -> Result<Json<AliasInfo>> {
    let access = state.control.template_access(&caller, &reference).await?;
    Ok(Json(AliasInfo {
        template_id: access.template_id.to_string(),
        public: access.public,
    }))
}

fn check_team(caller: &Caller, query: &Query) -> Result<()> {
    match query.text("teamID") {
        Some(team) if team != caller.team_id().to_string() => Err(Error::new(
            hearth_control::Kind::Invalid,
            "Team ID param mismatch with the API key",
        )
        .into()),
        _ => Ok(()),
    }
}
