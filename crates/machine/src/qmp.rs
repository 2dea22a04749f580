//! A client of QEMU's monitor protocol.
//!
//! One task owns the connection. It reads lines, hands answers to whoever waits for that
//! id, and broadcasts events; commands come to it through a bounded queue, so they may be
//! sent one after the other without waiting for each answer. The task ends when the
//! connection closes or every [`Qmp`] is dropped; then every waiter gets
//! [`QmpError::Closed`]. A line longer than a limit closes the connection, because QEMU
//! never sends one of that size for the commands used here.

mod message;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};

use message::Message;

/// Longest line accepted from QEMU, in bytes.
const LINE_LIMIT: u64 = 1 << 20;
/// Commands that may wait to be sent. QEMU itself queues eight.
const QUEUE: usize = 8;
/// Events that a slow subscriber may be behind before it loses the oldest.
const EVENTS: usize = 64;

/// Why a command has no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU's own description.
    #[error("{0}")]
    Refused(String),
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

/// Something that QEMU reported by itself.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    version: Arc<OnceLock<String>>,
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
}

/// An answer that is still to come.
#[derive(Debug)]
pub(crate) struct Pending(oneshot::Receiver<Result<Value, QmpError>>);

struct Request {
    name: &'static str,
    arguments: Value,
    descriptor: Option<OwnedFd>,
    reply: oneshot::Sender<Result<Value, QmpError>>,
}

impl Qmp {
    /// Connects to a listening socket. The greeting, and the answers to commands sent
    /// before it, come when QEMU accepts.
    pub(crate) async fn connect(path: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let (requests, receiver) = mpsc::channel(QUEUE);
        let (events, _) = broadcast::channel(EVENTS);
        let version = Arc::new(OnceLock::new());
        let task = Connection {
            version: Arc::clone(&version),
            writer,
            requests: receiver,
            events: events.clone(),
            waiting: HashMap::new(),
            next_id: 1,
        };
        tokio::spawn(task.run(BufReader::new(reader)));
        Ok(Self {
            version,
            requests,
            events,
        })
    }

    /// QEMU's version, as it greets; known when a first command has been answered.
    pub(crate) fn version(&self) -> Option<&str> {
        self.version.get().map(String::as_str)
    }

    /// Events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Sends a command; its answer is awaited separately.
    pub(crate) async fn send(&self, name: &'static str, arguments: Value) -> Pending {
        self.request(name, arguments, None).await
    }

    /// Sends a command together with a descriptor.
    pub(crate) async fn send_with(
        &self,
        name: &'static str,
        arguments: Value,
        descriptor: OwnedFd,
    ) -> Pending {
        self.request(name, arguments, Some(descriptor)).await
    }

    async fn request(
        &self,
        name: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Pending {
        let (reply, answer) = oneshot::channel();
        // When the task is gone, the request is dropped and with it `reply`: Closed.
        let _ = self
            .requests
            .send(Request {
                name,
                arguments,
                descriptor,
                reply,
            })
            .await;
        Pending(answer)
    }
}

impl Pending {
    /// Waits for the answer, at most `limit`.
    pub(crate) async fn answer(self, limit: Duration) -> Result<Value, QmpError> {
        match tokio::time::timeout(limit, self.0).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(QmpError::Closed),
            Err(_) => Err(QmpError::Timeout),
        }
    }
}

struct Connection {
    version: Arc<OnceLock<String>>,
    writer: OwnedWriteHalf,
    requests: mpsc::Receiver<Request>,
    events: broadcast::Sender<Event>,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, QmpError>>>,
    next_id: u64,
}

impl Connection {
    async fn run(mut self, mut reader: BufReader<OwnedReadHalf>) {
        let mut line = Vec::new();
        loop {
            tokio::select! {
                // `line` keeps what was read when the other branch wins.
                read = read_line(&mut reader, &mut line) => match read {
                    Ok(true) => {
                        if !self.receive(&line) {
                            return;
                        }
                        line.clear();
                    }
                    Ok(false) => return,
                    Err(error) => {
                        tracing::debug!(%error, "reading from QEMU failed");
                        return;
                    }
                },
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    if let Err(error) = self.transmit(request).await {
                        tracing::debug!(%error, "writing to QEMU failed");
                        return;
                    }
                }
            }
        }
    }

    /// Takes in one line; `false` when the connection is of no use any more.
    fn receive(&mut self, line: &[u8]) -> bool {
        match message::parse(line) {
            Ok(Message::Greeting { version }) => {
                if let Some(version) = version {
                    // It greets once.
                    let _ = self.version.set(version);
                }
            }
            Ok(Message::Answer { id, result }) => {
                if let Some(reply) = self.waiting.remove(&id) {
                    let _ = reply.send(result.map_err(QmpError::Refused));
                }
            }
            Ok(Message::Event { name, data }) => {
                // Nobody may be listening.
                let _ = self.events.send(Event { name, data });
            }
            Err(error) => {
                tracing::warn!(error, "QEMU sent something that is not QMP");
                return false;
            }
        }
        true
    }

    async fn transmit(&mut self, request: Request) -> io::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        // Whoever gave up waiting is forgotten here, so the map stays small.
        self.waiting.retain(|_, reply| !reply.is_closed());
        self.waiting.insert(id, request.reply);
        let line = message::command(id, request.name, &request.arguments);
        let sent = match &request.descriptor {
            Some(descriptor) => send_descriptor(&self.writer, &line, descriptor).await?,
            None => 0,
        };
        self.writer.write_all(&line[sent..]).await
    }
}

/// Appends to `line` until it holds one whole line; `false` at the end of the stream.
/// Cancel-safe: what was read stays in `line`.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<bool> {
    let room = LINE_LIMIT.saturating_sub(line.len() as u64);
    reader.take(room).read_until(b'\n', line).await?;
    if line.ends_with(b"\n") {
        return Ok(true);
    }
    if line.len() as u64 >= LINE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
    }
    Ok(false)
}

/// Sends the start of `line` with `descriptor` attached to it; returns how much was sent.
async fn send_descriptor(
    writer: &OwnedWriteHalf,
    line: &[u8],
    descriptor: &OwnedFd,
) -> io::Result<usize> {
    let socket: &UnixStream = writer.as_ref();
    socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor.as_fd()];
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("no room for a descriptor"));
            }
            Ok(rustix::net::sendmsg(
                socket,
                &[IoSlice::new(line)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?)
        })
        .await
}

/// Whether a line is a message of the monitor's.
#[cfg(feature = "fuzzing")]
pub(crate) fn is_message(line: &[u8]) -> bool {
    message::parse(line).is_ok()
}
