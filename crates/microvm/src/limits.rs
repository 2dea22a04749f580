//! What VMs are allowed beyond their guests' memory, and how long they may take.

use std::time::Duration;

/// What the process of a restored VM may take beyond its guest's memory, in bytes:
/// QEMU, its translation buffers, and page tables.
pub const RESTORE_OVERHEAD_BYTES: u64 = 192 << 20;
/// The same where a kernel boots: far more code is translated.
pub const BOOT_OVERHEAD_BYTES: u64 = 512 << 20;
/// How long the agent may take for a short answer once it listens.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How long a boot may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootLimits {
    /// From the kernel's start to an agent that listens.
    pub ready: Duration,
    /// Between two lines on the console; absent where it is not booted once more.
    pub silence: Option<Duration>,
}

impl BootLimits {
    /// Of sandboxes, whose callers wait for them.
    pub const SANDBOX: Self = Self {
        ready: Duration::from_secs(120),
        // A second boot has to fit into what the control plane waits for a start.
        silence: Some(Duration::from_secs(30)),
    };

    /// Of builds. Kernel and agent write a line every few seconds even where they are
    /// emulated on a busy host, which may take minutes for a whole boot.
    pub const BUILD: Self = Self {
        ready: Duration::from_secs(300),
        silence: Some(Duration::from_secs(45)),
    };

    /// Of the last attempt: it has all the time that there is.
    #[must_use]
    pub fn without_retry(self) -> Self {
        Self {
            silence: None,
            ..self
        }
    }
}
