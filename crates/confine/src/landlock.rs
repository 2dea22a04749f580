//! The Landlock rule set: files, TCP, signals and abstract sockets.
//!
//! A confined program may use the listed files only, open no TCP connection or listener
//! of its own (its guest's traffic goes through a TAP descriptor and is not concerned),
//! and signal or reach by abstract socket nobody outside. Older kernels enforce the part
//! that they know; one without Landlock enforces nothing here, and the user's rights and
//! the other fences remain.

#![expect(
    unsafe_code,
    reason = "landlock_restrict_self has no wrapper that is safe after fork"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use crate::{Error, FileAccess};

/// The newest interface version whose rights are asked for.
const VERSION: ABI = ABI::V6;

/// Makes the rule set in the parent; `None` on a kernel without Landlock.
pub(crate) fn rule_set(files: &FileAccess) -> Result<Option<OwnedFd>, Error> {
    build(files).map_err(|error| Error::Landlock(io::Error::other(error)))
}

fn build(files: &FileAccess) -> Result<Option<OwnedFd>, RulesetError> {
    let read = AccessFs::from_read(VERSION);
    // Device nodes such as /dev/kvm are driven by ioctl.
    let write = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?
        .add_rules(path_beneath_rules(&files.read, read))?
        .add_rules(path_beneath_rules(&files.write, write))?;
    Ok(rules.into())
}

/// Applies the rule set to the calling thread; needs `no_new_privs`. Async-signal-safe.
pub(crate) fn restrict_self(rules: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: takes a descriptor and flags, and touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    nix::errno::Errno::result(result).map(drop)
}
