//! Between the application's types and the messages of the node's service.

use buffa::EnumValue;
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};
use hearth_control::{
    Disk, HostUsage, Lifecycle, Machine, NodeBuild, NodeError, NodeInfo, NodeSandbox,
    NodeSandboxState, OnTimeout, Paused, Revision, SandboxBatch, SandboxConfig, SandboxRemoval,
    SandboxSummary,
};
use hearth_node_proto::hearth::node::v1 as proto;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;

pub(crate) fn config_out(config: SandboxConfig) -> Result<proto::SandboxConfig, NodeError> {
    Ok(proto::SandboxConfig {
        sandbox_id: config.sandbox_id.to_string(),
        template_id: config.template_id.to_string(),
        build_id: config.build_id.to_string(),
        team_id: config.team_id.to_string(),
        alias: config.alias,
        metadata: config.metadata.into_iter().collect(),
        env_vars: config.env_vars.into_iter().collect(),
        envd_access_token: config
            .envd_access_token
            .map(|token| token.expose_secret().to_owned()),
        traffic_access_token: config
            .traffic_access_token
            .map(|token| token.expose_secret().to_owned()),
        allow_internet_access: config.allow_internet_access,
        network_json: match &config.network {
            Some(network) => json_out(network)?,
            None => String::new(),
        },
        lifecycle_json: json_out(&config.lifecycle)?,
        volume_mounts_json: if config.volume_mounts.is_empty() {
            String::new()
        } else {
            json_out(&config.volume_mounts)?
        },
        timeout_action: timeout_action(config.lifecycle).into(),
        ..Default::default()
    })
}

fn timeout_action(lifecycle: Lifecycle) -> proto::TimeoutAction {
    use proto::TimeoutAction as A;
    match (lifecycle.on_timeout, lifecycle.auto_pause_memory) {
        (OnTimeout::Kill, _) => A::TIMEOUT_ACTION_KILL,
        (OnTimeout::Pause, true) => A::TIMEOUT_ACTION_PAUSE,
        (OnTimeout::Pause, false) => A::TIMEOUT_ACTION_PAUSE_FILESYSTEM,
    }
}

fn config_in(config: proto::SandboxConfig) -> Result<SandboxConfig, NodeError> {
    Ok(SandboxConfig {
        sandbox_id: parse("sandbox_id", &config.sandbox_id)?,
        template_id: parse("template_id", &config.template_id)?,
        build_id: parse("build_id", &config.build_id)?,
        team_id: parse("team_id", &config.team_id)?,
        alias: config.alias,
        metadata: config.metadata.into_iter().collect(),
        env_vars: config.env_vars.into_iter().collect(),
        envd_access_token: config.envd_access_token.map(SecretString::from),
        traffic_access_token: config.traffic_access_token.map(SecretString::from),
        allow_internet_access: config.allow_internet_access,
        network: json_in("network_json", &config.network_json)?,
        lifecycle: json_in("lifecycle_json", &config.lifecycle_json)?.unwrap_or_default(),
        volume_mounts: json_in("volume_mounts_json", &config.volume_mounts_json)?
            .unwrap_or_default(),
    })
}

pub(crate) fn sandbox_in(sandbox: Option<proto::Sandbox>) -> Result<NodeSandbox, NodeError> {
    let sandbox = sandbox.ok_or_else(|| malformed("sandbox", "missing"))?;
    let config = sandbox
        .config
        .into_option()
        .ok_or_else(|| malformed("config", "missing"))?;
    let address = match sandbox.address.as_str() {
        "" => None,
        text => Some(parse("address", text)?),
    };
    let state = state_in(sandbox.state)?;
    let paused = paused_in(
        state,
        sandbox.paused_at.into_option(),
        sandbox.paused_with_memory,
    )?;
    Ok(NodeSandbox {
        config: config_in(config)?,
        state,
        paused,
        started_at: time_in("started_at", sandbox.started_at.into_option())?,
        end_at: time_in("end_at", sandbox.end_at.into_option())?,
        vcpus: sandbox.vcpu_count,
        memory_mib: sandbox.memory_mib,
        disk_mib: sandbox.disk_mib,
        envd_version: sandbox.envd_version,
        execution_id: sandbox.execution_id,
        address,
        revision: revision_in(sandbox.revision.into_option()),
    })
}

