//! Whether a jailed QEMU can run a guest through KVM: tried, not concluded.
//!
//! What root can do with `/dev/kvm` says nothing about a VM process, which runs as a user
//! of its own, behind Landlock and QEMU's filter of system calls, and not every processor
//! that KVM accepts is one that QEMU can set up. So QEMU is started as it is for a sandbox
//! (jail, preloaded library, handed-over device, `-cpu host`), with a firmware of three
//! instructions that ends it with a status of our choice. Only that status counts.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use hearth_confine::{Confinement, Program, Spawned};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::{command, filter, jail, preload};
use crate::VmShape;
use crate::accelerator::{self, Accelerator, kvm};

/// The firmware's size: the least that QEMU takes.
const FIRMWARE_BYTES: usize = 64 << 10;
/// Where a processor begins.
const RESET: usize = FIRMWARE_BYTES - 16;
/// `mov al, 42`; `out 0xf4, al`, which ends QEMU; `hlt`; `jmp` to itself.
const CODE: [u8; 7] = [0xb0, 42, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
/// What QEMU makes of 42 as the status it ends with.
const STATUS: i32 = 42 << 1 | 1;
/// How long QEMU may take: it needs 100 ms, and far longer on a busy host, which must not
/// be taken for one without KVM.
const LIMIT: Duration = Duration::from_secs(60);
/// How much of what QEMU said is told.
const WORDS: usize = 500;

/// What guests can run on here, decided by what `program` can do when it is held as a VM
/// process is, as the user and group `uid`. Without root nothing can be held, and only this
/// process's own abilities are tried. Blocks for some 100 ms where KVM works.
#[must_use]
pub fn probe(program: &Path, uid: u32) -> Accelerator {
    let found = accelerator::probe();
    if found != Accelerator::Kvm || !rustix::process::geteuid().is_root() {
        return found;
    }
    let jail = Confinement {
        uid,
        gid: uid,
        ..Confinement::default()
    };
    let device = match kvm::open() {
        Ok(device) => device,
        Err(error) => {
            let reason = format!("{} cannot be opened: {error}", kvm::DEVICE);
            return Accelerator::Tcg { reason };
        }
    };
    let tried = Subject::new(program, Accelerator::Kvm).and_then(|it| it.run(device, &jail));
    match tried {
        Ok(()) => found,
        Err(why) => Accelerator::Tcg {
            reason: format!("KVM works for root, but not for a jailed QEMU: {why}"),
        },
    }
}

/// What is tried.
struct Subject<'a> {
    program: &'a Path,
    version: String,
    accelerator: Accelerator,
}

impl<'a> Subject<'a> {
    fn new(program: &'a Path, accelerator: Accelerator) -> Result<Self, String> {
        Ok(Self {
            program,
            version: super::version(program)?,
            accelerator,
        })
    }

    /// Runs the firmware in a jailed QEMU to which `device` is `/dev/kvm`.
    fn run(&self, device: OwnedFd, confinement: &Confinement) -> Result<(), String> {
        let mut firmware = vec![0; FIRMWARE_BYTES];
        firmware[RESET..RESET + CODE.len()].copy_from_slice(&CODE);
        let nothing = |error| format!("no anonymous file: {error}");
        let firmware = preload::sealed("hearth-firmware", &firmware).map_err(nothing)?;
        let said = rustix::fs::memfd_create("hearth-trial", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| nothing(error.into()))?;
        let said = File::from(said);
        let library = preload::create().map_err(nothing)?;
        let (filters, length) = filter::table(&self.accelerator).map_err(nothing)?;
        let stderr = said
            .try_clone()
            .map_err(|error| format!("no descriptor: {error}"))?;
        let shape = VmShape {
            vcpus: 1,
            memory_bytes: 16 << 20,
        };
        let limits = jail::Limits::detect();
        let confinement = jail::complete(confinement, limits, shape, self.program, &[], &[]);
        let spawned = Program::new(self.program)
            .arguments(self.arguments(&firmware))
            .environment("LD_PRELOAD", command::inherited(library.as_raw_fd()))
            .environment(preload::KVM, device.as_raw_fd().to_string())
            .environment(
                preload::FILTERS,
                format!("{}:{length}", filters.as_raw_fd()),
            )
            .inherit([firmware, library, device, filters])
            .filter(filter::start_up().map_err(|error| format!("no filter: {error}"))?)
            .stderr(stderr)
            .spawn(Some(&confinement))
            .map_err(|error| format!("{error}: {}", words(&said)))?;
        match wait(&spawned)? {
            Some(status) if status.exit_status() == Some(STATUS) => Ok(()),
            Some(status) if status.terminating_signal() == Some(libc::SIGSYS) => Err(format!(
                "it made a system call that its filter does not allow (the kernel's log has its number): {}",
                words(&said)
            )),
            Some(_) => Err(words(&said)),
            None => Err(format!(
                "it did not come to an end within {} s: {}",
                LIMIT.as_secs(),
                words(&said)
            )),
        }
    }

