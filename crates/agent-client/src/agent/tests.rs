use super::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Takes one connection, gives `answer` to its request, and returns the request.
async fn server(answer: &'static str) -> (Agent, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent::at(listener.local_addr().unwrap());
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !whole(&request) {
            let length = stream.read(&mut part).await.unwrap();
            assert_ne!(length, 0, "the request ends early");
            request.extend_from_slice(&part[..length]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (agent, request)
}

/// Whether head and body are there, by content length or last chunk.
fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

#[tokio::test]
async fn settings_are_sent_with_the_time_and_without_what_is_absent() {
    let answer = "HTTP/1.1 204 No Content\r\nx-envd-version: 1.2.3\r\n\r\n";
    let (agent, request) = server(answer).await;
    let agent = agent.with_token(Some("secret")).unwrap();
    let settings = Init {
        hyperloop_ip: Some(Ipv4Addr::new(192, 0, 2, 1)),
        ..Init::new("user", "/home/user").with_new_machine_id()
    };
    assert_eq!(agent.init(&settings, PATIENCE).await.unwrap(), "1.2.3");
    let request = request.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /init HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-access-token: secret"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let mut names: Vec<&String> = body.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(
        names,
        [
            "defaultUser",
            "defaultWorkdir",
            "entropy",
            "hyperloopIP",
            "machineId",
            "timestamp"
        ]
    );
    assert_eq!(body["machineId"].as_str().unwrap().len(), 32);
    let seed = STANDARD.decode(body["entropy"].as_str().unwrap()).unwrap();
    assert_eq!(seed.len(), 64);
    let time = body["timestamp"].as_str().unwrap();
    chrono::DateTime::parse_from_rfc3339(time).unwrap();
}

#[tokio::test]
async fn a_refusal_has_status_and_words() {
    let answer =
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 22\r\n\r\n{\"message\":\"no entry\"}";
    let (agent, _request) = server(answer).await;
    let error = agent
        .operate(Operation::FsFreeze, PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert!(error.to_string().contains("no entry"), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent::at(listener.local_addr().unwrap());
    let limit = Duration::from_millis(20);
    let error = agent.health(limit).await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
}

#[tokio::test]
async fn files_are_read_and_sent_as_root() {
    let (agent, request) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let read = agent.file_read("/etc/a b", PATIENCE).await.unwrap();
    assert_eq!(read, None);
    let request = request.await.unwrap();
    let line = "GET /files?path=%2Fetc%2Fa+b&username=root HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");

    let (agent, request) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "content").unwrap();
    agent.file_send(file.path(), "/x", PATIENCE).await.unwrap();
    let request = request.await.unwrap();
    assert!(request.contains("\r\ncontent\r\n"), "{request}");
    let missing = agent.file_send(Path::new("/nonexistent"), "/x", PATIENCE);
    let error = missing.await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error}");
}

#[test]
fn a_token_that_no_header_can_carry_is_refused() {
    let agent = Agent::new(Ipv4Addr::LOCALHOST).with_token(Some("a\nb"));
    assert!(matches!(agent, Err(Error::HeaderValue(_))));
}
