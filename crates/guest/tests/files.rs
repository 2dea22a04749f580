//! Files and plain routes of a real agent, spoken to over loopback.

mod common;

use std::io::{Read as _, Write as _};

use common::{Agent, RAW, Scratch, block_on};
use connectrpc::ErrorCode;
use hearth_guest_proto::filesystem::__buffa::oneof::watch_dir_response::Event as WatchEvent;
use hearth_guest_proto::filesystem::{
    CreateWatcherRequest, EventType, GetWatcherEventsRequest, ListDirRequest, MakeDirRequest,
    MoveRequest, RemoveRequest, RemoveWatcherRequest, StatRequest, WatchDirRequest,
};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

fn message(response: &http::Response<bytes::Bytes>) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
    assert_eq!(
        body["code"],
        response.status().as_u16(),
        "the code repeats the status"
    );
    (
        response.status().as_u16(),
        body["message"].as_str().expect("a message").to_owned(),
    )
}

#[test]
fn what_is_uploaded_is_downloaded() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    let sizes = [0, 1, 262_143, 262_144, 262_145, 3_000_000];
    block_on(async {
        for size in sizes {
            let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let url = scratch.url(&format!("deep/{size}"));
            let up = agent.request("POST", &url, &[RAW], content.clone()).await;
            assert_eq!(up.status(), StatusCode::OK);
            let info: serde_json::Value = serde_json::from_slice(up.body()).expect("JSON");
            let path = scratch.path(&format!("deep/{size}"));
            let expected =
                serde_json::json!([{"name": size.to_string(), "type": "file", "path": path}]);
            assert_eq!(info, expected);
            let down = agent.request("GET", &url, &[], "").await;
            assert_eq!(down.headers()["content-length"], size.to_string());
            assert!(down.body()[..] == content[..], "{size}");
            let asked = [("accept-encoding", "gzip")];
            let down = agent.request("GET", &url, &asked, "").await;
            assert_eq!(down.headers()["content-encoding"], "gzip");
            assert_eq!(down.headers()["vary"], "Accept-Encoding");
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&down.body()[..])
                .read_to_end(&mut plain)
                .expect("gzip");
            assert!(plain == content, "{size} compressed");
            let head = agent.request("HEAD", &url, &[], "").await;
            assert_eq!(head.headers()["content-length"], size.to_string());
            assert!(head.body().is_empty());
        }
    });
}

#[test]
fn parts_of_files_are_served() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    std::fs::write(scratch.path("f"), "0123456789").expect("a file");
    block_on(async {
        let range = async |range: &str| {
            let response = agent
                .request("GET", &scratch.url("f"), &[("range", range)], "")
                .await;
            let header = response.headers().get("content-range").cloned();
            let header = header.map(|value| value.to_str().expect("text").to_owned());
            (
                response.status().as_u16(),
                header.unwrap_or_default(),
                response.into_body(),
            )
        };
        assert_eq!(
            range("bytes=2-4").await,
            (206, "bytes 2-4/10".into(), "234".into())
        );
        assert_eq!(
            range("bytes=-2").await,
            (206, "bytes 8-9/10".into(), "89".into())
        );
        assert_eq!(
            range("nonsense").await,
            (200, String::new(), "0123456789".into())
        );
        let (status, header, _) = range("bytes=10-").await;
        assert_eq!((status, header.as_str()), (416, "bytes */10"));
    });
}

