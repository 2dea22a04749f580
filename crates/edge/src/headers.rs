//! Headers on their way through: what belongs to one connection is taken out, what
//! the guest should know of the client is put in, and the API key never passes.

use crate::refusal::Refusal;
use crate::routes::Route;
use crate::server::Peer;
use crate::target::{SANDBOX_ID, SANDBOX_PORT};
use crate::{AGENT_PORT, EdgeConfig};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Version};

/// Opens the ports of a sandbox without public traffic.
pub(crate) const TRAFFIC_TOKEN: HeaderName = HeaderName::from_static("e2b-traffic-access-token");
/// Shown to the agent.
pub(crate) const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY_PREFIX: &[u8] = b"e2b_";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Other words about who a client is or how it came here, by which servers are led
/// astray. So are all whose names begin with [`FORWARDED_PREFIX`].
const CLAIMS: [HeaderName; 7] = [
    http::header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-original-forwarded-for"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
];
const FORWARDED_PREFIX: &str = "x-forwarded-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes what concerns one connection only: the fixed names and those that
/// `Connection` lists. `Trailer` stays, for the trailers pass as well.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // These delimit or route the message; listing them must not unhinge it.
        .filter(|name| ![HOST, http::header::CONTENT_LENGTH, TRAILER].contains(name))
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// The protocol that an HTTP/1.1 request asks to switch to. `h2c` does not count:
/// inside such a tunnel requests would pass unseen.
pub(crate) fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE)?;
    let offers_h2c = protocol
        .to_str()
        .map_or(true, |text| text.to_ascii_lowercase().contains("h2c"));
    (asks && !offers_h2c).then(|| protocol.clone())
}

/// Turns an extended CONNECT (RFC 8441) into the HTTP/1.1 request that means the
/// same. Only WebSockets are known to travel so.
pub(crate) fn from_extended_connect<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let protocol = request.extensions().get::<hyper::ext::Protocol>();
    if protocol.is_none_or(|protocol| !protocol.as_str().eq_ignore_ascii_case("websocket")) {
        return Err(Refusal::UnsupportedMethod(Method::CONNECT));
    }
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("the kernel's random source answers after boot");
    let key = HeaderValue::from_str(&STANDARD.encode(nonce)).expect("base64 is a header's text");
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_KEY, key);
    set_upgrade(headers, HeaderValue::from_static("websocket"));
    Ok(())
}

/// Puts the two headers of a switch of protocols (back) in.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Turns a client's request headers into those for the guest.
pub(crate) fn to_guest(
    headers: &mut HeaderMap,
    host: Option<&str>,
    port: u16,
    route: &Route,
    peer: Peer,
    config: &EdgeConfig,
) {
    strip_hop_by_hop(headers);
    for name in [SANDBOX_ID, SANDBOX_PORT, TRAFFIC_TOKEN, EXPECT] {
        headers.remove(name);
    }
    strip_api_key(headers, port);
    join_cookies(headers);
    forwarded(headers, host, peer, config);
    let mask = route
        .mask_request_host
        .as_ref()
        .filter(|_| port != AGENT_PORT)
        .map(|mask| mask.replace("${PORT}", &port.to_string()));
    let value = [mask.as_deref(), host]
        .into_iter()
        .flatten()
        .find_map(|host| HeaderValue::from_str(host).ok());
    headers.insert(
        HOST,
        value.unwrap_or_else(|| HeaderValue::from_static("localhost")),
    );
}

/// The key to the API must not reach code in a guest. The agent never needs the
/// header; on other ports a guest's own service may use it with keys of its own,
/// which do not have our prefix.
fn strip_api_key(headers: &mut HeaderMap, port: u16) {
    let ours = headers
        .get_all(API_KEY)
        .iter()
        .any(|value| value.as_bytes().trim_ascii().starts_with(API_KEY_PREFIX));
    if ours || port == AGENT_PORT {
        headers.remove(API_KEY);
    }
}

