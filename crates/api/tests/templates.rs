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
    let list = api.get("/default-templates").await.json();
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
    let other = api.get("/templates?teamID=other").await;
    assert_eq!(other.error(400), "Team ID param mismatch with the API key");
}

fn own(api: &Api, alias: &str) -> TemplatePublication {
    TemplatePublication {
        namespace: "default".to_owned(),
        alias: alias.to_owned(),
        public: false,
        is_default: false,
        build_id: BuildId::random(),
        ..base(api.team)
    }
}

#[tokio::test]
async fn lists_hold_the_teams_own_templates_in_exact_pages() {
    let api = Api::start().await;
    for path in ["/templates", "/v2/templates"] {
        assert_eq!(api.get(path).await.json(), json!([]), "base is everybody's");
    }
    let mut made = Vec::new();
    for index in 0..4 {
        let wanted = own(&api, &format!("own{index}"));
        let id = api
            .control
            .template_publish(wanted)
            .await
            .expect("publishes");
        made.push(id.to_string());
    }
    made.sort();
    let ids = |list: &Value| -> Vec<String> {
        let entries = list.as_array().expect("a list").iter();
        entries
            .map(|entry| entry["templateID"].as_str().expect("an id").to_owned())
            .collect()
    };
    let mut all = ids(&api
        .get(&format!("/templates?teamID={}", api.team))
        .await
        .json());
    all.sort();
    assert_eq!(all, made);
    for (limit, pages) in [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)] {
        let mut read = Vec::new();
        let mut path = format!("/v2/templates?limit={limit}");
        for page in 1..=pages {
            let answer = api.get(&path).await;
            read.extend(ids(&answer.json()));
            let token = answer.header("x-next-token");
            assert_eq!(token.is_some(), page < pages, "limit {limit}, page {page}");
            let token: String =
                form_urlencoded::byte_serialize(token.unwrap_or_default().as_bytes()).collect();
            path = format!("/v2/templates?limit={limit}&nextToken={token}");
        }
        read.sort();
        assert_eq!(read, made, "limit {limit}");
    }
    let (_, key) = api.other_team("other").await;
    let theirs = api
        .call_as(&key, Method::GET, "/v2/templates", Body::empty())
        .await;
    assert_eq!(theirs.json(), json!([]));
}

