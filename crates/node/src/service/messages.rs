//! Between the node's types and the messages of its service. Every field is checked
//! here.

use crate::{
    error::{Error, chain},
    listing::{Page, Query},
    registry::Changes,
    spec::{SandboxSpec, SandboxState, Status, TimeoutAction},
    watch::{News, Revision},
};
use buffa::{EnumValue, MessageField};
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};
use connectrpc::ConnectError;
use hearth_node_proto::hearth::node::v1 as proto;

pub(super) fn spec(config: proto::SandboxConfig) -> Result<SandboxSpec, ConnectError> {
    Ok(SandboxSpec {
        sandbox_id: parse(&config.sandbox_id)?,
        template_id: parse(&config.template_id)?,
        build_id: parse(&config.build_id)?,
        team_id: parse(&config.team_id)?,
        alias: config.alias,
        metadata: config.metadata.into_iter().collect(),
        env_vars: config.env_vars.into_iter().collect(),
        envd_access_token: config.envd_access_token,
        traffic_access_token: config.traffic_access_token,
        allow_internet_access: config.allow_internet_access,
        network_json: config.network_json,
        lifecycle_json: config.lifecycle_json,
        volume_mounts_json: config.volume_mounts_json,
        timeout_action: timeout_action(config.timeout_action)?,
    })
}

pub(super) fn timeout_action(
    action: EnumValue<proto::TimeoutAction>,
) -> Result<TimeoutAction, ConnectError> {
    use proto::TimeoutAction as Wire;
    match action.as_known() {
        Some(Wire::TIMEOUT_ACTION_UNSPECIFIED | Wire::TIMEOUT_ACTION_KILL) => {
            Ok(TimeoutAction::Kill)
        }
        Some(Wire::TIMEOUT_ACTION_PAUSE) => Ok(TimeoutAction::Pause { memory: true }),
        Some(Wire::TIMEOUT_ACTION_PAUSE_FILESYSTEM) => Ok(TimeoutAction::Pause { memory: false }),
        None => Err(ConnectError::invalid_argument(
            "timeout_action is no known action",
        )),
    }
}

pub(super) fn query(request: &proto::SandboxListRequest) -> Result<Query, ConnectError> {
    let team = request.team_id.as_deref().map(parse).transpose()?;
    let template = request.template_id.as_deref().map(parse).transpose()?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(parse(token)?),
    };
    Ok(Query {
        team,
        template,
        skip_paused: request.skip_paused,
        with_metadata: request.with_metadata,
        after,
    })
}

pub(super) fn list_response(
    page: &Page,
    with_metadata: bool,
    instance: u64,
) -> proto::SandboxListResponse {
    let summaries = page.sandboxes.iter();
    proto::SandboxListResponse {
        sandboxes: summaries
            .map(|status| summary(status, with_metadata, instance))
            .collect(),
        next_page_token: page
            .next
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        ..Default::default()
    }
}

pub(super) fn summary(
    status: &Status,
    with_metadata: bool,
    instance: u64,
) -> proto::SandboxSummary {
    let spec = &status.spec;
    let metadata = spec.metadata.iter().filter(|_| with_metadata);
    proto::SandboxSummary {
        sandbox_id: spec.sandbox_id.to_string(),
        template_id: spec.template_id.to_string(),
        build_id: spec.build_id.to_string(),
        team_id: spec.team_id.to_string(),
        alias: spec.alias.clone(),
        metadata: metadata
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        volume_mounts_json: spec.volume_mounts_json.clone(),
        state: state(status.state),
        started_at: MessageField::some(timestamp(status.started_at)),
        end_at: MessageField::some(timestamp(status.end_at)),
        vcpu_count: status.vcpus,
        memory_mib: status.memory_mib,
        disk_mib: status.disk_mib,
        envd_version: status.envd_version.clone(),
        paused_at: paused_at(status),
        paused_with_memory: status.paused.is_some_and(|paused| paused.with_memory),
        revision: revision(instance, status.sequence),
        ..Default::default()
    }
}

