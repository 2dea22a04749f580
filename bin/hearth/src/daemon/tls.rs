//! The daemon's certificates: made, given or got from an authority, published for
//! clients, and looked after while it runs.

use crate::settings::Settings;
use anyhow::Context;
use hearth_tls::{Acme, Certificates};
use rustls::ServerConfig;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often given files are looked at; SIGHUP makes it happen at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How long after a failure an ACME authority is asked again, at first and at most:
/// those that are asked too often stop answering.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(6 * 3600);

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
        if let Some(acme) = settings.acme() {
            tasks.spawn(keep(acme, Arc::clone(&certificates), stop.clone()));
        }
        let state_dir = settings.state_dir.clone();
        tasks.spawn(look_after(certificates, state_dir, hangup, stop.clone()));
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

/// The given certificate, or the one that an ACME authority gave; else those of the
/// local authority, which is made if there is none and published beside the state.
fn certificates(settings: &Settings) -> anyhow::Result<Certificates> {
    if let (Some(chain), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        return Ok(Certificates::given(chain, key)?);
    }
    if let Some(acme) = settings.acme() {
        match Certificates::given(&acme.chain(), &acme.key()) {
            Ok(certificates) => return Ok(certificates),
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::info!("our own authority serves until there is a certificate: {error:#}");
            }
        }
    }
    let certificates = Certificates::own(&settings.keys_dir(), &settings.domain_host())?;
    publish(&settings.state_dir, &certificates)?;
    Ok(certificates)
}

/// Puts where clients find it what they are to trust.
fn publish(state_dir: &Path, certificates: &Certificates) -> Result<(), hearth_tls::Error> {
    let Some(authority) = certificates.authority_pem() else {
        return Ok(());
    };
    let system = hearth_tls::system_bundle();
    hearth_tls::publish(state_dir, &authority, system.as_deref())
}

/// Gets certificates from an ACME authority, each in time before the last ends.
async fn keep(acme: Acme, certificates: Arc<Certificates>, stop: CancellationToken) {
    let mut retry = FIRST_RETRY;
    loop {
        let wait = acme.due().duration_since(SystemTime::now());
        // A clock may be set meanwhile: looked at again now and then.
        let wait = wait.unwrap_or_default().min(LONGEST_RETRY);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if acme.due() > SystemTime::now() {
            continue;
        }
        let obtained = tokio::select! {
            () = stop.cancelled() => return,
            obtained = acme.obtain() => obtained,
        };
        let used = obtained
            .map_err(anyhow::Error::new)
            .and_then(|()| Ok(certificates.use_given(&acme.chain(), &acme.key())?));
        match used {
            Ok(()) => {
                tracing::info!(domain = acme.domain, "got a certificate by ACME");
                retry = FIRST_RETRY;
            }
            Err(error) => {
                tracing::error!(
                    retry_seconds = retry.as_secs(),
                    "no certificate by ACME: {error:#}"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(retry) => {}
                }
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

async fn look_after(
    certificates: Arc<Certificates>,
    state_dir: PathBuf,
    mut hangup: tokio::signal::unix::Signal,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let reloaded = certificates.reload().and_then(|changed| {
            if changed {
                publish(&state_dir, &certificates)?;
            }
            Ok(changed)
        });
        match reloaded {
            Ok(true) => tracing::info!("the certificate was replaced"),
            Ok(false) => {}
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!("the certificate of before goes on: {error:#}");
            }
        }
    }
}
