//! API keys: their routes, and what a key is good for.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use chrono::{TimeDelta, Utc};
use hearth_api::Source;
use hearth_control::keys;
use hearth_store::{KeyGrant, LimitsSetBy, Scope, TeamLimits};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use support::{Answer, Api};

async fn issue(api: &Api, grant: KeyGrant) -> String {
    let (_, key) = keys::issue(api.store.as_ref(), api.team, "narrow", grant)
        .await
        .expect("issues");
    key.expose_secret().to_owned()
}

async fn call(api: &Api, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = match body {
        Value::Null => Body::empty(),
        body => Body::from(body.to_string()),
    };
    let request = Request::builder().method(method).uri(path);
    let request = request.header("x-api-key", key).body(body);
    api.send(request.expect("a request")).await
}

#[tokio::test]
async fn keys_are_made_listed_renamed_and_deleted() {
    let api = Api::start().await;
    let own = api.key.clone();
    let asked = json!({
        "name": "ci", "scopes": ["sandboxes", "templates"], "readOnly": true,
        "expiresAt": "2999-01-02T03:04:05Z", "networks": ["198.51.100.0/24"],
    });
    let made = call(&api, &own, Method::POST, "/api-keys", &asked).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let key = made["key"].as_str().expect("a key");
    assert!(key.starts_with("e2b_"));
    let id = made["id"].as_str().expect("an id").to_owned();

    let listed = call(&api, &own, Method::GET, "/api-keys", &Value::Null).await;
    assert!(!listed.text.contains(key), "a list holds no key");
    let listed = listed.json();
    let mut entries = listed.as_array().expect("a list").iter();
    let entry = entries.find(|entry| entry["id"] == id.as_str());
    let entry = entry.expect("is listed");
    assert_eq!(entry["mask"]["prefix"], "e2b_");
    assert_eq!(entry["mask"]["maskedValueSuffix"], key[key.len() - 4..]);
    assert_eq!(entry["createdBy"], Value::Null);
    assert_eq!(entry["lastUsed"], Value::Null);
    assert_eq!(entry["scopes"], json!(["sandboxes", "templates"]));
    assert_eq!(entry["expiresAt"], "2999-01-02T03:04:05.000Z");
    assert_eq!(entry["networks"], json!(["198.51.100.0/24"]));

    let path = format!("/api-keys/{id}");
    let renamed = call(&api, &own, Method::PATCH, &path, &json!({"name": "new"})).await;
    assert_eq!(renamed.status, StatusCode::ACCEPTED, "{}", renamed.text);
    let (_, other) = api.other_team("other").await;
    let foreign = call(&api, &other, Method::DELETE, &path, &Value::Null).await;
    foreign.plain_not_found("id not found");
    let gone = call(&api, &own, Method::DELETE, &path, &Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    call(&api, &own, Method::DELETE, &path, &Value::Null)
        .await
        .plain_not_found("id not found");
    call(&api, &own, Method::PATCH, &path, &json!({"name": "x"}))
        .await
        .plain_not_found("id not found");
    let message = call(&api, &own, Method::DELETE, "/api-keys/x", &Value::Null)
        .await
        .error(400);
    assert!(
        message.starts_with("Error when parsing API key ID: "),
        "{message}"
    );
}

#[tokio::test]
async fn a_grant_that_makes_no_key_is_refused() {
    let api = Api::start().await;
    for (body, field) in [
        (json!({"name": " "}), "name"),
        (json!({"name": "x", "scopes": ["root"]}), "scopes"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x", "expiresAt": "tomorrow"}), "expiresAt"),
        (
            json!({"name": "x", "expiresAt": "2001-01-01T00:00:00Z"}),
            "expiresAt",
        ),
        (
            json!({"name": "x", "networks": ["198.51.100.0/33"]}),
            "networks",
        ),
        (
            json!({"name": "x", "networks": vec!["10.0.0.0/8"; 65]}),
            "networks",
        ),
    ] {
        let refused = call(&api, &api.key, Method::POST, "/api-keys", &body).await;
        let message = refused.error(400);
        assert!(message.contains(field), "{message}");
    }
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say() {
    let api = Api::start().await;
    let reads = [
        (Scope::Sandboxes, "/v2/sandboxes"),
        (Scope::Templates, "/templates"),
        (Scope::Admin, "/api-keys"),
    ];
    for (scope, _) in reads {
        let grant = KeyGrant {
            scopes: [scope].into(),
            ..KeyGrant::default()
        };
        let key = issue(&api, grant).await;
        for (of, path) in reads {
            let answer = call(&api, &key, Method::GET, path, &Value::Null).await;
            if of == scope {
                assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
            } else {
                let message = answer.error(403);
                assert!(message.contains(of.as_str()), "{message}");
            }
        }
        let teams = call(&api, &key, Method::GET, "/teams", &Value::Null).await;
        assert_eq!(teams.status, StatusCode::OK);
    }
    let secrets_only = KeyGrant {
        scopes: [Scope::Secrets].into(),
        ..KeyGrant::default()
    };
    let key = issue(&api, secrets_only).await;
    let body = json!({"templateID": "base"});
    let refused = call(&api, &key, Method::POST, "/v2/sandboxes", &body).await;
    refused.error(403);
    assert_eq!(api.node.count(), 0);
}

#[tokio::test]
async fn a_read_only_key_changes_nothing_and_is_shown_no_tokens() {
    let api = Api::start().await;
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    let path = format!("/sandboxes/{id}");
    let full = call(&api, &api.key, Method::GET, &path, &Value::Null).await;
    assert!(full.json()["envdAccessToken"].is_string());
    let read_only = KeyGrant {
        read_only: true,
        ..KeyGrant::default()
    };
    let key = issue(&api, read_only).await;
    let seen = call(&api, &key, Method::GET, &path, &Value::Null).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert!(!seen.text.contains("AccessToken"), "{}", seen.text);
    for (method, path) in [
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/connect")),
        (Method::POST, "/v2/sandboxes".to_owned()),
        (Method::POST, "/api-keys".to_owned()),
    ] {
        let body = json!({"templateID": "base", "timeout": 60, "name": "x"});
        let refused = call(&api, &key, method, &path, &body).await;
        assert!(refused.error(403).contains("read-only"), "{path}");
    }
    assert_eq!(api.node.count(), 1);
}

#[tokio::test]
async fn a_rotated_key_works_until_the_overlap_is_over() {
    let api = Api::start().await;
    let grant = KeyGrant {
        scopes: [Scope::Templates].into(),
        expires_at: Some(Utc::now() + TimeDelta::days(30)),
        ..KeyGrant::default()
    };
    let store = api.store.as_ref();
    let (old, old_key) = keys::issue(store, api.team, "ci", grant)
        .await
        .expect("issues");
    let (new, new_key) = keys::rotate(store, api.team, old.id, TimeDelta::hours(1))
        .await
        .expect("rotates");
    assert_eq!(
        (&new.name, &new.grant.scopes),
        (&old.name, &old.grant.scopes)
    );
    let lasts = new.grant.expires_at.expect("has an end") - new.created_at;
    assert!((lasts - TimeDelta::days(30)).abs() < TimeDelta::seconds(5));
    let works = async |key: &str| call(&api, key, Method::GET, "/templates", &Value::Null).await;
    for key in [&old_key, &new_key] {
        assert_eq!(works(key.expose_secret()).await.status, StatusCode::OK);
    }
    let (_, newest) = keys::rotate(store, api.team, new.id, TimeDelta::zero())
        .await
        .expect("rotates");
    assert_eq!(works(newest.expose_secret()).await.status, StatusCode::OK);
    // Another process did that; this one may remember the key for some seconds.
    let other = Api::over(api.store.clone(), api.node.clone(), |_| {}).await;
    let key = new_key.expose_secret();
    let refused = call(&other, key, Method::GET, "/templates", &Value::Null).await;
    assert!(refused.error(401).contains("expired"));
    let over = keys::rotate(store, api.team, new.id, TimeDelta::zero()).await;
    assert!(over.is_err(), "what is over is not rotated");
}

#[tokio::test]
async fn a_key_is_used_from_its_networks_alone() {
    let api = Api::start().await;
    let grant = KeyGrant {
        networks: vec!["198.51.100.0/24".parse().expect("a network")],
        ..KeyGrant::default()
    };
    let key = issue(&api, grant).await;
    let from = async |source: Option<Source>| {
        let mut request = Request::get("/templates")
            .header("x-api-key", &key)
            .body(Body::empty())
            .expect("a request");
        if let Some(source) = source {
            request.extensions_mut().insert(source);
        }
        api.send(request).await
    };
    let address = |text: &str| Some(Source::Address(text.parse().expect("an address")));
    let inside = from(address("198.51.100.9")).await;
    assert_eq!(inside.status, StatusCode::OK);
    let message = from(address("203.0.113.9")).await.error(403);
    assert!(message.contains("203.0.113.9"), "{message}");
    let sandbox = Source::Sandbox(hearth_ids::SandboxId::random());
    from(Some(sandbox)).await.error(403);
    from(None).await.error(403);
}

#[tokio::test]
async fn quotas_are_refused_by_name_before_anything_is_done() {
    let api = Api::with(|config| config.features.pause = true).await;
    let set = async |limits: TeamLimits| {
        let set = api
            .store
            .team_set_limits(api.team, limits, LimitsSetBy::Operator)
            .await;
        assert!(set.expect("writes"));
        // What was remembered of the key holds the old ones.
        Api::over(api.store.clone(), api.node.clone(), |config| {
            config.features.pause = true;
        })
        .await
    };
    let limits = TeamLimits {
        max_paused_sandboxes: 1,
        max_snapshots: 1,
        ..TeamLimits::default()
    };
    let narrow = set(limits).await;
    let post =
        async |path: &str, body: Value| call(&narrow, &narrow.key, Method::POST, path, &body).await;
    let first = narrow.sandbox(&json!({"templateID": "base"})).await;
    let second = narrow.sandbox(&json!({"templateID": "base"})).await;
    let paused = post(&format!("/sandboxes/{first}/pause"), json!({})).await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT, "{}", paused.text);
    let refused = post(&format!("/sandboxes/{second}/pause"), json!({})).await;
    let message = refused.error(429);
    assert!(message.contains("--paused-sandboxes"), "{message}");
    let body = json!({"templateID": "base", "autoPause": true});
    let refused = post("/v2/sandboxes", body).await;
    assert!(refused.error(429).contains("paused sandboxes"));
    let snapshots = format!("/sandboxes/{second}/snapshots");
    let taken = post(&snapshots, json!({"name": "one"})).await;
    assert!(taken.status.is_success(), "{}", taken.text);
    // A name in use gets a new build, which is none more.
    let again = post(&snapshots, json!({"name": "one"})).await;
    assert!(again.status.is_success(), "{}", again.text);
    let builds = narrow.node.build_count();
    let refused = post(&snapshots, json!({"name": "two"})).await;
    assert!(refused.error(429).contains("snapshots"));
    assert_eq!(narrow.node.build_count(), builds);
    let none = TeamLimits {
        max_volumes: 0,
        max_stored_mib: 0,
        ..TeamLimits::default()
    };
    let full = set(none).await;
    let refused = call(
        &full,
        &full.key,
        Method::POST,
        &snapshots,
        &json!({"name": "one"}),
    )
    .await;
    assert!(refused.error(429).contains("--stored-mib"));
}
