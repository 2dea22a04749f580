//! Creating a sandbox.
//!
//! ```text
//!  check ─▶ claim the idempotency key ─▶ hold a place ─▶ resolve the template
//!        ─▶ node ─▶ answer, and record the outcome under the key
//! ```
//!
//! All of it runs as a task of its own: a caller who hangs up neither stops it
//! half-way nor leaves a claim or a place behind.

use super::{SandboxAccess, time_to_live};
use crate::Control;
use crate::auth::Caller;
use crate::config::Features;
use crate::error::{Error, Kind, code};
use crate::idempotency::{Begin, IdempotencyKey, Outcome};
use crate::limits::{Reservation, Shape};
use crate::network::NetworkSettings;
use crate::node::{
    Lifecycle, NodeError, NodeSandbox, NodeSandboxState, OnTimeout, SandboxConfig, VolumeMount,
};
use crate::templates::Resolved;
use crate::volumes::MountRequest;
use chrono::{TimeDelta, Utc};
use hearth_ids::{SandboxId, TeamId};
use hearth_store::Team;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most of the bytes of all keys and values, far below what one message to the
/// node may have.
const MAX_METADATA_BYTES: usize = 256 * 1024;
const MAX_ENV_BYTES: usize = 1024 * 1024;
/// Most of the entries of either, as each costs more than its text.
const MAX_ENTRIES: usize = 10_000;

/// A request for a sandbox, defaults filled in.
#[derive(Debug, Clone, Serialize)]
pub struct NewSandbox {
    /// A template's id, or `[namespace/]alias[:tag]`.
    pub template: String,
    pub timeout_seconds: i64,
    pub lifecycle: Lifecycle,
    /// Whether the agent asks callers for a token. It does where nothing is said; but
    /// a sandbox without public traffic has to be asked for with it.
    pub secure: Option<bool>,
    pub allow_internet_access: Option<bool>,
    pub network: Option<NetworkSettings>,
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    /// Whether the caller asks for identity tokens.
    pub identity_tokens: bool,
    pub volume_mounts: Vec<MountRequest>,
}

/// Why there is no sandbox.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The node may have made it, or still make it.
    pub(crate) outcome_unknown: bool,
}

/// A sandbox to be started.
pub(crate) struct Placement<'a> {
    pub(crate) team: &'a Team,
    pub(crate) time: TimeDelta,
    pub(crate) config: SandboxConfig,
    /// What it will take.
    pub(crate) shape: Shape,
    /// The sandbox whose state it goes on from.
    pub(crate) fork_of: Option<&'a SandboxId>,
}

/// Whether a sandbox counts for its team's limit: one that ends or is paused does
/// not.
pub(crate) fn occupies(state: NodeSandboxState) -> bool {
    !matches!(state, NodeSandboxState::Stopping | NodeSandboxState::Paused)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            outcome_unknown: false,
        }
    }
}

impl NewSandbox {
    fn check(mut self, features: Features, domain: &str) -> Result<Self, Error> {
        let lifecycle = self.lifecycle;
        let pauses = lifecycle.on_timeout == OnTimeout::Pause;
        if !lifecycle.auto_pause_memory && !pauses {
            return Err(Error::invalid(
                "autoPauseMemory",
                "can be false only where autoPause is true",
            ));
        }
        if !lifecycle.auto_pause_memory && lifecycle.auto_resume {
            return Err(Error::invalid(
                "autoResume",
                "cannot be combined with autoPauseMemory false",
            ));
        }
        if (pauses || lifecycle.auto_resume) && !features.pause {
            return Err(Error::new(
                Kind::Forbidden,
                "use of autoPause and autoResume is not enabled",
            ));
        }
        if self.identity_tokens && !features.identity_tokens {
            return Err(Error::new(Kind::Forbidden, "use of iam is not enabled"));
        }
        check_map("metadata", &self.metadata, MAX_METADATA_BYTES)?;
        check_map("envVars", &self.env_vars, MAX_ENV_BYTES)?;
        check_env_vars(&self.env_vars)?;
        let internet_denied = self.allow_internet_access == Some(false);
        self.network = match self.network {
            Some(network) => Some(network.check(features, internet_denied, domain)?),
            None if internet_denied => {
                NetworkSettings::default().check(features, true, domain)?;
                None
            }
            None => None,
        };
        if !self.public() && self.secure != Some(true) {
            return Err(Error::new(
                Kind::Invalid,
                "You cannot create a sandbox without public access unless you enable secure envd \
                 access via 'secure' flag.",
            ));
        }
        Ok(self)
    }

