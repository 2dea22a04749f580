//! Looking at templates.

mod support;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use hearth_control::TemplatePublication;
use hearth_ids::BuildId;
use serde_json::{Value, json};
use support::{Api, base};

#[tokio::test]
async fn a_template_has_every_field_that_clients_require() {
    let api = Api::start().await;
    let list = api.get("/templates").await.json();
    let template = &list[0];
    for (field, value) in [
        ("buildID", json!("00000000-0000-0000-0000-000000000007")),
        ("cpuCount", json!(2)),
        ("memoryMB", json!(1024)),
        ("diskSizeMB", json!(2048)),
        ("public", json!(true)),
        ("aliases", json!(["base"])),
        ("names", json!(["base"])),
        ("createdBy", Value::Null),
        ("lastSpawnedAt", Value::Null),
        ("spawnCount", json!(0)),
        ("buildCount", json!(1)),
        ("envdVersion", json!("0.6.13")),
        ("buildStatus", json!("ready")),
        ("isDefault", json!(true)),
    ] {
        assert_eq!(template[field], value, "{field}");
    }
    assert_eq!(api.get("/v2/templates").await.json(), list);
    assert_eq!(api.get("/default-templates").await.json(), list);
    let team = api.team;
    assert_eq!(
        api.get(&format!("/templates?teamID={team}")).await.json(),
        list
    );
    let other = api.get("/templates?teamID=other").await;
    assert_eq!(other.error(400), "Team ID param mismatch with the API key");
}

#[tokio::test]
async fn starts_are_counted() {
    let api = Api::start().await;
    api.sandbox(&json!({"templateID": "base"})).await;
    assert!(
        api.control
            .shutdown(std::time::Duration::from_secs(30))
            .await
    );
    let template = api.get("/templates").await.json()[0].clone();
    assert_eq!(template["spawnCount"], 1);
    assert!(template["lastSpawnedAt"].is_string());
}

#[tokio::test]
async fn names_with_a_namespace_are_one_segment() {
    let api = Api::start().await;
    let mine = TemplatePublication {
        namespace: "default".to_owned(),
        alias: "mine".to_owned(),
        public: false,
        is_default: false,
        tag: "v1".to_owned(),
        build_id: BuildId::random(),
        ..base(api.team)
    };
    let id = api.control.template_publish(mine).await.expect("publishes");
    for name in ["mine", "default%2Fmine", "default%2Fmine%3Av1", id.as_str()] {
        let answer = api.get(&format!("/templates/aliases/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text);
        assert_eq!(
            answer.json(),
            json!({"templateID": id.as_str(), "public": false})
        );
    }
    api.get("/templates/aliases/mine:v2").await.error(404);
    api.get("/templates/aliases/nowhere").await.error(404);
    api.get("/templates/aliases/a%20b").await.error(400);
    // Private, and another's: it exists, but not for them.
    let (_, key) = api.other_team("other").await;
    for path in [
        "/templates/aliases/default%2Fmine",
        "/templates/default%2Fmine",
        "/templates/default%2Fmine/tags",
    ] {
        api.call_as(&key, Method::GET, path, Body::empty())
            .await
            .error(403);
    }
    let create = json!({"templateID": "default/mine:v1"}).to_string();
    api.call_as(&key, Method::POST, "/v2/sandboxes", create.clone())
        .await
        .error(403);
    api.call_as(&key, Method::GET, "/templates/mine", Body::empty())
        .await
        .error(404);
    let own = api.call(Method::POST, "/v2/sandboxes", create).await;
    assert_eq!(own.status, StatusCode::CREATED);
    // Its tag is not the default one.
    let message = api
        .post("/v2/sandboxes", &json!({"templateID": "mine"}))
        .await
        .error(404);
    assert!(message.contains("mine"), "{message}");
}

#[tokio::test]
async fn publishing_again_moves_the_tag_and_is_idempotent() {
    let api = Api::start().await;
    let next = TemplatePublication {
        build_id: BuildId::random(),
        ..base(api.team)
    };
    for _ in 0..2 {
        api.control
            .template_publish(next.clone())
            .await
            .expect("publishes");
    }
    let tags = api.get("/templates/base/tags").await.json();
    assert_eq!(tags.as_array().expect("a list").len(), 1);
    assert_eq!(tags[0]["tag"], "default");
    assert_eq!(tags[0]["buildID"], next.build_id.to_string());
    let id = api.sandbox(&json!({"templateID": "BASE "})).await;
    assert_eq!(api.node.sandbox(&id).config.build_id, next.build_id);
}

/// As references of images have it.
#[tokio::test]
async fn latest_is_the_default_tag_unless_there_is_a_tag_of_that_name() {
    let api = Api::start().await;
    let alias = api.get("/templates/aliases/base:latest").await;
    assert_eq!(alias.status, StatusCode::OK, "{}", alias.text);
    let default = api.sandbox(&json!({"templateID": "base:latest"})).await;
    assert_eq!(
        api.node.sandbox(&default).config.build_id,
        base(api.team).build_id
    );
    let latest = TemplatePublication {
        tag: "latest".to_owned(),
        build_id: BuildId::random(),
        ..base(api.team)
    };
    let publication = latest.clone();
    api.control
        .template_publish(publication)
        .await
        .expect("publishes");
    let own = api.sandbox(&json!({"templateID": "base:latest"})).await;
    assert_eq!(api.node.sandbox(&own).config.build_id, latest.build_id);
    api.get("/templates/aliases/base:newest").await.error(404);
}

#[tokio::test]
async fn builds_come_in_pages() {
    let api = Api::start().await;
    for _ in 0..4 {
        let build = TemplatePublication {
            build_id: BuildId::random(),
            ..base(api.team)
        };
        api.control
            .template_publish(build)
            .await
            .expect("publishes");
    }
    let mut builds = Vec::new();
    let mut path = "/templates/base?limit=2".to_owned();
    loop {
        let answer = api.get(&path).await;
        let page = answer.json()["builds"].as_array().expect("a list").clone();
        assert!(page.len() <= 2);
        builds.extend(page.iter().map(|build| build["buildID"].to_string()));
        let Some(token) = answer.header("x-next-token") else {
            break;
        };
        let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
        path = format!("/templates/base?limit=2&nextToken={token}");
    }
    assert_eq!(builds.len(), 5);
    builds.sort();
    builds.dedup();
    assert_eq!(builds.len(), 5);
}