pub(crate) fn summary_of(
    summary: Option<proto::SandboxSummary>,
) -> Result<SandboxSummary, NodeError> {
    summary_in(summary.ok_or_else(|| malformed("sandbox", "missing"))?)
}

pub(crate) fn summary_in(summary: proto::SandboxSummary) -> Result<SandboxSummary, NodeError> {
    let state = state_in(summary.state)?;
    let paused_at = summary.paused_at.into_option();
    Ok(SandboxSummary {
        sandbox_id: parse("sandbox_id", &summary.sandbox_id)?,
        template_id: parse("template_id", &summary.template_id)?,
        build_id: parse("build_id", &summary.build_id)?,
        team_id: parse("team_id", &summary.team_id)?,
        alias: summary.alias,
        metadata: summary.metadata.into_iter().collect(),
        volume_mounts: json_in("volume_mounts_json", &summary.volume_mounts_json)?
            .unwrap_or_default(),
        state,
        paused: paused_in(state, paused_at, summary.paused_with_memory)?,
        started_at: time_in("started_at", summary.started_at.into_option())?,
        end_at: time_in("end_at", summary.end_at.into_option())?,
        vcpus: summary.vcpu_count,
        memory_mib: summary.memory_mib,
        disk_mib: summary.disk_mib,
        envd_version: summary.envd_version,
        revision: revision_in(summary.revision.into_option()),
    })
}

/// An answer without one is of no use to whoever keeps a table, but to all others.
pub(crate) fn revision_in(revision: Option<proto::Revision>) -> Revision {
    let revision = revision.unwrap_or_default();
    Revision {
        instance: revision.instance,
        sequence: revision.sequence,
    }
}

pub(crate) fn batch_in(batch: proto::SandboxWatchResponse) -> Result<SandboxBatch, NodeError> {
    let current = batch.current.into_option();
    let current = current.ok_or_else(|| malformed("current", "missing"))?;
    let removal_in = |removal: proto::SandboxRemoval| {
        Ok(SandboxRemoval {
            sandbox_id: parse("sandbox_id", &removal.sandbox_id)?,
            sequence: removal.sequence,
        })
    };
    Ok(SandboxBatch {
        reset: batch.reset,
        changed: batch
            .changed
            .into_iter()
            .map(summary_in)
            .collect::<Result<_, _>>()?,
        removed: batch
            .removed
            .into_iter()
            .map(removal_in)
            .collect::<Result<_, NodeError>>()?,
        current: revision_in(Some(current)),
        complete: batch.complete,
    })
}

fn paused_in(
    state: NodeSandboxState,
    at: Option<Timestamp>,
    memory: bool,
) -> Result<Option<Paused>, NodeError> {
    let paused = match (state, at) {
        (NodeSandboxState::Paused, at) => at,
        (NodeSandboxState::Resuming, Some(at)) => Some(at),
        _ => return Ok(None),
    };
    let at = time_in("paused_at", paused)?;
    Ok(Some(Paused { at, memory }))
}

fn state_in(state: EnumValue<proto::SandboxState>) -> Result<NodeSandboxState, NodeError> {
    use proto::SandboxState as S;
    match state {
        EnumValue::Known(S::SANDBOX_STATE_STARTING) => Ok(NodeSandboxState::Starting),
        EnumValue::Known(S::SANDBOX_STATE_RUNNING) => Ok(NodeSandboxState::Running),
        EnumValue::Known(S::SANDBOX_STATE_PAUSING) => Ok(NodeSandboxState::Pausing),
        EnumValue::Known(S::SANDBOX_STATE_SNAPSHOTTING) => Ok(NodeSandboxState::Snapshotting),
        EnumValue::Known(S::SANDBOX_STATE_STOPPING) => Ok(NodeSandboxState::Stopping),
        EnumValue::Known(S::SANDBOX_STATE_PAUSED) => Ok(NodeSandboxState::Paused),
        EnumValue::Known(S::SANDBOX_STATE_RESUMING) => Ok(NodeSandboxState::Resuming),
        other => Err(malformed("state", &other.to_string())),
    }
}

