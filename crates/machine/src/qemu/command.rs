//! QEMU's command line, as a pure function of what the VM is made of.
//!
//! A restored VM must have the very devices of the VM that was saved, in the same order,
//! so both come from this one function. What differs is only what no device state
//! depends on: how memory is mapped, the kernel, and where the console goes.

use std::os::fd::RawFd;
use std::path::Path;

use serde_json::json;

use crate::accelerator::Accelerator;
use crate::{MemoryMapping, VmShape};

/// Kernel parameters of every boot. A panic or a reboot ends the VM at once; there is no
/// legacy timer whose interrupt could be tested.
const KERNEL_PARAMETERS: &str = "console=ttyS0 reboot=t panic=-1 no_timer_check";
/// What a guest's kernel is told when its code is emulated. TCG looks translated code up by
/// its virtual address: with addresses drawn anew for every process, each `exec` translates
/// the same libraries again, which takes four times as long as running them (a login shell's
/// `echo hi`: 95 ms, without 24 ms). Mitigations guard against the speculation of a
/// processor that is not there. Neither has a part in what keeps the guest in its VM.
const EMULATED_PARAMETERS: &str = " norandmaps mitigations=off";
/// The processor of a guest on KVM: the host's own, with all that it can do.
pub(super) const HOST_CPU: &str = "host";
/// The processor of an emulated guest. TCG runs `rep movs` and `rep stos` byte by byte, and
/// kernels and C libraries choose them for every copy where the processor calls them fast
/// (ERMS, FSRM). Without the two flags copies use wide registers and are 2 to 10 times as
/// fast.
pub(super) const EMULATED_CPU: &str = "max,-erms,-fsrm";
/// QEMU's own filter of system calls.
pub(super) const SYSTEM_CALL_FILTER: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// Size of TCG's translation buffer in MiB; most of a TCG VM's private memory.
const TRANSLATION_BUFFER_MIB: u32 = 64;
/// How long a guest's disk requests wait for a disk server that went away, in seconds.
/// After that they fail, and the guest's file system with them.
const DISK_RECONNECT_S: u32 = 3600;

/// What the command line is made from. Descriptors are numbers that QEMU inherits.
#[derive(Debug)]
pub(super) struct CommandLine<'a> {
    pub(super) id: &'a str,
    /// QEMU's version.
    pub(super) version: &'a str,
    pub(super) accelerator: &'a Accelerator,
    pub(super) shape: VmShape,
    pub(super) memory: RawFd,
    pub(super) mapping: MemoryMapping,
    pub(super) disk: NbdExport<'a>,
    pub(super) network: Option<Network>,
    /// Listening socket of the monitor.
    pub(super) monitor: RawFd,
    /// Takes the guest's console; `None` discards it.
    pub(super) console: Option<RawFd>,
    pub(super) start: Start<'a>,
}

/// The disk: an NBD export on a unix socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct NbdExport<'a> {
    pub(super) socket: &'a Path,
    pub(super) export: &'a str,
}

/// The network interface: an open TAP device and the guest's hardware address.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) tap: RawFd,
    pub(super) mac: [u8; 6],
}

/// Where the VM's state comes from.
#[derive(Debug)]
pub(super) enum Start<'a> {
    /// A kernel and an initial RAM file system.
    Boot {
        kernel: RawFd,
        initramfs: RawFd,
        cmdline_extra: &'a str,
        /// Rate of the time-stamp counter, where the guest cannot learn it by itself.
        tsc_khz: Option<u64>,
    },
    /// A device state that is loaded through the monitor.
    Restore,
}

