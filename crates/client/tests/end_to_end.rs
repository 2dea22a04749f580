//! The client against a real agent behind a real edge; only the API is played.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use hearth_client::{
    Command, CommandEvent, ControlClient, Error, ListQuery, NewSandbox, Sandbox, SandboxClient,
    SandboxId, Signal,
};
use hearth_edge::{
    AGENT_PORT, ConnectionThreads, Edge, EdgeConfig, Route, RouteTable, ServerConfig, serve,
};
use hearth_measure::{TtiPlan, tti};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const KEY: &str = "e2b_0123456789012345678901234567890123456789";
const TOKEN: &str = "agent-token";

struct World {
    base: String,
    control: ControlClient,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Api {
    routes: Arc<RouteTable>,
    agent: IpAddr,
}

/// An agent, an edge in front of it and an API behind that.
async fn world() -> World {
    let stop = CancellationToken::new();
    let agent = start_agent(&stop).await;
    let routes = Arc::new(RouteTable::default());
    let api = Arc::new(Api {
        routes: routes.clone(),
        agent,
    });
    let router = Router::new()
        .route("/health", get(|| async { "Health check successful" }))
        .route("/v2/sandboxes", post(create).get(list))
        .route("/sandboxes/{id}", delete(kill).get(detail))
        .route("/sandboxes/{id}/timeout", post(timeout))
        .with_state(api);
    let edge = Edge::new(routes, EdgeConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let service = edge.or_else(router);
    tokio::spawn(serve(
        listener,
        service,
        ServerConfig::default(),
        ConnectionThreads::none(),
        stop.clone(),
    ));
    let control = ControlClient::new(&base, KEY).expect("valid");
    World {
        base,
        control,
        stop,
    }
}

async fn start_agent(stop: &CancellationToken) -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let last = NEXT.fetch_add(1, Ordering::SeqCst);
    let address = Ipv4Addr::new(127, 128 | (high >> 1), low, last);
    let config = hearth_guest::Config {
        listen: SocketAddr::new(address.into(), AGENT_PORT),
        user_root: PathBuf::from("/"),
        manage_system: false,
        log: std::sync::Arc::default(),
    };
    let server = hearth_guest::Server::bind(config, stop.clone())
        .await
        .expect("listens");
    tokio::spawn(server.run());
    let init = json!({"accessToken": TOKEN, "defaultUser": "root", "defaultWorkdir": "/tmp"});
    let request = format!(
        "POST /init HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{init}",
        init.to_string().len()
    );
    let mut stream = tokio::net::TcpStream::connect((address, AGENT_PORT))
        .await
        .expect("listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .expect("sent");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
        .await
        .expect("answers");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    address.into()
}

fn refused(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("valid");
    (
        status,
        Json(json!({"code": status.as_u16(), "message": message})),
    )
        .into_response()
}

async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Json(new): Json<Value>,
) -> Response {
    if headers.get("x-api-key").is_none_or(|key| key != KEY) {
        return refused(401, "Invalid API key");
    }
    if new["templateID"] != "base" {
        let body = json!({"code": 503, "message": "Failed to place sandbox", "error_code": "sandbox_capacity_unavailable"});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let id = SandboxId::random();
    let mut route = Route::new(api.agent, CancellationToken::new());
    route.envd_access_token = Some(TOKEN.into());
    api.routes.insert(id.clone(), route);
    let body = json!({
        "templateID": "base", "sandboxID": id, "clientID": "6532622b", "envdVersion": "0.6.13",
        "envdAccessToken": TOKEN, "trafficAccessToken": null, "domain": "localhost",
    });
    (StatusCode::CREATED, Json(body)).into_response()
}

fn listed(name: &str) -> Value {
    json!({
        "templateID": "base", "sandboxID": name, "clientID": "6532622b",
        "startedAt": "2026-01-02T03:04:05.678Z", "endAt": "2026-01-02T03:04:05.678Z",
        "cpuCount": 2, "memoryMB": 512, "diskSizeMB": 1024, "metadata": {}, "state": "running",
        "envdVersion": "0.6.13",
    })
}

async fn list(Query(query): Query<HashMap<String, String>>) -> Response {
    assert_eq!(query["state"], "running");
    let page: usize = query
        .get("nextToken")
        .map_or(0, |token| token.parse().expect("ours"));
    let next = if page < 2 {
        (page + 1).to_string()
    } else {
        String::new()
    };
    (
        [("x-next-token", next)],
        Json(json!([listed(&format!("sandbox-{page}"))])),
    )
        .into_response()
}

async fn kill(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Response {
    match id.parse().map(|id| api.routes.remove(&id)) {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        _ => refused(404, "Sandbox not found"),
    }
}

async fn detail(Path(id): Path<String>) -> Response {
    refused(404, &format!("Sandbox {id:?} not found"))
}

async fn timeout(Path(_): Path<String>, Json(body): Json<Value>) -> Response {
    assert_eq!(body["timeout"], 90);
    StatusCode::NO_CONTENT.into_response()
}

fn base() -> NewSandbox {
    NewSandbox {
        template_id: "base".to_owned(),
        ..NewSandbox::default()
    }
}

async fn sandbox(world: &World) -> (Sandbox, SandboxClient) {
    let created = world
        .control
        .sandbox_create(&base())
        .await
        .expect("created");
    let client = world.control.sandbox_client(&created).expect("valid");
    (created, client)
}

#[tokio::test]
async fn control_calls() {
    let world = world().await;
    let control = &world.control;
    control.health().await.expect("healthy");
    let (created, client) = sandbox(&world).await;
    let id = client.id().clone();
    assert_eq!(created.sandbox_id, id.to_string());
    let minute_and_half = Duration::from_secs(90);
    control
        .sandbox_set_timeout(&id, minute_and_half)
        .await
        .expect("set");
    let query = ListQuery {
        states: vec![hearth_client::SandboxState::Running],
        ..ListQuery::default()
    };
    let all = control.sandbox_list_all(&query).await.expect("listed");
    let names: Vec<&str> = all.iter().map(|one| one.sandbox_id.as_str()).collect();
    assert_eq!(names, ["sandbox-0", "sandbox-1", "sandbox-2"]);
    assert!(client.health().await.expect("answers"));
    assert!(control.sandbox_kill(&id).await.expect("killed"));
    assert!(!control.sandbox_kill(&id).await.expect("gone"));
    assert!(!client.health().await.expect("answers"));
}

#[tokio::test]
async fn refusals_are_typed() {
    let world = world().await;
    let other = ControlClient::new(&world.base, "e2b_00").expect("valid");
    let error = other.sandbox_create(&base()).await.expect_err("refused");
    assert_eq!(error.status(), Some(401));
    assert_eq!(error.to_string(), "401: Invalid API key");
    let none = NewSandbox {
        template_id: "none".to_owned(),
        ..NewSandbox::default()
    };
    let error = world
        .control
        .sandbox_create(&none)
        .await
        .expect_err("refused");
    let Error::Status { error_code, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(error_code.as_deref(), Some("sandbox_capacity_unavailable"));
    let id = SandboxId::random();
    let error = world.control.sandbox(&id).await.expect_err("refused");
    assert_eq!(error.status(), Some(404));
    let nowhere = ControlClient::new("http://127.0.0.1:1", KEY).expect("valid");
    let error = nowhere.health().await.expect_err("nobody listens");
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
}

#[tokio::test]
async fn commands_stream_their_output() {
    let world = world().await;
    let (_, client) = sandbox(&world).await;
    let line = "echo out; echo err >&2; read line; echo got $line $NAME; exit 3";
    let mut command = Command::shell(line).env("NAME", "value");
    command.stdin = true;
    let mut stream = client.start(command).await.expect("started");
    assert!(
        client
            .processes()
            .await
            .expect("listed")
            .iter()
            .any(|one| one.pid == stream.pid())
    );
    client
        .send_stdin(stream.pid(), b"input\n".to_vec())
        .await
        .expect("sent");
    let (mut stdout, mut stderr, mut code) = (Vec::new(), Vec::new(), None);
    while let Some(event) = stream.next().await.expect("a whole stream") {
        match event {
            CommandEvent::Stdout(bytes) => stdout.extend(bytes),
            CommandEvent::Stderr(bytes) => stderr.extend(bytes),
            CommandEvent::Ended(exit) => code = Some(exit.code),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(String::from_utf8_lossy(&stdout), "out\ngot input value\n");
    assert_eq!(String::from_utf8_lossy(&stderr), "err\n");
    assert_eq!(code, Some(3));
}

#[tokio::test]
async fn signals_and_missing_programs() {
    let world = world().await;
    let (_, client) = sandbox(&world).await;
    let mut stream = client
        .start(Command::shell("exec sleep 600"))
        .await
        .expect("started");
    assert!(
        client
            .signal(stream.pid(), Signal::Kill)
            .await
            .expect("sent")
    );
    let Some(CommandEvent::Ended(exit)) = stream.next().await.expect("ends") else {
        panic!("the next event is the end")
    };
    assert!(!exit.exited, "{exit:?}");
    assert!(
        !client
            .signal(u32::MAX, Signal::Terminate)
            .await
            .expect("answers")
    );
    let error = client.run(Command::shell("true").user("nobody-here")).await;
    let Err(Error::Rpc { code, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(code, "unauthenticated");
}

#[tokio::test]
async fn kill_breaks_the_stream() {
    let world = world().await;
    let (_, client) = sandbox(&world).await;
    let mut stream = client
        .start(Command::shell("sleep 600"))
        .await
        .expect("started");
    let pid = stream.pid();
    let (event, killed) = tokio::join!(stream.next(), world.control.sandbox_kill(client.id()));
    assert!(killed.expect("killed"));
    assert!(event.is_err(), "{event:?}");
    // The played API leaves the agent alive: end what the test started.
    std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .expect("killed");
}

#[tokio::test]
async fn files_are_written_and_read() {
    let world = world().await;
    let (_, client) = sandbox(&world).await;
    let path = format!("/tmp/hearth-client-{}/a b+c.bin", std::process::id());
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    client
        .file_write(&path, content.clone())
        .await
        .expect("written");
    assert_eq!(
        client.file_read(&path, content.len()).await.expect("read"),
        content
    );
    let error = client.file_read(&path, 1000).await.expect_err("too large");
    assert!(
        matches!(error, Error::TooLarge { limit: 1000 }),
        "{error:?}"
    );
    let error = client
        .file_read("/no/such/file", 10)
        .await
        .expect_err("missing");
    assert_eq!(error.status(), Some(404));
    let parent = std::path::Path::new(&path)
        .parent()
        .expect("has one")
        .to_owned();
    std::fs::remove_dir_all(parent).expect("removed");
}

#[tokio::test]
async fn tti_measures_every_step() {
    let world = world().await;
    let plan = TtiPlan {
        runs: 3,
        execs: 2,
        ..TtiPlan::default()
    };
    let mut last = None;
    let report = tti(&world.control, &plan, |done, total| {
        last = Some((done, total))
    })
    .await
    .expect("measured");
    assert_eq!(last, Some((4, 4)));
    let counts: Vec<(&str, usize)> = report
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.count))
        .collect();
    assert_eq!(
        counts,
        [("create", 3), ("tti", 3), ("exec", 6), ("kill", 3)]
    );
    let (create, answered) = (
        report.row("create").expect("a row"),
        report.row("tti").expect("a row"),
    );
    assert!(answered.min_ms > create.min_ms);

    let plan = TtiPlan {
        template: "none".to_owned(),
        ..plan
    };
    let error = hearth_measure::tti(&world.control, &plan, |_, _| {})
        .await
        .expect_err("no such template");
    assert_eq!((error.run, error.step), (1, "create the sandbox"));
}