#[test]
fn forms_hold_many_files() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    let form = |names: &[(&str, &str)]| {
        let mut body = String::new();
        for (field, filename) in names {
            body +=
                &format!("--XX\r\nContent-Disposition: form-data; name=\"{field}\"{filename}\r\n");
            body += &format!("Content-Type: text/plain\r\n\r\nof {field}{filename}\r\n");
        }
        body + "--XX--\r\n"
    };
    let named = |name: &str| format!("; filename=\"{}\"", scratch.path(name));
    let (one, two) = (named("one"), named("two"));
    let kind = ("content-type", "multipart/form-data; boundary=XX");
    block_on(async {
        let body = form(&[("file", &one), ("other", &two), ("file", &two)]);
        let response = agent.request("POST", "/files", &[kind], body).await;
        let info: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(info.as_array().map(Vec::len), Some(2));
        let content = std::fs::read_to_string(scratch.path("two")).expect("a file");
        assert_eq!(content, format!("of file{two}"));
        // The query's path wins, and a part without a name needs it.
        let response = agent
            .request(
                "POST",
                &scratch.url("three"),
                &[kind],
                form(&[("file", "")]),
            )
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            std::fs::read_to_string(scratch.path("three")).expect("a file"),
            "of file"
        );
        for (body, expected) in [
            (form(&[("file", "")]), "needs a name"),
            (
                form(&[("file", &one), ("file", &one)]),
                "multiple files to the same path",
            ),
            (form(&[("other", &one)]), "holds no file"),
            (
                form(&[("file", &one)]).replace("--XX--", ""),
                "closing delimiter",
            ),
        ] {
            let response = agent.request("POST", "/files", &[kind], body).await;
            let (status, message) = message(&response);
            assert_eq!(status, 400);
            assert!(message.contains(expected), "{message}");
        }
    });
}

#[test]
fn bad_transfers_are_refused() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    std::fs::create_dir(scratch.path("d")).expect("a directory");
    std::fs::write(scratch.path("f"), "").expect("a file");
    let packed = gzip(b"content that is compressed");
    let gz = ("content-encoding", "gzip");
    block_on(async {
        let post = async |url: &str, headers: &[(&str, &str)], body: &[u8]| {
            message(&agent.request("POST", url, headers, body.to_vec()).await)
        };
        let target = scratch.url("g");
        let cut = &packed[..packed.len() - 5];
        assert_eq!(post(&target, &[RAW, gz], cut).await.0, 400);
        assert_eq!(post(&target, &[RAW, gz], b"plain").await.0, 400);
        assert_eq!(post(&target, &[RAW, gz], b"").await.0, 400);
        assert_eq!(
            post(&target, &[RAW, ("content-encoding", "br")], b"x")
                .await
                .0,
            400
        );
        assert_eq!(
            post(&target, &[("content-type", "text/plain")], b"x")
                .await
                .0,
            400
        );
        assert_eq!(post("/files", &[RAW], b"x").await.0, 400);
        assert_eq!(post(&scratch.url("d"), &[RAW], b"x").await.0, 400);
        assert_eq!(post(&scratch.url("f/x"), &[RAW], b"x").await.0, 400);
        assert_eq!(post("/files?path=/dev/full", &[RAW], b"x").await.0, 507);
        let ok = agent
            .request("POST", &target, &[RAW, gz], packed.clone())
            .await;
        assert_eq!(ok.status(), StatusCode::OK);

        let get = async |url: &str, headers: &[(&str, &str)]| {
            message(&agent.request("GET", url, headers, "").await)
        };
        let missing = scratch.path("nothing");
        let answer = get(&scratch.url("nothing"), &[]).await;
        assert_eq!(answer, (404, format!("path '{missing}' does not exist")));
        let directory = scratch.path("d");
        let answer = get(&scratch.url("d"), &[]).await;
        assert_eq!(answer, (400, format!("path '{directory}' is a directory")));
        assert_eq!(get("/files?path=/dev/zero", &[]).await.0, 400);
        assert_eq!(
            get(&scratch.url("f"), &[("accept-encoding", "identity;q=0")])
                .await
                .0,
            406
        );
        assert_eq!(get("/files?path=f&username=no-such-user", &[]).await.0, 401);
        assert_eq!(get("/files?path=~nobody/f", &[]).await.0, 400);
        assert_eq!(get("/nothing", &[]).await.0, 404);
        assert_eq!(
            message(&agent.request("PUT", "/files", &[], "").await).0,
            405
        );
    });
}

