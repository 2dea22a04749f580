//! Guests without hardware virtualisation: good for trying and testing, and no
//! boundary for hostile code.

use crate::settings::Settings;
use anyhow::bail;
use hearth_machine::accelerator::Accelerator;

/// What everybody who runs guests under emulation is told.
pub const NOTICE: &str = "guests are emulated (QEMU's TCG), which is for trying and testing: \
    its makers do not promise that it keeps hostile code in; use a machine with /dev/kvm for \
    code that you do not trust";

/// Says it; refuses to serve other machines, unless the settings allow it.
pub fn check(settings: &Settings, accelerator: &Accelerator) -> anyhow::Result<()> {
    let marker = settings.emulation_file();
    if !matches!(accelerator, Accelerator::Tcg { .. }) {
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

/// Whether the daemon that runs, or ran last, has emulated guests.
pub fn is_in_use(settings: &Settings) -> bool {
    settings.emulation_file().exists()
}

/// The daemon is gone.
pub fn forget(settings: &Settings) {
    let _ = std::fs::remove_file(settings.emulation_file());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulated_guests_are_for_this_machine_unless_allowed_otherwise() {
        let home = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            run_dir: home.path().to_owned(),
            ..Settings::default()
        };
        let emulated = Accelerator::Tcg {
            reason: "no /dev/kvm".to_owned(),
        };
        check(&settings, &emulated).expect("listens on loopback alone");
        assert!(is_in_use(&settings));

        settings.api.address = [0, 0, 0, 0].into();
        let refused = check(&settings, &emulated).unwrap_err().to_string();
        assert!(refused.contains("node.allow_emulation"), "{refused}");
        settings.node.allow_emulation = true;
        check(&settings, &emulated).expect("the operator wants it");

        settings.node.allow_emulation = false;
        check(&settings, &Accelerator::Kvm).expect("a boundary");
        assert!(!is_in_use(&settings), "the notice is gone");
    }
}
