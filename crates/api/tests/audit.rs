//! The audit log: who changed what, how it ended, and whose key was refused.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hearth_api::Source;
use hearth_audit::{AuditLog, Config};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use support::Api;
use tower::ServiceExt;

struct Audited {
    api: Api,
    log: Arc<AuditLog>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Audited {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let log = Arc::new(AuditLog::start(&path, &Config::default()).expect("starts"));
        let mut api = Api::with(|config| config.features.pause = true).await;
        api.state = api.state.clone().with_audit_log(Arc::clone(&log));
        api.router = hearth_api::router(api.state.clone());
        Self {
            api,
            log,
            path,
            _directory: directory,
        }
    }

    /// All that was recorded. No more will be.
    fn records(self) -> Vec<Value> {
        assert!(self.log.stop(Duration::from_secs(60)));
        let text = std::fs::read_to_string(&self.path).expect("readable");
        assert!(!text.contains(&self.api.key), "a key is in the log");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

#[tokio::test]
async fn every_change_is_recorded_with_who_what_and_how_it_ended() {
    let audited = Audited::start().await;
    let api = &audited.api;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let one = format!("/sandboxes/{id}");
    assert_eq!(api.get(&one).await.status, StatusCode::OK);
    let paused = api.post(&format!("{one}/pause"), &json!({})).await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT, "{}", paused.text);
    let again = api.post(&format!("{one}/pause"), &json!({})).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let gone = api.delete(&one).await;
    let request_id = gone.header("x-request-id").expect("an id").to_owned();
    let team = api.team.to_string();
    let key = hearth_control::keys::list(api.store.as_ref(), api.team).await;
    let key = key.expect("listed")[0].id.to_string();
    let records = audited.records();
    let told: Vec<(&str, &str, u64)> = records
        .iter()
        .map(|record| {
            let text = |field: &str| record[field].as_str().expect("text");
            let status = record["status"].as_u64().expect("a number");
            (text("method"), text("route"), status)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("POST", "/v2/sandboxes", 201),
            ("POST", "/sandboxes/{sandboxID}/pause", 204),
            ("POST", "/sandboxes/{sandboxID}/pause", 409),
            ("DELETE", "/sandboxes/{sandboxID}", 204),
        ]
    );
    assert_eq!(records[0]["created"], id.as_str());
    for record in &records {
        assert_eq!(record["event"], "api");
        assert_eq!(record["team"], team.as_str());
        assert_eq!(record["key_id"], key.as_str());
    }
    for record in &records[1..] {
        assert_eq!(record["object"], id.as_str());
    }
    assert_eq!(records[3]["request_id"], request_id.as_str());
}

#[tokio::test]
async fn refused_keys_are_recorded_with_their_source_and_not_without_bound() {
    const GUESSES: u64 = 1000;
    let audited = Audited::start().await;
    let source = Source::Address("198.51.100.7".parse().expect("an address"));
    for number in 0..GUESSES {
        let mut request = Request::get("/v2/sandboxes")
            .header("x-api-key", format!("e2b_{number:040x}"))
            .body(Body::empty())
            .expect("a request");
        request.extensions_mut().insert(source.clone());
        let answer = audited.api.send(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let records = audited.records();
    assert!(records.len() >= 200, "{}", records.len());
    let mut told = 0;
    for record in &records {
        assert_eq!(record["event"], "refused");
        assert_eq!(record["source"], "198.51.100.7");
        assert_eq!(record["status"], 401);
        assert_eq!(record.get("key_id"), None);
        told += record["count"].as_u64().unwrap_or(1);
    }
    assert!(told <= GUESSES, "{told}");
}

#[tokio::test]
async fn what_is_not_known_by_its_path_is_named_all_the_same() {
    let audited = Audited::start().await;
    let tags = json!({"target": "nothing:here", "tags": ["x"]});
    let answer = audited.api.post("/templates/tags", &tags).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.text);
    let hash = "a".repeat(64);
    let path = format!(
        "/template-files/{}/{hash}?expires=1&signature=x",
        audited.api.team
    );
    let answer = audited.api.call(Method::PUT, &path, "x").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let records = audited.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(records[0]["object"], "nothing:here");
    assert_eq!(records[0]["status"], 404);
    assert_eq!(records[1]["event"], "refused");
    assert_eq!(records[1]["object"], hash.as_str());
    // A link that nobody signed speaks for no team.
    assert_eq!(records[1].get("team"), None);
}

#[tokio::test]
async fn a_client_that_leaves_leaves_a_record() {
    let audited = Audited::start().await;
    let body = Body::from_stream(futures::stream::pending::<
        Result<bytes::Bytes, std::io::Error>,
    >());
    let request = Request::post("/v2/sandboxes")
        .header("x-api-key", &audited.api.key)
        .body(body)
        .expect("a request");
    let mut call = Box::pin(audited.api.router.clone().oneshot(request));
    // The body never ends. The record is begun once the key is known to be good.
    let control = Arc::clone(&audited.api.control);
    let key = audited.api.key.clone();
    let known = async {
        while !control.key_is_familiar(&key) {
            tokio::task::yield_now().await;
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        answer = &mut call => panic!("{:?}", answer.map(|answer| answer.status())),
        () = known => {}
    }
    drop(call);
    let records = audited.records();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["route"], "/v2/sandboxes");
    assert_eq!(records[0].get("status"), None);
}

/// A change by a volume's token is one of the key that the token was given to.
#[tokio::test]
async fn changes_of_volumes_are_recorded_with_the_key_behind_the_token() {
    let audited = Audited::start().await;
    let api = &audited.api;
    let state = tempfile::tempdir().expect("a directory");
    let volumes = hearth_volumes::Volumes::open(state.path()).expect("opens");
    api.control.connect_volumes(Arc::new(volumes));
    let made = api.post("/volumes", &json!({"name": "data"})).await.json();
    let (id, token) = (made["volumeID"].as_str(), made["token"].as_str());
    let (id, token) = (
        id.expect("an id").to_owned(),
        token.expect("a token").to_owned(),
    );
    let content = |method: Method, token: &str| {
        Request::builder()
            .method(method)
            .uri(format!("/volumecontent/{id}/file?path=/a"))
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from("x"))
            .expect("a request")
    };
    assert_eq!(api.send(content(Method::PUT, &token)).await.status, 201);
    assert_eq!(api.send(content(Method::GET, &token)).await.status, 200);
    assert_eq!(api.send(content(Method::GET, "x.y.z")).await.status, 401);
    let records = audited.records();
    assert_eq!(records.len(), 3, "{records:?}");
    assert_eq!(records[0]["created"], id.as_str());
    assert_eq!(records[1]["object"], format!("{id}:/a"));
    assert_eq!(records[1]["key_id"], records[0]["key_id"]);
    assert_eq!(records[1]["team"], records[0]["team"]);
    assert_eq!(
        (&records[1]["event"], &records[1]["status"]),
        (&json!("api"), &json!(201))
    );
    assert_eq!(records[2]["event"], "refused");
    let all = format!("{records:?}");
    assert!(!all.contains(&token), "a token is in the log");
}
