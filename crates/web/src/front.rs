//! The way from a page to a sandbox's agent: `/web/agent/{sandboxID}/…`.
//!
//! A page may ask its own origin only, and browsers cannot be told to resolve the hosts of
//! sandboxes. So a request to that path is turned into the one that an SDK would send: the
//! API is asked for the sandbox, by the session, and the request goes on to the edge with
//! the sandbox's host and token, and without what concerns the session.
//!
//! A guest may answer anything. Here its answers are data: of their headers few are passed
//! on, their type is one that no browser runs or shows, and a policy confines them all the
//! same. Signed links to files, which on some hosts have the origin of the interface, get
//! that policy as well; and no guest is shown the session's cookie.

use crate::web::MAX_ANSWER_BYTES;
use crate::{BoxError, answer, proof};
use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures::future::BoxFuture;
use hearth_edge::target::{self, Target};
use hearth_edge::{AGENT_PORT, Peer};
use hearth_ids::SandboxId;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, HOST, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, ORIGIN, REFERER, TRAILER, USER_AGENT, VARY,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::Incoming;
use serde::Deserialize;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tower::{Service, ServiceExt as _};

const PREFIX: &str = "/web/agent/";
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
const FORWARDED: [HeaderName; 2] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
];
/// What of an agent's answer reaches the page.
const PASSED: [HeaderName; 10] = [
    ACCEPT_RANGES,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    TRAILER,
    VARY,
];
/// The API shows a sandbox's token to those alone who may change things in it.
const NO_TOKEN: &str = "This API key may look at the sandbox and not work in it: sign in with \
    one that is not read-only";
/// Types of an agent's answers that stay what they are: none is run or shown.
const DATA_TYPES: [&str; 2] = ["application/json", "application/connect+json"];

/// Stands before the edge.
#[derive(Clone)]
pub struct Front<S> {
    edge: S,
    web: Router,
    home: Handle,
}

impl<S> Front<S> {
    /// `edge` is what serves sandboxes and, for all else, `web`. Needs a tokio runtime:
    /// there questions to `web` are answered.
    #[must_use]
    pub fn new(edge: S, web: Router) -> Self {
        Self {
            edge,
            web,
            home: Handle::current(),
        }
    }
}

impl<S, B> Service<Request<Incoming>> for Front<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<B, Body>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let front = self.clone();
        let (mut head, body) = request.into_parts();
        let agent = head.uri.path().starts_with(PREFIX);
        let link = head.uri.path() == "/files";
        if !agent && !link && !head.headers.contains_key(COOKIE) {
            let request = Request::from_parts(head, body);
            return Box::pin(async move { front.pass(request, false).await });
        }
        let target = target::classify(&head);
        if agent && matches!(target, Ok(Target::Fallback)) {
            return Box::pin(async move { front.agent(head, body).await });
        }
        if !matches!(target, Ok(Target::Fallback)) {
            proof::hide_session(&mut head.headers);
        }
        let confined = matches!(target, Ok(Target::SignedFile(_)));
        if confined {
            // An agent needs none, and this one's origin may be that of the interface.
            head.headers.remove(COOKIE);
        }
        let request = Request::from_parts(head, body);
        Box::pin(async move { front.pass(request, confined).await })
    }
}

impl<S, B> Front<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    async fn pass(
        self,
        request: Request<Incoming>,
        confined: bool,
    ) -> Result<Response<Either<B, Body>>, Infallible> {
        let mut response = self.edge.oneshot(request).await?;
        if confined {
            let headers = response.headers_mut();
            answer::no_document(headers);
            answer::no_site(headers);
        }
        Ok(response.map(Either::Left))
    }

    async fn agent(
        self,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Response<Either<B, Body>>, Infallible> {
        let Self { edge, web, home } = self;
        let Some((id, rest)) = destination(&head.uri) else {
            let refused = answer::error(StatusCode::NOT_FOUND, "No such sandbox");
            return Ok(refused.map(Either::Right));
        };
        let question = question(&head, &id, rest.path());
        let sandbox = match ask(web, home, question).await {
            Ok(sandbox) => sandbox,
            Err(refused) => return Ok(refused.map(Either::Right)),
        };
        if redirect(&mut head, &id, rest, &sandbox).is_none() {
            let refused = answer::error(StatusCode::BAD_GATEWAY, "The sandbox has no usable host");
            return Ok(refused.map(Either::Right));
        }
        let mut response = edge.oneshot(Request::from_parts(head, body)).await?;
        if response.status() == StatusCode::UNAUTHORIZED && sandbox.envd_access_token.is_none() {
            let refused = answer::error(StatusCode::FORBIDDEN, NO_TOKEN);
            return Ok(refused.map(Either::Right));
        }
        tame(response.headers_mut());
        Ok(response.map(Either::Left))
    }
}

