//! Who gets a request, and what the edge answers itself.

mod support;

use hearth_edge::{AGENT_PORT, EdgeConfig, FileOperation, Route, ServerConfig, file_signature};
use hearth_ids::SandboxId;
use http::Request;
use support::{Guest, TestEdge, echo, full, get, routed, text};
use tokio_util::sync::CancellationToken;

fn no_retries() -> EdgeConfig {
    EdgeConfig {
        dial_retry_ms: Vec::new(),
        ..EdgeConfig::default()
    }
}

#[tokio::test]
async fn host_and_headers_reach_the_guest_and_the_rest_the_fallback() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(echo).await;
    let (id, port) = (edge.sandbox(guest.ip()), guest.port());

    let answer = text(edge.get(&id, port, "/a%2Fb?c=d%20e").await).await;
    assert!(answer.starts_with("GET /a%2Fb?c=d%20e\n"), "{answer}");
    assert!(!answer.contains("e2b-sandbox"), "{answer}");
    assert!(
        answer.contains("x-forwarded-host: localhost:3000\n"),
        "{answer}"
    );
    assert!(answer.contains("x-forwarded-proto: http\n"), "{answer}");

    let by_host = Request::post("/upload")
        .header("host", format!("{port}-{id}-6532622b.localhost:3000"))
        .header("x-api-key", "e2b_0011")
        .body(full("hello"))
        .expect("valid");
    let answer = text(edge.send(by_host).await).await;
    assert!(
        answer.starts_with("POST /upload\n") && answer.ends_with("\n\nhello"),
        "{answer}"
    );
    assert!(!answer.contains("e2b_0011"), "{answer}");

    let api = Request::get("/sandboxes")
        .header("host", "localhost:3000")
        .body(full(""))
        .expect("valid");
    assert_eq!(text(edge.send(api).await).await, "fallback");
}

#[tokio::test]
async fn dead_sandboxes_and_closed_ports_are_told_apart() {
    let edge = TestEdge::with(no_retries(), ServerConfig::default()).await;
    let unknown = SandboxId::random();
    let answer = edge.get(&unknown, AGENT_PORT, "/health").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(
        answer.headers()["content-type"],
        "application/json; charset=utf-8"
    );
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let body =
        format!(r#"{{"sandboxId":"{unknown}","message":"The sandbox was not found","code":502}}"#);
    assert_eq!(text(answer).await, body);

    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let id = edge.sandbox([127, 0, 0, 1].into());
    let answer = edge.get(&id, port, "/").await;
    assert_eq!(answer.status(), 502);
    let body = format!(
        r#"{{"sandboxId":"{id}","message":"The sandbox is running but port is not open","port":{port},"code":502}}"#
    );
    assert_eq!(text(answer).await, body);
}

#[tokio::test]
async fn a_port_that_opens_a_moment_later_is_reached() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(echo).await;
    let (address, port) = (guest.address, guest.port());
    let id = edge.sandbox(guest.ip());
    drop(guest);
    let first = edge.get(&id, port, "/late");
    let late = async {
        support::until("a refused attempt", || edge.edge.stats().open == 1).await;
        Guest::at(address, echo).await
    };
    let (answer, _guest) = tokio::join!(first, late);
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn browsers_get_a_page_and_preflights_a_yes() {
    let edge = TestEdge::start().await;
    let id = SandboxId::random();
    let browser = || {
        let request = routed(&id, 80, "/").header("accept", "*/*");
        request.header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
    };
    let answer = edge.send(browser().body(full("")).expect("valid")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert!(text(answer).await.contains("Sandbox Not Found"));
    let script = browser().header("sec-fetch-mode", "cors");
    let answer = edge.send(script.body(full("")).expect("valid")).await;
    assert!(text(answer).await.starts_with("{"), "a script reads it");

    let preflight = routed(&id, 80, "/")
        .method("OPTIONS")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization, x-access-token",
        )
        .body(full(""))
        .expect("valid");
    let answer = edge.send(preflight).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(
        answer.headers()["access-control-allow-headers"],
        "authorization, x-access-token"
    );
}

#[tokio::test]
async fn preflights_reach_a_running_guest() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(echo).await;
    let id = edge.sandbox(guest.ip());
    let preflight = routed(&id, guest.port(), "/x")
        .method("OPTIONS")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST")
        .body(full(""))
        .expect("valid");
    let answer = text(edge.send(preflight).await).await;
    assert!(answer.starts_with("OPTIONS /x\n"), "{answer}");
}

