//! Changing templates: visibility and tags.

use crate::audit;
use crate::convert;
use crate::error::Result;
use crate::extract::{Body, ForTemplates, SegmentPath};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_control::TemplateChange;
use hearth_wire::{
    ApiError, AssignTemplateTags, AssignedTemplateTags, DeleteTemplateTags, TemplateNames,
    TemplateUpdate,
};

/// Publish, unpublish or describe a template
///
/// Public templates may be used by other teams. Answers with the names of the template.
#[utoipa::path(patch, path = "/v2/templates/{templateID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path, description = "Id or name")),
    request_body = TemplateUpdate,
    responses(
        (status = 200, body = TemplateNames),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_update_v2(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    SegmentPath(reference): SegmentPath,
    Body(body): Body<TemplateUpdate>,
) -> Result<Json<TemplateNames>> {
    let change = TemplateChange {
        public: body.public,
        description: body.description,
    };
    let aliases = state
        .control
        .template_change(&caller, &reference, change)
        .await?;
    Ok(Json(TemplateNames {
        names: convert::names(&aliases),
    }))
}

/// Publish, unpublish or describe a template, without an answer
///
/// Public templates may be used by other teams.
#[utoipa::path(patch, path = "/templates/{templateID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path, description = "Id or name")),
    request_body = TemplateUpdate,
    responses(
        (status = 200, description = "Changed"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_update_v1(
    state: State<AppState>,
    caller: ForTemplates,
    reference: SegmentPath,
    body: Body<TemplateUpdate>,
) -> Result<StatusCode> {
    let _: Json<TemplateNames> = template_update_v2(state, caller, reference, body).await?;
    Ok(StatusCode::OK)
}

/// Assign tags to a build
///
/// A tag that names another build of the template is moved.
#[utoipa::path(post, path = "/templates/tags", tag = "templates", security(("ApiKeyAuth" = [])),
    request_body = AssignTemplateTags,
    responses(
        (status = 201, body = AssignedTemplateTags),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tags_assign(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    Body(body): Body<AssignTemplateTags>,
) -> Result<(StatusCode, Json<AssignedTemplateTags>)> {
    audit::object(&body.target);
    let (build, tags) = state
        .control
        .template_tags_assign(&caller, &body.target, &body.tags)
        .await?;
    let answer = AssignedTemplateTags {
        tags,
        build_id: build.to_string(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Delete tags of a template
///
/// All of the tags exist, or none is deleted. The default tag cannot be deleted.
#[utoipa::path(delete, path = "/templates/tags", tag = "templates", security(("ApiKeyAuth" = [])),
    request_body = DeleteTemplateTags,
    responses(
        (status = 204, description = "Taken away"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_tags_delete(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    Body(body): Body<DeleteTemplateTags>,
) -> Result<StatusCode> {
    audit::object(&body.name);
    state
        .control
        .template_tags_delete(&caller, &body.name, &body.tags)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
