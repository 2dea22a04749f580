//! What guest code runs on: the processor through KVM, or software emulation (TCG).
//!
//! That `/dev/kvm` can be opened proves nothing: on a host that is itself emulated, a
//! guest's kernel mode may be interpreted instruction by instruction, or stop at an
//! instruction that the host does not know. So the choice is made by running code
//! ([`probe`]): the instructions that a kernel cannot do without, then a loop in ring 0
//! and one in ring 3 whose speed is measured.

pub(crate) mod kvm;

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The way guest code is executed on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation in QEMU: about ten times slower, but it runs anywhere.
    Tcg {
        /// Why KVM is not used.
        reason: String,
    },
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("kvm"),
            Self::Tcg { reason } => write!(f, "tcg ({reason})"),
        }
    }
}

/// Slowest execution that is still worth more than translation by QEMU, in instructions
/// per second. A processor does thousands of millions, QEMU's translation some hundred
/// million, an instruction-by-instruction emulation a few million.
const WORTHWHILE_PER_SECOND: f64 = 200e6;
/// How long the probe may take; slow execution needs the most of it.
const LIMIT: Duration = Duration::from_secs(5);

/// Decides by running guest code in this process. Blocks for some milliseconds where KVM
/// works, and for at most five seconds where it does not. Whether a jailed VM process may
/// do the same is for the engine to find out: [`crate::qemu::probe`].
#[must_use]
pub fn probe() -> Accelerator {
    let (sender, receiver) = mpsc::sync_channel(1);
    // A processor that never comes back from the guest holds this thread, not the caller.
    let started = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(move || {
            let _ = sender.send(kvm::run());
        });
    let outcome = match started {
        Ok(_) => receiver.recv_timeout(LIMIT).unwrap_or_else(|_| {
            Err(format!(
                "guest code under KVM did not come to an end within {} s",
                LIMIT.as_secs()
            ))
        }),
        Err(error) => Err(format!("the probe's thread does not start: {error}")),
    };
    match outcome {
        Ok(()) => Accelerator::Kvm,
        Err(reason) => Accelerator::Tcg { reason },
    }
}

/// Refuses a mode of the guest's processor that runs too slowly to be worth it.
fn fast_enough(mode: &str, per_second: f64) -> Result<(), String> {
    if per_second >= WORTHWHILE_PER_SECOND {
        return Ok(());
    }
    Err(format!(
        "KVM runs a guest's {mode} mode at only {:.1} million instructions a second",
        per_second / 1e6
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_execution_is_refused_with_its_speed() {
        assert_eq!(fast_enough("kernel", 2e9), Ok(()));
        let reason = fast_enough("kernel", 1.8e6).unwrap_err();
        assert!(
            reason.contains("kernel mode at only 1.8 million"),
            "{reason}"
        );
        assert!(fast_enough("user", f64::NAN).is_err());
    }

    #[test]
    fn the_probe_decides_here_and_says_why() {
        let found = probe();
        if let Accelerator::Tcg { reason } = &found {
            assert!(!reason.is_empty());
        }
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Accelerator>(&json).unwrap(), found);
    }
}