#[tokio::test]
async fn internal_routes_of_the_agent_are_hidden_in_any_spelling() {
    let edge = TestEdge::start().await;
    let agent = Guest::agent(echo).await;
    let id = edge.sandbox(agent.ip());
    for path in [
        "/init",
        "/INIT/",
        "//init",
        "/./init",
        "/x/%2e%2e/init",
        "/%69nit",
        "/%2569nit",
        "/freeze?x=1",
        "/unfreeze",
        "/collapse",
        "/fsfreeze",
        "/fsthaw",
        "/upgrade",
        "/init;v=1",
    ] {
        let answer = edge
            .raw(&format!(
                "POST {path} HTTP/1.1\r\nhost: {AGENT_PORT}-{id}.localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(
            answer.contains("reserved for the E2B control plane"),
            "{path}: {answer}"
        );
    }
    let absolute = edge
        .raw(&format!(
            "POST http://{AGENT_PORT}-{id}.localhost/init HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
    assert!(absolute.starts_with("HTTP/1.1 404 "), "{absolute}");
    assert_eq!(edge.get(&id, AGENT_PORT, "/health").await.status(), 200);
    let switched = edge
        .raw(&format!(
            "GET /health HTTP/1.1\r\nhost: {AGENT_PORT}-{id}.x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n"
        ))
        .await;
    let switched = switched.to_ascii_lowercase();
    assert!(!switched.contains("upgrade: websocket"), "{switched}");

    // On other ports the same paths are the guest's own.
    let guest = Guest::start(echo).await;
    let id = edge.sandbox(guest.ip());
    assert_eq!(edge.get(&id, guest.port(), "/init").await.status(), 200);
}

#[tokio::test]
async fn pages_may_read_why_the_agent_is_not_reached() {
    let edge = TestEdge::with(no_retries(), ServerConfig::default()).await;
    // Nothing listens on the agent's port of the one; the other is not there.
    let (closed, unknown) = (edge.sandbox([127, 0, 0, 9].into()), SandboxId::random());
    for (id, path, status) in [
        (&closed, "/files", 502),
        (&closed, "/init", 404),
        (&unknown, "/process.Process/Start", 502),
    ] {
        let answer = edge.get(id, AGENT_PORT, path).await;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "*",
            "{path}"
        );
        assert_eq!(
            answer.headers()["access-control-expose-headers"],
            "*",
            "{path}"
        );
        let preflight = routed(id, AGENT_PORT, path)
            .method("OPTIONS")
            .header("origin", "https://app.example.com")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .body(full(""))
            .expect("valid");
        let answer = edge.send(preflight).await;
        assert_eq!(answer.status(), 204, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], "*", "{path}");
        assert_eq!(
            headers["access-control-allow-headers"], "authorization",
            "{path}"
        );
    }
}

#[tokio::test]
async fn private_sandboxes_ask_for_the_traffic_token() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(echo).await;
    let agent = Guest::agent(echo).await;
    let mut route = Route::new(guest.ip(), CancellationToken::new());
    route.traffic_access_token = Some("traffic-token".into());
    let id = edge.sandbox_with(route.clone());
    let missing = edge.get(&id, guest.port(), "/").await;
    assert_eq!(missing.status(), 403);
    let body = text(missing).await;
    assert!(
        body.contains(
            "\"Sandbox is secured with traffic access token. Token header \
             'e2b-traffic-access-token' is missing\""
        ),
        "{body}"
    );
    let with = |token: &str| {
        let request = routed(&id, guest.port(), "/").header("E2B-Traffic-Access-Token", token);
        request.body(full("")).expect("valid")
    };
    let wrong = edge.send(with("wrong")).await;
    assert_eq!(wrong.status(), 403);
    let body = text(wrong).await;
    assert!(
        body.contains(
            "\"Sandbox is secured with traffic access token. Provided token in header \
             'e2b-traffic-access-token' is invalid\""
        ),
        "{body}"
    );
    let answer = edge.send(with("traffic-token")).await;
    assert_eq!(answer.status(), 200);
    assert!(
        !text(answer).await.contains("traffic-token"),
        "the guest does not see it"
    );

    route.address = agent.ip();
    route.closed = CancellationToken::new();
    let id = edge.sandbox_with(route);
    assert_eq!(edge.get(&id, AGENT_PORT, "/health").await.status(), 200);
}

#[tokio::test]
async fn host_is_masked_when_asked() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(echo).await;
    let mut route = Route::new(guest.ip(), CancellationToken::new());
    route.mask_request_host = Some("localhost:${PORT}".to_owned());
    let id = edge.sandbox_with(route);
    let host = format!("{}-{id}.sbx.dev", guest.port());
    let request = Request::get("/")
        .header("host", &host)
        .body(full(""))
        .expect("valid");
    let answer = text(edge.send(request).await).await;
    assert!(
        answer.contains(&format!("\nhost: localhost:{}\n", guest.port())),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("x-forwarded-host: {host}\n")),
        "{answer}"
    );
}

