//! Answers of this crate's own: errors in the API's form, and headers that keep an answer
//! from being taken for a page.

use axum::body::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Data is no document: no script runs, nothing is loaded, nobody frames it.
pub(crate) const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Body> {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    no_document(headers);
    response
}

/// An error as the API writes it.
pub(crate) fn error(status: StatusCode, message: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct Told<'a> {
        code: u16,
        message: &'a str,
    }
    json(
        status,
        &Told {
            code: status.as_u16(),
            message,
        },
    )
}

pub(crate) fn no_document(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(DATA_POLICY),
    );
}

/// Takes out of a guest's answer what browsers keep for, or do to, the whole origin.
pub(crate) fn no_site(headers: &mut HeaderMap) {
    for name in [SET_COOKIE, STRICT_TRANSPORT_SECURITY, CLEAR_SITE_DATA] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sets_nothing_for_the_origin() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "hearth_session=theirs"),
            ("set-cookie", "__Host-hearth_session=theirs; Secure; Path=/"),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "\"*\""),
            ("etag", "kept"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        no_site(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("etag"));
    }
}
