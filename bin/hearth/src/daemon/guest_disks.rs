//! What this host makes of the block devices that guests write to, beside VMs opening them.
//!
//! A guest says what its disk holds. Where the host looked for file systems and partitions on
//! it, a guest could have its disk pass for one of the host's: with the label or the UUID of
//! one that `/etc/fstab` names, for example.

use anyhow::Context;
use std::{fs, path::Path};

/// Where udev takes rules from that last until the next boot.
const RULES: &str = "/run/udev/rules.d";
/// Before `60-persistent-storage.rules`, which asks for the first of its settings.
const FILE: &str = "59-hearth.rules";
/// A device's `backend`, or that of the disk of a partition, is the name of its VM's control
/// group.
const RULE: &str = "\
# Made by hearth. What is on these disks is their guests', and gets no names on this host.
SUBSYSTEM==\"block\", KERNEL==\"nbd*\", ATTRS{backend}==\"hearth-*\", \
ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}=\"1\", ENV{UDISKS_IGNORE}=\"1\", \
ENV{SYSTEMD_READY}=\"0\"
";
/// How many partitions the kernel looks for on each of these devices.
const PARTITIONS: &str = "/sys/module/nbd/parameters/max_part";

/// Has udev and the kernel look for nothing on guests' disks, as far as that is the daemon's;
/// the rest is told. Blocks.
pub fn keep_from_host() {
    if Path::new("/run/udev").is_dir()
        && let Err(error) = write_rule(Path::new(RULES))
    {
        tracing::warn!(error = %format!("{error:#}"), "write the udev rule for guests' disks failed: udev looks for file systems on them");
    }
    if looks_for_partitions(Path::new(PARTITIONS)) {
        tracing::warn!(
            "the kernel looks for partitions on guests' disks: put `options nbd max_part=0` into a \
             file of /etc/modprobe.d, and load the module `nbd` anew"
        );
    }
}

/// udev reads its rules again by itself when one of their directories has changed.
fn write_rule(directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(FILE);
    if fs::read_to_string(&path).is_ok_and(|found| found == RULE) {
        return Ok(());
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let new = directory.join(format!("{FILE}.new"));
    fs::write(&new, RULE)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("write {}", path.display()))
}

fn looks_for_partitions(parameter: &Path) -> bool {
    fs::read_to_string(parameter).is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_written_once_and_in_place_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("rules.d");
        write_rule(&rules).unwrap();
        let path = rules.join(FILE);
        let written = || fs::metadata(&path).unwrap().modified().unwrap();
        let first = written();
        write_rule(&rules).unwrap();
        assert_eq!(written(), first);
        fs::write(&path, "# an older one\n").unwrap();
        write_rule(&rules).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), RULE);
        assert_eq!(fs::read_dir(&rules).unwrap().count(), 1);
        for line in RULE.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.contains("\"hearth-*\""),
                "other devices are left alone: {line}"
            );
        }
    }

    #[test]
    fn a_kernel_that_looks_for_partitions_is_told_from_one_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let parameter = dir.path().join("max_part");
        assert!(!looks_for_partitions(&parameter), "no module, no devices");
        fs::write(&parameter, "16\n").unwrap();
        assert!(looks_for_partitions(&parameter));
        fs::write(&parameter, "0\n").unwrap();
        assert!(!looks_for_partitions(&parameter));
    }
}
