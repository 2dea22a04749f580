//! Sandboxes over the API: what succeeds, in both generations.

mod support;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_control::NodeSandboxState;
use serde_json::{Value, json};
use support::Api;

#[tokio::test]
async fn a_second_generation_create_answers_what_clients_need() {
    let api = Api::start().await;
    let request = json!({"templateID": "base", "metadata": {"a": "b"}, "envVars": {"X": "1"}});
    let answer = api.post("/v2/sandboxes", &request).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let body = answer.json();
    let id = body["sandboxID"].as_str().expect("an id");
    assert_eq!(body["clientID"], "6532622b");
    assert_eq!(body["alias"], "base");
    assert_eq!(body["envdVersion"], "0.6.13");
    assert_eq!(body["domain"], "localhost:3443");
    assert_eq!(body["trafficAccessToken"], Value::Null);
    assert_eq!(body["envdAccessToken"].as_str().expect("a token").len(), 64);
    let made = api.node.sandbox(id);
    let lives = made.end_at - made.started_at;
    assert!((lives.num_seconds() - 300).abs() <= 1, "{lives}");
    assert_eq!(made.config.env_vars["X"], "1");
    assert_eq!(made.config.metadata["a"], "b");
}

#[tokio::test]
async fn a_first_generation_create_lives_15_seconds_by_default() {
    let api = Api::start().await;
    let answer = api.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let made = api
        .node
        .sandbox(answer.json()["sandboxID"].as_str().expect("an id"));
    let lives = made.end_at - made.started_at;
    assert!((lives.num_seconds() - 15).abs() <= 1, "{lives}");
}

#[tokio::test]
async fn what_older_sdks_send_is_taken() {
    let api = Api::start().await;
    let request = json!({"templateID": "base", "timeout": 300, "secure": true,
        "allow_internet_access": true, "metadata": {}, "envVars": {}, "unknownKey": [1]});
    let answer = api.post("/sandboxes", &request).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let null = json!({"templateID": "base", "metadata": null, "network": null, "mcp": null});
    assert_eq!(
        api.post("/v2/sandboxes", &null).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_private_sandbox_gets_a_traffic_token() {
    let api = Api::start().await;
    let request = json!({"templateID": "base", "network": {"allowPublicTraffic": false}});
    let second = api.post("/v2/sandboxes", &request).await;
    assert_eq!(second.status, StatusCode::CREATED);
    let body = second.json();
    assert_eq!(
        body["trafficAccessToken"].as_str().expect("a token").len(),
        64
    );
    assert_ne!(body["trafficAccessToken"], body["envdAccessToken"]);
    let first = api.post("/sandboxes", &request).await;
    assert!(first.error(400).contains("'secure' flag"));
}

#[tokio::test]
async fn only_what_is_said_outright_opens_the_agent() {
    let api = Api::start().await;
    let base = json!({"templateID": "base", "timeout": 60});
    let with = |secure: Value| {
        let mut request = base.clone();
        request["secure"] = secure;
        request
    };
    let open = api.post("/sandboxes", &with(json!(false))).await;
    assert_eq!(open.status, StatusCode::CREATED);
    let open = open.json();
    assert_eq!(open.get("envdAccessToken"), None, "{open}");
    let id = open["sandboxID"].as_str().expect("an id");
    assert!(api.node.sandbox(id).config.envd_access_token.is_none());
    // Whoever asks again is told the same.
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail.get("envdAccessToken"), None, "{detail}");
    let path = format!("/v2/sandboxes/{id}/connect");
    let connected = api.post(&path, &json!({})).await.json();
    assert_eq!(connected.get("envdAccessToken"), None, "{connected}");

    for (path, request) in [
        ("/sandboxes", base.clone()),
        ("/sandboxes", with(Value::Null)),
        ("/sandboxes", with(json!(true))),
        ("/v2/sandboxes", base.clone()),
        ("/v2/sandboxes", with(json!(false))),
    ] {
        let closed = api.post(path, &request).await.json();
        let token = closed["envdAccessToken"].as_str().expect("a token");
        assert_eq!(token.len(), 64, "{path} {request}");
    }
    let mut private = with(json!(false));
    private["network"] = json!({"allowPublicTraffic": false});
    let refused = api.post("/sandboxes", &private).await;
    assert!(refused.error(400).contains("'secure' flag"));
}

#[tokio::test]
async fn hosts_of_sandboxes_are_taken_in_network_rules() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    // As `get_host()` of the SDKs says it here.
    let host = format!("3000-{id}.localhost:3443");
    let network = json!({
        "allowOut": [host, "example.com:8443"],
        "denyOut": ["0.0.0.0/0", host],
        "rules": {host.as_str(): [{"transform": {"headers": {"X-Key": "v"}}}]},
    });
    let request = json!({"templateID": "base", "network": network});
    let made = api.post("/v2/sandboxes", &request).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let path = format!("/sandboxes/{id}/network");
    assert_eq!(
        api.put(&path, &network).await.status,
        StatusCode::NO_CONTENT
    );
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["network"]["allowOut"][0], host.as_str());
    let wrong = json!({"denyOut": ["example.com:443"]});
    let refused = api.put(&path, &wrong).await.error(400);
    assert!(refused.contains("network.denyOut[0]"), "{refused}");
}

