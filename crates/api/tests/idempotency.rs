//! The same create, sent more than once.

mod support;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hearth_control::NodeError;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{Answer, Api};

async fn create(api: &Api, key: &str, body: &Value) -> Answer {
    let request = Request::post("/v2/sandboxes")
        .header("x-api-key", &api.key)
        .header("Idempotency-Key", key)
        .body(Body::from(body.to_string()))
        .expect("a request");
    api.send(request).await
}

fn base() -> Value {
    json!({"templateID": "base", "metadata": {"a": "1"}})
}

#[tokio::test]
async fn a_request_sent_again_gets_the_same_sandbox() {
    let api = Api::start().await;
    let private = json!({"templateID": "base", "network": {"allowPublicTraffic": false}});
    for body in [base(), private] {
        let before = api.node.count();
        let key = format!("key-{before}");
        let first = create(&api, &key, &body).await;
        let again = create(&api, &key, &body).await;
        assert_eq!(
            (first.status, again.status),
            (StatusCode::CREATED, StatusCode::CREATED)
        );
        assert_eq!(first.json(), again.json());
        assert_eq!(api.node.count(), before + 1);
    }
    // The same request, written otherwise.
    let text = r#"{ "metadata":{"a":"1"}, "timeout": 300, "templateID":"base" }"#;
    let request = Request::post("/v2/sandboxes")
        .header("x-api-key", &api.key)
        .header("idempotency-key", "key-0")
        .body(Body::from(text))
        .expect("a request");
    assert_eq!(api.send(request).await.status, StatusCode::CREATED);
    assert_eq!(api.node.count(), 2);
}

#[tokio::test]
async fn another_request_under_the_key_is_a_mismatch() {
    let api = Api::start().await;
    assert_eq!(create(&api, "k", &base()).await.status, StatusCode::CREATED);
    let other = create(&api, "k", &json!({"templateID": "base"})).await;
    other.error(422);
    assert_eq!(other.json()["error_code"], "idempotency_request_mismatch");
    assert_eq!(api.node.count(), 1);
}

#[tokio::test]
async fn malformed_keys_are_refused() {
    let api = Api::start().await;
    for key in ["", "UPPER", "a_b", &"a".repeat(256)] {
        let message = create(&api, key, &base()).await.error(400);
        assert!(message.contains("Idempotency-Key"), "{message}");
    }
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn keys_of_teams_do_not_meet() {
    let mut api = Api::start().await;
    assert_eq!(create(&api, "k", &base()).await.status, StatusCode::CREATED);
    let (_, key) = api.other_team("other").await;
    api.key = key;
    assert_eq!(
        create(&api, "k", &json!({"templateID": "base"}))
            .await
            .status,
        StatusCode::CREATED
    );
    assert_eq!(api.node.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_requests_at_the_same_time_one_is_carried_out() {
    let api = Api::start().await;
    let body = base();
    // The node holds the first back until the others were answered.
    api.node.gate.forget_permits(1_000_000);
    let holder = create(&api, "k", &body);
    let others = async {
        while api.node.creates.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let answers = futures::future::join_all((0..8).map(|_| create(&api, "k", &body))).await;
        api.node.gate.add_permits(1);
        answers
    };
    let both = async { tokio::join!(holder, others) };
    let (first, others) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("ends");
    assert_eq!(first.status, StatusCode::CREATED);
    for other in others {
        other.error(409);
        assert_eq!(other.json()["error_code"], "idempotency_in_progress");
    }
    assert_eq!(api.node.creates.load(Ordering::SeqCst), 1);
    assert_eq!(create(&api, "k", &body).await.json(), first.json());
}

#[tokio::test]
async fn a_refused_request_frees_its_key() {
    let api = Api::start().await;
    create(&api, "k", &json!({"templateID": "nowhere"}))
        .await
        .error(404);
    api.node
        .fail_creates(Some(NodeError::Exhausted("full".to_owned())));
    create(&api, "k", &base()).await.error(503);
    api.node.fail_creates(None);
    assert_eq!(create(&api, "k", &base()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_unknown_outcome_is_found_out_by_sending_again() {
    for made in [true, false] {
        let api = Api::start().await;
        api.node.fail_creates(Some(NodeError::Deadline));
        *api.node.creates_anyway.lock().expect("unpoisoned") = made;
        let unknown = create(&api, "k", &base()).await;
        unknown.error(504);
        assert_eq!(unknown.json()["error_code"], "idempotency_outcome_unknown");
        api.node.fail_creates(None);
        let again = create(&api, "k", &base()).await;
        assert_eq!(again.status, StatusCode::CREATED, "{}", again.text);
        assert_eq!(api.node.count(), 1);
        assert!(
            api.node
                .sandboxes
                .lock()
                .expect("unpoisoned")
                .keys()
                .all(|id| id.as_str() == again.json()["sandboxID"])
        );
    }
}

#[tokio::test]
async fn without_a_key_an_unknown_outcome_leaves_nothing_behind() {
    let api = Api::start().await;
    api.node.fail_creates(Some(NodeError::Deadline));
    *api.node.creates_anyway.lock().expect("unpoisoned") = true;
    api.post("/v2/sandboxes", &base()).await.error(504);
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn outcomes_and_claims_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hearth.db");
    let node = Arc::default();
    let store = Arc::new(hearth_store_sqlite::open(&path).await.expect("opens"));
    let api = Api::over(store.clone(), Arc::clone(&node), |_| {}).await;
    let first = create(&api, "done", &base()).await;
    assert_eq!(first.status, StatusCode::CREATED);
    // A create that the process does not live to see answered.
    node.gate.forget_permits(1_000_000);
    {
        let body = base();
        let lost = create(&api, "lost", &body);
        tokio::pin!(lost);
        while node.creates.load(Ordering::SeqCst) < 2 {
            assert!(futures::poll!(lost.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    store.database().close().await;
    node.gate.add_permits(10);
    while node.count() < 2 {
        tokio::task::yield_now().await;
    }

    let store = Arc::new(hearth_store_sqlite::open(&path).await.expect("opens"));
    let api = Api::over(store, Arc::clone(&node), |_| {}).await;
    assert_eq!(create(&api, "done", &base()).await.json(), first.json());
    let lost = create(&api, "lost", &base()).await;
    assert_eq!(lost.status, StatusCode::CREATED, "{}", lost.text);
    assert_eq!(node.count(), 2);
    assert_eq!(
        node.sandbox(lost.json()["sandboxID"].as_str().expect("an id"))
            .config
            .metadata["a"],
        "1"
    );
}
