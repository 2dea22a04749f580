//! Pages of a build's log, forwards and backwards, from an entry or a time on.
//!
//! A node answers entries by their place from the beginning, and does not say how many
//! there are. They are in the order of their times, so both a time's place and the end
//! are found by halving: a page costs some twenty small questions of one node, however
//! long the log is.

use super::parse_build;
use crate::auth::Caller;
use crate::error::Error;
use crate::telemetry::LogDirection;
use crate::template_node::{BuildLogEntry, BuildLogLevel, TemplateNode};
use crate::{Control, NodeError};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;
use hearth_store::BuildStatus;
use std::time::Duration;

/// Entries that are asked for at once.
const CHUNK: u32 = super::MAX_ENTRIES;

/// Where a page of a build's log begins, in the direction of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildLogCursor {
    /// So many entries are skipped.
    Skip(u64),
    /// With the first entry at this time or, in the direction of reading, after it.
    Time(DateTime<Utc>),
}

/// Which entries of a build's log are wanted.
#[derive(Debug, Clone, Copy)]
pub struct BuildLogQuery {
    pub cursor: BuildLogCursor,
    /// Forwards the oldest comes first, backwards the newest.
    pub direction: LogDirection,
    /// At most so many entries, of those that are of the least level.
    pub limit: u32,
    pub least: BuildLogLevel,
}

/// A log whose entries are read by their place.
#[async_trait]
trait Entries: Sync {
    /// At most `limit` entries from `offset` on; fewer only at the end.
    async fn read(&self, offset: u64, limit: u32) -> Result<Vec<BuildLogEntry>, NodeError>;
}

struct OnNode<'a> {
    node: &'a dyn TemplateNode,
    build: BuildId,
}

#[async_trait]
impl Entries for OnNode<'_> {
    async fn read(&self, offset: u64, limit: u32) -> Result<Vec<BuildLogEntry>, NodeError> {
        let view = self
            .node
            .template_build_view(self.build, offset, limit, Duration::ZERO)
            .await?;
        Ok(view.entries)
    }
}