#[tokio::test]
async fn a_sandbox_is_read_and_ended() {
    let api = Api::start().await;
    let id = api
        .sandbox(&json!({"templateID": "base", "metadata": {"k": "v"}}))
        .await;
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["sandboxID"], id.as_str());
    assert_eq!(detail["state"], "running");
    assert_eq!(detail["metadata"], json!({"k": "v"}));
    assert_eq!(
        (
            &detail["cpuCount"],
            &detail["memoryMB"],
            &detail["diskSizeMB"]
        ),
        (&json!(2), &json!(1024), &json!(2048))
    );
    assert_eq!(
        detail["lifecycle"],
        json!({"autoResume": false, "onTimeout": "kill"})
    );
    let started = detail["startedAt"].as_str().expect("a time");
    assert!(started.ends_with('Z') && started.len() == 24, "{started}");
    let old_form = api.get(&format!("/sandboxes/{id}-6532622b")).await;
    assert_eq!(old_form.status, StatusCode::OK);

    assert_eq!(
        api.delete(&format!("/sandboxes/{id}")).await.status,
        StatusCode::NO_CONTENT
    );
    let gone = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    assert_eq!(api.get(&format!("/sandboxes/{id}")).await.error(404), gone);
    assert_eq!(
        api.delete(&format!("/sandboxes/{id}")).await.error(404),
        gone
    );
}

#[tokio::test]
async fn timeouts_shorten_and_refreshes_only_extend() {
    let api = Api::start().await;
    let id = api
        .sandbox(&json!({"templateID": "base", "timeout": 300}))
        .await;
    let left = |id: &str| (api.node.sandbox(id).end_at - chrono::Utc::now()).num_seconds();
    let set = api
        .post(&format!("/sandboxes/{id}/timeout"), &json!({"timeout": 60}))
        .await;
    assert_eq!(set.status, StatusCode::NO_CONTENT);
    assert!((58..=60).contains(&left(&id)));
    let refresh = api
        .post(
            &format!("/sandboxes/{id}/refreshes"),
            &json!({"duration": 30}),
        )
        .await;
    assert_eq!(refresh.status, StatusCode::NO_CONTENT);
    assert!((58..=60).contains(&left(&id)));
    let empty = api
        .call(
            Method::POST,
            &format!("/sandboxes/{id}/refreshes"),
            Body::empty(),
        )
        .await;
    assert_eq!(empty.status, StatusCode::NO_CONTENT);
    api.post(
        &format!("/sandboxes/{id}/refreshes"),
        &json!({"duration": 600}),
    )
    .await;
    assert!((598..=600).contains(&left(&id)));
}

