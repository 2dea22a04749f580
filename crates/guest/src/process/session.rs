//! All processes of a session.
//!
//! Every command and every terminal starts as the leader of a session of its own. What
//! it starts stays in that session whatever process groups a shell makes for its jobs,
//! until a process makes a session for itself (`setsid`, daemons). So the session is
//! what a signal means, and what a terminal leaves behind.
//!
//! The kernel signals groups, not sessions; the others are found in `/proc`. A number
//! that is read there may name another process a moment later: each is held by a
//! descriptor and looked at once more before it is signalled.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal, test_kill_process,
};

/// How often the session is looked through. Each time finds what was started meanwhile;
/// what starts processes faster than this is left to the sandbox's end.
const MAX_ROUNDS: usize = 16;

/// What `/proc` says about one process.
struct Member {
    pid: Pid,
    group: i32,
    session: i32,
    state: u8,
}

/// Signals every process of the session; stopped ones go on, so that they take notice.
pub fn signal(leader: Pid, signal: Signal) -> io::Result<()> {
    match kill_process_group(leader, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let mut known = HashSet::new();
    for _ in 0..MAX_ROUNDS {
        let mut found = false;
        for member in members(leader)? {
            if known.insert(member.pid) {
                found = true;
                deliver(leader, &member, signal)?;
            }
        }
        if !found {
            break;
        }
    }
    Ok(())
}

/// Whether the session's number still means it, once its leader was waited for. No new
/// process gets the number while there are members; a process of that pid therefore
/// says that all are gone.
pub fn is_left_by(leader: Pid) -> bool {
    test_kill_process(leader) == Err(Errno::SRCH)
}

fn deliver(leader: Pid, member: &Member, signal: Signal) -> io::Result<()> {
    let pidfd = match pidfd_open(member.pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let session = leader.as_raw_nonzero().get();
    let still = read(member.pid).filter(|member| member.session == session);
    let Some(still) = still else {
        return Ok(());
    };
    // The leader's group has it already.
    if member.group != session {
        ignore_gone(pidfd_send_signal(&pidfd, signal))?;
    }
    if still.state == b'T' {
        ignore_gone(pidfd_send_signal(&pidfd, Signal::CONT))?;
    }
    Ok(())
}

fn ignore_gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The living processes of a session.
fn members(leader: Pid) -> io::Result<Vec<Member>> {
    let session = leader.as_raw_nonzero().get();
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        members.extend(read(pid).filter(|member| member.session == session));
    }
    Ok(members)
}

/// `None` for what is gone, or waits only to be waited for.
fn read(pid: Pid) -> Option<Member> {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse(pid, &stat).filter(|member| !matches!(member.state, b'Z' | b'X'))
}

/// `pid (name) state ppid group session …`; the name may hold anything.
fn parse(pid: Pid, stat: &[u8]) -> Option<Member> {
    let name_end = memchr::memrchr(b')', stat)?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let mut numbers = fields.skip(1).map(str::parse);
    Some(Member {
        pid,
        state,
        group: numbers.next()?.ok()?,
        session: numbers.next()?.ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let pid = Pid::from_raw(7).unwrap();
        let member = parse(pid, b"7 (a) S 1 2 3 (\xff\n) T 4 5 6 0 -1\n").unwrap();
        assert_eq!((member.state, member.group, member.session), (b'T', 5, 6));
        assert!(parse(pid, b"7 (a) S 1 2").is_none());
        assert!(parse(pid, b"").is_none());
    }

    #[test]
    fn one_finds_oneself() {
        let me = rustix::process::getpid();
        let session = rustix::process::getsid(None).unwrap();
        assert!(
            members(session)
                .unwrap()
                .iter()
                .any(|member| member.pid == me)
        );
    }
}
