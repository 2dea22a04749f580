//! Serves a device over NBD on a unix socket.
//!
//! A task of the caller's runtime accepts; each connection has a thread of its
//! own that parses requests and answers at once whatever the page cache can
//! answer. What may wait for a disk (a read that misses, a flush, a discard)
//! goes to a few worker threads shared by the server's connections, so that
//! the connection stays responsive. The runtime itself never touches a file.
//!
//! ```text
//! accept task ─▶ connection thread ──cached──▶ reply
//!                      └─ bounded queue ─▶ worker ─▶ reply
//! ```
//!
//! What a client sends can end its own connection, nothing else.

mod buffer;
mod connection;
mod pool;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::error::{Error, IoError};
use crate::nbd::ExportInfo;
use crate::nbd::request::Errno;
use crate::throttle::{IoLimits, Throttle};
use pool::Pool;

/// Connections to one server; more are closed at once.
pub const MAX_CONNECTIONS: usize = 16;
/// Pause after the process ran out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long a client may take to become who the device is for. A VM process joins its
/// control group while it starts, and may have connected by then.
const ADMISSION_LIMIT: Duration = Duration::from_secs(5);
const ADMISSION_RETRY: Duration = Duration::from_millis(1);

/// Where and to whom a device is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Path of the socket, below 107 bytes; a socket left there is replaced.
    pub socket: PathBuf,
    /// The export's name. Clients that ask for "" get it too.
    pub export: String,
    /// Permission bits of the socket.
    pub mode: u32,
    /// User and group that own the socket, if not the process's own.
    pub owner: Option<(u32, u32)>,
    /// Which processes of that user may connect.
    pub admission: Admission,
    /// What all clients together may do of what costs the host's disk something.
    pub limits: IoLimits,
}

/// Decides by its process id whether a client is who the device is for. A socket's
/// owner is not enough: another process may have the same user.
#[derive(Clone, Default)]
pub struct Admission(Option<Arc<dyn Fn(u32) -> bool + Send + Sync>>);

impl Admission {
    /// Those whose process id `admits` is true for; all, without one.
    pub fn by(admits: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(admits)))
    }

    /// Asked again until it is true, `stopped` is, or the limit has passed. `pid` is none
    /// of a client that this process's PID namespace does not show.
    fn admits(&self, pid: Option<u32>, stopped: impl Fn() -> bool) -> bool {
        let Some(admits) = &self.0 else {
            return true;
        };
        let Some(pid) = pid else {
            return false;
        };
        let begun = Instant::now();
        loop {
            if admits(pid) {
                return true;
            }
            if stopped() || begun.elapsed() > ADMISSION_LIMIT {
                return false;
            }
            std::thread::sleep(ADMISSION_RETRY);
        }
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Some(_) => "Admission(some)",
            None => "Admission(all)",
        })
    }
}

impl ServerConfig {
    /// A socket for the process's own user only.
    pub fn new(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self {
            socket: socket.into(),
            export: export.into(),
            mode: 0o600,
            owner: None,
            admission: Admission::default(),
            limits: IoLimits::default(),
        }
    }
}

/// A running server. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    stopping: CancellationToken,
    accepting: Option<tokio::task::JoinHandle<()>>,
    socket: PathBuf,
}

/// While it lives the clients' use of the disk is not limited. Whoever waits for what they
/// have asked for holds one.
#[must_use = "dropping it limits the clients again"]
pub struct Unlimited(Arc<Shared>);

impl Drop for Unlimited {
    fn drop(&mut self) {
        self.0.throttle.lower();
    }
}

impl ServerHandle {
    /// Lifts the limits for as long as the answer lives; those who wait go on.
    pub fn unlimited(&self) -> Unlimited {
        self.shared.throttle.lift();
        Unlimited(Arc::clone(&self.shared))
    }
}

struct Shared {
    admission: Admission,
    device: Arc<Device>,
    throttle: Throttle,
    export: ExportInfo,
    pool: Arc<Pool>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    closed: bool,
    live: HashMap<u64, Live>,
}

struct Live {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

/// Starts serving. Must be called within a tokio runtime.
pub fn serve(config: &ServerConfig, device: Arc<Device>) -> Result<ServerHandle, Error> {
    let listener = bind(config)?;
    let shared = Arc::new(Shared {
        admission: config.admission.clone(),
        export: ExportInfo {
            name: config.export.clone(),
            size_bytes: device.size_bytes(),
            read_only: device.is_read_only(),
        },
        throttle: Throttle::new(config.limits, Instant::now()),
        device,
        pool: Arc::new(Pool::new()),
        connections: Mutex::default(),
    });
    let stopping = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, shared.clone(), stopping.clone()));
    Ok(ServerHandle {
        shared,
        stopping,
        accepting: Some(accepting),
        socket: config.socket.clone(),
    })
}

