//! A node's service over mutual TLS: the control plane reaches it, and nobody else does.

#![allow(
    refining_impl_trait,
    reason = "the service's answers have one type each"
)]

use connectrpc::{RequestContext, Response, Router, ServiceRequest, ServiceResult};
use hearth_cluster::{
    Authority, Bounds, Connect, Credentials, Fingerprint, Member, control_only, request, serve,
};
use hearth_control::{Node as _, NodeError};
use hearth_node_client::NodeClient;
use hearth_node_proto::hearth::node::v1 as proto;
use hearth_node_proto::hearth::node::v1::InfoServiceExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Counts how often it was asked.
#[derive(Default)]
struct Info(AtomicU32);

impl proto::InfoService for Info {
    async fn service_info(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::ServiceInfoRequest>,
    ) -> ServiceResult<proto::ServiceInfoResponse> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Response::ok(proto::ServiceInfoResponse {
            node_id: "elsewhere".to_owned(),
            sandboxes_running: asked,
            ..Default::default()
        })
    }
}

fn certified(authority: &Authority, member: Member) -> Arc<Credentials> {
    let (key, request) = request().expect("a request");
    let issued = authority.issue(&request, member).expect("is signed");
    Credentials::new(&key, &issued.pem, authority.pem()).expect("belong together")
}

/// Serves a node as `hearth_node::Server` does.
async fn served(info: &Arc<Info>, node: &Arc<Credentials>, address: &str) -> (String, Stop) {
    let router = Arc::clone(info).register(Router::new());
    let service = axum::Router::new()
        .fallback_service(router.into_axum_service())
        .layer(axum::middleware::from_fn(control_only));
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("is bound").to_string();
    let stop = CancellationToken::new();
    let tls = node.server_config().expect("TLS");
    let task = tokio::spawn(serve(
        listener,
        tls,
        service,
        Bounds::default(),
        stop.clone(),
    ));
    (address, Stop(stop, task))
}

struct Stop(CancellationToken, tokio::task::JoinHandle<()>);

fn client(address: &str, node: Member, shown: &Arc<Credentials>) -> NodeClient {
    client_of(address, node, None, shown)
}

fn client_of(
    address: &str,
    node: Member,
    key: Option<Fingerprint>,
    shown: &Arc<Credentials>,
) -> NodeClient {
    NodeClient::member(Connect {
        address: address.to_owned(),
        member: node,
        key,
        tls: shown.client_config().expect("TLS"),
    })
}

#[tokio::test]
async fn the_control_plane_alone_is_served() {
    let folder = tempfile::tempdir().expect("a directory");
    let authority = Authority::open_or_create(folder.path()).expect("is made");
    let name = Member::Node(Uuid::new_v4());
    let (info, node) = (Arc::new(Info::default()), certified(&authority, name));
    let (address, stop) = served(&info, &node, "127.0.0.1:0").await;

    let control = Credentials::control(&authority).expect("are made");
    let known = client(&address, name, &control);
    assert_eq!(known.info().await.expect("answers").node_id, "elsewhere");
    assert_eq!(known.info().await.expect("answers").sandboxes_running, 2);

    let other = certified(&authority, Member::Node(Uuid::new_v4()));
    let error = client(&address, name, &other).info().await;
    let error = error.expect_err("is no control plane").to_string();
    assert!(error.contains("permission_denied"), "{error}");
    let error = client(&address, Member::Node(Uuid::new_v4()), &control)
        .info()
        .await;
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let stranger = Authority::open_or_create(elsewhere.path()).expect("is made");
    let stranger = Credentials::control(&stranger).expect("are made");
    let error = client(&address, name, &stranger).info().await;
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");
    assert_eq!(info.0.load(Ordering::Relaxed), 2, "nobody else got through");

    // The same node by name, certified for a key before this one.
    let former = certified(&authority, name).peer().key;
    let error = client_of(&address, name, Some(former), &control)
        .info()
        .await;
    let error = error.expect_err("another key").to_string();
    assert!(error.contains("another key"), "{error}");
    assert_eq!(info.0.load(Ordering::Relaxed), 2, "it was not asked");

    // A node that starts again is found again by the same client.
    stop.0.cancel();
    stop.1.await.expect("no panic");
    let away = known.info().await;
    assert!(matches!(away, Err(NodeError::Unreachable(_))), "{away:?}");
    let (_, stop) = served(&info, &node, &address).await;
    assert_eq!(known.info().await.expect("answers").sandboxes_running, 3);
    let noted = node.peer().key.to_string().parse().expect("a digest");
    let noted = client_of(&address, name, Some(noted), &control);
    assert_eq!(noted.info().await.expect("answers").sandboxes_running, 4);
    stop.0.cancel();
}