pub(crate) fn info_in(info: proto::ServiceInfoResponse) -> NodeInfo {
    NodeInfo {
        node_id: info.node_id,
        version: info.version,
        accelerator: info.accelerator,
        engine: info.engine,
        sandboxes_running: info.sandboxes_running,
        sandboxes_max: info.sandboxes_max,
        memory_total_bytes: info.memory_total_bytes,
        memory_available_bytes: info.memory_available_bytes,
        sandboxes_starting: info.sandboxes_starting,
        create_successes: info.create_successes,
        create_failures: info.create_failures,
        // A node of an earlier version tells neither.
        usage: info.usage.into_option().map(usage_in).unwrap_or_default(),
        machine: info
            .machine
            .into_option()
            .map(machine_in)
            .unwrap_or_default(),
    }
}

fn usage_in(usage: proto::HostUsage) -> HostUsage {
    let disk = |disk: proto::Disk| Disk {
        mount_point: disk.mount_point,
        device: disk.device,
        filesystem_type: disk.filesystem_type,
        used_bytes: disk.used_bytes,
        total_bytes: disk.total_bytes,
    };
    HostUsage {
        cpu_percent: usage.cpu_percent,
        cpu_count: usage.cpu_count,
        huge_pages_total: usage.huge_pages_total,
        huge_pages_used: usage.huge_pages_used,
        huge_pages_reserved: usage.huge_pages_reserved,
        huge_page_size_bytes: usage.huge_page_size_bytes,
        disks: usage.disks.into_iter().map(disk).collect(),
    }
}

fn machine_in(machine: proto::Machine) -> Machine {
    Machine {
        cpu_family: machine.cpu_family,
        cpu_model: machine.cpu_model,
        cpu_model_name: machine.cpu_model_name,
        cpu_architecture: machine.cpu_architecture,
    }
}

pub(crate) fn build_in(build: proto::Build) -> Result<NodeBuild, NodeError> {
    Ok(NodeBuild {
        id: parse("build_id", &build.build_id)?,
        created_at: time_in("created_at", build.created_at.into_option())?,
        kind: build.kind,
        own_bytes: build.own_bytes,
        parents: build
            .parent_build_ids
            .iter()
            .map(|id| parse("parent_build_ids", id))
            .collect::<Result<_, _>>()?,
    })
}

pub(crate) fn time_out(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        // A leap second counts past a whole one, which the wire has no room for.
        nanos: i32::try_from(time.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(0),
        ..Default::default()
    }
}

pub(crate) fn time_in(field: &str, time: Option<Timestamp>) -> Result<DateTime<Utc>, NodeError> {
    let time = time.ok_or_else(|| malformed(field, "missing"))?;
    u32::try_from(time.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| malformed(field, "out of range"))
}

/// A time that may be missing.
pub(crate) fn optional_time_in(
    field: &str,
    time: Option<Timestamp>,
) -> Result<Option<DateTime<Utc>>, NodeError> {
    time.map(|time| time_in(field, Some(time))).transpose()
}

pub(crate) fn json_out<T: Serialize>(value: &T) -> Result<String, NodeError> {
    serde_json::to_string(value).map_err(|error| NodeError::Internal(error.to_string()))
}

pub(crate) fn json_in<T: DeserializeOwned>(
    field: &str,
    text: &str,
) -> Result<Option<T>, NodeError> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| malformed(field, &error.to_string()))
}

pub(crate) fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, NodeError> {
    text.parse().map_err(|_| malformed(field, text))
}

pub(crate) fn malformed(field: &str, why: &str) -> NodeError {
    NodeError::Internal(format!("the node sent a malformed {field}: {why}"))
}
