//! What is done to the head of a stranger's request, for the fuzz targets.

use crate::headers;
use http::HeaderMap;

/// Takes out what concerns one connection.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    headers::strip_hop_by_hop(headers);
}

/// Whether a request asks for another protocol.
#[must_use]
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers::upgrade_protocol(headers).is_some()
}
