//! As much of DNS messages (RFC 1035) as a forwarder needs. Pure, and bounded on
//! any input: guests and servers may send anything.

use std::net::Ipv4Addr;

use crate::names;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const TYPE_HTTPS: u16 = 65;
const CLASS_IN: u16 = 1;
/// Compression pointers that one name may have.
const MOST_POINTERS: usize = 16;
/// Records that are read of one answer.
const MOST_RECORDS: usize = 256;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const OPCODE: u16 = 0x7800;

/// Response codes that we give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
    Refused = 5,
}

/// What is asked, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    /// What would lead a client to IPv6, which guests do not have.
    Aaaa,
    /// Service bindings: they may hint at addresses and encrypt the server's name.
    Https,
    Other(u16),
}

/// A query with its one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub id: u16,
    /// In the normal form; `None` for a name that is no host name.
    pub name: Option<String>,
    pub kind: Kind,
    recursion_desired: bool,
    /// The question section as it was sent.
    question: Vec<u8>,
}

/// An address that an answer gives for the name that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub address: Ipv4Addr,
    pub ttl_seconds: u32,
}

impl Query {
    /// Reads a query; the error is the code to answer with, if there is anybody to
    /// answer to.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Option<Code>> {
        let flags = u16_at(message, 2).ok_or(None)?;
        if flags & FLAG_RESPONSE != 0 {
            return Err(None);
        }
        if flags & OPCODE != 0 {
            return Err(Some(Code::NotImplemented));
        }
        let malformed = Some(Code::FormatError);
        if u16_at(message, 4) != Some(1) {
            return Err(malformed);
        }
        let (name, end) = name_at(message, HEADER).ok_or(malformed)?;
        let kind = u16_at(message, end).ok_or(malformed)?;
        let class = u16_at(message, end + 2).ok_or(malformed)?;
        let question = message.get(HEADER..end + 4).ok_or(malformed)?;
        if class != CLASS_IN {
            return Err(Some(Code::NotImplemented));
        }
        Ok(Self {
            id: u16_at(message, 0).ok_or(None)?,
            name: names::normal(&name),
            kind: match kind {
                TYPE_A => Kind::A,
                TYPE_AAAA => Kind::Aaaa,
                TYPE_HTTPS => Kind::Https,
                other => Kind::Other(other),
            },
            recursion_desired: flags & FLAG_RECURSION_DESIRED != 0,
            question: question.to_vec(),
        })
    }

    /// A new query for the addresses of `name`, which is in its normal form.
    #[must_use]
    pub(crate) fn for_addresses(id: u16, name: &str) -> Self {
        let mut question = Vec::with_capacity(name.len() + 6);
        for label in name.split('.') {
            // Normal names have labels of at most 63 bytes.
            question.push(u8::try_from(label.len()).unwrap_or(u8::MAX).min(63));
            question.extend_from_slice(&label.as_bytes()[..label.len().min(63)]);
        }
        question.push(0);
        question.extend_from_slice(&TYPE_A.to_be_bytes());
        question.extend_from_slice(&CLASS_IN.to_be_bytes());
        Self {
            id,
            name: Some(name.to_owned()),
            kind: Kind::A,
            recursion_desired: true,
            question,
        }
    }

    /// The query as bytes: the question and nothing else.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let flags = if self.recursion_desired {
            FLAG_RECURSION_DESIRED
        } else {
            0
        };
        self.message(flags, 0)
    }

    /// An answer without records.
    #[must_use]
    pub(crate) fn refusal(&self, code: Code) -> Vec<u8> {
        self.message(self.response_flags(code), 0)
    }

    /// An answer that gives one address.
    #[must_use]
    pub(crate) fn answer(&self, address: Ipv4Addr, ttl_seconds: u32) -> Vec<u8> {
        let mut message = self.message(self.response_flags(Code::NoError), 1);
        message.extend_from_slice(&[0xc0, HEADER as u8]);
        message.extend_from_slice(&TYPE_A.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&ttl_seconds.to_be_bytes());
        message.extend_from_slice(&4_u16.to_be_bytes());
        message.extend_from_slice(&address.octets());
        message
    }

    fn response_flags(&self, code: Code) -> u16 {
        let desired = if self.recursion_desired {
            FLAG_RECURSION_DESIRED
        } else {
            0
        };
        FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | desired | code as u16
    }

    fn message(&self, flags: u16, answers: u16) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.question.len() + 16);
        for field in [self.id, flags, 1, answers, 0, 0] {
            message.extend_from_slice(&field.to_be_bytes());
        }
        message.extend_from_slice(&self.question);
        message
    }

    /// Whether `response` is an answer to this query: id and question are its own.
    #[must_use]
    pub(crate) fn is_answered_by(&self, response: &[u8]) -> bool {
        let Some(flags) = u16_at(response, 2) else {
            return false;
        };
        let question = response.get(HEADER..HEADER + self.question.len());
        u16_at(response, 0) == Some(self.id)
            && flags & FLAG_RESPONSE != 0
            && u16_at(response, 4) == Some(1)
            && question.is_some_and(|question| question.eq_ignore_ascii_case(&self.question))
    }

    /// The addresses that a response gives for this query's name, following aliases
    /// within the response.
    #[must_use]
    pub(crate) fn addresses_in(&self, response: &[u8]) -> Vec<Address> {
        let mut found = Vec::new();
        let Some(asked) = self.name.clone() else {
            return found;
        };
        // Servers put an alias before what it stands for.
        let mut wanted = vec![asked];
        let mut at = HEADER + self.question.len();
        let count = usize::from(u16_at(response, 6).unwrap_or(0)).min(MOST_RECORDS);
        for _ in 0..count {
            let Some((owner, end)) = name_at(response, at) else {
                break;
            };
            let (Some(kind), Some(class), Some(ttl_seconds), Some(length)) = (
                u16_at(response, end),
                u16_at(response, end + 2),
                u32_at(response, end + 4),
                u16_at(response, end + 8),
            ) else {
                break;
            };
            let data = end + 10;
            at = data + usize::from(length);
            let owner = names::normal(&owner);
            let ours = class == CLASS_IN && owner.is_some_and(|owner| wanted.contains(&owner));
            if !ours {
                continue;
            }
            if kind == TYPE_CNAME
                && let Some((alias, _)) = name_at(response, data)
                && let Some(alias) = names::normal(&alias)
            {
                wanted.push(alias);
            } else if kind == TYPE_A
                && length == 4
                && let Some(&[a, b, c, d]) = response.get(data..data + 4)
            {
                found.push(Address {
                    address: Ipv4Addr::new(a, b, c, d),
                    ttl_seconds,
                });
            }
        }
        found
    }
}

