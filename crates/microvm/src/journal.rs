//! Where the steps of a VM's start are written down.

use crate::Error;
use async_trait::async_trait;
use hearth_machine::MachineRecord;
use hearth_network::Slot;

/// Why a journal stops a start.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Is told of each step before the next begins. An error fails the step, which is then
/// undone. A second boot tells of the same steps again.
#[async_trait]
pub trait Journal: Send {
    /// The slot is held, nothing has been made for the VM yet: what the guest may reach
    /// is set here, and the slot written down.
    ///
    /// # Errors
    /// Whatever is to stop the start.
    async fn slot_held(&mut self, _slot: &Slot) -> Result<(), Cause> {
        Ok(())
    }

    /// The disk is served; the VM is to be started next.
    ///
    /// # Errors
    /// Whatever is to stop the start.
    async fn disk_served(&mut self) -> Result<(), Cause> {
        Ok(())
    }

    /// The VM process runs.
    ///
    /// # Errors
    /// Whatever is to stop the start.
    async fn launched(&mut self, _machine: &MachineRecord) -> Result<(), Cause> {
        Ok(())
    }

    /// The guest fell silent in early boot, or its VM ended; it is booted once more.
    fn boots_again(&mut self, failed: &Error) {
        tracing::warn!(error = %failed, "boot VM failed: booting it once more");
    }
}

/// Writes nothing down: for a VM that does not outlive whoever started it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

impl Journal for NoJournal {}
