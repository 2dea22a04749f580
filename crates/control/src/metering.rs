//! Metering: how long sandboxes ran, and with how much, per team and per sandbox.
//!
//! ```text
//!  node's outbox ──▶ executions in the store ──▶ usage, load and peaks, summed there
//!                        ▲
//!                        └── every few minutes: what no node has is not counted on
//! ```
//!
//! An execution is known by its sandbox and its start, and ends where it was paused or
//! ended: however often that is told, each millisecond is counted once. Only what runs
//! is counted, not what is paused.

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::events::{NodeEvent, NodeEventKind};
use crate::{Control, sandboxes};
use chrono::{DateTime, Datelike, TimeDelta, TimeZone, Utc};
use hearth_ids::{SandboxId, TeamId};
use hearth_store::{Execution, Load, Span, Store, Usage};
use std::collections::{BTreeMap, HashMap};

/// How long executions are kept after their end.
const KEPT: TimeDelta = TimeDelta::days(400);
/// The longest time of which a team's load is told.
const MAX_LOAD_SPAN: TimeDelta = TimeDelta::days(92);
/// The time of which it is told where nothing is said.
const LOAD_SPAN: TimeDelta = TimeDelta::days(7);
/// Events come within this time: sums that leave it out do not become less.
const SETTLED: TimeDelta = TimeDelta::minutes(1);
/// Executions that are looked after at once.
const OPEN_PAGE: u32 = 1000;
const MAX_PAGE: u32 = 1000;

/// How many sandboxes of a team ran at a time, and how many were started in the step
/// before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeamMetric {
    /// The end of the step.
    pub at: DateTime<Utc>,
    /// Running then.
    pub concurrent_sandboxes: u64,
    /// Started or resumed within the step, per second.
    pub sandbox_start_rate: f64,
}

/// What the most is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeamMetricKind {
    ConcurrentSandboxes,
    SandboxStartRate,
}

/// What an event tells of its execution; `None` where nothing ran.
pub(crate) fn execution(event: &NodeEvent) -> Option<Execution> {
    let ends = matches!(event.kind, NodeEventKind::Paused | NodeEventKind::Killed);
    (event.vcpus > 0).then(|| Execution {
        sandbox_id: event.sandbox_id.clone(),
        started_at: event.started_at,
        team_id: event.team_id,
        template_id: event.template_id.clone(),
        vcpus: event.vcpus,
        memory_mib: event.memory_mib,
        ended_at: ends.then(|| event.ended_at.unwrap_or(event.at)),
    })
}

