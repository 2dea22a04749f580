//! Members over real TLS on loopback.

use axum::Extension;
use axum::middleware::from_fn;
use axum::routing::get;
use hearth_cluster::{
    Authority, Bounds, CLOCK_SKEW, Connect, Connection, Credentials, Member, control_only, pinned,
    request, serve,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use uuid::Uuid;

struct Cluster {
    authority: Authority,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        Self {
            authority: Authority::open_or_create(folder.path()).expect("is made"),
            _folder: folder,
        }
    }

    fn member(&self, member: Member, at: SystemTime) -> Arc<Credentials> {
        let (key, request) = request().expect("a request");
        let issued = self.authority.issue_at(&request, member, at);
        let pem = issued.expect("is signed").pem;
        Credentials::new(&key, &pem, self.authority.pem()).expect("belong together")
    }
}

/// Serves who calls at `/`, and at `/control` the control plane alone.
async fn served(tls: Arc<ServerConfig>, stop: &CancellationToken) -> String {
    served_within(Bounds::default(), tls, stop).await
}

async fn served_within(bounds: Bounds, tls: Arc<ServerConfig>, stop: &CancellationToken) -> String {
    let who = |Extension(connection): Extension<Connection>| async move {
        connection
            .peer
            .map_or_else(|| "nobody".to_owned(), |peer| peer.member.to_string())
    };
    let guarded = axum::Router::new()
        .route("/control", get(|| async { "welcome" }))
        .layer(from_fn(control_only));
    let service = axum::Router::new().route("/", get(who)).merge(guarded);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("is bound").to_string();
    tokio::spawn(serve(listener, tls, service, bounds, stop.clone()));
    address
}

async fn connect(
    address: &str,
    member: Member,
    tls: Arc<ClientConfig>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let address = address.to_owned();
    let connect = Connect {
        address,
        member,
        key: None,
        tls,
    };
    hearth_cluster::connector(connect)
        .call(http::Uri::from_static("http://x"))
        .await
}

/// Status and text of what a member is answered.
async fn ask(
    address: &str,
    member: Member,
    tls: Arc<ClientConfig>,
    path: &str,
) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let stream = connect(address, member, tls).await?;
    let executor = TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await?;
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://x{path}")).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

#[tokio::test]
async fn members_know_each_other_by_their_certificates() {
    let (cluster, now) = (Cluster::new(), SystemTime::now());
    let id = Uuid::new_v4();
    let node = cluster.member(Member::Node(id), now);
    let control = cluster.member(Member::Control, now);
    let stop = CancellationToken::new();
    let at = served(node.server_config().expect("TLS"), &stop).await;
    let as_control = control.client_config().expect("TLS");

    let answer = ask(&at, Member::Node(id), Arc::clone(&as_control), "/").await;
    assert_eq!(
        answer.expect("is served"),
        (200, "the control plane".to_owned())
    );
    let answer = ask(&at, Member::Node(id), Arc::clone(&as_control), "/control").await;
    assert_eq!(answer.expect("is served").0, 200);
    // Another node is told who it is, and nothing that is the control plane's.
    let other = Member::Node(Uuid::new_v4());
    let as_other = cluster.member(other, now).client_config().expect("TLS");
    let answer = ask(&at, Member::Node(id), Arc::clone(&as_other), "/").await;
    assert_eq!(answer.expect("is served"), (200, other.to_string()));
    let answer = ask(&at, Member::Node(id), as_other, "/control").await;
    assert_eq!(answer.expect("is answered").0, 403);
    // Whoever answers has to be the one that was asked for.
    let wrong = ask(&at, other, Arc::clone(&as_control), "/").await;
    let wrong = wrong.expect_err("is another node").to_string();
    assert!(
        wrong.contains("another member of the cluster answers"),
        "{wrong}"
    );

    stop.cancel();
    let closed = async {
        while TcpStream::connect(&at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), closed).await;
    waited.expect("the listener ends");
}

#[tokio::test]
async fn strangers_are_not_let_in() {
    let (cluster, now) = (Cluster::new(), SystemTime::now());
    let stop = CancellationToken::new();
    let node = cluster.member(Member::Node(Uuid::new_v4()), now);
    let whom = node.peer().member;
    let at = served(node.server_config().expect("TLS"), &stop).await;
    // Without a certificate, with that of another cluster's authority, and with an old one.
    let without = pinned(cluster.authority.fingerprint()).expect("TLS");
    assert!(ask(&at, whom, without, "/").await.is_err());
    let other = Cluster::new();
    let foreign = other.member(Member::Control, now);
    let error = ask(&at, whom, foreign.client_config().expect("TLS"), "/").await;
    let error = error.expect_err("trusts another authority").to_string();
    assert!(error.contains("is not of this cluster"), "{error}");
    let old = now - hearth_cluster::CERTIFICATE_LIFE - Duration::from_secs(60);
    let old = cluster.member(Member::Control, old);
    assert!(old.due() < now);
    let outcome = ask(&at, whom, old.client_config().expect("TLS"), "/").await;
    assert!(outcome.is_err(), "{outcome:?}");
    // Who serves those who want to join serves them nothing else.
    let open = served(node.open_server_config().expect("TLS"), &stop).await;
    let without = pinned(cluster.authority.fingerprint()).expect("TLS");
    let answer = ask(&open, whom, Arc::clone(&without), "/").await;
    assert_eq!(answer.expect("is served"), (200, "nobody".to_owned()));
    let answer = ask(&open, whom, without, "/control").await;
    assert_eq!(answer.expect("is answered").0, 403);
    // A certificate that is shown there has to be good all the same.
    let outcome = ask(&open, whom, old.client_config().expect("TLS"), "/").await;
    assert!(outcome.is_err(), "{outcome:?}");
    let pin = pinned(other.authority.fingerprint()).expect("TLS");
    let error = ask(&open, whom, pin, "/").await.expect_err("another pin");
    assert!(
        error.to_string().contains("is not of this cluster"),
        "{error}"
    );
    stop.cancel();
}

