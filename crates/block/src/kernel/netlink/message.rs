//! The messages: a netlink header, a generic netlink header and attributes, all in native
//! byte order, each attribute padded to four bytes. What the kernel sends is parsed with
//! every length checked.
//!
//! Source: `include/uapi/linux/{netlink,genetlink,nbd-netlink}.h` of Linux.

use rustix::io::Errno;

/// The family that knows the others.
pub(super) const CONTROL_FAMILY: u16 = 0x10;

const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;

const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that are flags.
const TYPE_FLAGS: u16 = 0b11 << 14;

const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONNECTION_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCKET_ITEM: u16 = 1;
const SOCKET_DESCRIPTOR: u16 = 1;

/// A connection that the kernel takes over.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    /// Number of the socket's descriptor.
    pub(super) socket: u32,
    pub(super) size_bytes: u64,
    pub(super) sector_bytes: u64,
    pub(super) flags: u64,
    /// How long requests wait when the connection breaks, in seconds.
    pub(super) patience_s: u64,
    pub(super) identifier: &'a str,
}

/// A request, without what its sender adds.
#[derive(Debug)]
pub(super) struct Message {
    command: u8,
    attributes: Vec<u8>,
}

/// What a message of the kernel's says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request is done.
    Done,
    /// The family's or the device's number.
    Number(u32),
}

pub(super) fn find_family() -> Message {
    let mut attributes = Vec::new();
    attribute(&mut attributes, FAMILY_NAME, b"nbd\0");
    Message {
        command: GET_FAMILY,
        attributes,
    }
}

pub(super) fn connect(connection: &Connection<'_>) -> Message {
    Message {
        command: CONNECT,
        attributes: connection.attributes(),
    }
}

pub(super) fn reconfigure(index: u32, connection: &Connection<'_>) -> Message {
    let mut attributes = Vec::new();
    attribute(&mut attributes, INDEX, &index.to_ne_bytes());
    attributes.extend(connection.attributes());
    Message {
        command: RECONFIGURE,
        attributes,
    }
}

pub(super) fn disconnect(index: u32) -> Message {
    let mut attributes = Vec::new();
    attribute(&mut attributes, INDEX, &index.to_ne_bytes());
    Message {
        command: DISCONNECT,
        attributes,
    }
}

impl Connection<'_> {
    fn attributes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, number) in [
            (SIZE_BYTES, self.size_bytes),
            (BLOCK_SIZE_BYTES, self.sector_bytes),
            (SERVER_FLAGS, self.flags),
            (DEAD_CONNECTION_TIMEOUT, self.patience_s),
        ] {
            attribute(&mut bytes, kind, &number.to_ne_bytes());
        }
        let name = [self.identifier.as_bytes(), b"\0"].concat();
        attribute(&mut bytes, BACKEND_IDENTIFIER, &name);
        let (mut item, mut items) = (Vec::new(), Vec::new());
        attribute(&mut item, SOCKET_DESCRIPTOR, &self.socket.to_ne_bytes());
        attribute(&mut items, SOCKET_ITEM | NESTED, &item);
        attribute(&mut bytes, SOCKETS | NESTED, &items);
        bytes
    }
}

/// Appends one; `content` is short, as all of them are.
fn attribute(to: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + content.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(content);
    to.resize(to.len().next_multiple_of(4), 0);
}

impl Message {
    pub(super) fn encode(&self, family: u16, sequence: u32) -> Vec<u8> {
        let length = HEADER_BYTES + GENERIC_BYTES + self.attributes.len();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(family.to_ne_bytes());
        bytes.extend((REQUEST | ACKNOWLEDGE).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([self.command, 1, 0, 0]);
        bytes.extend(&self.attributes);
        bytes
    }
}

/// What the messages of one datagram say to the request of this number. Others are passed
/// over; one that is cut short ends the list as an error.
pub(super) fn answers(datagram: &[u8], sequence: u32) -> Vec<Result<Answer, Errno>> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let Some((header, body, next)) = split(rest) else {
            found.push(Err(Errno::BADMSG));
            break;
        };
        rest = next;
        if header.sequence != sequence {
            continue;
        }
        if header.kind == ERROR {
            found.push(match number(body) {
                Some(0) => Ok(Answer::Done),
                Some(error) => Err(Errno::from_raw_os_error(
                    error.cast_signed().saturating_neg(),
                )),
                None => Err(Errno::BADMSG),
            });
        } else if let Some(number) = told(header.kind, body) {
            found.push(Ok(Answer::Number(number)));
        }
    }
    found
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The first message of a datagram: its header, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let message = bytes.get(..length)?;
    let header = Header {
        kind: short(message.get(4..)?)?,
        sequence: number(message.get(8..)?)?,
    };
    let body = message.get(HEADER_BYTES..)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((header, body, &bytes[next..]))
}

