//! Queries and answers (RFC 1035, RFC 6891), without I/O.

use std::net::IpAddr;
use std::sync::Arc;

/// How long clients may keep an answer, in seconds.
const TTL: u32 = 60;
/// What an answer over UDP may hold for clients that say nothing of it.
const PLAIN_UDP: usize = 512;
/// The UDP payload that we announce.
const OUR_UDP: u16 = 1232;
const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// The label below which certificate authorities look for proofs.
const CHALLENGE: &[u8] = b"_acme-challenge";

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const ANY: u16 = 255;
const CLASS_IN: u16 = 1;

#[derive(Clone, Copy)]
enum Code {
    Ok = 0,
    Format = 1,
    NotImplemented = 4,
    Refused = 5,
    Version = 16,
}

/// A domain and what its names stand for.
#[derive(Clone)]
pub struct Zone {
    /// Lower-case labels, the top-level one last.
    labels: Vec<Vec<u8>>,
    addresses: Vec<IpAddr>,
    /// Asked at each look-up of the texts below [`CHALLENGE`].
    challenges: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl std::fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Zone")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why a text is no domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneError;

impl std::fmt::Display for ZoneError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a domain is labels of 1 to 63 characters with dots between them")
    }
}

impl std::error::Error for ZoneError {}

struct Question<'a> {
    labels: Vec<&'a [u8]>,
    kind: u16,
    class: u16,
    /// Where the question ends in the query.
    end: usize,
}

impl Zone {
    /// `domain` and every name below it mean `addresses`.
    pub fn new(domain: &str, addresses: Vec<IpAddr>) -> Result<Self, ZoneError> {
        let labels: Vec<Vec<u8>> = domain
            .trim_end_matches('.')
            .split('.')
            .map(|label| label.to_ascii_lowercase().into_bytes())
            .collect();
        let fits = |label: &Vec<u8>| (1..=MAX_LABEL).contains(&label.len());
        // Room for the names that are made of it: `hostmaster.<domain>`.
        if !labels.iter().all(fits) || domain.len() > MAX_NAME - 2 - "hostmaster.".len() {
            return Err(ZoneError);
        }
        Ok(Self {
            labels,
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
    /// `None` for what is no query: answering it could start a loop.
    #[must_use]
    pub fn answer(&self, query: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let header: [u8; HEADER] = query.get(..HEADER)?.try_into().ok()?;
        if header[2] & 0x80 != 0 {
            return None;
        }
        if header[2] & 0x78 != 0 {
            return Some(bare(header, Code::NotImplemented));
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if count(4) != 1 || count(6) != 0 || count(8) != 0 {
            return Some(bare(header, Code::Format));
        }
        let Some(question) = Question::parse(query) else {
            return Some(bare(header, Code::Format));
        };
        let Ok(extension) = Extension::parse(&query[question.end..], count(10)) else {
            return Some(bare(header, Code::Format));
        };
        let limit = limit.unwrap_or_else(|| {
            extension.as_ref().map_or(PLAIN_UDP, |extension| {
                usize::from(extension.payload.clamp(512, OUR_UDP))
            })
        });
        Some(self.compose(header, query, &question, extension.as_ref(), limit))
    }

    fn compose(
        &self,
        header: [u8; HEADER],
        query: &[u8],
        question: &Question<'_>,
        extension: Option<&Extension>,
        limit: usize,
    ) -> Vec<u8> {
        let mut answer = Answer::new(header, &query[HEADER..question.end]);
        if extension.is_some_and(|extension| extension.version != 0) {
            answer.code = Code::Version;
        } else if !self.holds(&question.labels) || ![CLASS_IN, ANY].contains(&question.class) {
            answer.code = Code::Refused;
        } else {
            answer.authoritative = true;
            self.records(question, &mut answer);
        }
        answer.finish(extension.is_some(), limit)
    }

    fn holds(&self, labels: &[&[u8]]) -> bool {
        labels.len() >= self.labels.len()
            && labels[labels.len() - self.labels.len()..]
                .iter()
                .zip(&self.labels)
                .all(|(asked, own)| asked.eq_ignore_ascii_case(own))
    }

    fn records(&self, question: &Question<'_>, answer: &mut Answer) {
        let asks = |kind| question.kind == kind || question.kind == ANY;
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) if asks(A) => answer.record(A, &address.octets()),
                IpAddr::V6(address) if asks(AAAA) => answer.record(AAAA, &address.octets()),
                _ => {}
            }
        }
        if question.labels.len() == self.labels.len() + 1
            && question.labels[0].eq_ignore_ascii_case(CHALLENGE)
            && asks(TXT)
        {
            for text in (self.challenges)() {
                let text = text.as_bytes();
                // One string of at most 255 bytes is all that a proof takes.
                if let Ok(length) = u8::try_from(text.len()) {
                    answer.record(TXT, &[&[length], text].concat());
                }
            }
        }
        if question.labels.len() == self.labels.len() {
            if asks(NS) {
                answer.record(NS, &self.name(Some("ns")));
            }
            if asks(SOA) {
                answer.record(SOA, &self.start_of_authority());
            }
        }
        if answer.count == 0 {
            answer.authority(&self.name(None), &self.start_of_authority());
        }
    }

    /// `<label>.<domain>` in wire form.
    fn name(&self, label: Option<&str>) -> Vec<u8> {
        let mut name = Vec::new();
        let labels = self.labels.iter().map(Vec::as_slice);
        for label in label.map(str::as_bytes).into_iter().chain(labels) {
            name.push(u8::try_from(label.len()).expect("labels have at most 63 bytes"));
            name.extend_from_slice(label);
        }
        name.push(0);
        name
    }

    fn start_of_authority(&self) -> Vec<u8> {
        let mut data = self.name(Some("ns"));
        data.extend(self.name(Some("hostmaster")));
        // Serial, refresh, retry, expire, and how long "there is none" is kept.
        for number in [1, 3600, 600, 86_400, TTL] {
            data.extend(number.to_be_bytes());
        }
        data
    }
}

impl<'a> Question<'a> {
    fn parse(query: &'a [u8]) -> Option<Self> {
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Pointers have the upper bits set; a lone question has nothing to point at.
            if length > MAX_LABEL {
                return None;
            }
            labels.push(query.get(at..at + length)?);
            at += length;
            if at - HEADER > MAX_NAME {
                return None;
            }
        }
        Some(Self {
            labels,
            kind: number(query, at)?,
            class: number(query, at + 2)?,
            end: at + 4,
        })
    }
}