/// The time that is asked for: since the month's beginning in UTC where no start is said,
/// and until now at most.
///
/// Errors: `Invalid`, a time without length.
pub fn usage_span(
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Span, Error> {
    let month = Utc.with_ymd_and_hms(now.year(), now.month(), 1, 0, 0, 0);
    let start = start.or_else(|| month.single()).unwrap_or(now);
    let end = end.unwrap_or(now).min(now);
    if start < end {
        return Ok(Span { start, end });
    }
    // A month that has just begun.
    if start == end {
        let start = start - TimeDelta::milliseconds(1);
        return Ok(Span { start, end });
    }
    let why = "must be before the end, and in the past";
    Err(Error::invalid("start", why))
}

/// What every team used, or one of them. For command line tools too, while no server runs.
pub async fn usage_of_teams(
    store: &dyn Store,
    span: Span,
    team: Option<TeamId>,
) -> Result<Vec<(TeamId, Usage)>, Error> {
    Ok(store.usage_by_team(span, team).await?)
}

/// What a team's sandboxes used, by their ids, from the one after `after`, at most 1000.
pub async fn usage_of_sandboxes(
    store: &dyn Store,
    span: Span,
    team: TeamId,
    after: Option<&SandboxId>,
    limit: u32,
) -> Result<Vec<(SandboxId, Usage)>, Error> {
    let limit = limit.clamp(1, MAX_PAGE);
    Ok(store.usage_by_sandbox(span, team, after, limit).await?)
}

/// The length of a step for a time of this length.
fn step(range: TimeDelta) -> TimeDelta {
    match range {
        range if range < TimeDelta::hours(1) => TimeDelta::seconds(5),
        range if range < TimeDelta::hours(6) => TimeDelta::seconds(30),
        range if range < TimeDelta::hours(12) => TimeDelta::minutes(1),
        range if range < TimeDelta::hours(24) => TimeDelta::minutes(2),
        range if range < TimeDelta::days(7) => TimeDelta::minutes(5),
        _ => TimeDelta::minutes(15),
    }
}

fn load_span(
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Span, Error> {
    let end = end.unwrap_or(now).min(now);
    let start = start.unwrap_or_else(|| end - LOAD_SPAN);
    if start >= end {
        let why = "must be before the end, and in the past";
        return Err(Error::invalid("start", why));
    }
    if end - start > MAX_LOAD_SPAN {
        let why = "must be at most 92 days before the end";
        return Err(Error::invalid("start", why));
    }
    Ok(Span { start, end })
}

/// One entry for each step of the span, whether or not something changed in it.
fn metrics(span: Span, step: TimeDelta, load: &Load) -> Vec<TeamMetric> {
    let length = usize::try_from((span.end - span.start).num_milliseconds()).unwrap_or(0);
    let step_ms = usize::try_from(step.num_milliseconds()).unwrap_or(1).max(1);
    let mut running = load.running;
    let mut changes = load.steps.iter().peekable();
    let mut all = Vec::new();
    let mut at = span.start;
    for index in 0..length.div_ceil(step_ms) {
        let mut started = 0;
        while let Some(change) = changes.next_if(|change| change.step as usize <= index) {
            started += change.started;
            running = (running + change.started).saturating_sub(change.ended);
        }
        at = (at + step).min(span.end);
        all.push(TeamMetric {
            at,
            concurrent_sandboxes: running,
            sandbox_start_rate: started as f64 / step.as_seconds_f64(),
        });
    }
    all
}

impl Caller {
    fn check_own(&self, team: &str) -> Result<(), Error> {
        let own = self.team_id();
        if team.parse::<TeamId>().is_ok_and(|team| team == own) {
            return Ok(());
        }
        let shown: String = team.chars().take(64).collect();
        Err(Error::new(
            Kind::Forbidden,
            format!("You ({own}) are not authorized to access this team's ({shown}) metrics"),
        ))
    }
}

impl Control {
    /// How many sandboxes of the caller's team ran, and how many were started, over the
    /// last 7 days where nothing is said.
    ///
    /// Errors: `Forbidden`, another team; `Invalid`, a time that is none.
    pub async fn team_metrics(
        &self,
        caller: &Caller,
        team: &str,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
    ) -> Result<Vec<TeamMetric>, Error> {
        caller.check_own(team)?;
        let span = load_span(start, end, Utc::now())?;
        let step = step(span.end - span.start);
        let step_ms = u32::try_from(step.num_milliseconds()).unwrap_or(u32::MAX);
        let load = self
            .store
            .team_load(span, caller.team_id(), step_ms)
            .await?;
        Ok(metrics(span, step, &load))
    }

    /// The most of something in a time, and when that was.
    ///
    /// Errors: as [`Self::team_metrics`].
    pub async fn team_metrics_max(
        &self,
        caller: &Caller,
        team: &str,
        kind: TeamMetricKind,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
    ) -> Result<(DateTime<Utc>, f64), Error> {
        if kind == TeamMetricKind::SandboxStartRate {
            let all = self.team_metrics(caller, team, start, end).await?;
            let rates = all
                .iter()
                .map(|metric| (metric.at, metric.sandbox_start_rate));
            // Of several the first one.
            let most = rates.reduce(|most, next| if next.1 > most.1 { next } else { most });
            return most.ok_or_else(|| Error::internal("a time without steps"));
        }
        caller.check_own(team)?;
        let span = load_span(start, end, Utc::now())?;
        let peak = self.store.team_peak(span, caller.team_id()).await?;
        let (at, most) = peak.unwrap_or((span.start, 0));
        Ok((at, most as f64))
    }

    /// What each team used since the month's beginning in Prometheus' text format. A
    /// minute old: by then everything is told, and no counter goes back within a month.
    pub async fn usage_metrics(&self) -> Result<String, Error> {
        let now = Utc::now() - SETTLED;
        let used = self.store.usage_by_team(usage_span(None, None, now)?, None);
        let used = used.await?;
        let teams = self.store.team_list().await?;
        let slugs: BTreeMap<TeamId, String> =
            teams.into_iter().map(|team| (team.id, team.slug)).collect();
        let mut text = String::new();
        type Read = fn(&Usage) -> f64;
        let families: [(&str, &str, Read); 3] = [
            (
                "executions",
                "Times that sandboxes ran without a pause",
                |used| used.executions as f64,
            ),
            (
                "vcpu_seconds",
                "Seconds times processors",
                Usage::vcpu_seconds,
            ),
            (
                "memory_gib_seconds",
                "Seconds times memory",
                Usage::memory_gib_seconds,
            ),
        ];
        for (name, help, read) in families {
            text.push_str(&format!(
                "# HELP hearth_usage_{name}_total {help}, since the month began (UTC).\n\
                 # TYPE hearth_usage_{name}_total counter\n"
            ));
            for (team, used) in &used {
                // Slugs hold nothing that needs an escape.
                let slug = slugs.get(team).map_or("", String::as_str);
                let value = read(used);
                text.push_str(&format!(
                    "hearth_usage_{name}_total{{team=\"{team}\",slug=\"{slug}\"}} {value}\n"
                ));
            }
        }
        Ok(text)
    }

    /// Notes which executions no node has any more though nothing told of their end, and
    /// deletes those that are older than they are kept.
    pub(crate) async fn usage_settle(&self) -> Result<(), Error> {
        let now = Utc::now();
        let mut after = DateTime::UNIX_EPOCH;
        loop {
            let open = self.store.execution_list_open(after, OPEN_PAGE).await?;
            let Some(last) = open.last() else {
                break;
            };
            after = last.started_at;
            // Asked for later than the list: what was begun before that is there.
            let active = self.node.active().await.map_err(Error::from_node)?;
            let running: HashMap<&SandboxId, i64> = active
                .iter()
                .filter(|sandbox| sandboxes::occupies(sandbox.state))
                .map(|sandbox| (&sandbox.sandbox_id, sandbox.started_at.timestamp_millis()))
                .collect();
            for execution in open {
                let started = execution.started_at.timestamp_millis();
                let runs = running.get(&execution.sandbox_id) == Some(&started);
                if runs == execution.missing_since.is_some() {
                    let since = (!runs).then_some(now);
                    let (id, at) = (&execution.sandbox_id, execution.started_at);
                    self.store.execution_set_missing(id, at, since).await?;
                }
            }
        }
        while self.store.execution_prune(now - KEPT).await? > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_store::LoadStep;

    #[test]
    fn steps_are_those_of_the_contract() {
        for (minutes, seconds) in [
            (59, 5),
            (60, 30),
            (359, 30),
            (360, 60),
            (719, 60),
            (720, 120),
            (1439, 120),
            (1440, 300),
            (7 * 1440 - 1, 300),
            (7 * 1440, 900),
        ] {
            let step = step(TimeDelta::minutes(minutes));
            assert_eq!(step.num_seconds(), seconds, "{minutes}");
        }
    }

    #[test]
    fn every_step_has_an_entry_and_the_last_one_ends_with_the_span() {
        let start = DateTime::UNIX_EPOCH;
        let span = Span {
            start,
            end: start + TimeDelta::seconds(12),
        };
        let change = |step, started, ended| LoadStep {
            step,
            started,
            ended,
        };
        let load = Load {
            running: 2,
            steps: vec![change(0, 1, 0), change(2, 5, 4)],
        };
        let all = metrics(span, TimeDelta::seconds(5), &load);
        let seconds = |metric: &TeamMetric| (metric.at - start).num_seconds();
        let shown: Vec<_> = all
            .iter()
            .map(|metric| (seconds(metric), metric.concurrent_sandboxes))
            .collect();
        assert_eq!(shown, [(5, 3), (10, 3), (12, 4)]);
        assert!((all[0].sandbox_start_rate - 0.2).abs() < 1e-9);
        assert!((all[2].sandbox_start_rate - 1.0).abs() < 1e-9);
    }

    #[test]
    fn without_a_start_usage_is_the_months() {
        let now = Utc.with_ymd_and_hms(2026, 2, 3, 4, 5, 6).single();
        let now = now.expect("a time");
        let span = usage_span(None, None, now).expect("a span");
        assert_eq!(span.start.to_rfc3339(), "2026-02-01T00:00:00+00:00");
        assert_eq!(span.end, now);
        let late = usage_span(None, Some(now + TimeDelta::days(1)), now);
        assert_eq!(
            late.expect("a span").end,
            now,
            "what will be is not counted"
        );
        assert!(usage_span(Some(now + TimeDelta::seconds(1)), None, now).is_err());
    }
}
