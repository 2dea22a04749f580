//! The node's gRPC service: messages in, calls on [`Node`], messages out. Every
//! field is checked here; behind this file only the node's own types exist.

use crate::{
    error::{Error, chain},
    listing::{Page, Query},
    node::{EndAt, Node},
    spec::{SandboxSpec, SandboxState, Status, TimeoutAction},
};
use buffa::{EnumValue, MessageField};
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use hearth_node_proto::hearth::node::v1 as proto;
use std::sync::Arc;

pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    pub(crate) fn router(node: Arc<Node>) -> connectrpc::Router {
        let service = Arc::new(Self { node });
        let router =
            proto::SandboxServiceExt::register(Arc::clone(&service), connectrpc::Router::new());
        let router = proto::BuildServiceExt::register(Arc::clone(&service), router);
        proto::InfoServiceExt::register(service, router)
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::SandboxService for Service {
    async fn reserve(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxReserveRequest>,
    ) -> ServiceResult<proto::SandboxReserveResponse> {
        let build = parse(request.build_id)?;
        let sandbox_id = self.node.reserve(build).await.map(|id| id.to_string());
        Response::ok(proto::SandboxReserveResponse {
            sandbox_id,
            ..Default::default()
        })
    }

    async fn create(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxCreateRequest>,
    ) -> ServiceResult<proto::SandboxCreateResponse> {
        let request = request.to_owned_message();
        let config = request
            .config
            .into_option()
            .ok_or_else(|| missing("config"))?;
        let end_at = time("end_at", request.end_at)?.ok_or_else(|| missing("end_at"))?;
        let status = self
            .node
            .create(spec(config)?, end_at)
            .await
            .map_err(connect_error)?;
        Response::ok(proto::SandboxCreateResponse {
            sandbox: MessageField::some(sandbox(&status)),
            ..Default::default()
        })
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxUpdateRequest>,
    ) -> ServiceResult<proto::SandboxUpdateResponse> {
        let request = request.to_owned_message();
        let id = parse(&request.sandbox_id)?;
        let end_at = time("end_at", request.end_at)?.map(|at| {
            if request.only_extend {
                EndAt::NotBefore(at)
            } else {
                EndAt::At(at)
            }
        });
        let status = self
            .node
            .update(&id, end_at, request.network_json)
            .await
            .map_err(connect_error)?;
        Response::ok(proto::SandboxUpdateResponse {
            sandbox: MessageField::some(sandbox(&status)),
            ..Default::default()
        })
    }

    async fn list(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxListRequest>,
    ) -> ServiceResult<proto::SandboxListResponse> {
        let query = query(&request.to_owned_message())?;
        let page = self.node.page(&query);
        Response::ok(list_response(&page, query.with_metadata))
    }

    async fn get(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxGetRequest>,
    ) -> ServiceResult<proto::SandboxGetResponse> {
        let id = parse(request.sandbox_id)?;
        let status = self.node.status(&id).map_err(connect_error)?;
        Response::ok(proto::SandboxGetResponse {
            sandbox: MessageField::some(sandbox(&status)),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxDeleteRequest>,
    ) -> ServiceResult<proto::SandboxDeleteResponse> {
        let id = parse(request.sandbox_id)?;
        self.node.delete(&id).await.map_err(connect_error)?;
        Response::ok(proto::SandboxDeleteResponse::default())
    }

    async fn pause(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxPauseRequest>,
    ) -> ServiceResult<proto::SandboxPauseResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let paused = self.node.pause(&id, build, request.memory).await;
        paused.map_err(connect_error)?;
        Response::ok(proto::SandboxPauseResponse::default())
    }

    async fn resume(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxResumeRequest>,
    ) -> ServiceResult<proto::SandboxResumeResponse> {
        let request = request.to_owned_message();
        let id = parse(&request.sandbox_id)?;
        let end_at = time("end_at", request.end_at)?.ok_or_else(|| missing("end_at"))?;
        let resumed = self.node.resume(&id, end_at, request.discard_memory).await;
        Response::ok(proto::SandboxResumeResponse {
            sandbox: MessageField::some(sandbox(&resumed.map_err(connect_error)?)),
            ..Default::default()
        })
    }

    async fn checkpoint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxCheckpointRequest>,
    ) -> ServiceResult<proto::SandboxCheckpointResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let kept = self.node.checkpoint(&id, build).await;
        kept.map_err(connect_error)?;
        Response::ok(proto::SandboxCheckpointResponse::default())
    }

    async fn rollback(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxRollbackRequest>,
    ) -> ServiceResult<proto::SandboxRollbackResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let status = self.node.roll_back(&id, build).await;
        Response::ok(proto::SandboxRollbackResponse {
            sandbox: MessageField::some(sandbox(&status.map_err(connect_error)?)),
            ..Default::default()
        })
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::BuildService for Service {
    async fn list_builds(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, proto::BuildListRequest>,
    ) -> ServiceResult<proto::BuildListResponse> {
        let builds = self.node.builds().await.map_err(connect_error)?;
        let builds = builds.into_iter().map(|build| proto::Build {
            build_id: build.build_id.to_string(),
            kind: build.kind.as_str().to_owned(),
            created_at: MessageField::some(timestamp(build.created_at)),
            own_bytes: build.own_bytes,
            parent_build_ids: build.parents.iter().map(ToString::to_string).collect(),
            ..Default::default()
        });
        Response::ok(proto::BuildListResponse {
            builds: builds.collect(),
            ..Default::default()
        })
    }

    async fn delete_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::BuildDeleteRequest>,
    ) -> ServiceResult<proto::BuildDeleteResponse> {
        let build = parse(request.build_id)?;
        self.node.delete_build(build).await.map_err(connect_error)?;
        Response::ok(proto::BuildDeleteResponse::default())
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::InfoService for Service {
    async fn service_info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, proto::ServiceInfoRequest>,
    ) -> ServiceResult<proto::ServiceInfoResponse> {
        let info = self.node.info().await.map_err(connect_error)?;
        Response::ok(proto::ServiceInfoResponse {
            node_id: info.node_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accelerator: info.accelerator,
            engine: info.engine,
            sandboxes_running: u32::try_from(info.sandboxes).unwrap_or(u32::MAX),
            sandboxes_max: u32::try_from(info.sandboxes_max).unwrap_or(u32::MAX),
            memory_total_bytes: info.memory_total_bytes,
            memory_available_bytes: info.memory_available_bytes,
            build_ids: info.builds.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }
}

fn spec(config: proto::SandboxConfig) -> Result<SandboxSpec, ConnectError> {
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

fn timeout_action(action: EnumValue<proto::TimeoutAction>) -> Result<TimeoutAction, ConnectError> {
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

fn query(request: &proto::SandboxListRequest) -> Result<Query, ConnectError> {
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

fn list_response(page: &Page, with_metadata: bool) -> proto::SandboxListResponse {
    let summaries = page.sandboxes.iter();
    proto::SandboxListResponse {
        sandboxes: summaries
            .map(|status| summary(status, with_metadata))
            .collect(),
        next_page_token: page
            .next
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        ..Default::default()
    }
}

fn summary(status: &Status, with_metadata: bool) -> proto::SandboxSummary {
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
        ..Default::default()
    }
}

fn state(state: SandboxState) -> EnumValue<proto::SandboxState> {
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

fn paused_at(status: &Status) -> MessageField<Timestamp, buffa::Inline<Timestamp>> {
    let at = status.paused.map(|paused| timestamp(paused.at));
    at.map_or_else(MessageField::none, MessageField::some)
}

fn sandbox(status: &Status) -> proto::Sandbox {
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
        ..Default::default()
    }
}

fn parse<T>(text: &str) -> Result<T, ConnectError>
where
    T: std::str::FromStr<Err = hearth_ids::ParseError>,
{
    text.parse()
        .map_err(|error: hearth_ids::ParseError| ConnectError::invalid_argument(error.to_string()))
}

fn missing(field: &str) -> ConnectError {
    ConnectError::invalid_argument(format!("{field} is required"))
}

fn time(
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

fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
        ..Default::default()
    }
}

/// The one place where the node's errors become Connect codes.
fn connect_error(error: Error) -> ConnectError {
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
            list_response(&page, query.with_metadata).encode_to_vec()
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
