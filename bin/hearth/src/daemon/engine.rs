//! Which engine runs sandboxes here, and what it needs of the host.

use super::guest_disks;
use crate::settings::{EngineChoice, NodeSettings, Settings};
use anyhow::Context;
use hearth_block::kernel::netlink;
use hearth_machine::{
    Console, Engine,
    accelerator::{self, Accelerator},
    firecracker::{self, FirecrackerConfig, FirecrackerEngine},
    qemu::{PROGRAM, QemuConfig, QemuEngine},
};
use std::{error::Error, fmt, path::Path, sync::Arc};

/// Where Firecracker's programs are published.
const RELEASES: &str = "https://github.com/firecracker-microvm/firecracker/releases";

/// What keeps an engine from this host, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What was found.
    pub what: String,
    /// What mends it.
    pub fix: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; to mend it: {}", self.what, self.fix)
    }
}

impl Error for Missing {}

/// What guests run on here under QEMU, found out by a VM process like a sandbox's. Its user
/// is none of theirs. Blocks.
pub fn accelerator() -> Accelerator {
    hearth_machine::qemu::probe(Path::new(PROGRAM), hearth_network::DEFAULT_UIDS.0 - 1)
}

/// The engine that the settings name, after finding out what guests can run on here.
///
/// # Errors
/// [`Missing`], or what QEMU says.
pub async fn start(settings: &Settings) -> anyhow::Result<Arc<dyn Engine>> {
    let node = settings.node.clone();
    tokio::task::spawn_blocking(move || match node.engine {
        EngineChoice::Firecracker => {
            let engine = firecracker(&node, std::env::var_os("PATH").as_deref());
            let engine = engine.context("start Firecracker, which node.engine asks for")?;
            guest_disks::keep_from_host();
            anyhow::Ok(Arc::new(engine) as Arc<dyn Engine>)
        }
        // A build belongs to the engine that saved it: no program that is installed later
        // is to make those unusable that are there.
        EngineChoice::Auto | EngineChoice::Qemu => {
            let mut config = QemuConfig::new(accelerator());
            config.restored_console = restored_console(&node);
            let engine = QemuEngine::new(config).context("start QEMU")?;
            anyhow::Ok(Arc::new(engine) as Arc<dyn Engine>)
        }
    })
    .await?
}

fn restored_console(node: &NodeSettings) -> Console {
    if node.keep_consoles {
        Console::File
    } else {
        Console::Null
    }
}

/// Firecracker, where this host has all that it needs. Blocks for up to some seconds.
///
/// # Errors
/// The first thing that is missing.
pub fn firecracker(
    node: &NodeSettings,
    path: Option<&std::ffi::OsStr>,
) -> Result<FirecrackerEngine, Missing> {
    let engine = firecracker_program(node, path)?;
    if let Accelerator::Tcg { reason } = accelerator::probe() {
        return Err(Missing {
            what: format!("Firecracker needs KVM: {reason}"),
            fix: "use a machine with hardware virtualisation (or nested virtualisation), load \
                  kvm_intel or kvm_amd, or set node.engine = \"qemu\", which emulates"
                .to_owned(),
        });
    }
    firecracker::check_device().map_err(|error| Missing {
        what: format!("Firecracker's jail has no access to KVM: {}", chain(&error)),
        fix: "groupadd -f -r kvm && chgrp kvm /dev/kvm && chmod 0660 /dev/kvm".to_owned(),
    })?;
    netlink::available().map_err(|error| Missing {
        what: format!(
            "Firecracker opens disks as block devices: {}",
            chain(&error)
        ),
        fix: "modprobe nbd, and name it in a file of /etc/modules-load.d".to_owned(),
    })?;
    Ok(engine)
}

/// Firecracker's program, of a version that Hearth knows to speak to.
///
/// # Errors
/// When there is none.
pub fn firecracker_program(
    node: &NodeSettings,
    path: Option<&std::ffi::OsStr>,
) -> Result<FirecrackerEngine, Missing> {
    let (major, minor) = firecracker::MINIMUM_VERSION;
    let fix = format!(
        "take version {major}.{minor} or later from {RELEASES}, install its program `firecracker` \
         in /usr/local/bin, or name it by node.firecracker"
    );
    let Some(program) = firecracker::find(node.firecracker.as_deref(), path) else {
        let what = "there is no program firecracker in PATH".to_owned();
        return Err(Missing { what, fix });
    };
    let config = FirecrackerConfig {
        program,
        restored_console: restored_console(node),
    };
    FirecrackerEngine::new(config).map_err(|error| Missing {
        what: format!("Firecracker is not usable: {}", chain(&error)),
        fix,
    })
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(says: &str) -> (tempfile::TempDir, NodeSettings) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("firecracker");
        std::fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        let node = NodeSettings {
            engine: EngineChoice::Firecracker,
            firecracker: Some(file),
            ..NodeSettings::default()
        };
        (dir, node)
    }

    #[test]
    fn a_missing_or_old_program_is_refused_with_what_to_do() {
        let none = firecracker_program(&NodeSettings::default(), None).unwrap_err();
        assert!(none.what.contains("no program firecracker"), "{none}");
        let (_dir, old) = program("Firecracker v1.7.0");
        let old = firecracker_program(&old, None).unwrap_err();
        assert!(old.what.contains("1.7.0 is too old"), "{old}");
        let gone = NodeSettings {
            firecracker: Some("/nonexistent/firecracker".into()),
            ..NodeSettings::default()
        };
        let gone = firecracker_program(&gone, None).unwrap_err();
        assert!(gone.what.contains("/nonexistent/firecracker"), "{gone}");
        for missing in [none, old, gone] {
            assert!(missing.to_string().contains(RELEASES), "{missing}");
            assert!(
                missing.to_string().contains("node.firecracker"),
                "{missing}"
            );
        }
    }

    #[test]
    fn what_the_host_lacks_is_said_and_mended() {
        let (dir, node) = program("Firecracker v1.12.0");
        let path = std::env::join_paths([dir.path()]).unwrap();
        let by_path = firecracker_program(&NodeSettings::default(), Some(&path)).unwrap();
        assert_eq!(by_path.capabilities().version, "1.12.0");
        match firecracker(&node, None) {
            Ok(engine) => assert_eq!(engine.capabilities().engine, firecracker::ENGINE),
            Err(missing) => {
                assert!(missing.what.starts_with("Firecracker"), "{missing}");
                assert!(!missing.fix.is_empty(), "{missing}");
            }
        }
    }

    #[tokio::test]
    async fn the_choice_of_firecracker_never_falls_back() {
        let (_dir, node) = program("something else");
        let settings = Settings {
            node,
            ..Settings::default()
        };
        let refused = start(&settings).await.err().unwrap();
        let refused = format!("{refused:#}");
        assert!(refused.contains("node.engine"), "{refused}");
        assert!(refused.contains("does not tell its version"), "{refused}");
    }
}
