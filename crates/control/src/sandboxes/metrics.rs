//! What sandboxes use: the history that was collected, and what their agents say
//! now.

use crate::Control;
use crate::agent::AgentMetrics;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::node::{NodeSandbox, NodeSandboxState};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::SandboxId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Most sandboxes in one question.
const MAX_SANDBOXES: usize = 100;
/// Most samples in one answer.
const MAX_SAMPLES: usize = 1000;
/// A history that ends longer ago than this gets the present sample too.
const FRESH: TimeDelta = TimeDelta::seconds(5);
/// How many agents are asked at the same time.
const CONCURRENCY: usize = 16;

pub type Metric = AgentMetrics;

impl Control {
    /// The samples of the asked-for time, the oldest first; the present one is among
    /// them when the agent answers. Those of a sandbox that has ended are there for a
    /// while.
    pub async fn sandbox_metrics(
        &self,
        caller: &Caller,
        id: &SandboxId,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
    ) -> Result<Vec<Metric>, Error> {
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(Error::invalid("start", "must not be after end"));
        }
        self.sandbox_told(caller, id).await?;
        let mut samples = match self.telemetry.get() {
            Some(telemetry) => telemetry
                .samples(id, start, end, MAX_SAMPLES)
                .await
                .map_err(Error::internal)?,
            None => Vec::new(),
        };
        let now = Utc::now();
        let asked = start.is_none_or(|start| start <= now) && end.is_none_or(|end| end >= now);
        let stale = samples.last().is_none_or(|last| now - last.at > FRESH);
        if asked
            && stale
            && let Ok(sandbox) = self.sandbox_find(caller, id).await
        {
            samples.extend(self.sample(&sandbox).await);
        }
        Ok(samples)
    }

    /// The present samples of those of the sandboxes that are the caller's and
    /// whose agents answer.
    pub async fn sandbox_metrics_of(
        self: &Arc<Self>,
        caller: &Caller,
        ids: &[SandboxId],
    ) -> Result<BTreeMap<SandboxId, Metric>, Error> {
        if ids.len() > MAX_SANDBOXES {
            return Err(Error::invalid(
                "sandbox_ids",
                format_args!(
                    "must have at most {MAX_SANDBOXES} entries, has {}",
                    ids.len()
                ),
            ));
        }
        let ids: BTreeSet<SandboxId> = ids.iter().cloned().collect();
        let mut asked = ids.into_iter();
        let mut samples = BTreeMap::new();
        let mut running = JoinSet::new();
        loop {
            while running.len() < CONCURRENCY
                && let Some(id) = asked.next()
            {
                let (control, caller) = (Arc::clone(self), caller.clone());
                running.spawn(async move {
                    let sample = match control.sandbox_find(&caller, &id).await {
                        Ok(sandbox) => control.sample(&sandbox).await,
                        Err(error) if error.kind == Kind::NotFound => None,
                        Err(error) => return Err(error),
                    };
                    Ok((id, sample))
                });
            }
            match running.join_next().await {
                Some(Ok(Ok((id, Some(sample))))) => {
                    samples.insert(id, sample);
                }
                Some(Ok(Ok((_, None)))) => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(Error::internal(error)),
                None => return Ok(samples),
            }
        }
    }

    async fn sample(&self, sandbox: &NodeSandbox) -> Option<Metric> {
        let address = sandbox
            .address
            .filter(|_| sandbox.state == NodeSandboxState::Running)?;
        let token = sandbox.config.envd_access_token.as_ref();
        match self.agent.metrics(address, token).await {
            Ok(sample) => Some(sample),
            Err(error) => {
                let id = &sandbox.config.sandbox_id;
                tracing::debug!(%error, %id, "cannot sample a sandbox");
                None
            }
        }
    }
}