    fn arguments(&self, firmware: &OwnedFd) -> Vec<String> {
        let firmware = command::inherited(firmware.as_raw_fd());
        let fixed = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "microvm,x-option-roms=off,pit=off,pic=off,rtc=off",
            "-m",
            "16M",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
            "-sandbox",
            command::SYSTEM_CALL_FILTER,
            "-bios",
            &firmware,
        ];
        let processor = match self.accelerator {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg { .. } => ["-accel", "tcg,tb-size=4", "-cpu", "max"],
        };
        fixed
            .iter()
            .chain(&processor)
            .chain(&command::end_of_set_up(&self.version))
            .map(|&part| part.to_owned())
            .collect()
    }
}

/// How the process ended; `None` when it had to be killed.
fn wait(spawned: &Spawned) -> Result<Option<WaitIdStatus>, String> {
    let failed = |error| format!("waiting for it failed: {error}");
    let limit = Timespec {
        tv_sec: i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut poll = [PollFd::new(&spawned.pidfd, PollFlags::IN)];
    let ended = loop {
        match rustix::event::poll(&mut poll, Some(&limit)) {
            Ok(count) => break count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    };
    if !ended {
        rustix::process::pidfd_send_signal(&spawned.pidfd, Signal::KILL).map_err(failed)?;
    }
    let id = WaitId::PidFd(spawned.pidfd.as_fd());
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).map_err(failed)?;
    Ok(status.filter(|_| ended))
}

/// What QEMU said, in one line.
fn words(mut said: &File) -> String {
    let mut text = Vec::new();
    let read = said
        .rewind()
        .and_then(|()| said.take(64 << 10).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match read {
        Ok(_) if lines.is_empty() => "it ended without a word".to_owned(),
        Ok(_) => lines.join(" | ").chars().take(WORDS).collect(),
        Err(error) => format!("what it said cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::PROGRAM;

    /// `None` when tests that need root are switched off.
    fn jail() -> Option<Confinement> {
        if std::env::var_os("HEARTH_SKIP_VM_TESTS").is_some_and(|value| value == "1") {
            println!("skipped: HEARTH_SKIP_VM_TESTS is set");
            return None;
        }
        assert!(
            rustix::process::geteuid().is_root(),
            "run as root, or set HEARTH_SKIP_VM_TESTS=1"
        );
        Some(Confinement {
            uid: 64_324,
            gid: 64_324,
            ..Confinement::default()
        })
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_firmware_runs_in_a_jail() {
        let Some(jail) = jail() else { return };
        let emulated = Accelerator::Tcg {
            reason: "the tests run anywhere".to_owned(),
        };
        let subject = Subject::new(Path::new(PROGRAM), emulated).unwrap();
        assert_eq!(subject.run(null(), &jail), Ok(()));
    }

    #[test]
    fn what_the_jailed_qemu_says_is_the_reason() {
        let Some(jail) = jail() else { return };
        // The device that is handed over is the one that QEMU uses, whatever the jail may
        // open: this one knows no question of KVM's.
        let mut subject = Subject::new(Path::new(PROGRAM), Accelerator::Kvm).unwrap();
        let why = subject.run(null(), &jail).unwrap_err();
        assert!(why.contains("failed to initialize kvm"), "{why}");
        assert!(!why.contains("ermission denied"), "{why}");
        subject.program = Path::new("/bin/true");
        let why = subject.run(null(), &jail).unwrap_err();
        assert_eq!(why, "it ended without a word");
    }
}
