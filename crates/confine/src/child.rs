//! What the child does between fork and exec, in order.
//!
//! The daemon has many threads, so between fork and exec only async-signal-safe calls are
//! allowed: no allocation, no lock. Everything is therefore opened and computed before
//! ([`Steps`]), and each step here is one or two system calls.

#![expect(unsafe_code, reason = "pre_exec and close_range have no safe form")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use seccompiler::BpfProgram;

use crate::cgroup::Group;
use crate::{Confinement, Rlimits, landlock};

/// Everything that the child needs, opened and computed by the parent.
pub(crate) struct Steps {
    inherited: Vec<RawFd>,
    jail: Option<Jail>,
    filters: Vec<BpfProgram>,
}

struct Jail {
    group: Group,
    netns: Option<File>,
    landlock: Option<OwnedFd>,
    /// Whether it is in namespaces of its own, and lacks a `/proc`.
    own_namespaces: bool,
    uid: Uid,
    gid: Gid,
    rlimits: Rlimits,
    oom_score_adj: Option<String>,
}

impl Steps {
    pub(crate) fn unconfined(inherited: Vec<RawFd>) -> Self {
        Self {
            inherited,
            jail: None,
            filters: Vec::new(),
        }
    }

    pub(crate) fn confined(
        inherited: Vec<RawFd>,
        confinement: &Confinement,
        group: Group,
        netns: Option<File>,
        landlock: Option<OwnedFd>,
    ) -> Self {
        let jail = Jail {
            group,
            netns,
            landlock,
            own_namespaces: confinement.visible.is_some(),
            uid: Uid::from_raw(confinement.uid),
            gid: Gid::from_raw(confinement.gid),
            rlimits: confinement.rlimits.clone(),
            oom_score_adj: confinement.oom_score_adj.map(|score| score.to_string()),
        };
        Self {
            inherited,
            jail: Some(jail),
            filters: Vec::new(),
        }
    }

    /// Takes the control group away, to be joined by other means.
    pub(crate) fn take_group(&mut self) -> Option<Group> {
        self.jail
            .as_mut()
            .map(|jail| std::mem::take(&mut jail.group))
    }

    /// Has the child install filters of system calls as its last step.
    pub(crate) fn filter(&mut self, filters: Vec<BpfProgram>) {
        self.filters = filters;
    }

    fn run(&self) -> io::Result<()> {
        if let Some(jail) = &self.jail {
            jail.enter()?;
        }
        named("start a session", nix::unistd::setsid().map(drop))?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
        if let Some(jail) = &self.jail {
            jail.drop_identity()?;
        }
        named("close descriptors", self.close_others())?;
        for filter in &self.filters {
            // Two system calls and no allocation.
            let installed = seccompiler::apply_filter(filter);
            named(
                "filter system calls",
                installed.map_err(|_| nix::Error::last()),
            )?;
        }
        Ok(())
    }

    /// Marks every descriptor from 3 on to be closed by exec, except the inherited ones.
    /// (They are not closed here: one of them is how a failure reaches the parent.)
    fn close_others(&self) -> nix::Result<()> {
        let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        // SAFETY: only sets a flag of this process's own descriptor table.
        let result = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
        nix::errno::Errno::result(result)?;
        for descriptor in &self.inherited {
            // SAFETY: the parent holds these open across the fork, and the child has no
            // other thread that could close them.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())
                .map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error()))?;
        }
        Ok(())
    }
}

