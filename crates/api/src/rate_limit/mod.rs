//! How many requests there may be: token buckets by API key, by team, and by source
//! for requests whose key has not proved good yet.
//!
//! The arithmetic (GCRA) is the `governor` crate's; [`bounded`] keeps the buckets in
//! bounded memory. A key has a bucket for each [`Group`] of routes, and so has its team,
//! so that neither one key starves the team's others, nor a team with many keys the
//! other teams. The tighter of the two shows in the answer's headers.

mod bounded;
mod config;

pub use config::{Rate, RateLimits};

use crate::error::Failure;
use crate::source::Source;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use bounded::Buckets;
use hearth_control::Caller;
use hearth_ids::TeamId;
use std::time::Duration;
use uuid::Uuid;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Routes that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Read,
    /// Changes something that is there.
    Write,
    /// Takes up room: new sandboxes, snapshots and builds.
    Create,
}

/// What makes or starts something, by the end of the route's pattern.
const CREATES: [&str; 11] = [
    "/sandboxes",
    "/resume",
    "/connect",
    "/fork",
    "/snapshots",
    "/rollback",
    "/v2/templates",
    "/v3/templates",
    "/builds/{buildID}",
    "/volumes",
    "/volumes/{volumeID}/copy",
];

impl Group {
    /// The group of a route; none for what is never limited.
    pub(crate) fn of(method: &Method, route: Option<&str>) -> Option<Self> {
        let route = route.unwrap_or_default();
        if route == "/health" {
            return None;
        }
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Some(Self::Read);
        }
        let creates = *method == Method::POST && CREATES.iter().any(|end| route.ends_with(end));
        Some(if creates { Self::Create } else { Self::Write })
    }
}

/// The state of a bucket after a request took from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// What a full bucket holds.
    limit: u32,
    remaining: u32,
    /// Until it is full again.
    reset: Duration,
}

impl Allowance {
    /// Shows it in an answer.
    pub(crate) fn show(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, seconds(self.reset).into());
    }

    fn tighter(self, other: Self) -> Self {
        if other.remaining < self.remaining {
            other
        } else {
            self
        }
    }
}

/// A bucket that holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    allowance: Allowance,
    /// Until a request can succeed.
    wait: Duration,
}

impl IntoResponse for Exceeded {
    fn into_response(self) -> Response {
        let failure = Failure::http(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded");
        let mut response = failure.into_response();
        let headers = response.headers_mut();
        self.allowance.show(headers);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(self.wait).max(1)));
        response
    }
}

/// Rounded up: whoever waits that long has waited long enough.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

struct Pair {
    keys: Option<Buckets<Uuid>>,
    teams: Option<Buckets<TeamId>>,
}

/// All buckets of one API.
pub(crate) struct Limiter {
    read: Pair,
    write: Pair,
    create: Pair,
    sources: Option<Buckets<Source>>,
    uploads: Option<Buckets<Source>>,
}

impl Limiter {
    pub(crate) fn new(limits: &RateLimits) -> Self {
        let most = limits.max_tracked;
        let of = |rate: Rate| Pair {
            keys: Buckets::new(rate, most),
            teams: Buckets::new(rate.times(limits.team_multiple), most),
        };
        Self {
            read: of(limits.read),
            write: of(limits.write),
            create: of(limits.create),
            sources: Buckets::new(limits.unauthenticated, most),
            uploads: Buckets::new(limits.write.times(limits.team_multiple), most),
        }
    }

    /// Takes a request from a caller's buckets; no allowance where nothing limits it.
    pub(crate) fn caller(
        &self,
        caller: &Caller,
        group: Group,
    ) -> Result<Option<Allowance>, Exceeded> {
        let buckets = match group {
            Group::Read => &self.read,
            Group::Write => &self.write,
            Group::Create => &self.create,
        };
        let key = buckets.keys.as_ref().map(|keys| keys.take(&caller.key_id));
        let key = key.transpose()?;
        let teams = buckets.teams.as_ref();
        let team = teams
            .map(|teams| teams.take(&caller.team_id()))
            .transpose()?;
        Ok(match (key, team) {
            (Some(key), Some(team)) => Some(key.tighter(team)),
            (one, other) => one.or(other),
        })
    }

    /// Takes a request of somebody who may be anybody from the source's bucket.
    pub(crate) fn source(&self, source: &Source) -> Result<Option<Allowance>, Exceeded> {
        take(self.sources.as_ref(), source)
    }

    /// Takes an upload from the source's bucket of uploads. Whoever guesses keys from the
    /// same address keeps no build from its files.
    pub(crate) fn upload(&self, source: &Source) -> Result<Option<Allowance>, Exceeded> {
        take(self.uploads.as_ref(), source)
    }
}

fn take(buckets: Option<&Buckets<Source>>, source: &Source) -> Result<Option<Allowance>, Exceeded> {
    buckets
        .map(|buckets| buckets.take(&source.client()))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_the_group_that_it_costs() {
        let group = |method: Method, route: &str| Group::of(&method, Some(route));
        assert_eq!(group(Method::GET, "/health"), None);
        assert_eq!(group(Method::GET, "/v2/sandboxes"), Some(Group::Read));
        assert_eq!(Group::of(&Method::GET, None), Some(Group::Read));
        for route in ["/sandboxes", "/v2/sandboxes", "/sandboxes/{sandboxID}/fork"] {
            assert_eq!(group(Method::POST, route), Some(Group::Create), "{route}");
        }
        for route in ["/sandboxes/{sandboxID}/timeout", "/templates/tags"] {
            assert_eq!(group(Method::POST, route), Some(Group::Write), "{route}");
        }
        assert_eq!(
            group(Method::DELETE, "/sandboxes/{sandboxID}"),
            Some(Group::Write)
        );
        // Every pattern is a route's: a route that gets another name is not forgotten.
        let document = crate::openapi();
        for end in CREATES {
            let mut routes = document.paths.paths.iter();
            let found = routes.any(|(path, item)| item.post.is_some() && path.ends_with(end));
            assert!(found, "{end}");
        }
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
    }
}
