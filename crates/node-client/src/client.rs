//! The client of a node's gRPC service.
//!
//! One HTTP/2 connection, over a unix socket or mutual TLS, made at the first call and made anew when it is lost,
//! so that a node may restart under its callers: the calls that it interrupts
//! fail as unreachable, the next ones find it again.

use crate::convert;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use connectrpc::client::{CallOptions, ClientConfig, Http2Connection, SharedHttp2Connection};
use connectrpc::{CompressionRegistry, ConnectError, ErrorCode, Protocol};
use hearth_cluster::Connect;
use hearth_control::{
    Node, NodeBuild, NodeError, NodeEvents, NodeInfo, NodeSandbox, Revision, SandboxConfig,
    SandboxQuery, SandboxSummary, SandboxUpdate, SandboxWatch,
};
use hearth_ids::{BuildId, SandboxId};
use hearth_node_proto::hearth::{
    event::v1 as event_proto, node::v1 as proto, template::v1 as template_proto,
};
use http::Uri;
use std::path::PathBuf;
use std::time::Duration;

/// Below the 70 seconds that an API request may take, so that the reason
/// reaches the caller.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// A node lets a caller wait a moment for a sandbox that is nearly made.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(3);
const QUICK_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch is begun anew after this, from where it came to.
const WATCH_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// A node says something to its watchers every five seconds. One that does not is gone,
/// or the way to it is.
const WATCH_SILENCE: Duration = Duration::from_secs(15);
/// Calls that wait for the connection; what comes on top waits for them.
const MAX_WAITING_CALLS: usize = 1024;
/// Far above the largest answer, which is one sandbox with all that was asked of it;
/// lists come in pages that are smaller.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// What one answer may take in memory, many small parts included.
const MAX_MESSAGE_MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// On the way to another machine connections die silently: a silent one is asked whether it
/// lives, and given up when it does not say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A client of one node's gRPC services, over one HTTP/2 connection.
pub struct NodeClient {
    sandboxes: proto::SandboxServiceClient<SharedHttp2Connection>,
    builds: proto::BuildServiceClient<SharedHttp2Connection>,
    info: proto::InfoServiceClient<SharedHttp2Connection>,
    pub(crate) events: event_proto::EventServiceClient<SharedHttp2Connection>,
    pub(crate) templates: template_proto::TemplateServiceClient<SharedHttp2Connection>,
}

impl NodeClient {
    /// A client of the node behind a unix socket, which need not be there yet.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        // HTTP wants an authority; over a unix socket nobody looks at it.
        let authority = Uri::from_static("http://node");
        let connection = Http2Connection::builder()
            .establishment_timeout(Duration::from_secs(2))
            .lazy_unix(path, authority.clone())
            .shared(MAX_WAITING_CALLS);
        Self::over(connection, authority)
    }

    /// A client of a node of the cluster, over mutual TLS; it need not be there yet. Must be
    /// called within a tokio runtime.
    #[must_use]
    pub fn member(node: Connect) -> Self {
        // The certificate says who answers, at whatever address.
        let authority = Uri::from_static("http://node");
        let connection = Http2Connection::builder()
            .establishment_timeout(QUICK_TIMEOUT)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .lazy_with_connector(hearth_cluster::connector(node), authority.clone())
            .shared(MAX_WAITING_CALLS);
        Self::over(connection, authority)
    }

    fn over(connection: SharedHttp2Connection, authority: Uri) -> Self {
        let config = ClientConfig::new(authority)
            .with_protocol(Protocol::Grpc)
            // Messages are small: packing costs more than it saves.
            .with_compression(CompressionRegistry::new())
            .with_default_timeout(QUICK_TIMEOUT)
            .with_default_max_message_size(MAX_MESSAGE_BYTES)
            .with_default_element_memory_limit(MAX_MESSAGE_MEMORY_BYTES);
        Self {
            sandboxes: proto::SandboxServiceClient::new(connection.clone(), config.clone()),
            builds: proto::BuildServiceClient::new(connection.clone(), config.clone()),
            events: event_proto::EventServiceClient::new(connection.clone(), config.clone()),
            templates: template_proto::TemplateServiceClient::new(
                connection.clone(),
                config.clone(),
            ),
            info: proto::InfoServiceClient::new(connection, config),
        }
    }
}

pub(crate) fn within(timeout: Duration) -> CallOptions {
    CallOptions::default().with_timeout(timeout)
}

