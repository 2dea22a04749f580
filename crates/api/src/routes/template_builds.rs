//! Building templates: registering, uploading, starting, watching, giving up.

use super::uploads;
use crate::audit;
use crate::convert;
use crate::error::Result;
use crate::extract::{Body, ForTemplates};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::DateTime;
use hearth_control::{
    Access, Action, BuildLogCursor, BuildLogEntry, BuildLogLevel, BuildLogQuery, BuildStep, Caller,
    Error, Kind, LogDirection, NewTemplateBuild, RegisteredBuild, RegistryCredentials, Resource,
    TemplateBuildSpec, TemplateBuildView, TemplateSource,
};
use hearth_wire as wire;
use hearth_wire::{
    ApiError, FilesUpload, FromImageRegistry, NewTemplateBuildV2, RequestedTemplate,
    RequestedTemplateLegacy, StartTemplateBuild, TemplateBuildInfo, TemplateBuildLogs,
};

/// The longest log that one answer holds, in entries.
const MAX_ENTRIES: i64 = 100;
/// From here on a cursor is a time, in 1973: a log has fewer entries.
const FIRST_TIME_MILLIS: i64 = 100_000_000_000;

/// The two variable segments of a path, decoded after they were matched.
pub(crate) struct PairPath(pub(crate) String, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PairPath {
    type Rejection = crate::error::Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Self(first, second)),
            Err(_) => Err(Error::invalid("path", "is not valid percent-encoded UTF-8").into()),
        }
    }
}