    /// Only what is said outright opens the agent.
    fn secured(&self) -> bool {
        self.secure != Some(false)
    }

    fn public(&self) -> bool {
        self.network.as_ref().is_none_or(NetworkSettings::public)
    }
}

fn check_map(field: &str, map: &BTreeMap<String, String>, most: usize) -> Result<(), Error> {
    if map.len() > MAX_ENTRIES {
        return Err(Error::invalid(
            field,
            format_args!("must have at most {MAX_ENTRIES} entries, has {}", map.len()),
        ));
    }
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= most {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format_args!("must have at most {most} bytes, has {bytes}"),
        ))
    }
}

/// What no process's environment can hold.
fn check_env_vars(env_vars: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in env_vars {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(
                "envVars",
                format_args!("{name:?} is no name of an environment variable"),
            ));
        }
        if value.contains('\0') {
            return Err(Error::invalid(
                &format!("envVars.{name}"),
                "must not contain a NUL character",
            ));
        }
    }
    Ok(())
}

impl Control {
    /// Makes a sandbox; with a key, at most once for that key.
    ///
    /// Errors: `Invalid`, `Forbidden`, `NotFound` (template), `LimitReached`,
    /// `Unavailable` and `Timeout` (placement), `Conflict` and `Unprocessable`
    /// (key), `Internal`.
    pub async fn sandbox_create(
        self: &Arc<Self>,
        caller: &Caller,
        request: NewSandbox,
        key: Option<IdempotencyKey>,
    ) -> Result<SandboxAccess, Error> {
        let control = Arc::clone(self);
        let caller = caller.clone();
        let task = self
            .tasks
            .spawn(async move { control.create(&caller, request, key).await });
        task.await.map_err(Error::internal)?
    }

