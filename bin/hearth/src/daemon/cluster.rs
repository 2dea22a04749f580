//! The control plane's listener for nodes that run elsewhere, and what proves who it is.

use crate::settings::Settings;
use anyhow::{Context as _, bail};
use hearth_cluster::{Authority, Bounds, Connect, Credentials, JoinToken, Member};
use hearth_control::{Control, Members, Node, NodeDialer, NodeError};
use hearth_membership::Issuer;
use hearth_node_client::NodeClient;
use hearth_store::Store;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How often it is looked whether our own certificate is to be renewed: clocks may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Binds the listener, where the settings have one.
pub async fn bind(settings: &Settings) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = settings.cluster.listen else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen for nodes on {address} (cluster.listen)"))?;
    Ok(Some(listener))
}

/// A token for one machine, and until when it is good.
pub async fn token(
    settings: &Settings,
    store: &dyn Store,
    lifetime: Duration,
) -> anyhow::Result<(JoinToken, chrono::DateTime<chrono::Utc>)> {
    if settings.cluster.listen.is_none() {
        bail!(
            "nothing listens for nodes here: set cluster.listen in the settings, such as \
             \"0.0.0.0:5009\", and start Hearth again"
        );
    }
    // The daemon alone makes it: two processes would make two.
    let authority = Authority::open(&settings.keys_dir())?
        .context("Hearth has not been started with cluster.listen yet: start it, and ask again")?;
    let token = JoinToken::random(authority.fingerprint());
    let digest = JoinToken::digest(&token.secret());
    let until = store.node_token_create(&digest, lifetime).await?;
    Ok((token, until))
}

/// Serves nodes.
pub struct Listener {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Listener {
    /// Serves what is bound, and has the control plane reach the nodes that join there.
    pub fn start(
        settings: &Settings,
        listener: TcpListener,
        control: &Control,
    ) -> anyhow::Result<Self> {
        let authority = Arc::new(Authority::open_or_create(&settings.keys_dir())?);
        let credentials = Credentials::control(&authority)?;
        let tls = credentials.open_server_config()?;
        let issuer = Issuer::new(Arc::clone(&authority));
        let members = Arc::new(Members::new(Arc::clone(control.store()), issuer));
        let service = hearth_membership::service(members);
        let service = axum::Router::new().fallback_service(service);
        control.connect_nodes(Arc::new(Dialer(credentials.client_config()?)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(hearth_cluster::serve(
            listener,
            tls,
            service,
            Bounds::default(),
            stop.clone(),
        ));
        tasks.spawn(keep_certified(authority, credentials, stop.clone()));
        tasks.close();
        Ok(Self { tasks, stop })
    }

    /// Lets open calls end for a while, and breaks off the rest.
    pub async fn stop(self, limit: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("calls of nodes were still running at the stop");
        }
    }
}

/// Reaches nodes over mutual TLS.
struct Dialer(Arc<rustls::ClientConfig>);

impl NodeDialer for Dialer {
    fn dial(&self, node: Uuid, address: &str, key: &str) -> Result<Arc<dyn Node>, NodeError> {
        let key = key
            .parse()
            .map_err(|error: hearth_cluster::Error| NodeError::Internal(error.to_string()))?;
        Ok(Arc::new(NodeClient::member(Connect {
            address: address.to_owned(),
            member: Member::Node(node),
            key: Some(key),
            tls: Arc::clone(&self.0),
        })))
    }
}

/// Certifies ourselves anew in time.
async fn keep_certified(
    authority: Arc<Authority>,
    credentials: Arc<Credentials>,
    stop: CancellationToken,
) {
    loop {
        if credentials.due() <= SystemTime::now() {
            let renewed = credentials.request().and_then(|request| {
                let issued = authority.issue(&request, Member::Control)?;
                credentials.renew(&issued.pem)
            });
            if let Err(error) = renewed {
                tracing::error!(%error, "renew the control plane's certificate failed");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