impl Jail {
    /// The steps that need the daemon's privileges.
    fn enter(&self) -> io::Result<()> {
        for (_, procs) in &self.group.procs {
            named(
                "join the control group",
                nix::unistd::write(procs, b"0\n").map(drop),
            )?;
        }
        if self.own_namespaces {
            named("mount /proc", mount_proc())?;
        }
        if let Some(netns) = &self.netns {
            named(
                "join the network namespace",
                nix::sched::setns(netns.as_fd(), CloneFlags::CLONE_NEWNET),
            )?;
        }
        let limits = [
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_NOFILE, self.rlimits.open_files),
            (Resource::RLIMIT_MEMLOCK, self.rlimits.locked_memory_bytes),
            (Resource::RLIMIT_NPROC, self.rlimits.threads),
            (Resource::RLIMIT_FSIZE, self.rlimits.file_bytes),
            (Resource::RLIMIT_MSGQUEUE, 0),
        ];
        for (resource, limit) in limits {
            named("set a resource limit", setrlimit(resource, limit, limit))?;
        }
        if let Some(score) = &self.oom_score_adj {
            let path = c"/proc/self/oom_score_adj";
            let written = nix::fcntl::open(path, OFlag::O_WRONLY, Mode::empty())
                .and_then(|file| nix::unistd::write(file, score.as_bytes()));
            named("set the OOM score", written.map(drop))?;
        }
        if self.own_namespaces {
            named("lock /proc", lock_proc())?;
        }
        Ok(())
    }

    /// Groups and bounding set before user, because a plain user cannot change them; the
    /// locks last.
    fn drop_identity(&self) -> io::Result<()> {
        named("drop the bounding set", drop_bounding_set())?;
        named("drop supplementary groups", nix::unistd::setgroups(&[]))?;
        named(
            "change group",
            nix::unistd::setresgid(self.gid, self.gid, self.gid),
        )?;
        named(
            "change user",
            nix::unistd::setresuid(self.uid, self.uid, self.uid),
        )?;
        named("make a session keyring", join_new_keyring())?;
        named("forbid new privileges", nix::sys::prctl::set_no_new_privs())?;
        if let Some(rules) = &self.landlock {
            named(
                "restrict file access",
                landlock::restrict_self(rules.as_fd()),
            )?;
        }
        Ok(())
    }
}

/// Only processes, and of these only its own: the process sees no others anyway.
const PROC_OPTIONS: &CStr = c"subset=pid,hidepid=2";

fn mount_proc() -> nix::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (name, target) = (c"proc".as_ptr(), c"/proc".as_ptr());
    // SAFETY: constant strings. (nix's `mount` may allocate.)
    let result = unsafe { libc::mount(name, target, name, flags, PROC_OPTIONS.as_ptr().cast()) };
    nix::errno::Errno::result(result).map(drop)
}

fn lock_proc() -> nix::Result<()> {
    let flags = libc::MS_REMOUNT
        | libc::MS_BIND
        | libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC;
    let (none, nothing) = (ptr::null(), ptr::null());
    // SAFETY: a constant string, and what a remount does not read.
    let result = unsafe { libc::mount(none, c"/proc".as_ptr(), none, flags, nothing) };
    nix::errno::Errno::result(result).map(drop)
}

/// Takes every capability that the kernel knows out of the bounding set.
fn drop_bounding_set() -> nix::Result<()> {
    for capability in 0..64_u64 {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match nix::errno::Errno::result(result) {
            Ok(_) => {}
            // The first one that it does not know.
            Err(nix::Error::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Leaves the daemon's session keyring for a new one. A kernel without keys has none, and
/// where a container's filter refuses the call, that holds for the process as well.
fn join_new_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    let anonymous = ptr::null::<libc::c_char>();
    // SAFETY: no name is read.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::Error::ENOSYS | nix::Error::EPERM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes `command` run `steps` in its child before the program.
pub(crate) fn install(command: &mut Command, steps: Steps) {
    // SAFETY: `Steps::run` only makes system calls on data prepared beforehand: it does not
    // allocate, lock or touch other threads' state.
    unsafe { command.pre_exec(move || steps.run()) };
}

/// Names a failed step on standard error, because only a bare errno reaches the parent.
fn named(step: &'static str, result: nix::Result<()>) -> io::Result<()> {
    result.map_err(|errno| {
        for part in ["hearth-confine: cannot ", step, "\n"] {
            // SAFETY: descriptor 2 is open; `Command` set it up before this runs.
            let stderr = unsafe { BorrowedFd::borrow_raw(2) };
            let _ = nix::unistd::write(stderr, part.as_bytes());
        }
        io::Error::from_raw_os_error(errno as i32)
    })
}
