//! Machines that join and report: real TLS on loopback, the real service and store.

use hearth_cluster::{Authority, Bounds, Credentials, JoinToken, Member, Membership};
use hearth_control::{Heard, Members, NodeMode, NodeRegistration};
use hearth_membership::{ControlPlane, Error, Issuer, Node, Standing, join, service};
use hearth_store::{NodeState, Store};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);

/// A control plane's part for nodes.
struct Control {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    url: String,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl Control {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(folder.path()).expect("is made");
        let authority = Arc::new(authority);
        let store = hearth_store_sqlite::in_memory().await.expect("opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let credentials = Credentials::control(&authority).expect("are made");
        let issuer = Issuer::new(Arc::clone(&authority));
        let members = Arc::new(Members::new(Arc::clone(&store), issuer));
        let service = axum::Router::new().fallback_service(service(members));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("is bound"));
        let stop = CancellationToken::new();
        let tls = credentials.open_server_config().expect("TLS");
        tokio::spawn(hearth_cluster::serve(
            listener,
            tls,
            service,
            Bounds::default(),
            stop.clone(),
        ));
        Self {
            store,
            authority,
            url,
            folder,
            stop,
        }
    }

    async fn token(&self, lifetime: Duration) -> JoinToken {
        let token = JoinToken::random(self.authority.fingerprint());
        let digest = JoinToken::digest(&token.secret());
        let made = self.store.node_token_create(&digest, lifetime).await;
        made.expect("writes");
        token
    }

    async fn join(&self, node: Uuid) -> Result<Membership, Error> {
        join(&self.url, &self.token(HOUR).await, node).await
    }

    async fn joined(&self, node: Uuid) -> (Membership, ControlPlane) {
        let membership = self.join(node).await.expect("is admitted");
        let client = client(&membership);
        (membership, client)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("node/membership.json")
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn client(membership: &Membership) -> ControlPlane {
    let credentials = membership.credentials().expect("belong together");
    ControlPlane::new(&membership.control, &credentials).expect("TLS")
}

fn registration(node: Uuid) -> NodeRegistration {
    NodeRegistration {
        id: node,
        instance: Uuid::new_v4(),
        name: "two".to_owned(),
        address: "two.example.com:5008".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        version: "1.2.3".to_owned(),
        revision: "abc".to_owned(),
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Err(Error::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_machine_joins_and_reports() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let (membership, client) = control.joined(node).await;
    let credentials = membership.credentials().expect("belong together");
    assert_eq!(credentials.peer().member, Member::Node(node));
    assert_eq!(membership.authority, control.authority.pem());

    let (generation, round) = client.register(&registration(node)).await.expect("heard");
    assert_eq!((generation, round), (1, Members::ROUND));
    let heard = client.heartbeat(generation, "{\"sandboxes\":3}".to_owned());
    assert_eq!(heard.await.expect("heard"), Heard::Yes(NodeMode::Ready));
    let row = control.store.node(node).await.expect("reads");
    let row = row.expect("is listed");
    assert_eq!(row.state(), NodeState::Ready);
    assert_eq!(
        (row.name.as_str(), row.address.as_str()),
        ("two", "two.example.com:5008")
    );
    assert_eq!(row.labels, registration(node).labels);
    assert_eq!(row.report.as_deref(), Some("{\"sandboxes\":3}"));

    let drained = control.store.node_set_mode(node, NodeMode::Draining).await;
    drained.expect("writes");
    let heard = client.heartbeat(generation, "{}".to_owned()).await;
    assert_eq!(heard.expect("heard"), Heard::Yes(NodeMode::Draining));
    client.leave(generation).await.expect("heard");
    let row = control.store.node(node).await.expect("reads");
    assert_eq!(row.expect("is listed").state(), NodeState::Unhealthy);
}

#[tokio::test]
async fn tokens_that_are_not_good_say_why() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let wrong = JoinToken::random(control.authority.fingerprint());
    let why = refusal(join(&control.url, &wrong, node).await);
    assert!(why.contains("is not known here"), "{why}");
    assert!(why.contains("hearth node token"), "{why}");

    let late = control.token(Duration::ZERO).await;
    let why = refusal(join(&control.url, &late, node).await);
    assert!(why.contains("was good until"), "{why}");

    let once = control.token(HOUR).await;
    join(&control.url, &once, node).await.expect("is admitted");
    let why = refusal(join(&control.url, &once, Uuid::new_v4()).await);
    assert!(why.contains("has been used"), "{why}");
    // The machine's own second try has another key: a token is good once.
    let why = refusal(join(&control.url, &once, node).await);
    assert!(why.contains("has been used"), "{why}");
}

#[tokio::test]
async fn a_token_is_shown_to_its_own_cluster_alone() {
    let (control, other) = (Control::start().await, Control::start().await);
    let token = control.token(HOUR).await;
    match join(&other.url, &token, Uuid::new_v4()).await {
        Err(Error::Unreachable(why)) => {
            assert!(why.contains("is not of this cluster"), "{why}");
        }
        outcome => panic!("{outcome:?}"),
    }
    // Nothing has seen it: it is good still.
    let joined = join(&control.url, &token, Uuid::new_v4()).await;
    joined.expect("is admitted");
}

#[tokio::test]
async fn a_revoked_node_is_refused_on_the_connection_that_it_has() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let (membership, client) = control.joined(node).await;
    let (generation, _) = client.register(&registration(node)).await.expect("heard");
    let revoked = control.store.node_identity_revoke(node).await;
    assert!(revoked.expect("writes"));
    let why = refusal(client.heartbeat(generation, "{}".to_owned()).await);
    assert!(why.contains("was revoked at"), "{why}");
    let credentials = membership.credentials().expect("belong together");
    let request = credentials.request().expect("is signed");
    assert!(refusal(client.renew(request).await).contains("was revoked at"));
    assert!(refusal(client.register(&registration(node)).await).contains("was revoked at"));
    assert!(refusal(client.leave(generation).await).contains("was revoked at"));
    // A new token, and it is one again; what it had before is not.
    let (_, again) = control.joined(node).await;
    again.register(&registration(node)).await.expect("heard");
    let why = refusal(client.register(&registration(node)).await);
    assert!(why.contains("Another machine has joined as node"), "{why}");
}

#[tokio::test]
async fn of_two_machines_with_one_identity_one_is_heard() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let (membership, first) = control.joined(node).await;
    let (generation, _) = first.register(&registration(node)).await.expect("heard");
    let heard = first.heartbeat(generation, "{}".to_owned()).await;
    heard.expect("heard");

    // Copied with its id, but without what it got when it joined.
    let why = refusal(control.join(node).await);
    assert!(why.contains("is there already, with another key"), "{why}");
    assert!(why.contains("delete keys/node"), "{why}");

    // Copied with everything: the later one is heard.
    let second = client(&membership);
    let (later, _) = second.register(&registration(node)).await.expect("heard");
    assert_eq!(later, generation + 1);
    let heard = first.heartbeat(generation, "{}".to_owned()).await;
    assert_eq!(heard.expect("is answered"), Heard::Superseded);
    let heard = second.heartbeat(later, "{}".to_owned()).await;
    assert_eq!(heard.expect("heard"), Heard::Yes(NodeMode::Ready));
}

#[tokio::test]
async fn who_has_no_nodes_certificate_cannot_call() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let (membership, _) = control.joined(node).await;
    // The control plane's own certificate is no node's.
    let own = Credentials::control(&control.authority).expect("are made");
    let client = ControlPlane::new(&membership.control, &own).expect("TLS");
    let why = refusal(client.register(&registration(node)).await);
    assert!(why.contains("is for nodes"), "{why}");
    // One of another cluster's authority.
    let other = Control::start().await;
    let (stranger, _) = other.joined(node).await;
    let credentials = Credentials::new(
        &read_key(&stranger, &other),
        &stranger.certificate,
        &stranger.authority,
    );
    let client = ControlPlane::new(&membership.control, &credentials.expect("belong together"));
    let outcome = client.expect("TLS").register(&registration(node)).await;
    assert!(matches!(outcome, Err(Error::Unreachable(_))), "{outcome:?}");
    // Messages that make no sense.
    let (_, client) = control.joined(node).await;
    for broken in [
        NodeRegistration {
            address: "no port".to_owned(),
            ..registration(node)
        },
        NodeRegistration {
            name: String::new(),
            ..registration(node)
        },
        NodeRegistration {
            labels: (0..65).map(|n| (n.to_string(), String::new())).collect(),
            ..registration(node)
        },
    ] {
        refusal(client.register(&broken).await);
    }
    let own_key = hearth_cluster::request().expect("a request").1;
    let why = refusal(client.renew(own_key).await);
    assert!(why.contains("another key needs a token"), "{why}");
}

