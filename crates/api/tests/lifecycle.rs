//! Pause, resume, snapshot, fork, rollback: what succeeds, and with which status
//! and text the rest is refused.

mod support;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_control::{NodeError, NodeSandboxState, Visitor, WakeRefusal};
use hearth_ids::SandboxId;
use hearth_store::OwnerId;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::fake::Call;
use support::{Answer, Api};

async fn start() -> Api {
    Api::with(|config| config.features.pause = true).await
}

/// The same where the node tells nothing unasked, and is looked at instead.
async fn start_unwatched() -> Api {
    Api::unwatched(|config| config.features.pause = true).await
}

async fn post(api: &Api, id: &str, call: &str, body: Value) -> Answer {
    api.post(&format!("/sandboxes/{id}/{call}"), &body).await
}

async fn connect(api: &Api, id: &str, body: Value) -> Answer {
    api.post(&format!("/v2/sandboxes/{id}/connect"), &body)
        .await
}

async fn pause(api: &Api, id: &str) {
    let paused = post(api, id, "pause", json!({})).await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT, "{}", paused.text);
}

fn state(api: &Api, id: &str) -> NodeSandboxState {
    api.node.sandbox(id).state
}

fn left(api: &Api, id: &str) -> i64 {
    (api.node.sandbox(id).end_at - chrono::Utc::now()).num_seconds()
}

/// Lets tasks run until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Duration::from_secs(30);
    assert!(tokio::time::timeout(limit, reached).await.is_ok(), "{what}");
}

/// Holds the node in the middle of one call while `meanwhile` is done.
async fn halfway<A, B, T>(
    api: &Api,
    id: &str,
    over: NodeSandboxState,
    first: A,
    meanwhile: B,
) -> (A::Output, T)
where
    A: Future,
    B: Future<Output = T>,
{
    api.node.transitions.forget_permits(1_000_000);
    let second = async {
        until("the first is on its way", || state(api, id) == over).await;
        let release = async {
            // Those who wait have been seen to wait.
            tokio::time::sleep(Duration::from_millis(50)).await;
            api.node.transitions.add_permits(1_000_000);
        };
        tokio::join!(meanwhile, release).0
    };
    tokio::join!(first, second)
}

#[tokio::test]
async fn a_paused_sandbox_is_listed_shown_and_resumed_as_it_was() {
    let api = start().await;
    let request = json!({"templateID": "base", "metadata": {"a": "1"}, "envVars": {"X": "2"},
        "autoPause": true, "network": {"allowPublicTraffic": false}});
    let made = api.post("/v2/sandboxes", &request).await.json();
    let id = made["sandboxID"].as_str().expect("an id");
    pause(&api, id).await;

    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(
        (&detail["state"], &detail["pauseMode"]),
        (&json!("paused"), &json!("full"))
    );
    assert_eq!(detail["metadata"], json!({"a": "1"}));
    assert_eq!(
        detail["lifecycle"],
        json!({"autoResume": false, "onTimeout": "pause"})
    );
    let paused = api.node.sandbox(id).paused.expect("is paused").at;
    let end: chrono::DateTime<chrono::Utc> = detail["endAt"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("RFC 3339");
    assert!((end - paused).num_milliseconds().abs() <= 1);
    let listed = api.get("/v2/sandboxes").await;
    assert_eq!(listed.json()[0]["state"], "paused");
    assert_eq!(listed.header("x-total-running"), Some("0"));
    assert_eq!(
        api.get("/v2/sandboxes?state=running").await.json(),
        json!([])
    );
    assert_eq!(api.get("/sandboxes").await.json(), json!([]));

    let resumed = connect(&api, id, json!({"timeout": 77})).await;
    assert_eq!(resumed.status, StatusCode::CREATED, "{}", resumed.text);
    assert_eq!(resumed.json(), made, "same id and tokens");
    assert!((75..=77).contains(&left(&api, id)));
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(
        (&detail["state"], &detail["pauseMode"]),
        (&json!("running"), &Value::Null)
    );
    let again = connect(&api, id, json!({"timeout": 7})).await;
    assert_eq!(again.status, StatusCode::OK);
    assert!(left(&api, id) > 60, "connecting only extends");
}

#[tokio::test]
async fn both_generations_and_the_older_resume_bring_a_sandbox_back() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for (path, body) in [
        (format!("/sandboxes/{id}/connect"), json!({"timeout": 60})),
        (format!("/v2/sandboxes/{id}/connect"), json!({})),
        (
            format!("/v2/sandboxes/{id}/connect"),
            json!({"memory": false}),
        ),
        (
            format!("/sandboxes/{id}/resume"),
            json!({"timeout": 60, "autoPause": true}),
        ),
        (format!("/sandboxes/{id}/resume"), json!({})),
    ] {
        pause(&api, &id).await;
        let answer = api.post(&path, &body).await;
        assert_eq!(
            answer.status,
            StatusCode::CREATED,
            "{path}: {}",
            answer.text
        );
        assert_eq!(answer.json()["sandboxID"], id.as_str());
    }
    assert!(
        (13..=15).contains(&left(&api, &id)),
        "15 seconds are the default"
    );
    let running = post(&api, &id, "resume", json!({})).await;
    assert_eq!(
        running.error(409),
        format!("Sandbox {id} is already running")
    );
}

