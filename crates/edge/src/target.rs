//! Decides whom a request is for, from its host, headers and path alone. Pure, so
//! that it can be tested by properties.
//!
//! 1. A host whose left-most label is `{port}-{sandboxID}[-{clientID}]`, in any
//!    domain, names the sandbox; headers do not matter then.
//! 2. `localhost`, IP addresses and `sandbox.*` are shared: there the headers
//!    `E2b-Sandbox-Id` and `E2b-Sandbox-Port` name it.
//! 3. On those hosts `/files` with a signature and no headers is a signed file URL.
//! 4. All else is not for a sandbox.

use crate::Refusal;
use crate::signature::SignedFile;
use hearth_ids::SandboxId;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Uri};
use http::{Method, request};
use std::net::IpAddr;

/// Names the sandbox on shared hosts.
pub const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
/// Names the guest's port on shared hosts.
pub const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// One port of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The sandbox.
    pub id: SandboxId,
    /// The port in its guest.
    pub port: u16,
}

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Not for a sandbox.
    Fallback,
    /// A port of a sandbox.
    Sandbox(Destination),
    /// For the sandbox whose token made the signature.
    SignedFile(SignedFile),
}

/// Classifies a request by its head.
pub fn classify(head: &request::Parts) -> Result<Target, Refusal> {
    let Some(authority) = authority(&head.uri, &head.headers)? else {
        return Ok(Target::Fallback);
    };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    if let Some(destination) = by_host(&host)? {
        return Ok(Target::Sandbox(destination));
    }
    match shared_host(&host) {
        Shared::No => Ok(Target::Fallback),
        Shared::WithApi => by_headers(&head.headers)?
            .map(Target::Sandbox)
            .map_or_else(|| Ok(by_signature(&head.method, &head.uri)), Ok),
        Shared::SandboxesOnly => match by_headers(&head.headers)? {
            Some(destination) => Ok(Target::Sandbox(destination)),
            None => match by_signature(&head.method, &head.uri) {
                Target::Fallback => Err(Refusal::MissingHeader(SANDBOX_ID)),
                file => Ok(file),
            },
        },
    }
}

/// The authority that the client asked for: of an absolute request target (always
/// the case in HTTP/2), else of the one `Host` header.
pub(crate) fn authority(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::InvalidHost);
    }
    let authority = match (uri.authority(), first) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) if host.is_empty() => return Ok(None),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Refusal::InvalidHost)?
        }
        (None, None) => return Ok(None),
    };
    if authority.as_str().contains('@') {
        return Err(Refusal::InvalidHost);
    }
    Ok(Some(authority))
}

/// Reads `{port}-{sandboxID}[-{clientID}]` in the left-most label. A label with
/// nothing but digits between its hyphens is an address in a host name
/// (`10-0-0-1.…`), not a sandbox.
fn by_host(host: &str) -> Result<Option<Destination>, Refusal> {
    if host.starts_with('[') {
        return Ok(None);
    }
    let label = host.split('.').next().unwrap_or(host);
    let Some((port, id)) = label.split_once('-') else {
        return Ok(None);
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || !digits(port) || id.split('-').all(digits) {
        return Ok(None);
    }
    Ok(Some(Destination {
        port: parse_port(port)?,
        id: parse_id(id)?,
    }))
}

enum Shared {
    /// Belongs to neither.
    No,
    /// The API answers here too.
    WithApi,
    SandboxesOnly,
}

fn shared_host(host: &str) -> Shared {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" || bare.parse::<IpAddr>().is_ok() {
        Shared::WithApi
    } else if host.starts_with("sandbox.") {
        Shared::SandboxesOnly
    } else {
        Shared::No
    }
}

fn by_headers(headers: &HeaderMap) -> Result<Option<Destination>, Refusal> {
    let id = single(headers, &SANDBOX_ID)?;
    let port = single(headers, &SANDBOX_PORT)?;
    let (id, port) = match (id, port) {
        (None, None) => return Ok(None),
        (Some(id), Some(port)) => (id, port),
        (None, Some(_)) => return Err(Refusal::MissingHeader(SANDBOX_ID)),
        (Some(_), None) => return Err(Refusal::MissingHeader(SANDBOX_PORT)),
    };
    let id = id
        .to_str()
        .map_err(|_| Refusal::InvalidSandboxId(String::new()))?;
    let port = port
        .to_str()
        .map_err(|_| Refusal::InvalidPort(String::new()))?;
    Ok(Some(Destination {
        id: parse_id(id.trim())?,
        port: parse_port(port.trim())?,
    }))
}

/// The value of a header that may be sent once.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Refusal::RepeatedHeader(name.clone())),
    }
}

fn by_signature(method: &Method, uri: &Uri) -> Target {
    SignedFile::from_request(method, uri).map_or(Target::Fallback, Target::SignedFile)
}

fn parse_port(text: &str) -> Result<u16, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(Refusal::InvalidPort(text.to_owned())),
    }
}

fn parse_id(text: &str) -> Result<SandboxId, Refusal> {
    SandboxId::parse_client(text).map_err(|_| Refusal::InvalidSandboxId(text.to_owned()))
}

#[cfg(test)]
mod tests;
