//! Sandboxes: finding one, and what is done to one that runs.
//!
//! Every call first looks up the one sandbox that it is about, so that its cost does
//! not depend on what others have, and asks the node for the whole of it only where
//! it needs variables, tokens or network settings. A sandbox of another team is as
//! good as absent, and so is one that is being stopped or is not up yet: to
//! callers a sandbox exists from the end of its create to the begin of its end.

pub(crate) mod approach;
mod create;
mod fork;
pub(crate) mod lifecycle;
mod list;
mod metrics;
mod reserve;
mod wake;

pub use create::NewSandbox;
pub(crate) use create::{occupies, placement_error};
pub use fork::ForkRequest;
pub use lifecycle::{ConnectRequest, Connected, PauseRequest};
pub use list::{ListRequest, ListedSandbox, SandboxPage, StateFilter};
pub use metrics::Metric;
pub use wake::{Visitor, WakeRefusal};

use crate::Control;
use crate::auth::Caller;
use crate::error::Error;
use crate::network::{NetworkSettings, NetworkUpdate};
use crate::node::{
    Lifecycle, NodeError, NodeSandbox, NodeSandboxState, Paused, SandboxSummary, SandboxUpdate,
    VolumeMount,
};
use crate::transitions::Request;
use approach::{Approach, Owner, Reached};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{SandboxId, TemplateId};
use hearth_store::TeamLimits;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shortest, and usual, extension by a refresh.
const REFRESH_SECONDS: i64 = 15;
const MAX_REFRESH_SECONDS: i64 = 3600;

/// What a caller needs to use a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxAccess {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub alias: Option<String>,
    pub envd_version: String,
    /// Absent where the agent asks for none.
    pub envd_access_token: Option<SecretString>,
    /// Present where the sandbox's URLs are not public.
    pub traffic_access_token: Option<SecretString>,
    pub domain: String,
}

/// The states that callers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisibleState {
    Running,
    Paused,
}

/// A sandbox as its owner sees it.
#[derive(Debug, Clone)]
pub struct SandboxView {
    pub access: SandboxAccess,
    pub state: VisibleState,
    pub started_at: DateTime<Utc>,
    pub end_at: DateTime<Utc>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub metadata: BTreeMap<String, String>,
    pub allow_internet_access: Option<bool>,
    pub network: Option<NetworkSettings>,
    pub lifecycle: Lifecycle,
    pub volume_mounts: Vec<VolumeMount>,
    /// Present while it is paused.
    pub paused: Option<Paused>,
}

/// What callers see of a sandbox in a state, or that they do not see it.
fn visible(state: NodeSandboxState) -> Option<VisibleState> {
    match state {
        NodeSandboxState::Running | NodeSandboxState::Snapshotting => Some(VisibleState::Running),
        NodeSandboxState::Pausing | NodeSandboxState::Paused | NodeSandboxState::Resuming => {
            Some(VisibleState::Paused)
        }
        NodeSandboxState::Starting | NodeSandboxState::Stopping => None,
    }
}

/// A time to live, in seconds, within the team's limit.
pub(crate) fn time_to_live(
    seconds: i64,
    least: i64,
    limits: TeamLimits,
) -> Result<TimeDelta, Error> {
    let hours = limits.max_length_hours;
    let most = i64::from(hours) * 3600;
    if seconds < least {
        return Err(Error::invalid(
            "timeout",
            format_args!("must be at least {least}, is {seconds}"),
        ));
    }
    if seconds > most {
        return Err(Error::invalid(
            "timeout",
            format_args!("must be at most {most} ({hours} hours), is {seconds}"),
        ));
    }
    Ok(TimeDelta::seconds(seconds))
}

