//! By what clients learn that written data may be gone which was not on disk yet.

use std::sync::atomic::{AtomicU64, Ordering};

/// Changes with each boot of the host and each failure to write data to disk. A new
/// daemon on the same host loses nothing: what guests wrote is the host's, not its own.
#[derive(Debug)]
pub(crate) struct Losses {
    boot: u64,
    failures: AtomicU64,
}

impl Losses {
    /// Where the host's boot has no name, each daemon is taken for one.
    pub(crate) fn new() -> Self {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or_else(
                |_| Vec::new(),
                |since| since.as_nanos().to_be_bytes().to_vec(),
            )
        });
        let hash = blake3::hash(&boot);
        Self {
            boot: u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8])),
            failures: AtomicU64::new(0),
        }
    }

    pub(crate) fn note(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn verifier(&self) -> [u8; 8] {
        let failures = self.failures.load(Ordering::Relaxed);
        self.boot.wrapping_add(failures).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_changes_the_verifier_and_a_new_daemon_does_not() {
        let losses = Losses::new();
        let before = losses.verifier();
        assert_eq!(Losses::new().verifier(), before);
        losses.note();
        assert_ne!(losses.verifier(), before);
    }
}
