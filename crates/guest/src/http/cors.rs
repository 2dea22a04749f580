//! Pages of any origin may use the agent: what admits a request is its token or its
//! signature, never a cookie, so a browser has nothing of its own to protect here.
//!
//! A preflight carries no token by its nature. It is answered before one is asked for,
//! on every route alike, and tells nothing about any of them.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW,
    HeaderMap, HeaderValue, VARY,
};

use super::Response;

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// What a script may read beside what browsers always let it: the outcome of gRPC-web
/// calls, and what describes a download.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Location, Cache-Control, \
     X-Content-Type-Options, Accept-Ranges, Content-Disposition, Content-Encoding, \
     Content-Range",
);
/// Seconds that a browser remembers a preflight's answer. None remembers longer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Answers `OPTIONS`: a preflight, or somebody who asks without being a browser.
pub fn options(request: &HeaderMap) -> Response {
    let mut response = super::no_content();
    let headers = response.headers_mut();
    headers.insert(ALLOW, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // `*` does not cover `Authorization`, so the names that are asked for are repeated.
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(ANY));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers.insert(
        VARY,
        HeaderValue::from_static("Access-Control-Request-Headers"),
    );
    response
}

/// Lets scripts of any origin read an answer.
pub fn open_to_any_origin(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}
