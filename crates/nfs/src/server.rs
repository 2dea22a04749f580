//! Connections of guests: who they are, and how much of the node they may take.

use crate::exports::Exports;
use crate::handle::HandleKey;
use crate::tree::Tree;
use crate::{Error, Export, Losses, MOST_EXPORTS, Space, record};
use hearth_ids::VolumeId;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections of one sandbox at a time. A client has one for all its mounts.
const MOST_CONNECTIONS: usize = 8;
/// A failed accept means that descriptors or memory are short: others end first.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// How much may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one sandbox. Each may hold a mebibyte twice, as it comes and goes.
    pub requests_per_sandbox: usize,
    /// Requests of all sandboxes that are at the disk: threads.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_sandbox: 8,
            threads: 64,
        }
    }
}

/// Settings of a [`VolumeServer`].
#[derive(Debug)]
pub struct ServerConfig {
    /// The node's key to handles.
    pub key: HandleKey,
    /// What volumes may hold.
    pub space: Arc<dyn Space>,
    /// How much may be under way.
    pub limits: Limits,
}

/// The server of one node.
#[derive(Debug)]
pub struct VolumeServer {
    config: ServerConfig,
    guests: RwLock<HashMap<Ipv4Addr, Arc<Guest>>>,
    /// One tree for each volume, so that its sandboxes share its locks.
    trees: Mutex<HashMap<VolumeId, Weak<Tree>>>,
    losses: Arc<Losses>,
    threads: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A sandbox that has volumes.
#[derive(Debug)]
struct Guest {
    exports: Exports,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Cancelled when the sandbox has left.
    gone: CancellationToken,
}

impl VolumeServer {
    /// A server that nobody has asked anything yet.
    #[must_use]
    pub fn new(config: ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            threads: Arc::new(Semaphore::new(config.limits.threads)),
            config,
            guests: RwLock::default(),
            trees: Mutex::default(),
            losses: Arc::new(Losses::new()),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Begins to serve who connects to this socket.
    pub fn start(self: &Arc<Self>, listener: TcpListener) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move { this.accept(listener).await });
    }

