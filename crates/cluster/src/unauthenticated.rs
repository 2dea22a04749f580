//! Connections that have shown no certificate: few at a time, and fewer of one address, so
//! that nobody keeps members out by holding many open.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Unauthenticated {
    most: usize,
    most_of_one: usize,
    here: Mutex<Here>,
}

#[derive(Debug, Default)]
struct Here {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One of them, until it ends or has shown who it is.
#[derive(Debug)]
pub(crate) struct Pending {
    among: Arc<Unauthenticated>,
    address: IpAddr,
}

impl Unauthenticated {
    /// `most` in all, and `most_of_one` of an address.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_one,
            here: Mutex::default(),
        })
    }

    /// Nothing where there are too many already.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Pending> {
        let address = source(address);
        let mut here = self.here();
        let all = here.all;
        let of_one = here.of.entry(address).or_default();
        if all >= self.most || *of_one >= self.most_of_one {
            if *of_one == 0 {
                here.of.remove(&address);
            }
            return None;
        }
        *of_one += 1;
        here.all += 1;
        drop(here);
        Some(Pending {
            among: Arc::clone(self),
            address,
        })
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut here = self.among.here();
        here.all -= 1;
        if let Some(of_one) = here.of.get_mut(&self.address) {
            *of_one -= 1;
            if *of_one == 0 {
                here.of.remove(&self.address);
            }
        }
    }
}

/// Whom an address counts for: of IPv6 a network of 64 bits, which one machine has whole.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn there_are_so_many_of_one_address_and_in_all() {
        let unauthenticated = Unauthenticated::new(3, 2);
        let (one, other) = (address("192.0.2.1"), address("2001:db8::1"));
        let first = unauthenticated.admit(one).expect("the first");
        let second = unauthenticated.admit(address("::ffff:192.0.2.1"));
        let second = second.expect("another of the same");
        assert!(unauthenticated.admit(one).is_none());
        let third = unauthenticated.admit(other).expect("of another address");
        assert!(
            unauthenticated.admit(address("2001:db8:0:1::1")).is_none(),
            "all"
        );
        drop(first);
        let fourth = unauthenticated.admit(address("2001:db8::2"));
        assert!(fourth.is_some(), "of the same network");
        assert!(unauthenticated.admit(other).is_none());
        drop((second, third, fourth));
        let here = unauthenticated.here();
        assert!((here.all, here.of.len()) == (0, 0), "{here:?}");
    }
}
