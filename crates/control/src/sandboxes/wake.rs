//! Resuming by traffic: a visitor of a paused sandbox wakes it, where its owner
//! allowed that. What the sandbox asks of visitors is checked before it is woken,
//! and visitors who come at the same time share one resume.

use super::approach::{Approach, Owner};
use crate::Control;
use crate::error::{Error, Kind};
use crate::fleet::Looks;
use crate::node::{NodeError, NodeSandbox, NodeSandboxState};
use crate::transitions::Request;
use chrono::TimeDelta;
use hearth_ids::SandboxId;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

/// The agent's port in a guest.
const AGENT_PORT: u16 = 49983;
/// Traffic gives a sandbox at least this long.
const LEAST_TIME_SECONDS: i64 = 300;
/// How long a visitor waits for a sandbox that others are bringing up.
const VISITOR_PATIENCE: Duration = Duration::from_secs(10);

/// What a visitor shows.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    pub port: u16,
    pub traffic_access_token: Option<SecretString>,
    pub envd_access_token: Option<SecretString>,
}

/// Why a visit wakes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WakeRefusal {
    #[error("there is no such sandbox, or traffic may not resume it")]
    NotFound,
    #[error("the visitor shows no traffic access token, or a wrong one")]
    TrafficToken,
    #[error("the visitor may not resume the sandbox")]
    Denied,
    #[error("the sandbox is on its way to another state")]
    Transitioning,
    #[error("the team has too many running sandboxes")]
    Limit,
    #[error("the sandbox could not be resumed")]
    Failed,
}

impl Control {
    /// Sees to it that a sandbox runs for a visitor.
    pub async fn sandbox_wake(
        self: &Arc<Self>,
        id: &SandboxId,
        visitor: &Visitor,
    ) -> Result<(), WakeRefusal> {
        let deadline = Instant::now() + VISITOR_PATIENCE;
        let mut looks = Looks::default();
        let sandbox = loop {
            let seen = self
                .node
                .lookup(id)
                .await
                .map_err(|error| not_looked_up(id, &error))?;
            // Strangers ask for ids by the thousand: this one look ends that.
            let seen = seen.ok_or(WakeRefusal::NotFound)?;
            // What is known may be older than what brought the visitor here.
            let sandbox = self.visited(id).await?;
            match sandbox.state {
                NodeSandboxState::Running => return Ok(()),
                state if wakeable(&sandbox) || !on_its_way_up(state) => break sandbox,
                _ if self.node.changed(&seen, &mut looks, deadline).await => {}
                _ => return Err(WakeRefusal::Transitioning),
            }
        };
        if !wakeable(&sandbox) || !self.config.features.pause {
            return Err(WakeRefusal::NotFound);
        }
        if !admits(&sandbox, visitor) {
            return Err(match visitor.port {
                AGENT_PORT => WakeRefusal::Denied,
                _ => WakeRefusal::TrafficToken,
            });
        }
        self.wake(&sandbox).await.map_err(|error| {
            tracing::warn!(%error, %id, "traffic could not resume a sandbox");
            match error.kind {
                Kind::NotFound => WakeRefusal::NotFound,
                Kind::Conflict => WakeRefusal::Transitioning,
                Kind::LimitReached => WakeRefusal::Limit,
                Kind::Forbidden => WakeRefusal::Denied,
                _ => WakeRefusal::Failed,
            }
        })
    }

    async fn visited(&self, id: &SandboxId) -> Result<NodeSandbox, WakeRefusal> {
        let found = self.node.get(id).await;
        found
            .map_err(|error| not_looked_up(id, &error))?
            .ok_or(WakeRefusal::NotFound)
    }

    async fn wake(self: &Arc<Self>, sandbox: &NodeSandbox) -> Result<(), Error> {
        let config = &sandbox.config;
        let id = &config.sandbox_id;
        let team = self.store.team(config.team_id).await?;
        let team = team.ok_or_else(|| Error::sandbox_not_found(id.as_str()))?;
        if team.banned || team.blocked_reason.is_some() {
            return Err(Error::new(Kind::Forbidden, "team may not start sandboxes"));
        }
        let most = i64::from(team.limits.max_length_hours) * 3600;
        let seconds = config.lifecycle.initial_timeout_seconds;
        let seconds = seconds.unwrap_or(0).max(LEAST_TIME_SECONDS).min(most);
        let mut approach = Approach::new(self, Owner::Any, id, Request::Connect);
        let time = TimeDelta::seconds(seconds);
        self.bring_up(&mut approach, &Arc::new(team), id, time, false)
            .await?;
        Ok(())
    }
}

fn not_looked_up(id: &SandboxId, error: &NodeError) -> WakeRefusal {
    tracing::warn!(%error, %id, "look up visited sandbox failed");
    WakeRefusal::Failed
}

/// Whether traffic may resume the sandbox. One without memory would boot anew, and
/// that only its owner asks for.
fn wakeable(sandbox: &NodeSandbox) -> bool {
    let boots = sandbox.paused.as_ref().is_some_and(|paused| !paused.memory);
    sandbox.config.lifecycle.auto_resume && !boots
}

/// Whether the sandbox will run, or run again, in a moment. One that is being paused
/// is paused to all who look at it, so its visitors need not wait for the end.
fn on_its_way_up(state: NodeSandboxState) -> bool {
    use NodeSandboxState::{Paused, Pausing, Resuming, Running, Snapshotting, Starting, Stopping};
    match state {
        Starting | Snapshotting | Resuming => true,
        Running | Pausing | Stopping | Paused => false,
    }
}

/// Whether a visitor shows what the sandbox would ask for if it ran.
fn admits(sandbox: &NodeSandbox, visitor: &Visitor) -> bool {
    let config = &sandbox.config;
    let (expected, shown) = if visitor.port == AGENT_PORT {
        (&config.envd_access_token, &visitor.envd_access_token)
    } else {
        (&config.traffic_access_token, &visitor.traffic_access_token)
    };
    let Some(expected) = expected else {
        return true;
    };
    shown.as_ref().is_some_and(|shown| {
        let (expected, shown) = (expected.expose_secret(), shown.expose_secret());
        bool::from(expected.as_bytes().ct_eq(shown.as_bytes()))
    })
}
