//! The guests' name server: a forwarder to the host's own servers.
//!
//! It is a forwarder and no cache: the host's servers are near. What it adds is
//! whose question it is. A name that a sandbox's rules leave nothing of is not
//! looked up, so that names carry no data out; names of sandboxes are answered with
//! the edge's address; and the addresses that were answered are remembered, because
//! they tell what a connection without a name of its own was meant for.

pub(crate) mod message;
pub(crate) mod upstream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hearth_network::services::{EDGE_ADDRESS, SERVICE_ADDRESS};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guests::{Guest, Guests};
use crate::rules::Lookup;
use message::Query;
use upstream::Servers;

/// Name of the service that takes events, as guests know it.
const EVENTS_NAME: &str = "events.e2b.local";
/// How long a guest may keep an answer that we made up.
const OWN_TTL_SECONDS: u32 = 30;
/// Questions by datagram that are looked up at a time, of all guests.
const MOST_LOOKUPS: usize = 1024;
/// Connections at a time, of all guests. Each guest has a share of its own, and none
/// of them takes from what datagrams need.
const MOST_STREAMS: usize = 1024;
/// The same for addresses at which no sandbox is known: VMs of template builds.
const MOST_OF_STRANGERS: usize = 64;
/// Longest datagram that a guest's question may have.
const LONGEST_QUESTION: usize = 4096;
/// How long a guest's TCP connection may be idle.
const IDLE: Duration = Duration::from_secs(20);
/// How long a guest's TCP connection may last.
const STREAM_LIFETIME: Duration = Duration::from_secs(120);

/// Answers guests' questions.
#[derive(Debug)]
pub(crate) struct Forwarder {
    guests: Arc<Guests>,
    servers: Arc<Servers>,
    /// Sandboxes' names end in this, with a dot in front; without a port.
    domain: String,
    lookups: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// The shares of those who are no sandbox.
    strangers_lookups: Arc<Semaphore>,
    strangers_streams: Arc<Semaphore>,
}

/// What a question or a connection holds while it lasts: of its guest's share, and
/// of what there is for all.
type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A guest's own share comes first: past it, nothing of the others' is taken.
fn turn(own: &Arc<Semaphore>, all: &Arc<Semaphore>) -> Option<Turn> {
    let own = Arc::clone(own).try_acquire_owned().ok()?;
    Some((own, Arc::clone(all).try_acquire_owned().ok()?))
}

impl Forwarder {
    #[must_use]
    pub(crate) fn new(guests: Arc<Guests>, servers: Arc<Servers>, domain: &str) -> Self {
        Self {
            guests,
            servers,
            domain: format!(".{domain}"),
            lookups: Arc::new(Semaphore::new(MOST_LOOKUPS)),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            strangers_lookups: Arc::new(Semaphore::new(MOST_OF_STRANGERS)),
            strangers_streams: Arc::new(Semaphore::new(MOST_OF_STRANGERS)),
        }
    }

    /// Serves datagrams until `stop`.
    pub(crate) async fn serve_datagrams(
        self: Arc<Self>,
        socket: UdpSocket,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST_QUESTION];
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            let (length, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    // An answer that could not be delivered; the socket is fine.
                    tracing::debug!(%error, "receiving a question failed");
                    continue;
                }
            };
            // Past the limit a question is lost, as datagrams may be; its sender
            // asks again.
            let guest = self.guest_at(from);
            let own = match &guest {
                Some(guest) => &guest.lookups,
                None => &self.strangers_lookups,
            };
            let Some(turn) = turn(own, &self.lookups) else {
                continue;
            };
            let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
            let message = buffer[..length].to_vec();
            let stop = stop.clone();
            tasks.spawn(async move {
                let _turn = turn;
                let answer = tokio::select! {
                    () = stop.cancelled() => return,
                    answer = this.answer(from, &message, false) => answer,
                };
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    /// Serves connections until `stop`.
    pub(crate) async fn serve_streams(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else {
                crate::pause_after_failed_accept().await;
                continue;
            };
            let guest = self.guest_at(from);
            let own = match &guest {
                Some(guest) => &guest.name_streams,
                None => &self.strangers_streams,
            };
            let Some(turn) = turn(own, &self.streams) else {
                continue;
            };
            let (this, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                let _turn = turn;
                let serving = timeout(STREAM_LIFETIME, this.serve_stream(stream, from));
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = serving => {}
                }
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        loop {
            let message = timeout(IDLE, upstream::read_framed(&mut stream)).await??;
            match self.answer(from, &message, true).await {
                Some(answer) => upstream::write_framed(&mut stream, &answer).await?,
                None => return Ok(()),
            }
        }
    }

    fn guest_at(&self, from: SocketAddr) -> Option<Arc<Guest>> {
        match from.ip() {
            IpAddr::V4(address) => self.guests.find(address),
            IpAddr::V6(_) => None,
        }
    }

    /// The answer to `message`, if it deserves one.
    async fn answer(&self, from: SocketAddr, message: &[u8], stream: bool) -> Option<Vec<u8>> {
        let IpAddr::V4(address) = from.ip() else {
            return None;
        };
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(code) => return message::bare_refusal(message, code?),
        };
        let guest = self.guests.find(address);
        if let Some(answer) = self.own_answer(&query, guest.as_deref()) {
            return Some(answer);
        }
        let Ok(response) = self.servers.ask(&query, message, stream).await else {
            return Some(query.refusal(ResponseCode::ServFail));
        };
        if let (Some(guest), Some(name)) = (&guest, &query.name) {
            guest.remember(name, &query.addresses_in(&response));
        }
        Some(response)
    }

    /// The answers for which nobody is asked.
    fn own_answer(&self, query: &Query, guest: Option<&Guest>) -> Option<Vec<u8>> {
        let rules = guest.map(Guest::rules);
        let name = query.name.as_deref();
        let with_address = |address| match query.kind {
            RecordType::A => query.answer(address, OWN_TTL_SECONDS),
            _ => query.refusal(ResponseCode::NoError),
        };
        if name == Some(EVENTS_NAME) {
            return Some(with_address(SERVICE_ADDRESS));
        }
        let lookup = match (&rules, name) {
            (None, _) => Lookup::Resolve,
            (Some(rules), name) => rules.lookup(name),
        };
        if lookup == Lookup::Refuse {
            return Some(query.refusal(ResponseCode::Refused));
        }
        if name.is_some_and(|name| self.is_sandbox_name(name)) {
            return Some(with_address(EDGE_ADDRESS));
        }
        let asks_names = rules.is_some_and(|rules| rules.asks_names());
        match query.kind {
            // Guests have no IPv6; an address of it would only cost them time.
            RecordType::AAAA => Some(query.refusal(ResponseCode::NoError)),
            // Its contents could hide a connection's name from the proxy.
            RecordType::HTTPS if asks_names => Some(query.refusal(ResponseCode::NoError)),
            _ => None,
        }
    }

    /// Whether `name` is `{port}-{sandboxID}` or `api` in our domain.
    fn is_sandbox_name(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain)
            .is_some_and(|label| !label.is_empty() && !label.contains('.'))
    }
}

#[cfg(test)]
mod tests;