#[tokio::test]
async fn connecting_answers_200_and_only_extends() {
    let api = Api::start().await;
    let id = api
        .sandbox(&json!({"templateID": "base", "timeout": 600}))
        .await;
    let end = api.node.sandbox(&id).end_at;
    for (path, body) in [
        (format!("/sandboxes/{id}/connect"), json!({"timeout": 300})),
        (format!("/v2/sandboxes/{id}/connect"), json!({})),
        (
            format!("/v2/sandboxes/{id}/connect"),
            json!({"timeout": 5, "memory": false}),
        ),
    ] {
        let answer = api.post(&path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.json()["sandboxID"], id.as_str());
        assert_eq!(api.node.sandbox(&id).end_at, end);
    }
    api.post(
        &format!("/v2/sandboxes/{id}/connect"),
        &json!({"timeout": 1200}),
    )
    .await;
    assert!(api.node.sandbox(&id).end_at > end);
    let missing = api
        .post(&format!("/sandboxes/{id}/connect"), &json!({}))
        .await;
    assert!(missing.error(400).contains("timeout"));
}

#[tokio::test]
async fn sandboxes_in_transition_refuse_with_the_documented_text() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for (state, status, text) in [
        (NodeSandboxState::Pausing, 409, "is being paused"),
        (NodeSandboxState::Snapshotting, 409, "is being snapshotted"),
        (
            NodeSandboxState::Stopping,
            404,
            "doesn't exist or you don't have access to it",
        ),
    ] {
        api.node.change(&id, |sandbox| sandbox.state = state);
        let answer = api
            .post(&format!("/sandboxes/{id}/timeout"), &json!({"timeout": 9}))
            .await;
        assert_eq!(answer.error(status), format!("Sandbox \"{id}\" {text}"));
    }
    api.get(&format!("/sandboxes/{id}")).await.error(404);
    assert_eq!(api.get("/v2/sandboxes").await.json(), json!([]));
    api.node
        .change(&id, |sandbox| sandbox.state = NodeSandboxState::Pausing);
    assert_eq!(api.get("/v2/sandboxes").await.json()[0]["state"], "paused");
}

#[tokio::test]
async fn what_keeps_state_is_refused_as_unavailable() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    for call in ["pause", "fork", "snapshots"] {
        let answer = api
            .post(&format!("/sandboxes/{id}/{call}"), &json!({}))
            .await;
        assert!(answer.error(501).contains("not available"), "{call}");
        let other = api
            .post(
                &format!("/sandboxes/i{}/{call}", "0".repeat(20)),
                &json!({}),
            )
            .await;
        other.error(404);
    }
    let resume = api
        .post(&format!("/sandboxes/{id}/resume"), &json!({}))
        .await;
    assert_eq!(
        resume.error(409),
        format!("Sandbox {id} is already running")
    );
    assert_eq!(api.get("/snapshots").await.json(), json!([]));
    let auto = json!({"templateID": "base", "autoPause": true});
    api.post("/v2/sandboxes", &auto).await.error(403);
}

#[tokio::test]
async fn network_settings_are_kept_and_replaced() {
    let api = Api::start().await;
    let network = json!({"allowOut": ["1.1.1.1", "*.example.com"], "denyOut": ["0.0.0.0/0"],
        "maskRequestHost": "localhost:${PORT}"});
    let id = api
        .sandbox(&json!({"templateID": "base", "network": network}))
        .await;
    assert_eq!(
        api.get(&format!("/sandboxes/{id}")).await.json()["network"],
        network
    );
    let update = json!({"denyOut": ["8.8.8.8"]}).to_string();
    let answer = api
        .call(Method::PUT, &format!("/sandboxes/{id}/network"), update)
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    let expected = json!({"denyOut": ["8.8.8.8"], "maskRequestHost": "localhost:${PORT}"});
    assert_eq!(
        api.get(&format!("/sandboxes/{id}")).await.json()["network"],
        expected
    );
    let bad = json!({"allowOut": ["example.com"]}).to_string();
    let answer = api
        .call(Method::PUT, &format!("/sandboxes/{id}/network"), bad)
        .await;
    assert!(answer.error(400).contains("network.allowOut[0]"));
}

