//! The user-space side of the sandbox network: what guests find at the node's own
//! addresses, and the decisions for which a packet's addresses are not enough.
//!
//! ```text
//!  guest ──▶ kernel (crates/network) ──┬─▶ the internet          by address
//!                                      ├─▶ proxy ──▶ …           by host name
//!                                      ├─▶ forwarder ──▶ host's name servers
//!                                      ├─▶ events                192.0.2.1:80
//!                                      └─▶ edge                  other sandboxes
//! ```
//!
//! A sandbox without rules about names meets the forwarder alone; its connections
//! never leave the kernel. [`Rules`] is the one place that reads a sandbox's
//! settings, for the kernel ([`Rules::policy`]) and for the services here.
//!
//! Invariants:
//! - A caller is who its source address says: the kernel lets no other address out
//!   of a slot.
//! - Whatever the services connect to for a guest carries a mark that the kernel
//!   keeps from private and local addresses. The exceptions are the host's name
//!   servers and the edge, whose addresses are configuration.
//! - A change of rules reaches every open connection through the proxy.
//! - What a guest sends to the edge is judged there request by request, by the guest's
//!   rules ([`Egress::permits_visit`]).
//! - Every task belongs to [`Egress`] and ends with [`Egress::stop`].

#![forbid(unsafe_code)]

mod allowance;
mod authority;
mod dns;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guests;
mod listeners;
pub mod names;
mod proxy;
mod rules;
mod secrets;
mod trust;
mod visits;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_ids::SandboxId;
use hearth_network::services::ServicePorts;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use authority::{Authority, AuthorityError};
pub use events::{LogSink, NoLog};
pub use guests::{Guest, Identity};
pub use rules::{Decision, Lookup, Rules, RulesError, Transform, Upstream, UpstreamTls};
pub use secrets::{FillError, NoSecrets, SecretSource};

use dns::Forwarder;
use dns::upstream::Servers;
use events::Events;
use guests::Guests;
use listeners::Listeners;
use proxy::{Edge, Kind, Proxy};
use visits::Visits;

/// Settings of the services.
#[derive(Debug, Clone, Default)]
pub struct EgressConfig {
    /// Names of sandboxes end in this; a port is ignored.
    pub domain: String,
    /// Where the edge listens; a guest reaches each at its own port.
    pub edge: Vec<SocketAddr>,
    /// Asked by the forwarder, on port 53; the host's own where absent.
    pub name_servers: Option<Vec<IpAddr>>,
    /// Certificates in PEM of authorities that are trusted beside the host's, where
    /// requests are changed on their way.
    pub trusted_ca_file: Option<PathBuf>,
    /// Certificates in PEM of the authority that signs the edge's certificate, where
    /// that is one of our own. It need not be there yet.
    pub edge_ca_file: Option<PathBuf>,
    /// Fills `${e2b.secrets.…}`; without it there are no secrets.
    pub secrets: Option<Arc<dyn SecretSource>>,
    /// Takes what guests log at the service for events; without it that is lost.
    pub log: Option<Arc<dyn LogSink>>,
    pub limits: EgressLimits,
}

/// What all guests together may have open; each has a share of its own beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressLimits {
    /// Connections to the outside through the proxy.
    pub proxied: usize,
    /// Connections to the edge.
    pub to_edge: usize,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self {
            proxied: 8192,
            to_edge: 4096,
        }
    }
}