impl CommandLine<'_> {
    pub(super) fn build(&self) -> Vec<String> {
        let mut line = Line::default();
        self.machine(&mut line);
        self.devices(&mut line);
        self.start(&mut line);
        line.0
    }

    fn machine(&self, line: &mut Line) {
        // What the guest has no use for is left out: every device costs time at start.
        line.flags(["-nodefaults", "-no-user-config", "-no-reboot"]);
        // Stopped, so that the guest runs only when the caller says so.
        line.flags(["-S"]);
        line.option("-name", self.id);
        line.option("-display", "none");
        line.option(
            "-machine",
            "microvm,acpi=on,x-option-roms=off,pit=off,pic=off,rtc=off,\
             mem-merge=off,dump-guest-core=off,memory-backend=memory",
        );
        if let Some(firmware) = firmware(self.version) {
            line.option("-bios", firmware);
        }
        match self.accelerator {
            Accelerator::Kvm => {
                line.option("-accel", "kvm");
                line.option("-cpu", HOST_CPU);
            }
            Accelerator::Tcg { .. } => {
                line.option(
                    "-accel",
                    format!("tcg,thread=multi,tb-size={TRANSLATION_BUFFER_MIB}"),
                );
                line.option("-cpu", EMULATED_CPU);
            }
        }
        line.option("-smp", self.shape.vcpus.to_string());
        line.option("-m", format!("{}M", self.shape.memory_bytes >> 20));
        let share = match self.mapping {
            MemoryMapping::Shared => "on",
            MemoryMapping::Private | MemoryMapping::Own => "off",
        };
        line.option(
            "-object",
            format!(
                "memory-backend-file,id=memory,size={},mem-path={},share={share},merge=off,dump=off",
                self.shape.memory_bytes,
                inherited(self.memory),
            ),
        );
        line.option("-global", "virtio-mmio.force-legacy=false");
        line.option("-global", "migration.send-configuration=off");
        line.option("-sandbox", SYSTEM_CALL_FILTER);
        let [option, value] = end_of_set_up(self.version);
        line.option(option, value);
        line.option(
            "-chardev",
            format!("socket,id=monitor,fd={},server=on,wait=off", self.monitor),
        );
        line.option("-mon", "chardev=monitor,mode=control");
    }

    fn devices(&self, line: &mut Line) {
        let console = match self.console {
            Some(descriptor) => {
                format!("file,id=console,path={},append=on", inherited(descriptor))
            }
            None => "null,id=console".to_owned(),
        };
        line.option("-chardev", console);
        line.option("-serial", "chardev:console");
        let disk = json!({
            "driver": "nbd",
            "node-name": "disk",
            "server": { "type": "unix", "path": self.disk.socket },
            "export": self.disk.export,
            "reconnect-delay": DISK_RECONNECT_S,
            "discard": "unmap",
        });
        line.option("-blockdev", disk.to_string());
        // The guest learns of a full disk; by default QEMU would stop it for that.
        line.option(
            "-device",
            "virtio-blk-device,drive=disk,werror=report,rerror=report",
        );
        if let Some(Network {
            tap,
            mac: [a, b, c, d, e, f],
        }) = self.network
        {
            line.option("-netdev", format!("tap,id=network,fd={tap}"));
            line.option(
                "-device",
                format!(
                    "virtio-net-device,netdev=network,\
                     mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
                ),
            );
        }
        // Draws from getrandom(2): no file, and every VM gets bytes of its own.
        line.option("-object", "rng-builtin,id=entropy");
        line.option("-device", "virtio-rng-device,rng=entropy");
    }

    fn start(&self, line: &mut Line) {
        match &self.start {
            Start::Boot {
                kernel,
                initramfs,
                cmdline_extra,
                tsc_khz,
            } => {
                line.option("-kernel", inherited(*kernel));
                line.option("-initrd", inherited(*initramfs));
                let emulated = match self.accelerator {
                    Accelerator::Kvm => "",
                    Accelerator::Tcg { .. } => EMULATED_PARAMETERS,
                };
                let tsc = tsc_khz
                    .map(|khz| format!(" tsc_early_khz={khz} tsc=reliable"))
                    .unwrap_or_default();
                line.option(
                    "-append",
                    format!("{KERNEL_PARAMETERS}{emulated}{tsc} {cmdline_extra}"),
                );
            }
            Start::Restore => {
                line.option("-incoming", "defer");
            }
        }
    }
}

/// The option by which QEMU changes its root directory as the last step of its set-up; the
/// preloaded library installs our filters instead.
pub(super) fn end_of_set_up(version: &str) -> [&'static str; 2] {
    // Each of the two is unknown to the other versions, but for two years.
    if numbers(version) >= (8, 1) {
        ["-run-with", "chroot=/"]
    } else {
        ["-chroot", "/"]
    }
}

/// The firmware to start the kernel, where QEMU's choice does not: without option ROMs the
/// SeaBIOS that comes with QEMU 10 (Debian 13) never reaches it, qboot does. Older versions
/// keep theirs: a saved VM has its firmware in its memory, and is restored with the same.
fn firmware(version: &str) -> Option<&'static str> {
    (numbers(version) >= (10, 0)).then_some("qboot.rom")
}

/// Major and minor version; zeros for what has none.
fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Path of an inherited descriptor; the preloaded library makes opening it a `dup`.
pub(super) fn inherited(descriptor: RawFd) -> String {
    format!("/proc/self/fd/{descriptor}")
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn flags<const N: usize>(&mut self, flags: [&str; N]) {
        self.0.extend(flags.map(str::to_owned));
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_version() {
        for (version, set_up, bios) in [
            ("7.2.22", "-chroot", None),
            ("8.0.5", "-chroot", None),
            ("8.2.2", "-run-with", None),
            ("10.0.13", "-run-with", Some("qboot.rom")),
            ("11.1", "-run-with", Some("qboot.rom")),
            ("unknown", "-chroot", None),
        ] {
            assert_eq!(end_of_set_up(version)[0], set_up, "{version}");
            assert_eq!(firmware(version), bios, "{version}");
        }
    }
}