#[tokio::test]
async fn metrics_are_the_agents_present_sample() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let sample = json!({"timestamp": "2023-11-14T22:13:20.000Z", "timestampUnix": 1_700_000_000,
        "cpuCount": 2, "cpuUsedPct": 12.5, "memUsed": 1, "memTotal": 2, "memCache": 3,
        "diskUsed": 4, "diskTotal": 5});
    let path = format!("/sandboxes/{id}/metrics");
    assert_eq!(api.get(&path).await.json(), json!([sample]));
    assert_eq!(
        api.get(&format!("{path}?start=1&end=2")).await.json(),
        json!([])
    );
    assert!(
        api.get(&format!("{path}?start=x"))
            .await
            .error(400)
            .contains("start")
    );
    let unknown = format!("i{}", "0".repeat(20));
    let many = api
        .get(&format!("/sandboxes/metrics?sandbox_ids={id},{unknown}"))
        .await;
    assert_eq!(many.json(), json!({"sandboxes": {id.clone(): sample}}));
    *api.agent.away.lock().expect("unpoisoned") = true;
    assert_eq!(api.get(&path).await.json(), json!([]));
}

/// Knows one sandbox, which has ended.
struct Told(hearth_ids::SandboxId, hearth_ids::TeamId);

#[async_trait::async_trait]
impl hearth_control::Telemetry for Told {
    async fn owner(
        &self,
        id: &hearth_ids::SandboxId,
    ) -> Result<Option<hearth_ids::TeamId>, hearth_control::TelemetryError> {
        Ok((*id == self.0).then_some(self.1))
    }

    async fn logs(
        &self,
        _id: &hearth_ids::SandboxId,
        query: hearth_control::LogQuery,
    ) -> Result<Vec<hearth_control::LogEntry>, hearth_control::TelemetryError> {
        let message = format!(
            "{:?} {} {:?} {:?} {:?}",
            query.direction,
            query.limit,
            query.least_level,
            query.search,
            query.cursor.map(|cursor| cursor.timestamp_millis()),
        );
        Ok(vec![hearth_control::LogEntry {
            timestamp: chrono::DateTime::from_timestamp_millis(1_500).expect("a time"),
            level: hearth_control::LogLevel::Warn,
            message,
            fields: [("logger".to_owned(), "process".to_owned())].into(),
        }])
    }

    async fn samples(
        &self,
        _id: &hearth_ids::SandboxId,
        _start: Option<chrono::DateTime<chrono::Utc>>,
        _end: Option<chrono::DateTime<chrono::Utc>>,
        _most: usize,
    ) -> Result<Vec<hearth_control::AgentMetrics>, hearth_control::TelemetryError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn logs_outlive_their_sandbox_but_not_their_team() {
    let api = Api::start().await;
    let ended = hearth_ids::SandboxId::random();
    let told = Told(ended.clone(), api.team);
    api.control.connect_telemetry(std::sync::Arc::new(told));

    let first = api
        .get(&format!("/sandboxes/{ended}/logs?start=1000&limit=7"))
        .await
        .json();
    let line = first["logs"][0]["line"].as_str().expect("text");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let message = "Forward 7 None None Some(1000)";
    assert_eq!(
        line,
        json!({"level": "warn", "logger": "process", "message": message})
    );
    assert_eq!(first["logs"][0]["timestamp"], "1970-01-01T00:00:01.500Z");
    assert_eq!(first["logEntries"][0]["message"], message);
    let second = api
        .get(&format!(
            "/v2/sandboxes/{ended}/logs?level=error&search=x&cursor=5"
        ))
        .await
        .json();
    assert_eq!(
        second["logs"][0]["message"],
        "Backward 1000 Some(Error) Some(\"x\") Some(5)"
    );
    let (_, other) = api.other_team("other").await;
    for path in ["logs", "metrics"] {
        let path = format!("/sandboxes/{ended}/{path}");
        assert_eq!(api.get(&path).await.status, StatusCode::OK);
        api.call_as(&other, Method::GET, &path, Body::empty())
            .await
            .error(404);
    }
}

#[tokio::test]
async fn logs_have_their_shapes() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let first = api
        .get(&format!("/sandboxes/{id}/logs?start=1&limit=10"))
        .await;
    assert_eq!(first.json(), json!({"logs": [], "logEntries": []}));
    let second = api
        .get(&format!(
            "/v2/sandboxes/{id}/logs?direction=forward&level=warn"
        ))
        .await;
    assert_eq!(second.json(), json!({"logs": []}));
    let bad = api
        .get(&format!("/v2/sandboxes/{id}/logs?limit=1001"))
        .await;
    assert!(bad.error(400).contains("limit"));
}
