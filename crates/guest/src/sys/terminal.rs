//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::pipes::above_standard;

/// Size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// A new terminal: our side and the program's side. The program's side belongs
/// to the user, so that programs which open it by name (tmux, gpg) can.
pub fn open(size: Size, owner: Option<(u32, Option<u32>)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = openpt(flags)?;
    unlockpt(&controller)?;
    let terminal = ioctl_tiocgptpeer(&controller, flags)?;
    resize(&controller, size)?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&terminal, Some(Uid::from_raw(uid)), gid.map(Gid::from_raw))?;
    }
    Ok((above_standard(controller)?, above_standard(terminal)?))
}

/// Tells the terminal, and so the program in it, a new size.
pub fn resize(controller: &OwnedFd, size: Size) -> io::Result<()> {
    let size = Winsize {
        ws_col: size.columns,
        ws_row: size.rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(controller, size)?)
}
