//! Serves the gRPC service: on a unix socket that only its owner can open, and, where
//! configured, on TCP for callers that carry the token, and over mutual TLS for the control
//! plane of the node's cluster.

use crate::{
    config::{GrpcConfig, TcpConfig},
    node::Node,
    service::Service,
};
use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use std::{io, os::unix::fs::PermissionsExt, sync::Arc};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The running service; ends when its token is cancelled.
#[derive(Debug)]
pub struct Server {
    tasks: TaskTracker,
    stop: CancellationToken,
    socket: std::path::PathBuf,
}

impl Server {
    /// Binds everything first, so that an address in use is an error here.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn start(node: Arc<Node>, config: &GrpcConfig) -> io::Result<Self> {
        Self::start_with(node, config, |router| router).await
    }

    /// The same with further services beside the node's own.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn start_with(
        node: Arc<Node>,
        config: &GrpcConfig,
        extend: impl FnOnce(connectrpc::Router) -> connectrpc::Router,
    ) -> io::Result<Self> {
        let _ = std::fs::remove_file(&config.socket);
        let unix = UnixListener::bind(&config.socket)?;
        std::fs::set_permissions(&config.socket, std::fs::Permissions::from_mode(0o600))?;
        let tcp = match &config.tcp {
            Some(tcp) => Some((TcpListener::bind(tcp.address).await?, tcp.clone())),
            None => None,
        };
        let mutual = match &config.mutual {
            Some(mutual) => Some((
                TcpListener::bind(mutual.address).await?,
                Arc::clone(&mutual.tls),
            )),
            None => None,
        };

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let router = extend(Service::router(node, stop.clone()));
        let service = axum::Router::new().fallback_service(router.into_axum_service());
        let ended = stop.clone().cancelled_owned();
        let open = service.clone();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(unix, open).with_graceful_shutdown(ended).await {
                tracing::error!(%error, "the node's unix socket stopped serving");
            }
        });
        if let Some((listener, tls)) = mutual {
            let guarded = service
                .clone()
                .layer(middleware::from_fn(hearth_cluster::control_only));
            tasks.spawn(hearth_cluster::serve(
                listener,
                tls,
                guarded,
                hearth_cluster::Bounds::default(),
                stop.clone(),
            ));
        }
        if let Some((listener, config)) = tcp {
            let guarded = service.layer(middleware::from_fn_with_state(
                Arc::new(config),
                require_token,
            ));
            let ended = stop.clone().cancelled_owned();
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, guarded)
                    .with_graceful_shutdown(ended)
                    .await
                {
                    tracing::error!(%error, "the node's TCP port stopped serving");
                }
            });
        }
        tasks.close();
        Ok(Self {
            tasks,
            stop,
            socket: config.socket.clone(),
        })
    }

    /// Lets running calls end, for at most `limit`, and removes the socket.
    pub async fn stop(self, limit: std::time::Duration) {
        self.stop.cancel();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("calls to the node were still running at its stop");
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn require_token(
    State(config): State<Arc<TcpConfig>>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .is_some_and(|token| config.token.matches(token));
    if allowed {
        next.run(request).await
    } else {
        connectrpc_refusal().into_response()
    }
}

/// A refusal that Connect clients read as `unauthenticated`; gRPC clients take
/// the same from the status code.
fn connectrpc_refusal() -> impl IntoResponse {
    let body = r#"{"code":"unauthenticated","message":"the node's token is missing or wrong"}"#;
    (
        http::StatusCode::UNAUTHORIZED,
        [(http::header::CONTENT_TYPE, "application/json")],
        body,
    )
}
