//! Lifecycle events, webhooks and what is refused of them.

mod support;

use axum::body::Body;
use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use hearth_control::{NodeEvent, NodeEventKind};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use hearth_store::{Attempt, Event, Verdict};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use support::Api;
use uuid::Uuid;

const CREATED: &str = "sandbox.lifecycle.created";
const KILLED: &str = "sandbox.lifecycle.killed";

/// When the sandboxes of these tests began: events are told in the order of their numbers.
fn begin() -> DateTime<Utc> {
    static BEGIN: OnceLock<DateTime<Utc>> = OnceLock::new();
    *BEGIN.get_or_init(Utc::now)
}

fn told(team: TeamId, sandbox: &SandboxId, sequence: u64, kind: NodeEventKind) -> NodeEvent {
    let at = begin() + TimeDelta::milliseconds(i64::try_from(sequence).expect("small"));
    NodeEvent {
        kind,
        sandbox_id: sandbox.clone(),
        sequence,
        execution_id: ExecutionId::from_uuid(Uuid::from_u128(1)),
        template_id: TemplateId::random(),
        build_id: BuildId::random(),
        team_id: team,
        metadata: BTreeMap::from([("user".to_owned(), "7".to_owned())]),
        at,
        started_at: at - TimeDelta::milliseconds(1500),
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

fn kept(team: TeamId, sandbox: &SandboxId, event_type: &str, order: i64) -> Event {
    Event {
        id: Uuid::new_v4(),
        team_id: team,
        event_type: event_type.to_owned(),
        category: None,
        label: None,
        data: None,
        occurred_at: Utc::now() + TimeDelta::milliseconds(order),
        sandbox_id: Some(sandbox.clone()),
        execution_id: None,
        template_id: None,
        build_id: None,
    }
}

async fn insert(api: &Api, events: &[Event]) {
    let kept = api.store.event_insert(events, Utc::now()).await;
    kept.expect("writes");
}

fn types(events: &Value) -> Vec<&str> {
    let events = events.as_array().expect("a list").iter();
    events
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

fn new_webhook() -> Value {
    json!({
        "name": "hook",
        "url": "https://example.com/hook",
        "events": [CREATED, KILLED],
        "signatureSecret": "0123456789abcdef0123456789abcdef",
    })
}

async fn patch(api: &Api, path: &str, body: &Value) -> support::Answer {
    api.call(Method::PATCH, path, body.to_string()).await
}

#[tokio::test]
async fn what_a_node_tells_is_kept_once_with_its_data() {
    let api = Api::start().await;
    let sandbox = SandboxId::random();
    let mut updated = told(api.team, &sandbox, 2, NodeEventKind::Updated);
    updated.end_at = chrono::DateTime::from_timestamp(1_700_000_000, 0);
    updated.network = serde_json::from_value(json!({
        "allowOut": ["10.0.0.0/8", "example.com"], "denyOut": ["0.0.0.0/0"],
    }))
    .expect("settings");
    let mut paused = told(api.team, &sandbox, 3, NodeEventKind::Paused);
    paused.reason = Some("timeout".to_owned());
    let killed = told(api.team, &sandbox, 4, NodeEventKind::Killed);
    let mut old = told(api.team, &sandbox, 5, NodeEventKind::Updated);
    old.at -= TimeDelta::days(8);
    let nobodys = told(TeamId::random(), &sandbox, 6, NodeEventKind::Created);
    let events = [
        told(api.team, &sandbox, 1, NodeEventKind::Created),
        updated,
        paused,
        killed,
        old,
        nobodys,
    ];
    // Told twice, as after an acknowledgement that got lost.
    let twice = events.iter().chain(&events).cloned();
    let numbered = (1..).zip(twice).collect();
    api.node.events.send_replace(numbered);
    api.control.follow_events();
    let mut left = api.node.events.subscribe();
    let all = left.wait_for(BTreeMap::is_empty);
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), all);
    drop(
        waited
            .await
            .expect("all are acknowledged")
            .expect("it is there"),
    );

    let path = format!("/events/sandboxes/{sandbox}?orderAsc=true");
    let listed = api.get(&path).await.json();
    assert_eq!(
        types(&listed),
        [
            CREATED,
            "sandbox.lifecycle.updated",
            "sandbox.lifecycle.paused",
            KILLED
        ]
    );
    let first = &listed[0];
    assert_eq!(first["version"], "v2");
    assert_eq!(first["eventCategory"], "lifecycle");
    assert_eq!(first["eventLabel"], "create");
    assert_eq!(
        first["eventData"],
        json!({"sandbox_metadata": {"user": "7"}})
    );
    assert_eq!(first["sandboxId"], sandbox.as_str());
    assert_eq!(first["sandboxTeamId"], api.team.to_string());
    assert_eq!(
        first["sandboxExecutionId"],
        "00000000-0000-0000-0000-000000000001"
    );
    let updated = &listed[1]["eventData"];
    assert_eq!(updated["set_timeout"], "2023-11-14T22:13:20.000Z");
    let egress = json!({
        "allowed_cidrs": ["10.0.0.0/8"],
        "denied_cidrs": ["0.0.0.0/0"],
        "allowed_domains": ["example.com"],
    });
    assert_eq!(updated["network_egress"], egress);
    let paused = &listed[2]["eventData"];
    assert_eq!(paused["pause_reason"], "timeout");
    assert_eq!(paused["execution"]["execution_time"], 1500);
    assert_eq!(paused["execution"]["vcpu_count"], 2);
    assert_eq!(paused["execution"]["memory_mb"], 512);
    assert_eq!(listed[3]["eventData"]["kill_reason"], "unknown");
}

#[tokio::test]
async fn events_are_listed_in_pages_and_told_to_their_team_alone() {
    let api = Api::start().await;
    let (one, other) = (SandboxId::random(), SandboxId::random());
    let events: Vec<Event> = (0..12).map(|n| kept(api.team, &one, CREATED, n)).collect();
    insert(&api, &events).await;
    insert(&api, &[kept(api.team, &other, KILLED, 100)]).await;
    let count = async |path: &str| {
        let listed = api.get(path).await.json();
        types(&listed).len()
    };
    assert_eq!(count("/events/sandboxes").await, 10);
    assert_eq!(count("/events/sandboxes?limit=100").await, 13);
    assert_eq!(count("/events/sandboxes?offset=10").await, 3);
    let newest = api.get("/events/sandboxes?limit=1").await.json();
    assert_eq!(types(&newest), [KILLED]);
    let both = format!("/events/sandboxes?types={CREATED}&types={KILLED}&limit=100");
    assert_eq!(count(&both).await, 13);
    let killed = format!("/events/sandboxes/{one}?types={KILLED}");
    assert_eq!(count(&killed).await, 0, "there are some of other types");
    assert_eq!(
        count(&format!("/events/sandboxes/{one}?offset=100")).await,
        0
    );

    let (_, key) = api.other_team("other").await;
    let theirs = async |path: &str| api.call_as(&key, Method::GET, path, Body::empty()).await;
    assert_eq!(theirs("/events/sandboxes").await.json(), json!([]));
    for unknown in [one.as_str(), SandboxId::random().as_str(), "no-id"] {
        let answer = theirs(&format!("/events/sandboxes/{unknown}")).await;
        assert_eq!(answer.error(404), "Sandbox events not found");
    }
    for bad in [
        "limit=0",
        "limit=101",
        "offset=-1",
        "orderAsc=maybe",
        "types=x",
        "limit=x",
    ] {
        let answer = api.get(&format!("/events/sandboxes?{bad}")).await;
        answer.error(400);
    }
    api.anonymous("/events/sandboxes").await.error(401);
    api.anonymous("/events/webhooks").await.error(401);
}

#[tokio::test]
async fn webhooks_are_made_changed_and_deleted() {
    let api = Api::start().await;
    let made = api.post("/events/webhooks", &new_webhook()).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    assert!(!made.text.contains("0123456789abcdef"), "the secret");
    let made = made.json();
    assert_eq!(made["enabled"], true);
    assert_eq!(made["teamId"], api.team.to_string());
    assert_eq!(made["events"], json!([CREATED, KILLED]));
    let path = format!("/events/webhooks/{}", made["id"].as_str().expect("an id"));
    assert_eq!(api.get(&path).await.json(), made);
    assert_eq!(api.get("/events/webhooks").await.json(), json!([made]));

    let change = json!({"name": "new", "events": [KILLED], "enabled": false});
    let changed = patch(&api, &path, &change).await;
    assert_eq!(changed.status.as_u16(), 200, "{}", changed.text);
    let changed = changed.json();
    assert_eq!(
        (&changed["name"], &changed["events"], &changed["enabled"]),
        (&json!("new"), &json!([KILLED]), &json!(false))
    );
    assert_eq!(changed["url"], made["url"]);
    let secret = json!({"signatureSecret": "another secret"});
    assert_eq!(patch(&api, &path, &secret).await.json(), changed);

    let (_, key) = api.other_team("other").await;
    for method in [Method::GET, Method::DELETE] {
        let answer = api.call_as(&key, method, &path, Body::empty()).await;
        assert_eq!(answer.error(404), "Webhook not found");
    }
    let answer = api.call_as(&key, Method::PATCH, &path, "{}").await;
    assert_eq!(answer.error(404), "Webhook not found");
    let deleted = api.delete(&path).await;
    assert_eq!(deleted.status.as_u16(), 200, "{}", deleted.text);
    assert_eq!(api.delete(&path).await.error(404), "Webhook not found");
    assert_eq!(api.get(&path).await.error(404), "Webhook not found");
    let no_id = api.get("/events/webhooks/no-id/deliveries").await;
    assert_eq!(no_id.error(404), "Webhook not found");
}

#[tokio::test]
async fn what_is_no_webhook_is_refused() {
    let api = Api::with(|config| config.events.webhooks_of_team = 1).await;
    let changed = |field: &str, value: Value| {
        let mut body = new_webhook();
        body[field] = value;
        body
    };
    for body in [
        json!({}),
        changed("name", json!("")),
        changed("name", json!("a\nb")),
        changed("name", json!("x".repeat(129))),
        changed("name", json!(null)),
        changed("events", json!([])),
        changed("events", json!(["sandbox.lifecycle.exploded"])),
        changed("events", json!(CREATED)),
        changed("signatureSecret", json!("")),
        changed("signatureSecret", json!(null)),
        changed("enabled", json!("yes")),
    ] {
        let message = api.post("/events/webhooks", &body).await.error(400);
        assert!(
            message.starts_with("Invalid webhook creation request: "),
            "{body}: {message}"
        );
    }
    for url in [
        "",
        "example.com",
        "ftp://example.com/",
        "https://a:b@example.com/",
    ] {
        let body = changed("url", json!(url));
        let message = api.post("/events/webhooks", &body).await.error(400);
        assert_eq!(message, "url: must be a valid http or https URL", "{url}");
    }
    let made = api.post("/events/webhooks", &new_webhook()).await.json();
    let path = format!("/events/webhooks/{}", made["id"].as_str().expect("an id"));
    let beyond = api.post("/events/webhooks", &new_webhook()).await;
    assert_eq!(beyond.error(429), "Webhook limit reached");
    for change in [
        json!({"events": []}),
        json!({"url": "x"}),
        json!({"name": ""}),
        json!("x"),
    ] {
        patch(&api, &path, &change).await.error(400);
    }
    assert_eq!(api.get(&path).await.json(), made, "nothing has changed");
}

/// An API with a webhook of this path, three events for it, and one failed attempt.
async fn with_deliveries() -> (Api, Uuid, String, Vec<Event>) {
    let api = Api::start().await;
    let made = api.post("/events/webhooks", &new_webhook()).await.json();
    let id: Uuid = made["id"].as_str().expect("an id").parse().expect("a UUID");
    let path = format!("/events/webhooks/{id}");
    let sandbox = SandboxId::random();
    let events: Vec<Event> = (0..3)
        .map(|n| {
            kept(
                api.team,
                &sandbox,
                [CREATED, KILLED, CREATED][n as usize],
                n,
            )
        })
        .collect();
    insert(&api, &events).await;
    let attempt = Attempt {
        id: Uuid::new_v4(),
        webhook_id: id,
        event_id: events[0].id,
        success: false,
        duration_ms: 7,
        request_url: "https://example.com/hook".to_owned(),
        request_body: "{}".to_owned(),
        request_headers: "{}".to_owned(),
        response_body: Some("no".to_owned()),
        response_headers: Some("{}".to_owned()),
        response_status: Some(500),
        error_class: Some("http_error".to_owned()),
        error_message: Some("the receiver answered 500".to_owned()),
        at: Utc::now(),
    };
    let later = Utc::now() + TimeDelta::hours(1);
    let noted = api
        .store
        .delivery_attempted(&attempt, &Verdict::Again(later), Utc::now())
        .await;
    noted.expect("writes");
    (api, id, path, events)
}

#[tokio::test]
async fn deliveries_are_listed() {
    let (api, _, path, events) = with_deliveries().await;
    let list = async |query: &str| {
        let answer = api.get(&format!("{path}/deliveries?{query}")).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        answer.json()
    };
    let mut seen = Vec::new();
    let mut page = list("limit=2").await;
    loop {
        for delivery in page["data"].as_array().expect("a list") {
            seen.push(delivery["eventId"].as_str().expect("an id").to_owned());
        }
        match page["nextCursor"].as_str() {
            Some(cursor) => page = list(&format!("limit=2&cursor={cursor}")).await,
            None => break,
        }
    }
    let newest_first: Vec<String> = events.iter().rev().map(|it| it.id.to_string()).collect();
    assert_eq!(seen, newest_first);
    let failed = list("deliveryStatus=failed").await;
    assert_eq!(failed["data"].as_array().expect("a list").len(), 1);
    let shown = &failed["data"][0]["attempts"][0];
    assert_eq!(failed["data"][0]["status"], "pending");
    for (field, value) in [
        ("status", json!("failed")),
        ("errorClass", json!("http_error")),
        ("responseHttpStatusCode", json!(500)),
        ("durationMs", json!(7)),
        ("eventType", json!(CREATED)),
        ("teamId", json!(api.team.to_string())),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let count = async |query: &str| list(query).await["data"].as_array().map(Vec::len);
    assert_eq!(count("deliveryStatus=success").await, Some(0));
    assert_eq!(count("deliveryStatus=success,failed").await, Some(3));
    assert_eq!(count(&format!("eventType={KILLED}")).await, Some(1));
    assert_eq!(count("start=2999-01-01T00:00:00Z").await, Some(0));
    for bad in [
        "limit=0",
        "cursor=x",
        "deliveryStatus=lost",
        "eventType=x",
        "start=yesterday",
        "orderAsc=1",
    ] {
        api.get(&format!("{path}/deliveries?{bad}"))
            .await
            .error(400);
    }
}

#[tokio::test]
async fn deliveries_are_counted_and_sent_again() {
    let (api, id, path, events) = with_deliveries().await;
    let stats = api.get(&format!("{path}/stats")).await.json();
    assert_eq!((&stats["total"], &stats["failed"]), (&json!(1), &json!(1)));
    let durations = json!({"minimum": 7, "average": 7.0, "maximum": 7});
    assert_eq!(stats["durationMs"], durations);
    assert_eq!(stats["buckets"].as_array().expect("a list").len(), 1);
    assert_eq!(stats["buckets"][0]["durationMs"], durations);
    let backwards = "start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z";
    api.get(&format!("{path}/stats?{backwards}"))
        .await
        .error(400);

    let again = |event: &str| format!("{path}/deliveries/{event}/redeliver");
    let begun = api
        .post(&again(&events[0].id.to_string()), &json!({}))
        .await;
    assert_eq!(begun.status.as_u16(), 202, "{}", begun.text);
    let due = api.store.delivery_due(id, Utc::now(), 10).await;
    assert_eq!(due.expect("reads")[0].attempts, 0);
    for unknown in [Uuid::new_v4().to_string().as_str(), "no-id"] {
        let answer = api.post(&again(unknown), &json!({})).await;
        assert_eq!(answer.error(404), "Webhook delivery not found");
    }
    patch(&api, &path, &json!({"enabled": false})).await;
    let answer = api
        .post(&again(&events[0].id.to_string()), &json!({}))
        .await;
    answer.error(409);
}

#[tokio::test]
async fn keys_need_their_scopes() {
    let api = Api::start().await;
    let body = json!({"name": "s", "scopes": ["sandboxes"], "readOnly": true});
    let key = api.post("/api-keys", &body).await.json();
    let key = key["key"].as_str().expect("a key");
    let get = async |path: &str| api.call_as(key, Method::GET, path, Body::empty()).await;
    assert_eq!(get("/events/sandboxes").await.status.as_u16(), 200);
    get("/events/webhooks").await.error(403);
    let body = json!({"name": "a", "scopes": ["admin"], "readOnly": true});
    let key = api.post("/api-keys", &body).await.json();
    let key = key["key"].as_str().expect("a key");
    let get = async |path: &str| api.call_as(key, Method::GET, path, Body::empty()).await;
    get("/events/sandboxes").await.error(403);
    assert_eq!(get("/events/webhooks").await.status.as_u16(), 200);
    let new = new_webhook().to_string();
    let refused = api
        .call_as(key, Method::POST, "/events/webhooks", new)
        .await;
    refused.error(403);
}
