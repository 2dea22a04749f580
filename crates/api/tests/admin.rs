//! What operators do: who is one, teams, their keys, and ending what they run.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hearth_api::{AppState, Rate, RateLimits};
use hearth_control::NodeError;
use serde_json::{Value, json};
use support::fake::Call;
use support::{Answer, Api, OPERATOR};

async fn with_headers(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.send(request.body(Body::empty()).expect("a request"))
        .await
}

#[tokio::test]
async fn only_the_token_makes_an_operator() {
    let api = Api::start().await;
    let path = "/admin/teams";
    let unknown = api.anonymous(path).await.error(401);
    assert!(unknown.contains("X-Admin-Token"), "{unknown}");
    let by_key = api.get(path).await.error(401);
    assert!(by_key.contains("X-Admin-Token"), "{by_key}");
    for headers in [
        vec![("x-admin-token", "")],
        vec![("x-admin-token", "guess")],
        vec![("x-admin-token", "guess"), ("x-api-key", &api.key)],
        vec![("x-admin-token", OPERATOR), ("x-admin-token", OPERATOR)],
    ] {
        let refused = with_headers(&api, path, &headers).await.error(401);
        assert!(refused.starts_with("Invalid operator's token"), "{refused}");
        // Nor does it make the key that stands beside it good for anything.
        let refused = with_headers(&api, "/v2/sandboxes", &headers).await;
        refused.error(401);
    }
    let good = with_headers(&api, path, &[("x-admin-token", OPERATOR)]).await;
    assert_eq!(good.status, StatusCode::OK, "{}", good.text);
    // Where no token is set nobody is an operator.
    let router = hearth_api::router(AppState::new(api.control.clone()));
    let without = Api { router, ..api };
    let refused = with_headers(&without, path, &[("x-admin-token", OPERATOR)]).await;
    refused.error(401);
}

#[tokio::test]
async fn guesses_are_limited_and_operators_are_not() {
    let api = Api::start().await;
    let limits = RateLimits {
        unauthenticated: Rate {
            per_second: 1,
            burst: 3,
        },
        ..RateLimits::unlimited()
    };
    let router = hearth_api::router(api.state.clone().with_rate_limits(&limits));
    let api = Api { router, ..api };
    let mut refused = 0;
    for _ in 0..10 {
        let answer = with_headers(&api, "/admin/teams", &[("x-admin-token", "guess")]).await;
        refused += usize::from(answer.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused >= 5, "{refused}");
    let own = with_headers(&api, "/admin/teams", &[("x-admin-token", OPERATOR)]).await;
    assert_eq!(own.status, StatusCode::OK);
}

#[tokio::test]
async fn an_operator_acts_for_the_team_that_it_names() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let (other, _) = api.other_team("other").await;
    let path = format!("/sandboxes/{id}");
    let team = api.team.to_string();
    let as_team = |team: String| {
        let (api, path) = (&api, &path);
        async move {
            let headers = [("x-admin-token", OPERATOR), ("x-team-id", &team)];
            with_headers(api, path, &headers).await
        }
    };
    assert_eq!(as_team(team.clone()).await.status, StatusCode::OK);
    as_team(other.to_string()).await.error(404);
    let unknown = as_team("nobody".to_owned()).await.error(401);
    assert!(unknown.contains("X-Team-ID"), "{unknown}");
    let unsaid = with_headers(&api, &path, &[("x-admin-token", OPERATOR)]).await;
    assert!(unsaid.error(401).contains("X-Team-ID"));
    // The header alone says nothing.
    let alone = with_headers(&api, &path, &[("x-team-id", &team)]).await;
    alone.error(401);
}