    async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        request: NewSandbox,
        key: Option<IdempotencyKey>,
    ) -> Result<SandboxAccess, Error> {
        let time = time_to_live(request.timeout_seconds, 1, caller.team.limits)?;
        let request = request.check(self.config.features, &self.config.domain)?;
        let rules = request.network.iter().flat_map(|network| &network.rules);
        caller.may_fill_secrets(rules.flat_map(|rules| rules.values().flatten()))?;
        let id = self.sandbox_new_id(caller, &request).await;
        let Some(key) = key else {
            let placed = self.place(caller, &request, time, id.clone(), false).await;
            return match placed {
                Ok(sandbox) => Ok(self.sandbox_access(&sandbox)),
                Err(failure) => {
                    if failure.outcome_unknown {
                        self.discard(id);
                    }
                    Err(failure.error)
                }
            };
        };
        let (claim, resumed) = match self
            .idempotency_begin(caller.team_id(), &key, &request, id)
            .await?
        {
            Begin::Go { claim, resumed } => (claim, resumed),
            Begin::Done(outcome) => return self.access_again(outcome),
        };
        let id = claim.sandbox_id.clone();
        let placed = self.place(caller, &request, time, id, resumed).await;
        let (result, outcome_unknown) = match placed {
            Ok(sandbox) => (Ok(sandbox), false),
            Err(Failure {
                error,
                outcome_unknown,
            }) => (Err(error), outcome_unknown),
        };
        let outcome = result.map(|sandbox| Outcome {
            public: sandbox.config.traffic_access_token.is_none(),
            secured: sandbox.config.envd_access_token.is_some(),
            sandbox_id: sandbox.config.sandbox_id,
            template_id: sandbox.config.template_id.to_string(),
            alias: sandbox.config.alias,
            envd_version: sandbox.envd_version,
        });
        self.idempotency_end(&claim, &outcome, outcome_unknown)
            .await;
        match outcome {
            Ok(outcome) => self.access_again(outcome),
            Err(error) if outcome_unknown => Err(error.with_code(code::IDEMPOTENCY_UNKNOWN)),
            Err(error) => Err(error),
        }
    }

    /// The answer to a create from what is remembered of it.
    fn access_again(&self, outcome: Outcome) -> Result<SandboxAccess, Error> {
        let id = outcome.sandbox_id;
        Ok(SandboxAccess {
            template_id: outcome.template_id.parse().map_err(Error::internal)?,
            alias: outcome.alias,
            envd_version: outcome.envd_version,
            envd_access_token: outcome.secured.then(|| self.tokens.envd(&id)),
            traffic_access_token: (!outcome.public).then(|| self.tokens.traffic(&id)),
            domain: self.config.domain.clone(),
            sandbox_id: id,
        })
    }

    /// Has the node make the sandbox, within the team's limit. With `resumed`,
    /// takes what an earlier attempt may have made under the same id.
    async fn place(
        self: &Arc<Self>,
        caller: &Caller,
        request: &NewSandbox,
        time: TimeDelta,
        id: SandboxId,
        resumed: bool,
    ) -> Result<NodeSandbox, Failure> {
        let reference = Self::template_parse("templateID", &request.template)?;
        let team = caller.team_id();
        let reservation = self.reservations.reserve(team, id.clone());
        if resumed && let Some(made) = self.made_before(team, &id).await? {
            return match made.state {
                NodeSandboxState::Starting => Err(in_progress()),
                _ => Ok(made),
            };
        }
        if request.lifecycle.on_timeout == OnTimeout::Pause {
            self.check_paused(&caller.team, 1).await?;
        }
        let resolved = self.template_resolve(caller, &reference).await?;
        let mounts = self.volume_mounts(caller, &request.volume_mounts).await?;
        let shape = Shape::of(resolved.build.vcpus, resolved.build.memory_mib);
        let config = self.sandbox_config(caller, request, resolved, mounts, id);
        let placement = Placement {
            team: &caller.team,
            time,
            config,
            shape,
            fork_of: None,
        };
        self.start_within(placement, &reservation, resumed).await
    }

    /// What an earlier attempt at the same create has made.
    async fn made_before(
        &self,
        team: TeamId,
        id: &SandboxId,
    ) -> Result<Option<NodeSandbox>, Failure> {
        let found = self.node.get(id).await.map_err(|error| Failure {
            error: placement_error(error),
            outcome_unknown: true,
        })?;
        Ok(found.filter(|sandbox| {
            sandbox.config.team_id == team && sandbox.state != NodeSandboxState::Stopping
        }))
    }

    /// Has the node start a sandbox, within the team's limit.
    pub(crate) async fn start(
        self: &Arc<Self>,
        placement: Placement<'_>,
    ) -> Result<NodeSandbox, Failure> {
        let id = placement.config.sandbox_id.clone();
        let reservation = self.reservations.reserve(placement.team.id, id);
        self.start_within(placement, &reservation, false).await
    }

    async fn start_within(
        self: &Arc<Self>,
        placement: Placement<'_>,
        reservation: &Reservation,
        resumed: bool,
    ) -> Result<NodeSandbox, Failure> {
        let Placement {
            team,
            time,
            config,
            shape,
            fork_of,
        } = placement;
        let build = config.build_id;
        let counted = match self.check_placement(build) {
            Ok(()) => self.check_concurrency(team, reservation, shape).await,
            Err(refused) => Err(refused),
        };
        counted.map_err(|error| Failure {
            error,
            outcome_unknown: false,
        })?;
        let template_id = config.template_id.clone();
        let end_at = Utc::now() + time;
        let made = match fork_of {
            Some(source) => self.node.create_fork(config, end_at, source).await,
            None => self.node.create(config, end_at).await,
        };
        match made {
            Ok(sandbox) => {
                self.note_spawn(template_id);
                Ok(sandbox)
            }
            Err(NodeError::AlreadyExists(_)) if resumed => Err(in_progress()),
            Err(error) => Err(Failure {
                outcome_unknown: error.outcome_unknown(),
                error: placement_error(error),
            }),
        }
    }

    fn sandbox_config(
        &self,
        caller: &Caller,
        request: &NewSandbox,
        resolved: Resolved,
        mounts: Vec<VolumeMount>,
        id: SandboxId,
    ) -> SandboxConfig {
        SandboxConfig {
            template_id: resolved.template.id,
            build_id: resolved.build.id,
            team_id: caller.team_id(),
            alias: resolved.alias,
            metadata: request.metadata.clone(),
            env_vars: request.env_vars.clone(),
            envd_access_token: request.secured().then(|| self.tokens.envd(&id)),
            traffic_access_token: (!request.public()).then(|| self.tokens.traffic(&id)),
            allow_internet_access: request.allow_internet_access,
            network: request.network.clone(),
            lifecycle: Lifecycle {
                initial_timeout_seconds: Some(request.timeout_seconds),
                ..request.lifecycle
            },
            volume_mounts: mounts,
            sandbox_id: id,
        }
    }

    /// Counts a start, without making anybody wait for the disk.
    fn note_spawn(self: &Arc<Self>, template: hearth_ids::TemplateId) {
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            let noted = control.store.template_spawned(&template, Utc::now()).await;
            if let Err(error) = noted {
                tracing::warn!(%error, %template, "cannot count a start of a template");
            }
        });
    }

    /// Ends what a create may have made after its caller was told otherwise.
    pub(crate) fn discard(self: &Arc<Self>, id: SandboxId) {
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            match control.node.delete(&id).await {
                Ok(()) | Err(NodeError::NotFound(_)) => {}
                Err(error) => tracing::warn!(%error, %id, "cannot end a sandbox that nobody has"),
            }
        });
    }
}

