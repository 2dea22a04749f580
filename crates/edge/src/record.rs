//! One request and its answer, for as long as anything of them lives: what is
//! counted and what the access log says of it.
//!
//! Everybody who moves its bytes holds a [`RequestRecord`]; with the last one it is
//! over and its line is written. Counters go up as bytes flow, so that a stream of
//! hours is seen while it lasts. They are statistics: relaxed atomics, read without
//! a claim of a consistent moment.

use crate::server::Peer;
use hearth_ids::SandboxId;
use http::{Method, StatusCode, Uri};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Upper bounds of the histogram of times to an answer's head, in milliseconds.
pub(crate) const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// What has happened, of one sandbox or of all.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Answers of guests, by the first digit of their status, from 1 to 5.
    pub(crate) answered: [AtomicU64; 5],
    /// Answers that the edge gave instead, by the same digit.
    pub(crate) refused: [AtomicU64; 5],
    /// Bytes of bodies and tunnels, towards guests and from them.
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Times to the head of an answer: one counter per bound, and one beyond.
    pub(crate) times: [AtomicU64; BOUNDS_MS.len() + 1],
    pub(crate) time_ms: AtomicU64,
}

impl Counters {
    fn answer(&self, status: StatusCode, refused: bool) {
        let by_class = if refused {
            &self.refused
        } else {
            &self.answered
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, by_class.len());
        by_class[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    fn time(&self, time: Duration) {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.iter().position(|bound| time_ms <= *bound);
        self.times[bucket.unwrap_or(BOUNDS_MS.len())].fetch_add(1, Ordering::Relaxed);
        self.time_ms.fetch_add(time_ms, Ordering::Relaxed);
    }
}

/// The sandbox of a record, once it is known.
struct Place {
    id: SandboxId,
    port: u16,
    counters: Arc<Counters>,
}

pub(crate) struct RequestRecord {
    method: Method,
    /// A copy: a part of the head would keep the whole buffer that it was read into.
    path: Box<str>,
    peer: Peer,
    started: Instant,
    totals: Arc<Counters>,
    place: OnceLock<Place>,
    status: AtomicU16,
    received: AtomicU64,
    sent: AtomicU64,
    uploading: AtomicBool,
}

impl RequestRecord {
    pub(crate) fn new(method: Method, uri: &Uri, peer: Peer, totals: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            method,
            path: uri.path().into(),
            peer,
            started: Instant::now(),
            totals,
            place: OnceLock::new(),
            status: AtomicU16::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            uploading: AtomicBool::new(false),
        })
    }

    /// The sandbox is found.
    pub(crate) fn at(&self, id: &SandboxId, port: u16, counters: &Arc<Counters>) {
        let place = Place {
            id: id.clone(),
            port,
            counters: Arc::clone(counters),
        };
        // A record is admitted once.
        let _ = self.place.set(place);
    }

    /// The head of the answer is known.
    pub(crate) fn answered(&self, status: StatusCode, refused: bool) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
        self.totals.answer(status, refused);
        self.totals.time(self.started.elapsed());
        if let Some(place) = self.place.get() {
            place.counters.answer(status, refused);
        }
    }

    /// Bytes went to the guest.
    pub(crate) fn received(&self, count: usize) {
        self.count(count, &self.received, |counters| &counters.received);
    }

    /// Bytes came from the guest.
    pub(crate) fn sent(&self, count: usize) {
        self.count(count, &self.sent, |counters| &counters.sent);
    }

    /// The request has a body, which goes on or has ended.
    pub(crate) fn set_uploading(&self, uploading: bool) {
        self.uploading.store(uploading, Ordering::Relaxed);
    }

    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Relaxed)
    }

    fn count(&self, count: usize, own: &AtomicU64, of: impl Fn(&Counters) -> &AtomicU64) {
        let count = count as u64;
        own.fetch_add(count, Ordering::Relaxed);
        of(&self.totals).fetch_add(count, Ordering::Relaxed);
        if let Some(place) = self.place.get() {
            of(&place.counters).fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Drop for RequestRecord {
    /// Writes the line. Queries stay out of it: they carry signatures.
    fn drop(&mut self) {
        let place = self.place.get();
        tracing::info!(
            target: crate::ACCESS_LOG,
            sandbox = place.map(|place| place.id.as_str()),
            port = place.map(|place| place.port),
            peer = %self.peer.address,
            tls = self.peer.tls,
            method = %self.method,
            path = &*self.path,
            status = self.status.load(Ordering::Relaxed),
            received = self.received.load(Ordering::Relaxed),
            sent = self.sent.load(Ordering::Relaxed),
            elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
    }
}