#[tokio::test]
async fn what_a_paused_sandbox_refuses() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let disk = post(&api, &id, "pause", json!({"memory": false})).await;
    assert_eq!(disk.status, StatusCode::NO_CONTENT);
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["pauseMode"], "filesystem");
    let again = post(&api, &id, "pause", json!({})).await;
    assert_eq!(
        again.error(409),
        format!("Sandbox \"{id}\" is already paused")
    );
    for call in ["fork", "snapshots"] {
        let refused = post(&api, &id, call, json!({})).await;
        assert_eq!(
            refused.error(409),
            format!("Sandbox \"{id}\" is not running")
        );
    }
    let rollback = post(&api, &id, "rollback", json!({"snapshotID": "base"})).await;
    assert_eq!(
        rollback.error(409),
        format!("Sandbox \"{id}\" is not running")
    );
    let gone = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    assert_eq!(
        post(&api, &id, "timeout", json!({"timeout": 9}))
            .await
            .error(404),
        gone
    );
    assert_eq!(
        post(&api, &id, "refreshes", json!({})).await.error(404),
        gone
    );
    let network = api
        .call(Method::PUT, &format!("/sandboxes/{id}/network"), "{}")
        .await;
    assert_eq!(network.error(404), gone);
    assert_eq!(
        api.get(&format!("/sandboxes/{id}/metrics")).await.json(),
        json!([])
    );

    let (_, other) = api.other_team("other").await;
    for call in ["pause", "resume", "connect", "fork", "snapshots"] {
        let path = format!("/sandboxes/{id}/{call}");
        let body = json!({"timeout": 9}).to_string();
        let answer = api.call_as(&other, Method::POST, &path, body).await;
        assert_eq!(answer.error(404), gone, "{call}");
    }
    let killed = api.delete(&format!("/sandboxes/{id}")).await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    assert_eq!(connect(&api, &id, json!({})).await.error(404), gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pause_joins_and_a_connect_waits_for_it() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let joiners = async {
        let timeout = post(&api, &id, "timeout", json!({"timeout": 9})).await;
        assert_eq!(
            timeout.error(409),
            format!("Sandbox \"{id}\" is being paused")
        );
        let fork = post(&api, &id, "fork", json!({})).await;
        assert_eq!(fork.error(409), format!("Sandbox \"{id}\" is being paused"));
        assert_eq!(api.get("/v2/sandboxes").await.json()[0]["state"], "paused");
        tokio::join!(
            post(&api, &id, "pause", json!({})),
            connect(&api, &id, json!({}))
        )
    };
    let (first, (joined, connected)) = halfway(
        &api,
        &id,
        NodeSandboxState::Pausing,
        post(&api, &id, "pause", json!({})),
        joiners,
    )
    .await;
    assert_eq!(first.status, StatusCode::NO_CONTENT, "{}", first.text);
    assert_eq!(joined.status, StatusCode::NO_CONTENT, "{}", joined.text);
    assert_eq!(connected.status, StatusCode::CREATED, "{}", connected.text);
    assert_eq!(api.node.pauses.load(Ordering::SeqCst), 1);
    assert_eq!(state(&api, &id), NodeSandboxState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_connect_share_one_resume() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    pause(&api, &id).await;
    let others = async {
        let connects = (1..=8).map(|i| connect(&api, &id, json!({"timeout": 1000 * i})));
        let (connects, resume) = tokio::join!(
            futures::future::join_all(connects),
            post(&api, &id, "resume", json!({})),
        );
        (connects, resume)
    };
    let (first, (connects, resume)) = halfway(
        &api,
        &id,
        NodeSandboxState::Resuming,
        connect(&api, &id, json!({"timeout": 10})),
        others,
    )
    .await;
    assert_eq!(first.status, StatusCode::CREATED);
    for answer in connects {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    }
    assert_eq!(resume.status, StatusCode::CREATED, "{}", resume.text);
    assert_eq!(api.node.resumes.load(Ordering::SeqCst), 1);
    assert!(left(&api, &id) > 7990, "the longest time holds");
}

#[tokio::test]
async fn a_pause_that_the_node_began_is_joined_and_one_that_failed_is_begun_anew() {
    let api = start_unwatched().await;
    for fails in [false, true] {
        let id = api.sandbox(&json!({"templateID": "base"})).await;
        let pausing = NodeSandboxState::Pausing;
        api.node.change(&id, |sandbox| sandbox.state = pausing);
        let looks = api.node.gets.load(Ordering::SeqCst);
        let ends = async {
            // It has seen that it must wait, and looks again.
            until("the pause waits", || {
                api.node.gets.load(Ordering::SeqCst) >= looks + 2
            })
            .await;
            if fails {
                api.node
                    .change(&id, |sandbox| sandbox.state = NodeSandboxState::Running);
            } else {
                api.node.pause_now(&id, true);
            }
        };
        let (answer, ()) = tokio::join!(post(&api, &id, "pause", json!({})), ends);
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
        assert_eq!(state(&api, &id), NodeSandboxState::Paused);
        let asked = api.node.pauses.load(Ordering::SeqCst);
        assert_eq!(asked, usize::from(fails));
    }
}

#[tokio::test]
async fn failures_of_the_node_leave_what_was_and_say_why() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let full = || NodeError::Exhausted("no disk space is left".to_owned());
    api.node.fail_next(Call::Pause, full(), false);
    let refused = post(&api, &id, "pause", json!({})).await;
    assert_eq!(refused.error(503), "no disk space is left");
    assert_eq!(state(&api, &id), NodeSandboxState::Running);
    api.node.fail_next(Call::Pause, NodeError::Deadline, true);
    post(&api, &id, "pause", json!({})).await.error(504);
    let again = post(&api, &id, "pause", json!({})).await;
    assert_eq!(
        again.error(409),
        format!("Sandbox \"{id}\" is already paused")
    );

    for (error, status, code) in [
        (full(), 503, "sandbox_capacity_unavailable"),
        (NodeError::Deadline, 504, "sandbox_placement_timeout"),
        (
            NodeError::Unimplemented("the memory was saved by another engine".to_owned()),
            503,
            "sandbox_no_compatible_node",
        ),
        (
            NodeError::Damaged("memory.img".to_owned()),
            500,
            "internal_server_error",
        ),
    ] {
        api.node.fail_next(Call::Resume, error, false);
        let answer = connect(&api, &id, json!({})).await;
        answer.error(status);
        assert_eq!(answer.json()["error_code"], code);
        assert!(!answer.text.contains("memory.img"));
        assert_eq!(state(&api, &id), NodeSandboxState::Paused);
    }
    assert_eq!(
        connect(&api, &id, json!({})).await.status,
        StatusCode::CREATED
    );
    // What boots from its disk may still come up.
    api.node.fail_next(Call::Resume, NodeError::Deadline, false);
    pause(&api, &id).await;
    let answer = connect(&api, &id, json!({"memory": false})).await;
    answer.error(503);
    let code = &answer.json()["error_code"];
    assert_eq!(code, "sandbox_filesystem_boot_unconfirmed");
    assert_eq!(
        connect(&api, &id, json!({})).await.status,
        StatusCode::CREATED
    );
    // The node moved it by itself: the request looks again.
    let moved = || NodeError::InTransition("is being paused".to_owned());
    api.node.fail_next(Call::Pause, moved(), true);
    let raced = post(&api, &id, "pause", json!({})).await;
    assert_eq!(
        raced.error(409),
        format!("Sandbox \"{id}\" is already paused")
    );
    api.node.fail_next(Call::Resume, moved(), true);
    assert_eq!(connect(&api, &id, json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_pause_may_ask_for_a_healthy_guest() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    *api.agent.away.lock().expect("unpoisoned") = true;
    let strict = json!({"requireHealthyGuest": true});
    let refused = post(&api, &id, "pause", strict.clone()).await;
    refused.error(409);
    assert_eq!(
        refused.json()["error_code"],
        "sandbox_snapshot_guest_agent_unresponsive"
    );
    assert_eq!(state(&api, &id), NodeSandboxState::Running);
    *api.agent.away.lock().expect("unpoisoned") = false;
    assert_eq!(
        post(&api, &id, "pause", strict).await.status,
        StatusCode::NO_CONTENT
    );
}

#[tokio::test]
async fn paused_sandboxes_are_free_and_a_resume_needs_a_place() {
    let api = Api::with(|config| {
        config.features.pause = true;
        config.team.limits.max_concurrent_sandboxes = 1;
    })
    .await;
    let request = json!({"templateID": "base"});
    let first = api.sandbox(&request).await;
    pause(&api, &first).await;
    let second = api.sandbox(&request).await;
    let refused = connect(&api, &first, json!({})).await;
    let text = "you have reached the maximum number of concurrent E2B sandboxes (1)";
    assert!(refused.error(429).starts_with(text), "{}", refused.text);
    pause(&api, &second).await;
    assert_eq!(
        connect(&api, &first, json!({})).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn lists_hold_running_and_paused_ones_in_one_order() {
    let api = start().await;
    let mut made = Vec::new();
    for index in 0..6 {
        let id = api.sandbox(&json!({"templateID": "base"})).await;
        let started = chrono::DateTime::from_timestamp(1_700_000_000 + index, 0);
        api.node.change(&id, |sandbox| {
            sandbox.started_at = started.expect("in range")
        });
        if index % 2 == 0 {
            pause(&api, &id).await;
        }
        made.push(id);
    }
    for (query, expected) in [
        ("order=asc", vec![0, 1, 2, 3, 4, 5]),
        ("state=paused,running", vec![5, 4, 3, 2, 1, 0]),
        ("state=paused", vec![4, 2, 0]),
        ("state=running&order=asc", vec![1, 3, 5]),
    ] {
        let mut read = Vec::new();
        let mut token = String::new();
        loop {
            let page = api
                .get(&format!("/v2/sandboxes?{query}&limit=2&nextToken={token}"))
                .await;
            for entry in page.json().as_array().expect("a list") {
                let id = entry["sandboxID"].as_str().expect("an id");
                read.push(made.iter().position(|made| made == id).expect("known"));
            }
            match page.header("x-next-token") {
                Some(next) => token = form_urlencoded::byte_serialize(next.as_bytes()).collect(),
                None => break,
            }
        }
        assert_eq!(read, expected, "{query}");
    }
}

#[tokio::test]
async fn a_snapshot_is_a_template_to_start_from() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let taken = post(&api, &id, "snapshots", json!({})).await;
    assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.text);
    let plain = taken.json()["snapshotID"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(plain.ends_with(":default"), "{plain}");
    assert_eq!(taken.json()["names"], json!([]));
    assert_eq!(state(&api, &id), NodeSandboxState::Running);
    let named = post(&api, &id, "snapshots", json!({"name": "mine:v2"}))
        .await
        .json();
    assert_eq!(
        named,
        json!({"snapshotID": "default/mine:v2", "names": ["default/mine"]})
    );

    for snapshot in [plain.as_str(), "default/mine:v2", "mine:v2"] {
        let copy = api.sandbox(&json!({"templateID": snapshot})).await;
        let build = api.node.sandbox(&copy).config.build_id;
        assert!(api.node.builds.lock().expect("unpoisoned").contains(&build));
        assert_ne!(build, api.node.sandbox(&id).config.build_id);
        api.delete(&format!("/sandboxes/{copy}")).await;
    }
    let templates = api.get("/templates").await.json();
    assert_eq!(
        templates,
        json!([]),
        "neither snapshots nor default templates are the team's own"
    );

    let other = api.sandbox(&json!({"templateID": "base"})).await;
    post(&api, &other, "snapshots", json!({})).await;
    let all = api.get("/snapshots").await.json();
    assert_eq!(all.as_array().expect("a list").len(), 3);
    let mine = api.get(&format!("/snapshots?sandboxID={id}")).await.json();
    let ids: Vec<&str> = mine
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["snapshotID"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids, ["default/mine:v2", plain.as_str()]);
    for name in ["mine", "default/mine", "mine:v2"] {
        let found = api.get(&format!("/snapshots?name={name}")).await.json();
        assert_eq!(found.as_array().expect("a list").len(), 1, "{name}");
    }
    assert_eq!(api.get("/snapshots?name=nowhere").await.json(), json!([]));
    let page = api.get("/snapshots?limit=2").await;
    assert_eq!(page.json().as_array().expect("a list").len(), 2);
    let token: String = page.header("x-next-token").expect("more").to_owned();
    let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let rest = api
        .get(&format!("/snapshots?limit=2&nextToken={token}"))
        .await;
    assert_eq!(rest.json().as_array().expect("a list").len(), 1);
    let (_, key) = api.other_team("stranger").await;
    let theirs = api
        .call_as(&key, Method::GET, "/snapshots", Body::empty())
        .await;
    assert_eq!(theirs.json(), json!([]));
}

#[tokio::test]
async fn a_snapshot_is_listed_once_with_its_newest_build() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for name in ["kept:v1", "kept:v2", "kept:v2", "other"] {
        let taken = post(&api, &id, "snapshots", json!({"name": name})).await;
        assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.text);
        // Lists go by milliseconds: of two of the same one the order is not told.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let kept =
        |tag: &str| json!({"snapshotID": format!("default/kept:{tag}"), "names": ["default/kept"]});
    let listed = async |query: &str| api.get(&format!("/snapshots{query}")).await.json();
    for name in ["?name=kept", "?name=default/kept", "?name=kept:v2"] {
        assert_eq!(listed(name).await, json!([kept("v2")]), "{name}");
    }
    assert_eq!(listed("?name=kept:v1").await, json!([kept("v1")]));
    let all = listed("").await;
    assert_eq!(all.as_array().expect("a list").len(), 2);
    assert_eq!(all[0]["names"], json!(["default/other"]));

    // Any of its builds can be started from, under its id.
    let template = api.get("/templates/kept").await.json();
    let builds = template["builds"].as_array().expect("a list").clone();
    assert_eq!(builds.len(), 3);
    for build in builds {
        let build = build["buildID"].as_str().expect("an id");
        let copy = api
            .sandbox(&json!({"templateID": format!("kept:{build}")}))
            .await;
        assert_eq!(api.node.sandbox(&copy).config.build_id.to_string(), build);
    }
}

/// Between two states, what it may not be snapshotted in is told as it is.
#[tokio::test]
async fn snapshots_and_resumes_in_other_states() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for (state, word) in [
        (NodeSandboxState::Snapshotting, "snapshotting"),
        (NodeSandboxState::Pausing, "pausing"),
        (NodeSandboxState::Stopping, "killing"),
    ] {
        set_state(&api, &id, state);
        let refused = post(&api, &id, "snapshots", json!({})).await;
        assert_eq!(
            refused.error(409),
            format!("Sandbox '{id}' cannot be snapshotted while in '{word}' state")
        );
    }
    let gone = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    assert_eq!(post(&api, &id, "resume", json!({})).await.error(404), gone);
    let killed = format!("Sandbox \"{id}\" is being killed");
    assert_eq!(connect(&api, &id, json!({})).await.error(409), killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_snapshot_is_refused_while_the_first_is_taken() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let (first, second) = halfway(
        &api,
        &id,
        NodeSandboxState::Snapshotting,
        post(&api, &id, "snapshots", json!({})),
        post(&api, &id, "snapshots", json!({})),
    )
    .await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    assert_eq!(
        second.error(409),
        format!("Sandbox '{id}' cannot be snapshotted while in 'snapshotting' state")
    );
}

#[tokio::test]
async fn names_of_snapshots() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let take = |name: &'static str| post(&api, &id, "snapshots", json!({"name": name}));
    assert_eq!(take("kept").await.status, StatusCode::CREATED);
    let first = api
        .store
        .template_by_alias("default", "kept")
        .await
        .expect("reads");
    // The same name again: a new build of the same template.
    assert_eq!(take("default/kept").await.status, StatusCode::CREATED);
    let second = api
        .store
        .template_by_alias("default", "kept")
        .await
        .expect("reads");
    let template = first.expect("is there").id;
    assert_eq!(template, second.expect("is there").id);
    assert_eq!(api.store.build_count(&template).await.expect("reads"), 2);
    for (name, status) in [
        ("other/kept", 400),
        ("a b", 400),
        ("kept:", 400),
        ("x:00000000-0000-0000-0000-000000000007", 400),
    ] {
        let before = api.node.build_count();
        let message = take(name).await.error(status);
        assert!(
            message.starts_with("validation error: name: "),
            "{name}: {message}"
        );
        assert_eq!(api.node.build_count(), before);
    }
    let mut own = support::base(api.team);
    own.namespace = "default".to_owned();
    own.alias = "tool".to_owned();
    own.is_default = false;
    own.build_id = hearth_ids::BuildId::random();
    api.control.template_publish(own).await.expect("publishes");
    take("tool").await.error(409);
    let disk = post(&api, &id, "snapshots", json!({"memory": false})).await;
    disk.error(400);
    assert_eq!(
        disk.json()["error_code"],
        "snapshot_filesystem_only_disabled"
    );
}

#[tokio::test]
async fn a_deleted_snapshot_leaves_nothing_and_one_in_use_stays() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let taken = post(&api, &id, "snapshots", json!({"name": "mine"}))
        .await
        .json();
    let encoded = "/templates/default%2Fmine:default";
    let copy = api
        .sandbox(&json!({"templateID": taken["snapshotID"]}))
        .await;
    for word in ["running", "paused"] {
        let refused = api.delete(encoded).await;
        assert_eq!(
            refused.error(400),
            format!(
                "cannot delete template 'default/mine:default' because there are {word} \
                 sandboxes using it"
            )
        );
        if word == "running" {
            pause(&api, &copy).await;
        }
    }
    api.delete(&format!("/sandboxes/{copy}")).await;
    let (_, key) = api.other_team("stranger").await;
    api.call_as(&key, Method::DELETE, encoded, Body::empty())
        .await
        .error(403);
    api.delete("/templates/base").await.error(403);
    api.delete("/templates/nowhere").await.error(404);
    api.delete("/templates/default%2Fmine:v9").await.error(404);
    assert_eq!(api.delete(encoded).await.status, StatusCode::NO_CONTENT);
    api.delete(encoded).await.error(404);
    assert_eq!(api.get("/snapshots").await.json(), json!([]));
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.build_count(), 0);
    assert!(api.store.discard_list().await.expect("reads").is_empty());
}