/// The key of a membership, by way of its file.
fn read_key(membership: &Membership, of: &Control) -> String {
    let file = of.file();
    membership.write(&file).expect("writes");
    let text = std::fs::read_to_string(file).expect("is there");
    let (_, key) = text.split_once("\"key\": \"").expect("has a key");
    let (key, _) = key.split_once('"').expect("ends");
    key.replace("\\n", "\n")
}

#[tokio::test]
async fn a_node_stays_a_member_and_renews_itself() {
    let control = Control::start().await;
    let node = Uuid::new_v4();
    let membership = control.join(node).await.expect("is admitted");
    let file = control.file();
    membership.write(&file).expect("writes");
    let member = Arc::new(Node::new(membership.clone(), file.clone()).expect("TLS"));
    let stop = CancellationToken::new();
    let following = tokio::spawn({
        let (member, stop) = (Arc::clone(&member), stop.clone());
        async move {
            let report = || async { Some("{\"sandboxes\":1}".to_owned()) };
            member.follow(&registration(node), report, stop).await;
        }
    });
    let mut standing = member.standing();
    let heard = |standing: &Standing| *standing == Standing::Member(NodeMode::Ready);
    let waited = tokio::time::timeout(Duration::from_secs(30), standing.wait_for(heard));
    waited.await.expect("in time").expect("lives");

    member.renew().await.expect("is certified");
    let kept = Membership::read(&file).expect("reads").expect("is there");
    assert_ne!(kept.certificate, membership.certificate);
    assert_eq!(kept.certificate, member.credentials().certificate_pem());
    client(&kept)
        .register(&registration(node))
        .await
        .expect("heard");

    stop.cancel();
    following.await.expect("no panic");
    // It was superseded by the registration above, whose lease its end does not touch.
    let row = control
        .store
        .node(node)
        .await
        .expect("reads")
        .expect("is listed");
    assert!(row.alive);
    assert_eq!(row.generation, 2);
}
