//! What is known of a node.

use hearth_ids::BuildId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// Whether a node takes sandboxes, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It takes sandboxes.
    Ready,
    /// An operator wants it empty: nothing new, what runs goes on.
    Draining,
    /// It is known, but has not said yet how it is.
    Connecting,
    /// It has not been heard of for longer than its lease.
    Unhealthy,
    /// An operator keeps it in reserve.
    Standby,
}

/// What sandboxes take of a node, or what a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Memory, in MiB. A node that promises more than it has counts what it promises.
    pub memory_mib: u64,
    /// Virtual processors, as promised.
    pub vcpus: u64,
    /// Network slots: one a sandbox.
    pub slots: u64,
}

impl Amount {
    /// More of everything than any request takes: the room is the node's own business.
    pub const BOUNDLESS: Self = Self {
        memory_mib: u64::MAX,
        vcpus: u64::MAX,
        slots: u64::MAX,
    };

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            vcpus: self.vcpus.saturating_add(other.vcpus),
            slots: self.slots.saturating_add(other.slots),
        }
    }

    /// What is left when the other is taken away, at least nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            slots: self.slots.saturating_sub(other.slots),
        }
    }
}

/// What guests run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// The engine's name, such as `qemu`.
    pub engine: String,
    /// Its series, such as `7.2`: device states move within one.
    pub series: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The processor model that guests see.
    pub cpu_model: String,
    /// Processor features that guests see.
    pub cpu_features: BTreeSet<String>,
}

impl Platform {
    /// Whether a memory that was saved on `saved` goes on here.
    #[must_use]
    pub fn runs(&self, saved: &Self) -> bool {
        self.engine == saved.engine
            && self.series == saved.series
            && self.accelerator == saved.accelerator
            && self.cpu_model == saved.cpu_model
            && saved.cpu_features.is_subset(&self.cpu_features)
    }
}

/// A node as the control plane last heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Names it.
    pub id: Uuid,
    /// Whether it takes sandboxes.
    pub state: State,
    /// What an operator calls it by, such as `zone` = `a`.
    pub labels: BTreeMap<String, String>,
    /// What it has for sandboxes.
    pub capacity: Amount,
    /// What its sandboxes were promised, those that are starting among them.
    pub committed: Amount,
    /// Sandboxes that are starting.
    pub starting: u32,
    /// Builds on its disk.
    pub builds: HashSet<BuildId>,
    /// Warm VMs by their build.
    pub warm: HashMap<BuildId, u32>,
    /// What guests run on there; unknown before it has said so.
    pub platform: Option<Platform>,
}

impl Node {
    /// A ready node that holds nothing.
    #[must_use]
    pub fn empty(id: Uuid, capacity: Amount) -> Self {
        Self {
            id,
            state: State::Ready,
            labels: BTreeMap::new(),
            capacity,
            committed: Amount::default(),
            starting: 0,
            builds: HashSet::new(),
            warm: HashMap::new(),
            platform: None,
        }
    }

    /// What is left of it.
    #[must_use]
    pub fn free(&self) -> Amount {
        self.capacity.minus(self.committed)
    }
}
