//! What a request shows: the session's cookie, and that the page which sent it is ours.
//!
//! `SameSite` alone does not keep a sandbox's page out: its host is a subdomain of ours,
//! which browsers take for the same site. A request therefore counts as a session's only
//! with a header that no other origin's script may send along with cookies, and where the
//! browser tells the origin, only with our own.

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::{Uri, uri::Authority};

/// Sent by the interface with each request, whatever its value.
pub(crate) const MARK: HeaderName = HeaderName::from_static("x-hearth-web");
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const PLAIN: &str = "hearth_session";
/// Browsers take a cookie of this prefix from this very host over TLS alone, so that no
/// subdomain can put another in its place.
const SECURE: &str = "__Host-hearth_session";

/// Whether the client came over TLS. Whoever serves this writes the header.
pub(crate) fn is_secure(headers: &HeaderMap) -> bool {
    headers
        .get(FORWARDED_PROTO)
        .is_some_and(|scheme| scheme.as_bytes().starts_with(b"https"))
}

/// Credentials that come before a session.
pub(crate) fn shows_key(headers: &HeaderMap) -> bool {
    headers.contains_key(API_KEY) || headers.contains_key(AUTHORIZATION)
}

/// Whether a page of this very origin has sent the request.
pub(crate) fn is_ours(uri: &Uri, headers: &HeaderMap) -> bool {
    headers.contains_key(MARK) && same_origin(uri, headers)
}

fn same_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let host = uri.authority().map(Authority::as_str).or_else(|| {
        let host = headers.get(HOST)?;
        host.to_str().ok()
    });
    let origin = origin.to_str().ok();
    let told = origin.and_then(|origin| origin.split_once("://"));
    told.is_some_and(|(_, told)| host.is_some_and(|host| host.eq_ignore_ascii_case(told)))
}

/// The session that a request names, if it does.
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    let name = name(is_secure(headers));
    pairs(headers).find_map(|pair| {
        let (told, value) = pair.split_once('=')?;
        (told == name).then_some(value)
    })
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
}

fn name(secure: bool) -> &'static str {
    if secure { SECURE } else { PLAIN }
}

/// The `Set-Cookie` that begins (or with zero seconds ends) a session.
pub(crate) fn cookie(secure: bool, id: &str, seconds: u64) -> Option<HeaderValue> {
    let name = name(secure);
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).ok()
}

/// Takes our cookie out of what goes to a guest: with all others, where they cannot be
/// told apart.
pub(crate) fn hide_session(headers: &mut HeaderMap) {
    let readable = |value: &HeaderValue| value.to_str().is_ok();
    if !headers.get_all(COOKIE).iter().all(readable) {
        headers.remove(COOKIE);
        return;
    }
    let ours = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        name == PLAIN || name == SECURE
    };
    if !pairs(headers).any(ours) {
        return;
    }
    let left: Vec<&str> = pairs(headers).filter(|pair| !ours(pair)).collect();
    let left = HeaderValue::from_str(&left.join("; ")).ok();
    headers.remove(COOKIE);
    if let Some(left) = left.filter(|left| !left.is_empty()) {
        headers.insert(COOKIE, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn ours(pairs: &[(&str, &str)]) -> bool {
        is_ours(&Uri::from_static("/sandboxes"), &headers(pairs))
    }

    #[test]
    fn only_pages_of_this_origin_are_ours() {
        let mark = ("x-hearth-web", "1");
        let host = ("host", "hearth.example:3000");
        assert!(ours(&[mark, host]));
        assert!(ours(&[mark, host, ("sec-fetch-site", "same-origin")]));
        assert!(ours(&[
            mark,
            host,
            ("origin", "http://hearth.example:3000")
        ]));
        assert!(!ours(&[host]));
        for site in ["same-site", "cross-site", "none"] {
            assert!(!ours(&[mark, host, ("sec-fetch-site", site)]), "{site}");
        }
        for origin in [
            "http://3000-i1.hearth.example:3000",
            "http://hearth.example",
            "null",
        ] {
            assert!(!ours(&[mark, host, ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn the_scheme_says_which_cookie_counts() {
        let both = (
            "cookie",
            "a=b; hearth_session=one; __Host-hearth_session=two",
        );
        assert_eq!(session(&headers(&[both])), Some("one"));
        let tls = ("x-forwarded-proto", "https");
        assert_eq!(session(&headers(&[both, tls])), Some("two"));
        assert_eq!(session(&headers(&[("cookie", "hearth_sessions=1")])), None);
    }

    #[test]
    fn guests_see_the_other_cookies_only() {
        let mut some = headers(&[("cookie", "a=b; hearth_session=one"), ("cookie", "c=d")]);
        hide_session(&mut some);
        assert_eq!(some.get(COOKIE).expect("a cookie"), "a=b; c=d");
        let mut one = headers(&[("cookie", "__Host-hearth_session=one")]);
        hide_session(&mut one);
        assert!(!one.contains_key(COOKIE));
        let mut none = headers(&[("cookie", "a=b;c=d")]);
        hide_session(&mut none);
        assert_eq!(none.get(COOKIE).expect("a cookie"), "a=b;c=d");
        // One that a guest has set keeps nobody from finding ours.
        let mut other = headers(&[("cookie", "hearth_session=one")]);
        let unreadable = HeaderValue::from_bytes(b"a=\xff; hearth_session=one").expect("a value");
        other.append(COOKIE, unreadable);
        hide_session(&mut other);
        assert!(!other.contains_key(COOKIE));
    }
}
