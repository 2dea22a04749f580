//! The history of templates' tags.

use super::template_builds::PairPath;
use crate::error::Result;
use crate::extract::{ForTemplates, SegmentPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use hearth_control::{Error, TagGroupsQuery, TagHistory, TagOrder, TaggedBuild};
use hearth_wire::{
    ApiError, TemplateTagAssignment, TemplateTagAssignments, TemplateTagExists, TemplateTagGroup,
    TemplateTagGroups, TemplateTagsCount,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as collect;

/// The most entries that one answer holds, of tags and of assignments.
const MOST: i64 = 100;
const DEFAULT_TAGS: u32 = 25;
const DEFAULT_ASSIGNMENTS_OF_EACH: u32 = 6;
const DEFAULT_ASSIGNMENTS: u32 = 50;

pub(super) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .routes(collect!(template_tag_groups))
        .routes(collect!(template_tag_count))
        .routes(collect!(template_tag_exists))
        .routes(collect!(template_tag_assignments))
}

fn up_to(query: &Query, name: &'static str, default: u32) -> Result<u32> {
    let given = query.integer_within(name, 1..=MOST)?;
    Ok(given
        .and_then(|given| u32::try_from(given).ok())
        .unwrap_or(default))
}

fn assignment(tagged: TaggedBuild) -> TemplateTagAssignment {
    TemplateTagAssignment {
        assignment_id: tagged.assignment_id.to_string(),
        build_id: tagged.build_id.to_string(),
        assigned_at: tagged.assigned_at,
        build_created_at: tagged.build_created_at,
        build_finished_at: tagged.build_finished_at,
    }
}

/// List the tags of a template with their history
///
/// Each tag with the builds that it named, the latest first, in pages.
#[utoipa::path(get, path = "/templates/{templateID}/tags/groups", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path, description = "Id or name"),
        ("assignmentLimit" = Option<i64>, Query, description = "Assignments of each tag: 1 to 100, 6 where left out"),
        ("tagsLimit" = Option<i64>, Query, description = "1 to 100, 25 where left out"),
        ("tagsCursor" = Option<String>, Query, description = "The `nextCursor` of the page before"),
        ("search" = Option<String>, Query, description = "A part of the tag"),
        ("sort" = Option<String>, Query, description = "`latest_desc`, the default, `latest_asc`, `name_asc` or `name_desc`"),
    ),
    responses(
        (status = 200, body = TemplateTagGroups),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tag_groups(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(template): SegmentPath,
    query: Query,
) -> Result<Json<TemplateTagGroups>> {
    let orders = [
        ("latest_desc", TagOrder::LatestFirst),
        ("latest_asc", TagOrder::LatestLast),
        ("name_asc", TagOrder::NameAscending),
        ("name_desc", TagOrder::NameDescending),
    ];
    let wanted = TagGroupsQuery {
        search: query.text("search").unwrap_or_default().to_owned(),
        order: query.word("sort", &orders)?.unwrap_or_default(),
        cursor: query.text("tagsCursor").map(str::to_owned),
        tags: up_to(&query, "tagsLimit", DEFAULT_TAGS)?,
        assignments: up_to(&query, "assignmentLimit", DEFAULT_ASSIGNMENTS_OF_EACH)?,
    };
    let groups = state
        .control
        .template_tag_groups(&caller, &template, wanted)
        .await?;
    let group = |history: TagHistory| TemplateTagGroup {
        tag: history.tag,
        assignments: history.assignments.into_iter().map(assignment).collect(),
        has_more: history.next_cursor.is_some(),
    };
    Ok(Json(TemplateTagGroups {
        tags: groups.tags.into_iter().map(group).collect(),
        next_cursor: groups.next_cursor,
    }))
}

/// Count the tags of a template
///
/// Those that name a ready build.
#[utoipa::path(get, path = "/templates/{templateID}/tags/count", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = TemplateTagsCount),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tag_count(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(template): SegmentPath,
) -> Result<Json<TemplateTagsCount>> {
    let total = state.control.template_tag_count(&caller, &template).await?;
    Ok(Json(TemplateTagsCount { total }))
}

/// Tell whether a template has a tag
///
/// Whether it names a ready build, and the tag as it is kept.
#[utoipa::path(get, path = "/templates/{templateID}/tags/exists", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path, description = "Id or name"),
        ("tag" = String, Query),
    ),
    responses(
        (status = 200, body = TemplateTagExists),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tag_exists(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(template): SegmentPath,
    query: Query,
) -> Result<Json<TemplateTagExists>> {
    let tag = query
        .text("tag")
        .ok_or_else(|| Error::invalid("tag", "is needed"))?;
    let (normalized_tag, exists) = state
        .control
        .template_tag_exists(&caller, &template, tag)
        .await?;
    Ok(Json(TemplateTagExists {
        exists,
        normalized_tag,
    }))
}

/// List the builds that a tag named
///
/// The latest assignment first, in pages; none where the template has no such tag.
#[utoipa::path(get, path = "/templates/{templateID}/tags/{tag}/assignments", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path, description = "Id or name"), ("tag" = String, Path),
        ("cursor" = Option<String>, Query, description = "The `nextCursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100, 50 where left out"),
    ),
    responses(
        (status = 200, body = TemplateTagAssignments),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tag_assignments(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, tag): PairPath,
    query: Query,
) -> Result<Json<TemplateTagAssignments>> {
    let limit = up_to(&query, "limit", DEFAULT_ASSIGNMENTS)?;
    let history = state
        .control
        .template_tag_assignments(&caller, &template, &tag, query.text("cursor"), limit)
        .await?;
    Ok(Json(TemplateTagAssignments {
        data: history.assignments.into_iter().map(assignment).collect(),
        next_cursor: history.next_cursor,
    }))
}