/// An earlier holder of the same key is still being served by the node: the
/// claim stays with the sandbox's id.
fn in_progress() -> Failure {
    Failure {
        error: Error::new(
            Kind::Conflict,
            "A request with this Idempotency-Key is in progress",
        )
        .with_code(code::IDEMPOTENCY_IN_PROGRESS),
        outcome_unknown: true,
    }
}

/// A node's refusal of a create. Clients look for how these messages begin.
pub(crate) fn placement_error(error: NodeError) -> Error {
    let failed = |why: &str| format!("Failed to place sandbox: {why}");
    match error {
        // An immediate retry would meet the same full node, and add to its load.
        NodeError::Exhausted(why) => Error::new(Kind::Unavailable, failed(&why))
            .with_code(code::CAPACITY_UNAVAILABLE)
            .never_retry(),
        NodeError::NotFound(why) => Error::new(
            Kind::Unavailable,
            failed("no node has the template's build"),
        )
        .with_code(code::NO_COMPATIBLE_NODE)
        .never_retry()
        .with_source(why),
        NodeError::Unreachable(_) => {
            Error::new(Kind::Unavailable, failed("no node can be reached"))
                .with_code(code::CAPACITY_UNAVAILABLE)
                .with_source(error)
        }
        // The sandbox may be there: a retry could make a second one.
        NodeError::Deadline => Error::new(Kind::Timeout, failed("the node did not answer in time"))
            .with_code(code::PLACEMENT_TIMEOUT)
            .never_retry()
            .with_source(error),
        NodeError::Invalid(why) => Error::new(Kind::Invalid, why),
        NodeError::Unimplemented(why) => Error::new(Kind::Unavailable, failed(&why))
            .with_code(code::NO_COMPATIBLE_NODE)
            .never_retry(),
        NodeError::AlreadyExists(_)
        | NodeError::InTransition(_)
        | NodeError::Damaged(_)
        | NodeError::Internal(_) => Error::new(Kind::Internal, "Failed to create sandbox")
            .with_code(code::CREATE_FAILED)
            .with_source(error),
    }
}