    /// A sandbox takes an address and has these volumes. Whoever had it is gone.
    ///
    /// # Errors
    /// When one of the volumes cannot be served; then there is nobody at the address.
    pub fn enter(&self, address: Ipv4Addr, exports: &[Export]) -> Result<(), Error> {
        self.leave(address);
        let volumes = self.volumes(exports)?;
        if volumes.is_empty() {
            return Ok(());
        }
        let guest = Arc::new(Guest {
            exports: Exports::new(volumes, Arc::clone(&self.losses)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            requests: Arc::new(Semaphore::new(self.config.limits.requests_per_sandbox)),
            gone: CancellationToken::new(),
        });
        let before = self.guests_mut().insert(address, guest);
        if let Some(before) = before {
            before.gone.cancel();
        }
        Ok(())
    }

    /// A sandbox has left its address; its connections end.
    pub fn leave(&self, address: Ipv4Addr) {
        let before = self.guests_mut().remove(&address);
        if let Some(before) = before {
            before.gone.cancel();
        }
    }

    /// Ends all connections. Waits at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("volume server did not end in time");
        }
    }

    /// Whether these volumes can be served.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn check(&self, exports: &[Export]) -> Result<(), Error> {
        self.volumes(exports).map(drop)
    }

    fn volumes(&self, exports: &[Export]) -> Result<Vec<(String, Arc<Tree>)>, Error> {
        if exports.len() > MOST_EXPORTS {
            return Err(Error::TooMany(exports.len()));
        }
        let mut volumes: Vec<(String, Arc<Tree>)> = Vec::with_capacity(exports.len());
        for export in exports {
            // One volume at several places is one export.
            if volumes.iter().all(|(name, _)| *name != export.name) {
                volumes.push((export.name.clone(), self.tree(export)?));
            }
        }
        Ok(volumes)
    }

    fn tree(&self, export: &Export) -> Result<Arc<Tree>, Error> {
        let Export { volume, tree, .. } = export;
        let mut trees = self.trees();
        let known = trees.get(volume).and_then(Weak::upgrade);
        // One that was deleted may still be served to somebody.
        if let Some(known) = known.filter(|known| known.is_at(tree)) {
            return Ok(known);
        }
        let space = Arc::clone(&self.config.space);
        let opened = Arc::new(Tree::open(*volume, tree, &self.config.key, space)?);
        trees.retain(|_, tree| tree.strong_count() > 0);
        trees.insert(*volume, Arc::downgrade(&opened));
        Ok(opened)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                continue;
            };
            let Some(guest) = self.guest(from) else {
                continue;
            };
            let Ok(connection) = Arc::clone(&guest.connections).try_acquire_owned() else {
                continue;
            };
            let this = Arc::clone(&self);
            self.tasks.spawn(async move {
                let _connection = connection;
                tokio::select! {
                    () = this.stop.cancelled() => {}
                    () = guest.gone.cancelled() => {}
                    ended = this.serve(&guest, stream) => if let Err(error) = ended {
                        tracing::debug!(%from, %error, "volume connection ended");
                    }
                }
            });
        }
    }

    /// Answers one connection's requests, several at a time, in whatever order.
    async fn serve(&self, guest: &Arc<Guest>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // A connection ends at once, with a reset: a guest uses the same port again, when it
        // is resumed or asks the next daemon, and must not meet the rest of the last one.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        let (mut requests, answers) = stream.into_split();
        let answers = Arc::new(tokio::sync::Mutex::new(answers));
        // Ends what is under way when the connection does.
        let mut under_way = tokio::task::JoinSet::new();
        while let Some(head) = record::head(&mut requests).await? {
            // Not before something comes: connections that wait hold no share.
            let share = Arc::clone(&guest.requests).acquire_owned().await;
            let share = share.map_err(io::Error::other)?;
            let message = record::body(&mut requests, head).await?;
            while under_way.try_join_next().is_some() {}
            let work = Work {
                guest: Arc::clone(guest),
                threads: Arc::clone(&self.threads),
                message,
                share,
            };
            under_way.spawn(work.answer(Arc::clone(&answers)));
        }
        while under_way.join_next().await.is_some() {}
        Ok(())
    }

    fn guest(&self, from: SocketAddr) -> Option<Arc<Guest>> {
        let SocketAddr::V4(from) = from else {
            return None;
        };
        let guests = self.guests.read();
        let guests = guests.unwrap_or_else(PoisonError::into_inner);
        guests.get(from.ip()).cloned()
    }

    fn guests_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Ipv4Addr, Arc<Guest>>> {
        self.guests.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn trees(&self) -> MutexGuard<'_, HashMap<VolumeId, Weak<Tree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
struct Work {
    guest: Arc<Guest>,
    threads: Arc<Semaphore>,
    message: Vec<u8>,
    /// Held until the answer is sent: who does not read has nothing more answered. Work
    /// that nobody waits for any more holds it until it is done.
    share: OwnedSemaphorePermit,
}

impl Work {
    async fn answer(self, answers: Arc<tokio::sync::Mutex<impl AsyncWrite + Unpin>>) {
        let Ok(thread) = Arc::clone(&self.threads).acquire_owned().await else {
            return;
        };
        let (guest, message, share) = (self.guest, self.message, self.share);
        let answering = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also where nobody waits for it any more.
            let _thread = thread;
            Some((guest.exports.answer(&message)?, share))
        });
        let Ok(Some((answer, _share))) = answering.await else {
            return;
        };
        let mut answers = answers.lock().await;
        // A broken connection ends by itself, and the client asks again.
        if let Err(error) = record::send(&mut *answers, &answer).await {
            tracing::debug!(%error, "send answer to volume request failed");
        }
    }
}
