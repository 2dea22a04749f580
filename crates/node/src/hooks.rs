//! Where tests can look into, or break, an operation of several steps: each step
//! is announced when it is done. In the product nobody listens.

use crate::error::Error;
use std::{fmt, sync::Arc};

/// A step that is done, of pausing, of taking a snapshot, or of starting again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The journal says what is being done.
    Journalled,
    /// The guest's programs stand still.
    Frozen,
    VmPaused,
    DevicesSaved,
    /// The journal names the disk's new layers.
    LayersJournalled,
    DiskSealed,
    /// The disk's layers are part of the build to be.
    DiskLinked,
    MemorySaved,
    /// The build is there. A pause has happened from here on.
    Published,
    /// The journal says that it is paused.
    PauseJournalled,
    VmStopped,
    /// Slot, sockets and own files are given back.
    Released,
    SlotTaken,
    DiskServed,
    /// The VM runs again, the agent does not know of it yet.
    VmStarted,
    Greeted,
}

impl Step {
    /// Every step, in the order in which a pause and then a resume take them.
    pub const ALL: [Self; 16] = [
        Self::Journalled,
        Self::Frozen,
        Self::VmPaused,
        Self::DevicesSaved,
        Self::LayersJournalled,
        Self::DiskSealed,
        Self::DiskLinked,
        Self::MemorySaved,
        Self::Published,
        Self::PauseJournalled,
        Self::VmStopped,
        Self::Released,
        Self::SlotTaken,
        Self::DiskServed,
        Self::VmStarted,
        Self::Greeted,
    ];
}

/// Is told of every step; an error makes the step fail.
pub trait Hooks: Send + Sync {
    /// # Errors
    /// As the test wishes; the text becomes the step's failure.
    fn reached(&self, step: Step) -> Result<(), String>;
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn reached(&self, _step: Step) -> Result<(), String> {
        Ok(())
    }
}

/// The hooks as the drivers use them.
#[derive(Clone)]
pub(crate) struct Announcer(pub Arc<dyn Hooks>);

impl Announcer {
    pub(crate) fn reached(&self, step: Step) -> Result<(), Error> {
        tracing::debug!(?step, "done");
        self.0
            .reached(step)
            .map_err(Error::step("go on after a step"))
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Announcer")
    }
}