pub(super) fn revision(
    instance: u64,
    sequence: u64,
) -> MessageField<proto::Revision, buffa::Inline<proto::Revision>> {
    MessageField::some(proto::Revision {
        instance,
        sequence,
        ..Default::default()
    })
}

pub(super) fn watch_response(news: News) -> proto::SandboxWatchResponse {
    let News {
        reset,
        changes,
        instance,
    } = news;
    let Changes {
        changed,
        removed,
        sequence,
        complete,
    } = changes;
    let removed = removed.into_iter().map(|removal| proto::SandboxRemoval {
        sandbox_id: removal.id.to_string(),
        sequence: removal.sequence,
        ..Default::default()
    });
    proto::SandboxWatchResponse {
        reset,
        changed: changed
            .iter()
            .map(|status| summary(status, true, instance))
            .collect(),
        removed: removed.collect(),
        current: revision(instance, sequence),
        complete,
        ..Default::default()
    }
}

pub(super) fn watched_from(request: proto::SandboxWatchRequest) -> Option<Revision> {
    let after = request.after.into_option()?;
    Some(Revision {
        instance: after.instance,
        sequence: after.sequence,
    })
}

pub(super) fn state(state: SandboxState) -> EnumValue<proto::SandboxState> {
    EnumValue::from(match state {
        SandboxState::Starting => proto::SandboxState::SANDBOX_STATE_STARTING,
        SandboxState::Running => proto::SandboxState::SANDBOX_STATE_RUNNING,
        SandboxState::Pausing => proto::SandboxState::SANDBOX_STATE_PAUSING,
        SandboxState::Snapshotting => proto::SandboxState::SANDBOX_STATE_SNAPSHOTTING,
        SandboxState::Paused => proto::SandboxState::SANDBOX_STATE_PAUSED,
        SandboxState::Resuming => proto::SandboxState::SANDBOX_STATE_RESUMING,
        SandboxState::Stopping => proto::SandboxState::SANDBOX_STATE_STOPPING,
    })
}

pub(super) fn paused_at(status: &Status) -> MessageField<Timestamp, buffa::Inline<Timestamp>> {
    missing_time(status.paused.map(|paused| paused.at))
}

/// A time that may be missing.
pub(super) fn missing_time(
    at: Option<DateTime<Utc>>,
) -> MessageField<Timestamp, buffa::Inline<Timestamp>> {
    at.map(timestamp)
        .map_or_else(MessageField::none, MessageField::some)
}

pub(super) fn sandbox(status: &Status, instance: u64) -> proto::Sandbox {
    let spec = &status.spec;
    proto::Sandbox {
        config: MessageField::some(proto::SandboxConfig {
            sandbox_id: spec.sandbox_id.to_string(),
            template_id: spec.template_id.to_string(),
            build_id: spec.build_id.to_string(),
            team_id: spec.team_id.to_string(),
            alias: spec.alias.clone(),
            metadata: spec.metadata.clone().into_iter().collect(),
            env_vars: spec.env_vars.clone().into_iter().collect(),
            envd_access_token: spec.envd_access_token.clone(),
            traffic_access_token: spec.traffic_access_token.clone(),
            allow_internet_access: spec.allow_internet_access,
            network_json: spec.network_json.clone(),
            lifecycle_json: spec.lifecycle_json.clone(),
            volume_mounts_json: spec.volume_mounts_json.clone(),
            timeout_action: EnumValue::from(match spec.timeout_action {
                TimeoutAction::Kill => proto::TimeoutAction::TIMEOUT_ACTION_KILL,
                TimeoutAction::Pause { memory: true } => proto::TimeoutAction::TIMEOUT_ACTION_PAUSE,
                TimeoutAction::Pause { memory: false } => {
                    proto::TimeoutAction::TIMEOUT_ACTION_PAUSE_FILESYSTEM
                }
            }),
            ..Default::default()
        }),
        state: state(status.state),
        started_at: MessageField::some(timestamp(status.started_at)),
        end_at: MessageField::some(timestamp(status.end_at)),
        vcpu_count: status.vcpus,
        memory_mib: status.memory_mib,
        disk_mib: status.disk_mib,
        envd_version: status.envd_version.clone(),
        execution_id: status.execution_id.to_string(),
        address: status
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        paused_at: paused_at(status),
        paused_with_memory: status.paused.is_some_and(|paused| paused.with_memory),
        revision: revision(instance, status.sequence),
        ..Default::default()
    }
}

