//! Acting on files as a user.
//!
//! Linux checks file access against a thread's file-system ids. A guard sets
//! them and the supplementary groups of the calling thread and puts root's back
//! when dropped, also when the operation panics. Leaving uid 0 also takes away
//! the capabilities that override file permissions; coming back restores them.
//!
//! Only for threads that do nothing else meanwhile: the blocking pool's.

#![expect(
    unsafe_code,
    reason = "per-thread file-system ids have no safe wrapper"
)]

use std::io;
use std::marker::PhantomData;

/// While it lives, the thread's file operations are the user's.
#[derive(Debug)]
pub struct ActingAs {
    changed: bool,
    /// The guard must be dropped on the thread that it changed.
    _not_send: PhantomData<*const ()>,
}

impl ActingAs {
    /// Becomes the user. Does nothing for root itself, and nothing when the
    /// agent is not root (then it can only ever act as who it is).
    pub fn user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        if uid == 0 || !is_root {
            return Ok(Self {
                changed: false,
                _not_send: PhantomData,
            });
        }
        let guard = Self {
            changed: true,
            _not_send: PhantomData,
        };
        set_groups(groups)?;
        set_file_system_id(libc::SYS_setfsgid, gid)?;
        set_file_system_id(libc::SYS_setfsuid, uid)?;
        Ok(guard)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        if !self.changed {
            return;
        }
        let restored = set_file_system_id(libc::SYS_setfsuid, 0)
            .and_then(|()| set_file_system_id(libc::SYS_setfsgid, 0))
            .and_then(|()| set_groups(&[]));
        if restored.is_err() {
            // A thread that stays a user would fail later work in odd ways;
            // root can always go back, so this is our own error.
            std::process::abort();
        }
    }
}

/// The system call itself: libc's `setgroups` changes every thread.
fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe one live slice.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// These calls report no error; asking again tells whether it worked.
fn set_file_system_id(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: both calls take one integer. An invalid id changes nothing and
    // returns the present one.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if now == libc::c_long::from(id) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}
