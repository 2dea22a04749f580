//! What guest code runs on: the processor through KVM, or software emulation (TCG).

use std::fmt;

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
