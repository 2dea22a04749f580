//! What must be refused, with which status and text.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hearth_control::{Config, NodeError};
use hearth_store::TeamLimits;
use serde_json::json;
use support::Api;

#[tokio::test]
async fn an_unknown_template_is_not_found() {
    let api = Api::start().await;
    for (template, message) in [
        ("nowhere", "template 'nowhere' not found"),
        ("ns/base", "template 'ns/base' not found"),
        ("base:v9", "tag 'v9' does not exist for template 'base'"),
    ] {
        let answer = api
            .post("/v2/sandboxes", &json!({"templateID": template}))
            .await;
        assert_eq!(answer.error(404), message);
    }
    for template in ["", "a b", "a/b/c", "base:"] {
        let answer = api
            .post("/v2/sandboxes", &json!({"templateID": template}))
            .await;
        assert!(
            answer
                .error(400)
                .starts_with("validation error: templateID: "),
            "{template:?}"
        );
    }
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn timeouts_outside_the_limits_are_refused() {
    let api = Api::start().await;
    for timeout in [0, -1, i64::MIN, 24 * 3600 + 1, i64::MAX] {
        for path in ["/sandboxes", "/v2/sandboxes"] {
            let answer = api
                .post(path, &json!({"templateID": "base", "timeout": timeout}))
                .await;
            let message = answer.error(400);
            assert!(
                message.starts_with("validation error: timeout: "),
                "{message}"
            );
        }
    }
    let id = api
        .sandbox(&json!({"templateID": "base", "timeout": 24 * 3600}))
        .await;
    for timeout in [-1, 24 * 3600 + 1] {
        for call in ["timeout", "connect"] {
            let path = format!("/sandboxes/{id}/{call}");
            let message = api
                .post(&path, &json!({"timeout": timeout}))
                .await
                .error(400);
            assert!(
                message.starts_with("validation error: timeout: "),
                "{message}"
            );
        }
    }
    for duration in [-1, 3601] {
        let path = format!("/sandboxes/{id}/refreshes");
        let message = api
            .post(&path, &json!({"duration": duration}))
            .await
            .error(400);
        assert!(
            message.starts_with("validation error: duration: "),
            "{message}"
        );
    }
}

#[tokio::test]
async fn malformed_bodies_name_what_is_wrong() {
    let api = Api::start().await;
    for (body, named) in [
        ("", "request body"),
        ("{", "request body: malformed JSON"),
        (
            "{\"templateID\": \"base\"} x",
            "request body: malformed JSON",
        ),
        ("[]", "request body"),
        ("null", "request body"),
        ("{}", "templateID"),
        ("{\"templateID\": 5}", "templateID"),
        (
            "{\"templateID\": \"base\", \"timeout\": \"soon\"}",
            "timeout",
        ),
        ("{\"templateID\": \"base\", \"timeout\": 1.5}", "timeout"),
        (
            "{\"templateID\": \"base\", \"metadata\": {\"a\": 1}}",
            "metadata.a",
        ),
        ("{\"templateID\": \"base\", \"metadata\": []}", "metadata"),
        (
            "{\"templateID\": \"base\", \"envVars\": {\"A=B\": \"1\"}}",
            "envVars",
        ),
        (
            "{\"templateID\": \"base\", \"envVars\": {\"A\": \"\\u0000\"}}",
            "envVars.A",
        ),
        (
            "{\"templateID\": \"base\", \"autoPauseMemory\": false}",
            "autoPauseMemory",
        ),
        (
            "{\"templateID\": \"base\", \"network\": {\"denyOut\": [\"x.com\"]}}",
            "network.denyOut[0]",
        ),
        (
            "{\"templateID\": \"base\", \"network\": {\"httpsPorts\": [70000]}}",
            "network.httpsPorts[0]",
        ),
    ] {
        let message = api
            .call(Method::POST, "/v2/sandboxes", body)
            .await
            .error(400);
        assert!(
            message.starts_with("validation error: "),
            "{body}: {message}"
        );
        assert!(message.contains(named), "{body}: {message}");
    }
    let nested = format!("{{\"templateID\":{}", "[".repeat(100_000));
    api.call(Method::POST, "/v2/sandboxes", nested)
        .await
        .error(400);
    let binary: &[u8] = &[0xff, 0xfe, 0x00];
    api.call(Method::POST, "/v2/sandboxes", binary)
        .await
        .error(400);
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn a_body_above_16_mib_is_too_large() {
    let api = Api::start().await;
    let large = vec![b' '; 16 * 1024 * 1024 + 1];
    api.call(Method::POST, "/v2/sandboxes", large)
        .await
        .error(413);
    let value = "x".repeat(2 * 1024 * 1024);
    let request = json!({"templateID": "base", "envVars": {"A": value}});
    assert!(
        api.post("/v2/sandboxes", &request)
            .await
            .error(400)
            .contains("envVars")
    );
}

#[tokio::test]
async fn requests_without_a_good_key_are_refused() {
    let api = Api::start().await;
    let unknown = format!("e2b_{}", "0".repeat(40));
    for key in [
        "",
        "test",
        "e2b_",
        "e2b_zz",
        unknown.as_str(),
        &"a".repeat(10_000),
    ] {
        for path in ["/v2/sandboxes", "/sandboxes", "/templates", "/snapshots"] {
            api.call_as(key, Method::GET, path, Body::empty())
                .await
                .error(401);
        }
    }
    let without = Request::get("/v2/sandboxes")
        .body(Body::empty())
        .expect("a request");
    api.send(without).await.error(401);
    let binary = Request::get("/v2/sandboxes")
        .header("X-API-Key", &[0xff_u8, 0x80][..])
        .body(Body::empty())
        .expect("a request");
    api.send(binary).await.error(401);
    let bearer = Request::get("/v2/sandboxes")
        .header("Authorization", format!("Bearer {}", api.key))
        .body(Body::empty())
        .expect("a request");
    api.send(bearer).await.error(401);
    let created = api.call_as(
        "e2b_00",
        Method::POST,
        "/sandboxes",
        "{\"templateID\":\"base\"}",
    );
    created.await.error(401);
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn a_revoked_key_ends_at_once_in_the_same_process() {
    let api = Api::start().await;
    assert_eq!(api.get("/templates").await.status, StatusCode::OK);
    let key = api
        .store
        .api_key_list(api.team)
        .await
        .expect("lists")
        .remove(0);
    api.control
        .key_revoke(api.team, key.id)
        .await
        .expect("revokes");
    api.get("/templates").await.error(401);
}

#[tokio::test]
async fn banned_and_blocked_teams_are_told_so() {
    let api = Api::start().await;
    let (team, key) = api.other_team("other").await;
    let standing = |banned, reason| api.store.team_set_standing(team, banned, reason);
    standing(true, None).await.expect("sets");
    let banned = api
        .call_as(&key, Method::GET, "/templates", Body::empty())
        .await;
    assert_eq!(banned.error(403), "team is banned");

    let (team, key) = api.other_team("third").await;
    api.store
        .team_set_standing(team, false, Some("unpaid"))
        .await
        .expect("sets");
    let read = api
        .call_as(&key, Method::GET, "/templates", Body::empty())
        .await;
    assert_eq!(read.status, StatusCode::OK);
    let create = api.call_as(
        &key,
        Method::POST,
        "/v2/sandboxes",
        "{\"templateID\":\"base\"}",
    );
    assert_eq!(create.await.error(403), "team is blocked: unpaid");
    let id = format!("/sandboxes/i{}", "0".repeat(20));
    api.call_as(&key, Method::DELETE, &id, Body::empty())
        .await
        .error(404);
}

#[tokio::test]
async fn another_teams_sandbox_is_not_found() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let (_, key) = api.other_team("other").await;
    let message = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    let timeout = json!({"timeout": 1}).to_string();
    for (method, path, body) in [
        (Method::GET, format!("/sandboxes/{id}"), String::new()),
        (Method::DELETE, format!("/sandboxes/{id}"), String::new()),
        (
            Method::POST,
            format!("/sandboxes/{id}/timeout"),
            timeout.clone(),
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/connect"),
            timeout.clone(),
        ),
        (Method::POST, format!("/v2/sandboxes/{id}/connect"), timeout),
        (
            Method::POST,
            format!("/sandboxes/{id}/refreshes"),
            String::new(),
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/pause"),
            String::new(),
        ),
        (
            Method::PUT,
            format!("/sandboxes/{id}/network"),
            "{}".to_owned(),
        ),
        (
            Method::GET,
            format!("/sandboxes/{id}/metrics"),
            String::new(),
        ),
        (Method::GET, format!("/sandboxes/{id}/logs"), String::new()),
        (
            Method::GET,
            format!("/v2/sandboxes/{id}/logs"),
            String::new(),
        ),
    ] {
        let answer = api.call_as(&key, method.clone(), &path, body).await;
        assert_eq!(answer.error(404), message, "{method} {path}");
    }
    let list = api
        .call_as(&key, Method::GET, "/v2/sandboxes", Body::empty())
        .await;
    assert_eq!(list.json(), json!([]));
    let metrics = format!("/sandboxes/metrics?sandbox_ids={id}");
    let metrics = api
        .call_as(&key, Method::GET, &metrics, Body::empty())
        .await;
    assert_eq!(metrics.json(), json!({"sandboxes": {}}));
    assert_eq!(api.node.count(), 1);
}

#[tokio::test]
async fn malformed_sandbox_ids_name_no_sandbox() {
    let api = Api::start().await;
    for id in ["x", "nonexistent", "i%2F..%2F..", "%00", &"i".repeat(5000)] {
        api.get(&format!("/sandboxes/{id}")).await.error(404);
    }
    api.get("/sandboxes/%ff").await.error(400);
}

/// A time over the limit is refused before the sandbox is looked for.
#[tokio::test]
async fn a_timeout_over_the_limit_is_refused_whatever_the_id() {
    let api = Api::with(|config| config.features.pause = true).await;
    let unknown = hearth_ids::SandboxId::random().to_string();
    for id in ["nonexistent", unknown.as_str()] {
        for call in ["connect", "resume", "timeout", "fork"] {
            let path = format!("/sandboxes/{id}/{call}");
            let answer = api.post(&path, &json!({"timeout": 24 * 3600 + 1})).await;
            let message = answer.error(400);
            assert!(
                message.starts_with("validation error: timeout: "),
                "{message}"
            );
            api.post(&path, &json!({"timeout": 60})).await.error(404);
        }
        let path = format!("/v2/sandboxes/{id}/connect");
        let answer = api.post(&path, &json!({"timeout": 24 * 3600 + 1})).await;
        answer.error(400);
    }
}

#[tokio::test]
async fn a_malformed_build_id_is_none() {
    let api = Api::start().await;
    for path in [
        "/templates/base/builds/nonsense",
        "/templates/nowhere/builds/7",
    ] {
        for rest in ["/status", "/logs"] {
            let answer = api.get(&format!("{path}{rest}")).await;
            assert_eq!(answer.error(400), "Invalid build id");
        }
        assert_eq!(api.delete(path).await.error(400), "Invalid build id");
        let start = api
            .post(&format!("/v2{path}"), &json!({"fromTemplate": "base"}))
            .await;
        assert_eq!(start.error(400), "Invalid build id");
    }
    let unknown = hearth_ids::BuildId::random();
    let answer = api
        .get(&format!("/templates/base/builds/{unknown}/status"))
        .await;
    assert_eq!(answer.error(400), format!("Build '{unknown}' not found"));
}

#[tokio::test]
async fn a_key_tells_its_team() {
    let api = Api::start().await;
    let (team, key) = api.other_team("other").await;
    let answer = api
        .call_as(&key, Method::GET, "/teams", Body::empty())
        .await;
    assert_eq!(
        answer.json(),
        json!([{"teamID": team.to_string(), "name": "other", "apiKey": key, "isDefault": true}])
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let templates = format!("/templates?teamID={team}");
    let answer = api
        .call_as(&key, Method::GET, &templates, Body::empty())
        .await;
    assert_eq!(answer.json(), json!([]));
}

#[tokio::test]
async fn too_many_sandboxes_are_refused_with_the_documented_text() {
    let api = Api::with(|config| config.team.limits.max_concurrent_sandboxes = 2).await;
    let request = json!({"templateID": "base"});
    let id = api.sandbox(&request).await;
    api.sandbox(&request).await;
    let answer = api.post("/v2/sandboxes", &request).await;
    let text =
        "you have reached the maximum number of concurrent E2B sandboxes (2). If you need more, ";
    assert!(answer.error(429).starts_with(text), "{}", answer.text);
    assert_eq!(answer.header("should-retry"), Some("false"));
    assert_eq!(
        api.delete(&format!("/sandboxes/{id}")).await.status,
        StatusCode::NO_CONTENT
    );
    api.sandbox(&request).await;
    assert_eq!(api.node.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn creates_at_the_same_time_do_not_pass_the_limit() {
    let limits = TeamLimits {
        max_concurrent_sandboxes: 3,
        ..TeamLimits::default()
    };
    let api = Api::with(|config| config.team.limits = limits).await;
    let request = json!({"templateID": "base"});
    let answers =
        futures::future::join_all((0..12).map(|_| api.post("/v2/sandboxes", &request))).await;
    let created = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED)
        .count();
    let refused = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS)
        .count();
    assert_eq!((created, refused, api.node.count()), (3, 9, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn creates_at_the_same_time_do_not_pass_the_sums_of_a_team() {
    // Each has two processors and 1024 MiB.
    for limits in [
        TeamLimits {
            max_total_vcpus: 7,
            ..TeamLimits::default()
        },
        TeamLimits {
            max_total_memory_mib: 3072,
            ..TeamLimits::default()
        },
    ] {
        let configure = |config: &mut Config| {
            config.team.limits = limits;
            config.features.pause = true;
        };
        let api = Api::with(configure).await;
        let request = json!({"templateID": "base"});
        let answers =
            futures::future::join_all((0..12).map(|_| api.post("/v2/sandboxes", &request))).await;
        let (created, refused): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .partition(|answer| answer.status == StatusCode::CREATED);
        assert_eq!((created.len(), refused.len(), api.node.count()), (3, 9, 3));
        for answer in refused {
            let message = answer.error(429);
            assert!(
                message.contains("of running sandboxes is reached"),
                "{message}"
            );
            assert_eq!(answer.header("should-retry"), Some("false"));
        }
        // What is paused takes nothing, and needs room to go on.
        let list = api.get("/v2/sandboxes").await.json();
        let id = list[0]["sandboxID"].as_str().expect("an id").to_owned();
        let pause = api
            .post(&format!("/sandboxes/{id}/pause"), &json!({}))
            .await;
        assert_eq!(pause.status, StatusCode::NO_CONTENT, "{}", pause.text);
        let other = api.sandbox(&request).await;
        let connect = format!("/sandboxes/{id}/connect");
        let minute = json!({"timeout": 60});
        let again = || api.post(&connect, &minute);
        again().await.error(429);
        api.delete(&format!("/sandboxes/{other}")).await;
        assert_eq!(again().await.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_nodes_refusals_become_the_documented_placement_errors() {
    let api = Api::start().await;
    for (error, status, code, retry) in [
        (
            NodeError::Exhausted("no slot is free".to_owned()),
            503,
            "sandbox_capacity_unavailable",
            Some("false"),
        ),
        (
            NodeError::NotFound("no build".to_owned()),
            503,
            "sandbox_no_compatible_node",
            Some("false"),
        ),
        (
            NodeError::Unreachable("refused".to_owned()),
            503,
            "sandbox_capacity_unavailable",
            None,
        ),
        (
            NodeError::Deadline,
            504,
            "sandbox_placement_timeout",
            Some("false"),
        ),
    ] {
        api.node.fail_creates(Some(error));
        let answer = api
            .post("/v2/sandboxes", &json!({"templateID": "base"}))
            .await;
        let message = answer.error(status);
        assert!(message.starts_with("Failed to place sandbox"), "{message}");
        assert_eq!(answer.json()["error_code"], code);
        assert_eq!(answer.header("should-retry"), retry, "{code}");
    }
    api.node
        .fail_creates(Some(NodeError::Internal("qemu: /secret/path".to_owned())));
    let answer = api
        .post("/v2/sandboxes", &json!({"templateID": "base"}))
        .await;
    assert_eq!(answer.error(500), "Failed to create sandbox");
    assert_eq!(answer.json()["error_code"], "sandbox_create_failed");
    assert!(!answer.text.contains("secret"));
}

#[tokio::test]
async fn what_no_route_takes_is_answered_in_json() {
    let api = Api::start().await;
    assert_eq!(api.get("/nowhere").await.error(404), "Not found");
    assert_eq!(api.get("/").await.error(404), "Not found");
    api.call(Method::PATCH, "/sandboxes", Body::empty())
        .await
        .error(405);
    api.call(Method::POST, "/health", Body::empty())
        .await
        .error(405);
}

#[tokio::test]
async fn what_is_not_enabled_is_refused_rather_than_ignored() {
    let api = Api::with(|config| config.features = hearth_control::Features::default()).await;
    for extra in [
        json!({"iam": {"tokens": {"a": {"audience": "b", "tokenType": "JWT-SVID"}}}}),
        json!({"network": {"egressProxy": {"address": "a:1"}}}),
        json!({"network": {"rules": {"a.com": []}}}),
        json!({"network": {"denyOut": ["0.0.0.0/0"]}}),
        json!({"autoPause": true}),
        json!({"autoResume": {"enabled": true}}),
    ] {
        let mut request = json!({"templateID": "base"});
        let map = request.as_object_mut().expect("an object");
        map.extend(extra.as_object().expect("an object").clone());
        let message = api.post("/v2/sandboxes", &request).await.error(403);
        assert!(message.contains("not enabled"), "{message}");
    }
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn health_says_when_the_process_drains() {
    let api = Api::start().await;
    let healthy = api.get("/health").await;
    assert_eq!(
        (healthy.status, healthy.text.as_str()),
        (StatusCode::OK, "Health check successful")
    );
    api.state.drain();
    assert_eq!(
        api.get("/health").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}
