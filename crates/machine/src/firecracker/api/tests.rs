use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A socket whose server reads one request, answers with these bytes and closes. It hands
/// out what it read.
struct Fake {
    _dir: tempfile::TempDir,
    api: Api,
    request: JoinHandle<String>,
}

fn fake(answer: &'static [u8]) -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        // Head and body; a request without a body ends with its head.
        while !whole(&read) {
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await.unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&part[..length]);
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(read).unwrap()
    });
    Fake {
        api: Api::new(&socket),
        request,
        _dir: dir,
    }
}

fn whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

const DONE: &[u8] = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

#[tokio::test]
async fn requests_are_what_the_api_describes() {
    let it = fake(DONE);
    let drive = Drive {
        drive_id: "root",
        path_on_host: "/dev/nbd3",
        is_root_device: false,
        is_read_only: false,
        cache_type: "Writeback",
        io_engine: "Sync",
    };
    it.api.drive(&drive).await.unwrap();
    let request = it.request.await.unwrap();
    assert!(
        request.starts_with("PUT /drives/root HTTP/1.1\r\n"),
        "{request}"
    );
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["path_on_host"], "/dev/nbd3");
    assert_eq!(body["cache_type"], "Writeback");

    let it = fake(DONE);
    it.api.set_paused(false).await.unwrap();
    let request = it.request.await.unwrap();
    assert!(request.starts_with("PATCH /vm HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"state":"Resumed"}"#), "{request}");
}

#[tokio::test]
async fn the_instance_is_parsed() {
    let it = fake(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n\
          {\"id\":\"vm1\",\"state\":\"Not started\",\"vmm_version\":\"1.16.1\",\"app_name\":\"Firecracker\",\"new\":1}",
    );
    let instance = it.api.instance().await.unwrap();
    assert_eq!(instance.state, State::NotStarted);
    assert_eq!((&*instance.id, &*instance.vmm_version), ("vm1", "1.16.1"));
}

#[tokio::test]
async fn a_fault_is_told_in_firecrackers_words() {
    let it = fake(
        b"HTTP/1.1 400 \r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n\
          {\"fault_message\":\"no such kernel: x\"}",
    );
    match it.api.start().await.unwrap_err() {
        ApiError::Refused { status, message } => {
            assert_eq!((status, &*message), (400, "no such kernel: x"));
        }
        other => panic!("{other:?}"),
    }
    // Also where it is none of the described form.
    let it = fake(b"HTTP/1.1 500 \r\nContent-Length: 5\r\n\r\nwhy?\n");
    match it.api.start().await.unwrap_err() {
        ApiError::Refused { status, message } => assert_eq!((status, &*message), (500, "why?")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_end_before_the_answer_is_an_end() {
    for early in [
        &b""[..],
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"id\":",
    ] {
        let error = fake(early).api.instance().await.unwrap_err();
        assert!(matches!(error, ApiError::Closed(_)), "{early:?}: {error:?}");
    }
    let nobody = Api::new(Path::new("/nonexistent/api.sock"));
    let error = nobody.instance().await.unwrap_err();
    assert!(matches!(error, ApiError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn garbage_is_refused() {
    for garbage in [
        &b"\x16\x03\x01 this is not HTTP\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[42]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{\"id\":\"a\",\"state\":\"?\",\"vmm_version\":\"1\"}",
    ] {
        let error = fake(garbage).api.instance().await.unwrap_err();
        assert!(matches!(error, ApiError::Garbage(_)), "{error:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let endless: &'static [u8] = Vec::leak(
        [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"[..],
            &vec![b' '; ANSWER_LIMIT + 1],
        ]
        .concat(),
    );
    let error = fake(endless).api.instance().await.unwrap_err();
    assert!(matches!(error, ApiError::Closed(_)), "{error:?}");
}