/// Register a template build
///
/// Creates the template where it is new, and a build that waits to be started with
/// `POST /v2/templates/{templateID}/builds/{buildID}`.
#[utoipa::path(post, path = "/v3/templates", tag = "templates", security(("ApiKeyAuth" = [])),
    request_body = wire::NewTemplateBuild,
    responses(
        (status = 202, description = "Registered; not begun", body = RequestedTemplate),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 429, description = "Too many builds in progress", body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn template_build_create_v3(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    Body(body): Body<wire::NewTemplateBuild>,
) -> Result<(StatusCode, Json<RequestedTemplate>)> {
    check_team(&caller, body.team_id.as_deref())?;
    let request = NewTemplateBuild {
        name: body.name.or(body.alias).unwrap_or_default(),
        description: body.description,
        tags: body.tags.unwrap_or_default(),
        vcpus: body.cpu_count,
        memory_mib: body.memory_mb,
        min_free_disk_mib: body.min_free_disk_mb,
    };
    let registered = state
        .control
        .template_build_register(&caller, request)
        .await?;
    audit::created(&format!(
        "{}/{}",
        registered.template.id, registered.build.id
    ));
    Ok((StatusCode::ACCEPTED, Json(requested(registered))))
}

fn requested(registered: RegisteredBuild) -> RequestedTemplate {
    RequestedTemplate {
        template_id: registered.template.id.to_string(),
        build_id: registered.build.id.to_string(),
        public: registered.template.public,
        names: convert::names(&registered.aliases),
        aliases: registered
            .aliases
            .into_iter()
            .map(|alias| alias.alias)
            .collect(),
        tags: registered.tags,
    }
}

/// Register a template build, in the form of the second version
///
/// Creates the template where it is new, and a build that waits to be started. Takes
/// one alias, and no tags.
#[utoipa::path(post, path = "/v2/templates", tag = "templates", security(("ApiKeyAuth" = [])),
    request_body = NewTemplateBuildV2,
    responses(
        (status = 202, description = "Registered; not begun", body = RequestedTemplateLegacy),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 429, description = "Too many builds in progress", body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn template_build_create_v2(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    Body(body): Body<NewTemplateBuildV2>,
) -> Result<(StatusCode, Json<RequestedTemplateLegacy>)> {
    check_team(&caller, body.team_id.as_deref())?;
    let request = NewTemplateBuild {
        name: body.alias,
        vcpus: body.cpu_count,
        memory_mib: body.memory_mb,
        ..NewTemplateBuild::default()
    };
    let registered = state
        .control
        .template_build_register(&caller, request)
        .await?;
    audit::created(&format!(
        "{}/{}",
        registered.template.id, registered.build.id
    ));
    let RegisteredBuild {
        template,
        build,
        aliases,
        ..
    } = registered;
    let answer = RequestedTemplateLegacy {
        template_id: template.id.to_string(),
        build_id: build.id.to_string(),
        cpu_count: build.vcpus,
        memory_mb: build.memory_mib,
        disk_size_mb: build.disk_mib,
        public: template.public,
        aliases: aliases.into_iter().map(|alias| alias.alias).collect(),
        created_at: template.created_at,
        updated_at: template.updated_at,
        created_by: None,
        last_spawned_at: template.last_spawned_at,
        spawn_count: template.spawn_count,
        build_count: 1,
        envd_version: build.envd_version,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

fn check_team(caller: &Caller, team: Option<&str>) -> Result<()> {
    match team.filter(|team| !team.is_empty()) {
        Some(team) if team != caller.team_id().to_string() => {
            Err(Error::new(Kind::Invalid, "Team ID param mismatch with the API key").into())
        }
        _ => Ok(()),
    }
}

/// Get a link to upload files for a build
///
/// Tells whether the archive of files with this hash was uploaded already, and where to
/// upload it.
#[utoipa::path(get, path = "/templates/{templateID}/files/{hash}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path), ("hash" = String, Path, description = "64 hexadecimal digits")),
    responses(
        (status = 201, description = "Whether the archive is there, and where it goes", body = FilesUpload),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn template_files_get(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, hash): PairPath,
    origin: uploads::Origin,
) -> Result<(StatusCode, Json<FilesUpload>)> {
    let (present, ticket) = state
        .control
        .template_files(&caller, &template, &hash)
        .await?;
    // The link is as good as the key that asks for it.
    let change = Action {
        resource: Resource::Templates,
        access: Access::Change,
    };
    let url = caller.may(change).map(|()| uploads::url(&origin, &ticket));
    let answer = FilesUpload {
        present,
        url: url.ok(),
        headers: None,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Start a registered build
///
/// Runs the steps of the build. Other running builds of the same template are
/// cancelled.
#[utoipa::path(post, path = "/v2/templates/{templateID}/builds/{buildID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path), ("buildID" = String, Path)),
    request_body = StartTemplateBuild,
    responses(
        (status = 202, description = "Begun"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn template_build_start(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, build): PairPath,
    Body(body): Body<StartTemplateBuild>,
) -> Result<StatusCode> {
    let spec = spec(body)?;
    state
        .control
        .template_build_start(&caller, &template, &build, spec)
        .await?;
    Ok(StatusCode::ACCEPTED)
}

fn spec(body: StartTemplateBuild) -> Result<TemplateBuildSpec> {
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let source = match (given(body.from_image), given(body.from_template)) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("fromImage", "excludes fromTemplate").into());
        }
        (Some(reference), None) => TemplateSource::Image {
            reference,
            credentials: body.from_image_registry.map(credentials),
        },
        (None, Some(name)) => TemplateSource::Template(name),
        (None, None) => {
            return Err(Error::invalid("fromImage", "or fromTemplate is needed").into());
        }
    };
    let steps = body
        .steps
        .unwrap_or_default()
        .into_iter()
        .map(|step| BuildStep {
            kind: step.kind,
            args: step.args.unwrap_or_default(),
            files_hash: step.files_hash.unwrap_or_default(),
            force: step.force.unwrap_or(false),
        });
    Ok(TemplateBuildSpec {
        source,
        steps: steps.collect(),
        start_command: body.start_cmd.unwrap_or_default(),
        ready_command: body.ready_cmd.unwrap_or_default(),
        force: body.force.unwrap_or(false),
    })
}

fn credentials(registry: FromImageRegistry) -> RegistryCredentials {
    match registry {
        FromImageRegistry::Registry { username, password } => RegistryCredentials::Basic {
            username,
            password: password.into(),
        },
        FromImageRegistry::Aws {
            aws_access_key_id,
            aws_secret_access_key,
            aws_region,
        } => RegistryCredentials::Aws {
            access_key_id: aws_access_key_id,
            secret_access_key: aws_secret_access_key.into(),
            region: aws_region,
        },
        FromImageRegistry::Gcp {
            service_account_json,
        } => RegistryCredentials::Gcp {
            service_account_json: service_account_json.into(),
        },
    }
}

/// Get the status of a build
///
/// State and a page of the log. Builds that failed answer with the reason.
#[utoipa::path(get, path = "/templates/{templateID}/builds/{buildID}/status", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path), ("buildID" = String, Path),
        ("logsOffset" = Option<i64>, Query, description = "Entries to skip"),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
        ("level" = Option<String>, Query, description = "The least level: debug, info, warn, error"),
    ),
    responses(
        (status = 200, body = TemplateBuildInfo),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_build_status(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, build): PairPath,
    query: Query,
) -> Result<Json<TemplateBuildInfo>> {
    let offset = query
        .integer_within("logsOffset", 0..=i64::MAX)?
        .unwrap_or(0);
    let view = view(&state, &caller, (&template, &build), &query, offset).await?;
    Ok(Json(info(view, least_level(&query)?)))
}

/// Get the log of a build
///
/// A page of the log, filtered by level: forwards the oldest entry comes first, backwards the
/// newest. A `cursor` that can be no number of entries, 100000000000 or more, is a time.
#[utoipa::path(get, path = "/templates/{templateID}/builds/{buildID}/logs", tag = "templates", security(("ApiKeyAuth" = [])),
    params(
        ("templateID" = String, Path), ("buildID" = String, Path),
        ("cursor" = Option<i64>, Query, description = "Entries to skip, or where to begin in milliseconds since 1970"),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
        ("direction" = Option<String>, Query, description = "`forward`, the default, or `backward`"),
        ("level" = Option<String>, Query, description = "The least level: debug, info, warn, error"),
        ("source" = Option<String>, Query, description = "`temporary` or `persistent`: a build has one log, which both name"),
    ),
    responses(
        (status = 200, body = TemplateBuildLogs),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_build_logs(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, build): PairPath,
    query: Query,
) -> Result<Json<TemplateBuildLogs>> {
    let directions = [
        ("forward", LogDirection::Forward),
        ("backward", LogDirection::Backward),
    ];
    // Nothing depends on it, but what is no source is refused.
    query.word("source", &[("temporary", ()), ("persistent", ())])?;
    let wanted = BuildLogQuery {
        cursor: log_cursor(query.integer_within("cursor", 0..=i64::MAX)?)?,
        direction: query
            .word("direction", &directions)?
            .unwrap_or(LogDirection::Forward),
        limit: limit(&query)?,
        least: least_level(&query)?,
    };
    let control = &state.control;
    let entries = control
        .template_build_log(&caller, &template, &build, wanted)
        .await?;
    Ok(Json(TemplateBuildLogs {
        logs: entries.into_iter().map(entry).collect(),
    }))
}

fn log_cursor(number: Option<i64>) -> Result<BuildLogCursor> {
    let number = number.unwrap_or(0);
    if number < FIRST_TIME_MILLIS {
        return Ok(BuildLogCursor::Skip(number.unsigned_abs()));
    }
    DateTime::from_timestamp_millis(number)
        .map(BuildLogCursor::Time)
        .ok_or_else(|| Error::invalid("cursor", "is out of range").into())
}

async fn view(
    state: &AppState,
    caller: &Caller,
    (template, build): (&str, &str),
    query: &Query,
    offset: i64,
) -> Result<TemplateBuildView> {
    let limit = limit(query)?;
    let offset = u64::try_from(offset).unwrap_or_default();
    let view = state
        .control
        .template_build_status(caller, template, build, offset, limit)
        .await?;
    Ok(view)
}

fn limit(query: &Query) -> Result<u32> {
    let limit = query.integer_within("limit", 1..=MAX_ENTRIES)?;
    Ok(u32::try_from(limit.unwrap_or(MAX_ENTRIES)).unwrap_or(u32::MAX))
}

fn least_level(query: &Query) -> Result<BuildLogLevel> {
    let words = [
        ("debug", BuildLogLevel::Debug),
        ("info", BuildLogLevel::Info),
        ("warn", BuildLogLevel::Warn),
        ("error", BuildLogLevel::Error),
    ];
    Ok(query.word("level", &words)?.unwrap_or(BuildLogLevel::Debug))
}

fn info(view: TemplateBuildView, least: BuildLogLevel) -> TemplateBuildInfo {
    let log_entries: Vec<wire::BuildLogEntry> = view
        .entries
        .into_iter()
        .filter(|entry| entry.level >= least)
        .map(entry)
        .collect();
    TemplateBuildInfo {
        template_id: view.template_id.to_string(),
        build_id: view.build_id.to_string(),
        status: convert::build_status(view.status),
        logs: log_entries
            .iter()
            .map(|entry| entry.message.clone())
            .collect(),
        log_entries,
        reason: view.reason.map(|(message, step)| wire::BuildStatusReason {
            message,
            step,
            log_entries: Vec::new(),
        }),
    }
}

fn entry(entry: BuildLogEntry) -> wire::BuildLogEntry {
    wire::BuildLogEntry {
        timestamp: entry.timestamp,
        message: entry.message,
        level: match entry.level {
            BuildLogLevel::Debug => wire::LogLevel::Debug,
            BuildLogLevel::Info => wire::LogLevel::Info,
            BuildLogLevel::Warn => wire::LogLevel::Warn,
            BuildLogLevel::Error => wire::LogLevel::Error,
        },
        step: entry.step,
    }
}

/// Cancel a build
///
/// A build that has ended already stays as it is.
#[utoipa::path(delete, path = "/templates/{templateID}/builds/{buildID}", tag = "templates", security(("ApiKeyAuth" = [])),
    params(("templateID" = String, Path), ("buildID" = String, Path)),
    responses(
        (status = 204, description = "Given up, or ended before"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn template_build_cancel(
    State(state): State<AppState>,
    ForTemplates(caller): ForTemplates,
    PairPath(template, build): PairPath,
) -> Result<StatusCode> {
    state
        .control
        .template_build_cancel(&caller, &template, &build)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
