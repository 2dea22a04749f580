//! Teams as operators make, limit, ban and delete them.
//!
//! Making one is a function over the store alone, so that a command line tool can do it
//! while no server runs.

use super::no_team;
use crate::Control;
use crate::error::{Error, Kind};
use crate::node::NodeError;
use chrono::Utc;
use futures::StreamExt;
use hearth_ids::{BuildId, SandboxId, TeamId};
use hearth_store::{LimitsSetBy, NewTeam, Store, Team, TeamLimits};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the numbers of running sandboxes may be old.
const COUNTS_TTL: Duration = Duration::from_secs(5);
/// Sandboxes and builds that are ended at the same time.
const AT_ONCE: usize = 16;
const MAX_NAME_LENGTH: usize = 64;
const MAX_REASON_LENGTH: usize = 1024;

/// The running sandboxes of every team that has some, as they were lately.
pub(crate) type RunningCounts = Option<(Instant, BTreeMap<TeamId, usize>)>;

/// Changes to a team; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct TeamChange {
    /// All of its limits.
    pub limits: Option<TeamLimits>,
    /// Whether it may do nothing at all.
    pub banned: Option<bool>,
    /// Why it may only look and clean up; `None` inside lets it do more again.
    pub blocked_reason: Option<Option<String>>,
}

/// How many of several things ended, and how many did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// So many have.
    pub ended: usize,
    /// So many could not be ended; the log says why.
    pub failed: usize,
}

/// Makes a team.
///
/// Errors: `Invalid`, no name that a team can have; `Conflict`, one that another has.
pub async fn create(store: &dyn Store, slug: &str, limits: TeamLimits) -> Result<Team, Error> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let length = (1..=MAX_NAME_LENGTH).contains(&slug.len());
    if !length || !slug.chars().all(fits) {
        return Err(Error::invalid(
            "slug",
            "a team's name takes 1 to 64 characters of a-z, 0-9, \"-\" and \"_\"",
        ));
    }
    let team = NewTeam {
        id: TeamId::random(),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        limits,
        created_at: Utc::now(),
    };
    store.team_create(team).await.map_err(|error| match error {
        hearth_store::Error::Conflict(_) => {
            Error::new(Kind::Conflict, format!("There is a team {slug:?} already"))
        }
        other => other.into(),
    })
}

impl Control {
    /// Makes a team with the limits that are set for the first one.
    ///
    /// Errors: as [`create`].
    pub async fn team_create(&self, slug: &str) -> Result<Team, Error> {
        create(self.store.as_ref(), slug, self.config.team.limits).await
    }

    /// All teams, by their slugs.
    pub async fn team_list(&self) -> Result<Vec<Team>, Error> {
        Ok(self.store.team_list().await?)
    }

    /// Changes a team; holds at once in this process, and within
    /// [`Self::KEY_CACHE_SECONDS`] in others.
    ///
    /// Errors: `NotFound`; `Invalid`, a reason that is none.
    pub async fn team_change(&self, id: TeamId, change: TeamChange) -> Result<Team, Error> {
        let team = self.team(id).await?;
        if let Some(Some(reason)) = &change.blocked_reason {
            let length = (1..=MAX_REASON_LENGTH).contains(&reason.chars().count());
            if !length || reason.contains(char::is_control) {
                let why = "must have 1 to 1024 characters, none of control; null takes it back";
                return Err(Error::invalid("blockedReason", why));
            }
        }
        if let Some(limits) = change.limits {
            let by = LimitsSetBy::Operator;
            if !self.store.team_set_limits(id, limits, by).await? {
                return Err(no_team(id));
            }
        }
        if change.banned.is_some() || change.blocked_reason.is_some() {
            let banned = change.banned.unwrap_or(team.banned);
            let reason = change.blocked_reason.unwrap_or(team.blocked_reason);
            let reason = reason.as_deref();
            if !self.store.team_set_standing(id, banned, reason).await? {
                return Err(no_team(id));
            }
        }
        self.keys.clear();
        self.team(id).await
    }

