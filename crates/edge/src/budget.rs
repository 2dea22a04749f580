//! How many connections of clients there may be, on all listeners together and from
//! one address. A part is for this machine's own clients alone: whatever strangers
//! do, its owner and its own services get in.

use hearth_util::LockExt as _;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections that several servers share. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    /// For clients on loopback.
    reserved: Arc<Semaphore>,
    /// 0: any number.
    per_peer: usize,
    peers: Mutex<HashMap<IpAddr, usize>>,
}

/// The permission to accept one more.
#[derive(Debug)]
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    reserved: bool,
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    _permit: OwnedSemaphorePermit,
    counted: Option<(IpAddr, Arc<Inner>)>,
}

impl Budget {
    /// `most` connections in all, at most `per_peer` from one address (0: any number;
    /// those on loopback are not counted), and beside them `reserved` from loopback.
    #[must_use]
    pub fn new(most: usize, per_peer: usize, reserved: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                all: Arc::new(Semaphore::new(most)),
                reserved: Arc::new(Semaphore::new(reserved)),
                per_peer,
                peers: Mutex::default(),
            }),
        }
    }

    /// Waits until one more may be accepted.
    pub(crate) async fn room(&self) -> Room {
        let all = Arc::clone(&self.inner.all).acquire_owned();
        let reserved = Arc::clone(&self.inner.reserved).acquire_owned();
        // Neither is ever closed.
        tokio::select! {
            biased;
            Ok(permit) = all => Room { permit, reserved: false },
            Ok(permit) = reserved => Room { permit, reserved: true },
            else => std::future::pending().await,
        }
    }

    /// Counts the connection that was accepted; `None` when its address has too many,
    /// or there is only what is kept for others.
    pub(crate) fn admit(&self, room: Room, peer: IpAddr) -> Option<ConnectionGuard> {
        let peer = client(peer);
        let local = peer.is_loopback();
        let inner = &self.inner;
        let permit = match room.reserved && !local {
            // A listener may have waited with reserved room for long: look whether
            // others have left since.
            true => Arc::clone(&inner.all).try_acquire_owned().ok()?,
            false => room.permit,
        };
        let mut counted = None;
        if !local && inner.per_peer > 0 {
            let mut peers = inner.peers();
            let count = peers.entry(peer).or_default();
            if *count >= inner.per_peer {
                return None;
            }
            *count += 1;
            counted = Some((peer, Arc::clone(inner)));
        }
        Some(ConnectionGuard {
            _permit: permit,
            counted,
        })
    }
}

impl Inner {
    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock_unpoisoned()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let Some((peer, inner)) = self.counted.take() else {
            return;
        };
        let mut peers = inner.peers();
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// Whose an address is: with IPv6 a customer has a whole network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    async fn connect(budget: &Budget, from: &str) -> Option<ConnectionGuard> {
        let room = budget.room().now_or_never()?;
        budget.admit(room, address(from))
    }

    #[tokio::test]
    async fn one_address_gets_its_share_and_no_more() {
        let budget = Budget::new(10, 2, 0);
        let first = connect(&budget, "198.51.100.1").await;
        let second = connect(&budget, "::ffff:198.51.100.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(connect(&budget, "198.51.100.1").await.is_none());
        let other = connect(&budget, "198.51.100.2").await;
        assert!(other.is_some());
        drop(first);
        assert!(connect(&budget, "198.51.100.1").await.is_some());
        // A network of IPv6 is one client.
        let guards = [
            connect(&budget, "2001:db8::1").await,
            connect(&budget, "2001:db8::2").await,
        ];
        assert!(guards.iter().all(Option::is_some));
        assert!(connect(&budget, "2001:db8::ffff:3").await.is_none());
        drop((second, other, guards));
        assert!(budget.inner.peers().is_empty());
    }

    #[tokio::test]
    async fn strangers_leave_room_for_this_machine() {
        let budget = Budget::new(2, 0, 1);
        let strangers = [
            connect(&budget, "198.51.100.1").await,
            connect(&budget, "198.51.100.2").await,
        ];
        assert!(strangers.iter().all(Option::is_some));
        assert!(connect(&budget, "198.51.100.3").await.is_none());
        let own = connect(&budget, "127.0.0.1").await;
        assert!(own.is_some());
        // Full: the next one waits.
        assert!(budget.room().now_or_never().is_none());
        drop(strangers);
        assert!(connect(&budget, "198.51.100.3").await.is_some());
    }

    /// As a listener does that had nothing to accept meanwhile.
    #[tokio::test]
    async fn reserved_room_that_waited_keeps_nobody_out() {
        let budget = Budget::new(1, 0, 1);
        let stranger = connect(&budget, "198.51.100.1").await;
        let room = budget.room().await;
        assert!(room.reserved);
        drop(stranger);
        let next = budget.admit(room, address("198.51.100.2"));
        assert!(next.is_some());
        // What it did not need is there for this machine again.
        assert!(connect(&budget, "127.0.0.1").await.is_some());
    }
}
