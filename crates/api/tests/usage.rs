//! Metering: told by events, summed for teams, sandboxes and operators.

mod support;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use chrono::{TimeDelta, Utc};
use hearth_control::{NodeEvent, NodeEventKind};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::Api;

fn told(team: TeamId, sandbox: &SandboxId, sequence: u64, kind: NodeEventKind) -> NodeEvent {
    let now = Utc::now();
    NodeEvent {
        kind,
        sandbox_id: sandbox.clone(),
        sequence,
        execution_id: ExecutionId::random(),
        template_id: TemplateId::random(),
        build_id: BuildId::random(),
        team_id: team,
        metadata: BTreeMap::new(),
        at: now,
        started_at: now - TimeDelta::seconds(100),
        ended_at: None,
        vcpus: 2,
        memory_mib: 512,
        reason: None,
        end_at: None,
        network: None,
        subject_build: None,
        forked_from: None,
    }
}

/// Has the node tell these, and waits until they are taken.
async fn tell(api: &Api, events: &[(u64, NodeEvent)]) {
    api.node
        .events
        .send_modify(|kept| kept.extend(events.iter().cloned()));
    let mut kept = api.node.events.subscribe();
    kept.wait_for(BTreeMap::is_empty).await.expect("is taken");
}

async fn usage(api: &Api, query: &str) -> Value {
    let answer = api.get(&format!("/usage?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn what_ran_is_told_to_its_team_and_to_operators() {
    let api = Api::start().await;
    let (other, other_key) = api.other_team("other").await;
    api.control.follow_events();
    let (a, b) = (SandboxId::random(), SandboxId::random());
    let created = told(api.team, &a, 1, NodeEventKind::Created);
    let mut killed = told(api.team, &a, 2, NodeEventKind::Killed);
    killed.started_at = created.started_at;
    killed.at = created.started_at + TimeDelta::seconds(40);
    let mut foreign = told(other, &b, 1, NodeEventKind::Paused);
    foreign.ended_at = Some(foreign.started_at + TimeDelta::seconds(10));
    let start = (created.started_at - TimeDelta::hours(1)).timestamp();
    let query = format!("start={start}");
    // The end comes first, and all of it twice: a daemon died between two words.
    tell(&api, &[(1, killed.clone()), (2, foreign.clone())]).await;
    tell(&api, &[(3, created), (4, killed), (5, foreign)]).await;

    let used = usage(&api, &query).await;
    assert_eq!(used["teamID"], api.team.to_string());
    assert_eq!(used["executions"], 1);
    assert_eq!(used["vcpuSeconds"], 80.0);
    assert_eq!(used["memoryGiBSeconds"], 20.0);
    let by_sandbox = api.get(&format!("/usage/sandboxes?{query}")).await;
    let expected = json!([{"sandboxID": a.as_str(), "executions": 1, "vcpuSeconds": 80.0,
        "memoryGiBSeconds": 20.0}]);
    assert_eq!(by_sandbox.json(), expected);
    assert_eq!(by_sandbox.header("x-next-token"), None);
    let csv = api
        .get(&format!("/usage/sandboxes?{query}&format=csv&limit=1"))
        .await;
    let content_type = csv.header("content-type");
    assert_eq!(content_type, Some("text/csv; charset=utf-8"));
    let lines: Vec<&str> = csv.text.lines().collect();
    let row = format!("{a},1,80,20");
    assert_eq!(
        lines,
        [
            "sandboxID,executions,vcpuSeconds,memoryGiBSeconds",
            row.as_str()
        ]
    );
    let next = csv.header("x-next-token").expect("a full page").to_owned();
    let rest = api
        .get(&format!("/usage/sandboxes?{query}&nextToken={next}"))
        .await;
    assert_eq!(rest.json(), json!([]));

    let path = format!("/usage?{query}");
    let others = api
        .call_as(&other_key, Method::GET, &path, Body::empty())
        .await;
    assert_eq!(others.json()["vcpuSeconds"], 20.0);
    let all = format!("/admin/usage?{query}");
    let all = api.operate(Method::GET, &all, &Value::Null).await.json();
    let mut teams: Vec<&str> = Vec::new();
    for used in all.as_array().expect("a list") {
        teams.push(used["teamID"].as_str().expect("an id"));
    }
    let (own, other) = (api.team.to_string(), other.to_string());
    let mut expected = [own.as_str(), other.as_str()];
    expected.sort_unstable();
    assert_eq!(teams, expected);
    api.get("/admin/usage").await.error(401);
    for bad in ["start=x", "format=xml", "start=4102444800"] {
        api.get(&format!("/usage?{bad}")).await.error(400);
    }
    api.get("/usage/sandboxes?nextToken=%2F").await.error(400);
}

#[tokio::test]
async fn a_teams_load_is_told_to_it_alone() {
    let api = Api::start().await;
    api.control.follow_events();
    let running = told(api.team, &SandboxId::random(), 1, NodeEventKind::Created);
    let mut ended = told(api.team, &SandboxId::random(), 1, NodeEventKind::Killed);
    ended.at = ended.started_at + TimeDelta::seconds(40);
    let start = (running.started_at - TimeDelta::seconds(60)).timestamp();
    tell(&api, &[(1, running), (2, ended.clone())]).await;
    let path = format!("/teams/{}/metrics", api.team);
    let metrics = api.get(&format!("{path}?start={start}")).await.json();
    let metrics = metrics.as_array().expect("a list");
    let counts: Vec<u64> = metrics
        .iter()
        .map(|metric| metric["concurrentSandboxes"].as_u64().expect("a number"))
        .collect();
    assert_eq!((counts[0], counts.iter().max()), (0, Some(&2)));
    // Not the last ones: housekeeping finds that the node has no such sandbox.
    assert_eq!(counts[counts.len() - 5], 1);
    let step = metrics[1]["timestampUnix"].as_i64().expect("a time")
        - metrics[0]["timestampUnix"].as_i64().expect("a time");
    assert_eq!(step, 5);

    let most = api
        .get(&format!(
            "{path}/max?metric=concurrent_sandboxes&start={start}"
        ))
        .await
        .json();
    assert_eq!(most["value"], 2.0);
    assert_eq!(most["timestampUnix"], ended.started_at.timestamp());
    let rate = api
        .get(&format!(
            "{path}/max?metric=sandbox_start_rate&start={start}"
        ))
        .await
        .json();
    assert!(rate["value"].as_f64().expect("a number") >= 0.2, "{rate}");
    api.get(&format!("{path}/max?metric=cost")).await.error(400);
    api.get(&format!("{path}/max")).await.error(400);
    let long = format!("{path}?start=1000000000&end=1100000000");
    api.get(&long).await.error(400);
    let (other, _) = api.other_team("other").await;
    let refused = api.get(&format!("/teams/{other}/metrics")).await.error(403);
    assert_eq!(
        refused,
        format!(
            "You ({}) are not authorized to access this team's ({other}) metrics",
            api.team
        )
    );
}

#[tokio::test]
async fn prometheus_reads_what_was_used() {
    let api = Api::start().await;
    api.control.follow_events();
    let mut ended = told(api.team, &SandboxId::random(), 1, NodeEventKind::Killed);
    ended.started_at -= TimeDelta::seconds(100);
    ended.at = ended.started_at + TimeDelta::seconds(3);
    tell(&api, &[(1, ended.clone())]).await;
    let text = api.state.usage_metrics().await.expect("reads");
    assert!(text.contains("# TYPE hearth_usage_vcpu_seconds_total counter"));
    let month = |time: chrono::DateTime<Utc>| time.format("%Y-%m").to_string();
    // Around the turn of a month there is nothing to see.
    if month(ended.started_at) == month(Utc::now() - TimeDelta::minutes(1)) {
        let line = format!(
            "hearth_usage_vcpu_seconds_total{{team=\"{}\",slug=\"default\"}} 6\n",
            api.team
        );
        assert!(text.contains(&line), "{text}");
    }
}