impl Control {
    /// The caller's sandbox of this id, in any state.
    pub(crate) async fn sandbox_lookup(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<Arc<SandboxSummary>, Error> {
        let found = self.node.lookup(id).await.map_err(Error::from_node)?;
        found
            .filter(|sandbox| sandbox.team_id == caller.team_id())
            .ok_or_else(|| Error::sandbox_not_found(id.as_str()))
    }

    /// Refuses a sandbox that the caller does not see.
    pub(crate) async fn sandbox_check_visible(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<(), Error> {
        let sandbox = self.sandbox_lookup(caller, id).await?;
        match visible(sandbox.state) {
            Some(_) => Ok(()),
            None => Err(Error::sandbox_not_found(id.as_str())),
        }
    }

    /// The caller's sandbox of this id, in any state, with all that it was made of.
    pub(crate) async fn sandbox_find(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<NodeSandbox, Error> {
        let found = self.node.get(id).await.map_err(Error::from_node)?;
        found
            .filter(|sandbox| sandbox.config.team_id == caller.team_id())
            .ok_or_else(|| Error::sandbox_not_found(id.as_str()))
    }

    /// Changes a running sandbox that is at rest; one on its way to running is waited
    /// for.
    async fn sandbox_change(
        &self,
        caller: &Caller,
        id: &SandboxId,
        change: &Change,
    ) -> Result<(), Error> {
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Change);
        loop {
            let Reached::Go(..) = approach.reach().await? else {
                continue;
            };
            let update = self.sandbox_update(caller, id, change).await?;
            match self.node.update(id, update).await {
                Ok(_) => return Ok(()),
                Err(error @ NodeError::InTransition(_)) => approach.refused(error).await?,
                Err(error) => return Err(sandbox_error(id, error)),
            }
        }
    }

    async fn sandbox_update(
        &self,
        caller: &Caller,
        id: &SandboxId,
        change: &Change,
    ) -> Result<SandboxUpdate, Error> {
        match change {
            Change::End { time, only_extend } => Ok(SandboxUpdate {
                end_at: Some(Utc::now() + *time),
                only_extend: *only_extend,
                network: None,
            }),
            Change::Network(update) => {
                let sandbox = self.sandbox_find(caller, id).await?;
                let denied = update.allow_internet_access == Some(false);
                let network = update.clone().apply(sandbox.config.network.as_ref());
                let (features, domain) = (self.config.features, &self.config.domain);
                Ok(SandboxUpdate {
                    network: Some(network.check(features, denied, domain)?),
                    ..SandboxUpdate::default()
                })
            }
        }
    }

    pub(crate) fn sandbox_access(&self, sandbox: &NodeSandbox) -> SandboxAccess {
        let config = &sandbox.config;
        SandboxAccess {
            sandbox_id: config.sandbox_id.clone(),
            template_id: config.template_id.clone(),
            alias: config.alias.clone(),
            envd_version: sandbox.envd_version.clone(),
            envd_access_token: config.envd_access_token.clone(),
            traffic_access_token: config.traffic_access_token.clone(),
            domain: self.config.domain.clone(),
        }
    }

    fn sandbox_view(&self, sandbox: NodeSandbox, state: VisibleState) -> SandboxView {
        SandboxView {
            access: self.sandbox_access(&sandbox),
            state,
            started_at: sandbox.started_at,
            // A paused one ended when it was paused.
            end_at: sandbox.paused.map_or(sandbox.end_at, |paused| paused.at),
            vcpus: sandbox.vcpus,
            memory_mib: sandbox.memory_mib,
            disk_mib: sandbox.disk_mib,
            metadata: sandbox.config.metadata,
            allow_internet_access: sandbox.config.allow_internet_access,
            network: sandbox.config.network,
            lifecycle: sandbox.config.lifecycle,
            volume_mounts: if sandbox.paused.is_some() {
                Vec::new()
            } else {
                sandbox.config.volume_mounts
            },
            paused: sandbox.paused,
        }
    }

    pub async fn sandbox(&self, caller: &Caller, id: &SandboxId) -> Result<SandboxView, Error> {
        let sandbox = self.sandbox_find(caller, id).await?;
        match visible(sandbox.state) {
            Some(state) => Ok(self.sandbox_view(sandbox, state)),
            None => Err(Error::sandbox_not_found(id.as_str())),
        }
    }

    /// Ends a sandbox in any state. What is under way is waited for by the node.
    pub async fn sandbox_delete(&self, caller: &Caller, id: &SandboxId) -> Result<(), Error> {
        self.sandbox_lookup(caller, id).await?;
        self.node
            .delete(id)
            .await
            .map_err(|error| sandbox_error(id, error))
    }

    /// Sets the end to so many seconds from now, which may be earlier than it was.
    pub async fn sandbox_set_timeout(
        &self,
        caller: &Caller,
        id: &SandboxId,
        seconds: i64,
    ) -> Result<(), Error> {
        let time = time_to_live(seconds, 0, caller.team.limits)?;
        let only_extend = false;
        self.sandbox_change(caller, id, &Change::End { time, only_extend })
            .await
    }

    /// Moves the end to so many seconds from now, if that is later.
    pub async fn sandbox_refresh(
        &self,
        caller: &Caller,
        id: &SandboxId,
        seconds: Option<i64>,
    ) -> Result<(), Error> {
        let seconds = seconds.unwrap_or(REFRESH_SECONDS);
        if !(0..=MAX_REFRESH_SECONDS).contains(&seconds) {
            return Err(Error::invalid(
                "duration",
                format_args!("must be from 0 to {MAX_REFRESH_SECONDS}, is {seconds}"),
            ));
        }
        let time = TimeDelta::seconds(seconds.max(REFRESH_SECONDS));
        let only_extend = true;
        self.sandbox_change(caller, id, &Change::End { time, only_extend })
            .await
    }

    /// Replaces the egress settings of a running sandbox.
    pub async fn sandbox_set_network(
        &self,
        caller: &Caller,
        id: &SandboxId,
        update: NetworkUpdate,
    ) -> Result<(), Error> {
        let rules = update.rules.iter().flat_map(|rules| rules.values());
        caller.may_fill_secrets(rules.flatten())?;
        self.sandbox_change(caller, id, &Change::Network(Box::new(update)))
            .await
    }
}

/// What may be changed of a running sandbox.
enum Change {
    /// Its end, to so long from now.
    End {
        time: TimeDelta,
        only_extend: bool,
    },
    Network(Box<NetworkUpdate>),
}

/// A node's refusal of something done to one sandbox.
pub(crate) fn sandbox_error(id: &SandboxId, error: NodeError) -> Error {
    match error {
        NodeError::NotFound(_) => Error::sandbox_not_found(id.as_str()),
        other => Error::from_node(other),
    }
}