/// Whether a response was cut to fit a datagram.
#[must_use]
pub(crate) fn is_truncated(response: &[u8]) -> bool {
    u16_at(response, 2).is_some_and(|flags| flags & FLAG_TRUNCATED != 0)
}

/// An answer to what cannot be read beyond its header.
#[must_use]
pub(crate) fn bare_refusal(message: &[u8], code: Code) -> Option<Vec<u8>> {
    let id = u16_at(message, 0)?;
    let mut answer = Vec::with_capacity(HEADER);
    for field in [id, FLAG_RESPONSE | code as u16, 0, 0, 0, 0] {
        answer.extend_from_slice(&field.to_be_bytes());
    }
    Some(answer)
}

/// Gives a message another id.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
}

/// The name at `at`, with dots, and where what follows it begins.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    let mut pointers = 0;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                // Other bytes than ASCII make it no host name, which is all that
                // matters of them.
                name.extend(label.iter().map(|byte| char::from(*byte)));
                if name.len() > 1024 {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                pointers += 1;
                if pointers > MOST_POINTERS {
                    return None;
                }
                end.get_or_insert(at + 2);
                at = target;
            }
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_read_and_its_answer_too() {
        let query = Query::for_addresses(7, "a.example.com");
        let read = Query::parse(&query.to_bytes()).unwrap();
        assert_eq!(read, query);
        let answer = read.answer([203, 0, 113, 7].into(), 60);
        assert!(query.is_answered_by(&answer));
        assert!(!Query::for_addresses(8, "a.example.com").is_answered_by(&answer));
        assert!(!Query::for_addresses(7, "b.example.com").is_answered_by(&answer));
        let found = query.addresses_in(&answer);
        assert_eq!(found[0].address, Ipv4Addr::new(203, 0, 113, 7));
        assert_eq!((found.len(), found[0].ttl_seconds), (1, 60));
    }

    #[test]
    fn an_address_of_another_name_in_the_answer_does_not_count() {
        let query = Query::for_addresses(7, "a.example.com");
        let mut answer = query.refusal(Code::NoError);
        answer[7] = 3;
        let mut record = |owner: &[u8], kind: u16, data: &[u8]| {
            answer.extend_from_slice(owner);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 9]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(data);
        };
        record(b"\x04evil\x04test\x00", TYPE_A, &[10, 0, 0, 1]);
        record(&[0xc0, 12], TYPE_CNAME, b"\x03cdn\x04test\x00");
        record(b"\x03CDN\x04test\x00", TYPE_A, &[203, 0, 113, 9]);
        let found = query.addresses_in(&answer);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, Ipv4Addr::new(203, 0, 113, 9));
    }

    #[test]
    fn what_is_no_query_gets_the_right_answer_or_none() {
        assert_eq!(Query::parse(&[]), Err(None));
        let mut message = Query::for_addresses(1, "x.test").to_bytes();
        message[2] |= 0x80;
        assert_eq!(Query::parse(&message), Err(None));
        message[2] = 0x28;
        assert_eq!(Query::parse(&message), Err(Some(Code::NotImplemented)));
        message[2] = 0;
        message[5] = 2;
        assert_eq!(Query::parse(&message), Err(Some(Code::FormatError)));
    }

    #[test]
    fn a_name_that_points_at_itself_ends() {
        let mut message = Query::for_addresses(1, "x.test").to_bytes();
        message[HEADER] = 0xc0;
        message[HEADER + 1] = HEADER as u8;
        assert_eq!(Query::parse(&message), Err(Some(Code::FormatError)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::parse(&bytes);
            let query = Query::for_addresses(1, "x.test");
            let _ = (query.is_answered_by(&bytes), query.addresses_in(&bytes));
            let mut answer = query.answer([203, 0, 113, 1].into(), 1);
            answer.extend(bytes);
            answer[7] = 200;
            let _ = query.addresses_in(&answer);
        }
    }
}