/// HTTP/2 may send cookies in pieces; HTTP/1.1 knows one header.
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn forwarded(headers: &mut HeaderMap, host: Option<&str>, peer: Peer, config: &EdgeConfig) {
    if !config.trust_forwarded {
        strip_claims(headers);
    }
    let address = peer.address.ip().to_canonical().to_string();
    // A proxy may add a line of its own to those of its client.
    let mut chain: Vec<&str> = headers
        .get_all(&FORWARDED_FOR)
        .iter()
        .filter(|_| config.trust_forwarded)
        .filter_map(|value| value.to_str().ok())
        .collect();
    chain.push(&address);
    let chain = chain.join(", ");
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !config.trust_forwarded || !headers.contains_key(&FORWARDED_PROTO) {
        let scheme = if peer.tls { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    match host.map(HeaderValue::from_str) {
        Some(Ok(host)) => headers.insert(FORWARDED_HOST, host),
        _ => headers.remove(FORWARDED_HOST),
    };
}

/// Takes out what a client says of itself without a proxy that could know it.
fn strip_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(FORWARDED_PREFIX) || CLAIMS.contains(name))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            );
        }
        headers
    }

    fn pass(headers: HeaderMap, port: u16, mask: Option<&str>) -> HeaderMap {
        pass_with(headers, port, mask, &EdgeConfig::default())
    }

    fn pass_with(
        mut headers: HeaderMap,
        port: u16,
        mask: Option<&str>,
        config: &EdgeConfig,
    ) -> HeaderMap {
        let mut route = Route::new([127, 0, 0, 1].into(), CancellationToken::new());
        route.mask_request_host = mask.map(str::to_owned);
        let peer = Peer {
            address: ([192, 0, 2, 7], 5).into(),
            tls: true,
        };
        to_guest(
            &mut headers,
            Some("8080-x.example.com"),
            port,
            &route,
            peer,
            config,
        );
        headers
    }

    #[test]
    fn what_clients_say_of_themselves_passes_only_behind_a_trusted_proxy() {
        let claims = [
            ("forwarded", "for=10.9.9.9"),
            ("x-real-ip", "10.9.9.9"),
            ("true-client-ip", "10.9.9.9"),
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-user", "root"),
        ];
        let headers = pass(map(&claims), 8080, None);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        for value in headers.values() {
            let value = value.to_str().expect("text");
            assert!(
                !value.contains("10.9.9.9") && value != "root",
                "{headers:?}"
            );
        }
        assert!(!headers.contains_key("x-forwarded-port"));
        let trusting = EdgeConfig {
            trust_forwarded: true,
            ..EdgeConfig::default()
        };
        let headers = pass_with(map(&claims), 8080, None, &trusting);
        assert_eq!(headers["x-forwarded-for"], "10.9.9.9, 192.0.2.7");
        for (name, value) in &claims[..3] {
            assert_eq!(headers[*name], *value);
        }
    }

    #[test]
    fn hop_by_hop_and_listed_headers_go() {
        let headers = pass(
            map(&[
                ("connection", "close, X-Secret, Content-Length"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("content-length", "3"),
                ("x-forwarded-for", "10.9.9.9"),
                ("e2b-traffic-access-token", "t"),
                ("x-app", "stays"),
            ]),
            8080,
            None,
        );
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-length",
                "host",
                "x-app",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn api_key_never_passes_but_a_guests_own_does() {
        let ours = map(&[("x-api-key", "e2b_00ff")]);
        assert!(!pass(ours, 8080, None).contains_key(API_KEY));
        let other = map(&[("x-api-key", "guest-key")]);
        assert_eq!(pass(other.clone(), 8080, None)["x-api-key"], "guest-key");
        assert!(!pass(other, AGENT_PORT, None).contains_key(API_KEY));
    }

    #[test]
    fn host_is_masked_except_for_the_agent() {
        let headers = pass(HeaderMap::new(), 8080, Some("localhost:${PORT}"));
        assert_eq!(headers[HOST], "localhost:8080");
        assert_eq!(headers["x-forwarded-host"], "8080-x.example.com");
        let agent = pass(HeaderMap::new(), AGENT_PORT, Some("localhost:${PORT}"));
        assert_eq!(agent[HOST], "8080-x.example.com");
    }

    #[test]
    fn h2c_is_no_upgrade() {
        let websocket = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(upgrade_protocol(&websocket).expect("asked"), "websocket");
        let h2c = map(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
        ]);
        assert_eq!(upgrade_protocol(&h2c), None);
        assert_eq!(upgrade_protocol(&map(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn split_cookies_are_joined() {
        let headers = pass(map(&[("cookie", "a=1"), ("cookie", "b=2")]), 80, None);
        assert_eq!(headers[COOKIE], "a=1; b=2");
    }
}