#[tokio::test]
async fn forks_are_sandboxes_of_their_own_and_their_build_is_nobodys() {
    let api = start().await;
    let request = json!({"templateID": "base", "metadata": {"a": "1"}, "envVars": {"X": "2"},
        "network": {"allowPublicTraffic": false}, "autoPause": true});
    let source = api.post("/v2/sandboxes", &request).await.json();
    let id = source["sandboxID"].as_str().expect("an id");
    let answer = post(&api, id, "fork", json!({"count": 3, "timeout": 50})).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let forks = answer.json();
    assert_eq!(forks.as_array().expect("a list").len(), 3);
    let mut tokens = std::collections::BTreeSet::from([source["envdAccessToken"].to_string()]);
    for fork in forks.as_array().expect("a list") {
        let fork = &fork["sandbox"];
        assert!(tokens.insert(fork["envdAccessToken"].to_string()));
        assert!(tokens.insert(fork["trafficAccessToken"].to_string()));
        assert_eq!(fork["domain"], "localhost:3443");
        let made = api.node.sandbox(fork["sandboxID"].as_str().expect("an id"));
        assert_eq!(made.config.metadata["a"], "1");
        assert_eq!(made.config.env_vars["X"], "2");
        assert_eq!(
            made.config.template_id,
            api.node.sandbox(id).config.template_id
        );
        assert_eq!(made.config.lifecycle.initial_timeout_seconds, Some(50));
        assert_ne!(made.config.build_id, api.node.sandbox(id).config.build_id);
    }
    assert!(left(&api, id) > 250, "the source keeps its time");
    let one = post(&api, id, "fork", json!({})).await;
    assert_eq!(one.json().as_array().expect("a list").len(), 1);
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.build_count(), 0, "no build is left");
    assert!(api.store.discard_list().await.expect("reads").is_empty());
}

