//! The files of the interface, as the build has embedded them.
//!
//! Files under `assets/` carry a hash of their content in their name and never change; the
//! rest is asked for anew with its tag.

use crate::answer;
use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, Method, Response, StatusCode};

#[derive(Clone, Copy)]
struct File {
    path: &'static str,
    /// A hash of the content.
    tag: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

/// A [`File`] as the build writes it, in the order of its fields.
type Written = (
    &'static str,
    &'static str,
    &'static [u8],
    Option<&'static [u8]>,
    Option<&'static [u8]>,
);

include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Scripts and connections are this origin's alone. Styles may be inline: the terminal
/// and the editor write their own while they run. Images may be made by the page, which
/// shows files of sandboxes.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' blob: data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");

/// Whether the binary carries the interface.
pub(crate) fn embedded() -> bool {
    !FILES.is_empty()
}

/// The document that every page of the interface begins with.
pub(crate) fn index(method: &Method, headers: &HeaderMap) -> Response<Body> {
    match find("index.html") {
        Some(file) => serve(file, method, headers),
        None => without(method),
    }
}

/// A file by its path below `/web/`; none is a 404 in JSON.
pub(crate) fn file(path: &str, method: &Method, headers: &HeaderMap) -> Response<Body> {
    match find(path) {
        Some(_) if ![Method::GET, Method::HEAD].contains(method) => {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        }
        Some(file) => serve(file, method, headers),
        None => answer::error(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn find(wanted: &str) -> Option<File> {
    let written = FILES.iter().find(|(path, ..)| *path == wanted)?;
    let (path, tag, plain, brotli, gzip) = *written;
    Some(File {
        path,
        tag,
        plain,
        brotli,
        gzip,
    })
}

fn serve(file: File, method: &Method, asked: &HeaderMap) -> Response<Body> {
    let (encoding, content) = encoded(file, asked);
    // Each form of a file has a tag of its own.
    let tag = format!("\"{}{}\"", file.tag, encoding.unwrap_or_default());
    let unchanged = asked
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag);
    let body = match unchanged || method == Method::HEAD {
        true => Body::empty(),
        false => Body::from(Bytes::from_static(content)),
    };
    let mut response = Response::new(body);
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(content_type(file.path)),
    );
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    let kept = match file.path.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    protect(headers, POLICY);
    response
}

fn protect(headers: &mut HeaderMap, policy: &'static str) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        (
            PERMISSIONS,
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The smallest form that the client takes.
fn encoded(file: File, asked: &HeaderMap) -> (Option<&'static str>, &'static [u8]) {
    if let Some(content) = file.brotli.filter(|_| accepts(asked, "br")) {
        return (Some("br"), content);
    }
    if let Some(content) = file.gzip.filter(|_| accepts(asked, "gzip")) {
        return (Some("gzip"), content);
    }
    (None, file.plain)
}

fn accepts(asked: &HeaderMap, encoding: &str) -> bool {
    asked
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(encoding));
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            named
                && weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0))
        })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("json" | "webmanifest") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// What a binary of plain `cargo build` shows.
fn without(method: &Method) -> Response<Body> {
    const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
        <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
        <title>Hearth</title></head><body><main><h1>This is a Hearth server</h1>\
        <p>It was built without its web interface. <code>scripts/build</code> (or \
        <code>make build</code>) builds one that has it; the API works all the same.</p>\
        <p>On the server, <code>hearth sandbox ls</code> lists the sandboxes.</p>\
        </main></body></html>\n";
    let body = match *method == Method::HEAD {
        true => Body::empty(),
        false => Body::from(PAGE),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    protect(headers, "default-src 'none'; frame-ancestors 'none'");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    const SCRIPT: File = File {
        path: "assets/index-abc.js",
        tag: "cafe",
        plain: b"plain",
        brotli: Some(b"br"),
        gzip: Some(b"gz"),
    };

    #[test]
    fn clients_get_the_smallest_form_that_they_take() {
        let form = |accept| encoded(SCRIPT, &asked(ACCEPT_ENCODING, accept)).0;
        assert_eq!(form("gzip, deflate, br, zstd"), Some("br"));
        assert_eq!(form("gzip"), Some("gzip"));
        assert_eq!(form("br;q=0, gzip;q=0.5"), Some("gzip"));
        assert_eq!(form("identity"), None);
        assert_eq!(encoded(SCRIPT, &HeaderMap::new()).0, None);
    }

    #[test]
    fn what_carries_its_hash_is_kept_and_the_rest_asked_for_with_its_tag() {
        let index = File {
            path: "index.html",
            ..SCRIPT
        };
        let get = |file, asked: &HeaderMap| serve(file, &Method::GET, asked);
        let kept = get(SCRIPT, &HeaderMap::new());
        assert!(
            kept.headers()[CACHE_CONTROL]
                .to_str()
                .is_ok_and(|text| text.contains("immutable"))
        );
        let again = get(index, &asked(IF_NONE_MATCH, "\"other\", \"cafe\""));
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let index = get(index, &HeaderMap::new());
        assert_eq!(index.headers()[CACHE_CONTROL], "no-cache");
        assert_eq!(index.headers()[ETAG], "\"cafe\"");
        let policy = index.headers()[CONTENT_SECURITY_POLICY].to_str();
        assert!(policy.is_ok_and(|policy| policy.contains("script-src 'self';")));
    }
}
