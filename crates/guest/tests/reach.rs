//! What clients may reach through the agent, whoever they are: files of every owner and
//! of every name, and answers for pages of every origin.

mod common;

use common::{Agent, RAW, Scratch, block_on};
use connectrpc::client::CallOptions;
use hearth_guest_proto::filesystem::__buffa::oneof::watch_dir_response::Event as WatchEvent;
use hearth_guest_proto::filesystem::{
    CreateWatcherRequest, EventType, GetWatcherEventsRequest, ListDirRequest, MakeDirRequest,
    MoveRequest, RemoveRequest, WatchDirRequest,
};

#[test]
fn files_are_reached_everywhere_and_given_to_the_user() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this needs root");
        return;
    }
    let (agent, scratch) = (Agent::start(), Scratch::new());
    let owner = |name: &str| {
        let metadata = std::fs::symlink_metadata(scratch.path(name)).expect("there");
        (metadata.uid(), metadata.gid())
    };
    // Nobody but root may do anything here.
    std::fs::create_dir(scratch.path("roots")).expect("a directory");
    for (name, mode) in [("roots/private", 0o600), ("roots", 0o700)] {
        if name != "roots" {
            std::fs::write(scratch.path(name), "long content").expect("a file");
        }
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scratch.path(name), mode).expect("a mode");
    }
    std::os::unix::fs::symlink("roots", scratch.path("link")).expect("a link");
    let as_daemon = || CallOptions::default().with_header("authorization", "Basic ZGFlbW9uOg==");
    block_on(async {
        let files = agent.files();
        let of = |name: &str| format!("{}&username=daemon", scratch.url(name));
        let read = agent.request("GET", &of("roots/private"), &[], "").await;
        assert_eq!(read.body(), "long content");
        assert_eq!(owner("roots/private"), (0, 0), "reading changes nothing");
        let written = agent
            .request("POST", &of("roots/private"), &[RAW], "y")
            .await;
        assert_eq!(written.status(), 200);
        assert_eq!(
            std::fs::read(scratch.path("roots/private")).expect("a file"),
            b"y"
        );
        let mode = std::fs::metadata(scratch.path("roots/private")).expect("a file");
        assert_eq!(
            (owner("roots/private"), mode.mode() & 0o777),
            ((1, 1), 0o600)
        );
        // Through a link, and with directories that are made.
        let written = agent
            .request("POST", &of("link/a/b/file"), &[RAW], "y")
            .await;
        assert_eq!(written.status(), 200);
        for path in ["roots/a", "roots/a/b", "roots/a/b/file"] {
            assert_eq!(owner(path), (1, 1), "{path}");
        }
        assert_eq!((owner("roots"), owner("link")), ((0, 0), (0, 0)));
        let request = MakeDirRequest {
            path: scratch.path("roots/c/d"),
            ..Default::default()
        };
        let made = files.make_dir_with_options(request, as_daemon()).await;
        assert!(made.is_ok(), "{made:?}");
        assert_eq!((owner("roots/c"), owner("roots/c/d")), ((1, 1), (1, 1)));
        let request = ListDirRequest {
            path: scratch.path("roots"),
            ..Default::default()
        };
        let listed = files.list_dir_with_options(request, as_daemon()).await;
        assert_eq!(listed.expect("a list").into_owned().entries.len(), 3);
        std::fs::write(scratch.path("roots/old"), "").expect("a file");
        let request = MoveRequest {
            source: scratch.path("roots/old"),
            destination: scratch.path("roots/e/new"),
            ..Default::default()
        };
        let moved = files.r#move_with_options(request, as_daemon()).await;
        assert!(moved.is_ok(), "{moved:?}");
        // Moving a file gives it to nobody.
        assert_eq!((owner("roots/e"), owner("roots/e/new")), ((1, 1), (0, 0)));
        let request = RemoveRequest {
            path: scratch.path("roots"),
            ..Default::default()
        };
        let removed = files.remove_with_options(request, as_daemon()).await;
        assert!(removed.is_ok() && !std::fs::exists(scratch.path("roots")).expect("an answer"));
        // Only regular files are given away.
        let null = agent.request("POST", "/files?path=/dev/null&username=daemon", &[RAW], "y");
        assert_eq!(null.await.status(), 200);
        assert_eq!(std::fs::metadata("/dev/null").expect("a device").uid(), 0);
    });
}

#[test]
fn a_written_file_tells_watchers_what_their_clients_count() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    block_on(async {
        let files = agent.files();
        let request = CreateWatcherRequest {
            path: scratch.path(""),
            ..Default::default()
        };
        let watcher = files.create_watcher(request).await.expect("a watcher");
        let watcher_id = watcher.into_owned().watcher_id;
        let events = async || {
            let request = GetWatcherEventsRequest {
                watcher_id: watcher_id.clone(),
                ..Default::default()
            };
            let events = files.get_watcher_events(request).await.expect("events");
            let events = events.into_owned().events.into_iter();
            let kinds = events.map(|event| event.r#type.as_known().expect("known"));
            kinds.collect::<Vec<_>>()
        };
        agent.request("POST", &scratch.url("f"), &[RAW], "x").await;
        let expected = [
            EventType::EVENT_TYPE_CREATE,
            EventType::EVENT_TYPE_CHMOD,
            EventType::EVENT_TYPE_WRITE,
        ];
        assert_eq!(events().await, expected);
        agent.request("POST", &scratch.url("f"), &[RAW], "y").await;
        let mut again = events().await;
        // Cutting and writing may be told as one.
        again.dedup();
        assert_eq!(again, expected[1..]);
    });
}

