//! The edge's counters in Prometheus' text format.
//!
//! Series of a sandbox exist while it has a pool, so there are at most as many as
//! sandboxes run here; those of all together never go away.

use crate::record::{BOUNDS_MS, Counters};
use hearth_ids::SandboxId;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// One running sandbox, as it is shown.
pub(crate) struct Shown<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) counters: &'a Counters,
    pub(crate) open: usize,
}

pub(crate) fn render(totals: &Counters, sandboxes: &[Shown<'_>]) -> String {
    let mut page = Page(String::new());
    let sources = |counters: &mut dyn FnMut(Option<&SandboxId>, &Counters)| {
        counters(None, totals);
        for shown in sandboxes {
            counters(Some(shown.id), shown.counters);
        }
    };
    for (kind, name, help) in [
        (
            false,
            "requests_total",
            "Requests that a guest answered, by class of status.",
        ),
        (
            true,
            "refusals_total",
            "Requests that the edge answered itself, by class of status.",
        ),
    ] {
        page.head(name, "counter", help);
        sources(&mut |id, counters| {
            let by_class = if kind {
                &counters.refused
            } else {
                &counters.answered
            };
            for (class, count) in by_class.iter().enumerate() {
                let count = value(count);
                // Absent series are cheaper than zeros, but a total is always there.
                if count > 0 || id.is_none() {
                    page.line(name, id, &[("code", &format!("{}xx", class + 1))], count);
                }
            }
        });
    }
    for (received, name, help) in [
        (
            true,
            "received_bytes_total",
            "Bytes of bodies and tunnels passed on to guests.",
        ),
        (
            false,
            "sent_bytes_total",
            "Bytes of bodies and tunnels passed on from guests.",
        ),
    ] {
        page.head(name, "counter", help);
        sources(&mut |id, counters| {
            let count = if received {
                &counters.received
            } else {
                &counters.sent
            };
            page.line(name, id, &[], value(count));
        });
    }
    page.head(
        "open_requests",
        "gauge",
        "Requests, streams and tunnels open now.",
    );
    let all: usize = sandboxes.iter().map(|shown| shown.open).sum();
    page.line("open_requests", None, &[], all as u64);
    for shown in sandboxes {
        page.line("open_requests", Some(shown.id), &[], shown.open as u64);
    }
    page.head(
        "sandboxes",
        "gauge",
        "Sandboxes that were visited and still run.",
    );
    page.line("sandboxes", None, &[], sandboxes.len() as u64);
    histogram(&mut page, totals);
    page.0
}

fn histogram(page: &mut Page, totals: &Counters) {
    const NAME: &str = "answer_seconds";
    page.head(
        NAME,
        "histogram",
        "Time from a request's head to that of its answer.",
    );
    let mut sum = 0;
    for (count, bound) in totals.times.iter().zip(BOUNDS_MS) {
        sum += value(count);
        let bound = seconds(bound);
        page.line("answer_seconds_bucket", None, &[("le", &bound)], sum);
    }
    sum += value(&totals.times[BOUNDS_MS.len()]);
    page.line("answer_seconds_bucket", None, &[("le", "+Inf")], sum);
    let time = seconds(value(&totals.time_ms));
    let _ = writeln!(page.0, "hearth_edge_answer_seconds_sum {time}");
    page.line("answer_seconds_count", None, &[], sum);
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP hearth_edge_{name} {help}");
        let _ = writeln!(self.0, "# TYPE hearth_edge_{name} {kind}");
    }

    /// Names of sandboxes and our own labels need no escaping.
    fn line(&mut self, name: &str, id: Option<&SandboxId>, labels: &[(&str, &str)], value: u64) {
        let id = id.map(|id| ("sandbox", id.as_str()));
        let labels: Vec<String> = id
            .iter()
            .chain(labels)
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "hearth_edge_{name}{labels} {value}");
    }
}
