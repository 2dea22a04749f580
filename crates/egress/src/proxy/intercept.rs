//! Requests whose headers the proxy sets: TLS ends here towards the guest, under a
//! certificate that only this sandbox trusts, and begins again towards the host,
//! whose certificate is checked as any client would.
//!
//! Every request must be for the host that the connection was opened for: the
//! headers may be secrets, and go nowhere else. The guest sees the answers and never
//! the headers. One line in the log for each request says which headers were set.

use std::io;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::dial::Stream;
use super::replay::Replay;
use crate::guests::{Guest, Identity};
use crate::names;
use crate::secrets::{self, SecretSource};

type Body = BoxBody<Bytes, hyper::Error>;

/// One connection that is looked into.
pub(super) struct Interception<'a> {
    pub(super) guest: &'a Guest,
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// The host is a sandbox of ours, or the API.
    pub(super) edge: bool,
    pub(super) secrets: &'a dyn SecretSource,
    pub(super) trust: Arc<ClientConfig>,
}

impl Interception<'_> {
    /// Serves the guest's requests until it or the host has enough. `stream` begins
    /// with what was read of it already.
    pub(super) async fn serve(self, stream: Replay<TcpStream>, target: Stream) -> io::Result<()> {
        let authority = self.guest.authority().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the sandbox has no authority")
        })?;
        let server = authority.server(self.host).map_err(io::Error::other)?;
        let name = ServerName::try_from(self.host.to_owned()).map_err(io::Error::other)?;
        let target = TlsConnector::from(Arc::clone(&self.trust))
            .connect(name, target)
            .await?;
        let stream = TlsAcceptor::from(server).accept(stream).await?;
        // Names as the guest wrote them; what it did not write is `Written-So`.
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .handshake(TokioIo::new(target))
            .await
            .map_err(io::Error::other)?;
        // Lives as long as this connection: dropping the set aborts it.
        let mut towards = JoinSet::new();
        towards.spawn(async move { drop(connection.with_upgrades().await) });
        let sender = Mutex::new(sender);
        let upgrades = Mutex::new(JoinSet::new());
        let (this, sender, running) = (&self, &sender, &upgrades);
        let service = service_fn(move |request| async move {
            Ok::<_, hyper::Error>(this.answer(request, sender, running).await)
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            // The host has closed: after the answer under way the guest is told.
            _ = towards.join_next() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        // A connection that became another protocol goes on after its request.
        while upgrades.lock().await.join_next().await.is_some() {}
        served.map_err(io::Error::other)
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        sender: &Mutex<SendRequest<Incoming>>,
        upgrades: &Mutex<JoinSet<()>>,
    ) -> Response<Body> {
        if !self.is_for_host(&request) {
            return refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "the request is for another host",
            );
        }
        // The rules of this moment: they may have changed since the last request.
        let rules = self.guest.rules();
        let headers = match rules.transform(self.host, self.port, self.edge) {
            Some(transform) => match self.fill(&transform.headers) {
                Ok(headers) => headers,
                Err(error) => {
                    let id = &self.guest.identity.sandbox_id;
                    tracing::warn!(sandbox = %id, host = self.host, %error, "cannot set headers");
                    return refusal(StatusCode::BAD_GATEWAY, &error.to_string());
                }
            },
            None => Vec::new(),
        };
        self.audit(&request, &headers);
        for (name, value) in headers {
            request.headers_mut().insert(name, value);
        }
        let from_guest = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
        let mut sender = sender.lock().await;
        let answered = match sender.ready().await {
            Ok(()) => sender.send_request(request).await,
            Err(error) => Err(error),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(host = self.host, %error, "the host did not answer");
                return refusal(StatusCode::BAD_GATEWAY, "the host did not answer");
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(from_guest) = from_guest
        {
            let from_host = hyper::upgrade::on(&mut response);
            upgrades.lock().await.spawn(async move {
                if let (Ok(guest), Ok(host)) = (from_guest.await, from_host.await) {
                    let (mut guest, mut host) = (TokioIo::new(guest), TokioIo::new(host));
                    let _ = tokio::io::copy_bidirectional(&mut guest, &mut host).await;
                }
            });
        }
        response.map(BodyExt::boxed)
    }

    fn fill(
        &self,
        headers: &std::collections::BTreeMap<String, String>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, secrets::FillError> {
        let team = &self.guest.identity.team_id;
        secrets::fill(headers, |name| self.secrets.secret(team, name))
    }

    fn audit(&self, request: &Request<Incoming>, headers: &[(HeaderName, HeaderValue)]) {
        let Identity {
            sandbox_id,
            team_id,
        } = &self.guest.identity;
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        tracing::info!(
            target: "audit",
            sandbox = %sandbox_id, team = team_id, host = self.host, port = self.port,
            method = %request.method(), path = request.uri().path(), headers = ?names,
            "set headers of a request"
        );
    }

    /// Whether the request names this connection's host, and no other.
    fn is_for_host(&self, request: &Request<Incoming>) -> bool {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let same = |text: &str| {
            let (name, port) = match text.rsplit_once(':') {
                Some((name, port)) => (name, port.parse().ok()),
                None => (text, Some(self.port)),
            };
            names::normal(name).as_deref() == Some(self.host) && port == Some(self.port)
        };
        host.to_str().is_ok_and(same)
            && request
                .uri()
                .authority()
                .is_none_or(|authority| same(authority.as_str()))
    }
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::UPGRADE)
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let content = serde_json::json!({"code": status.as_u16(), "message": message});
    let body = Full::new(Bytes::from(content.to_string()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
