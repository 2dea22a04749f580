//! From a slot to an agent that listens, by a boot.

use crate::{AgentReady, BootLimits, Disk, Error, Failed, Journal, Kernel, SlotHeld};
use hearth_machine::Engine;
use std::{io, path::Path, sync::Arc};

/// What is booted.
#[derive(Debug, Clone)]
pub struct Boot {
    /// What the guest finds as its disk.
    pub disk: Disk,
    /// Kernel, shape and memory of the VM.
    pub guest: Kernel,
    /// Of the first attempt.
    pub limits: BootLimits,
}

/// Boots and waits for the agent. Rarely a guest hangs in early boot or resets itself,
/// which ends its VM, and the next one then comes up: where the console falls silent or
/// the VM ends, it is booted once more, upon the disk as it was before.
///
/// # Errors
/// The last attempt's. What was held is then only the slot.
pub async fn boot(
    held: SlotHeld,
    engine: &Arc<dyn Engine>,
    boot: &Boot,
    journal: &mut dyn Journal,
) -> Result<AgentReady, Box<Failed>> {
    let first = attempt(held, engine, boot, boot.limits, journal).await;
    let Err(failed) = first else {
        return first;
    };
    if !matches!(failed.error, Error::Silent { .. } | Error::Ended { .. }) {
        return Err(failed);
    }
    journal.boots_again(&failed.error);
    let mut held = failed.held;
    if let Err(error) = clear(&mut held, boot) {
        return Err(Box::new(Failed { error, held }));
    }
    attempt(held, engine, boot, boot.limits.without_retry(), journal).await
}

async fn attempt(
    held: SlotHeld,
    engine: &Arc<dyn Engine>,
    boot: &Boot,
    limits: BootLimits,
    journal: &mut dyn Journal,
) -> Result<AgentReady, Box<Failed>> {
    let served = held.serve(&boot.disk, journal).await?;
    let launched = served.boot(engine, &boot.guest, journal).await?;
    launched.booted(limits).await
}

/// Removes what the guest wrote that did not come up.
fn clear(held: &mut SlotHeld, boot: &Boot) -> Result<(), Error> {
    // A layer that was there before is somebody's: its file system has a journal.
    if let Some(layer) = held.take_spent_layer() {
        absent(std::fs::remove_dir_all(&layer), &layer)?;
    }
    let memory = &boot.guest.memory_file;
    absent(std::fs::remove_file(memory), memory)
}

fn absent(removed: io::Result<()>, path: &Path) -> Result<(), Error> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