#[tokio::test]
async fn teams_are_made_limited_blocked_banned_and_deleted() {
    let api = Api::start().await;
    let new = json!({"slug": "acme", "limits": {"concurrentSandboxes": 1}});
    let made = api.operate(Method::POST, "/admin/teams", &new).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let made = made.json();
    assert_eq!(made["limits"]["concurrentSandboxes"], 1);
    assert_eq!(made["limits"]["maxLengthHours"], 24, "as the first team");
    let team = format!("/admin/teams/{}", made["teamID"].as_str().expect("an id"));
    let again = api.operate(Method::POST, "/admin/teams", &new).await;
    again.error(409);
    let odd = json!({"slug": "../x"});
    api.operate(Method::POST, "/admin/teams", &odd)
        .await
        .error(400);

    let keys = format!("{team}/api-keys");
    let key = api
        .operate(Method::POST, &keys, &json!({"name": "first"}))
        .await;
    assert_eq!(key.status, StatusCode::CREATED, "{}", key.text);
    let key_id = key.json()["id"].as_str().expect("an id").to_owned();
    let key = key.json()["key"].as_str().expect("a key").to_owned();
    let create = json!({"templateID": "base"}).to_string();
    let create = || api.call_as(&key, Method::POST, "/v2/sandboxes", create.clone());
    assert_eq!(create().await.status, StatusCode::CREATED);
    create().await.error(429);
    let more = json!({"limits": {"concurrentSandboxes": 2}});
    let changed = api.operate(Method::PATCH, &team, &more).await.json();
    assert_eq!(changed["limits"]["concurrentSandboxes"], 2);
    assert_eq!(changed["limitsSetBy"], "operator");
    assert_eq!(create().await.status, StatusCode::CREATED);
    let sums = json!({"limits": {"totalVcpus": 4, "totalMemoryMiB": 4096}});
    let changed = api.operate(Method::PATCH, &team, &sums).await.json();
    assert_eq!(changed["limits"]["totalVcpus"], 4);
    assert_eq!(changed["limits"]["totalMemoryMiB"], 4096);
    let detail = api.operate(Method::GET, &team, &Value::Null).await.json();
    assert_eq!(
        detail["allocated"],
        json!({"runningSandboxes": 2, "vcpus": 4, "memoryMiB": 2048, "pausedSandboxes": 0,
            "diskMiB": 4096, "storedBytes": 0})
    );

    let block = json!({"blockedReason": "unpaid"});
    api.operate(Method::PATCH, &team, &block).await;
    assert_eq!(create().await.error(403), "team is blocked: unpaid");
    let look = || api.call_as(&key, Method::GET, "/v2/sandboxes", Body::empty());
    assert_eq!(look().await.status, StatusCode::OK);
    let ban = json!({"banned": true});
    let banned = api.operate(Method::PATCH, &team, &ban).await.json();
    assert_eq!(banned["blockedReason"], "unpaid", "what is not named stays");
    assert_eq!(look().await.error(403), "team is banned");
    let pardon = json!({"banned": false, "blockedReason": null});
    let good = api.operate(Method::PATCH, &team, &pardon).await.json();
    assert_eq!(
        (&good["banned"], &good["blockedReason"]),
        (&json!(false), &Value::Null)
    );

    let left = api.operate(Method::DELETE, &team, &Value::Null).await;
    assert!(left.error(409).contains("2 sandboxes"));
    let kill = format!("{team}/sandboxes/kill");
    let killed = api.operate(Method::POST, &kill, &Value::Null).await.json();
    assert_eq!(killed, json!({"killedCount": 2, "failedCount": 0}));
    let gone = format!("{keys}/{key_id}");
    let gone = || api.operate(Method::DELETE, &gone, &Value::Null);
    assert_eq!(gone().await.status, StatusCode::NO_CONTENT);
    gone().await.plain_not_found("id not found");
    look().await.error(401);
    let deleted = api.operate(Method::DELETE, &team, &Value::Null).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT, "{}", deleted.text);
    api.operate(Method::GET, &team, &Value::Null)
        .await
        .error(404);
    let first = format!("/admin/teams/{}", api.team);
    api.operate(Method::DELETE, &first, &Value::Null)
        .await
        .error(409);
    api.operate(Method::GET, "/admin/teams/x", &Value::Null)
        .await
        .error(404);
}

#[tokio::test]
async fn sandboxes_are_counted_and_all_of_a_team_ended() {
    let api = Api::start().await;
    let (other, key) = api.other_team("other").await;
    for _ in 0..3 {
        api.sandbox(&json!({"templateID": "base"})).await;
    }
    let create = json!({"templateID": "base"}).to_string();
    let foreign = api.call_as(&key, Method::POST, "/sandboxes", create).await;
    assert_eq!(foreign.status, StatusCode::CREATED);
    let counts = api.operate(Method::GET, "/admin/sandboxes/running-counts", &Value::Null);
    let (own, other) = (api.team.to_string(), other.to_string());
    assert_eq!(
        counts.await.json(),
        json!({own.as_str(): 3, other.as_str(): 1})
    );
    let kill = format!("/admin/teams/{own}/sandboxes/kill");
    let failure = NodeError::Internal("stuck".to_owned());
    api.node.fail_next(Call::Delete, failure, false);
    let killed = api.operate(Method::POST, &kill, &Value::Null).await.json();
    assert_eq!(killed, json!({"killedCount": 2, "failedCount": 1}));
    let rest = api.operate(Method::POST, &kill, &Value::Null).await.json();
    assert_eq!(rest, json!({"killedCount": 1, "failedCount": 0}));
    assert_eq!(api.node.count(), 1, "the other team's");
    let unknown = "/admin/teams/nobody/sandboxes/kill";
    api.operate(Method::POST, unknown, &Value::Null)
        .await
        .error(404);
}