#[test]
fn metadata_stays_with_the_file_until_it_is_written_again() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    block_on(async {
        let noted = [RAW, ("X-Metadata-Author", "me"), ("x-metadata-b", "2")];
        let up = agent.request("POST", &scratch.url("f"), &noted, "x").await;
        let info: serde_json::Value = serde_json::from_slice(up.body()).expect("JSON");
        assert_eq!(
            info[0]["metadata"],
            serde_json::json!({"author": "me", "b": "2"})
        );
        let stat = async || {
            let request = StatRequest {
                path: scratch.path("f"),
                ..Default::default()
            };
            let answer = agent
                .files()
                .stat(request)
                .await
                .expect("an entry")
                .into_owned();
            answer.entry.into_option().expect("an entry").metadata
        };
        assert_eq!(stat().await.get("author").map(String::as_str), Some("me"));
        agent.request("POST", &scratch.url("f"), &[RAW], "y").await;
        assert!(stat().await.is_empty());
        let bad = agent
            .request(
                "POST",
                &scratch.url("f"),
                &[RAW, ("x-metadata-a", "é")],
                "y",
            )
            .await;
        assert_eq!(message(&bad).0, 400);
    });
}

#[test]
fn a_set_token_guards_everything_but_health_and_signed_files() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    std::fs::write(scratch.path("f"), "secret").expect("a file");
    block_on(async {
        let token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
        let init = agent.init(serde_json::json!({"accessToken": token})).await;
        assert_eq!(init.status(), StatusCode::NO_CONTENT);
        assert_eq!(init.headers()["x-envd-version"], "0.6.13");
        let again = agent
            .init(serde_json::json!({"accessToken": "other"}))
            .await;
        assert_eq!(message(&again).0, 401);
        let same = agent.init(serde_json::json!({"accessToken": token, "defaultUser": "root"}));
        assert_eq!(same.await.status(), StatusCode::NO_CONTENT);

        assert_eq!(agent.request("GET", "/health", &[], "").await.status(), 204);
        for (method, path) in [
            ("GET", "/envs"),
            ("GET", "/metrics"),
            ("GET", "/nothing"),
            ("POST", "/process.Process/List"),
            ("POST", "/files/compose"),
            ("POST", "/freeze"),
            ("GET", &scratch.url("f")),
            ("POST", &scratch.url("f")),
        ] {
            let response = agent.request(method, path, &[], "").await;
            assert_eq!(message(&response).0, 401, "{method} {path}");
        }
        let header = ("x-access-token", token);
        assert_eq!(
            agent.request("GET", "/envs", &[header], "").await.status(),
            200
        );
        let wrong = agent
            .request("GET", &scratch.url("f"), &[("x-access-token", "x")], "")
            .await;
        assert_eq!(message(&wrong).0, 401);
        assert_eq!(
            agent
                .request("GET", &scratch.url("f"), &[header], "")
                .await
                .body(),
            "secret"
        );

        let past = signature(&format!("{}:read::{token}:1", scratch.path("f")));
        let expired = format!(
            "{}&signature={past}&signature_expiration=1",
            scratch.url("f")
        );
        let expired = agent.request("GET", &expired, &[], "").await;
        assert_eq!(
            expired.body(),
            r#"{"code":401,"message":"signature is already expired"}"#
        );
        let good = signature(&format!("{}:read::{token}", scratch.path("f")));
        let good = format!("{}&signature={good}", scratch.url("f"));
        assert_eq!(agent.request("GET", &good, &[], "").await.body(), "secret");
        assert_eq!(
            message(&agent.request("POST", &good, &[RAW], "").await).0,
            401
        );

        // Whoever knows the old token may set a new one.
        let body = serde_json::json!({"accessToken": "new"}).to_string();
        let rotated = agent.request("POST", "/init", &[header], body).await;
        assert_eq!(rotated.status(), 204);
        assert_eq!(
            message(&agent.request("GET", "/envs", &[header], "").await).0,
            401
        );
    });
}

fn signature(text: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(text.as_bytes());
    let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(hash);
    form_urlencoded::byte_serialize(format!("v1_{text}").as_bytes()).collect()
}

