//! The transparent proxy: takes the connections that the kernel diverts, finds out
//! what host each is meant for, decides, and relays.
//!
//! The guest believes that it talks to the address it dialled. What is allowed by
//! name is connected to an address that *we* know to be that name's: the one that
//! was dialled if the name servers confirm it, else one of those they give. So a
//! guest gains nothing by lying to itself about addresses. A connection that says
//! no name (the server speaks first, or the protocol has none) is judged by the
//! names for which our forwarder gave the dialled address.

mod dial;
mod intercept;
mod relay;
mod replay;
pub(crate) mod sniff;
pub(crate) mod upstream;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hearth_network::services::{NODE_ADDRESS, SERVICE_ADDRESS};
use nix::sys::socket::{getsockopt, sockopt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dns::upstream::Servers;
use crate::guests::{Guest, Guests};
use crate::names;
use crate::rules::{Decision, Rules, Upstream};
use crate::secrets::SecretSource;
use crate::trust;
use crate::visits::Visits;
use dial::Stream;
use intercept::Interception;
use replay::Replay;
use sniff::{Greeting, greeting};
use upstream::Target;

/// How long a client may take to say what it wants where it must speak first.
const GREETING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long we wait for it elsewhere: there the server may be the first to speak.
const SHORT_GREETING_TIMEOUT: Duration = Duration::from_millis(300);
/// How long the user's proxy may take to agree on TLS.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Ports on which clients speak first.
const CLIENT_SPEAKS_FIRST: [u16; 4] = [80, 443, 8080, 8443];

/// The proxy and what it shares between connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    guests: Arc<Guests>,
    servers: Arc<Servers>,
    edge: Edge,
    visits: Arc<Visits>,
    secrets: Arc<dyn SecretSource>,
    trust: Arc<ClientConfig>,
    proxied: Arc<Semaphore>,
    to_edge: Arc<Semaphore>,
}

/// Where the edge listens, for names of sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    /// With a dot in front; without a port.
    pub(crate) domain: String,
    pub(crate) listeners: Vec<SocketAddr>,
    /// Whom to trust beside the host's authorities for the edge's certificate.
    pub(crate) authorities: Vec<PathBuf>,
    trust: OnceLock<Arc<ClientConfig>>,
}

impl Edge {
    pub(crate) fn new(domain: &str, listeners: Vec<SocketAddr>, authorities: Vec<PathBuf>) -> Self {
        Self {
            domain: format!(".{domain}"),
            listeners,
            authorities,
            trust: OnceLock::new(),
        }
    }

    /// Whom to trust for the edge's certificate. Read when first needed: the daemon
    /// makes its authority while it starts.
    fn trust(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(trust) = self.trust.get() {
            return Ok(Arc::clone(trust));
        }
        let present = self.authorities.iter().filter(|path| path.exists());
        let trust = Arc::new(trust::client(present)?);
        Ok(Arc::clone(self.trust.get_or_init(|| trust)))
    }

    /// The edge's listener behind `port`.
    fn listener(&self, port: u16) -> Option<SocketAddr> {
        self.listeners
            .iter()
            .find(|listener| listener.port() == port)
            .copied()
    }

    fn has_name(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain)
            .is_some_and(|label| !label.is_empty() && !label.contains('.'))
    }
}

/// What a connection is, once its beginning was read.
struct Opened {
    guest: Arc<Guest>,
    stream: TcpStream,
    /// What the guest dialled.
    dialled: SocketAddrV4,
    /// What it has sent so far.
    sent: Vec<u8>,
    name: Option<String>,
    /// It begins as TLS does.
    tls: bool,
}

impl Proxy {
    pub(crate) fn new(
        guests: Arc<Guests>,
        servers: Arc<Servers>,
        edge: Edge,
        visits: Arc<Visits>,
        secrets: Arc<dyn SecretSource>,
        trust: Arc<ClientConfig>,
        limits: crate::EgressLimits,
    ) -> Self {
        Self {
            guests,
            servers,
            edge,
            visits,
            secrets,
            trust,
            proxied: Arc::new(Semaphore::new(limits.proxied)),
            to_edge: Arc::new(Semaphore::new(limits.to_edge)),
        }
    }

