//! Connections of guests to the edge that are open now, by the address at which the
//! edge sees them: with it the edge can ask, request by request, whether the guest's
//! rules permit it. The names at a connection's beginning do not tell that: a client
//! may go on to another host, or name a sandbox in headers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hearth_ids::SandboxId;

use crate::guests::Guest;
use crate::names;

#[derive(Debug)]
struct Visit {
    guest: Arc<Guest>,
    /// The edge's port that the guest dialled.
    port: u16,
    serial: u64,
}

/// The open connections.
#[derive(Debug)]
pub(crate) struct Visits {
    /// Sandboxes' names end in this; begins with a dot.
    domain: String,
    open: RwLock<HashMap<SocketAddr, Visit>>,
    /// Their number, so that visitors from elsewhere meet no lock.
    count: AtomicUsize,
    /// Of the next one.
    serial: AtomicU64,
}

/// Keeps a connection known until it is dropped.
#[derive(Debug)]
pub(crate) struct Known {
    visits: Arc<Visits>,
    address: SocketAddr,
    /// The system may give the address to another connection before this is dropped;
    /// that one stays known.
    serial: u64,
}

impl Visits {
    pub(crate) fn new(domain: &str) -> Self {
        Self {
            domain: format!(".{domain}"),
            open: RwLock::default(),
            count: AtomicUsize::new(0),
            serial: AtomicU64::new(0),
        }
    }

    /// Makes a connection known; nothing may have been sent on it yet. `address` is
    /// our own end of it.
    pub(crate) fn open(
        self: &Arc<Self>,
        address: SocketAddr,
        guest: Arc<Guest>,
        port: u16,
    ) -> Known {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let visit = Visit {
            guest,
            port,
            serial,
        };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(address, visit);
        self.count.store(open.len(), Ordering::Release);
        Known {
            visits: Arc::clone(self),
            address,
            serial,
        }
    }

    /// The sandbox that the connection from `peer` is of, where it is one's.
    pub(crate) fn guest(&self, peer: SocketAddr) -> Option<SandboxId> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&peer)
            .map(|visit| visit.guest.identity.sandbox_id.clone())
    }

    /// Whether a request of `peer` is permitted; whoever is no guest may send any.
    pub(crate) fn permits(
        &self,
        peer: SocketAddr,
        host: Option<&str>,
        sandbox: Option<(&SandboxId, u16)>,
    ) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return true;
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(visit) = open.get(&peer) else {
            return true;
        };
        let rules = visit.guest.rules();
        // Where headers name the sandbox, a host of elsewhere that the guest may reach
        // (`sandbox.example.com`) says nothing about it.
        let host = host
            .and_then(names::normal)
            .filter(|host| sandbox.is_none() || host.ends_with(&self.domain));
        // However the sandbox was named: with the id of a client, or in headers.
        let own = sandbox.map(|(id, port)| format!("{port}-{id}{}", self.domain));
        rules.edge_permits(visit.port, &[host.as_deref(), own.as_deref()])
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut open = self
            .visits
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let this = |visit: &Visit| visit.serial == self.serial;
        if open.get(&self.address).is_some_and(this) {
            open.remove(&self.address);
        }
        self.visits.count.store(open.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::{Guests, Identity};
    use crate::rules::Rules;
    use std::net::Ipv4Addr;

    #[test]
    fn each_request_of_a_guest_is_judged_by_whom_it_is_for() {
        let guests = Guests::default();
        let address = Ipv4Addr::new(10, 11, 0, 1);
        let (allowed, other) = (SandboxId::random(), SandboxId::random());
        let rules = |json: String| Rules::parse(None, &json).unwrap();
        let only = format!(r#"{{"allowOut":["80-{allowed}.box.test"],"denyOut":["0.0.0.0/0"]}}"#);
        let visitor = SandboxId::random();
        guests.enter(address, Identity::new(visitor.clone()), rules(only));
        let visits = Arc::new(Visits::new("box.test"));
        let peer: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let known = visits.open(peer, guests.find(address).unwrap(), 3000);
        let mapped = "[::ffff:127.0.0.1]:4000".parse().unwrap();
        assert_eq!(visits.guest(mapped), Some(visitor));
        assert_eq!(visits.guest("127.0.0.1:4001".parse().unwrap()), None);
        let host = |id: &SandboxId| format!("80-{id}.box.test");
        let visit = |host: &str, sandbox| visits.permits(peer, Some(host), sandbox);

        assert!(visit(&host(&allowed), Some((&allowed, 80))));
        assert!(visit(
            &format!("80-{allowed}-6532622b.box.test"),
            Some((&allowed, 80))
        ));
        assert!(!visit(&host(&other), Some((&other, 80))));
        assert!(!visit("localhost", Some((&other, 80))), "named in headers");
        assert!(!visit("api.box.test", None), "the API");
        assert!(!visits.permits("[::ffff:127.0.0.1]:4000".parse().unwrap(), None, None));
        let elsewhere = "127.0.0.1:4001".parse().unwrap();
        assert!(visits.permits(elsewhere, Some("api.box.test"), None));

        let denied = format!(r#"{{"denyOut":["80-{other}.box.test:3443"]}}"#);
        guests.change(address, rules(denied));
        assert!(visit("api.box.test", None) && visit(&host(&allowed), Some((&allowed, 80))));
        for host in [
            host(&other),
            format!("80-{other}-x.box.test"),
            "localhost".to_owned(),
        ] {
            assert!(!visit(&host, Some((&other, 80))), "{host}");
        }
        assert!(visit(&format!("81-{other}.box.test"), Some((&other, 81))));
        drop(known);
        assert!(visit(&host(&other), Some((&other, 80))));
        assert_eq!(visits.guest(peer), None);
    }

    fn guest_with(rules: &str) -> Arc<Guest> {
        let (guests, address) = (Guests::default(), Ipv4Addr::new(10, 11, 0, 1));
        let rules = Rules::parse(None, rules).unwrap();
        guests.enter(address, Identity::new(SandboxId::random()), rules);
        guests.find(address).unwrap()
    }

    #[test]
    fn a_host_of_elsewhere_opens_no_sandbox() {
        let visits = Arc::new(Visits::new("box.test"));
        let peer: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let other = SandboxId::random();
        for (allowed, host, permitted) in [
            ("sandbox.example.com", "sandbox.example.com", false),
            ("sandbox.box.test", "sandbox.box.test", true),
            ("*", "sandbox.example.com", true),
        ] {
            let rules = format!(r#"{{"allowOut":["{allowed}"],"denyOut":["0.0.0.0/0"]}}"#);
            let _known = visits.open(peer, guest_with(&rules), 3000);
            let visit = visits.permits(peer, Some(host), Some((&other, 80)));
            assert_eq!(visit, permitted, "{allowed}");
        }
    }

    #[test]
    fn an_address_that_is_used_again_stays_known() {
        let visits = Arc::new(Visits::new("box.test"));
        let peer: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let former = visits.open(peer, guest_with("{}"), 3000);
        let offline = guest_with(r#"{"denyOut":["0.0.0.0/0"]}"#);
        let present = visits.open(peer, offline, 3000);
        drop(former);
        assert!(!visits.permits(peer, Some("api.box.test"), None));
        drop(present);
        assert!(visits.permits(peer, Some("api.box.test"), None));
    }
}