/// The pseudo-record by which clients say what they understand.
struct Extension {
    payload: u16,
    version: u8,
}

impl Extension {
    /// Reads the additional section, which may hold nothing else.
    fn parse(section: &[u8], count: u16) -> Result<Option<Self>, ()> {
        match count {
            0 => Ok(None),
            1 => {
                // The root's name, type, payload, code and version, flags, length.
                if section.first() != Some(&0) || number(section, 1) != Some(OPT) {
                    return Err(());
                }
                let length = usize::from(number(section, 9).ok_or(())?);
                section.get(11..11 + length).ok_or(())?;
                Ok(Some(Self {
                    payload: number(section, 3).ok_or(())?,
                    version: section[6],
                }))
            }
            _ => Err(()),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// An answer without a question, for what could not be read.
fn bare(header: [u8; HEADER], code: Code) -> Vec<u8> {
    Answer {
        code,
        questions: 0,
        ..Answer::new(header, &[])
    }
    .finish(false, PLAIN_UDP)
}

struct Answer {
    bytes: Vec<u8>,
    code: Code,
    authoritative: bool,
    questions: u16,
    count: u16,
    authorities: u16,
    /// Where the question ends.
    question_end: usize,
}

impl Answer {
    fn new(header: [u8; HEADER], question: &[u8]) -> Self {
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(question);
        Self {
            question_end: bytes.len(),
            bytes,
            code: Code::Ok,
            authoritative: false,
            questions: 1,
            count: 0,
            authorities: 0,
        }
    }

    /// Adds a record of the asked name.
    fn record(&mut self, kind: u16, data: &[u8]) {
        // A pointer to the question's name.
        self.append(&[0xc0, 0x0c], kind, data);
        self.count += 1;
    }

    fn authority(&mut self, name: &[u8], data: &[u8]) {
        self.append(name, SOA, data);
        self.authorities += 1;
    }

    fn append(&mut self, name: &[u8], kind: u16, data: &[u8]) {
        self.bytes.extend_from_slice(name);
        for number in [kind, CLASS_IN] {
            self.bytes.extend(number.to_be_bytes());
        }
        self.bytes.extend(TTL.to_be_bytes());
        let length = u16::try_from(data.len()).expect("our records are small");
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend_from_slice(data);
    }

    fn finish(mut self, extended: bool, limit: usize) -> Vec<u8> {
        const EXTENSION: usize = 11;
        let room = limit.saturating_sub(if extended { EXTENSION } else { 0 });
        let truncated = self.bytes.len() > room;
        if truncated {
            self.bytes.truncate(self.question_end);
            (self.count, self.authorities) = (0, 0);
        }
        let code = self.code as u8;
        if extended {
            self.bytes.push(0);
            self.bytes.extend(OPT.to_be_bytes());
            self.bytes.extend(OUR_UDP.to_be_bytes());
            self.bytes.extend([code >> 4, 0, 0, 0, 0, 0]);
        }
        // A response; opcode and "recursion desired" as in the query.
        let asked = self.bytes[2] & 0x79;
        self.bytes[2] =
            0x80 | asked | (u8::from(self.authoritative) << 2) | (u8::from(truncated) << 1);
        self.bytes[3] = code & 0x0f;
        for (at, count) in [
            (4, self.questions),
            (6, self.count),
            (8, self.authorities),
            (10, u16::from(extended)),
        ] {
            self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests;