    /// Serves diverted connections until `stop`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        kind: Kind,
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
            let SocketAddr::V4(from) = from else { continue };
            // Nobody is at this address: the connection outlived its sandbox.
            let Some(guest) = self.guests.find(*from.ip()) else {
                continue;
            };
            // The guest's own share first: past it, nothing of the others' is taken.
            let (own, all) = match kind {
                Kind::Diverted => (&guest.connections, &self.proxied),
                Kind::Edge => (&guest.edge_connections, &self.to_edge),
            };
            let permits = Arc::clone(own).try_acquire_owned();
            let permits = permits.and_then(|own| Ok((own, Arc::clone(all).try_acquire_owned()?)));
            let Ok(permits) = permits else {
                tracing::debug!(sandbox = %guest.identity.sandbox_id, ?kind, "too many connections through the proxy");
                continue;
            };
            let (this, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                let _permits = permits;
                let gone = guest.gone.clone();
                let id = guest.identity.sandbox_id.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = gone.cancelled() => {}
                    outcome = Box::pin(this.connection(guest, stream, kind)) => {
                        if let Err(error) = outcome {
                            tracing::debug!(sandbox = %id, %error, "a connection through the proxy failed");
                        }
                    }
                }
            });
        }
    }

    async fn connection(&self, guest: Arc<Guest>, stream: TcpStream, kind: Kind) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let dialled = dialled(&stream)?;
        let rules = guest.rules();
        let mut opened = Opened {
            dialled,
            sent: Vec::new(),
            name: None,
            tls: false,
            stream,
            guest,
        };
        match kind {
            Kind::Diverted => {
                self.identify(&mut opened, &rules).await?;
                self.forward(opened, &rules).await
            }
            Kind::Edge => {
                if rules.asks_edge_names() {
                    read_greeting(&mut opened, GREETING_TIMEOUT).await?;
                    if !rules.edge_permits(dialled.port(), &[opened.name.as_deref()]) {
                        return Err(denied());
                    }
                }
                self.to_edge(opened, &rules).await
            }
        }
    }

    /// Finds the connection's name, as far as the rules ask for one.
    async fn identify(&self, opened: &mut Opened, rules: &Rules) -> io::Result<()> {
        if !rules.asks_names() {
            return Ok(());
        }
        let port = opened.dialled.port();
        let patience = if CLIENT_SPEAKS_FIRST.contains(&port) || rules.expects_https(port) {
            GREETING_TIMEOUT
        } else {
            SHORT_GREETING_TIMEOUT
        };
        let greeting = read_greeting(opened, patience).await?;
        if matches!(greeting, Greeting::Other | Greeting::Incomplete) {
            let known = opened.guest.names_of(*opened.dialled.ip());
            opened.name = known
                .iter()
                .find(|name| rules.names_allow(name, port))
                .or(known.first())
                .cloned();
        }
        Ok(())
    }

    async fn forward(&self, opened: Opened, rules: &Rules) -> io::Result<()> {
        let (address, port) = (*opened.dialled.ip(), opened.dialled.port());
        let name = opened.name.as_deref();
        let decision = rules.decide(address, port, name);
        if decision == Decision::Deny {
            tracing::info!(
                sandbox = %opened.guest.identity.sandbox_id,
                %address, port, name, "denied a connection"
            );
            return Err(denied());
        }
        if let Some(name) = name
            && decision == Decision::ByName
            && self.edge.has_name(name)
        {
            return self.to_edge(opened, rules).await;
        }
        let by_name = name.filter(|_| decision == Decision::ByName);
        let target = match rules.upstream() {
            Some(upstream) => self.through(upstream, address, by_name, port).await?,
            None => {
                let addresses = match by_name {
                    Some(name) => self.confirmed(&opened.guest, address, name).await?,
                    None => vec![address],
                };
                Box::new(dial::first_of(&addresses, port).await?)
            }
        };
        if changes_requests(&opened, rules, false) {
            self.intercept(opened, target, false).await
        } else {
            self.relay(opened, target, false).await
        }
    }

    /// Addresses of `name` to try: the dialled one alone if it is one of them.
    async fn confirmed(
        &self,
        guest: &Guest,
        dialled: Ipv4Addr,
        name: &str,
    ) -> io::Result<Vec<Ipv4Addr>> {
        if guest.knows(dialled, name) {
            return Ok(vec![dialled]);
        }
        let found = self
            .servers
            .addresses(name)
            .await
            .map_err(io::Error::other)?;
        guest.remember(name, &found);
        let found: Vec<Ipv4Addr> = found.iter().map(|found| found.address).collect();
        if found.contains(&dialled) {
            Ok(vec![dialled])
        } else {
            Ok(found)
        }
    }

    /// Connects through the user's proxy.
    async fn through(
        &self,
        upstream: &Upstream,
        address: Ipv4Addr,
        name: Option<&str>,
        port: u16,
    ) -> io::Result<Stream> {
        let wrong = |why: &'static str| io::Error::new(io::ErrorKind::InvalidInput, why);
        let (protocol, host, proxy_port) = upstream::parse_address(&upstream.address)
            .ok_or_else(|| wrong("the proxy's address is not host:port"))?;
        let addresses = match host.parse::<Ipv4Addr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let host = names::normal(host).ok_or_else(|| wrong("the proxy has no host"))?;
                let found = self
                    .servers
                    .addresses(&host)
                    .await
                    .map_err(io::Error::other)?;
                found.iter().map(|found| found.address).collect()
            }
        };
        let stream = dial::first_of(&addresses, proxy_port).await?;
        let mut stream: Stream = match upstream.tls.as_ref().filter(|tls| tls.enabled) {
            None => Box::new(stream),
            Some(tls) => {
                let trust = match &tls.ca_cert {
                    Some(pem) => Arc::new(trust::client_trusting(pem)?),
                    None => Arc::clone(&self.trust),
                };
                let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                let connecting = TlsConnector::from(trust).connect(name, stream);
                Box::new(timeout(TLS_TIMEOUT, connecting).await??)
            }
        };
        let target = match name {
            Some(name) => Target::Name(name.to_owned()),
            None => Target::Address(address),
        };
        let credentials = upstream
            .username
            .as_deref()
            .map(|user| (user, upstream.password.as_deref().unwrap_or_default()));
        upstream::open(&mut stream, protocol, credentials, &target, port).await?;
        Ok(stream)
    }

    async fn to_edge(&self, opened: Opened, rules: &Rules) -> io::Result<()> {
        let listener = self.edge.listener(opened.dialled.port()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "the edge has no such port",
            )
        })?;
        let target = TcpStream::connect(listener).await?;
        target.set_nodelay(true)?;
        let (address, guest) = (target.local_addr()?, Arc::clone(&opened.guest));
        let _known = self.visits.open(address, guest, opened.dialled.port());
        if changes_requests(&opened, rules, true) {
            self.intercept(opened, Box::new(target), true).await
        } else {
            self.relay(opened, Box::new(target), true).await
        }
    }

    /// Serves requests whose headers are set; `opened` has a name and speaks TLS.
    async fn intercept(&self, opened: Opened, target: Stream, edge: bool) -> io::Result<()> {
        let host = opened.name.unwrap_or_default();
        let dialled = opened.dialled;
        let interception = Interception {
            guest: &opened.guest,
            host: &host,
            port: dialled.port(),
            edge,
            secrets: self.secrets.as_ref(),
            trust: if edge {
                self.edge.trust()?
            } else {
                Arc::clone(&self.trust)
            },
        };
        let stream = Replay::new(opened.sent, opened.stream);
        relay::while_permitted(
            Box::pin(interception.serve(stream, target)),
            &opened.guest,
            |rules| permits(rules, dialled, Some(&host), edge),
        )
        .await
    }

    async fn relay(&self, opened: Opened, target: Stream, edge: bool) -> io::Result<()> {
        let (dialled, name) = (opened.dialled, opened.name);
        relay::relay(
            opened.stream,
            target,
            &opened.sent,
            &opened.guest,
            |rules| permits(rules, dialled, name.as_deref(), edge),
        )
        .await
    }
}

