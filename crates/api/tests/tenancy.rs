//! What one team has costs another nothing: requests ask the node for the one
//! sandbox that they are about, and for lists of the caller's own.

mod support;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_control::{Config, NetworkSettings, NodeSandboxState, Paused, Visitor, WakeRefusal};
use hearth_ids::SandboxId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::Api;
use support::fake::Asked;

/// Paused sandboxes of another team, each as large as one can be.
async fn crowd(api: &Api, count: usize) {
    let (team, key) = api.other_team("large").await;
    let body = json!({"templateID": "base", "timeout": 60}).to_string();
    let made = api.call_as(&key, Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let model = api
        .node
        .sandbox(made.json()["sandboxID"].as_str().expect("an id"));
    assert_eq!(model.config.team_id, team);
    for _ in 1..count {
        let mut sandbox = model.clone();
        sandbox.config.sandbox_id = SandboxId::random();
        sandbox.config.env_vars = BTreeMap::from([("LARGE".to_owned(), "x".repeat(64 << 10))]);
        sandbox.config.network = Some(NetworkSettings {
            allow_out: Some(vec!["192.0.2.0/24".to_owned(); 100]),
            ..NetworkSettings::default()
        });
        sandbox.state = NodeSandboxState::Paused;
        sandbox.paused = Some(Paused {
            at: chrono::Utc::now(),
            memory: true,
        });
        api.node.add(sandbox);
    }
}

/// With a node that tells of changes and with one that has to be asked: what a request
/// asks of the node, calls and bytes, does not grow with the sandboxes of others.
#[tokio::test]
async fn the_cost_of_a_request_does_not_depend_on_what_others_have() {
    for watched in [true, false] {
        let mut few = Vec::new();
        for others in [10, 1000] {
            let pause = |config: &mut Config| config.features.pause = true;
            let api = match watched {
                true => Api::with(pause).await,
                false => Api::unwatched(pause).await,
            };
            crowd(&api, others).await;
            let costs = session(&api).await;
            for (what, asked) in &costs {
                // Its own sandbox, a few times over.
                assert!(asked.bytes < 16 << 10, "{what}: {asked:?}");
                let (gets, lists) = if watched { (1, 0) } else { (3, 1) };
                assert!(
                    asked.gets <= gets && asked.lists <= lists && asked.listed <= 1,
                    "{what}: {asked:?}"
                );
            }
            let calls = costs.iter().map(|(what, asked)| {
                let Asked { gets, lists, .. } = *asked;
                (*what, gets, lists, asked.listed)
            });
            let calls: Vec<_> = calls.collect();
            if few.is_empty() {
                few = calls;
            } else {
                assert_eq!(calls, few, "calls and sandboxes told of, by request");
            }
            let of = |name: &str| few.iter().find(|(what, ..)| *what == name).expect("a cost");
            for free in [
                "create", "list", "timeout", "pause", "resume", "connect", "visit",
            ] {
                assert!(!watched || of(free).1 == 0, "{free} needs no question");
            }
        }
    }
}

type Cost = (&'static str, Asked);

/// A sandbox's life by all the requests there are, and what each asked of the node.
#[expect(clippy::too_many_lines, reason = "a table of requests")]
async fn session(api: &Api) -> Vec<Cost> {
    let mut costs = Vec::new();
    api.node.asked();
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    costs.push(("create", api.node.asked()));
    let one = format!("/sandboxes/{id}");
    let steps: [(&'static str, Method, String, Value, u16); 13] = [
        ("detail", Method::GET, one.clone(), Value::Null, 200),
        (
            "list",
            Method::GET,
            "/v2/sandboxes".to_owned(),
            Value::Null,
            200,
        ),
        (
            "first list",
            Method::GET,
            "/sandboxes".to_owned(),
            Value::Null,
            200,
        ),
        (
            "metrics",
            Method::GET,
            format!("{one}/metrics"),
            Value::Null,
            200,
        ),
        (
            "all metrics",
            Method::GET,
            format!("/sandboxes/metrics?sandbox_ids={id}"),
            Value::Null,
            200,
        ),
        (
            "timeout",
            Method::POST,
            format!("{one}/timeout"),
            json!({"timeout": 60}),
            204,
        ),
        (
            "network",
            Method::PUT,
            format!("{one}/network"),
            json!({}),
            204,
        ),
        (
            "snapshot",
            Method::POST,
            format!("{one}/snapshots"),
            json!({"name": "own"}),
            201,
        ),
        (
            "delete of a template",
            Method::DELETE,
            "/templates/own".to_owned(),
            Value::Null,
            204,
        ),
        (
            "pause",
            Method::POST,
            format!("{one}/pause"),
            json!({}),
            204,
        ),
        (
            "resume",
            Method::POST,
            format!("{one}/resume"),
            json!({}),
            201,
        ),
        (
            "connect",
            Method::POST,
            format!("{one}/connect"),
            json!({"timeout": 9}),
            200,
        ),
        ("delete", Method::DELETE, one.clone(), Value::Null, 204),
    ];
    for (what, method, path, body, status) in steps {
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let answer = api.call(method, &path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text);
        costs.push((what, api.node.asked()));
    }
    let unknown = SandboxId::random();
    let visitor = Visitor::default();
    let visit = api.control.sandbox_wake(&unknown, &visitor).await;
    assert_eq!(visit, Err(WakeRefusal::NotFound));
    costs.push(("visit", api.node.asked()));
    costs
}

#[tokio::test]
async fn network_settings_are_bounded_as_a_whole() {
    let api = Api::with(|config| config.features.egress_proxy = true).await;
    let certificate = |bytes: usize| {
        json!({
            "address": "proxy.example:3128",
            "tls": {"enabled": true, "caCert": "c".repeat(bytes)},
        })
    };
    let id = api
        .sandbox(&json!({"templateID": "base", "network": {"egressProxy": certificate(60_000)}}))
        .await;
    let headers: BTreeMap<String, String> = (0..10)
        .map(|index| (format!("x-{index}"), "v".repeat(8000)))
        .collect();
    for network in [
        json!({"egressProxy": certificate(64 << 10)}),
        json!({"egressProxy": {"address": "proxy.example:1", "password": "p".repeat(64 << 10)}}),
        json!({"rules": {"example.com": [{"transform": {"headers": headers}}]}}),
        json!({"allowOut": vec![format!("{}.example.com", "a".repeat(60)); 1000], "denyOut": ["0.0.0.0/0"]}),
    ] {
        let create = json!({"templateID": "base", "network": network}).to_string();
        let path = format!("/sandboxes/{id}/network");
        for answer in [
            api.call(Method::POST, "/v2/sandboxes", create).await,
            api.call(Method::PUT, &path, network.to_string()).await,
        ] {
            let message = answer.error(400);
            assert!(
                message.starts_with("validation error: network: must have at most 65536 bytes"),
                "{message}"
            );
        }
    }
    assert_eq!(api.node.count(), 1);
}
