//! The daemon's certificates: made or given, published for clients, and looked
//! after while it runs.

use crate::settings::Settings;
use anyhow::Context;
use hearth_tls::{Authority, Certificates};
use rustls::ServerConfig;
use std::{sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often given files are looked at; SIGHUP makes it happen at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

pub struct Tls {
    server: Arc<ServerConfig>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tls {
    /// `None` when the settings name no TLS port.
    pub fn start(settings: &Settings) -> anyhow::Result<Option<Self>> {
        if settings.tls.port == 0 {
            return Ok(None);
        }
        let certificates = Arc::new(certificates(settings)?);
        let server = Arc::new(hearth_tls::server_config(Arc::clone(&certificates))?);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let hangup = signal(SignalKind::hangup()).context("wait for SIGHUP")?;
        tasks.spawn(look_after(certificates, hangup, stop.clone()));
        tasks.close();
        Ok(Some(Self {
            server,
            tasks,
            stop,
        }))
    }

    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// The given certificate, else those of the local authority, which is made if
/// there is none and published beside the state.
fn certificates(settings: &Settings) -> anyhow::Result<Certificates> {
    if let (Some(chain), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        return Ok(Certificates::given(chain, key)?);
    }
    let domain = settings.domain_host();
    let authority = Authority::open_or_create(&settings.keys_dir(), &domain)?;
    let system = hearth_tls::system_bundle();
    hearth_tls::publish(&settings.state_dir, authority.pem(), system.as_deref())?;
    Ok(Certificates::own(authority, &domain)?)
}

async fn look_after(
    certificates: Arc<Certificates>,
    mut hangup: tokio::signal::unix::Signal,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        match certificates.reload() {
            Ok(true) => tracing::info!("the certificate was replaced"),
            Ok(false) => {}
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!("the certificate of before goes on: {error:#}");
            }
        }
    }
}