/// Binds under another name first: whoever can connect finds the right owner
/// and mode, and a client that retries never sees the path without a listener.
fn bind(config: &ServerConfig) -> Result<UnixListener, Error> {
    let mut new = config.socket.clone().into_os_string();
    new.push("~");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove the old socket", &new)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(Error::io("bind", &new))?;
    publish(config, &new).inspect_err(|_| drop(std::fs::remove_file(&new)))?;
    Ok(listener)
}

fn publish(config: &ServerConfig, new: &Path) -> Result<(), Error> {
    std::fs::set_permissions(new, PermissionsExt::from_mode(config.mode))
        .map_err(Error::io("set the mode of", new))?;
    if let Some((uid, gid)) = config.owner {
        std::os::unix::fs::chown(new, Some(uid), Some(gid))
            .map_err(Error::io("set the owner of", new))?;
    }
    std::fs::rename(new, &config.socket).map_err(Error::io("publish", &config.socket))
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, stopping: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let started = accepted.and_then(|(stream, _)| {
            let pid = stream.peer_cred()?.pid();
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            shared.start_connection(stream, pid.filter(|pid| *pid != 0))
        });
        if let Err(error) = started {
            tracing::warn!(export = shared.export.name, %error, "cannot accept a connection");
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(ACCEPT_RETRY) => {}
            }
        }
    }
}

impl Shared {
    fn start_connection(self: &Arc<Self>, stream: UnixStream, pid: Option<u32>) -> io::Result<()> {
        let mut connections = self.lock();
        if connections.closed || connections.live.len() >= MAX_CONNECTIONS {
            tracing::warn!(
                export = self.export.name,
                "too many connections, closing a new one"
            );
            return Ok(());
        }
        let id = connections.next_id;
        connections.next_id += 1;
        let shared = self.clone();
        let theirs = stream.try_clone()?;
        // Holding the lock until the entry is there: the thread removes it.
        let thread = std::thread::Builder::new()
            .name("nbd".into())
            .spawn(move || {
                let guard = Registered {
                    shared: &shared,
                    id,
                };
                if shared.admission.admits(pid, || shared.lock().closed) {
                    let Shared {
                        export,
                        device,
                        throttle,
                        pool,
                        ..
                    } = &*shared;
                    connection::run(theirs, export, device, throttle, pool);
                } else {
                    tracing::error!(
                        export = shared.export.name,
                        pid,
                        "refused a process that the disk is not for"
                    );
                }
                drop(guard);
            })?;
        connections.live.insert(id, Live { stream, thread });
        Ok(())
    }

    /// Cuts every connection and returns the threads that will end.
    fn close(&self) -> Vec<JoinHandle<()>> {
        let mut connections = self.lock();
        connections.closed = true;
        let live = std::mem::take(&mut connections.live);
        live.into_values()
            .map(|live| {
                // An error means that the client has gone already.
                drop(live.stream.shutdown(Shutdown::Both));
                live.thread
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Registered<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.lock().live.remove(&self.id);
    }
}

impl ServerHandle {
    /// The number of clients that are connected.
    pub fn connections(&self) -> usize {
        self.shared.lock().live.len()
    }

    /// Stops accepting, cuts the connections and waits until no request runs
    /// any more, which may take as long as the host's disk needs for a sync.
    /// Requests without a reply may or may not have been carried out.
    pub async fn stop(mut self) {
        self.begin_stop();
        if let Some(accepting) = self.accepting.take() {
            // It only ends by itself or because the runtime does.
            drop(accepting.await);
        }
        let shared = self.shared.clone();
        let joined = tokio::task::spawn_blocking(move || {
            for thread in shared.close() {
                drop(thread.join());
            }
            shared.pool.stop();
        });
        drop(joined.await);
    }

    fn begin_stop(&self) {
        if self.stopping.is_cancelled() {
            return;
        }
        self.stopping.cancel();
        // Only our own socket: a successor may have taken the path.
        drop(std::fs::remove_file(&self.socket));
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.begin_stop();
        drop(self.shared.close());
        self.shared.pool.close();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("export", &self.export)
            .finish_non_exhaustive()
    }
}

/// What the client is told; what it is not told goes to the log.
fn errno(error: &IoError) -> Errno {
    match error {
        IoError::OutOfRange => Errno::Inval,
        IoError::ReadOnly => Errno::Perm,
        IoError::NoSpace => Errno::NoSpace,
        IoError::Poisoned => Errno::Io,
        IoError::Storage(source) => {
            tracing::error!(%error, %source, "a disk request failed");
            Errno::Io
        }
    }
}

#[cfg(test)]
mod tests;
