//! Nodes: what their operator sees, and what draining one refuses.

mod support;

use axum::http::{Method, StatusCode};
use hearth_control::{KeyGrant, LocalNode, Node, NodeDialer, NodeError, Scope, keys};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::Api;
use uuid::Uuid;

/// Short enough for tests to see several rounds.
const SOON: Duration = Duration::from_millis(200);

fn local(id: Uuid, round: Duration) -> LocalNode {
    LocalNode {
        id,
        name: "here".to_owned(),
        address: "unix:/run/node.sock".to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        version: "1.2.3".to_owned(),
        revision: "abc".to_owned(),
        round,
    }
}

/// An API with a node that has reported, and the node's id.
async fn with_node() -> (Api, String) {
    with_node_every(LocalNode::ROUND).await
}

async fn with_node_every(round: Duration) -> (Api, String) {
    let api = Api::with(|config| config.features.pause = true).await;
    let id = Uuid::new_v4();
    let registered = api.control.node_register(local(id, round)).await;
    registered.expect("registers");
    becomes(&api, &id.to_string(), "ready").await;
    (api, id.to_string())
}

/// Waits until a node has a status.
async fn becomes(api: &Api, id: &str, status: &str) -> Value {
    let looking = async {
        loop {
            let answer = api.get(&format!("/nodes/{id}")).await;
            // It may not be known yet.
            if answer.status == StatusCode::OK {
                let node = answer.json();
                if node["status"] == status {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), looking).await;
    found.unwrap_or_else(|_| panic!("{id} has not become {status}"))
}

async fn set(api: &Api, id: &str, status: &str) -> support::Answer {
    let change = json!({ "status": status });
    api.post(&format!("/nodes/{id}"), &change).await
}

async fn create(api: &Api) -> support::Answer {
    let new = json!({ "templateID": "base" });
    api.post("/v2/sandboxes", &new).await
}

async fn made(api: &Api) -> String {
    api.sandbox(&json!({ "templateID": "base" })).await
}

#[tokio::test]
async fn a_node_is_shown_as_the_contract_says() {
    let (api, id) = with_node().await;
    made(&api).await;
    let listed = api.get("/nodes").await;
    assert_eq!(listed.status, StatusCode::OK);
    let mut node = listed.json()[0].clone();
    for field in [
        "serviceInstanceID",
        "clusterID",
        "statusChangedAt",
        "lastHeartbeatAt",
    ] {
        assert!(node[field].is_string(), "{field}");
        node[field] = json!("*");
    }
    let expected = json!({
        "id": id,
        "serviceInstanceID": "*",
        "clusterID": "*",
        "status": "ready",
        "statusChangedAt": "*",
        "sandboxCount": 1,
        "metrics": {
            "allocatedCPU": 2,
            "cpuPercent": 7,
            "cpuCount": 4,
            "allocatedMemoryBytes": 1_u64 << 30,
            "memoryUsedBytes": 2_u64 << 30,
            "memoryTotalBytes": 8_u64 << 30,
            "hugePagesTotal": 0,
            "hugePagesUsed": 0,
            "hugePagesReserved": 0,
            "hugePageSizeBytes": 0,
            "disks": [{
                "mountPoint": "/", "device": "/dev/sda1", "filesystemType": "ext4",
                "usedBytes": 1, "totalBytes": 2,
            }],
        },
        "createSuccesses": 1,
        "createFails": 0,
        "sandboxStartingCount": 0,
        "maxSandboxes": 10,
        "outstandingWork": 0,
        "version": "1.2.3",
        "commit": "abc",
        "machineInfo": {
            "cpuFamily": "6", "cpuModel": "85", "cpuModelName": "A CPU",
            "cpuArchitecture": "x86_64",
        },
        "name": "here",
        "address": "unix:/run/node.sock",
        "labels": {"zone": "a"},
        "generation": 1,
        "lastHeartbeatAt": "*",
    });
    assert_eq!(node, expected);
    let single = api.get(&format!("/nodes/{id}")).await.json();
    assert_eq!(single.get("sandboxStartingCount"), None);
    assert_eq!(single["metrics"], expected["metrics"]);
}

#[tokio::test]
async fn a_drained_node_takes_nothing_new_and_keeps_what_it_has() {
    let (api, id) = with_node().await;
    let (running, paused) = (made(&api).await, made(&api).await);
    let pause = format!("/sandboxes/{paused}/pause");
    let answer = api.post(&pause, &json!({})).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    let creates = api.node.creates.load(Ordering::SeqCst);
    for (status, word) in [
        ("draining", "draining: it takes no new sandboxes"),
        ("standby", "on standby: it takes no sandboxes"),
    ] {
        let drained = set(&api, &id, status).await;
        assert_eq!(drained.status, StatusCode::NO_CONTENT);
        assert_eq!(drained.text, "");
        let refused = create(&api).await;
        let expected = format!("Failed to place sandbox: 1 node is {word}");
        assert_eq!(refused.error(503), expected);
        assert_eq!(refused.json()["error_code"], "sandbox_capacity_unavailable");
        assert_eq!(refused.header("should-retry"), Some("false"));
        let fork = format!("/sandboxes/{running}/fork");
        let refused = api.post(&fork, &json!({ "timeout": 60 })).await;
        assert_eq!(refused.error(503), expected);
    }
    assert_eq!(api.node.creates.load(Ordering::SeqCst), creates);
    let shown = api.get(&format!("/sandboxes/{running}")).await;
    assert_eq!(shown.json()["state"], "running");
    let connect = format!("/sandboxes/{paused}/connect");
    let resumed = api.post(&connect, &json!({ "timeout": 60 })).await;
    assert!(resumed.status.is_success(), "it can be nowhere else");

    set(&api, &id, "draining").await;
    let node = api.get(&format!("/nodes/{id}")).await.json();
    assert_eq!(node["status"], "draining");
    assert_eq!(node["outstandingWork"], 2);
    let back = set(&api, &id, "ready").await;
    assert_eq!(back.status, StatusCode::NO_CONTENT);
    made(&api).await;
}

#[tokio::test]
async fn what_an_operator_wants_holds_over_a_restart() {
    let (api, id) = with_node().await;
    set(&api, &id, "draining").await;
    api.control.shutdown(Duration::from_secs(10)).await;
    let gone = api.get(&format!("/nodes/{id}")).await.json();
    assert_eq!(gone["status"], "unhealthy", "it has said that it leaves");

    let next = Api::over(Arc::clone(&api.store), Arc::clone(&api.node), |_| {}).await;
    let node = local(id.parse().expect("an id"), LocalNode::ROUND);
    next.control.node_register(node).await.expect("registers");
    // Not only once it has reported.
    let message = create(&next).await.error(503);
    assert!(message.contains("draining"), "{message}");
    let node = becomes(&next, &id, "draining").await;
    assert_eq!(node["generation"], 2);
}

#[tokio::test]
async fn a_superseded_run_of_a_node_places_nothing_more() {
    let (api, id) = with_node_every(SOON).await;
    made(&api).await;
    let other = Api::over(Arc::clone(&api.store), Arc::default(), |_| {}).await;
    let node = local(id.parse().expect("an id"), LocalNode::ROUND);
    other.control.node_register(node).await.expect("registers");
    let refused = async {
        loop {
            let answer = create(&api).await;
            if answer.status != StatusCode::CREATED {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
    let message = refused.expect("is refused").error(503);
    assert!(message.contains("unhealthy"), "{message}");
    made(&other).await;
}

#[tokio::test]
async fn a_removed_node_that_runs_is_known_again() {
    let (api, id) = with_node_every(SOON).await;
    let id: Uuid = id.parse().expect("an id");
    // Its lease is over, as that of one that stood still, when somebody removes it.
    let run = hearth_store::NodeRun { id, generation: 1 };
    loop {
        api.store.node_leave(run).await.expect("writes");
        let removed = api.store.node_remove(id).await.expect("writes");
        if removed == hearth_store::NodeRemoval::Removed {
            break;
        }
    }
    becomes(&api, &id.to_string(), "ready").await;
}

#[tokio::test]
async fn nodes_are_changed_as_far_as_they_can_be() {
    let (api, id) = with_node().await;
    for unknown in [&Uuid::new_v4().to_string(), "x", "%2e%2e"] {
        let path = format!("/nodes/{unknown}");
        api.get(&path).await.plain_not_found("");
        set(&api, unknown, "draining").await.plain_not_found("");
        let message = api.delete(&path).await.error(404);
        assert!(message.ends_with("doesn't exist"), "{message}");
    }
    let path = format!("/nodes/{id}");
    for body in [
        json!({}),
        json!({ "status": "shut" }),
        json!({ "status": 1 }),
    ] {
        api.post(&path, &body).await.error(400);
    }
    for status in ["connecting", "unhealthy"] {
        let message = set(&api, &id, status).await.error(409);
        assert!(message.contains("set it to \"ready\""), "{message}");
    }
    let cluster = api.get(&path).await.json()["clusterID"].clone();
    let change = |cluster: Value| json!({ "status": "draining", "clusterID": cluster });
    for other in [json!(Uuid::new_v4()), json!("x")] {
        api.post(&path, &change(other)).await.plain_not_found("");
    }
    assert_eq!(api.get(&path).await.json()["status"], "ready");
    let changed = api.post(&path, &change(cluster)).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn nodes_that_are_gone_can_be_forgotten() {
    let (api, id) = with_node().await;
    let path = format!("/nodes/{id}");
    let message = api.delete(&path).await.error(409);
    assert!(message.contains("stop Hearth on it first"), "{message}");
    let run = hearth_store::NodeRun {
        id: id.parse().expect("an id"),
        generation: 1,
    };
    api.store.node_leave(run).await.expect("writes");
    let message = set(&api, &id, "ready").await.error(409);
    assert!(message.contains("has sent no heartbeat since"), "{message}");
    let standby = set(&api, &id, "standby").await;
    assert_eq!(standby.status, StatusCode::NO_CONTENT);
    let removed = api.delete(&path).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get("/nodes").await.json(), json!([]));
}

/// Reaches the same node whatever it is asked for, and notes what that was.
struct Dialer {
    node: Arc<support::fake::FakeNode>,
    dialed: std::sync::Mutex<Vec<(Uuid, String)>>,
}

impl NodeDialer for Dialer {
    fn dial(&self, node: Uuid, address: &str, key: &str) -> Result<Arc<dyn Node>, NodeError> {
        assert_eq!(key, "key");
        let mut dialed = self.dialed.lock().expect("unpoisoned");
        dialed.push((node, address.to_owned()));
        Ok(Arc::clone(&self.node) as Arc<dyn Node>)
    }
}

#[tokio::test]
async fn a_node_that_runs_elsewhere_is_asked_how_it_is() {
    let (api, own) = with_node().await;
    let dialer = Arc::new(Dialer {
        node: Arc::default(),
        dialed: std::sync::Mutex::default(),
    });
    api.control
        .connect_nodes(Arc::clone(&dialer) as Arc<dyn NodeDialer>);
    let other = Uuid::new_v4();
    let lifetime = Duration::from_secs(60);
    api.store
        .node_token_create("token", lifetime)
        .await
        .expect("writes");
    let used = api.store.node_token_use("token", other, "key").await;
    assert!(matches!(used, Ok(hearth_store::TokenUse::Admitted(_))));
    let register = async |address: &str| {
        let registration = hearth_store::NodeRegistration {
            id: other,
            instance: Uuid::new_v4(),
            name: "there".to_owned(),
            address: address.to_owned(),
            labels: [].into(),
            version: "1.2.3".to_owned(),
            revision: String::new(),
        };
        let lease = Duration::from_secs(3600);
        let registered = api.store.node_register(registration, lease).await;
        let registered = registered.expect("writes");
        let run = hearth_store::NodeRun {
            id: other,
            generation: registered.generation,
        };
        let beat = api
            .store
            .node_heartbeat(run, "{\"sandboxes\":9}", lease)
            .await;
        assert!(beat.expect("writes").is_some());
        run
    };
    register("there:5008").await;
    let path = format!("/nodes/{other}");
    // A list shows what it said last; who looks at it alone sees how it is.
    let listed = api.get("/nodes").await.json();
    assert_eq!(listed[1]["sandboxCount"], 9, "{listed}");
    let shown = api.get(&path).await.json();
    assert_eq!(
        (&shown["sandboxCount"], &shown["maxSandboxes"]),
        (&json!(0), &json!(10))
    );
    assert_eq!(shown.get("problem"), None);
    api.get(&path).await.json();
    let called = (other, "there:5008".to_owned());
    assert_eq!(*dialer.dialed.lock().expect("unpoisoned"), [called]);

    // It reports, and cannot be reached: that is said beside what it said last.
    let away = NodeError::Unreachable("no way".to_owned());
    dialer
        .node
        .fail_next(support::fake::Call::List, away, false);
    let shown = api.get(&path).await.json();
    let problem =
        "The control plane cannot use it at there:5008: the node cannot be reached: no way";
    assert_eq!(
        (&shown["problem"], &shown["sandboxCount"]),
        (&json!(problem), &json!(9))
    );
    assert_eq!(shown["status"], "ready");

    // It has moved, and is gone: nobody asks a node that does not report.
    let run = register("moved:5008").await;
    api.get(&path).await.json();
    api.store.node_leave(run).await.expect("writes");
    assert_eq!(api.get(&path).await.json()["status"], "unhealthy");
    api.get(&format!("/nodes/{own}")).await.json();
    let dialed = dialer.dialed.lock().expect("unpoisoned").clone();
    assert_eq!(dialed[1..], [(other, "moved:5008".to_owned())]);
}

#[tokio::test]
async fn nodes_are_the_operators() {
    let (api, id) = with_node().await;
    let listed = api.operate(Method::GET, "/nodes", &Value::Null).await;
    assert_eq!(listed.status, StatusCode::OK, "{}", listed.text);
    assert_eq!(listed.json()[0]["id"], id.as_str());
    let path = format!("/nodes/{id}");
    api.anonymous("/nodes").await.error(401);
    let (_, other) = api.other_team("other").await;
    let drain = json!({ "status": "draining" }).to_string();
    for (method, path) in [
        (Method::GET, "/nodes"),
        (Method::GET, path.as_str()),
        (Method::POST, path.as_str()),
        (Method::DELETE, path.as_str()),
    ] {
        let refused = api.call_as(&other, method, path, drain.clone()).await;
        let message = refused.error(403);
        assert!(message.contains("of the team \"default\""), "{message}");
    }
    let narrow = key(&api, [Scope::Sandboxes], false).await;
    let message = api.call_as(&narrow, Method::GET, "/nodes", "").await;
    let message = message.error(403);
    assert!(message.contains("lacks the scope \"admin\""), "{message}");
    let reader = key(&api, [Scope::Admin], true).await;
    let read = api.call_as(&reader, Method::GET, &path, "").await;
    assert_eq!(read.status, StatusCode::OK);
    let refused = api.call_as(&reader, Method::POST, &path, drain).await;
    refused.error(403);
    assert_eq!(api.get(&path).await.json()["status"], "ready");
}

async fn key(api: &Api, scopes: [Scope; 1], read_only: bool) -> String {
    let grant = KeyGrant {
        scopes: scopes.into(),
        read_only,
        ..KeyGrant::default()
    };
    let issued = keys::issue(api.store.as_ref(), api.team, "k", grant).await;
    issued.expect("issues").1.expose_secret().to_owned()
}
