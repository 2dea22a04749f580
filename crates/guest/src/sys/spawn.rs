//! Starting a program as a user, in one system call pair.
//!
//! The child is made with `CLONE_VM | CLONE_VFORK`, as `posix_spawn` does: no
//! page tables are copied and the calling thread sleeps until the child has
//! replaced itself. In between, the child sets all that a program inherits
//! (session, cgroup, OOM score, niceness, limits, standard streams, terminal,
//! ids, directory), which neither `posix_spawn` nor a shell wrapper can do
//! without a second program.
//!
//! Until its `execve` the child shares our memory. So it may not allocate,
//! lock, or call a libc function that synchronises threads (`setuid` does);
//! everything it needs is prepared before, and it talks to the kernel through
//! plain system calls only. It reports a failure by writing to shared memory
//! before it exits.

#![expect(
    unsafe_code,
    reason = "vfork-like process creation has no safe wrapper"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Everything a new process starts with.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths to try in order, as a shell does with `PATH`.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// An absolute path. Must be enterable by the user.
    pub cwd: CString,
    /// `None` keeps the agent's own identity (only when it is not root).
    pub identity: Option<Identity>,
    pub stdio: Stdio,
    /// Standard input is a terminal that becomes the controlling one.
    pub terminal: bool,
    /// An open `cgroup.procs` file.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Written to `oom_score_adj`: -1000 (never killed) to 1000 (first).
    pub oom_score_adjust: i16,
    /// Niceness: -20 (most processor time) to 19 (least).
    pub niceness: i32,
}

/// User and group ids of a new process.
#[derive(Clone, Debug)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The child's ends of its standard streams. All descriptors are above 2 and
/// close on exec, which [`super::pipes`] sees to.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A step that failed before the program could start.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SpawnError {
    pub step: &'static str,
    pub source: std::io::Error,
}

const STACK_BYTES: usize = 64 * 1024;

/// Steps of the child, in the numbering of [`Report::step`].
const STEPS: [&str; 8] = [
    "join the cgroup",
    "start a session",
    "redirect a standard stream",
    "take the terminal",
    "set the groups",
    "set the group",
    "set the user",
    "enter the working directory",
];
const STEP_EXEC: i32 = STEPS.len() as i32;

/// What the child tells through the shared memory. `step` is -1 while nothing
/// has failed.
struct Report {
    step: AtomicI32,
    errno: AtomicI32,
}

struct ChildArguments<'a> {
    program: &'a Program<'a>,
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// `/bin/sh <candidate> args…`, for a text file without `#!`. The second
    /// entry is filled in by the child.
    script_argv: std::cell::UnsafeCell<Vec<*const c_char>>,
    oom_score: CString,
    report: &'a Report,
}

/// Starts the program and returns its pid once `execve` has succeeded, or once
/// the child has said on its standard error why the program cannot run (it then
/// exits with 127 or 126, as under a shell).
///
/// # Errors
///
/// When a step before `execve` fails, or the arguments are too long.
pub fn spawn(program: &Program<'_>) -> Result<i32, SpawnError> {
    let report = Report {
        step: AtomicI32::new(-1),
        errno: AtomicI32::new(0),
    };
    let mut script_argv = vec![c"/bin/sh".as_ptr(), std::ptr::null()];
    script_argv.extend(
        program
            .argv
            .iter()
            .skip(1)
            .map(|argument| argument.as_ptr()),
    );
    script_argv.push(std::ptr::null());
    let arguments = ChildArguments {
        program,
        candidates: program
            .candidates
            .iter()
            .map(|path| path.as_ptr())
            .collect(),
        argv: null_terminated(&program.argv),
        envp: null_terminated(&program.envp),
        script_argv: std::cell::UnsafeCell::new(script_argv),
        oom_score: CString::new(program.oom_score_adjust.to_string())
            .expect("a number holds no null byte"),
        report: &report,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let blocked = SignalBlock::all();
    // SAFETY: the stack is live, 16-byte aligned and unused by anybody else; it
    // grows down from its end. `arguments` outlives the child's use of it,
    // because CLONE_VFORK suspends this thread until the child has executed or
    // exited. The child function obeys the rules in the module's description.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const arguments).cast_mut().cast::<c_void>(),
        )
    };
    let failure = (pid < 0).then(std::io::Error::last_os_error);
    drop(blocked);
    drop(stack);
    if let Some(source) = failure {
        return Err(SpawnError {
            step: "create a process",
            source,
        });
    }
    let step = report.step.load(Ordering::Acquire);
    if step < 0 {
        return Ok(pid);
    }
    let source = std::io::Error::from_raw_os_error(report.errno.load(Ordering::Acquire));
    // The child is a zombie that nobody else waits for; its status says nothing.
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
    let step = usize::try_from(step).ok().and_then(|step| STEPS.get(step));
    Err(SpawnError {
        step: step.copied().unwrap_or("execute the program"),
        source,
    })
}

