//! Passes one request to a guest and its answer back.
//!
//! The guest is spoken to in HTTP/1.1, except for gRPC that came in HTTP/2: that
//! goes on as HTTP/2 without TLS. A WebSocket that came in a stream of HTTP/2 (RFC
//! 8441) becomes an upgrade. A request is sent a second time only when nothing
//! of it can have been seen (the transport gave it back unsent), or when it has no
//! body, is idempotent and the kept connection broke before an answer began.

use crate::AGENT_PORT;
use crate::body::{Carrier, EdgeBody};
use crate::config::EdgeConfig;
use crate::drain::Upload;
use crate::guest::GuestConnection;
use crate::guest::OutgoingBody;
use crate::headers;
use crate::record::RequestRecord;
use crate::refusal::Refusal;
use crate::routes::Route;
use crate::server::Peer;
use crate::target;
use crate::tunnel;
use crate::upstream::UpstreamPool;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, TE, TRANSFER_ENCODING,
};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What a client that asked to switch protocols gives for it.
struct Switch {
    client: OnUpgrade,
    /// Asked for by an extended CONNECT in HTTP/2.
    extended: bool,
}

/// One admitted request.
pub(crate) struct ProxyRequest {
    pub(crate) pool: Arc<UpstreamPool>,
    pub(crate) route: Arc<Route>,
    pub(crate) port: u16,
    pub(crate) peer: Peer,
    pub(crate) open: OwnedSemaphorePermit,
    pub(crate) record: Arc<RequestRecord>,
}

impl ProxyRequest {
    pub(crate) async fn forward(
        self,
        config: &EdgeConfig,
        mut request: Request<Upload>,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let extended = request.method() == Method::CONNECT;
        if extended {
            headers::from_extended_connect(&mut request)?;
        }
        // The agent switches no protocols: nothing could be checked after that.
        let protocol = (request.version() == Version::HTTP_11 && self.port != AGENT_PORT)
            .then(|| headers::upgrade_protocol(request.headers()))
            .flatten();
        if extended && protocol.is_none() {
            return Err(Refusal::UnsupportedMethod(Method::CONNECT));
        }
        let client = protocol.is_some().then(|| Switch {
            client: hyper::upgrade::on(&mut request),
            extended,
        });
        let grpc = is_grpc(&request);
        let mut request = self.outgoing(config, request)?;
        if let Some(protocol) = protocol {
            headers::set_upgrade(request.headers_mut(), protocol);
        }
        let pool = Arc::clone(&self.pool);
        tokio::select! {
            biased;
            response = self.send(request, grpc, client) => response,
            () = pool.ended.cancelled() => Err(pool.gone()),
        }
    }

