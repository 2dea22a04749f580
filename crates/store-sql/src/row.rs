//! Rows, and their way into records.

use crate::Columns;
use chrono::{DateTime, Utc};
use hearth_store::{
    ApiKey, Build, BuildStatus, Error, KeyGrant, KeyMask, LimitsSetBy, OwnerId, Result, Scope,
    Snapshot, TagAssignment, Team, TeamLimits, Template, TemplateAlias, Volume, VolumeState,
};
use std::str::FromStr;

/// What a row is read into.
pub(crate) trait Record: Sized {
    fn read(row: &impl Columns) -> Result<Self>;
}

/// Turns rows into records, refusing the lot when one is malformed.
pub(crate) fn records<T: Record>(rows: &[impl Columns]) -> Result<Vec<T>> {
    rows.iter().map(T::read).collect()
}

/// Turns a row, where there is one, into a record.
pub(crate) fn record<T: Record>(row: Option<&impl Columns>) -> Result<Option<T>> {
    row.map(T::read).transpose()
}

/// The row that a statement with `RETURNING` answers.
pub(crate) fn returned<T: Record>(row: Option<&impl Columns>) -> Result<T> {
    record(row)?.ok_or_else(|| Error::Backend("an insertion answered no row".into()))
}

pub(crate) fn parse<T: FromStr>(what: &'static str, text: String) -> Result<T> {
    text.parse().map_err(|_| Error::Corrupt { what, text })
}

pub(crate) fn parse_owner(text: String) -> Result<OwnerId> {
    OwnerId::parse(&text).ok_or(Error::Corrupt {
        what: "owner",
        text,
    })
}

fn moment(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| Error::Corrupt {
        what: "time",
        text: millis.to_string(),
    })
}

pub(crate) fn time(row: &impl Columns, column: &str) -> Result<DateTime<Utc>> {
    moment(row.number(column)?)
}

pub(crate) fn time_option(row: &impl Columns, column: &str) -> Result<Option<DateTime<Utc>>> {
    row.number_option(column)?.map(moment).transpose()
}

pub(crate) fn number<T: TryFrom<i64>>(row: &impl Columns, column: &str) -> Result<T> {
    let value = row.number(column)?;
    T::try_from(value).map_err(|_| Error::Corrupt {
        what: "number",
        text: value.to_string(),
    })
}

impl Record for Team {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("team id", row.text("id")?)?,
            slug: row.text("slug")?,
            name: row.text("name")?,
            limits: TeamLimits {
                max_concurrent_sandboxes: number(row, "max_concurrent_sandboxes")?,
                max_length_hours: number(row, "max_length_hours")?,
                max_vcpus: number(row, "max_vcpus")?,
                max_memory_mib: number(row, "max_memory_mib")?,
                max_disk_mib: number(row, "max_disk_mib")?,
                max_total_vcpus: number(row, "max_total_vcpus")?,
                max_total_memory_mib: number(row, "max_total_memory_mib")?,
                max_paused_sandboxes: number(row, "max_paused_sandboxes")?,
                max_snapshots: number(row, "max_snapshots")?,
                max_templates: number(row, "max_templates")?,
                max_volumes: number(row, "max_volumes")?,
                max_stored_mib: number(row, "max_stored_mib")?,
            },
            limits_set_by: match row.number("limits_by_operator")? {
                0 => LimitsSetBy::Settings,
                _ => LimitsSetBy::Operator,
            },
            banned: row.number("banned")? != 0,
            blocked_reason: row.text_option("blocked_reason")?,
            created_at: time(row, "created_at")?,
        })
    }
}

/// Reads a list whose entries are separated by commas. An entry that this version does
/// not know is an error: a restriction must not get lost.
fn list<T>(
    row: &impl Columns,
    column: &'static str,
    read: fn(&str) -> Option<T>,
) -> Result<Vec<T>> {
    let text = row.text(column)?;
    let entries = text.split(',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            read(entry).ok_or_else(|| Error::Corrupt {
                what: column,
                text: entry.to_owned(),
            })
        })
        .collect()
}

fn grant(row: &impl Columns) -> Result<KeyGrant> {
    Ok(KeyGrant {
        scopes: list(row, "scopes", Scope::parse)?.into_iter().collect(),
        read_only: row.number("read_only")? != 0,
        expires_at: time_option(row, "expires_at")?,
        networks: list(row, "networks", |text| text.parse().ok())?,
    })
}

impl Record for ApiKey {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("key id", row.text("id")?)?,
            team_id: parse("team id", row.text("team_id")?)?,
            name: row.text("name")?,
            hash: row.text("hash")?,
            mask: KeyMask {
                prefix: row.text("prefix")?,
                value_length: number(row, "value_length")?,
                first: row.text("mask_first")?,
                last: row.text("mask_last")?,
            },
            grant: grant(row)?,
            created_at: time(row, "created_at")?,
            last_used_at: time_option(row, "last_used_at")?,
        })
    }
}

impl Record for Template {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("template id", row.text("id")?)?,
            team_id: parse("team id", row.text("team_id")?)?,
            description: row.text_option("description")?,
            public: row.number("public")? != 0,
            is_default: row.number("is_default")? != 0,
            spawn_count: number(row, "spawn_count")?,
            last_spawned_at: time_option(row, "last_spawned_at")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
        })
    }
}

impl Record for TemplateAlias {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            namespace: row.text("namespace")?,
            alias: row.text("alias")?,
        })
    }
}

pub(crate) fn status_text(status: BuildStatus) -> &'static str {
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

impl Record for Build {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("build id", row.text("id")?)?,
            template_id: parse("template id", row.text("template_id")?)?,
            status: status(row.text("status")?)?,
            vcpus: number(row, "vcpus")?,
            memory_mib: number(row, "memory_mib")?,
            disk_mib: number(row, "disk_mib")?,
            envd_version: row.text("envd_version")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
            finished_at: time_option(row, "finished_at")?,
        })
    }
}

impl Record for TagAssignment {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            tag: row.text("tag")?,
            build_id: parse("build id", row.text("build_id")?)?,
            created_at: time(row, "created_at")?,
        })
    }
}

impl Record for Snapshot {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            template_id: parse("template id", row.text("template_id")?)?,
            build_id: parse("build id", row.text("build_id")?)?,
            sandbox_id: parse("sandbox id", row.text("sandbox_id")?)?,
            tag: row.text("tag")?,
            created_at: time(row, "created_at")?,
        })
    }
}

pub(crate) fn volume_state_text(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Making => "making",
        VolumeState::Ready => "ready",
        VolumeState::Failed => "failed",
        VolumeState::Removing => "removing",
    }
}

fn volume_state(text: String) -> Result<VolumeState> {
    match text.as_str() {
        "making" => Ok(VolumeState::Making),
        "ready" => Ok(VolumeState::Ready),
        "failed" => Ok(VolumeState::Failed),
        "removing" => Ok(VolumeState::Removing),
        _ => Err(Error::Corrupt {
            what: "volume state",
            text,
        }),
    }
}

impl Record for Volume {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            id: parse("volume id", row.text("id")?)?,
            team_id: parse("team id", row.text("team_id")?)?,
            name: row.text("name")?,
            state: volume_state(row.text("state")?)?,
            created_at: time(row, "created_at")?,
        })
    }
}