#[tokio::test]
async fn a_build_is_named_by_its_id_but_no_tag_is_one() {
    let api = Api::start().await;
    let first = own(&api, "mine");
    let second = own(&api, "mine");
    for build in [&first, &second] {
        api.control
            .template_publish(build.clone())
            .await
            .expect("publishes");
    }
    let reference = format!("mine:{}", first.build_id);
    let id = api.sandbox(&json!({"templateID": reference})).await;
    assert_eq!(api.node.sandbox(&id).config.build_id, first.build_id);
    let alias = format!("/templates/aliases/{reference}");
    assert_eq!(api.get(&alias).await.status, StatusCode::OK);
    let tagged = api
        .post(
            "/templates/tags",
            &json!({"target": reference, "tags": ["old"]}),
        )
        .await;
    assert_eq!(tagged.status, StatusCode::CREATED, "{}", tagged.text);
    assert_eq!(tagged.json()["buildID"], first.build_id.to_string());
    let id = api.sandbox(&json!({"templateID": "mine:old"})).await;
    assert_eq!(api.node.sandbox(&id).config.build_id, first.build_id);

    // Another template's build, and one that there is not.
    for build in [BuildId::random(), base(api.team).build_id] {
        let body = json!({"templateID": format!("mine:{build}")});
        api.post("/v2/sandboxes", &body).await.error(404);
        let target = json!({"target": format!("mine:{build}"), "tags": ["x"]});
        api.post("/templates/tags", &target).await.error(404);
    }
    let uuid = BuildId::random().to_string();
    let refused = api
        .post(
            "/templates/tags",
            &json!({"target": "mine", "tags": [uuid]}),
        )
        .await;
    assert!(
        refused.error(400).contains("must not be a UUID"),
        "{}",
        refused.text
    );
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
    let template = api.get("/default-templates").await.json()[0].clone();
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

#[tokio::test]
async fn a_template_says_what_it_is_for() {
    let api = Api::start().await;
    let made = api.control.template_publish(own(&api, "mine")).await;
    made.expect("publishes");
    let shown = async || api.get("/templates/mine").await.json()["description"].clone();
    assert_eq!(shown().await, Value::Null);
    for (path, description) in [
        ("/v2/templates/mine", "First"),
        ("/templates/mine", "Ändert"),
    ] {
        let body = json!({ "description": format!(" {description} ") }).to_string();
        let changed = api.call(Method::PATCH, path, body).await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
        assert_eq!(shown().await, description);
    }
    let list = api.get("/v2/templates").await.json();
    assert_eq!(list[0]["description"], "Ändert");
    assert_eq!(list[0]["public"], false, "what is absent stays");
    for bad in ["x".repeat(1001), "a\0b".to_owned()] {
        let body = json!({ "description": bad }).to_string();
        let refused = api.call(Method::PATCH, "/v2/templates/mine", body).await;
        assert!(
            refused.error(400).contains("description"),
            "{}",
            refused.text
        );
    }
    let body = json!({ "description": "" }).to_string();
    api.call(Method::PATCH, "/v2/templates/mine", body).await;
    assert_eq!(shown().await, Value::Null);
}

/// An API whose template `mine` has these builds as `default`, oldest first, and the first
/// of them as `stable`, too.
async fn with_tags() -> (Api, Vec<String>) {
    let api = Api::start().await;
    let mut builds = Vec::new();
    for _ in 0..3 {
        let wanted = own(&api, "mine");
        builds.push(wanted.build_id.to_string());
        let made = api.control.template_publish(wanted).await;
        made.expect("publishes");
    }
    let body = json!({"target": format!("mine:{}", builds[0]), "tags": ["Stable"]});
    let tagged = api.post("/templates/tags", &body).await;
    assert_eq!(tagged.status, StatusCode::CREATED, "{}", tagged.text);
    (api, builds)
}

#[tokio::test]
async fn tags_are_counted_and_found() {
    let (api, _) = with_tags().await;
    let count = api.get("/templates/mine/tags/count").await.json();
    assert_eq!(count, json!({"total": 2}));
    for (tag, exists) in [("STABLE", true), ("other", false)] {
        let answer = api
            .get(&format!("/templates/mine/tags/exists?tag={tag}"))
            .await;
        let expected = json!({"exists": exists, "normalizedTag": tag.to_lowercase()});
        assert_eq!(answer.json(), expected);
    }
    api.get("/templates/mine/tags/exists").await.error(400);
    api.get("/templates/mine/tags/exists?tag=a%20b")
        .await
        .error(400);
}

#[tokio::test]
async fn the_history_of_tags_is_told_in_pages() {
    let (api, builds) = with_tags().await;
    let groups = "/templates/mine/tags/groups?assignmentLimit=2&tagsLimit=1";
    let first = api.get(groups).await.json();
    assert_eq!(first["tags"][0]["tag"], "stable");
    assert_eq!(first["tags"][0]["hasMore"], false);
    let cursor = first["nextCursor"].as_str().expect("another page");
    let second = api
        .get(&format!("{groups}&tagsCursor={cursor}"))
        .await
        .json();
    assert_eq!(second["tags"][0]["tag"], "default");
    assert_eq!(second["tags"][0]["hasMore"], true);
    assert_eq!(second["nextCursor"], Value::Null);
    let newest = &second["tags"][0]["assignments"][0];
    assert_eq!(newest["buildId"], builds[2]);
    for field in [
        "assignmentId",
        "assignedAt",
        "buildCreatedAt",
        "buildFinishedAt",
    ] {
        assert!(newest[field].is_string(), "{field}: {newest}");
    }
    let found = api
        .get("/templates/mine/tags/groups?search=TAB&sort=name_desc")
        .await;
    let found = found.json();
    assert_eq!(found["tags"].as_array().expect("a list").len(), 1);
    for bad in [
        "sort=x",
        "tagsLimit=0",
        "assignmentLimit=101",
        "tagsCursor=name_asc:1:v1",
    ] {
        let path = format!("/templates/mine/tags/groups?{bad}");
        api.get(&path).await.error(400);
    }
}

#[tokio::test]
async fn the_history_of_one_tag_is_its_teams() {
    let (api, mut builds) = with_tags().await;
    let mut read = Vec::new();
    let mut path = "/templates/mine/tags/default/assignments?limit=2".to_owned();
    loop {
        let page = api.get(&path).await.json();
        for entry in page["data"].as_array().expect("a list") {
            read.push(entry["buildId"].as_str().expect("an id").to_owned());
        }
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/templates/mine/tags/default/assignments?limit=2&cursor={cursor}");
    }
    builds.reverse();
    assert_eq!(read, builds);
    api.get("/templates/mine/tags/default/assignments?cursor=-1")
        .await
        .error(400);

    // Another team's history is as unknown as none, even of a public template.
    let (_, key) = api.other_team("other").await;
    let public = json!({"public": true}).to_string();
    api.call(Method::PATCH, "/v2/templates/mine", public).await;
    for path in [
        "groups",
        "count",
        "exists?tag=default",
        "default/assignments",
    ] {
        let path = format!("/templates/default%2Fmine/tags/{path}");
        assert_eq!(api.get(&path).await.status, StatusCode::OK, "{path}");
        let theirs = api.call_as(&key, Method::GET, &path, Body::empty()).await;
        theirs.error(404);
    }
}
