//! How the builder tells what it is doing. It never prints: whoever calls it
//! decides whether to draw bars, write log lines or stay silent.

use std::fmt;

/// Receives every event, in order within one stage. Called from several tasks;
/// it must not block for long.
pub trait Progress: Send + Sync {
    fn event(&self, event: Event<'_>);
}

/// The parts of a preparation, each reported by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Kernel,
    Initramfs,
    Rootfs,
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// The stage began (again, for its next step): what it does now.
    Step {
        stage: Stage,
        text: &'a str,
    },
    /// How much of the step is done.
    Advanced {
        stage: Stage,
        done: u64,
        /// Unknown totals are `None`.
        total: Option<u64>,
        unit: Unit,
    },
    Finished {
        stage: Stage,
        outcome: Outcome,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Countable things, such as packages.
    Items,
}

/// Where a stage's result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stood ready in the state directory.
    Present,
    /// It came out of the shared cache directory.
    FromCache,
    Built,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "guest kernel",
            Self::Initramfs => "initramfs",
            Self::Rootfs => "root file system",
            Self::Snapshot => "template snapshot",
        })
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}

/// One stage's view of the caller's progress.
#[derive(Clone, Copy)]
pub(crate) struct StageProgress<'a> {
    progress: &'a dyn Progress,
    stage: Stage,
}

impl<'a> StageProgress<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, stage: Stage) -> Self {
        Self { progress, stage }
    }

    pub(crate) fn step(&self, text: &str) {
        self.progress.event(Event::Step {
            stage: self.stage,
            text,
        });
    }

    pub(crate) fn advanced(&self, done: u64, total: Option<u64>, unit: Unit) {
        self.progress.event(Event::Advanced {
            stage: self.stage,
            done,
            total,
            unit,
        });
    }

    pub(crate) fn finished(&self, outcome: Outcome) {
        self.progress.event(Event::Finished {
            stage: self.stage,
            outcome,
        });
    }
}
