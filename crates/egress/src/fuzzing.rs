//! The parsers of what guests and name servers send, for the fuzz targets.

use crate::dns::message::Query;
use crate::names;
use crate::proxy::{sniff, upstream};

/// What the beginning of a connection says: whether more is to be read, and the host.
#[must_use]
pub fn greeting(bytes: &[u8]) -> (bool, Option<String>) {
    let greeting = sniff::greeting(bytes);
    let incomplete = greeting == sniff::Greeting::Incomplete;
    (incomplete, greeting.name().map(str::to_owned))
}

/// The normal form of a host's name.
#[must_use]
pub fn normal_name(name: &str) -> Option<String> {
    names::normal(name)
}

/// Reads a query and what pretends to be its answer.
///
/// # Panics
/// When what was made of the query is not read as the same one.
pub fn dns(query: &[u8], response: &[u8]) {
    let Ok(query) = Query::parse(query) else {
        return;
    };
    let again = Query::parse(&query.to_bytes()).expect("our own query is one");
    assert_eq!((again.id, &again.name), (query.id, &query.name));
    let refusal = query.refusal(hickory_proto::op::ResponseCode::ServFail);
    assert!(query.is_answered_by(&refusal));
    let _ = (query.is_answered_by(response), query.addresses_in(response));
}

/// The address of a proxy as a tenant writes it.
#[must_use]
pub fn proxy_address(text: &str) -> Option<(String, u16)> {
    upstream::parse_address(text).map(|(_, host, port)| (host.to_owned(), port))
}
