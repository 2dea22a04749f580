//! What of a team's records is written one by one.
//!
//! The files hold so much and no more, so whoever makes records fast enough pushes those
//! of all others out. Each team therefore has a token bucket. Past it, records of one
//! kind (key, event, method, route, status) are joined: the first one stands for all of
//! the same kind that follow within a window, with their number. Nothing is dropped
//! without a count, and a team's share of the files is bounded.
//!
//! Policy only: no clock, no file. Times are given.

use crate::record::{Event, Record};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Records of one team per second in the long run, each its own line: with the longest
/// usual line of 512 bytes about 86 MB a day, a sixth of what is kept by default.
const PER_SECOND: f64 = 2.0;
/// Records of one team at once.
const BURST: f64 = 2000.0;
/// How long records of a kind are joined.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds of one team in a window; all further ones are one more.
const MOST_KINDS: usize = 30;

/// What joined records have in common. The default is that of a team's further kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Kind {
    event: Option<Event>,
    key_id: Option<String>,
    method: Option<String>,
    route: Option<String>,
    status: Option<u16>,
}

impl Kind {
    fn of(record: &Record) -> Self {
        Self {
            event: Some(record.event),
            key_id: record.key_id.clone(),
            method: record.method.clone(),
            route: record.route.clone(),
            status: record.status,
        }
    }
}

#[derive(Debug)]
struct Budget {
    tokens: f64,
    filled: Instant,
    /// Joined records, in the order of their first ones.
    joined: Vec<(Kind, Record)>,
    /// When the oldest of these came.
    since: Instant,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
            joined: Vec::new(),
            since: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
        self.filled = now;
    }

    fn join(&mut self, mut record: Record, now: Instant) {
        if self.joined.is_empty() {
            self.since = now;
        }
        let count = record.count.unwrap_or(1);
        let mut kind = Kind::of(&record);
        let known = |joined: &[(Kind, Record)], kind: &Kind| {
            joined.iter().position(|(other, _)| other == kind)
        };
        if known(&self.joined, &kind).is_none() && self.joined.len() >= MOST_KINDS {
            kind = Kind::default();
        }
        match known(&self.joined, &kind) {
            Some(index) => {
                let first = &mut self.joined[index].1;
                first.count = Some(first.count.unwrap_or(1).saturating_add(count));
            }
            None => {
                if kind == Kind::default() {
                    record = Record {
                        time: record.time,
                        team: record.team,
                        ..Record::new(record.event)
                    };
                }
                record.count = Some(count);
                self.joined.push((kind, record));
            }
        }
    }

    fn take(&mut self) -> impl Iterator<Item = Record> {
        std::mem::take(&mut self.joined)
            .into_iter()
            .map(|(_, mut record)| {
                record.count = record.count.filter(|count| *count > 1);
                record
            })
    }
}

/// The budgets of all teams.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    teams: HashMap<String, Budget>,
}

impl Budgets {
    /// The record, if it is to be written by itself; else it is joined with others.
    /// Records without a team are none of a tenant's.
    pub(crate) fn admit(&mut self, record: Record, now: Instant) -> Option<Record> {
        let Some(team) = &record.team else {
            return Some(record);
        };
        let budget = match self.teams.get_mut(team) {
            Some(budget) => budget,
            None => self
                .teams
                .entry(team.clone())
                .or_insert_with(|| Budget::full(now)),
        };
        budget.fill(now);
        // While some wait, those that come join them: in a log, order says something.
        if budget.tokens >= 1.0 && budget.joined.is_empty() {
            budget.tokens -= 1.0;
            return Some(record);
        }
        budget.join(record, now);
        None
    }

