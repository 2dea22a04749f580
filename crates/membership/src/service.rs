//! The control plane's service for nodes.

use connectrpc::{
    ConnectError, ConnectRpcService, Limits, RequestContext, Response, Router, ServiceRequest,
    ServiceResult,
};
use hearth_cluster::{Connection, JoinToken, Member};
use hearth_control::{CallingNode, Error, Heard, Kind, Members, NodeMode, NodeRegistration};
use hearth_node_proto::hearth::membership::v1 as proto;
use hearth_node_proto::hearth::membership::v1::MembershipServiceExt as _;
use std::sync::Arc;
use std::time::SystemTime;
use uuid::Uuid;

struct Service {
    members: Arc<Members>,
}

/// The longest request: a heartbeat's report and what goes with it. It is read before it is
/// known who sends it.
const MAX_REQUEST_BYTES: usize = 384 << 10;

/// The service, to be served by [`hearth_cluster::serve`], which says who calls.
#[must_use]
pub fn service(members: Arc<Members>) -> ConnectRpcService {
    let limits = Limits::default()
        .with_max_request_body_size(MAX_REQUEST_BYTES)
        .with_max_message_size(MAX_REQUEST_BYTES);
    Arc::new(Service { members })
        .register(Router::new())
        .into_axum_service()
        .with_limits(limits)
}

/// The one place where the application's errors become Connect codes.
fn refusal(error: Error) -> ConnectError {
    if error.kind == Kind::Internal {
        let source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
        tracing::error!(%error, source, "serve a node failed");
    }
    let text = error.message;
    match error.kind {
        Kind::Unauthenticated => ConnectError::new(connectrpc::ErrorCode::Unauthenticated, text),
        Kind::Forbidden => ConnectError::permission_denied(text),
        Kind::Conflict => ConnectError::already_exists(text),
        Kind::Invalid | Kind::Unprocessable => ConnectError::invalid_argument(text),
        Kind::NotFound => ConnectError::not_found(text),
        Kind::LimitReached => ConnectError::resource_exhausted(text),
        Kind::Unavailable => ConnectError::new(connectrpc::ErrorCode::Unavailable, text),
        Kind::Timeout => ConnectError::deadline_exceeded(text),
        Kind::Unimplemented => ConnectError::new(connectrpc::ErrorCode::Unimplemented, text),
        Kind::Internal => ConnectError::new(connectrpc::ErrorCode::Internal, text),
    }
}

/// Which node calls, as its certificate says.
fn caller(context: &RequestContext) -> Result<CallingNode, ConnectError> {
    let connection = context.extensions().get::<Connection>();
    let Some(peer) = connection.and_then(|connection| connection.peer) else {
        return Err(ConnectError::new(
            connectrpc::ErrorCode::Unauthenticated,
            "this call is for nodes that show their certificate: join first",
        ));
    };
    // A connection may outlive the certificate that it began with.
    if peer.not_after <= SystemTime::now() {
        return Err(ConnectError::new(
            connectrpc::ErrorCode::Unauthenticated,
            "the node's certificate is over: join again with a new token, `hearth node token`",
        ));
    }
    let Member::Node(id) = peer.member else {
        return Err(ConnectError::permission_denied("this call is for nodes"));
    };
    Ok(CallingNode {
        id,
        key: peer.key.to_string(),
    })
}

fn parse(field: &str, text: &str) -> Result<Uuid, ConnectError> {
    text.parse()
        .map_err(|_| ConnectError::invalid_argument(format!("{field} must be a UUID")))
}

fn mode(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Ready => "ready",
        NodeMode::Draining => "draining",
        NodeMode::Standby => "standby",
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::MembershipService for Service {
    async fn join(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, proto::JoinRequest>,
    ) -> ServiceResult<proto::JoinResponse> {
        let node = parse("node_id", request.node_id)?;
        let digest = JoinToken::digest(request.secret);
        let joined = self
            .members
            .join(&digest, node, request.certificate_request);
        let certificate = joined.await.map_err(|error| {
            let from = context.extensions().get::<Connection>();
            let from = from.map(|connection| connection.address);
            tracing::warn!(%error, %node, ?from, "a machine that wants to join is refused");
            refusal(error)
        })?;
        Response::ok(proto::JoinResponse {
            certificate,
            authority: self.members.authority(),
            ..Default::default()
        })
    }

    async fn renew(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, proto::RenewRequest>,
    ) -> ServiceResult<proto::RenewResponse> {
        let node = caller(&context)?;
        let renewed = self.members.renew(&node, request.certificate_request);
        Response::ok(proto::RenewResponse {
            certificate: renewed.await.map_err(refusal)?,
            ..Default::default()
        })
    }

    async fn announce(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, proto::AnnounceRequest>,
    ) -> ServiceResult<proto::AnnounceResponse> {
        let node = caller(&context)?;
        let request = request.to_owned_message();
        let registration = NodeRegistration {
            id: node.id,
            instance: parse("instance", &request.instance)?,
            name: request.name,
            address: request.address,
            labels: request.labels.into_iter().collect(),
            version: request.version,
            revision: request.revision,
        };
        let registered = self.members.register(&node, registration);
        let round = Members::ROUND.as_millis();
        Response::ok(proto::AnnounceResponse {
            generation: registered.await.map_err(refusal)?,
            round_ms: u32::try_from(round).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    async fn heartbeat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, proto::HeartbeatRequest>,
    ) -> ServiceResult<proto::HeartbeatResponse> {
        let node = caller(&context)?;
        let (generation, report) = (request.generation, request.report);
        let heard = self.members.heartbeat(&node, generation, report);
        let (heard, wanted) = match heard.await.map_err(refusal)? {
            Heard::Yes(wanted) => (true, mode(wanted)),
            Heard::Superseded => (false, ""),
        };
        Response::ok(proto::HeartbeatResponse {
            heard,
            mode: wanted.to_owned(),
            ..Default::default()
        })
    }

    async fn leave(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, proto::LeaveRequest>,
    ) -> ServiceResult<proto::LeaveResponse> {
        let node = caller(&context)?;
        let left = self.members.leave(&node, request.generation);
        left.await.map_err(refusal)?;
        Response::ok(proto::LeaveResponse::default())
    }
}
