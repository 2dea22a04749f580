//! Who is behind which address: the sandboxes that use the network now, with their
//! rules. Requests are told apart by their source address alone; the kernel drops
//! packets with addresses that are not their sender's.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hearth_ids::SandboxId;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::allowance::Allowance;
use crate::authority::Authority;
use crate::dns::message::Address;
use crate::rules::Rules;

/// Questions of one guest that are looked up at a time.
const MOST_LOOKUPS: usize = 64;
/// Connections of one guest through the proxy at a time.
const MOST_CONNECTIONS: usize = 1024;
/// Connections of one guest to other sandboxes and the API at a time.
const MOST_EDGE_CONNECTIONS: usize = 64;
/// Connections of one guest to its name server at a time.
const MOST_NAME_STREAMS: usize = 8;
/// Connections of one guest to the service for events at a time.
const MOST_EVENT_CONNECTIONS: usize = 8;
/// Bytes of log messages of one guest, in the long run and at once.
const LOG_BYTES_PER_SECOND: f64 = 32.0 * 1024.0;
const LOG_BURST_BYTES: f64 = 512.0 * 1024.0;
/// Answers that are remembered of one guest.
const MOST_ANSWERS: usize = 2048;
/// How long an answer is remembered, whatever its own time: programs keep
/// addresses longer than they should.
const ANSWER_LIFETIME: Duration = Duration::from_secs(3600);

/// Who a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub sandbox_id: SandboxId,
    pub team_id: String,
}

impl Identity {
    #[cfg(test)]
    pub(crate) fn new(sandbox_id: SandboxId) -> Self {
        Self {
            sandbox_id,
            team_id: String::new(),
        }
    }
}

/// A sandbox that is on the network.
#[derive(Debug)]
pub struct Guest {
    pub identity: Identity,
    rules: watch::Sender<Arc<Rules>>,
    /// Present where requests are changed, or once were.
    authority: Mutex<Option<Arc<Authority>>>,
    answers: Mutex<VecDeque<Answer>>,
    pub(crate) lookups: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) edge_connections: Arc<Semaphore>,
    pub(crate) name_streams: Arc<Semaphore>,
    pub(crate) event_connections: Arc<Semaphore>,
    pub(crate) log_allowance: Allowance,
    /// Cancelled when the sandbox has left.
    pub(crate) gone: CancellationToken,
}

#[derive(Debug)]
struct Answer {
    name: String,
    address: Ipv4Addr,
    at: Instant,
}

impl Guest {
    fn new(identity: Identity, rules: Rules) -> Self {
        Self {
            identity,
            rules: watch::Sender::new(Arc::new(rules)),
            authority: Mutex::new(None),
            answers: Mutex::new(VecDeque::new()),
            lookups: Arc::new(Semaphore::new(MOST_LOOKUPS)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            edge_connections: Arc::new(Semaphore::new(MOST_EDGE_CONNECTIONS)),
            name_streams: Arc::new(Semaphore::new(MOST_NAME_STREAMS)),
            event_connections: Arc::new(Semaphore::new(MOST_EVENT_CONNECTIONS)),
            log_allowance: Allowance::full(LOG_BYTES_PER_SECOND, LOG_BURST_BYTES),
            gone: CancellationToken::new(),
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    /// The authority that the sandbox trusts.
    #[must_use]
    pub fn authority(&self) -> Option<Arc<Authority>> {
        let authority = self.authority.lock();
        authority.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn trust(&self, authority: Arc<Authority>) {
        let mut own = self
            .authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *own = Some(authority);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.subscribe()
    }

    /// Records what the forwarder answered for `name`.
    pub(crate) fn remember(&self, name: &str, addresses: &[Address]) {
        let mut answers = self.answers();
        let now = Instant::now();
        for Address { address, .. } in addresses {
            answers.retain(|known| known.address != *address || known.name != name);
            if answers.len() >= MOST_ANSWERS {
                answers.pop_front();
            }
            answers.push_back(Answer {
                name: name.to_owned(),
                address: *address,
                at: now,
            });
        }
    }

    /// Whether the forwarder gave `address` for `name`.
    pub(crate) fn knows(&self, address: Ipv4Addr, name: &str) -> bool {
        self.answers().iter().any(|known| {
            known.address == address && known.name == name && known.at.elapsed() < ANSWER_LIFETIME
        })
    }

    /// The names for which the forwarder gave `address`, the latest first.
    pub(crate) fn names_of(&self, address: Ipv4Addr) -> Vec<String> {
        self.answers()
            .iter()
            .rev()
            .filter(|known| known.address == address && known.at.elapsed() < ANSWER_LIFETIME)
            .map(|known| known.name.clone())
            .collect()
    }

    fn answers(&self) -> MutexGuard<'_, VecDeque<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandboxes on the network, by the addresses at which the host reaches them.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    by_address: RwLock<HashMap<Ipv4Addr, Arc<Guest>>>,
}

impl Guests {
    /// A sandbox takes an address. Whoever had it is gone.
    pub(crate) fn enter(&self, address: Ipv4Addr, identity: Identity, rules: Rules) {
        let guest = Arc::new(Guest::new(identity, rules));
        let before = self
            .by_address
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address, guest);
        if let Some(before) = before {
            before.gone.cancel();
        }
    }

    /// A sandbox's rules are others now. What is open and no longer permitted ends.
    pub(crate) fn change(&self, address: Ipv4Addr, rules: Rules) {
        if let Some(guest) = self.find(address) {
            guest.rules.send_replace(Arc::new(rules));
        }
    }

    /// A sandbox has left; its connections end.
    pub(crate) fn leave(&self, address: Ipv4Addr) {
        let before = self
            .by_address
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&address);
        if let Some(before) = before {
            before.gone.cancel();
        }
    }

    #[must_use]
    pub(crate) fn find(&self, address: Ipv4Addr) -> Option<Arc<Guest>> {
        self.by_address
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&address)
            .cloned()
    }
}
