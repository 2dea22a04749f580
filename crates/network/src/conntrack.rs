//! Forgets tracked connections, so that nothing of a slot's last sandbox is still
//! let through to its next one. Speaks ctnetlink (`nfnetlink_conntrack.h`), in the
//! calling thread's namespace.

use std::io;
use std::net::Ipv4Addr;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::error::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

const TUPLE_ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// The two top bits of an attribute's type are flags (nested, byte order).
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// Forgets every connection of this namespace.
pub(crate) fn flush() -> Result<()> {
    let action = "flush tracked connections";
    let mut session = Session::open().map_err(Error::io(action))?;
    session.delete(0, &[]).map_err(Error::io(action))
}

/// Forgets this namespace's connections from or to `address`. Returns how many.
pub(crate) fn forget(address: Ipv4Addr) -> Result<usize> {
    let action = format!("forget tracked connections of {address}");
    let mut session = Session::open().map_err(Error::io(action.as_str()))?;
    let found = session
        .connections_of(address)
        .map_err(Error::io(action.as_str()))?;
    for connection in &found {
        match session.delete(AF_INET, connection) {
            // It ended by itself in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other.map_err(Error::io(action.as_str()))?,
        }
    }
    Ok(found.len())
}

const AF_INET: u8 = 2;

struct Session {
    socket: Socket,
    sequence: u32,
}

impl Session {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn send(&mut self, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = HEADER + FAMILY_HEADER + attributes.len();
        let length = u32::try_from(length).map_err(|_| malformed())?;
        let mut message = Vec::with_capacity(HEADER + FAMILY_HEADER + attributes.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((FLAG_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        self.socket.send(&message, 0).map(drop)
    }

    /// Deletes the connection that `attributes` name; all of them if there are none.
    fn delete(&mut self, family: u8, attributes: &[u8]) -> io::Result<()> {
        self.send(DELETE, FLAG_ACK, family, attributes)?;
        self.receive(|_| {})
    }

    /// The attributes that name each connection of `address`.
    fn connections_of(&mut self, address: Ipv4Addr) -> io::Result<Vec<Vec<u8>>> {
        self.send(GET, FLAG_DUMP, AF_INET, &[])?;
        let mut found = Vec::new();
        self.receive(|body| found.extend(naming_attributes(body, address)))?;
        Ok(found)
    }

    /// Hands each message's body to `each` until the kernel says that it is done.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= HEADER {
                let length = usize::try_from(u32_at(rest, 0)?).map_err(|_| malformed())?;
                let message = rest.get(..length).filter(|m| m.len() >= HEADER);
                let message = message.ok_or_else(malformed)?;
                let ours = u32_at(message, 8)? == self.sequence;
                match u16_at(message, 4)? {
                    _ if !ours => {}
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => {
                        let code = u32_at(message, HEADER)?.cast_signed();
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(code.saturating_neg()))
                        };
                    }
                    _ => each(message.get(HEADER + FAMILY_HEADER..).unwrap_or_default()),
                }
                rest = rest.get(aligned(length)..).unwrap_or_default();
            }
        }
    }
}

/// The attributes that name a connection (its original tuple and zone), if one of
/// the tuple's addresses is `address`.
fn naming_attributes(body: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let tuple = attribute(body, TUPLE_ORIGINAL)?;
    let addresses = attribute(payload_of(tuple), TUPLE_IP)?;
    let wanted = address.octets();
    let matches = [IPV4_SOURCE, IPV4_DESTINATION].into_iter().any(|kind| {
        attribute(payload_of(addresses), kind).map(payload_of) == Some(wanted.as_slice())
    });
    if !matches {
        return None;
    }
    let mut name = padded(tuple);
    name.extend(attribute(body, ZONE).map(padded).unwrap_or_default());
    Some(name)
}

/// The first attribute of type `kind`, header included.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= ATTRIBUTE_HEADER {
        let length = usize::from(u16_at(attributes, 0).ok()?);
        let this = attributes
            .get(..length)
            .filter(|a| a.len() >= ATTRIBUTE_HEADER)?;
        if u16_at(this, 2).ok()? & ATTRIBUTE_TYPE == kind {
            return Some(this);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    None
}

fn payload_of(attribute: &[u8]) -> &[u8] {
    attribute.get(ATTRIBUTE_HEADER..).unwrap_or_default()
}

fn padded(attribute: &[u8]) -> Vec<u8> {
    let mut bytes = attribute.to_vec();
    bytes.resize(aligned(attribute.len()), 0);
    bytes
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    let field = bytes
        .get(at..at + 2)
        .and_then(|field| field.try_into().ok());
    field.map(u16::from_ne_bytes).ok_or_else(malformed)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    field.map(u32::from_ne_bytes).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attr(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend((kind | 0x8000).to_ne_bytes());
        bytes.extend(payload);
        padded(&bytes)
    }

    fn connection(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let addresses = [
            attr(IPV4_SOURCE, &source),
            attr(IPV4_DESTINATION, &destination),
        ]
        .concat();
        let tuple = [
            attr(TUPLE_IP, &addresses),
            attr(2, &[attr(1, &[6])].concat()),
        ]
        .concat();
        [
            attr(TUPLE_ORIGINAL, &tuple),
            attr(2, &tuple),
            attr(ZONE, &[0, 7]),
        ]
        .concat()
    }

    #[test]
    fn a_connection_is_found_by_either_address_and_named_with_its_zone() {
        let body = connection([10, 11, 0, 1], [198, 51, 100, 2]);
        for address in [[10, 11, 0, 1], [198, 51, 100, 2]] {
            let name = naming_attributes(&body, address.into()).unwrap();
            assert!(attribute(&name, TUPLE_ORIGINAL).is_some());
            assert_eq!(payload_of(attribute(&name, ZONE).unwrap()), [0, 7]);
        }
        assert_eq!(naming_attributes(&body, Ipv4Addr::new(10, 11, 0, 2)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = naming_attributes(&bytes, Ipv4Addr::LOCALHOST);
        }
    }
}