impl NodeClient {
    async fn create_from(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
        of: Option<&SandboxId>,
    ) -> Result<NodeSandbox, NodeError> {
        let request = proto::SandboxCreateRequest {
            config: convert::config_out(config)?.into(),
            end_at: convert::time_out(end_at).into(),
            forked_from: of.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        let response = self
            .sandboxes
            .create_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        convert::sandbox_in(response.into_owned().sandbox.into_option())
    }

    async fn checkpoint_for(
        &self,
        id: &SandboxId,
        build: BuildId,
        fork: bool,
    ) -> Result<SandboxSummary, NodeError> {
        let request = proto::SandboxCheckpointRequest {
            sandbox_id: id.to_string(),
            build_id: build.to_string(),
            fork,
            ..Default::default()
        };
        let response = self
            .sandboxes
            .checkpoint_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        convert::summary_of(response.into_owned().sandbox.into_option())
    }
}

#[async_trait]
impl Node for NodeClient {
    async fn create(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
    ) -> Result<NodeSandbox, NodeError> {
        self.create_from(config, end_at, None).await
    }

    async fn create_fork(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
        of: &SandboxId,
    ) -> Result<NodeSandbox, NodeError> {
        self.create_from(config, end_at, Some(of)).await
    }

    async fn update(
        &self,
        id: &SandboxId,
        update: SandboxUpdate,
    ) -> Result<NodeSandbox, NodeError> {
        let network_json = match &update.network {
            Some(network) => Some(convert::json_out(network)?),
            None => None,
        };
        let request = proto::SandboxUpdateRequest {
            sandbox_id: id.to_string(),
            end_at: update.end_at.map(convert::time_out).into(),
            only_extend: update.only_extend,
            network_json,
            ..Default::default()
        };
        let response = self.sandboxes.update(request).await.map_err(node_error)?;
        convert::sandbox_in(response.into_owned().sandbox.into_option())
    }

    async fn get(&self, id: &SandboxId) -> Result<Option<NodeSandbox>, NodeError> {
        let request = proto::SandboxGetRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        match self.sandboxes.get(request).await {
            Ok(response) => {
                let sandbox = response.into_owned().sandbox.into_option();
                convert::sandbox_in(sandbox).map(Some)
            }
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(node_error(error)),
        }
    }

    async fn list(&self, query: SandboxQuery<'_>) -> Result<Vec<SandboxSummary>, NodeError> {
        let mut sandboxes = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::SandboxListRequest {
                team_id: query.team.map(|id| id.to_string()),
                template_id: query.template.map(ToString::to_string),
                skip_paused: query.skip_paused,
                with_metadata: query.with_metadata,
                page_token: page_token.clone(),
                ..Default::default()
            };
            let page = self.sandboxes.list(request).await.map_err(node_error)?;
            let page = page.into_owned();
            for sandbox in page.sandboxes {
                sandboxes.push(convert::summary_in(sandbox)?);
            }
            match page.next_page_token {
                last if last.is_empty() => return Ok(sandboxes),
                // Tokens rise, so that the loop has an end.
                next if next > page_token => page_token = next,
                _ => {
                    let why = "the node sent a page token that leads back".to_owned();
                    return Err(NodeError::Internal(why));
                }
            }
        }
    }

    async fn watch(&self, after: Option<Revision>) -> Result<SandboxWatch, NodeError> {
        let after = after.map(|after| proto::Revision {
            instance: after.instance,
            sequence: after.sequence,
            ..Default::default()
        });
        let request = proto::SandboxWatchRequest {
            after: after.into(),
            ..Default::default()
        };
        let watch = self
            .sandboxes
            .watch_with_options(request, within(WATCH_TIMEOUT));
        let begun = tokio::time::timeout(WATCH_SILENCE, watch).await;
        let stream = begun.map_err(|_| silent())?.map_err(node_error)?;
        Ok(Box::pin(futures::stream::unfold(
            Some(stream),
            |stream| async move {
                let mut stream = stream?;
                let next = tokio::time::timeout(WATCH_SILENCE, stream.message()).await;
                let batch = match next {
                    Ok(Ok(Some(message))) => convert::batch_in(message.to_owned_message()),
                    Ok(Ok(None)) => return None,
                    Ok(Err(error)) => Err(node_error(error)),
                    Err(_) => Err(silent()),
                };
                let goes_on = batch.is_ok().then_some(stream);
                Some((batch, goes_on))
            },
        )))
    }

    async fn delete(&self, id: &SandboxId) -> Result<Revision, NodeError> {
        let request = proto::SandboxDeleteRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let response = self
            .sandboxes
            // What is under way is waited for: a pause may write for long.
            .delete_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        let revision = response.into_owned().revision.into_option();
        Ok(convert::revision_in(revision))
    }