pub(super) fn parse<T>(text: &str) -> Result<T, ConnectError>
where
    T: std::str::FromStr<Err = hearth_ids::ParseError>,
{
    text.parse()
        .map_err(|error: hearth_ids::ParseError| ConnectError::invalid_argument(error.to_string()))
}

pub(super) fn missing(field: &str) -> ConnectError {
    ConnectError::invalid_argument(format!("{field} is required"))
}

pub(super) fn time(
    field: &str,
    value: MessageField<Timestamp, buffa::Inline<Timestamp>>,
) -> Result<Option<DateTime<Utc>>, ConnectError> {
    let Some(value) = value.into_option() else {
        return Ok(None);
    };
    u32::try_from(value.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(value.seconds, nanos))
        .map(Some)
        .ok_or_else(|| ConnectError::invalid_argument(format!("{field} is no valid time")))
}

pub(super) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
        ..Default::default()
    }
}

/// The one place where the node's errors become Connect codes.
pub(super) fn connect_error(error: Error) -> ConnectError {
    let text = chain(&error);
    match error {
        Error::AlreadyExists(_) => ConnectError::already_exists(text),
        Error::NotFound(_) | Error::BuildNotFound { .. } => ConnectError::not_found(text),
        Error::Capacity(_) => ConnectError::resource_exhausted(text),
        Error::Invalid(_) => ConnectError::invalid_argument(text),
        Error::State { .. } => ConnectError::failed_precondition(text),
        Error::Damaged { .. } => ConnectError::data_loss(text),
        Error::Incompatible(_) => ConnectError::unimplemented(text),
        Error::ShuttingDown => ConnectError::unavailable(text),
        Error::Step { .. } => ConnectError::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::{PAGE_BYTES, page, tests::status};
    use buffa::Message as _;
    use hearth_ids::TeamId;

    /// What a list tells is bounded by its page, and holds nothing that is secret or
    /// that the sandboxes' owner can make large, but the metadata where asked for.
    #[test]
    fn lists_are_bounded_and_tell_no_secrets() {
        let (large, small) = (TeamId::random(), TeamId::random());
        let mut statuses = Vec::new();
        for _ in 0..70 {
            statuses.push(status(large, SandboxState::Paused, 256 << 10));
        }
        statuses.push(status(small, SandboxState::Running, 10));
        let encoded = |query: &Query| {
            let page = page(statuses.clone(), query);
            list_response(&page, query.with_metadata, 1).encode_to_vec()
        };
        let own = Query {
            team: Some(small),
            with_metadata: true,
            ..Query::default()
        };
        assert!(encoded(&own).len() < 1024, "the cost of one's own alone");
        let all = encoded(&Query::default());
        assert!(all.len() < 70 * 512, "{}", all.len());
        let with_metadata = Query {
            with_metadata: true,
            ..Query::default()
        };
        let with_metadata = encoded(&with_metadata);
        assert!(with_metadata.len() <= PAGE_BYTES, "{}", with_metadata.len());
        for message in [all, with_metadata] {
            let text = String::from_utf8_lossy(&message);
            for hidden in ["secret-token", "eeeeeeee", "nnnnnnnn"] {
                assert!(!text.contains(hidden), "{hidden}");
            }
        }
    }

    #[test]
    fn malformed_queries_are_refused() {
        let refused = |request: proto::SandboxListRequest| {
            let error = query(&request).expect_err("is refused");
            assert_eq!(error.code, connectrpc::ErrorCode::InvalidArgument);
        };
        refused(proto::SandboxListRequest {
            team_id: Some("x".to_owned()),
            ..Default::default()
        });
        refused(proto::SandboxListRequest {
            page_token: "x".to_owned(),
            ..Default::default()
        });
    }
}