/// What the API tells of the sandbox, or its refusal.
async fn ask(
    web: Router,
    home: Handle,
    question: Request<Body>,
) -> Result<Sandbox, Response<Body>> {
    let failed = |what: &str| answer::error(StatusCode::BAD_GATEWAY, what);
    let response = match home.spawn(web.oneshot(question)).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => return Err(failed("The API did not answer")),
    };
    if response.status() != StatusCode::OK {
        return Err(response);
    }
    let read = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.ok();
    let sandbox = read.and_then(|read| serde_json::from_slice(&read).ok());
    sandbox.ok_or_else(|| failed("The API did not tell how the sandbox is reached"))
}

/// What is needed of the API's `SandboxDetail`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sandbox {
    domain: String,
    envd_access_token: Option<String>,
}

/// The sandbox of a path, and what is asked of its agent.
fn destination(uri: &Uri) -> Option<(SandboxId, PathAndQuery)> {
    let told = uri.path_and_query()?.as_str().strip_prefix(PREFIX)?;
    let (id, rest) = told.split_once('/')?;
    let rest = PathAndQuery::try_from(format!("/{rest}")).ok()?;
    Some((SandboxId::parse_client(id).ok()?, rest))
}

/// The question to the API, with what shows the session and where it comes from.
fn question(head: &Parts, id: &SandboxId, path: &str) -> Request<Body> {
    let mut question = Request::new(Body::empty());
    let (of, to) = (&head.headers, question.headers_mut());
    let [from, scheme] = FORWARDED;
    for name in [
        COOKIE,
        HOST,
        ORIGIN,
        USER_AGENT,
        proof::MARK,
        proof::FETCH_SITE,
        from,
        scheme,
    ] {
        for value in of.get_all(&name) {
            to.append(&name, value.clone());
        }
    }
    if !to.contains_key(HOST)
        && let Some(host) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        to.insert(HOST, host);
    }
    to.insert(ACCEPT, HeaderValue::from_static("application/json"));
    // A link of the page's that downloads a file cannot carry the mark; that the page has
    // sent it is then the browser's word.
    let same = of
        .get(proof::FETCH_SITE)
        .is_some_and(|site| site == "same-origin");
    if head.method == Method::GET && path == "/files" && same {
        to.insert(proof::MARK, HeaderValue::from_static("1"));
    }
    if let Ok(uri) = Uri::try_from(format!("/sandboxes/{id}")) {
        *question.uri_mut() = uri;
    }
    if let Some(peer) = head.extensions.get::<Peer>() {
        question.extensions_mut().insert(*peer);
    }
    question
}

/// Turns a page's request into the one that an SDK sends to the agent.
fn redirect(head: &mut Parts, id: &SandboxId, rest: PathAndQuery, to: &Sandbox) -> Option<()> {
    let host = format!("{AGENT_PORT}-{id}.{}", to.domain);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(host.as_str()).ok()?);
    uri.path_and_query = Some(rest);
    head.uri = Uri::from_parts(uri).ok()?;
    head.headers
        .insert(HOST, HeaderValue::from_str(&host).ok()?);
    for name in [
        COOKIE,
        ORIGIN,
        REFERER,
        proof::MARK,
        proof::API_KEY,
        ACCESS_TOKEN,
        target::SANDBOX_ID,
        target::SANDBOX_PORT,
    ] {
        head.headers.remove(name);
    }
    if let Some(token) = &to.envd_access_token {
        let mut token = HeaderValue::from_str(token).ok()?;
        token.set_sensitive(true);
        head.headers.insert(ACCESS_TOKEN, token);
    }
    Some(())
}

/// Makes an answer of the agent's data, whatever it says it is.
fn tame(headers: &mut HeaderMap) {
    let mut kept = HeaderMap::new();
    for name in PASSED {
        for value in headers.get_all(&name) {
            kept.append(&name, value.clone());
        }
    }
    *headers = kept;
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if kind.is_none_or(|kind| !DATA_TYPES.contains(&kind)) {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
    }
    // A file that is opened by a link is kept, never shown.
    let disposition = headers
        .get(CONTENT_DISPOSITION)
        .and_then(|told| told.to_str().ok());
    if let Some(told) = disposition {
        let name = told.split_once(';').map_or("", |(_, name)| name);
        let attachment = format!("attachment;{name}");
        if let Ok(attachment) = HeaderValue::from_str(attachment.trim_end_matches(';')) {
            headers.insert(CONTENT_DISPOSITION, attachment);
        }
    } else {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer::no_document(headers);
}

#[cfg(test)]
mod tests;