/// The services of one node.
#[derive(Debug)]
pub struct Egress {
    guests: Arc<Guests>,
    visits: Arc<Visits>,
    ports: ServicePorts,
    parts: Mutex<Option<Parts>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What waits for [`Egress::start`].
#[derive(Debug)]
struct Parts {
    listeners: Listeners,
    forwarder: Arc<Forwarder>,
    events: Arc<Events>,
    proxy: Arc<Proxy>,
}

impl Egress {
    /// Takes ports for the services. They answer from [`Egress::start`] on; what
    /// arrives before waits.
    ///
    /// # Errors
    /// When the host has no free ports, or we may not mark packets.
    pub async fn bind(config: EgressConfig) -> io::Result<Self> {
        let sink = config.log.unwrap_or_else(|| Arc::new(NoLog));
        let secrets = config.secrets.unwrap_or_else(|| Arc::new(NoSecrets));
        let listeners = Listeners::bind().await?;
        let ports = listeners.ports()?;
        let domain = match config.domain.rsplit_once(':') {
            Some((host, _)) => host,
            None => &config.domain,
        };
        let domain = domain.to_ascii_lowercase();
        let guests = Arc::new(Guests::default());
        let servers = Arc::new(Servers::new(config.name_servers));
        let authorities = [&config.trusted_ca_file, &config.edge_ca_file];
        let authorities = authorities.into_iter().flatten().cloned().collect();
        let edge = Edge::new(&domain, config.edge, authorities);
        let visits = Arc::new(Visits::new(&domain));
        let parts = Parts {
            listeners,
            forwarder: Arc::new(Forwarder::new(
                Arc::clone(&guests),
                Arc::clone(&servers),
                &domain,
            )),
            events: Arc::new(Events::new(Arc::clone(&guests), sink)),
            proxy: Arc::new(Proxy::new(
                Arc::clone(&guests),
                servers,
                edge,
                Arc::clone(&visits),
                secrets,
                Arc::new(trust::client(config.trusted_ca_file.as_ref())?),
                config.limits,
            )),
        };
        Ok(Self {
            guests,
            visits,
            ports,
            parts: Mutex::new(Some(parts)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Where the services listen, for the kernel's rules.
    #[must_use]
    pub fn ports(&self) -> ServicePorts {
        self.ports
    }

    /// The socket at which guests look for volumes, for whoever serves those. It is
    /// closed by [`Self::start`] unless it is taken before.
    #[must_use]
    pub fn take_volumes_listener(&self) -> Option<TcpListener> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.as_mut()?.listeners.volumes.take()
    }

    /// Begins to serve. A second call does nothing.
    pub fn start(&self) {
        let parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(parts) = parts else { return };
        let Listeners {
            datagrams,
            streams,
            events,
            proxy,
            edge,
            ..
        } = parts.listeners;
        let (tasks, stop) = (&self.tasks, &self.stop);
        let each = || (tasks.clone(), stop.clone());
        let (inner, end) = each();
        let forwarder = Arc::clone(&parts.forwarder);
        tasks.spawn(forwarder.serve_datagrams(datagrams, inner, end));
        let (inner, end) = each();
        tasks.spawn(parts.forwarder.serve_streams(streams, inner, end));
        let (inner, end) = each();
        tasks.spawn(parts.events.serve(events, inner, end));
        let (inner, end) = each();
        let diverted = Arc::clone(&parts.proxy);
        tasks.spawn(diverted.serve(proxy, Kind::Diverted, inner, end));
        let (inner, end) = each();
        tasks.spawn(parts.proxy.serve(edge, Kind::Edge, inner, end));
    }

    /// A sandbox takes the address at which the host reaches it.
    pub fn enter(&self, address: Ipv4Addr, identity: Identity, rules: Rules) {
        self.guests.enter(address, identity, rules);
    }

    /// A sandbox's rules are others now; what is open and not permitted any more
    /// ends.
    pub fn change(&self, address: Ipv4Addr, rules: Rules) {
        self.guests.change(address, rules);
    }

    /// The sandbox behind an address trusts this authority from now on.
    pub fn trust(&self, address: Ipv4Addr, authority: Arc<Authority>) {
        if let Some(guest) = self.guests.find(address) {
            guest.trust(authority);
        }
    }

    /// Whether the sandbox behind an address trusts an authority already.
    #[must_use]
    pub fn authority(&self, address: Ipv4Addr) -> Option<Arc<Authority>> {
        self.guests.find(address)?.authority()
    }

    /// Whether a request that reaches the edge from `peer` may go to this host, or to
    /// this port of a sandbox. Only connections that come through here are judged.
    #[must_use]
    pub fn permits_visit(
        &self,
        peer: SocketAddr,
        host: Option<&str>,
        sandbox: Option<(&SandboxId, u16)>,
    ) -> bool {
        self.visits.permits(peer, host, sandbox)
    }

    /// The sandbox whose connection reaches the edge from `peer`, if it is one's.
    #[must_use]
    pub fn visitor(&self, peer: SocketAddr) -> Option<SandboxId> {
        self.visits.guest(peer)
    }

    /// A sandbox has left its address.
    pub fn leave(&self, address: Ipv4Addr) {
        self.guests.leave(address);
    }

    /// Ends the services, and every connection through them. Waits at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("services for guests did not end in time");
        }
    }
}

/// A failed accept means that descriptors or memory are short: others end first.
pub(crate) async fn pause_after_failed_accept() {
    const PAUSE: Duration = Duration::from_millis(50);
    tokio::time::sleep(PAUSE).await;
}
