//! The client against an agent on a local port, good and bad.

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use hearth_control::{Agent, AgentError};
use hearth_node_client::AgentClient;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use tokio::net::TcpListener;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn metrics(headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    match headers
        .get("x-access-token")
        .and_then(|value| value.to_str().ok())
    {
        Some("good") => Ok(Json(
            json!({"ts": 1_700_000_000, "cpu_count": 2, "cpu_used_pct": 1.5,
            "mem_total": 10, "mem_used": 4, "mem_cache": 3, "disk_used": 2, "disk_total": 20,
            "mem_used_mib": 0}),
        )),
        Some("strange") => Ok(Json(json!({"ts": "soon"}))),
        Some("large") => Ok(Json(json!({"filler": "x".repeat(1024 * 1024)}))),
        _ => Err(StatusCode::UNAUTHORIZED),
    }
}

async fn ask(token: &str) -> Result<hearth_control::AgentMetrics, AgentError> {
    let listener = TcpListener::bind((LOCAL, 0)).await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let app = axum::Router::new().route("/metrics", get(metrics));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let answer = AgentClient::with_port(port)
        .metrics(LOCAL, Some(&SecretString::from(token)))
        .await;
    server.abort();
    answer
}

#[tokio::test]
async fn a_sample_is_read() {
    let sample = ask("good").await.expect("answers");
    assert_eq!(sample.at.timestamp(), 1_700_000_000);
    assert_eq!(
        (sample.cpu_count, sample.mem_total, sample.mem_used),
        (2, 10, 4)
    );
    assert_eq!(
        (sample.mem_cache, sample.disk_used, sample.disk_total),
        (3, 2, 20)
    );
}

#[tokio::test]
async fn what_a_guest_says_is_not_trusted() {
    assert!(matches!(ask("wrong").await, Err(AgentError::Refused(401))));
    assert!(matches!(
        ask("strange").await,
        Err(AgentError::Malformed(_))
    ));
    assert!(matches!(ask("large").await, Err(AgentError::Malformed(_))));
    let port = {
        let listener = TcpListener::bind((LOCAL, 0)).await.expect("binds");
        listener.local_addr().expect("bound").port()
    };
    let nobody = AgentClient::with_port(port)
        .metrics(LOCAL, Some(&SecretString::from("good")))
        .await;
    assert!(matches!(nobody, Err(AgentError::Unreachable(_))));
}