#[test]
fn names_that_are_not_utf8_are_shown_and_can_be_used() {
    use std::os::unix::ffi::OsStrExt as _;
    let (agent, scratch) = (Agent::start(), Scratch::new());
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::create_dir(scratch.0.path().join(odd)).expect("a directory");
    std::fs::write(scratch.0.path().join(odd).join("f"), "found").expect("a file");
    block_on(async {
        let files = agent.files();
        let list = ListDirRequest {
            path: scratch.path(""),
            depth: 2,
            ..Default::default()
        };
        let listed = files.list_dir(list.clone()).await.expect("a list");
        let paths: Vec<String> = listed
            .into_owned()
            .entries
            .into_iter()
            .map(|entry| entry.path)
            .collect();
        assert_eq!(
            paths,
            [scratch.path("caf\\xe9"), scratch.path("caf\\xe9/f")]
        );
        let query: String = form_urlencoded::byte_serialize(paths[1].as_bytes()).collect();
        let read = agent
            .request("GET", &format!("/files?path={query}"), &[], "")
            .await;
        assert_eq!(read.body(), "found");
        let request = WatchDirRequest {
            path: scratch.path(""),
            recursive: true,
            ..Default::default()
        };
        let mut stream = files.watch_dir(request).await.expect("a stream");
        stream.message().await.expect("no error").expect("a start");
        let request = MoveRequest {
            source: paths[1].clone(),
            destination: scratch.path("caf\\xe9/g"),
            ..Default::default()
        };
        files.r#move(request).await.expect("moved");
        assert!(scratch.0.path().join(odd).join("g").exists());
        let event = stream.message().await.expect("no error").expect("an event");
        let Some(WatchEvent::Filesystem(event)) = event.to_owned_message().event else {
            panic!("no event");
        };
        assert_eq!(event.name, "caf\\xe9/f");
        let request = RemoveRequest {
            path: paths[0].clone(),
            ..Default::default()
        };
        files.remove(request).await.expect("removed");
        let listed = files.list_dir(list).await.expect("a list");
        assert!(listed.into_owned().entries.is_empty());
    });
}

#[test]
fn pages_of_other_origins_may_ask_and_read() {
    let (agent, scratch) = (Agent::start(), Scratch::new());
    std::fs::write(scratch.path("f"), "x").expect("a file");
    block_on(async {
        agent.init(serde_json::json!({"accessToken": "t"})).await;
        let preflight = [
            ("origin", "https://app.example.com"),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,x-access-token",
            ),
        ];
        let file = scratch.url("f");
        for path in [
            file.as_str(),
            "/files/compose",
            "/health",
            "/metrics",
            "/envs",
            "/init",
            "/process.Process/Start",
            "/filesystem.Filesystem/Stat",
            "/nothing",
        ] {
            let asked = agent.request("OPTIONS", path, &preflight, "").await;
            assert_eq!(asked.status(), 204, "{path}");
            let headers = asked.headers();
            assert_eq!(headers["access-control-allow-origin"], "*");
            let methods = headers["access-control-allow-methods"]
                .to_str()
                .expect("text");
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
                assert!(methods.split(", ").any(|one| one == method), "{methods}");
            }
            assert_eq!(
                headers["access-control-allow-headers"],
                "authorization,x-access-token"
            );
        }
        let token = ("x-access-token", "t");
        let json = ("content-type", "application/json");
        for (method, path, headers, status) in [
            ("GET", "/health", vec![], 204),
            ("GET", "/metrics", vec![token], 200),
            ("GET", "/metrics", vec![], 401),
            ("GET", file.as_str(), vec![token], 200),
            ("GET", file.as_str(), vec![], 401),
            ("DELETE", file.as_str(), vec![token], 405),
            ("POST", "/process.Process/List", vec![token, json], 200),
            ("POST", "/process.Process/List", vec![json], 401),
            ("POST", "/process.Process/Nothing", vec![token, json], 404),
            ("GET", "/nothing", vec![token], 404),
        ] {
            let answer = agent.request(method, path, &headers, "{}").await;
            assert_eq!(answer.status(), status, "{method} {path}");
            let headers = answer.headers();
            assert_eq!(
                headers["access-control-allow-origin"], "*",
                "{method} {path}"
            );
            let exposed = headers["access-control-expose-headers"]
                .to_str()
                .expect("text");
            for name in ["Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"] {
                assert!(exposed.contains(name), "{exposed}");
            }
        }
    });
}
