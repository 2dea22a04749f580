use super::command::{CommandLine, EMULATED_CPU, NbdExport, Network, Start};
use super::*;
use crate::{MemoryMapping, VmShape};

fn command_line(start: Start<'_>, accelerator: &Accelerator) -> Vec<String> {
    let disk = NbdExport {
        socket: Path::new("/run/a,b/nbd.sock"),
        export: "root",
    };
    CommandLine {
        id: "vm1",
        version: "7.2.22",
        accelerator,
        shape: VmShape {
            vcpus: 2,
            memory_bytes: 512 << 20,
        },
        memory: 11,
        mapping: MemoryMapping::Private,
        disk,
        network: Some(Network {
            tap: 12,
            mac: [2, 0xfc, 0, 0, 0, 5],
        }),
        monitor: 13,
        console: None,
        start,
    }
    .build()
}

#[test]
fn boot_and_restore_have_the_same_devices() {
    let tcg = Accelerator::Tcg {
        reason: "test".to_owned(),
    };
    let boot = Start::Boot {
        kernel: 20,
        initramfs: 21,
        cmdline_extra: "quiet",
        tsc_khz: Some(7),
    };
    let (boot, restore) = (command_line(boot, &tcg), command_line(Start::Restore, &tcg));
    let common = boot.len() - 6;
    assert_eq!(boot[..common], restore[..common]);
    assert_eq!(restore[common..], ["-incoming", "defer"]);
    assert_eq!(boot[common..common + 2], ["-kernel", "/proc/self/fd/20"]);
    assert!(
        boot.last()
            .is_some_and(|append| append.ends_with(" tsc_early_khz=7 tsc=reliable quiet"))
    );
}

#[test]
fn a_path_cannot_add_options() {
    let line = command_line(Start::Restore, &Accelerator::Kvm);
    let disk = line.iter().find(|part| part.starts_with('{')).unwrap();
    let disk: serde_json::Value = serde_json::from_str(disk).unwrap();
    assert_eq!(disk["server"]["path"], "/run/a,b/nbd.sock");
    assert!(
        line.iter()
            .any(|part| part.ends_with("mac=02:fc:00:00:00:05"))
    );
}

#[test]
fn what_helps_emulation_is_not_done_to_the_processor() {
    let boot = || Start::Boot {
        kernel: 20,
        initramfs: 21,
        cmdline_extra: "quiet",
        tsc_khz: None,
    };
    let tcg = Accelerator::Tcg {
        reason: "test".to_owned(),
    };
    let value = |line: &[String], option: &str| {
        let at = line.iter().position(|part| part == option).unwrap();
        line[at + 1].clone()
    };
    let (kvm, emulated) = (
        command_line(boot(), &Accelerator::Kvm),
        command_line(boot(), &tcg),
    );
    assert_eq!(value(&emulated, "-cpu"), EMULATED_CPU);
    assert_eq!(value(&kvm, "-cpu"), "host");
    assert_eq!(value(&kvm, "-accel"), "kvm");
    let parameters = value(&kvm, "-append");
    for not_for_kvm in ["mitigations", "norandmaps", "tsc"] {
        assert!(!parameters.contains(not_for_kvm), "{parameters}");
    }
    let restored = command_line(Start::Restore, &Accelerator::Kvm);
    assert_eq!(value(&restored, "-cpu"), "host");
}

#[test]
fn the_guest_waits_for_the_end_of_the_set_up() {
    let line = command_line(Start::Restore, &Accelerator::Kvm);
    assert!(line.contains(&"-S".to_owned()));
    assert!(line.windows(2).any(|pair| pair == ["-chroot", "/"]));
    let option = |version| super::command::end_of_set_up(version)[0];
    for old in ["6.2.0", "7.2.22", "8.0.5", "8"] {
        assert_eq!(option(old), "-chroot", "{old}");
    }
    for new in ["8.1.0", "8.2.2", "9.0.0-rc1", "10.0.3"] {
        assert_eq!(option(new), "-run-with", "{new}");
    }
}

#[test]
fn the_version_is_found() {
    let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
    assert_eq!(parse_version(text).as_deref(), Some("7.2.22"));
    assert_eq!(parse_version("version of nothing"), None);
    assert_eq!(parse_version(""), None);
}
