//! Guests without hardware virtualisation: good for trying and testing, and no
//! boundary for hostile code.

use crate::settings::Settings;
use anyhow::bail;
use hearth_machine::{Engine, accelerator::Accelerator};
use std::path::PathBuf;

/// What everybody who runs guests under emulation is told.
pub const NOTICE: &str = "guests are emulated (QEMU's TCG), which is for trying and testing: \
    its makers do not promise that it keeps hostile code in; use a machine with /dev/kvm for \
    code that you do not trust";

/// Says it; refuses to serve other machines, unless the settings allow it.
pub fn check(settings: &Settings, engine: &dyn Engine) -> anyhow::Result<()> {
    let marker = marker(settings);
    if !matches!(engine.capabilities().accelerator, Accelerator::Tcg { .. }) {
        let _ = std::fs::remove_file(marker);
        return Ok(());
    }
    tracing::warn!("{NOTICE}");
    if let Err(error) = std::fs::write(&marker, NOTICE) {
        tracing::warn!(%error, path = %marker.display(), "the notice cannot be left for others");
    }
    if settings.listens_beyond_loopback() && !settings.node.allow_emulation {
        bail!("listening beyond loopback is refused: {NOTICE}; or set node.allow_emulation = true");
    }
    Ok(())
}

/// Says that the daemon of this run directory runs guests under emulation.
fn marker(settings: &Settings) -> PathBuf {
    settings.run_dir.join("emulation")
}

/// Whether the daemon that runs, or ran last, has emulated guests.
pub fn is_in_use(settings: &Settings) -> bool {
    marker(settings).exists()
}

/// The daemon is gone.
pub fn forget(settings: &Settings) {
    let _ = std::fs::remove_file(marker(settings));
}
