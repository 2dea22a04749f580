//! The edge as a service: classifies each request, finds its sandbox's pool, checks
//! what may be checked here, and forwards.

use crate::answer::Client;
use crate::body::EdgeBody;
use crate::config::EdgeConfig;
use crate::drain::{Drains, Upload};
use crate::forward::ProxyRequest;
use crate::headers::{ACCESS_TOKEN, TRAFFIC_TOKEN};
use crate::internal;
use crate::metrics;
use crate::record::{Counters, RequestRecord};
use crate::refusal::Refusal;
use crate::routes::{Credentials, Route, Routes, Visited, WakeError};
use crate::server::Peer;
use crate::signature::SignedFile;
use crate::target::{self, Destination, Target};
use crate::threads::on_main_runtime;
use crate::upstream::UpstreamPool;
use crate::{AGENT_PORT, BoxError};
use bytes::Bytes;
use futures::future::BoxFuture;
use hearth_ids::SandboxId;
use hearth_util::LockExt as _;
use http::header::{HeaderMap, HeaderName};
use http::uri::Authority;
use http::{Request, Response, request};
use http_body::Body;
use http_body_util::Either;
use hyper::body::Incoming;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The proxy towards the sandboxes. Cheap to clone; all clones are one edge.
#[derive(Clone)]
pub struct Edge {
    shared: Arc<Shared>,
}

struct Shared {
    routes: Arc<dyn Routes>,
    config: Arc<EdgeConfig>,
    pools: Mutex<HashMap<SandboxId, Arc<UpstreamPool>>>,
    drains: Drains,
    totals: Arc<Counters>,
    /// Where questions to others are answered.
    home: Handle,
}

/// What the edge has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Requests for sandboxes since the start.
    pub requests: u64,
    /// Of those, how many the edge answered itself.
    pub refused: u64,
    /// Sandboxes that have a pool now.
    pub pools: usize,
    /// Requests, streams and tunnels open now.
    pub open: usize,
}

impl Edge {
    /// Makes an edge. Needs a tokio runtime: there run `wake`, the service behind the
    /// edge, and the task that closes connections which were idle for too long.
    #[must_use]
    pub fn new(routes: Arc<dyn Routes>, config: EdgeConfig) -> Self {
        let shared = Arc::new(Shared {
            routes,
            config: Arc::new(config),
            pools: Mutex::default(),
            drains: Drains {
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            },
            totals: Arc::default(),
            home: Handle::current(),
        });
        let stop = shared.drains.stop.clone();
        shared
            .drains
            .tasks
            .spawn(sweep_regularly(Arc::downgrade(&shared), stop));
        Self { shared }
    }

    /// A service that sends everything that is not for a sandbox to `fallback`.
    #[must_use]
    pub fn or_else<S>(&self, fallback: S) -> EdgeService<S> {
        EdgeService {
            edge: self.clone(),
            fallback,
        }
    }

    /// A service for a port that serves sandboxes only.
    #[must_use]
    pub fn alone(&self) -> EdgeService<NoFallback> {
        self.or_else(NoFallback)
    }

    /// The counters of all requests and tunnels so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let totals = &self.shared.totals;
        let sum = |counts: &[AtomicU64]| -> u64 {
            counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum()
        };
        let pools = self.shared.pools();
        Stats {
            requests: sum(&totals.answered) + sum(&totals.refused),
            refused: sum(&totals.refused),
            pools: pools.len(),
            open: pools.values().map(|pool| pool.open_requests()).sum(),
        }
    }

    /// All counters in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut pools: Vec<Arc<UpstreamPool>> = self.shared.pools().values().cloned().collect();
        pools.retain(|pool| !pool.ended.is_cancelled());
        pools.sort_unstable_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
        let shown: Vec<metrics::Shown<'_>> = pools
            .iter()
            .map(|pool| metrics::Shown {
                id: &pool.id,
                counters: &pool.counters,
                open: pool.open_requests(),
            })
            .collect();
        metrics::render(&self.shared.totals, &shown)
    }

    /// Breaks off everything that is still open and waits for it to end. Call it
    /// after the servers have drained; requests that come later find no sandbox.
    pub async fn shutdown(&self) {
        self.shared.drains.stop.cancel();
        let pools: Vec<_> = self.shared.pools().drain().collect();
        for (_, pool) in pools {
            pool.ended.cancel();
        }
        self.shared.drains.tasks.close();
        self.shared.drains.tasks.wait().await;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.drains.stop.cancel();
        for pool in self.pools().values() {
            pool.ended.cancel();
        }
    }
}