    /// The joined records whose window is over.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Record> {
        let mut due = Vec::new();
        self.teams.retain(|_, budget| {
            budget.fill(now);
            if !budget.joined.is_empty() && now.saturating_duration_since(budget.since) >= WINDOW {
                let before = due.len();
                due.extend(budget.take());
                let written = due.len() - before;
                budget.tokens = (budget.tokens - written as f64).max(0.0);
            }
            // A full one that nothing waits in says what an absent one does.
            budget.tokens < BURST || !budget.joined.is_empty()
        });
        due
    }

    /// All joined records, as at the end.
    pub(crate) fn rest(&mut self) -> Vec<Record> {
        self.teams.values_mut().flat_map(Budget::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(team: &str, status: u16) -> Record {
        Record {
            team: Some(team.to_owned()),
            status: Some(status),
            ..Record::new(Event::Api)
        }
    }

    fn requests(records: &[Record]) -> u64 {
        records.iter().map(|record| record.count.unwrap_or(1)).sum()
    }

    #[test]
    fn one_team_takes_no_more_than_its_share_and_every_request_is_counted() {
        let start = Instant::now();
        let (mut budgets, mut written) = (Budgets::default(), Vec::new());
        // A day at 150 requests per second, with one of another team each minute.
        let mut others = 0;
        for second in 0..86_400_u64 {
            let now = start + Duration::from_secs(second);
            for status in [201, 204, 404] {
                let many = Record {
                    count: Some(50),
                    ..record("loud", status)
                };
                written.extend(budgets.admit(many, now));
            }
            if second % 60 == 0 {
                others += u32::from(budgets.admit(record("quiet", 201), now).is_some());
            }
            written.extend(budgets.due(now));
        }
        written.extend(budgets.rest());
        assert_eq!(requests(&written), 86_400 * 150);
        let most = BURST + PER_SECOND * 86_400.0 + 10.0;
        assert!((written.len() as f64) < most, "{}", written.len());
        assert_eq!(others, 1440, "who is quiet has every record");
    }

    #[test]
    fn joined_records_keep_their_kind_and_the_first_ones_time() {
        let now = Instant::now();
        let mut budgets = Budgets::default();
        for _ in 0..BURST as usize {
            assert!(budgets.admit(record("t", 200), now).is_some());
        }
        let first = record("t", 201);
        let time = first.time;
        for record in [first, record("t", 409), record("t", 201)] {
            assert!(budgets.admit(record, now).is_none());
        }
        assert!(budgets.due(now + WINDOW / 2).is_empty());
        let due = budgets.due(now + WINDOW);
        let found: Vec<_> = due.iter().map(|r| (r.status, r.count)).collect();
        assert_eq!(found, [(Some(201), Some(2)), (Some(409), None)]);
        assert_eq!(due[0].time, time);
        assert!(budgets.due(now + WINDOW * 2).is_empty());
        // By then there are tokens again.
        assert!(budgets.admit(record("t", 200), now + WINDOW * 2).is_some());
    }

    #[test]
    fn teams_that_are_quiet_again_cost_nothing() {
        let now = Instant::now();
        let mut budgets = Budgets::default();
        for team in 0..1000 {
            budgets.admit(record(&team.to_string(), 200), now);
        }
        assert!(budgets.due(now + Duration::from_secs(1)).is_empty());
        assert_eq!(budgets.teams.len(), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_window_is_bounded(
            calls in prop::collection::vec((0..3_u8, 0..60_u16, 0..3000_u64, 1..50_u64), 0..400)
        ) {
            let start = Instant::now();
            let (mut budgets, mut now, mut asked) = (Budgets::default(), start, 0);
            let mut written = Vec::new();
            for (team, status, pause_ms, count) in calls {
                now += Duration::from_millis(pause_ms);
                let one = Record { count: Some(count), ..record(&team.to_string(), status) };
                asked += count;
                written.extend(budgets.admit(one, now));
                let due = budgets.due(now);
                prop_assert!(due.len() <= 3 * (MOST_KINDS + 1));
                written.extend(due);
            }
            written.extend(budgets.rest());
            prop_assert_eq!(requests(&written), asked);
        }
    }
}