/// Whether rules that have changed still permit an open connection. Whether it leads
/// to the edge is what was made of it: a name at its beginning may say what it likes.
fn permits(rules: &Rules, dialled: SocketAddrV4, name: Option<&str>, edge: bool) -> bool {
    let (address, port) = (*dialled.ip(), dialled.port());
    if edge {
        rules.edge_permits(port, &[name])
    } else {
        rules.decide(address, port, name) != Decision::Deny
    }
}

/// Whether the proxy has to look into the connection.
fn changes_requests(opened: &Opened, rules: &Rules, edge: bool) -> bool {
    let port = opened.dialled.port();
    opened.tls
        && opened
            .name
            .as_deref()
            .is_some_and(|name| rules.transform(name, port, edge).is_some())
}

/// Why the kernel handed a connection to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sandbox's policy asks for it.
    Diverted,
    /// It leads to the edge.
    Edge,
}

/// Reads until the greeting is complete, or says that it is none of ours, or the
/// time is over.
async fn read_greeting(opened: &mut Opened, patience: Duration) -> io::Result<Greeting> {
    let deadline = Instant::now() + patience;
    let mut found = Greeting::Incomplete;
    while found == Greeting::Incomplete && opened.sent.len() < sniff::LIMIT {
        match timeout_at(deadline, opened.stream.read_buf(&mut opened.sent)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(read) => drop(read?),
        }
        found = greeting(&opened.sent);
    }
    opened.name = found.name().map(str::to_owned);
    opened.tls = matches!(found, Greeting::Tls(_));
    Ok(found)
}

/// The address that the guest dialled, before the kernel diverted the connection.
fn dialled(stream: &TcpStream) -> io::Result<SocketAddrV4> {
    let original = getsockopt(stream, sockopt::OriginalDst)?;
    let address = Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
    if [SERVICE_ADDRESS, NODE_ADDRESS].contains(&address) {
        // Diverted connections were meant for somebody else.
        return Err(denied());
    }
    Ok(SocketAddrV4::new(address, u16::from_be(original.sin_port)))
}

fn denied() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the sandbox's rules deny the connection",
    )
}
