//! The `filesystem.Filesystem` RPC service: from messages to operations and
//! back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::Stream;
use hearth_guest_proto::filesystem::__buffa::oneof::watch_dir_response::Event as WatchEvent;
use hearth_guest_proto::filesystem::{
    self as proto, CreateWatcherRequest, CreateWatcherResponse, EntryInfo, FilesystemEvent,
    GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest, ListDirResponse,
    MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse,
    RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest,
    WatchDirResponse,
};

use tokio_util::sync::CancellationToken;

use super::watch::tree::Tree;
use super::watch::{self, Options};
use super::{Actor, FileError, entry, tree};
use crate::Agent;
use crate::handover::interrupted;
use crate::http::caller;
use crate::process::service::keepalive_interval;

/// The service's implementation; all state is the agent's.
#[derive(Debug)]
pub struct FilesystemService(pub Arc<Agent>);

impl FilesystemService {
    fn actor(&self, ctx: &RequestContext) -> Result<Actor, ConnectError> {
        let settings = self.0.settings.snapshot();
        let user = caller::rpc_user(ctx.headers(), &settings, &self.0.users)?;
        Ok(Actor::new(user, &settings, &self.0.users))
    }

    async fn open(
        &self,
        ctx: &RequestContext,
        path: &str,
        options: Options,
    ) -> Result<(Actor, Tree), ConnectError> {
        let actor = self.actor(ctx)?;
        let path = actor.resolve(path)?;
        let tree = actor.run(move || Tree::open(&path, options)).await?;
        Ok((actor, tree))
    }
}

/// Describes a path with the names of its owners.
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
            tree::make_directory(&path, of.owner())?;
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
            tree::move_path(&source, &destination, of.owner())?;
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
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let options = Options {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let (actor, tree) = self.open(&ctx, request.path, options).await?;
        let keepalive = keepalive_interval(&ctx);
        let begun = self.0.handover.begun().clone();
        let events = watch_stream(actor, tree, options, keepalive, begun);
        Response::ok(Box::pin(events))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let options = Options {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let (actor, tree) = self.open(&ctx, request.path, options).await?;
        let watcher_id = self.0.pollers.insert(actor, tree, options)?;
        Response::ok(CreateWatcherResponse {
            watcher_id,
            ..Default::default()
        })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let id = request.watcher_id;
        let events = self
            .0
            .pollers
            .take(id)
            .await
            .ok_or_else(|| watch::unknown(id))??;
        Response::ok(GetWatcherEventsResponse {
            events,
            ..Default::default()
        })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        let id = request.watcher_id;
        if !self.0.pollers.remove(id) {
            return Err(watch::unknown(id));
        }
        Response::ok(RemoveWatcherResponse::default())
    }
}

/// What the next item of a watch stream is made from.
enum Step {
    Start(Tree),
    Watching(Tree, VecDeque<FilesystemEvent>),
    Done,
}

/// A start event, then what happens, with keepalives between.
fn watch_stream(
    actor: Actor,
    tree: Tree,
    options: Options,
    keepalive: Duration,
    handover: CancellationToken,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send + 'static {
    futures::stream::unfold(Step::Start(tree), move |step| {
        let (actor, handover) = (actor.clone(), handover.clone());
        async move {
            let (event, next) = match step {
                Step::Done => return None,
                Step::Start(tree) => (
                    WatchEvent::Start(Box::default()),
                    Step::Watching(tree, VecDeque::new()),
                ),
                Step::Watching(tree, mut queue) => match queue.pop_front() {
                    Some(event) => (
                        WatchEvent::Filesystem(Box::new(event)),
                        Step::Watching(tree, queue),
                    ),
                    None => match tokio::select! {
                        biased;
                        () = handover.cancelled() => return Some((Err(interrupted()), Step::Done)),
                        waited = wait(&actor, tree, options, keepalive) => waited,
                    } {
                        Ok((Some(event), step)) => (event, step),
                        Ok((None, step)) => (WatchEvent::Keepalive(Box::default()), step),
                        Err(error) => return Some((Err(error.into()), Step::Done)),
                    },
                },
            };
            let response = WatchDirResponse {
                event: Some(event),
                ..Default::default()
            };
            Some((Ok(response), next))
        }
    })
}

/// The first of the next events, or nothing when a keepalive is due.
async fn wait(
    actor: &Actor,
    tree: Tree,
    options: Options,
    keepalive: Duration,
) -> Result<(Option<WatchEvent>, Step), FileError> {
    let handle = tree.handle();
    // Only waiting is cut short by the clock, never reading.
    let waiting = tokio::time::timeout(keepalive, async { handle.readable().await.map(drop) });
    match waiting.await {
        Err(_) => return Ok((None, Step::Watching(tree, VecDeque::new()))),
        Ok(Err(error)) => return Err(FileError::from_io("error watching", &error)),
        Ok(Ok(())) => {}
    }
    let (tree, events) = watch::next_changes(actor, tree, options.include_entry).await?;
    let mut queue = VecDeque::from(events);
    let first = queue
        .pop_front()
        .map(|event| WatchEvent::Filesystem(Box::new(event)));
    Ok((first, Step::Watching(tree, queue)))
}
