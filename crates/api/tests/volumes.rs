//! Volumes and their content, over HTTP.

mod support;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use hearth_control::{KeyGrant, Scope, keys};
use hearth_volumes::{Limits, VolumeId, Volumes};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Answer, Api};

struct Setting {
    api: Api,
    volumes: Arc<Volumes>,
    _state: tempfile::TempDir,
}

/// A volume as its owner knows it.
struct Made {
    id: String,
    token: String,
}

async fn setting_with(limits: Limits) -> Setting {
    let state = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::open(state.path()).expect("opens");
    let volumes = Arc::new(volumes.with_limits(limits));
    let api = Api::start().await;
    api.control.connect_volumes(Arc::clone(&volumes));
    Setting {
        api,
        volumes,
        _state: state,
    }
}

async fn setting() -> Setting {
    setting_with(Limits::NONE).await
}

fn made(answer: &Answer, status: u16) -> Made {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    let body = answer.json();
    let text = |name: &str| body[name].as_str().expect("is text").to_owned();
    Made {
        id: text("volumeID"),
        token: text("token"),
    }
}

/// The code of an error, which is a word here.
fn code(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    let body = answer.json();
    assert!(
        body["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    body["code"].as_str().expect("a word").to_owned()
}

impl Setting {
    async fn create(&self, name: &str) -> Made {
        made(
            &self.api.post("/volumes", &json!({"name": name})).await,
            201,
        )
    }

    async fn content(
        &self,
        volume: &Made,
        method: Method,
        what: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/volumecontent/{}/{what}", volume.id))
            .header("authorization", format!("Bearer {}", volume.token))
            .body(body.into())
            .expect("a request");
        self.api.send(request).await
    }

    async fn write(&self, volume: &Made, what: &str, data: &'static str) -> Answer {
        self.content(volume, Method::PUT, &format!("file?path={what}"), data)
            .await
    }

    async fn read(&self, volume: &Made, path: &str) -> Answer {
        let what = format!("file?path={path}");
        self.content(volume, Method::GET, &what, Body::empty())
            .await
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.api.get("/volumes").await.json();
        let listed = listed.as_array().expect("a list").iter();
        listed
            .map(|volume| volume["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    fn mounts(body: &Value) -> Value {
        json!({"templateID": "base", "volumeMounts": body})
    }
}

#[tokio::test]
async fn a_volume_is_made_listed_found_and_deleted() {
    let setting = setting().await;
    let api = &setting.api;
    assert_eq!(api.get("/volumes").await.json(), json!([]));
    let data = setting.create("data").await;
    let logs = setting.create("Logs_2-x").await;
    assert_eq!(
        api.get("/volumes").await.json(),
        json!([
            {"volumeID": logs.id, "name": "Logs_2-x"},
            {"volumeID": data.id, "name": "data"},
        ])
    );
    let path = format!("/volumes/{}", data.id);
    let found = api.get(&path).await;
    assert_eq!(found.header("cache-control"), Some("no-store"));
    assert_eq!(found.json()["name"], "data");
    let fresh = made(&found, 200);
    assert_ne!(fresh.token, data.token);
    let id: VolumeId = data.id.parse().expect("an id");
    assert!(setting.volumes.exists(id));

    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.get(&path).await.error(404), "Volume not found");
    assert_eq!(api.delete(&path).await.error(404), "Volume not found");
    assert_eq!(setting.names().await, ["Logs_2-x"]);
    let gone = setting.read(&data, "/x").await;
    assert_eq!(code(&gone, 404), "PATH_NOT_FOUND");
    let end = Instant::now() + Duration::from_secs(60);
    while setting.volumes.exists(id) {
        assert!(Instant::now() < end, "its data stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its name is free.
    setting.create("data").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let setting = setting().await;
    let api = &setting.api;
    setting.create("data").await;
    let post = |body: Value| async move { api.post("/volumes", &body).await.error(400) };
    assert_eq!(
        post(json!({"name": "data"})).await,
        "Volume with name 'data' already exists"
    );
    for name in ["", "a b", "../x", "ä", &"x".repeat(200)] {
        let message = post(json!({"name": name})).await;
        assert!(message.starts_with("Invalid volume name"), "{message}");
    }
    assert!(post(json!({})).await.contains("name"));
    for path in ["/volumes/data", "/volumes/data/usage"] {
        assert_eq!(api.get(path).await.error(400), "Invalid volume ID");
    }
    let unknown = format!("/volumes/{}", VolumeId::random());
    assert_eq!(api.get(&unknown).await.error(404), "Volume not found");
    api.anonymous("/volumes").await.error(401);
}

#[tokio::test]
async fn without_volumes_they_are_not_enabled() {
    let api = Api::start().await;
    let id = VolumeId::random();
    let expected = "use of volumes is not enabled";
    assert_eq!(api.get("/volumes").await.error(403), expected);
    let made = api.post("/volumes", &json!({"name": "a"})).await;
    assert_eq!(made.error(403), expected);
    for method in [Method::GET, Method::DELETE] {
        let path = format!("/volumes/{id}");
        let answer = api.call(method, &path, Body::empty()).await;
        assert_eq!(answer.error(403), expected);
    }
    let mounts = Setting::mounts(&json!([{"name": "a", "path": "/a"}]));
    let refused = api.post("/v2/sandboxes", &mounts).await;
    assert_eq!(refused.error(400), "Volume mounts are not enabled.");
}

#[tokio::test]
async fn volumes_are_a_teams_own_and_no_more_than_it_may_have() {
    let setting = setting().await;
    let api = &setting.api;
    let data = setting.create("data").await;
    let (other, key) = api.other_team("other").await;
    let path = format!("/volumes/{}", data.id);
    let call = |method, path: String, body: &'static str| {
        let key = key.clone();
        async move { api.call_as(&key, method, &path, body).await }
    };
    call(Method::GET, path.clone(), "").await.error(404);
    call(Method::DELETE, path, "").await.error(404);
    let listed = call(Method::GET, "/volumes".to_owned(), "").await;
    assert_eq!(listed.json(), json!([]));
    // The same name, and another volume.
    let same = call(Method::POST, "/volumes".to_owned(), r#"{"name":"data"}"#).await;
    assert_ne!(made(&same, 201).id, data.id);

    let team = api
        .store
        .team(other)
        .await
        .expect("reads")
        .expect("is there");
    let limits = hearth_control::TeamLimits {
        max_volumes: 1,
        ..team.limits
    };
    let by = hearth_control::LimitsSetBy::Operator;
    api.store
        .team_set_limits(other, limits, by)
        .await
        .expect("sets");
    let fresh = keys::create(api.store.as_ref(), other, "fresh")
        .await
        .expect("makes")
        .1;
    let more = api
        .call_as(
            fresh.expose_secret(),
            Method::POST,
            "/volumes",
            r#"{"name":"more"}"#,
        )
        .await;
    let message = more.error(429);
    assert!(
        message.contains("limit of volumes is reached (1 of 1)"),
        "{message}"
    );
}

#[tokio::test]
async fn files_and_directories_are_made_told_changed_and_removed() {
    let setting = setting().await;
    let volume = setting.create("data").await;
    let call = |method: Method, what: &'static str, body: &'static str| {
        let (setting, volume) = (&setting, &volume);
        async move { setting.content(volume, method, what, body).await }
    };
    let written = setting
        .write(&volume, "/dir/file.txt&force=true&mode=416", "hello")
        .await;
    assert_eq!(written.status, 201, "{}", written.text);
    let body = written.json();
    for (name, value) in [
        ("name", json!("file.txt")),
        ("type", json!("file")),
        ("path", json!("/dir/file.txt")),
        ("size", json!(5)),
        ("mode", json!(416)),
        ("uid", json!(9090)),
        ("gid", json!(9090)),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    assert!(
        body["mtime"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    let read = setting.read(&volume, "/dir/../dir/file.txt").await;
    assert_eq!((read.status.as_u16(), read.text.as_str()), (200, "hello"));
    assert_eq!(
        read.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(read.header("content-length"), Some("5"));

    let set = call(
        Method::PATCH,
        "path?path=/dir/file.txt",
        r#"{"uid": 7, "mode": 384}"#,
    )
    .await;
    let body = set.json();
    assert_eq!(
        (&body["uid"], &body["gid"], &body["mode"]),
        (&json!(7), &json!(9090), &json!(384))
    );
    let stat = call(Method::GET, "path?path=dir", "").await.json();
    assert_eq!(
        (&stat["type"], &stat["mode"]),
        (&json!("directory"), &json!(0o777))
    );

    let dir = call(Method::POST, "dir?path=/dir/sub&uid=1&gid=2&mode=448", "").await;
    assert_eq!(dir.status, 201, "{}", dir.text);
    assert_eq!(dir.json()["mode"], 448);
    let paths = |answer: Answer| -> Vec<String> {
        let listed = answer.json();
        let listed = listed.as_array().expect("a list").iter();
        listed
            .map(|entry| entry["path"].as_str().expect("a path").to_owned())
            .collect()
    };
    assert_eq!(paths(call(Method::GET, "dir?path=/", "").await), ["/dir"]);
    assert_eq!(
        paths(call(Method::GET, "dir?path=/&depth=2", "").await),
        ["/dir", "/dir/file.txt", "/dir/sub"]
    );
    let usage = setting
        .api
        .get(&format!("/volumes/{}/usage", volume.id))
        .await;
    assert_eq!(usage.json()["entries"], 3);
    assert_eq!(call(Method::DELETE, "path?path=/dir", "").await.status, 204);
    assert_eq!(
        paths(call(Method::GET, "dir?path=/", "").await),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn errors_of_the_content_have_words_for_codes() {
    let setting = setting().await;
    let volume = setting.create("data").await;
    setting.write(&volume, "/file", "x").await;
    for (method, what, status, expected) in [
        (Method::GET, "path?path=/none", 404, "PATH_NOT_FOUND"),
        (Method::GET, "file?path=/none", 404, "PATH_NOT_FOUND"),
        (Method::GET, "dir?path=/none", 404, "PATH_NOT_FOUND"),
        (Method::DELETE, "path?path=/none", 404, "PATH_NOT_FOUND"),
        (Method::PUT, "file?path=/none/file", 404, "PATH_NOT_FOUND"),
        (Method::POST, "dir?path=/none/dir", 404, "PATH_NOT_FOUND"),
        (Method::PUT, "file?path=/file", 409, "PATH_ALREADY_EXISTS"),
        (Method::POST, "dir?path=/file", 409, "PATH_ALREADY_EXISTS"),
        (
            Method::POST,
            "dir?path=/file&force=true",
            409,
            "PATH_ALREADY_EXISTS",
        ),
        (Method::DELETE, "path?path=/", 400, "CANNOT_DELETE_ROOT"),
        (Method::GET, "dir?path=/&depth=0", 400, "DEPTH_OUT_OF_RANGE"),
        (
            Method::GET,
            "dir?path=/&depth=11",
            400,
            "DEPTH_OUT_OF_RANGE",
        ),
        (
            Method::GET,
            "dir?path=/&depth=-1",
            400,
            "DEPTH_OUT_OF_RANGE",
        ),
        (Method::GET, "dir?path=/&depth=x", 400, "INVALID_REQUEST"),
        (Method::GET, "dir?path=/file", 400, "INVALID_REQUEST"),
        (Method::GET, "file?path=/", 400, "INVALID_REQUEST"),
        (Method::GET, "path", 400, "INVALID_REQUEST"),
        (Method::GET, "path?path=a%00b", 400, "INVALID_REQUEST"),
        (Method::PUT, "file?path=/new&mode=x", 400, "INVALID_REQUEST"),
        (Method::PUT, "file?path=/new&uid=-1", 400, "INVALID_REQUEST"),
        (
            Method::PUT,
            "file?path=/new&mode=4096",
            400,
            "INVALID_REQUEST",
        ),
        (
            Method::PUT,
            "file?path=/new&force=perhaps",
            400,
            "INVALID_REQUEST",
        ),
        (Method::PATCH, "path?path=/file", 400, "INVALID_REQUEST"),
    ] {
        let answer = setting
            .content(&volume, method.clone(), what, Body::empty())
            .await;
        assert_eq!(code(&answer, status), expected, "{method} {what}");
    }
    let long = format!("path?path={}", "x".repeat(300));
    let answer = setting
        .content(&volume, Method::GET, &long, Body::empty())
        .await;
    assert_eq!(code(&answer, 400), "INVALID_REQUEST");
}

#[tokio::test]
async fn a_token_opens_its_volume_as_far_as_its_key_may() {
    let setting = setting().await;
    let api = &setting.api;
    let (one, other) = (setting.create("one").await, setting.create("other").await);
    setting.write(&one, "/file", "x").await;
    let with = |token: Option<String>, id: &str, method: Method| {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/volumecontent/{id}/file?path=/file&force=true"));
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        api.send(request.body(Body::empty()).expect("a request"))
    };
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    for wrong in [
        None,
        bearer(""),
        bearer("x.y.z"),
        bearer(&other.token),
        bearer(&api.key),
        Some(one.token.clone()),
        Some(format!("Basic {}", one.token)),
    ] {
        let answer = with(wrong.clone(), &one.id, Method::GET).await;
        assert_eq!(code(&answer, 401), "UNAUTHENTICATED", "{wrong:?}");
    }
    assert_eq!(
        with(bearer(&one.token), &one.id, Method::GET).await.status,
        200
    );
    let unknown = with(bearer(&one.token), "data", Method::GET).await;
    assert_eq!(code(&unknown, 400), "INVALID_REQUEST");

    // A key that may only look gets a token that may only look.
    let store = api.store.as_ref();
    let grant = KeyGrant {
        read_only: true,
        scopes: [Scope::Sandboxes].into(),
        ..KeyGrant::default()
    };
    let (reader, secret) = keys::issue(store, api.team, "reader", grant)
        .await
        .expect("makes");
    let path = format!("/volumes/{}", one.id);
    let found = api
        .call_as(secret.expose_secret(), Method::GET, &path, "")
        .await;
    let token = made(&found, 200).token;
    assert_eq!(with(bearer(&token), &one.id, Method::GET).await.status, 200);
    for method in [Method::PUT, Method::DELETE] {
        let what = format!("/volumecontent/{}/path?path=/file", one.id);
        let what = match method {
            Method::PUT => what.replace("/path?", "/file?"),
            _ => what,
        };
        let request = Request::builder().method(method).uri(what);
        let request = request.header("authorization", format!("Bearer {token}"));
        let answer = api
            .send(request.body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(code(&answer, 403), "FORBIDDEN");
    }
    // It ends with its key.
    api.control
        .key_revoke(api.team, reader.id)
        .await
        .expect("revokes");
    let answer = with(bearer(&token), &one.id, Method::GET).await;
    assert_eq!(code(&answer, 401), "UNAUTHENTICATED");
    // Keys for something else get none.
    let grant = KeyGrant {
        scopes: [Scope::Templates].into(),
        ..KeyGrant::default()
    };
    let (_, secret) = keys::issue(store, api.team, "builder", grant)
        .await
        .expect("makes");
    api.call_as(secret.expose_secret(), Method::GET, &path, "")
        .await
        .error(403);
    api.call_as(secret.expose_secret(), Method::GET, "/volumes", "")
        .await
        .error(403);
}

#[tokio::test]
async fn a_file_of_many_pieces_comes_back_and_a_broken_one_leaves_the_old() {
    let setting = setting().await;
    let volume = setting.create("data").await;
    let piece = Bytes::from((0..=255u8).cycle().take(100_000).collect::<Vec<_>>());
    let stream = |pieces: usize, broken: bool| {
        let mut all: Vec<std::io::Result<Bytes>> = (0..pieces).map(|_| Ok(piece.clone())).collect();
        if broken {
            all.push(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        Body::from_stream(futures::stream::iter(all))
    };
    let what = "file?path=/big&force=true";
    let written = setting
        .content(&volume, Method::PUT, what, stream(30, false))
        .await;
    assert_eq!(written.json()["size"], 3_000_000);
    let broken = setting
        .content(&volume, Method::PUT, what, stream(3, true))
        .await;
    assert_eq!(code(&broken, 400), "INVALID_REQUEST");
    let id: VolumeId = volume.id.parse().expect("an id");
    let kept = std::fs::read(setting.volumes.tree(id).join("big")).expect("is there");
    assert!(kept.chunks(100_000).all(|chunk| chunk == &piece[..]) && kept.len() == 3_000_000);
    let request = Request::get(format!("/volumecontent/{}/{what}", volume.id))
        .header("authorization", format!("Bearer {}", volume.token))
        .body(Body::empty())
        .expect("a request");
    let answer = tower::ServiceExt::oneshot(setting.api.router.clone(), request);
    let body = answer.await.expect("cannot fail").into_body();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("reads");
    assert!(body == kept);
    let empty = setting.write(&volume, "/empty", "").await;
    assert_eq!(empty.json()["size"], 0);
    assert_eq!(setting.read(&volume, "/empty").await.text, "");
}

#[tokio::test]
async fn a_full_volume_takes_nothing_more() {
    let setting = setting_with(Limits {
        max_bytes: 1 << 20,
        max_entries: u64::MAX,
        reserve_bytes: 0,
    })
    .await;
    let volume = setting.create("data").await;
    let what = "file?path=/big";
    // Neither one that is announced nor one that turns out to be too large.
    let large = setting
        .content(&volume, Method::PUT, what, vec![0; 2 << 20])
        .await;
    assert_eq!(code(&large, 507), "NOT_ENOUGH_SPACE");
    let piece = Ok::<_, std::io::Error>(Bytes::from(vec![0; 2 << 20]));
    let stream = Body::from_stream(futures::stream::iter([piece]));
    let large = setting.content(&volume, Method::PUT, what, stream).await;
    assert_eq!(code(&large, 507), "NOT_ENOUGH_SPACE");
    let none = setting.read(&volume, "/big").await;
    assert_eq!(code(&none, 404), "PATH_NOT_FOUND");
    assert_eq!(setting.write(&volume, "/small", "x").await.status, 201);
}

#[tokio::test]
async fn a_sandbox_mounts_volumes_by_name() {
    let setting = setting().await;
    let api = &setting.api;
    let data = setting.create("data").await;
    let wanted = json!([{"name": "data", "path": "/mnt/data"}, {"name": "data", "path": "/b"}]);
    let id = api.sandbox(&Setting::mounts(&wanted)).await;
    {
        let sandboxes = api.node.sandboxes.lock().expect("unpoisoned");
        let mounts = &sandboxes[&id.parse().expect("an id")].config.volume_mounts;
        assert_eq!(mounts[0].volume.to_string(), data.id);
        assert_eq!((mounts[0].path.as_str(), mounts.len()), ("/mnt/data", 2));
    }
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["volumeMounts"], wanted);
    let listed = api.get("/v2/sandboxes").await.json();
    assert_eq!(listed[0]["volumeMounts"], wanted);

    let wrong = json!([
        {"name": "none", "path": "/a"}, {"name": "data", "path": "b"}, {"name": "data", "path": "/b"},
        {"name": "data", "path": "/b"},
    ]);
    let refused = api.post("/v2/sandboxes", &Setting::mounts(&wrong)).await;
    assert_eq!(
        refused.error(400),
        "invalid mounts:\n\t- volume mount #0: volume 'none' not found\
         \n\t- volume mount #1: path must be absolute\
         \n\t- volume mount #3: path '/b' is already used"
    );
    // Another team's volume is none.
    let (_, key) = api.other_team("other").await;
    let body = Setting::mounts(&wanted).to_string();
    let refused = api.call_as(&key, Method::POST, "/v2/sandboxes", body).await;
    assert!(refused.error(400).contains("volume 'data' not found"));
    assert_eq!(api.node.count(), 1);
}

#[tokio::test]
async fn a_paused_sandbox_shows_its_volumes_in_lists_and_mounts_them_again() {
    let state = tempfile::tempdir().expect("a directory");
    let api = Api::with(|config| config.features.pause = true).await;
    let volumes = Arc::new(Volumes::open(state.path()).expect("opens"));
    api.control.connect_volumes(volumes);
    made(&api.post("/volumes", &json!({"name": "data"})).await, 201);
    let wanted = json!([{"name": "data", "path": "/data"}]);
    let id = api.sandbox(&Setting::mounts(&wanted)).await;
    let paused = api
        .post(&format!("/sandboxes/{id}/pause"), &json!({}))
        .await;
    assert_eq!(paused.status, 204, "{}", paused.text);
    let listed = api.get("/v2/sandboxes?state=paused").await.json();
    assert_eq!(listed[0]["volumeMounts"], wanted);
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["volumeMounts"], Value::Null);
    let resumed = api
        .post(&format!("/sandboxes/{id}/connect"), &json!({"timeout": 60}))
        .await;
    assert_eq!(resumed.status, 201, "{}", resumed.text);
    let detail = api.get(&format!("/sandboxes/{id}")).await.json();
    assert_eq!(detail["volumeMounts"], wanted);
    let forked = api
        .post(&format!("/sandboxes/{id}/fork"), &json!({"count": 1}))
        .await
        .json();
    let fork = forked[0]["sandbox"]["sandboxID"].as_str().expect("an id");
    let detail = api.get(&format!("/sandboxes/{fork}")).await.json();
    assert_eq!(detail["volumeMounts"], wanted);
}

#[tokio::test]
async fn a_volume_is_copied() {
    let setting = setting().await;
    let api = &setting.api;
    let from = setting.create("from").await;
    setting
        .write(&from, "/dir/file&force=true", "content")
        .await;
    let path = format!("/volumes/{}/copy", from.id);
    let copy = made(&api.post(&path, &json!({"name": "to"})).await, 202);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = api.get(&format!("/volumes/{}", copy.id)).await.json();
        match found["state"].as_str() {
            None => break,
            state => assert_eq!(state, Some("making")),
        }
        assert!(Instant::now() < end, "it is not copied");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(setting.read(&copy, "/dir/file").await.text, "content");
    setting
        .write(&copy, "/dir/file&force=true", "changed")
        .await;
    assert_eq!(setting.read(&from, "/dir/file").await.text, "content");
    let taken = api.post(&path, &json!({"name": "to"})).await;
    assert_eq!(taken.error(400), "Volume with name 'to' already exists");
    let unknown = format!("/volumes/{}/copy", VolumeId::random());
    api.post(&unknown, &json!({"name": "x"})).await.error(404);
}

/// What a process leaves half done is failed or ended by the next one.
#[tokio::test]
async fn the_next_process_takes_up_what_one_has_begun() {
    use hearth_control::{Volume, VolumeState};
    let setting = setting().await;
    let api = &setting.api;
    let volume = |name: &str| Volume {
        id: VolumeId::random(),
        team_id: api.team,
        name: name.to_owned(),
        state: VolumeState::Making,
        created_at: chrono::Utc::now(),
    };
    let (half, whole, removed) = (volume("half"), volume("whole"), volume("removed"));
    for volume in [&half, &whole, &removed] {
        let begun = api.store.volume_begin(volume.clone(), 9).await;
        assert!(begun.expect("writes"));
    }
    for volume in [&whole, &removed] {
        setting.volumes.create(volume.id).expect("creates");
    }
    api.store
        .volume_remove(api.team, removed.id)
        .await
        .expect("writes");
    api.control.volumes_take_up().await.expect("takes up");
    assert_eq!(
        api.get("/volumes").await.json(),
        json!([
            {"volumeID": half.id.to_string(), "name": "half", "state": "failed"},
            {"volumeID": whole.id.to_string(), "name": "whole"},
        ])
    );
    assert!(!setting.volumes.exists(removed.id));
    // What failed is neither mounted nor opened, and can be deleted.
    let half_found = made(&api.get(&format!("/volumes/{}", half.id)).await, 200);
    let answer = setting.read(&half_found, "/x").await;
    assert_eq!(code(&answer, 409), "VOLUME_NOT_READY");
    let mounts = Setting::mounts(&json!([{"name": "half", "path": "/a"}]));
    let refused = api.post("/v2/sandboxes", &mounts).await;
    assert!(refused.error(400).contains("volume 'half' is not ready"));
    let deleted = api.delete(&format!("/volumes/{}", half.id)).await;
    assert_eq!(deleted.status, 204);
}
