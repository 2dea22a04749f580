//! Every answer that the edge gives instead of a guest, and its two looks: JSON for
//! programs, a page for browsers. The texts that clients search for (`was not
//! found`, `port is not open`) are part of the contract.

use crate::body::EdgeBody;
use crate::page;
use bytes::Bytes;
use hearth_ids::SandboxId;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request};

use serde::Serialize;

/// Why a request does not reach a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Invalid host")]
    InvalidHost,
    #[error("Invalid sandbox ID {0:?}")]
    InvalidSandboxId(String),
    #[error("Invalid sandbox port {0:?}: expected a number from 1 to 65535")]
    InvalidPort(String),
    #[error("Missing header {0}: it names the sandbox on this host together with its companion")]
    MissingHeader(HeaderName),
    #[error("Header {0} is sent more than once")]
    RepeatedHeader(HeaderName),
    #[error("Method {0} is not supported")]
    UnsupportedMethod(Method),
    #[error("Missing header e2b-traffic-access-token: the sandbox does not allow public traffic")]
    TrafficTokenMissing(SandboxId),
    #[error("Invalid value in header e2b-traffic-access-token")]
    TrafficTokenInvalid(SandboxId),
    #[error("You may not resume this sandbox")]
    ResumeDenied(SandboxId),
    #[error("This route is reserved for the E2B control plane")]
    InternalRoute(SandboxId),
    #[error("The signature belongs to no running sandbox")]
    UnknownSignature,
    #[error("The sandbox is still changing its state, try again")]
    Transitioning(SandboxId),
    #[error("Too many open connections to the sandbox (at most {limit})")]
    TooManyConnections { id: SandboxId, limit: usize },
    #[error("The team has too many running sandboxes to resume this one")]
    TeamLimit(SandboxId),
    #[error("The sandbox is paused and could not be resumed, try again")]
    ResumeFailed(SandboxId),
    #[error("The sandbox was not found")]
    NotFound(SandboxId),
    #[error("The sandbox is running but port is not open")]
    PortClosed { id: SandboxId, port: u16 },
    #[error("The sandbox closed the connection before it answered")]
    Broken { id: SandboxId, port: u16 },
    #[error("This address serves sandboxes only")]
    NoSandbox,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a SandboxId>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    code: u16,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidHost
            | Self::InvalidSandboxId(_)
            | Self::InvalidPort(_)
            | Self::MissingHeader(_)
            | Self::RepeatedHeader(_)
            | Self::NoSandbox => StatusCode::BAD_REQUEST,
            Self::UnsupportedMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TrafficTokenMissing(_) | Self::TrafficTokenInvalid(_) | Self::ResumeDenied(_) => {
                StatusCode::FORBIDDEN
            }
            Self::InternalRoute(_) | Self::UnknownSignature => StatusCode::NOT_FOUND,
            Self::Transitioning(_) => StatusCode::CONFLICT,
            Self::TooManyConnections { .. } | Self::TeamLimit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::ResumeFailed(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound(_) | Self::PortClosed { .. } | Self::Broken { .. } => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// The sandbox that the request named, when it named one.
    #[must_use]
    pub fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::TrafficTokenMissing(id)
            | Self::TrafficTokenInvalid(id)
            | Self::ResumeDenied(id)
            | Self::InternalRoute(id)
            | Self::Transitioning(id)
            | Self::TeamLimit(id)
            | Self::ResumeFailed(id)
            | Self::NotFound(id)
            | Self::TooManyConnections { id, .. }
            | Self::PortClosed { id, .. }
            | Self::Broken { id, .. } => Some(id),
            _ => None,
        }
    }

    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::PortClosed { port, .. } | Self::Broken { port, .. } => Some(*port),
            _ => None,
        }
    }

    /// The reply, as a page when the client is a browser that asks for one.
    ///
    /// A CORS preflight gets a plain yes: only then does a browser send the request
    /// proper and let its page read why that is refused.
    pub(crate) fn into_response(self, client: &Client) -> Response<EdgeBody> {
        let mut response = if client.preflight {
            let mut response = Response::new(EdgeBody::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        } else if client.page {
            self.reply("text/html; charset=utf-8", page::render(&self).into())
        } else {
            self.reply("application/json", self.json())
        };
        let headers = response.headers_mut();
        allow_any_origin(headers, client.asked_headers.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn reply(&self, content_type: &'static str, body: Bytes) -> Response<EdgeBody> {
        let mut response = Response::new(EdgeBody::full(body));
        *response.status_mut() = self.status();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    fn json(&self) -> Bytes {
        let body = ErrorBody {
            sandbox_id: self.sandbox(),
            message: self.to_string(),
            port: self.port(),
            code: self.status().as_u16(),
        };
        serde_json::to_vec(&body)
            .expect("strings and numbers always serialize")
            .into()
    }
}

/// What of a request decides how a refusal looks.
pub(crate) struct Client {
    preflight: bool,
    /// A browser that asks for a document.
    page: bool,
    /// The headers that a preflight asks about.
    asked_headers: Option<HeaderValue>,
}

impl Client {
    pub(crate) fn of(head: &request::Parts) -> Self {
        let headers = &head.headers;
        Self {
            preflight: head.method == Method::OPTIONS
                && headers.contains_key(header::ORIGIN)
                && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD),
            page: wants_page(headers),
            asked_headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        }
    }
}

fn wants_page(headers: &HeaderMap) -> bool {
    let contains = |name: HeaderName, part: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains(part))
    };
    contains(header::ACCEPT, "text/html") && contains(header::USER_AGENT, "Mozilla")
}

fn allow_any_origin(headers: &mut HeaderMap, asked_headers: Option<HeaderValue>) {
    let any = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    );
    // `*` does not cover `Authorization`, so the asked names are repeated.
    let allowed = asked_headers.unwrap_or_else(|| any.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_bodies() {
        let id = SandboxId::random();
        let closed = Refusal::PortClosed {
            id: id.clone(),
            port: 8080,
        };
        let text = format!(
            r#"{{"sandboxId":"{id}","message":"The sandbox is running but port is not open","port":8080,"code":502}}"#
        );
        assert_eq!(closed.json(), text);
        let text =
            format!(r#"{{"sandboxId":"{id}","message":"The sandbox was not found","code":502}}"#);
        assert_eq!(Refusal::NotFound(id).json(), text);
    }
}