impl Control {
    /// A page of a build's log.
    ///
    /// # Errors
    /// `Invalid` when there is no such build, `NotFound` and `Forbidden` of the template.
    pub async fn template_build_log(
        &self,
        caller: &Caller,
        template: &str,
        build: &str,
        query: BuildLogQuery,
    ) -> Result<Vec<BuildLogEntry>, Error> {
        let build = parse_build(build)?;
        let template = self.template_own(caller, template).await?;
        let request = self.build_of(&template, build).await?;
        if request.build.status == BuildStatus::Waiting {
            return Ok(Vec::new());
        }
        let log = OnNode {
            node: self.template_node()?,
            build,
        };
        match page(&log, query).await {
            Ok(entries) => Ok(entries),
            // It has not begun there, or was forgotten.
            Err(NodeError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(Error::from_node(error)),
        }
    }
}

async fn page(log: &dyn Entries, query: BuildLogQuery) -> Result<Vec<BuildLogEntry>, NodeError> {
    match query.direction {
        LogDirection::Forward => {
            let from = match query.cursor {
                BuildLogCursor::Skip(entries) => entries,
                BuildLogCursor::Time(time) => boundary(log, |entry| entry.timestamp < time).await?,
            };
            forward(log, from, query).await
        }
        LogDirection::Backward => {
            let end = match query.cursor {
                BuildLogCursor::Skip(entries) => {
                    let length = boundary(log, |_| true).await?;
                    length.saturating_sub(entries)
                }
                BuildLogCursor::Time(time) => {
                    boundary(log, |entry| entry.timestamp <= time).await?
                }
            };
            backward(log, end, query).await
        }
    }
}

async fn forward(
    log: &dyn Entries,
    mut from: u64,
    query: BuildLogQuery,
) -> Result<Vec<BuildLogEntry>, NodeError> {
    let wanted = wanted(query);
    let mut page = Vec::new();
    loop {
        let chunk = log.read(from, CHUNK).await?;
        let whole = chunk.len() >= count(CHUNK);
        from = from.saturating_add(u64::from(CHUNK));
        page.extend(chunk.into_iter().filter(|entry| entry.level >= query.least));
        if page.len() >= wanted || !whole {
            page.truncate(wanted);
            return Ok(page);
        }
    }
}

async fn backward(
    log: &dyn Entries,
    mut end: u64,
    query: BuildLogQuery,
) -> Result<Vec<BuildLogEntry>, NodeError> {
    let wanted = wanted(query);
    let mut page = Vec::new();
    while end > 0 && page.len() < wanted {
        let begin = end.saturating_sub(u64::from(CHUNK));
        let limit = u32::try_from(end - begin).unwrap_or(CHUNK);
        let chunk = log.read(begin, limit).await?;
        let kept = chunk.into_iter().rev();
        page.extend(kept.filter(|entry| entry.level >= query.least));
        end = begin;
    }
    page.truncate(wanted);
    Ok(page)
}

fn wanted(query: BuildLogQuery) -> usize {
    count(query.limit.min(super::MAX_ENTRIES))
}

fn count(entries: u32) -> usize {
    usize::try_from(entries).unwrap_or(usize::MAX)
}

/// How many entries there are before the first one that is not `before`, which holds of
/// the log's beginning alone, or of nothing, or of all of it.
async fn boundary(
    log: &dyn Entries,
    before: impl Fn(&BuildLogEntry) -> bool,
) -> Result<u64, NodeError> {
    let mut low = 0;
    let mut step = 1;
    // `low` entries are known to be before it; the one after `high - 1` is not.
    let mut high = loop {
        let place = low + step - 1;
        match log.read(place, 1).await?.first() {
            Some(entry) if before(entry) => {
                low = place + 1;
                step *= 2;
            }
            _ => break place,
        }
    };
    while low < high {
        let middle = low + (high - low) / 2;
        match log.read(middle, 1).await?.first() {
            Some(entry) if before(entry) => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A log in memory, which counts the questions.
    struct Kept {
        entries: Vec<BuildLogEntry>,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Entries for Kept {
        async fn read(&self, offset: u64, limit: u32) -> Result<Vec<BuildLogEntry>, NodeError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let from = usize::try_from(offset).expect("small");
            let entries = self.entries.iter().skip(from).take(count(limit));
            Ok(entries.cloned().collect())
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).expect("a time")
    }

    /// An entry for each second; what is after the dot is its number.
    fn log(seconds: &[i64]) -> Kept {
        let mut seconds = seconds.to_vec();
        seconds.sort_unstable();
        let entry = |(number, second): (usize, &i64)| BuildLogEntry {
            timestamp: at(*second),
            level: match number % 3 {
                0 => BuildLogLevel::Info,
                _ => BuildLogLevel::Debug,
            },
            message: number.to_string(),
            step: None,
        };
        Kept {
            entries: seconds.iter().enumerate().map(entry).collect(),
            asked: AtomicUsize::new(0),
        }
    }

    fn read(log: &Kept, query: BuildLogQuery) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let page = runtime.expect("starts").block_on(page(log, query));
        let entries = page.expect("reads").into_iter();
        entries.map(|entry| entry.message).collect()
    }

    proptest! {
        /// The page is what filtering the whole log answers.
        #[test]
        fn a_page_is_a_part_of_the_whole(
            seconds in proptest::collection::vec(0i64..50, 0..400),
            backward: bool,
            by_time: bool,
            cursor in 0u32..60,
            limit in 1u32..=100,
            all: bool,
        ) {
            let log = log(&seconds);
            let least = if all { BuildLogLevel::Debug } else { BuildLogLevel::Info };
            let time = at(i64::from(cursor));
            let direction = if backward { LogDirection::Backward } else { LogDirection::Forward };
            let mut whole: Vec<_> = log.entries.clone();
            if backward {
                whole.reverse();
            }
            let skip = if by_time { 0 } else { cursor as usize };
            let expected: Vec<String> = whole
                .into_iter()
                .skip(skip)
                .filter(|entry| match (by_time, backward) {
                    (false, _) => true,
                    (true, false) => entry.timestamp >= time,
                    (true, true) => entry.timestamp <= time,
                })
                .filter(|entry| entry.level >= least)
                .take(limit as usize)
                .map(|entry| entry.message)
                .collect();
            let cursor = match by_time {
                true => BuildLogCursor::Time(time),
                false => BuildLogCursor::Skip(cursor.into()),
            };
            let query = BuildLogQuery { cursor, direction, limit, least };
            prop_assert_eq!(read(&log, query), expected);
        }
    }

    #[test]
    fn the_end_of_a_long_log_is_found_with_few_questions() {
        let log = log(&(0..50_000).collect::<Vec<_>>());
        let query = BuildLogQuery {
            cursor: BuildLogCursor::Skip(0),
            direction: LogDirection::Backward,
            limit: 2,
            least: BuildLogLevel::Debug,
        };
        assert_eq!(read(&log, query), ["49999", "49998"]);
        let asked = log.asked.load(Ordering::Relaxed);
        assert!(asked <= 40, "asked {asked} times");
    }
}
