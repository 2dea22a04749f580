//! A template may bring an init system of its own (systemd, say). Then that is
//! PID 1 and the agent its child:
//!
//! ```text
//!  stage two: mounts, network ─┬─ starts ─▶ the agent, beside
//!                              └─ execs ──▶ the template's init, as PID 1
//! ```
//!
//! A template asks for it with a file that holds the program's path. What the agent
//! does is the same in both cases, but for orphans: waiting for them is PID 1's
//! duty.

use std::ffi::CString;
use std::io;
use std::path::Path;

use super::initramfs::{AGENT_PATH, STAGE_TWO_ARGUMENT};
use crate::sys::spawn::{Program, Stdio, spawn};
use crate::sys::{exec, pipes};

/// Holds the path of the init program, on its first line.
pub const REQUEST: &str = "/etc/hearth/init";
/// Tells the binary that another program is PID 1.
pub const ARGUMENT: &str = "--beside-init";

/// The init program that the template wants, if it is there.
pub fn requested() -> Option<String> {
    let text = std::fs::read_to_string(REQUEST).ok()?;
    let path = text.lines().next()?.trim();
    let wanted = path.starts_with('/') && Path::new(path).exists();
    if !wanted {
        tracing::error!(
            path,
            "start the template's init failed: it does not exist; the agent stays PID 1"
        );
    }
    wanted.then(|| path.to_owned())
}

/// Starts the agent beside, then becomes the template's init. Returns only when one
/// of them fails; the agent may then be there already and must be PID 1's child.
pub fn run(init: &str) -> io::Result<std::convert::Infallible> {
    let init = CString::new(init)?;
    let console = || -> io::Result<_> {
        let console = std::fs::File::options().write(true).open("/dev/console")?;
        pipes::above_standard(console.into())
    };
    let environment = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        c"HOME=/root".to_owned(),
    ];
    let program = Program {
        candidates: vec![CString::new(AGENT_PATH)?],
        argv: vec![
            c"envd".to_owned(),
            CString::new(STAGE_TWO_ARGUMENT)?,
            CString::new(ARGUMENT)?,
        ],
        envp: environment.to_vec(),
        cwd: c"/".to_owned(),
        identity: None,
        stdio: Stdio {
            stdin: pipes::null()?,
            stdout: console()?,
            stderr: console()?,
        },
        terminal: false,
        cgroup: None,
        // As the agent has it when it is PID 1.
        oom_score_adjust: -1000,
        niceness: 0,
    };
    spawn(&program).map_err(io::Error::other)?;
    drop(program);
    let environment: Vec<_> = environment.iter().map(CString::as_c_str).collect();
    Err(exec::replace(&init, &[&init], &environment))
}
