//! The node's gRPC service: messages in, calls on [`Node`], messages out. Every
//! field is checked in [`messages`]; behind that only the node's own types exist.

mod events;
mod info;
mod messages;

use crate::{
    node::{EndAt, Node},
    spec::Status,
};
use buffa::MessageField;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use hearth_node_proto::hearth::{event::v1 as event_proto, node::v1 as proto};
use messages::{
    connect_error, list_response, missing, parse, query, revision, spec, summary, time, timestamp,
    watch_response, watched_from,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub(crate) struct Service {
    node: Arc<Node>,
    creates: info::Creates,
    host: crate::host::Sampler,
    /// Cancelled when the server stops: what would go on for ever ends.
    stop: CancellationToken,
}

impl Service {
    pub(crate) fn router(node: Arc<Node>, stop: CancellationToken) -> connectrpc::Router {
        let service = Arc::new(Self {
            node,
            creates: info::Creates::default(),
            host: crate::host::Sampler::default(),
            stop,
        });
        let router =
            proto::SandboxServiceExt::register(Arc::clone(&service), connectrpc::Router::new());
        let router = proto::BuildServiceExt::register(Arc::clone(&service), router);
        let router = event_proto::EventServiceExt::register(Arc::clone(&service), router);
        proto::InfoServiceExt::register(service, router)
    }

    fn sandbox(&self, status: &Status) -> proto::Sandbox {
        messages::sandbox(status, self.node.instance())
    }

    fn summary(&self, status: &Status) -> proto::SandboxSummary {
        summary(status, true, self.node.instance())
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
        let of = match request.forked_from.as_str() {
            "" => None,
            id => Some(parse(id)?),
        };
        let made = self.node.create_fork(spec(config)?, end_at, of).await;
        self.creates.count(made.is_ok());
        let status = made.map_err(connect_error)?;
        Response::ok(proto::SandboxCreateResponse {
            sandbox: MessageField::some(self.sandbox(&status)),
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
            sandbox: MessageField::some(self.sandbox(&status)),
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
        Response::ok(list_response(
            &page,
            query.with_metadata,
            self.node.instance(),
        ))
    }

    async fn watch(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxWatchRequest>,
    ) -> ServiceResult<ServiceStream<proto::SandboxWatchResponse>> {
        let after = watched_from(request.to_owned_message());
        let end = self.stop.child_token();
        let watcher = self.node.watch(after, end).map_err(connect_error)?;
        Response::stream_ok(futures::stream::unfold(watcher, |mut watcher| async move {
            let news = watcher.next().await?;
            Some((Ok(watch_response(news)), watcher))
        }))
    }

    async fn get(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxGetRequest>,
    ) -> ServiceResult<proto::SandboxGetResponse> {
        let id = parse(request.sandbox_id)?;
        let status = self.node.status(&id).map_err(connect_error)?;
        Response::ok(proto::SandboxGetResponse {
            sandbox: MessageField::some(self.sandbox(&status)),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxDeleteRequest>,
    ) -> ServiceResult<proto::SandboxDeleteResponse> {
        let id = parse(request.sandbox_id)?;
        let sequence = self.node.delete(&id).await.map_err(connect_error)?;
        Response::ok(proto::SandboxDeleteResponse {
            revision: revision(self.node.instance(), sequence),
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxPauseRequest>,
    ) -> ServiceResult<proto::SandboxPauseResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let paused = self.node.pause(&id, build, request.memory).await;
        let status = paused.map_err(connect_error)?;
        Response::ok(proto::SandboxPauseResponse {
            sandbox: MessageField::some(self.summary(&status)),
            ..Default::default()
        })
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
            sandbox: MessageField::some(self.sandbox(&resumed.map_err(connect_error)?)),
            ..Default::default()
        })
    }

    async fn checkpoint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxCheckpointRequest>,
    ) -> ServiceResult<proto::SandboxCheckpointResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let kept = self.node.checkpoint_for(&id, build, request.fork).await;
        let status = kept.map_err(connect_error)?;
        Response::ok(proto::SandboxCheckpointResponse {
            sandbox: MessageField::some(self.summary(&status)),
            ..Default::default()
        })
    }

    async fn rollback(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::SandboxRollbackRequest>,
    ) -> ServiceResult<proto::SandboxRollbackResponse> {
        let (id, build) = (parse(request.sandbox_id)?, parse(request.build_id)?);
        let status = self.node.roll_back(&id, build).await;
        Response::ok(proto::SandboxRollbackResponse {
            sandbox: MessageField::some(self.sandbox(&status.map_err(connect_error)?)),
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
