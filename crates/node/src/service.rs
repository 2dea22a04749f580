//! The node's gRPC service: messages in, calls on [`Node`], messages out. Every
//! field is checked here; behind this file only the node's own types exist.

use crate::{
    error::{Error, chain},
    node::{EndAt, Node},
    spec::{SandboxSpec, SandboxState, Status},
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
        proto::InfoServiceExt::register(service, router)
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::SandboxService for Service {
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
        _request: ServiceRequest<'_, proto::SandboxListRequest>,
    ) -> ServiceResult<proto::SandboxListResponse> {
        let sandboxes = self.node.list().iter().map(sandbox).collect();
        Response::ok(proto::SandboxListResponse {
            sandboxes,
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
        let id = parse(request.sandbox_id)?;
        self.node.status(&id).map_err(connect_error)?;
        Err(connect_error(Error::Unsupported {
            operation: "pausing a sandbox",
        }))
    }

    async fn checkpoint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxCheckpointRequest>,
    ) -> ServiceResult<proto::SandboxCheckpointResponse> {
        let id = parse(request.sandbox_id)?;
        self.node.status(&id).map_err(connect_error)?;
        Err(connect_error(Error::Unsupported {
            operation: "taking a snapshot of a sandbox",
        }))
    }

    async fn resume(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxResumeRequest>,
    ) -> ServiceResult<proto::SandboxResumeResponse> {
        let id = parse(request.sandbox_id)?;
        self.node.status(&id).map_err(connect_error)?;
        Err(connect_error(Error::Unsupported {
            operation: "resuming a sandbox",
        }))
    }

    async fn rollback(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxRollbackRequest>,
    ) -> ServiceResult<proto::SandboxRollbackResponse> {
        let id = parse(request.sandbox_id)?;
        self.node.status(&id).map_err(connect_error)?;
        Err(connect_error(Error::Unsupported {
            operation: "rolling a sandbox back",
        }))
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
    })
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
            ..Default::default()
        }),
        state: EnumValue::from(match status.state {
            SandboxState::Starting => proto::SandboxState::SANDBOX_STATE_STARTING,
            SandboxState::Running => proto::SandboxState::SANDBOX_STATE_RUNNING,
            SandboxState::Stopping => proto::SandboxState::SANDBOX_STATE_STOPPING,
        }),
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
        Error::Unsupported { .. } => ConnectError::unimplemented(text),
        Error::ShuttingDown => ConnectError::unavailable(text),
        Error::Step { .. } => ConnectError::internal(text),
    }
}
