//! The `filesystem.Filesystem` RPC service: from messages to operations and
//! back.

use std::sync::Arc;

use buffa::MessageField;
use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use hearth_guest_proto::filesystem::{
    self as proto, CreateWatcherRequest, CreateWatcherResponse, EntryInfo, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse,
    MoveRequest, MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest,
    RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest, WatchDirResponse,
};

use super::{Actor, FileError, entry, tree};
use crate::Agent;
use crate::http::caller;

/// The service's implementation; all state is the agent's.
#[derive(Debug)]
pub struct FilesystemService(pub Arc<Agent>);

impl FilesystemService {
    fn actor(&self, ctx: &RequestContext) -> Result<Actor, ConnectError> {
        let settings = self.0.settings.snapshot();
        let user = caller::rpc_user(ctx.headers(), &settings, &self.0.users)?;
        Ok(Actor::new(user, &settings, &self.0.users))
    }
}

/// Describes a path as the actor sees it, on its thread.
fn describe(actor: &Actor, path: &str) -> Result<EntryInfo, FileError> {
    entry::describe(path, &actor.users().names())
}

#[expect(
    refining_impl_trait,
    reason = "callers go through the trait, which hides the type"
)]
impl proto::Filesystem for FilesystemService {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let actor = self.actor(&ctx)?;
        let path = actor.resolve(request.path)?;
        let of = actor.clone();
        let entry = actor.run(move || describe(&of, &path)).await?;
        Response::ok(StatResponse {
            entry: MessageField::some(entry),
            ..Default::default()
        })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let actor = self.actor(&ctx)?;
        let path = actor.resolve(request.path)?;
        let of = actor.clone();
        let made = actor.run(move || {
            tree::make_directory(&path)?;
            describe(&of, &path)
        });
        let entry = MessageField::some(made.await?);
        Response::ok(MakeDirResponse {
            entry,
            ..Default::default()
        })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let actor = self.actor(&ctx)?;
        let source = actor.resolve(request.source)?;
        let destination = actor.resolve(request.destination)?;
        let of = actor.clone();
        let moved = actor.run(move || {
            tree::move_path(&source, &destination)?;
            describe(&of, &destination)
        });
        let entry = MessageField::some(moved.await?);
        Response::ok(MoveResponse {
            entry,
            ..Default::default()
        })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let actor = self.actor(&ctx)?;
        let path = actor.resolve(request.path)?;
        let depth = request.depth;
        let of = actor.clone();
        let listed = actor.run(move || tree::list(&path, depth, &of.users().names()));
        Response::ok(ListDirResponse {
            entries: listed.await?,
            ..Default::default()
        })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let actor = self.actor(&ctx)?;
        let path = actor.resolve(request.path)?;
        actor.run(move || tree::remove(&path)).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        Err(unsupported())
    }

    async fn create_watcher(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        Err(unsupported())
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        Err(unsupported())
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        Err(unsupported())
    }
}

fn unsupported() -> ConnectError {
    ConnectError::unimplemented("directories cannot be watched yet")
}
