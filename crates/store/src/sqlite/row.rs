//! Rows as SQLite holds them, and their way into records.

use crate::{
    ApiKey, Build, BuildStatus, Error, KeyMask, Result, Snapshot, TagAssignment, Team, TeamLimits,
    Template, TemplateAlias,
};
use chrono::{DateTime, Utc};
use std::str::FromStr;

pub(super) fn parse<T: FromStr>(what: &'static str, text: String) -> Result<T> {
    text.parse().map_err(|_| Error::Corrupt { what, text })
}

fn time(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| Error::Corrupt {
        what: "time",
        text: millis.to_string(),
    })
}

fn time_option(millis: Option<i64>) -> Result<Option<DateTime<Utc>>> {
    millis.map(time).transpose()
}

fn number<T: TryFrom<i64>>(value: i64) -> Result<T> {
    T::try_from(value).map_err(|_| Error::Corrupt {
        what: "number",
        text: value.to_string(),
    })
}

#[derive(sqlx::FromRow)]
pub(super) struct TeamRow {
    id: String,
    slug: String,
    name: String,
    max_concurrent_sandboxes: i64,
    max_length_hours: i64,
    max_vcpus: i64,
    max_memory_mib: i64,
    max_disk_mib: i64,
    banned: i64,
    blocked_reason: Option<String>,
    created_at: i64,
}

impl TryFrom<TeamRow> for Team {
    type Error = Error;

    fn try_from(row: TeamRow) -> Result<Self> {
        Ok(Self {
            id: parse("team id", row.id)?,
            slug: row.slug,
            name: row.name,
            limits: TeamLimits {
                max_concurrent_sandboxes: number(row.max_concurrent_sandboxes)?,
                max_length_hours: number(row.max_length_hours)?,
                max_vcpus: number(row.max_vcpus)?,
                max_memory_mib: number(row.max_memory_mib)?,
                max_disk_mib: number(row.max_disk_mib)?,
            },
            banned: row.banned != 0,
            blocked_reason: row.blocked_reason,
            created_at: time(row.created_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct ApiKeyRow {
    id: String,
    team_id: String,
    name: String,
    hash: String,
    prefix: String,
    value_length: i64,
    mask_first: String,
    mask_last: String,
    created_at: i64,
    last_used_at: Option<i64>,
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = Error;

    fn try_from(row: ApiKeyRow) -> Result<Self> {
        Ok(Self {
            id: parse("key id", row.id)?,
            team_id: parse("team id", row.team_id)?,
            name: row.name,
            hash: row.hash,
            mask: KeyMask {
                prefix: row.prefix,
                value_length: number(row.value_length)?,
                first: row.mask_first,
                last: row.mask_last,
            },
            created_at: time(row.created_at)?,
            last_used_at: time_option(row.last_used_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct TemplateRow {
    id: String,
    team_id: String,
    public: i64,
    is_default: i64,
    spawn_count: i64,
    last_spawned_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<TemplateRow> for Template {
    type Error = Error;

    fn try_from(row: TemplateRow) -> Result<Self> {
        Ok(Self {
            id: parse("template id", row.id)?,
            team_id: parse("team id", row.team_id)?,
            public: row.public != 0,
            is_default: row.is_default != 0,
            spawn_count: number(row.spawn_count)?,
            last_spawned_at: time_option(row.last_spawned_at)?,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AliasRow {
    namespace: String,
    alias: String,
}

impl From<AliasRow> for TemplateAlias {
    fn from(row: AliasRow) -> Self {
        Self {
            namespace: row.namespace,
            alias: row.alias,
        }
    }
}

pub(super) fn status_text(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Waiting => "waiting",
        BuildStatus::Building => "building",
        BuildStatus::Ready => "ready",
        BuildStatus::Error => "error",
    }
}

fn status(text: String) -> Result<BuildStatus> {
    match text.as_str() {
        "waiting" => Ok(BuildStatus::Waiting),
        "building" => Ok(BuildStatus::Building),
        "ready" => Ok(BuildStatus::Ready),
        "error" => Ok(BuildStatus::Error),
        _ => Err(Error::Corrupt {
            what: "build status",
            text,
        }),
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct BuildRow {
    id: String,
    template_id: String,
    status: String,
    vcpus: i64,
    memory_mib: i64,
    disk_mib: i64,
    envd_version: String,
    created_at: i64,
    updated_at: i64,
    finished_at: Option<i64>,
}

impl TryFrom<BuildRow> for Build {
    type Error = Error;

    fn try_from(row: BuildRow) -> Result<Self> {
        Ok(Self {
            id: parse("build id", row.id)?,
            template_id: parse("template id", row.template_id)?,
            status: status(row.status)?,
            vcpus: number(row.vcpus)?,
            memory_mib: number(row.memory_mib)?,
            disk_mib: number(row.disk_mib)?,
            envd_version: row.envd_version,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
            finished_at: time_option(row.finished_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct TagRow {
    tag: String,
    build_id: String,
    created_at: i64,
}

impl TryFrom<TagRow> for TagAssignment {
    type Error = Error;

    fn try_from(row: TagRow) -> Result<Self> {
        Ok(Self {
            tag: row.tag,
            build_id: parse("build id", row.build_id)?,
            created_at: time(row.created_at)?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct SnapshotRow {
    template_id: String,
    build_id: String,
    sandbox_id: String,
    tag: String,
    created_at: i64,
}

impl TryFrom<SnapshotRow> for Snapshot {
    type Error = Error;

    fn try_from(row: SnapshotRow) -> Result<Self> {
        Ok(Self {
            template_id: parse("template id", row.template_id)?,
            build_id: parse("build id", row.build_id)?,
            sandbox_id: parse("sandbox id", row.sandbox_id)?,
            tag: row.tag,
            created_at: time(row.created_at)?,
        })
    }
}

/// Turns rows into records, refusing the lot when one is malformed.
pub(super) fn records<R, T>(rows: Vec<R>) -> Result<Vec<T>>
where
    T: TryFrom<R, Error = Error>,
{
    rows.into_iter().map(T::try_from).collect()
}
