//! What a forwarder needs of DNS messages, over `hickory-proto`. Pure, and bounded on
//! any input: guests and servers may send anything.
//!
//! Only what is asked about is decoded: a forwarded message may hold what neither side
//! of us knows, and passes as it came.

use std::net::Ipv4Addr;

use hickory_proto::op::{self, Header, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::names;

/// Records that are read of one answer.
const MOST_RECORDS: u16 = 256;

/// A query with its one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub id: u16,
    /// In the normal form; `None` for a name that is not a host name.
    pub name: Option<String>,
    pub kind: RecordType,
    recursion_desired: bool,
    question: op::Query,
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
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Option<ResponseCode>> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder).map_err(|_| None)?;
        if header.message_type == MessageType::Response {
            return Err(None);
        }
        if header.op_code != OpCode::Query {
            return Err(Some(ResponseCode::NotImp));
        }
        let malformed = Some(ResponseCode::FormErr);
        if header.counts.queries != 1 {
            return Err(malformed);
        }
        let question = op::Query::read(&mut decoder).map_err(|_| malformed)?;
        if question.query_class() != DNSClass::IN {
            return Err(Some(ResponseCode::NotImp));
        }
        Ok(Self {
            id: header.id,
            name: host_name(question.name()),
            kind: question.query_type(),
            recursion_desired: header.recursion_desired,
            question,
        })
    }

    /// A new query for the addresses of `name`, which is in its normal form. `None` for
    /// a name that is too long for DNS.
    #[must_use]
    pub(crate) fn for_addresses(id: u16, name: &str) -> Option<Self> {
        let labels = name.split('.').map(str::as_bytes);
        let question = op::Query::query(Name::from_labels(labels).ok()?, RecordType::A);
        Some(Self {
            id,
            name: Some(name.to_owned()),
            kind: RecordType::A,
            recursion_desired: true,
            question,
        })
    }

    /// The query as bytes: the question and nothing else.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        encode(&self.message(MessageType::Query))
    }

    /// An answer without records.
    #[must_use]
    pub(crate) fn refusal(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.message(MessageType::Response);
        message.metadata.response_code = code;
        encode(&message)
    }

    /// An answer that gives one address.
    #[must_use]
    pub(crate) fn answer(&self, address: Ipv4Addr, ttl_seconds: u32) -> Vec<u8> {
        let mut message = self.message(MessageType::Response);
        let owner = self.question.name().clone();
        message.add_answer(Record::from_rdata(owner, ttl_seconds, RData::A(A(address))));
        encode(&message)
    }

    fn message(&self, message_type: MessageType) -> Message {
        let mut message = Message::new(self.id, message_type, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = message_type == MessageType::Response;
        message.add_query(self.question.clone());
        message
    }

    /// Whether `response` is an answer to this query: id and question are its own.
    #[must_use]
    pub(crate) fn is_answered_by(&self, response: &[u8]) -> bool {
        self.answers_begin(response).is_some()
    }

    /// The addresses that a response gives for this query's name, following aliases
    /// within the response.
    #[must_use]
    pub(crate) fn addresses_in(&self, response: &[u8]) -> Vec<Address> {
        let mut found = Vec::new();
        let (Some(asked), Some((mut decoder, count))) =
            (self.name.clone(), self.answers_begin(response))
        else {
            return found;
        };
        // Servers put an alias before what it stands for.
        let mut wanted = vec![asked];
        for _ in 0..count.min(MOST_RECORDS) {
            let Ok(record) = Record::read(&mut decoder) else {
                break;
            };
            let ours = record.dns_class == DNSClass::IN
                && host_name(&record.name).is_some_and(|owner| wanted.contains(&owner));
            match &record.data {
                _ if !ours => {}
                RData::CNAME(alias) => wanted.extend(host_name(&alias.0)),
                RData::A(address) => found.push(Address {
                    address: address.0,
                    ttl_seconds: record.ttl,
                }),
                _ => {}
            }
        }
        found
    }

    /// Where the answers of a response to this query begin, and how many it announces.
    /// `None` if it is a response to another query, or to none.
    fn answers_begin<'a>(&self, response: &'a [u8]) -> Option<(BinDecoder<'a>, u16)> {
        let mut decoder = BinDecoder::new(response);
        let header = Header::read(&mut decoder).ok()?;
        let ours = header.id == self.id
            && header.message_type == MessageType::Response
            && header.counts.queries == 1
            && op::Query::read(&mut decoder).ok()? == self.question;
        ours.then_some((decoder, header.counts.answers))
    }
}