    async fn reserve(&self, build: BuildId) -> Result<Option<SandboxId>, NodeError> {
        let request = proto::SandboxReserveRequest {
            build_id: build.to_string(),
            ..Default::default()
        };
        let answer = self
            .sandboxes
            .reserve_with_options(request, within(RESERVE_TIMEOUT))
            .await
            .map_err(node_error)?
            .into_owned();
        answer
            .sandbox_id
            .map(|id| {
                id.parse()
                    .map_err(|_| NodeError::Internal(format!("the node sent a malformed id: {id}")))
            })
            .transpose()
    }

    async fn pause(
        &self,
        id: &SandboxId,
        build: BuildId,
        memory: bool,
    ) -> Result<SandboxSummary, NodeError> {
        let request = proto::SandboxPauseRequest {
            sandbox_id: id.to_string(),
            build_id: build.to_string(),
            memory,
            ..Default::default()
        };
        let response = self
            .sandboxes
            .pause_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        convert::summary_of(response.into_owned().sandbox.into_option())
    }

    async fn resume(
        &self,
        id: &SandboxId,
        end_at: DateTime<Utc>,
        discard_memory: bool,
    ) -> Result<NodeSandbox, NodeError> {
        let request = proto::SandboxResumeRequest {
            sandbox_id: id.to_string(),
            end_at: convert::time_out(end_at).into(),
            discard_memory,
            ..Default::default()
        };
        let response = self
            .sandboxes
            .resume_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        convert::sandbox_in(response.into_owned().sandbox.into_option())
    }

    async fn checkpoint(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<SandboxSummary, NodeError> {
        self.checkpoint_for(id, build, false).await
    }

    async fn checkpoint_for_forks(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<SandboxSummary, NodeError> {
        self.checkpoint_for(id, build, true).await
    }

    async fn events(&self, acknowledged: &[u64], wait: Duration) -> Result<NodeEvents, NodeError> {
        self.events_take(acknowledged, wait).await
    }

    async fn rollback(&self, id: &SandboxId, build: BuildId) -> Result<NodeSandbox, NodeError> {
        let request = proto::SandboxRollbackRequest {
            sandbox_id: id.to_string(),
            build_id: build.to_string(),
            ..Default::default()
        };
        let response = self
            .sandboxes
            .rollback_with_options(request, within(START_TIMEOUT))
            .await
            .map_err(node_error)?;
        convert::sandbox_in(response.into_owned().sandbox.into_option())
    }

    async fn build_list(&self) -> Result<Vec<NodeBuild>, NodeError> {
        let response = self
            .builds
            .list_builds(proto::BuildListRequest::default())
            .await
            .map_err(node_error)?;
        response
            .into_owned()
            .builds
            .into_iter()
            .map(convert::build_in)
            .collect()
    }

    async fn build_delete(&self, build: BuildId) -> Result<(), NodeError> {
        let request = proto::BuildDeleteRequest {
            build_id: build.to_string(),
            ..Default::default()
        };
        self.builds
            .delete_build_with_options(request, within(STOP_TIMEOUT))
            .await
            .map_err(node_error)?;
        Ok(())
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        let response = self
            .info
            .service_info(proto::ServiceInfoRequest::default())
            .await
            .map_err(node_error)?;
        Ok(convert::info_in(response.into_owned()))
    }

    fn templates(&self) -> Option<&dyn hearth_control::TemplateNode> {
        Some(self)
    }
}

fn silent() -> NodeError {
    NodeError::Unreachable("the node has fallen silent".to_owned())
}

/// The one place where Connect codes become the application's errors.
pub(crate) fn node_error(error: ConnectError) -> NodeError {
    let message = error.message.clone().unwrap_or_default();
    match error.code {
        ErrorCode::AlreadyExists => NodeError::AlreadyExists(message),
        ErrorCode::NotFound => NodeError::NotFound(message),
        ErrorCode::FailedPrecondition | ErrorCode::Aborted => NodeError::InTransition(message),
        ErrorCode::InvalidArgument | ErrorCode::OutOfRange => NodeError::Invalid(message),
        ErrorCode::ResourceExhausted => NodeError::Exhausted(message),
        ErrorCode::Unimplemented => NodeError::Unimplemented(message),
        ErrorCode::Unavailable | ErrorCode::Canceled => NodeError::Unreachable(message),
        ErrorCode::DeadlineExceeded => NodeError::Deadline,
        ErrorCode::DataLoss => NodeError::Damaged(message),
        _ => NodeError::Internal(format!("{}: {message}", error.code.as_str())),
    }
}