#[tokio::test]
async fn each_fork_fails_by_itself() {
    let api = Api::with(|config| {
        config.features.pause = true;
        config.team.limits.max_concurrent_sandboxes = 5;
    })
    .await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for count in [0, -1, 101, i64::MAX, 5] {
        let message = post(&api, &id, "fork", json!({"count": count}))
            .await
            .error(400);
        assert!(
            message.starts_with("validation error: count: "),
            "{message}"
        );
    }
    post(&api, &id, "fork", json!({"timeout": 0}))
        .await
        .error(400);
    api.node.fail_next(
        Call::Create,
        NodeError::Exhausted("no slot".to_owned()),
        false,
    );
    // Its outcome is unknown: what it may have made is ended.
    api.node.fail_next(Call::Create, NodeError::Deadline, true);
    let forks = post(&api, &id, "fork", json!({"count": 4})).await.json();
    let forks = forks.as_array().expect("a list");
    let codes: Vec<Option<i64>> = forks
        .iter()
        .map(|fork| fork["error"]["code"].as_i64())
        .collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(503)).count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == Some(504)).count(), 1);
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 2);
    until("the unknown one is ended", || api.node.count() == 3).await;
    let over = post(&api, &id, "fork", json!({"count": 4})).await.json();
    let over: Vec<Option<i64>> = over
        .as_array()
        .expect("a list")
        .iter()
        .map(|fork| fork["error"]["code"].as_i64())
        .collect();
    assert_eq!(over.iter().filter(|code| **code == Some(429)).count(), 2);

    api.node.fail_next(
        Call::Checkpoint,
        NodeError::Exhausted("full".to_owned()),
        false,
    );
    post(&api, &id, "fork", json!({})).await.error(503);
    api.node
        .fail_next(Call::Checkpoint, NodeError::Deadline, true);
    post(&api, &id, "snapshots", json!({})).await.error(504);
    assert_eq!(state(&api, &id), NodeSandboxState::Running);
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.build_count(), 0, "no build is left");
}