#[tokio::test]
async fn clocks_may_differ_by_minutes_and_more_is_told() {
    let (cluster, now) = (Cluster::new(), SystemTime::now());
    let stop = CancellationToken::new();
    let control = Member::Control;
    // The control plane's clock is ahead of ours.
    for (ahead, good) in [
        (Duration::from_secs(60), true),
        (CLOCK_SKEW + Duration::from_secs(120), false),
    ] {
        let there = cluster.member(control, now + ahead);
        let at = served(there.open_server_config().expect("TLS"), &stop).await;
        let pin = pinned(cluster.authority.fingerprint()).expect("TLS");
        let outcome = ask(&at, control, pin, "/").await;
        if good {
            assert_eq!(outcome.expect("is served").0, 200);
        } else {
            let error = outcome.expect_err("is not valid yet").to_string();
            assert!(
                error.contains("clock is behind the control plane's by"),
                "{error}"
            );
            assert!(error.contains("NTP"), "{error}");
        }
    }
    stop.cancel();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_then_on() {
    let (cluster, now) = (Cluster::new(), SystemTime::now());
    let stop = CancellationToken::new();
    let old = now - hearth_cluster::CERTIFICATE_LIFE - Duration::from_secs(60);
    let control = cluster.member(Member::Control, old);
    let at = served(control.open_server_config().expect("TLS"), &stop).await;
    let pin = pinned(cluster.authority.fingerprint()).expect("TLS");
    let error = ask(&at, Member::Control, Arc::clone(&pin), "/").await;
    let error = error.expect_err("is over").to_string();
    assert!(error.contains("certificate is over"), "{error}");
    let request = control.request().expect("is signed");
    let next = cluster.authority.issue(&request, Member::Control);
    control
        .renew(&next.expect("is signed").pem)
        .expect("is its own");
    let answer = ask(&at, Member::Control, pin, "/").await;
    assert_eq!(answer.expect("is served").0, 200);
    let another = cluster.authority.issue(&request, Member::Node(Uuid::nil()));
    let refused = control.renew(&another.expect("is signed").pem);
    assert!(refused.is_err(), "another member's");
    stop.cancel();
}

/// A member's certificate may have been renewed since a connection began.
#[tokio::test]
async fn a_connection_takes_no_new_calls_when_it_is_old() {
    let cluster = Cluster::new();
    let control = cluster.member(Member::Control, SystemTime::now());
    let node = cluster.member(Member::Node(Uuid::nil()), SystemTime::now());
    let stop = CancellationToken::new();
    let bounds = Bounds {
        connection_age: Duration::from_millis(200),
        ..Bounds::default()
    };
    let tls = control.open_server_config().expect("TLS");
    let at = served_within(bounds, tls, &stop).await;
    let tls = node.client_config().expect("TLS");
    let stream = connect(&at, Member::Control, tls).await.expect("connects");
    let executor = TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(executor, stream);
    let (sender, connection) = handshake.await.expect("speaks HTTP/2");
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    ended.expect("ends by itself").expect("in order");
    assert!(sender.is_closed(), "the next call takes another connection");
    stop.cancel();
}

#[tokio::test]
async fn who_shows_no_certificate_holds_few_connections() {
    let cluster = Cluster::new();
    let control = cluster.member(Member::Control, SystemTime::now());
    let node = cluster.member(Member::Node(Uuid::nil()), SystemTime::now());
    let stop = CancellationToken::new();
    let bounds = Bounds {
        unauthenticated_per_address: 2,
        ..Bounds::default()
    };
    let tls = control.open_server_config().expect("TLS");
    let at = served_within(bounds, tls, &stop).await;
    let tls = node.client_config().expect("TLS");
    // Members do not count: there are more of them than of the others may be.
    let mut members = Vec::new();
    for _ in 0..4 {
        // One counts until the server has seen its certificate, a moment after it.
        let mut member = connect(&at, Member::Control, Arc::clone(&tls)).await;
        for _ in 0..100 {
            if member.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            member = connect(&at, Member::Control, Arc::clone(&tls)).await;
        }
        members.push(member.expect("connects"));
    }
    let open = || async { TcpStream::connect(&at).await.expect("is accepted") };
    let (first, second) = (open().await, open().await);
    let mut third = open().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), third.read(&mut [0])).await;
    let ended = ended.expect("is not kept open");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop((first, second));
    let pin = pinned(cluster.authority.fingerprint()).expect("TLS");
    let mut joined = ask(&at, Member::Control, Arc::clone(&pin), "/").await;
    for _ in 0..100 {
        if joined.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        joined = ask(&at, Member::Control, Arc::clone(&pin), "/").await;
    }
    assert_eq!(joined.expect("there is room again").0, 200);
    stop.cancel();
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("is bound").to_string();
    tokio::spawn(async move {
        let plain = axum::Router::new().route("/", get(|| async { "plain" }));
        axum::serve(listener, plain).await
    });
    let cluster = Cluster::new();
    let pin = pinned(cluster.authority.fingerprint()).expect("TLS");
    let error = connect(&address, Member::Control, pin).await;
    let error = error.expect_err("no TLS").to_string();
    assert!(error.contains("cluster.listen"), "{error}");
}
