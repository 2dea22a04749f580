//! Lists: filters, order, pages.

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use support::{Answer, Api};

fn ids(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let entries = list.as_array().expect("a list").iter();
    entries
        .map(|entry| entry["sandboxID"].as_str().expect("an id").to_owned())
        .collect()
}

/// Five sandboxes that started a minute apart, oldest first.
async fn five(api: &Api) -> Vec<String> {
    let first: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut made = Vec::new();
    for index in 0..5 {
        let metadata = json!({"index": index.to_string(), "parity": (index % 2).to_string()});
        let id = api
            .sandbox(&json!({"templateID": "base", "metadata": metadata}))
            .await;
        let started_at = first + TimeDelta::minutes(index);
        api.node
            .change(&id, |sandbox| sandbox.started_at = started_at);
        made.push(id);
    }
    made
}

#[tokio::test]
async fn newest_come_first_and_the_order_can_be_turned() {
    let api = Api::start().await;
    let mut made = five(&api).await;
    assert_eq!(ids(&api.get("/v2/sandboxes?order=asc").await), made);
    made.reverse();
    let answer = api.get("/v2/sandboxes").await;
    assert_eq!(ids(&answer), made);
    assert_eq!(answer.header("x-total-running"), Some("5"));
    assert_eq!(answer.header("x-next-token"), None);
    assert_eq!(ids(&api.get("/sandboxes").await), made);
}

#[tokio::test]
async fn pages_follow_one_another() {
    let api = Api::start().await;
    let made = five(&api).await;
    for (order, expected) in [
        ("asc", made.clone()),
        ("desc", made.iter().rev().cloned().collect()),
    ] {
        let mut read = Vec::new();
        let mut path = format!("/v2/sandboxes?limit=2&order={order}");
        loop {
            let answer = api.get(&path).await;
            assert_eq!(answer.header("x-total-running"), Some("5"));
            read.extend(ids(&answer));
            match answer.header("x-next-token") {
                Some(token) => {
                    let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
                    path = format!("/v2/sandboxes?limit=2&order={order}&nextToken={token}");
                }
                None => break,
            }
        }
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn filters_narrow_the_list() {
    let api = Api::start().await;
    let made = five(&api).await;
    let odd = api.get("/v2/sandboxes?metadata=parity%3D1").await;
    assert_eq!(ids(&odd), [made[3].clone(), made[1].clone()]);
    assert_eq!(odd.header("x-total-running"), Some("2"));
    assert_eq!(
        ids(&api.get("/sandboxes?metadata=index%3D2").await),
        [made[2].clone()]
    );
    for after in [
        "2026-01-01T00:03:00Z",
        "2026-01-01T01:03:00%2B01:00",
        "2026-01-01T01:03:00+01:00",
    ] {
        let answer = api
            .get(&format!("/v2/sandboxes?startedAfter={after}"))
            .await;
        assert_eq!(ids(&answer), [made[4].clone()], "{after}");
    }
    assert_eq!(ids(&api.get("/v2/sandboxes?template=base").await).len(), 5);
    assert_eq!(
        ids(&api.get("/v2/sandboxes?template=nowhere").await).len(),
        0
    );
    let paused = api.get("/v2/sandboxes?state=paused").await;
    assert_eq!(
        (ids(&paused).len(), paused.header("x-total-running")),
        (0, None)
    );
    for state in [
        "running",
        "running,paused",
        "running%2Cpaused",
        "paused&state=running",
    ] {
        assert_eq!(
            ids(&api.get(&format!("/v2/sandboxes?state={state}")).await).len(),
            5
        );
    }
}

#[tokio::test]
async fn metadata_is_decoded_as_the_sdks_encode_it() {
    let api = Api::start().await;
    let id = api
        .sandbox(&json!({"templateID": "base", "metadata": {"a b": "c&d/é"}}))
        .await;
    api.sandbox(&json!({"templateID": "base"})).await;
    let sent = "/v2/sandboxes?metadata=a%252520b%3Dc%252526d%252F%2525C3%2525A9";
    assert_eq!(ids(&api.get(sent).await), [id]);
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let api = Api::start().await;
    for (query, named) in [
        ("limit=0", "validation error: limit"),
        ("limit=101", "validation error: limit"),
        ("limit=x", "validation error: limit"),
        ("order=up", "validation error: order"),
        ("state=dead", "validation error: state"),
        ("startedAfter=now", "validation error: startedAfter"),
        ("nextToken=%21", "Invalid next token"),
        ("nextToken=bm9uc2Vuc2U%3D", "Invalid next token"),
        ("template=base:v1", "Invalid template: "),
        ("template=a%20b", "Invalid template: "),
    ] {
        let message = api.get(&format!("/v2/sandboxes?{query}")).await.error(400);
        assert!(message.starts_with(named), "{query}: {message}");
    }
}

#[tokio::test]
async fn a_token_of_the_other_order_is_refused() {
    let api = Api::start().await;
    five(&api).await;
    let answer = api.get("/v2/sandboxes?limit=1&order=asc").await;
    let token = answer.header("x-next-token").expect("more").to_owned();
    let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let turned = api.get(&format!("/v2/sandboxes?nextToken={token}")).await;
    assert_eq!(turned.error(400), "Invalid next token");
}
