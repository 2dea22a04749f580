//! A new version of the agent, held in memory and tried out before it is trusted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use rustix::fs::MemfdFlags;

use super::state::FORMAT;
use crate::process::Exit;
use crate::process::reaper::Reaper;
use crate::sys::pipes;
use crate::sys::spawn::{Program, SpawnError, Stdio};

/// The largest program that is taken.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Prints which states a program can take over.
pub const FORMAT_ARGUMENT: &str = "--handover-format";
/// How long the new program may take to say so.
const TRIAL_LIMIT: Duration = Duration::from_secs(20);
const ELF: &[u8] = b"\x7fELF";

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the program could not be received: {0}")]
    Receive(String),
    #[error("the program is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("cannot keep the program: {0}")]
    Keep(#[from] io::Error),
    #[error("that is no program for this machine")]
    NoProgram,
    #[error("the program cannot be tried: {0}")]
    Spawn(#[from] SpawnError),
    #[error("the program does not take over what this one has (format {FORMAT})")]
    Format,
}

/// Receives a program.
pub async fn receive<B>(mut body: B) -> Result<OwnedFd, ImageError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let image = rustix::fs::memfd_create(c"envd", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let image = pipes::above_standard(image)?;
    let (mut total, mut start) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ImageError::Receive(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len() as u64;
        if total > MAX_BYTES {
            return Err(ImageError::TooLarge);
        }
        if start.len() < ELF.len() {
            start.extend_from_slice(&data[..data.len().min(ELF.len())]);
        }
        write_all(&image, &data)?;
    }
    if start.starts_with(ELF) {
        Ok(image)
    } else {
        Err(ImageError::NoProgram)
    }
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(written) => data = &data[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Runs the program to learn whether it can take over.
pub async fn try_out(image: &OwnedFd, reaper: &Reaper) -> Result<(), ImageError> {
    let (read, write) = pipes::pipe()?;
    let argument = |text: String| CString::new(text).unwrap_or_default();
    let program = Program {
        candidates: vec![argument(format!("/proc/self/fd/{}", image.as_raw_fd()))],
        argv: vec![c"envd".to_owned(), argument(FORMAT_ARGUMENT.to_owned())],
        envp: Vec::new(),
        cwd: c"/".to_owned(),
        identity: None,
        stdio: Stdio {
            stdin: pipes::null()?,
            stdout: write,
            stderr: pipes::null()?,
        },
        terminal: false,
        cgroup: None,
        oom_score_adjust: 0,
        niceness: 0,
    };
    let (pid, mut exit) = reaper.spawn(&program)?;
    drop(program);
    let ended = tokio::time::timeout(TRIAL_LIMIT, exit.wait_for(Option::is_some)).await;
    let exit = match ended {
        Ok(Ok(exit)) => *exit,
        _ => None,
    };
    if exit != Some(Exit::Code(0)) {
        if exit.is_none()
            && let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        return Err(ImageError::NoProgram);
    }
    // It has ended, so that its few bytes are there and reading cannot wait.
    let mut said = [0; 64];
    let length = rustix::io::read(read.as_fd(), &mut said).map_err(io::Error::from)?;
    let said = std::str::from_utf8(&said[..length]).unwrap_or("");
    if said
        .split_whitespace()
        .any(|format| format == FORMAT.to_string())
    {
        Ok(())
    } else {
        Err(ImageError::Format)
    }
}
