//! Why no node takes a sandbox, for whoever asked.

use crate::State;
use std::collections::BTreeMap;
use std::fmt;

/// Why one node does not take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It takes none at all.
    State(State),
    /// It refused this one before.
    Excluded,
    /// It lacks a label.
    Labels,
    /// The build is not there.
    Build,
    /// The saved memory does not run on its engine or processor.
    Platform,
    /// All slots are taken.
    Slots,
    /// Too little memory is left.
    Memory,
    /// Too few processors are left.
    Processors,
    /// Another node was named.
    AnotherNode,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::State(State::Ready) => "ready",
            Self::State(State::Draining) => "draining: it takes no new sandboxes",
            Self::State(State::Connecting) => "connecting: it has not reported yet",
            Self::State(State::Unhealthy) => "unhealthy: it has not reported for too long",
            Self::State(State::Standby) => "on standby: it takes no sandboxes",
            Self::Excluded => "refused it",
            Self::Labels => "without the labels asked for",
            Self::Build => "without the build",
            Self::Platform => "with another engine or processor than the saved memory needs",
            Self::Slots => "without a free slot",
            Self::Memory => "without enough free memory",
            Self::Processors => "without enough free processors",
            Self::AnotherNode => "not the one asked for",
        }
    }
}

/// No node takes the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unplaced {
    /// How many nodes refuse it for which reason.
    pub reasons: BTreeMap<Refusal, usize>,
    /// Whether a node was named that is not among those.
    pub named_is_missing: bool,
}

impl Unplaced {
    /// Whether every node that was asked refuses for this reason, and there was one.
    #[must_use]
    pub fn only(&self, refusal: Refusal) -> bool {
        let mut others = self.asked();
        others.all(|(reason, _)| *reason == refusal) && self.reasons.contains_key(&refusal)
    }

    /// Nodes that another one was preferred to by name say nothing about why.
    fn asked(&self) -> impl Iterator<Item = (&Refusal, &usize)> {
        let counts = self.reasons.iter();
        counts.filter(|(reason, _)| **reason != Refusal::AnotherNode)
    }
}

/// A sentence without a capital and a full stop: `1 node is draining: …; 2 nodes are …`.
impl fmt::Display for Unplaced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.named_is_missing {
            return formatter.write_str("there is no such node as was asked for");
        }
        let mut first = true;
        for (reason, count) in self.asked() {
            if !std::mem::take(&mut first) {
                formatter.write_str("; ")?;
            }
            let (nodes, verb) = match (*count, *reason) {
                (1, Refusal::Excluded) => ("node", ""),
                (_, Refusal::Excluded) => ("nodes", ""),
                (1, _) => ("node", "is "),
                _ => ("nodes", "are "),
            };
            write!(formatter, "{count} {nodes} {verb}{}", reason.text())?;
        }
        match first {
            true => formatter.write_str("there is no node"),
            false => Ok(()),
        }
    }
}