#[tokio::test]
async fn builds_that_a_dead_process_left_are_discarded_at_the_next_start() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    post(&api, &id, "snapshots", json!({"name": "kept"})).await;
    let lost = hearth_ids::BuildId::random();
    api.store
        .discard_add(lost, &OwnerId::random())
        .await
        .expect("writes");
    api.node.builds.lock().expect("unpoisoned").insert(lost);
    let next = Api::over(api.store.clone(), api.node.clone(), |_| {}).await;
    assert!(next.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.build_count(), 1, "what is referred to stays");
    assert!(api.store.discard_list().await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_sandbox_goes_back_to_its_own_snapshots_alone() {
    let api = start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let taken = post(&api, &id, "snapshots", json!({"name": "mine"}))
        .await
        .json();
    let before = api.node.sandbox(&id);
    let body = json!({"snapshotID": taken["snapshotID"]});
    let back = post(&api, &id, "rollback", body.clone()).await;
    assert_eq!(back.status, StatusCode::OK, "{}", back.text);
    assert_eq!(back.json()["sandboxID"], id.as_str());
    let after = api.node.sandbox(&id);
    assert_ne!(after.execution_id, before.execution_id);
    assert_eq!(after.end_at, before.end_at);

    let other = api.sandbox(&json!({"templateID": "base"})).await;
    let foreign = post(&api, &other, "rollback", body.clone()).await;
    assert!(foreign.error(400).contains("no snapshot of sandbox"));
    // A copy may go back to what it was made of.
    let copy = api.sandbox(&json!({"templateID": "mine"})).await;
    assert_eq!(
        post(&api, &copy, "rollback", body).await.status,
        StatusCode::OK
    );
    post(&api, &id, "rollback", json!({"snapshotID": "nowhere"}))
        .await
        .error(404);
    post(&api, &id, "rollback", json!({})).await.error(400);
}

#[tokio::test]
async fn a_sandbox_is_killed_in_the_middle_of_anything() {
    let api = start().await;
    for (call, over) in [
        ("pause", NodeSandboxState::Pausing),
        ("snapshots", NodeSandboxState::Snapshotting),
        ("fork", NodeSandboxState::Snapshotting),
    ] {
        let id = api.sandbox(&json!({"templateID": "base"})).await;
        let kill = async {
            let path = format!("/sandboxes/{id}");
            api.delete(&path).await
        };
        let first = post(&api, &id, call, json!({}));
        let (answer, killed) = halfway(&api, &id, over, first, kill).await;
        assert_eq!(killed.status, StatusCode::NO_CONTENT, "{call}");
        answer.error(404);
        connect(&api, &id, json!({})).await.error(404);
    }
    assert_eq!(api.node.count(), 0);
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert_eq!(api.node.build_count(), 0);
}

fn set_state(api: &Api, id: &str, state: NodeSandboxState) {
    api.node.change(id, |sandbox| sandbox.state = state);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one sandbox's story, step by step")]
async fn traffic_wakes_what_may_be_woken_after_its_tokens() {
    let api = start_unwatched().await;
    let make = |extra: Value| {
        let mut request = json!({"templateID": "base", "autoPause": true, "timeout": 900});
        let map = request.as_object_mut().expect("an object");
        map.extend(extra.as_object().expect("an object").clone());
        let api = &api;
        async move {
            let id = api.sandbox(&request).await;
            pause(api, &id).await;
            id
        }
    };
    let wake = |id: &str, visitor: Visitor| {
        let id: SandboxId = id.parse().expect("an id");
        let control = api.control.clone();
        async move { control.sandbox_wake(&id, &visitor).await }
    };
    let visit = |port| Visitor {
        port,
        ..Visitor::default()
    };
    let asleep = make(json!({})).await;
    assert_eq!(wake(&asleep, visit(8000)).await, Err(WakeRefusal::NotFound));
    let unknown = SandboxId::random().to_string();
    assert_eq!(
        wake(&unknown, visit(8000)).await,
        Err(WakeRefusal::NotFound)
    );
    set_state(&api, &asleep, NodeSandboxState::Pausing);
    assert_eq!(wake(&asleep, visit(8000)).await, Err(WakeRefusal::NotFound));
    for state in [NodeSandboxState::Snapshotting, NodeSandboxState::Resuming] {
        set_state(&api, &asleep, state);
        let looks = api.node.gets.load(Ordering::SeqCst);
        let arrives = async {
            until("the visitor waits", || {
                api.node.gets.load(Ordering::SeqCst) >= looks + 2
            })
            .await;
            set_state(&api, &asleep, NodeSandboxState::Running);
        };
        let (woken, ()) = tokio::join!(wake(&asleep, visit(8000)), arrives);
        assert_eq!(woken, Ok(()), "{state:?}");
        set_state(&api, &asleep, state);
        tokio::time::pause();
        let woken = wake(&asleep, visit(8000)).await;
        tokio::time::resume();
        assert_eq!(woken, Err(WakeRefusal::Transitioning), "{state:?}");
    }
    set_state(&api, &asleep, NodeSandboxState::Paused);

    let auto = json!({"autoResume": {"enabled": true}});
    let public = make(auto.clone()).await;
    assert_eq!(wake(&public, visit(49983)).await, Err(WakeRefusal::Denied));
    let wrong = Visitor {
        port: 49983,
        envd_access_token: Some(SecretString::from("wrong")),
        ..Visitor::default()
    };
    assert_eq!(wake(&public, wrong).await, Err(WakeRefusal::Denied));
    assert_eq!(state(&api, &public), NodeSandboxState::Paused);
    let all = (0..8).map(|_| wake(&public, visit(8000)));
    for woken in futures::future::join_all(all).await {
        assert_eq!(woken, Ok(()));
    }
    assert_eq!(api.node.resumes.load(Ordering::SeqCst), 1);
    assert!(
        (890..=900).contains(&left(&api, &public)),
        "its first time again"
    );
    assert_eq!(wake(&public, visit(8000)).await, Ok(()), "runs already");

    let mut private = auto.clone();
    private["network"] = json!({"allowPublicTraffic": false});
    private["timeout"] = json!(20);
    let private = make(private).await;
    let tokens = api.node.sandbox(&private).config;
    let refused = wake(&private, visit(8000)).await;
    assert_eq!(refused, Err(WakeRefusal::TrafficToken));
    let shows = Visitor {
        port: 8000,
        traffic_access_token: tokens.traffic_access_token,
        ..Visitor::default()
    };
    assert_eq!(wake(&private, shows).await, Ok(()));
    assert!(
        (290..=300).contains(&left(&api, &private)),
        "at least five minutes"
    );
    pause(&api, &private).await;
    let agent = Visitor {
        port: 49983,
        envd_access_token: tokens.envd_access_token,
        ..Visitor::default()
    };
    assert_eq!(wake(&private, agent).await, Ok(()));

    // A sandbox that would boot is not woken by traffic.
    let boots = make(auto).await;
    connect(&api, &boots, json!({})).await;
    post(&api, &boots, "pause", json!({"memory": false})).await;
    assert_eq!(wake(&boots, visit(8000)).await, Err(WakeRefusal::NotFound));
    assert_eq!(
        connect(&api, &boots, json!({})).await.status,
        StatusCode::CREATED
    );
    pause(&api, &boots).await;
    api.node
        .fail_next(Call::Resume, NodeError::Internal("x".to_owned()), false);
    assert_eq!(wake(&boots, visit(8000)).await, Err(WakeRefusal::Failed));
    api.store
        .team_set_standing(api.team, false, Some("unpaid"))
        .await
        .expect("sets");
    assert_eq!(wake(&boots, visit(8000)).await, Err(WakeRefusal::Denied));
}
