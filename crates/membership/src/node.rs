//! The part of a node that keeps it a member: it registers, reports, and has its certificate
//! renewed in time.
//!
//! ```text
//!  register ─▶ every round: report ─▶ heard ─▶ …        every hour: is the certificate due?
//!     ▲                        ├ superseded, refused ─▶ nothing new here     └▶ renew, keep
//!     └── not known any more ──┘ unreachable ─▶ once more
//! ```
//!
//! What runs on the node goes on, whatever happens here.

use crate::client::{ControlPlane, Error};
use hearth_cluster::{Credentials, Membership};
use hearth_control::{Heard, NodeMode, NodeRegistration};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the certificate is to be renewed: clocks may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// How long after a failure the same is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How the node stands with the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not been heard yet, or not for a while: what holds is what was before.
    Connecting,
    /// It is heard; this is what an operator wants of it.
    Member(NodeMode),
    /// Another run of the node is heard in its place.
    Superseded,
    /// It may not call any more, for this reason.
    Refused(String),
}

/// A node that is a member.
pub struct Node {
    control: ControlPlane,
    credentials: Arc<Credentials>,
    membership: Membership,
    /// Where the membership is kept.
    path: PathBuf,
    standing: watch::Sender<Standing>,
}

impl Node {
    /// Of what is kept at `path`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When what is kept does not belong together.
    pub fn new(membership: Membership, path: PathBuf) -> Result<Self, Error> {
        let credentials = membership.credentials()?;
        Ok(Self {
            control: ControlPlane::new(&membership.control, &credentials)?,
            credentials,
            membership,
            path,
            standing: watch::Sender::new(Standing::Connecting),
        })
    }

    /// What the node shows, to whom it connects and who connects to it.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// How it stands, from now on.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Stays a member until `stop` fires, then says that it leaves. `report` is asked before
    /// each heartbeat how the node is; where it does not know, the heartbeat is left out.
    pub async fn follow<F>(
        &self,
        registration: &NodeRegistration,
        report: impl Fn() -> F,
        stop: CancellationToken,
    ) where
        F: Future<Output = Option<String>>,
    {
        let mut registered = None;
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.beat(registration, report, &mut registered) => {}
            () = self.keep_certified() => {}
        }
        let Some(generation) = registered else { return };
        if let Err(error) = self.control.leave(generation).await {
            // Its lease ends by itself.
            tracing::debug!(%error, "tell the control plane of the end failed");
        }
    }

    /// Registers, and reports from then on. Ends by being dropped alone.
    async fn beat<F>(
        &self,
        registration: &NodeRegistration,
        report: impl Fn() -> F,
        registered: &mut Option<u64>,
    ) where
        F: Future<Output = Option<String>>,
    {
        loop {
            let (generation, round) = match self.control.register(registration).await {
                Ok(registered) => registered,
                Err(error) => {
                    self.failed(error);
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            *registered = Some(generation);
            loop {
                if let Some(report) = report().await {
                    match self.control.heartbeat(generation, report).await {
                        Ok(Heard::Yes(mode)) => self.stands(Standing::Member(mode)),
                        Ok(Heard::Superseded) => {
                            self.stands(Standing::Superseded);
                            // Registering anew would take the place of the other run, which
                            // would do the same: that goes on for ever.
                            return std::future::pending().await;
                        }
                        Err(error) => self.failed(error),
                    }
                }
                tokio::time::sleep(round).await;
            }
        }
    }

    fn failed(&self, error: Error) {
        match error {
            Error::Refused(why) => self.stands(Standing::Refused(why)),
            error => {
                let before = self.standing.borrow().clone();
                if before != Standing::Connecting {
                    tracing::warn!(%error, "report to the control plane failed");
                } else {
                    tracing::debug!(%error, "report to the control plane failed");
                }
                self.standing.send_replace(Standing::Connecting);
            }
        }
    }

    /// Notes it, and says it once.
    fn stands(&self, now: Standing) {
        let before = self.standing.send_replace(now.clone());
        if before == now {
            return;
        }
        match now {
            Standing::Member(mode) => tracing::info!(?mode, "registered with the control plane"),
            Standing::Refused(why) => {
                tracing::error!(why, "register with the control plane failed: refused");
            }
            Standing::Superseded => tracing::error!(
                "another Hearth has registered under this node's id: nothing new is placed here \
                 until it is started again"
            ),
            Standing::Connecting => {}
        }
    }

    async fn keep_certified(&self) {
        loop {
            let due = self.credentials.due() <= SystemTime::now();
            let wait = match due {
                true => match self.renew().await {
                    Ok(()) => LOOK_EVERY,
                    Err(error) => {
                        tracing::warn!(%error, "renew the node's certificate failed");
                        LOOK_EVERY / 12
                    }
                },
                false => LOOK_EVERY,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Has the certificate renewed, keeps the new one and shows it from then on.
    ///
    /// # Errors
    /// When the control plane refuses or cannot be reached, or it cannot be kept: the
    /// present one holds.
    pub async fn renew(&self) -> Result<(), Error> {
        let certificate = self.control.renew(self.credentials.request()?).await?;
        // Whoever has joined anew beside this process keeps what that wrote.
        if !Membership::read(&self.path)?.is_some_and(|kept| kept.is_of(&self.membership)) {
            return Err(Error::Refused(
                "this machine has joined anew: start Hearth again".to_owned(),
            ));
        }
        let next = self.membership.renewed(certificate.clone());
        // Kept before it is shown: a crash between the two loses nothing.
        next.credentials()?;
        next.write(&self.path)?;
        self.credentials.renew(&certificate)?;
        tracing::info!("renewed the node's certificate");
        Ok(())
    }
}