    /// Deletes a team with its keys and secrets.
    ///
    /// Errors: `NotFound`; `Conflict` where it is the first team or has something left.
    pub async fn team_remove(&self, id: TeamId) -> Result<(), Error> {
        let team = self.team(id).await?;
        let refuse = |why: String| Err(Error::new(Kind::Conflict, why));
        if team.slug == self.config.team.slug {
            return refuse(format!(
                "The team {:?} is the one that each start makes sure of: it cannot be deleted",
                team.slug
            ));
        }
        let left = self.node.of_team(id).await.map_err(Error::from_node)?;
        if !left.is_empty() {
            return refuse(format!(
                "The team {:?} has {} sandboxes, paused ones among them: end them first (POST \
                 /admin/teams/{id}/sandboxes/kill)",
                team.slug,
                left.len()
            ));
        }
        match self.store.team_delete(id).await {
            Ok(true) => {}
            Ok(false) => return Err(no_team(id)),
            Err(hearth_store::Error::Dangling) => {
                return refuse(format!(
                    "The team {:?} has templates, snapshots or volumes: delete them first",
                    team.slug
                ));
            }
            Err(error) => return Err(error.into()),
        }
        self.keys.clear();
        self.secrets_remove_all(id).await
    }

    /// Ends all sandboxes of a team, paused ones among them.
    ///
    /// Errors: `NotFound`, no such team; the node's.
    pub async fn team_sandboxes_kill(&self, id: TeamId) -> Result<Ended, Error> {
        self.team(id).await?;
        let all = self.node.of_team(id).await.map_err(Error::from_node)?;
        let ids: Vec<_> = all
            .iter()
            .map(|sandbox| sandbox.sandbox_id.clone())
            .collect();
        let kill = ids.into_iter().map(|id| self.kill_for_operator(id));
        Ok(count(kill).await)
    }

    /// Gives up all template builds of a team that wait or run.
    ///
    /// Errors: `NotFound`, no such team.
    pub async fn team_builds_cancel(&self, id: TeamId) -> Result<Ended, Error> {
        self.team(id).await?;
        let active = self.store.build_request_list_active().await?;
        let mut own = Vec::new();
        for request in active {
            if request.team_id == id {
                own.push(request.build.id);
            }
        }
        let cancel = own.into_iter().map(|build| self.cancel_for_operator(build));
        Ok(count(cancel).await)
    }

    async fn kill_for_operator(&self, id: SandboxId) -> bool {
        match self.node.delete(&id).await {
            Ok(()) | Err(NodeError::NotFound(_)) => true,
            Err(error) => {
                tracing::warn!(%error, sandbox = %id, "end sandbox for an operator failed");
                false
            }
        }
    }

    async fn cancel_for_operator(&self, build: BuildId) -> bool {
        let given_up = self.give_up(build, "The build was cancelled by an operator");
        let given_up = given_up.await;
        if let Err(error) = &given_up {
            tracing::warn!(%error, %build, "cancel build for an operator failed");
        }
        given_up.is_ok()
    }

    /// How many sandboxes of each team run, [`COUNTS_TTL`] old at most; teams without
    /// any are left out.
    pub async fn running_counts(&self) -> Result<BTreeMap<TeamId, usize>, Error> {
        let mut kept = self.running_counts.lock().await;
        if let Some((at, counts)) = &*kept
            && at.elapsed() < COUNTS_TTL
        {
            return Ok(counts.clone());
        }
        let active = self.node.active().await.map_err(Error::from_node)?;
        let mut counts = BTreeMap::new();
        for sandbox in active {
            if crate::sandboxes::occupies(sandbox.state) {
                *counts.entry(sandbox.team_id).or_default() += 1;
            }
        }
        *kept = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
}

async fn count(work: impl Iterator<Item = impl Future<Output = bool>>) -> Ended {
    let results = futures::stream::iter(work).buffer_unordered(AT_ONCE);
    let tally = |mut sum: Ended, ended: bool| async move {
        match ended {
            true => sum.ended += 1,
            false => sum.failed += 1,
        }
        sum
    };
    results.fold(Ended::default(), tally).await
}