fn null_terminated(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// All signals blocked in this thread, the old mask restored on drop. The child
/// inherits the block, so that none of our handlers can run in it.
struct SignalBlock(libc::sigset_t);

impl SignalBlock {
    fn all() -> Self {
        // SAFETY: both sets are plain memory that the calls fill in.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            Self(old)
        }
    }
}

impl Drop for SignalBlock {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `all`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

/// Runs in the child, on its own stack, in our memory.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a live `ChildArguments`, see there.
    let arguments = unsafe { &*argument.cast::<ChildArguments<'_>>() };
    // SAFETY: this is the vforked child that the function requires.
    unsafe {
        let step = prepare(arguments);
        let (step, errno) = match step {
            Err(step) => (step, errno()),
            Ok(()) => match execute(arguments) {
                libc::E2BIG | libc::ENOMEM => (STEP_EXEC, errno()),
                errno => explain_and_exit(arguments, errno),
            },
        };
        arguments.report.errno.store(errno, Ordering::Release);
        arguments.report.step.store(step, Ordering::Release);
        libc::_exit(127)
    }
}

/// # Safety
///
/// Only in the vforked child.
unsafe fn errno() -> c_int {
    // SAFETY: the thread-local belongs to the suspended parent thread.
    unsafe { *libc::__errno_location() }
}

/// Everything between the clone and the exec. `Err` names the failed step.
///
/// # Safety
///
/// Only in the vforked child.
unsafe fn prepare(arguments: &ChildArguments<'_>) -> Result<(), i32> {
    let program = arguments.program;
    let check = |step: i32, result: libc::c_long| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: plain system calls on descriptors and memory that the parent
    // keeps alive; identity is changed by the raw calls, which affect only the
    // calling task, unlike libc's wrappers.
    unsafe {
        // These have handlers or are ignored in the agent; the rest are at
        // their defaults already.
        for signal in [
            libc::SIGPIPE,
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGUSR1,
        ] {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
        if let Some(cgroup) = program.cgroup {
            check(
                0,
                libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) as libc::c_long,
            )?;
        }
        check(1, libc::syscall(libc::SYS_setsid))?;
        adjust_priority(arguments);
        let streams = [
            &program.stdio.stdin,
            &program.stdio.stdout,
            &program.stdio.stderr,
        ];
        for (target, source) in (0..).zip(streams) {
            check(
                2,
                libc::syscall(libc::SYS_dup3, source.as_raw_fd(), target, 0),
            )?;
        }
        if program.terminal {
            check(3, libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0))?;
        }
        if let Some(identity) = &program.identity {
            let groups = &identity.groups;
            check(
                4,
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
            )?;
            let (gid, uid) = (identity.gid, identity.uid);
            check(5, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(6, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        check(7, libc::syscall(libc::SYS_chdir, program.cwd.as_ptr()))?;
        libc::umask(0o022);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Ok(())
}

/// OOM score and niceness. A failure here is no reason not to start: outside a
/// guest the agent may lack the right to lower either.
///
/// # Safety
///
/// Only in the vforked child.
unsafe fn adjust_priority(arguments: &ChildArguments<'_>) {
    // SAFETY: plain system calls on memory that the parent keeps alive.
    unsafe {
        let path = c"/proc/self/oom_score_adj";
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            let score = arguments.oom_score.as_bytes();
            libc::write(fd, score.as_ptr().cast(), score.len());
            libc::close(fd);
        }
        if arguments.program.niceness != 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, arguments.program.niceness);
        }
    }
}

/// Tries every candidate, as `execvp` does. Returns the errno of the failure
/// that says most.
///
/// # Safety
///
/// Only in the vforked child.
unsafe fn execute(arguments: &ChildArguments<'_>) -> c_int {
    let mut failure = libc::ENOENT;
    for candidate in &arguments.candidates {
        // SAFETY: the arrays are null-terminated and hold live C strings.
        unsafe {
            libc::execve(*candidate, arguments.argv.as_ptr(), arguments.envp.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => failure = libc::EACCES,
                libc::ENOEXEC => {
                    let argv = &mut *arguments.script_argv.get();
                    argv[1] = *candidate;
                    libc::execve(argv[0], argv.as_ptr(), arguments.envp.as_ptr());
                    return errno();
                }
                other => return other,
            }
        }
    }
    failure
}

/// Says on standard error why the program cannot run, and exits like a shell.
///
/// # Safety
///
/// Only in the vforked child.
unsafe fn explain_and_exit(arguments: &ChildArguments<'_>, errno: c_int) -> ! {
    let reason: &CStr = match errno {
        libc::ENOENT => c": not found\n",
        libc::EACCES => c": Permission denied\n",
        libc::EISDIR => c": Is a directory\n",
        libc::ELOOP => c": Too many levels of symbolic links\n",
        _ => c": cannot execute\n",
    };
    let name = arguments
        .program
        .argv
        .first()
        .map_or(c"", CString::as_c_str);
    // SAFETY: live C strings, written to the child's own standard error.
    unsafe {
        for part in [c"exec: ", name, reason] {
            libc::write(2, part.as_ptr().cast(), part.count_bytes());
        }
        libc::_exit(if errno == libc::ENOENT { 127 } else { 126 })
    }
}