/// The number that a family's answer or the driver's tells.
fn told(kind: u16, body: &[u8]) -> Option<u32> {
    let mut attributes = body.get(GENERIC_BYTES..)?;
    loop {
        let length = usize::from(short(attributes)?);
        let own = short(attributes.get(2..)?)? & !TYPE_FLAGS;
        let content = attributes.get(ATTRIBUTE_BYTES..length)?;
        match (kind, own) {
            (CONTROL_FAMILY, FAMILY_ID) => return short(content).map(u32::from),
            (CONTROL_FAMILY, _) => {}
            (_, INDEX) => return number(content),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn short(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|it| u16::from_ne_bytes(*it))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|it| u32::from_ne_bytes(*it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_kernel(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answered(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![1, 1, 0, 0];
        for (kind, content) in attributes {
            attribute(&mut body, *kind, content);
        }
        from_kernel(kind, 7, &body)
    }

    /// An example of `NBD_CMD_CONNECT`, byte by byte.
    #[test]
    fn a_connect_is_what_the_kernel_reads() {
        let connection = Connection {
            socket: 9,
            size_bytes: 1 << 20,
            sector_bytes: 512,
            flags: 0b101,
            patience_s: 60,
            identifier: "sb-1",
        };
        let bytes = connect(&connection).encode(0x1c, 3);
        let expected: Vec<u8> = [
            &[
                128_u8, 0, 0, 0, 0x1c, 0, 5, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0,
            ][..],
            &[12, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0],
            &[12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            &[12, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 8, 0, 60, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 10, 0, b's', b'b', b'-', b'1', 0, 0, 0, 0],
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[4..], expected[4..]);
        assert_eq!(
            bytes.len(),
            usize::try_from(number(&bytes).unwrap()).unwrap()
        );
    }

    #[test]
    fn answers_are_numbers_errors_and_ends() {
        let family = answered(
            CONTROL_FAMILY,
            &[(FAMILY_NAME, b"nbd\0"), (FAMILY_ID, &[0x1c, 0])],
        );
        let device = answered(0x1c, &[(INDEX, &5_u32.to_ne_bytes())]);
        let done = from_kernel(ERROR, 7, &[0; 20]);
        let busy = from_kernel(ERROR, 7, &[&(-16_i32).to_ne_bytes()[..], &[0; 16]].concat());
        let of_another = from_kernel(ERROR, 6, &[0; 20]);
        let both = [family, of_another.clone(), done.clone()].concat();
        assert_eq!(
            answers(&both, 7),
            [Ok(Answer::Number(0x1c)), Ok(Answer::Done)]
        );
        let both = [device, done].concat();
        assert_eq!(answers(&both, 7), [Ok(Answer::Number(5)), Ok(Answer::Done)]);
        assert_eq!(answers(&busy, 7), [Err(Errno::BUSY)]);
        assert_eq!(answers(&of_another, 7), []);
        assert_eq!(answers(&busy[..19], 7), [Err(Errno::BADMSG)]);
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            answers(&bytes, 7);
        }

        #[test]
        fn no_message_is_cut_too_short(cut in 0_usize..60, kind in any::<u16>()) {
            let whole = answered(kind, &[(FAMILY_ID, &[1, 0]), (INDEX, &[1, 0, 0, 0])]);
            answers(&whole[..cut.min(whole.len())], 7);
        }
    }
}