#[test]
fn bad_settings_are_refused_whole() {
    let agent = Agent::start();
    block_on(async {
        for body in [
            "{",
            "[]",
            r#"{"envVars": {"A": 1}}"#,
            r#"{"entropy": "?"}"#,
            r#"{"timestamp": "noon"}"#,
        ] {
            let response = agent.request("POST", "/init", &[], body).await;
            assert_eq!(message(&response).0, 400, "{body}");
        }
        let mounts = serde_json::json!({"envVars": {"A": "1"}, "volumeMounts": [{}]});
        assert_eq!(message(&agent.init(mounts).await).0, 400);
        let huge = "x".repeat(5 * 1024 * 1024);
        assert_eq!(
            message(&agent.request("POST", "/init", &[], huge).await).0,
            400
        );
        assert_eq!(
            agent.request("GET", "/envs", &[], "").await.body(),
            r#"{"E2B_SANDBOX":"true"}"#
        );
        let set = serde_json::json!({"envVars": {"A": "1"}, "sandboxId": "s", "unknown": 1});
        assert_eq!(agent.init(set).await.status(), 204);
        let expected = r#"{"A":"1","E2B_SANDBOX":"true","E2B_SANDBOX_ID":"s"}"#;
        assert_eq!(
            agent.request("GET", "/envs", &[], "").await.body(),
            expected
        );
    });
}

#[test]
fn names_and_directories_change_as_asked() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    block_on(async {
        let files = agent.files();
        let make = || MakeDirRequest {
            path: scratch.path("a/b"),
            ..Default::default()
        };
        files.make_dir(make()).await.expect("made");
        let again = files.make_dir(make()).await.expect_err("there already");
        assert_eq!(again.code, ErrorCode::AlreadyExists);
        let request = MoveRequest {
            source: scratch.path("a"),
            destination: scratch.path("c/d"),
            ..Default::default()
        };
        let moved = files
            .r#move(request.clone())
            .await
            .expect("moved")
            .into_owned();
        assert_eq!(
            moved.entry.into_option().expect("an entry").path,
            scratch.path("c/d")
        );
        assert_eq!(
            files.r#move(request).await.expect_err("gone").code,
            ErrorCode::NotFound
        );
        let list = |path, depth| ListDirRequest {
            path,
            depth,
            ..Default::default()
        };
        let listed = files
            .list_dir(list(scratch.path(""), 9))
            .await
            .expect("a list")
            .into_owned();
        let names: Vec<_> = listed
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(names, ["c", "d", "b"]);
        let remove = || RemoveRequest {
            path: scratch.path("c"),
            ..Default::default()
        };
        files.remove(remove()).await.expect("removed");
        files.remove(remove()).await.expect("removed is removed");
        let stat = StatRequest {
            path: scratch.path("c"),
            ..Default::default()
        };
        assert_eq!(
            files.stat(stat).await.expect_err("gone").code,
            ErrorCode::NotFound
        );
        std::fs::write(scratch.path("f"), "").expect("a file");
        let list = files
            .list_dir(list(scratch.path("f"), 1))
            .await
            .expect_err("a file");
        assert_eq!(list.code, ErrorCode::InvalidArgument);
    });
}

