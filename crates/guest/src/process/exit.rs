//! How a process ended, in the words that clients know.

use hearth_guest_proto::process::process_event::EndEvent;

/// A process' end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    Code(i32),
    Signal { number: i32, core_dumped: bool },
}

impl Exit {
    /// Reads a status as `waitpid` gives it. `None` when it is not an end.
    pub fn from_status(status: rustix::process::WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Code(code));
        }
        let number = status.terminating_signal()?;
        // The bit that `WCOREDUMP` tests.
        Some(Self::Signal {
            number,
            core_dumped: status.as_raw() & 0x80 != 0,
        })
    }

    /// `exit status 1`, `signal: killed`.
    pub fn status(self) -> String {
        match self {
            Self::Code(code) => format!("exit status {code}"),
            Self::Signal {
                number,
                core_dumped,
            } => {
                let name = signal_name(number);
                let suffix = if core_dumped { " (core dumped)" } else { "" };
                match name {
                    Some(name) => format!("signal: {name}{suffix}"),
                    None => format!("signal: signal {number}{suffix}"),
                }
            }
        }
    }

    /// The event that ends a process' streams. A signalled process has exit
    /// code -1 and has not "exited".
    pub fn event(self) -> EndEvent {
        let (exit_code, exited) = match self {
            Self::Code(code) => (code, true),
            Self::Signal { .. } => (-1, false),
        };
        let status = self.status();
        let error = (self != Self::Code(0)).then(|| status.clone());
        EndEvent {
            exit_code,
            exited,
            status,
            error,
            ..Default::default()
        }
    }
}

fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_clients_expect() {
        let event = Exit::Code(0).event();
        assert_eq!(
            (event.exit_code, event.exited, event.error),
            (0, true, None)
        );
        assert_eq!(event.status, "exit status 0");
        let event = Exit::Code(3).event();
        assert_eq!(
            (event.exit_code, event.error.as_deref()),
            (3, Some("exit status 3"))
        );
        let event = Exit::Signal {
            number: 9,
            core_dumped: false,
        }
        .event();
        assert_eq!(
            (event.exit_code, event.exited, event.status.as_str()),
            (-1, false, "signal: killed")
        );
        assert_eq!(
            Exit::Signal {
                number: 11,
                core_dumped: true
            }
            .status(),
            "signal: segmentation fault (core dumped)"
        );
    }
}