    async fn send(
        self,
        request: Request<OutgoingBody>,
        grpc: bool,
        client: Option<Switch>,
    ) -> Result<Response<EdgeBody>, Refusal> {
        if grpc {
            return self.send_multiplexed(request).await;
        }
        let (response, mut connection) = send_single(&self.pool, self.port, request).await?;
        if self.record.is_uploading() {
            connection.detach(&self.pool.tasks, &self.pool.ended);
        }
        match client {
            Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(self.switch(response, connection, client))
            }
            _ => Ok(self.passed(response, Carrier::Single(connection)).await),
        }
    }

    /// The request as the guest gets it.
    fn outgoing(
        &self,
        config: &EdgeConfig,
        request: Request<Upload>,
    ) -> Result<Request<OutgoingBody>, Refusal> {
        let (mut head, body) = request.into_parts();
        let host = target::authority(&head.uri, &head.headers)?;
        let host = host.as_ref().map(http::uri::Authority::as_str);
        if head.headers.contains_key(TRANSFER_ENCODING) {
            head.headers.remove(CONTENT_LENGTH);
        }
        headers::to_guest(
            &mut head.headers,
            host,
            self.port,
            &self.route,
            self.peer,
            config,
        );
        head.extensions.clear();
        head.version = Version::HTTP_11;
        head.uri = head
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"))
            .into();
        let body = if body.is_end_stream() {
            Either::Right(Empty::new())
        } else {
            // hyper assumes that a GET without a length has no body.
            if !head.headers.contains_key(CONTENT_LENGTH) {
                let chunked = HeaderValue::from_static("chunked");
                head.headers.insert(TRANSFER_ENCODING, chunked);
            }
            Either::Left(body)
        };
        Ok(Request::from_parts(head, body))
    }

    async fn send_multiplexed(
        self,
        mut request: Request<OutgoingBody>,
    ) -> Result<Response<EdgeBody>, Refusal> {
        let request_headers = request.headers_mut();
        request_headers.remove(TRANSFER_ENCODING);
        let host = request_headers.remove(http::header::HOST);
        request_headers.insert(TE, HeaderValue::from_static("trailers"));
        *request.version_mut() = Version::HTTP_2;
        let authority = host
            .and_then(|host| host.to_str().map(str::to_owned).ok())
            .unwrap_or_else(|| "localhost".to_owned());
        let path = request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(|_| Refusal::InvalidHost)?;
        let mut multiplex = self.pool.multiplex(self.port).await?;
        let response = match multiplex.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // The connection was closed before the request went out.
                let request = error
                    .take_message()
                    .ok_or_else(|| self.pool.broken(self.port))?;
                multiplex = self.pool.multiplex(self.port).await?;
                multiplex
                    .sender
                    .send_request(request)
                    .await
                    .map_err(|_| self.pool.broken(self.port))?
            }
        };
        Ok(self.passed(response, Carrier::Shared(multiplex)).await)
    }

    /// The guest's answer as the client gets it.
    async fn passed(self, response: Response<Incoming>, carrier: Carrier) -> Response<EdgeBody> {
        let (mut head, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        head.extensions.clear();
        head.version = Version::HTTP_11;
        let body =
            EdgeBody::guest(body, carrier, self.pool, self.port, self.open, self.record).await;
        Response::from_parts(head, body)
    }

    /// Joins both sides after the guest agreed to switch protocols.
    fn switch(
        self,
        mut response: Response<Incoming>,
        connection: GuestConnection,
        Switch { client, extended }: Switch,
    ) -> Response<EdgeBody> {
        let guest = hyper::upgrade::on(&mut response);
        let protocol = response.headers().get(http::header::UPGRADE).cloned();
        let (mut head, _) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        head.extensions.clear();
        if extended {
            head.status = StatusCode::OK;
            head.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else if let Some(protocol) = protocol {
            headers::set_upgrade(&mut head.headers, protocol);
        }
        tunnel::spawn(self.pool, client, guest, connection, self.open, self.record);
        Response::from_parts(head, EdgeBody::empty())
    }
}

fn is_grpc(request: &Request<Upload>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
        && !request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

/// Sends a request over HTTP/1.1, on a kept connection when that is safe.
async fn send_single(
    pool: &UpstreamPool,
    port: u16,
    mut request: Request<OutgoingBody>,
) -> Result<(Response<Incoming>, GuestConnection), Refusal> {
    let replay = Replay::of(&request);
    if port == AGENT_PORT || replay.is_some() {
        while let Some(mut connection) = pool.idle_connection(port).await {
            match connection.request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => {
                    request = error
                        .take_message()
                        .or_else(|| replay.as_ref().map(Replay::request))
                        .ok_or_else(|| pool.broken(port))?;
                }
            }
        }
    }
    let mut connection = pool.open(port).await?;
    match connection.request(request).await {
        Ok(response) => Ok((response, connection)),
        Err(error) => {
            let error = error.into_error();
            tracing::debug!(sandbox = %pool.id, port, %error, "guest did not answer");
            Err(pool.broken(port))
        }
    }
}

/// What is needed to send a request once more.
struct Replay(request::Parts);

impl Replay {
    fn of(request: &Request<OutgoingBody>) -> Option<Self> {
        let safe = request.method().is_idempotent() && matches!(request.body(), Either::Right(_));
        safe.then(|| {
            let (mut head, ()) = Request::new(()).into_parts();
            head.method = request.method().clone();
            head.uri = request.uri().clone();
            head.version = request.version();
            head.headers = request.headers().clone();
            Self(head)
        })
    }

    fn request(&self) -> Request<OutgoingBody> {
        Request::from_parts(self.0.clone(), Either::Right(Empty::new()))
    }
}