#[test]
fn directories_are_watched_by_stream_and_by_polling() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    block_on(async {
        let files = agent.files();
        let request = WatchDirRequest {
            path: scratch.path(""),
            recursive: true,
            include_entry: true,
            ..Default::default()
        };
        let mut stream = files.watch_dir(request).await.expect("a stream");
        let first = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        assert!(matches!(
            first.to_owned_message().event,
            Some(WatchEvent::Start(_))
        ));
        let request = CreateWatcherRequest {
            path: scratch.path(""),
            ..Default::default()
        };
        let id = files
            .create_watcher(request)
            .await
            .expect("a watcher")
            .into_owned()
            .watcher_id;
        let poll = || GetWatcherEventsRequest {
            watcher_id: id.clone(),
            ..Default::default()
        };
        let none = files
            .get_watcher_events(poll())
            .await
            .expect("events")
            .into_owned();
        assert!(none.events.is_empty());

        std::fs::create_dir(scratch.path("d")).expect("a directory");
        std::fs::write(scratch.path("d/f"), "x").expect("a file");
        let mut names = Vec::new();
        while names.last().map(String::as_str) != Some("d/f") {
            let message = stream
                .message()
                .await
                .expect("no error")
                .expect("a message");
            if let Some(WatchEvent::Filesystem(event)) = message.to_owned_message().event {
                let entry = event.entry.into_option().expect("an entry");
                assert_eq!(entry.path, scratch.path(&event.name));
                names.push(event.name);
            }
        }
        assert_eq!(names, ["d", "d/f"]);
        // What has happened before the question is in the answer.
        let events = files
            .get_watcher_events(poll())
            .await
            .expect("events")
            .into_owned()
            .events;
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.name.as_str(), event.r#type))
            .collect();
        assert_eq!(told, [("d", EventType::EVENT_TYPE_CREATE.into())]);
        let remove = || RemoveWatcherRequest {
            watcher_id: id.clone(),
            ..Default::default()
        };
        files.remove_watcher(remove()).await.expect("removed");
        let gone = files.get_watcher_events(poll()).await.expect_err("removed");
        assert_eq!(gone.code, ErrorCode::NotFound);
        let gone = files.remove_watcher(remove()).await.expect_err("removed");
        assert_eq!(gone.code, ErrorCode::NotFound);
    });
}

#[test]
fn files_are_composed() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    std::fs::write(scratch.path("1"), "one").expect("a file");
    std::fs::write(scratch.path("2"), "two").expect("a file");
    block_on(async {
        let compose = async |sources: &[&str]| {
            let sources: Vec<_> = sources.iter().map(|name| scratch.path(name)).collect();
            let body = serde_json::json!({
                "source_paths": sources, "destination": scratch.path("all"), "username": "root",
            });
            agent
                .request("POST", "/files/compose", &[], body.to_string())
                .await
        };
        assert_eq!(message(&compose(&[]).await).0, 400);
        assert_eq!(message(&compose(&["1", "3"]).await).0, 404);
        assert_eq!(compose(&["2", "1"]).await.status(), 200);
        assert_eq!(
            std::fs::read_to_string(scratch.path("all")).expect("a file"),
            "twoone"
        );
    });
}

#[test]
fn a_tunnel_reaches_what_listens_on_loopback() {
    let agent = Agent::start();
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let open = async |target: String| {
            let mut stream = tokio::net::TcpStream::connect(agent.address)
                .await
                .expect("agent");
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("an answer"));
            }
            let status = String::from_utf8(head[9..12].to_vec()).expect("a status");
            (status, stream)
        };
        let (status, mut outside) = open(format!("localhost:{port}")).await;
        assert_eq!(status, "200");
        let (mut inside, _) = listener.accept().await.expect("a connection");
        outside.write_all(b"ping").await.expect("sent");
        let mut buffer = [0; 4];
        inside.read_exact(&mut buffer).await.expect("received");
        assert_eq!(&buffer, b"ping");
        inside.write_all(b"pong").await.expect("sent");
        drop(inside);
        let mut rest = Vec::new();
        outside.read_to_end(&mut rest).await.expect("received");
        assert_eq!(rest, b"pong");
        drop(listener);
        assert_eq!(open(format!("localhost:{port}")).await.0, "502");
        assert_eq!(open("192.0.2.1:80".to_owned()).await.0, "400");
    });
}

#[test]
fn metrics_have_the_fields_that_clients_read() {
    let agent = Agent::start();
    block_on(async {
        let response = agent.request("GET", "/metrics", &[], "").await;
        let metrics: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        for field in [
            "ts",
            "cpu_count",
            "cpu_used_pct",
            "mem_total",
            "mem_used",
            "mem_cache",
            "disk_used",
            "disk_total",
            "mem_total_mib",
            "mem_used_mib",
        ] {
            assert!(metrics[field].is_number(), "{field} in {metrics}");
        }
    });
}
