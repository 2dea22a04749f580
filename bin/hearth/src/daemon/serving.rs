//! The listeners, the edge behind them, and their end.

use super::{
    descriptors::{RESERVED, Share},
    emulation,
    routes::NodeRoutes,
    source,
    tls::Tls,
};
use crate::settings::Settings;
use anyhow::Context;
use axum::http::{
    HeaderValue,
    header::{CONTENT_TYPE, STRICT_TRANSPORT_SECURITY},
};
use hearth_api::AppState;
use hearth_edge::{Budget, ConnectionThreads, Edge, Peer};
use hearth_web::{Front, Web};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const FORWARDED_PROTO: &str = "x-forwarded-proto";
const A_YEAR: &str = "max-age=31536000";

/// Bound, but not yet served.
pub struct Listeners {
    cores: ConnectionThreads,
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
}

impl Listeners {
    /// Every port of the settings; what is on IPv4 loopback also on IPv6's. Starts the
    /// threads that will carry their connections.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let api = &settings.api;
        let mut plain = bind(api.address, api.port).await?;
        plain.extend(bind(api.address, api.edge_port).await?);
        Ok(Self {
            cores: ConnectionThreads::start(settings.connections.threads)
                .context("start the threads for connections")?,
            plain,
            tls: bind(settings.tls_address(), settings.tls.port).await?,
            metrics: bind(settings.metrics.address, settings.metrics.port).await?,
        })
    }
}

/// No listener for port 0.
async fn bind(ip: IpAddr, port: u16) -> anyhow::Result<Vec<TcpListener>> {
    if port == 0 {
        return Ok(Vec::new());
    }
    let address = SocketAddr::new(ip, port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let mut listeners = vec![listener];
    if ip == IpAddr::from([127, 0, 0, 1]) {
        // A host may have no IPv6; names like `localhost` then mean IPv4.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await);
    }
    Ok(listeners)
}

/// Everything that answers clients.
pub struct Serving {
    edge: Edge,
    cores: ConnectionThreads,
    tls: Option<Tls>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Serving {
    pub fn start(
        settings: &Settings,
        share: Share,
        listeners: Listeners,
        tls: Option<Tls>,
        routes: Arc<NodeRoutes>,
        api: AppState,
    ) -> Self {
        let mut limits = settings.connections.config();
        limits.budget = Some(Budget::new(
            share.connections,
            limits.max_connections_per_address,
            RESERVED,
        ));
        let (limits, cores) = (&limits, listeners.cores);
        let trust_forwarded = settings.edge.trust_forwarded;
        let mut router = source::with_source(
            hearth_api::router(api.clone()),
            Arc::clone(routes.node()),
            trust_forwarded,
        );
        if emulation::is_in_use(settings) {
            router = router.layer(axum::middleware::from_fn(tell_of_emulation));
        }
        if settings.web.enabled {
            router = Web::new(router, settings.domain()).router();
        }
        if browsers_may_stay_on_tls(settings) {
            router = router.layer(axum::middleware::from_fn(stay_on_tls));
        }
        let edge = Edge::new(routes, settings.edge.config());
        let router = with_scheme(router, trust_forwarded);
        let service = Front::new(edge.or_else(router.clone()), router);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        for listener in listeners.plain {
            let (service, limits, cores, stop) =
                (service.clone(), limits.clone(), cores.clone(), stop.clone());
            tasks.spawn(async move {
                report(hearth_edge::serve(listener, service, limits, cores, stop).await);
            });
        }
        for listener in listeners.tls {
            let Some(config) = tls.as_ref().map(Tls::server_config) else {
                continue;
            };
            let (service, limits, cores, stop) =
                (service.clone(), limits.clone(), cores.clone(), stop.clone());
            tasks.spawn(async move {
                let serving =
                    hearth_edge::serve_tls(listener, service, limits, cores, config, stop);
                report(serving.await);
            });
        }
        for listener in listeners.metrics {
            let (pages, limits, stop) = (
                metrics(edge.clone(), api.clone()),
                limits.clone(),
                stop.clone(),
            );
            tasks.spawn(async move {
                let serving =
                    hearth_edge::serve(listener, pages, limits, ConnectionThreads::none(), stop);
                report(serving.await);
            });
        }
        tasks.close();
        Self {
            edge,
            cores,
            tls,
            tasks,
            stop,
        }
    }

    /// Stops accepting, lets open requests end for a while, and breaks off the rest.
    pub async fn stop(self, limit: Duration) {
        self.stop.cancel();
        let ended = tokio::time::timeout(limit, self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("listeners did not end in time");
        }
        if tokio::time::timeout(limit, self.edge.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("streams did not end in time");
        }
        if tokio::time::timeout(limit, self.cores.stop())
            .await
            .is_err()
        {
            tracing::warn!("the threads for connections did not end in time");
        }
        if let Some(tls) = self.tls {
            tls.stop().await;
        }
    }
}

/// Tells the API whether it was reached over TLS: its links lead back the same way.
/// A client's own word counts only where a proxy is trusted to write it.
fn with_scheme(api: axum::Router, trust_forwarded: bool) -> axum::Router {
    let told = move |mut request: axum::extract::Request| async move {
        let peer = request.extensions().get::<Peer>();
        let scheme = match peer.is_some_and(|peer| peer.tls) {
            true => "https",
            false => "http",
        };
        let headers = request.headers_mut();
        if !(trust_forwarded && headers.contains_key(FORWARDED_PROTO)) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        request
    };
    api.layer(axum::middleware::map_request(told))
}

/// Whether every port of this host that browsers reach speaks TLS: what they are told
/// holds for all ports.
fn browsers_may_stay_on_tls(settings: &Settings) -> bool {
    let plain = [settings.api.port, settings.api.edge_port];
    let plain_is_ours = settings.api.address.is_loopback() || plain == [0, 0];
    settings.tls.is_public() && settings.tls.port == 443 && plain_is_ours
}

/// Has browsers that came over TLS come so again. Only where any browser trusts the
/// certificate, and for this host alone: what sandboxes' hosts speak is theirs to say.
async fn stay_on_tls(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let peer = request.extensions().get::<Peer>();
    let tls = peer.is_some_and(|peer| peer.tls);
    let mut response = next.run(request).await;
    if tls {
        response
            .headers_mut()
            .insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(A_YEAR));
    }
    response
}

/// Says with the health of the API what the guests run on.
async fn tell_of_emulation(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let health = request.uri().path() == "/health";
    let mut response = next.run(request).await;
    if health {
        let notice = HeaderValue::from_static(emulation::NOTICE);
        response.headers_mut().insert("x-hearth-notice", notice);
    }
    response
}

/// What a Prometheus server reads.
fn metrics(edge: Edge, api: AppState) -> axum::Router {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let page = move || async move {
        let mut text = edge.metrics();
        match api.usage_metrics().await {
            Ok(usage) => text.push_str(&usage),
            // What the edge counts is worth more than nothing.
            Err(error) => tracing::warn!(%error, "count what was used failed"),
        }
        ([(CONTENT_TYPE, TEXT)], text)
    };
    axum::Router::new().route("/metrics", axum::routing::get(page))
}

fn report(ended: hearth_edge::ServerStopped) {
    if !ended.drained {
        tracing::warn!("connections were still open at the stop");
    }
}
