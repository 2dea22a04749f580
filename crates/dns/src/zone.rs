//! Queries and answers (RFC 1035, RFC 6891) over `hickory-proto`, without I/O.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use std::net::IpAddr;
use std::sync::Arc;

/// How long clients may keep an answer, in seconds.
const TTL: u32 = 60;
/// What an answer over UDP may hold for clients that say nothing of it.
const PLAIN_UDP: u16 = 512;
/// The UDP payload that we announce.
const OUR_UDP: u16 = 1232;
const MAX_LABEL: usize = 63;
/// The label below which certificate authorities look for proofs.
const CHALLENGE: &[u8] = b"_acme-challenge";
/// The longest string of a TXT record.
const MAX_TEXT: usize = 255;

/// A domain and what its names stand for.
#[derive(Clone)]
pub struct Zone {
    origin: Name,
    name_server: Name,
    contact: Name,
    addresses: Vec<IpAddr>,
    /// Asked at each look-up of the texts below [`CHALLENGE`].
    challenges: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl std::fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Zone")
            .field("origin", &self.origin)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneError;

impl std::fmt::Display for ZoneError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a domain is labels of 1 to 63 characters with dots between them")
    }
}

impl std::error::Error for ZoneError {}

impl Zone {
    /// `domain` and every name below it mean `addresses`.
    ///
    /// # Errors
    /// When `domain` is not a domain, or leaves no room for `hostmaster.<domain>`.
    pub fn new(domain: &str, addresses: Vec<IpAddr>) -> Result<Self, ZoneError> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&[u8]> = domain.split('.').map(str::as_bytes).collect();
        if !labels
            .iter()
            .all(|label| (1..=MAX_LABEL).contains(&label.len()))
        {
            return Err(ZoneError);
        }
        let origin = Name::from_labels(labels).map_err(|_| ZoneError)?;
        let below = |label: &[u8]| origin.prepend_label(label).map_err(|_| ZoneError);
        Ok(Self {
            name_server: below(b"ns")?,
            contact: below(b"hostmaster")?,
            origin,
            addresses,
            challenges: Arc::new(Vec::new),
        })
    }

    /// Texts at `_acme-challenge.<domain>`, by which a certificate authority
    /// recognises the domain's owner.
    #[must_use]
    pub fn with_challenges(
        mut self,
        challenges: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.challenges = Arc::new(challenges);
        self
    }

    /// The answer to a query, at most `limit` bytes long (`None`: what UDP allows).
    /// `None` for what is not a query: answering it could start a loop.
    #[must_use]
    pub fn answer(&self, query: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(query)).ok()?;
        if header.message_type == MessageType::Response {
            return None;
        }
        let refusal = |code| {
            let mut refusal = Message::error_msg(header.id, header.op_code, code);
            refusal.metadata.recursion_desired = header.recursion_desired;
            encode(&refusal)
        };
        if header.op_code != OpCode::Query {
            return refusal(ResponseCode::NotImp);
        }
        let counts = header.counts;
        if counts.queries != 1 || counts.answers != 0 || counts.authorities != 0 {
            return refusal(ResponseCode::FormErr);
        }
        let asked = Message::from_vec(query).or_else(|_| question_alone(query));
        let Ok(asked) = asked else {
            return refusal(ResponseCode::FormErr);
        };
        let limit = limit.unwrap_or_else(|| match &asked.edns {
            Some(edns) => edns.max_payload().clamp(PLAIN_UDP, OUR_UDP),
            None => PLAIN_UDP,
        } as usize);
        let answer = self.compose(&asked);
        let bytes = encode(&answer)?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        encode(&answer.truncate())
    }

    fn compose(&self, asked: &Message) -> Message {
        let mut answer = Message::response(asked.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.recursion_desired;
        answer.add_queries(asked.queries.iter().cloned());
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_UDP);
            answer.set_edns(edns);
        }
        let question = asked
            .queries
            .first()
            .filter(|question| self.origin.zone_of(question.name()))
            .filter(|question| [DNSClass::IN, DNSClass::ANY].contains(&question.query_class()));
        match question {
            _ if asked.version() != 0 => answer.metadata.response_code = ResponseCode::BADVERS,
            None => answer.metadata.response_code = ResponseCode::Refused,
            Some(question) => {
                answer.metadata.authoritative = true;
                for data in self.records(question) {
                    answer.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
                }
                if answer.answers.is_empty() {
                    let start = self.start_of_authority();
                    answer.add_authority(Record::from_rdata(self.origin.clone(), TTL, start));
                }
            }
        }
        answer
    }

    fn records(&self, question: &Query) -> Vec<RData> {
        let asks = |kind| [kind, RecordType::ANY].contains(&question.query_type());
        let mut records = Vec::new();
        for address in &self.addresses {
            match *address {
                IpAddr::V4(address) if asks(RecordType::A) => records.push(RData::A(A(address))),
                IpAddr::V6(address) if asks(RecordType::AAAA) => {
                    records.push(RData::AAAA(AAAA(address)));
                }
                _ => {}
            }
        }
        if self.is_challenge(question.name()) && asks(RecordType::TXT) {
            let texts = (self.challenges)();
            // One string is all that a proof takes.
            let texts = texts.into_iter().filter(|text| text.len() <= MAX_TEXT);
            records.extend(texts.map(|text| RData::TXT(TXT::new(vec![text]))));
        }
        if *question.name() == self.origin {
            if asks(RecordType::NS) {
                records.push(RData::NS(NS(self.name_server.clone())));
            }
            if asks(RecordType::SOA) {
                records.push(self.start_of_authority());
            }
        }
        records
    }

    fn is_challenge(&self, name: &Name) -> bool {
        let label = name.iter().next();
        label.is_some_and(|label| label.eq_ignore_ascii_case(CHALLENGE))
            && name.base_name() == self.origin
    }

    fn start_of_authority(&self) -> RData {
        let (server, contact) = (self.name_server.clone(), self.contact.clone());
        // Serial, refresh, retry, expire, and how long "there is none" is kept.
        RData::SOA(SOA::new(server, contact, 1, 3600, 600, 86_400, TTL))
    }
}

/// A query without what follows its question: an extension that cannot be read takes
/// nothing from what is asked.
fn question_alone(query: &[u8]) -> Result<Message, DecodeError> {
    let mut decoder = BinDecoder::new(query);
    let header = Header::read(&mut decoder)?;
    let mut message = Message::new(header.id, header.message_type, header.op_code);
    message.metadata = header.metadata;
    message.add_query(Query::read(&mut decoder)?);
    Ok(message)
}

/// `None` for what does not fit into a message: nobody is answered then.
fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

#[cfg(test)]
mod tests;