#[tokio::test]
async fn signed_file_urls_find_their_sandbox() {
    let edge = TestEdge::start().await;
    let agent = Guest::agent(echo).await;
    for token in ["first-token", "second-token"] {
        let mut route = Route::new(agent.ip(), CancellationToken::new());
        route.envd_access_token = Some(token.into());
        edge.sandbox_with(route);
    }
    let url = |token: &str| {
        let signature = file_signature("a b.txt", FileOperation::Read, "", token, None);
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("path", "a b.txt")
            .append_pair("signature", &signature)
            .finish();
        format!("/files?{query}")
    };
    let request = |uri: String| {
        Request::get(uri)
            .header("host", "127.0.0.1:3000")
            .body(full(""))
            .expect("valid")
    };
    let answer = edge.send(request(url("second-token"))).await;
    assert_eq!(answer.status(), 200);
    assert!(
        text(answer)
            .await
            .starts_with("GET /files?path=a+b.txt&signature=v1_")
    );
    let unknown = edge.send(request(url("third-token"))).await;
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn malformed_targets_are_refused() {
    let edge = TestEdge::start().await;
    let id = SandboxId::random();
    for host in [
        format!("0-{id}.x"),
        format!("99999-{id}.x"),
        "80-inope.x".to_owned(),
    ] {
        let request = Request::get("/")
            .header("host", &host)
            .body(full(""))
            .expect("valid");
        assert_eq!(edge.send(request).await.status(), 400, "{host}");
    }
    let connect = edge
        .raw(&format!(
            "CONNECT 80-{id}.x:80 HTTP/1.1\r\nhost: 80-{id}.x:80\r\nconnection: close\r\n\r\n"
        ))
        .await;
    assert!(!connect.starts_with("HTTP/1.1 2"), "{connect}");
}

#[tokio::test]
async fn too_many_open_requests_are_refused() {
    let config = EdgeConfig {
        max_open_per_sandbox: 1,
        ..EdgeConfig::default()
    };
    let edge = TestEdge::with(config, ServerConfig::default()).await;
    let guest = Guest::start(|_| Box::pin(std::future::pending())).await;
    let (id, port) = (edge.sandbox(guest.ip()), guest.port());
    let first = edge.get(&id, port, "/");
    let second = async {
        support::until("the first request", || edge.edge.stats().open == 1).await;
        edge.get(&id, port, "/").await
    };
    tokio::select! {
        _ = first => panic!("the guest never answers"),
        answer = second => assert_eq!(answer.status(), 429),
    }
    support::until("the first request's end", || edge.edge.stats().open == 0).await;
}

#[tokio::test]
async fn head_keeps_the_length_and_empty_bodies_stay_empty() {
    let edge = TestEdge::start().await;
    let guest =
        Guest::start(|_| Box::pin(async { Ok(http::Response::new(full("twelve bytes"))) })).await;
    let (id, port) = (edge.sandbox(guest.ip()), guest.port());
    let mut request = get(&id, port, "/");
    *request.method_mut() = http::Method::HEAD;
    let answer = edge.send(request).await;
    assert_eq!(answer.headers()["content-length"], "12");
    assert_eq!(text(answer).await, "");
}

/// The guest's address refuses the port; its agent tunnels to where a server listens.
#[tokio::test]
async fn a_port_on_the_guests_loopback_is_reached_through_the_agent() {
    let hidden = Guest::start(echo).await;
    let inside = hidden.address;
    let agent = Guest::agent(move |mut request| {
        Box::pin(async move {
            assert_eq!(request.method(), http::Method::CONNECT);
            assert_eq!(request.headers()["x-access-token"], "secret");
            let asked = request.uri().port_u16().expect("a port");
            let open = asked == inside.port();
            if open {
                tokio::spawn(async move {
                    let outside = hyper::upgrade::on(&mut request).await.expect("a tunnel");
                    let mut outside = hyper_util::rt::TokioIo::new(outside);
                    let mut inside = tokio::net::TcpStream::connect(inside)
                        .await
                        .expect("the server listens");
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
            let status = if open { 200 } else { 502 };
            Ok(http::Response::builder()
                .status(status)
                .body(full(""))
                .expect("valid"))
        })
    })
    .await;
    let edge = TestEdge::with(no_retries(), ServerConfig::default()).await;
    let id = edge.sandbox_with(Route {
        envd_access_token: Some("secret".into()),
        ..Route::new(agent.ip(), CancellationToken::new())
    });

    let answer = edge.get(&id, hidden.port(), "/inside").await;
    assert_eq!(answer.status(), 200);
    assert!(text(answer).await.starts_with("GET /inside\n"));

    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let closed = free.local_addr().expect("bound").port();
    drop(free);
    let answer = edge.get(&id, closed, "/").await;
    assert_eq!(answer.status(), 502);
    assert!(text(answer).await.contains("port is not open"));
}