/// Closes what was idle for too long and forgets sandboxes that ended.
async fn sweep_regularly(shared: Weak<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let pools: Vec<Arc<UpstreamPool>> = {
            let mut pools = shared.pools();
            pools.retain(|_, pool| !pool.ended.is_cancelled());
            pools.values().cloned().collect()
        };
        for pool in pools {
            pool.sweep();
        }
    }
}

impl Shared {
    fn pools(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<UpstreamPool>>> {
        self.pools.lock_unpoisoned()
    }

    /// Finds the sandbox of a request and checks all that may refuse it.
    async fn admit(
        &self,
        target: Result<Target, Refusal>,
        head: &request::Parts,
        record: &Arc<RequestRecord>,
    ) -> Result<ProxyRequest, Refusal> {
        let destination = match target? {
            Target::Sandbox(destination) => destination,
            Target::SignedFile(file) => self.signer(&file)?,
            Target::Fallback => return Err(Refusal::NoSandbox),
        };
        let Destination { id, port } = destination;
        self.check_sender(Some((&id, port)), head)?;
        if port == AGENT_PORT && internal::is_internal(head.uri.path()) {
            return Err(Refusal::InternalRoute(id));
        }
        let route = self.route(&id, port, &head.headers).await?;
        check_traffic_token(&id, port, &route, &head.headers)?;
        let pool = self.pool(id, &route)?;
        record.at(&pool.id, port, &pool.counters);
        Ok(ProxyRequest {
            open: pool.admit()?,
            pool,
            route,
            port,
            peer: Peer::of(&head.extensions),
            record: Arc::clone(record),
        })
    }

    /// Refuses what the sender, a sandbox itself, may not reach.
    fn check_sender(
        &self,
        sandbox: Option<(&SandboxId, u16)>,
        head: &request::Parts,
    ) -> Result<(), Refusal> {
        let host = target::authority(&head.uri, &head.headers)?;
        let visited = Visited {
            host: host.as_ref().map(Authority::host),
            sandbox,
        };
        if self
            .routes
            .admits(Peer::of(&head.extensions).address, visited)
        {
            return Ok(());
        }
        Err(Refusal::RulesDeny(sandbox.map(|(id, _)| id.clone())))
    }

    /// The sandbox whose token signed a file URL.
    fn signer(&self, file: &SignedFile) -> Result<Destination, Refusal> {
        let mut found = None;
        self.routes.visit(&mut |id, route| {
            let token = route.envd_access_token.as_ref();
            if token.is_some_and(|token| file.made_by(token.expose_secret())) {
                found = Some(id.clone());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
            .map(|id| Destination {
                id,
                port: AGENT_PORT,
            })
            .ok_or(Refusal::UnknownSignature)
    }

    async fn route(
        &self,
        id: &SandboxId,
        port: u16,
        headers: &HeaderMap,
    ) -> Result<Arc<Route>, Refusal> {
        if let Some(route) = self.routes.lookup(id)
            && !route.closed.is_cancelled()
        {
            return Ok(route);
        }
        let credentials = Credentials {
            traffic_access_token: secret(headers, &TRAFFIC_TOKEN),
            envd_access_token: secret(headers, &ACCESS_TOKEN),
        };
        let (routes, sleeper) = (Arc::clone(&self.routes), id.clone());
        let woken = on_main_runtime(&self.home, async move {
            routes.wake(&sleeper, port, &credentials).await
        });
        woken.await.map_err(|error| match error {
            WakeError::NotFound => Refusal::NotFound(id.clone()),
            WakeError::TrafficToken => traffic_token_refused(id, headers),
            WakeError::Denied => Refusal::ResumeDenied(id.clone()),
            WakeError::Transitioning => Refusal::Transitioning(id.clone()),
            WakeError::Limit => Refusal::TeamLimit(id.clone()),
            WakeError::Failed => Refusal::ResumeFailed(id.clone()),
        })
    }

    fn pool(&self, id: SandboxId, route: &Arc<Route>) -> Result<Arc<UpstreamPool>, Refusal> {
        if self.drains.stop.is_cancelled() {
            return Err(Refusal::NotFound(id));
        }
        let mut pools = self.pools();
        if let Some(pool) = pools.get(&id)
            && !pool.ended.is_cancelled()
            && pool.route.address == route.address
        {
            return Ok(Arc::clone(pool));
        }
        let pool = UpstreamPool::new(
            id.clone(),
            Arc::clone(route),
            Arc::clone(&self.config),
            self.drains.tasks.clone(),
        );
        pools.insert(id, Arc::clone(&pool));
        Ok(pool)
    }
}

fn secret(headers: &HeaderMap, name: &HeaderName) -> Option<SecretString> {
    headers.get(name)?.to_str().ok().map(SecretString::from)
}

/// A sandbox closed to public traffic asks for its token on every port but the
/// agent's, which has a token of its own.
fn check_traffic_token(
    id: &SandboxId,
    port: u16,
    route: &Route,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(expected) = route.traffic_access_token.as_ref() else {
        return Ok(());
    };
    if port == AGENT_PORT {
        return Ok(());
    }
    let expected = expected.expose_secret().as_bytes();
    let shown = headers.get(&TRAFFIC_TOKEN);
    if shown.is_some_and(|shown| expected.ct_eq(shown.as_bytes()).into()) {
        Ok(())
    } else {
        Err(traffic_token_refused(id, headers))
    }
}

fn traffic_token_refused(id: &SandboxId, headers: &HeaderMap) -> Refusal {
    if headers.contains_key(&TRAFFIC_TOKEN) {
        Refusal::TrafficTokenInvalid(id.clone())
    } else {
        Refusal::TrafficTokenMissing(id.clone())
    }
}

/// The edge in front of another service.
#[derive(Clone)]
pub struct EdgeService<S> {
    edge: Edge,
    fallback: S,
}

impl<S, B> Service<Request<Incoming>> for EdgeService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<EdgeBody, B>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let mut target = target::classify(&head);
        if matches!(target, Ok(Target::Fallback))
            && let Err(refusal) = self.edge.shared.check_sender(None, &head)
        {
            target = Err(refusal);
        }
        let request = Request::from_parts(head, body);
        if matches!(target, Ok(Target::Fallback)) {
            let answer = self.fallback.clone().oneshot(request);
            let home = self.edge.shared.home.clone();
            return Box::pin(async move {
                Ok(on_main_runtime(&home, answer).await?.map(Either::Right))
            });
        }
        let shared = Arc::clone(&self.edge.shared);
        Box::pin(async move { Ok(shared.answer(target, request).await.map(Either::Left)) })
    }
}

impl Shared {
    async fn answer(
        &self,
        target: Result<Target, Refusal>,
        request: Request<Incoming>,
    ) -> Response<EdgeBody> {
        let record = RequestRecord::new(
            request.method().clone(),
            request.uri(),
            Peer::of(request.extensions()),
            Arc::clone(&self.totals),
        );
        let request = Upload::of(request, &self.drains, Arc::clone(&record));
        let (head, body) = request.into_parts();
        let client = Client::of(&head);
        let answer = match self.admit(target, &head, &record).await {
            Ok(visit) => {
                let request = Request::from_parts(head, body);
                visit.forward(&self.config, request).await
            }
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(response) => {
                record.answered(response.status(), false);
                response
            }
            Err(refusal) => {
                record.answered(refusal.status(), true);
                tracing::debug!(sandbox = ?refusal.sandbox(), %refusal, "request refused");
                refusal.into_response(&client)
            }
        }
    }
}

/// Stands behind an edge that has nothing behind it.
#[derive(Debug, Clone, Copy)]
pub struct NoFallback;

impl Service<Request<Incoming>> for NoFallback {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (head, _) = request.into_parts();
        let refused = Refusal::NoSandbox.into_response(&Client::of(&head));
        std::future::ready(Ok(refused))
    }
}
