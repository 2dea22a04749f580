//! What goes into the audit log: each call that changes something, and each request
//! whose credentials were refused.
//!
//! A record is begun before the handler runs and written when there is an answer, or
//! when the client leaves before: its call may have changed something all the same.
//! Handlers add what only they know ([`object`], [`created`]).

use crate::source::{BySession, Source};
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use governor::clock::MonotonicClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use hearth_audit::{AuditLog, Event, Record};
use hearth_control::Caller;
use hearth_ids::TeamId;
use percent_encoding::percent_decode_str;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Records of refused requests per second in the long run, and at once. What is beyond
/// is counted in the next one. As much as a team has: strangers, too, are not to push
/// others' records out of the files.
const REFUSED_PER_SECOND: NonZeroU32 = NonZeroU32::new(2).expect("not zero");
const REFUSED_BURST: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// In the place of a key's scopes, of what shows the operators' token.
const OPERATOR: &str = "operator";

/// What a call is about is a name or an id.
const MAX_OBJECT_BYTES: usize = 256;

#[derive(Default)]
struct Notes {
    object: OnceLock<String>,
    created: OnceLock<String>,
    team: OnceLock<TeamId>,
}

tokio::task_local! {
    static NOTES: Arc<Notes>;
}

/// Says what the present call is about, where the path does not. The first word holds.
pub(crate) fn object(name: &str) {
    // Outside of a recorded call nobody asks.
    let name = &name[..name.floor_char_boundary(MAX_OBJECT_BYTES)];
    let _ = NOTES.try_with(|notes| notes.object.set(name.to_owned()));
}

/// Says what the present call has made.
pub(crate) fn created(id: &str) {
    let _ = NOTES.try_with(|notes| notes.created.set(id.to_owned()));
}

/// Says for which team the present call is, where a signed link says that.
pub(crate) fn team(id: TeamId) {
    let _ = NOTES.try_with(|notes| notes.team.set(id));
}

/// The API's side of the log.
pub(crate) struct Trail {
    log: Arc<AuditLog>,
    refused: RateLimiter<NotKeyed, InMemoryState, MonotonicClock>,
    /// Refused requests that have no record of their own.
    suppressed: AtomicU64,
}

impl Trail {
    pub(crate) fn new(log: Arc<AuditLog>) -> Self {
        let quota = Quota::per_second(REFUSED_PER_SECOND).allow_burst(REFUSED_BURST);
        Self {
            log,
            refused: RateLimiter::direct_with_clock(quota, MonotonicClock),
            suppressed: AtomicU64::new(0),
        }
    }

    fn refused(&self, mut record: Record) {
        if self.refused.check().is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
        record.count = (suppressed > 0).then_some(suppressed + 1);
        self.log.record(record);
    }
}

/// The record of one request, not yet written.
pub(crate) struct Entry {
    trail: Arc<Trail>,
    record: Option<Record>,
    notes: Arc<Notes>,
    changes: bool,
}

impl Entry {
    /// Begins the record of a request that has come to its route.
    pub(crate) fn begin(trail: &Arc<Trail>, request: &Request, request_id: &str) -> Self {
        let method = request.method();
        let route = request.extensions().get().map(MatchedPath::as_str);
        let record = Record {
            request_id: Some(request_id.to_owned()),
            source: Some(Source::of(request.extensions()).to_string()),
            via: request.extensions().get().map(|BySession| "session"),
            method: Some(method.to_string()),
            route: route.map(str::to_owned),
            object: route.and_then(|route| named_in(route, request.uri().path())),
            ..Record::new(Event::Api)
        };
        Self {
            trail: Arc::clone(trail),
            record: Some(record),
            notes: Arc::default(),
            // What no route takes changes nothing.
            changes: route.is_some() && ![Method::GET, Method::HEAD].contains(method),
        }
    }

    pub(crate) fn caller(&mut self, caller: &Caller) {
        if let Some(record) = &mut self.record {
            record.team = Some(caller.team_id().to_string());
            record.key_id = Some(caller.key_id.to_string());
            record.scope = Some(caller.grant.summary());
        }
    }

    /// The request shows the operators' token, and may be for a team.
    pub(crate) fn operator(&mut self, caller: Option<&Caller>) {
        if let Some(record) = &mut self.record {
            record.team = caller.map(|caller| caller.team_id().to_string());
            record.scope = Some(OPERATOR.to_owned());
        }
    }

    /// Runs the handler, which may add to the record.
    pub(crate) async fn scope<F: Future>(&self, handler: F) -> F::Output {
        NOTES.scope(Arc::clone(&self.notes), handler).await
    }

    /// There is an answer. `refused` says that it refuses the credentials.
    pub(crate) fn finish(mut self, status: StatusCode, refused: bool) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.status = Some(status.as_u16());
        if refused {
            record.event = Event::Refused;
            self.trail.refused(record);
        } else if self.changes {
            self.write(record);
        }
    }

    /// Nobody's key or signed link has been looked at: a stranger may make any number.
    fn is_anonymous(&self, record: &Record) -> bool {
        let known = record.key_id.is_some() || record.scope.as_deref() == Some(OPERATOR);
        !known && self.notes.team.get().is_none()
    }

    /// Nothing is to be written.
    pub(crate) fn discard(mut self) {
        self.record = None;
    }

    fn write(&self, mut record: Record) {
        if let Some(object) = self.notes.object.get() {
            record.object = Some(object.clone());
        }
        if let Some(team) = self.notes.team.get() {
            record.team = Some(team.to_string());
        }
        record.created = self.notes.created.get().cloned();
        if self.is_anonymous(&record) {
            self.trail.refused(record);
        } else {
            self.trail.log.record(record);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(record) = self.record.take()
            && self.changes
        {
            self.write(record);
        }
    }
}

/// What the path names where the route has its variables. A team before it goes without
/// saying.
fn named_in(route: &str, path: &str) -> Option<String> {
    let names: Vec<_> = route
        .split('/')
        .zip(path.split('/'))
        .filter(|(pattern, _)| pattern.starts_with('{') && *pattern != "{team}")
        .map(|(_, text)| percent_decode_str(text).decode_utf8_lossy())
        .collect();
    (!names.is_empty()).then(|| names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_what_the_path_names() {
        for (route, path, named) in [
            ("/sandboxes", "/sandboxes", None),
            (
                "/sandboxes/{sandboxID}/pause",
                "/sandboxes/i1/pause",
                Some("i1"),
            ),
            ("/secrets/{secretID}", "/secrets/a%20b", Some("a b")),
            (
                "/templates/{templateID}/builds/{buildID}",
                "/templates/t/builds/b",
                Some("t/b"),
            ),
            (
                "/template-files/{team}/{hash}",
                "/template-files/x/h",
                Some("h"),
            ),
        ] {
            assert_eq!(named_in(route, path).as_deref(), named, "{route}");
        }
    }
}
