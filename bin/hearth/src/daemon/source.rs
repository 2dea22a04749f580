//! Tells the API who sent a request: whom to count it to, and what to write into the
//! audit log.

use axum::{Router, extract::Request, middleware};
use hearth_api::Source;
use hearth_edge::Peer;
use hearth_node::Node;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The API, whose requests carry their source from now on.
pub fn with_source(api: Router, node: Arc<Node>, trust_forwarded: bool) -> Router {
    let told = move |mut request: Request| {
        let source = source(&request, &node, trust_forwarded);
        if let Some(source) = source {
            request.extensions_mut().insert(source);
        }
        async { request }
    };
    api.layer(middleware::map_request(told))
}

fn source(request: &Request, node: &Node, trust_forwarded: bool) -> Option<Source> {
    let peer = request.extensions().get::<Peer>()?.address;
    if let Some(id) = node.egress_visitor(peer) {
        return Some(Source::Sandbox(id));
    }
    let forwarded = || last_forwarded(request).filter(|_| trust_forwarded);
    Some(Source::Address(forwarded().unwrap_or(peer.ip())))
}

/// What the proxy in front of us wrote: the last address. Those before it are the
/// client's word.
fn last_forwarded(request: &Request) -> Option<IpAddr> {
    let values = request.headers().get_all(FORWARDED_FOR);
    let last = values.iter().next_back()?.to_str().ok()?;
    address(last.rsplit(',').next()?.trim())
}

/// Some proxies write a port as well, or brackets around an IPv6 address.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse().or_else(|_| with_port()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn of_forwarded_addresses_the_proxys_own_word_counts() {
        let last = |values: &[&str]| {
            let mut request = Request::builder();
            for value in values {
                request = request.header(FORWARDED_FOR, *value);
            }
            last_forwarded(&request.body(Body::empty()).expect("a request"))
        };
        let address: IpAddr = "198.51.100.7".parse().expect("an address");
        assert_eq!(last(&["10.0.0.1, 198.51.100.7"]), Some(address));
        assert_eq!(last(&["10.0.0.1", "192.0.2.1,198.51.100.7"]), Some(address));
        assert_eq!(last(&["198.51.100.7, nonsense"]), None);
        assert_eq!(last(&["10.0.0.1, 198.51.100.7:51234"]), Some(address));
        let v6 = "2001:db8::1".parse().ok();
        assert_eq!(last(&["[2001:db8::1]:443"]), v6);
        assert_eq!(last(&["[2001:db8::1]"]), v6);
        assert_eq!(last(&["2001:db8::1"]), v6);
        assert_eq!(last(&[]), None);
    }
}