/// Whether a response was cut to fit a datagram.
#[must_use]
pub(crate) fn is_truncated(response: &[u8]) -> bool {
    Header::read(&mut BinDecoder::new(response)).is_ok_and(|header| header.truncation)
}

/// An answer to what cannot be read beyond its header.
#[must_use]
pub(crate) fn bare_refusal(message: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let asked: Metadata = Header::read(&mut BinDecoder::new(message)).ok()?.metadata;
    Some(encode(&Message::error_msg(asked.id, asked.op_code, code)))
}

/// Gives a message another id.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
}

/// The normal form of a name. `None` where it is not a host name: a label may hold any
/// byte, a dot among them, which must not pass for the end of a label.
fn host_name(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        if label.contains('.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    names::normal(&text)
}

fn encode(message: &Message) -> Vec<u8> {
    message
        .to_vec()
        .expect("one question and at most one record fit into a message")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: usize = 12;

    fn asked(id: u16, name: &str) -> Query {
        Query::for_addresses(id, name).unwrap()
    }

    #[test]
    fn a_query_is_read_and_its_answer_too() {
        let query = asked(7, "a.example.com");
        let read = Query::parse(&query.to_bytes()).unwrap();
        assert_eq!(read, query);
        let answer = read.answer([203, 0, 113, 7].into(), 60);
        assert!(query.is_answered_by(&answer));
        assert!(!asked(8, "a.example.com").is_answered_by(&answer));
        assert!(!asked(7, "b.example.com").is_answered_by(&answer));
        let found = query.addresses_in(&answer);
        assert_eq!(found[0].address, Ipv4Addr::new(203, 0, 113, 7));
        assert_eq!((found.len(), found[0].ttl_seconds), (1, 60));
    }

    #[test]
    fn an_address_of_another_name_in_the_answer_does_not_count() {
        let query = asked(7, "a.example.com");
        let mut answer = query.refusal(ResponseCode::NoError);
        answer[7] = 3;
        let mut record = |owner: &[u8], kind: u16, data: &[u8]| {
            answer.extend_from_slice(owner);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 9]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(data);
        };
        record(b"\x04evil\x04test\x00", 1, &[10, 0, 0, 1]);
        record(&[0xc0, 12], 5, b"\x03cdn\x04test\x00");
        record(b"\x03CDN\x04test\x00", 1, &[203, 0, 113, 9]);
        let found = query.addresses_in(&answer);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, Ipv4Addr::new(203, 0, 113, 9));
    }

    #[test]
    fn what_is_no_query_gets_the_right_answer_or_none() {
        assert_eq!(Query::parse(&[]), Err(None));
        let mut message = asked(1, "x.test").to_bytes();
        message[2] |= 0x80;
        assert_eq!(Query::parse(&message), Err(None));
        message[2] = 0x28;
        assert_eq!(Query::parse(&message), Err(Some(ResponseCode::NotImp)));
        message[2] = 0;
        message[5] = 2;
        assert_eq!(Query::parse(&message), Err(Some(ResponseCode::FormErr)));
    }

    #[test]
    fn a_dot_within_a_label_does_not_make_a_host_name() {
        let mut message = asked(1, "a-b.test").to_bytes();
        message[HEADER + 2] = b'.';
        assert_eq!(Query::parse(&message).unwrap().name, None);
    }

    #[test]
    fn names_that_dns_cannot_hold_are_not_asked_for() {
        assert_eq!(Query::for_addresses(1, &"x".repeat(64)), None);
        assert_eq!(Query::for_addresses(1, &"abc.".repeat(70)), None);
    }

    #[test]
    fn a_name_that_points_at_itself_ends() {
        let mut message = asked(1, "x.test").to_bytes();
        message[HEADER] = 0xc0;
        message[HEADER + 1] = HEADER as u8;
        assert_eq!(Query::parse(&message), Err(Some(ResponseCode::FormErr)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::parse(&bytes);
            let query = asked(1, "x.test");
            let _ = (query.is_answered_by(&bytes), query.addresses_in(&bytes));
            let mut answer = query.answer([203, 0, 113, 1].into(), 1);
            answer.extend(bytes);
            answer[7] = 200;
            let _ = query.addresses_in(&answer);
        }
    }
}
