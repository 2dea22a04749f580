use super::*;
use crate::store::Limits;
use hearth_control::{LogDirection, LogQuery, Telemetry as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const BOUND: Duration = Duration::from_secs(20);

struct One(Mutex<Option<Target>>);

impl Source for One {
    fn targets(&self) -> Vec<Target> {
        self.0
            .lock()
            .expect("not poisoned")
            .iter()
            .cloned()
            .collect()
    }
}

/// Accepts one connection, answers it with `body`, and returns the request's head.
async fn answer(listener: &TcpListener, body: &str) -> (String, TcpStream) {
    let (mut stream, _) = tokio::time::timeout(BOUND, listener.accept())
        .await
        .expect("in time")
        .expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.expect("written");
    (String::from_utf8(head).expect("text"), stream)
}

fn entry(id: u64, message: &str) -> String {
    format!(r#"{{"id":{id},"level":"info","logger":"process","message":"{message}"}}"#)
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path().to_owned(), Limits::default()).expect("a store");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target {
        id: SandboxId::random(),
        team_id: TeamId::random(),
        address: listener.local_addr().expect("bound"),
        token: Some(SecretString::from("secret")),
        started_at: DateTime::from_timestamp_micros(1_000).expect("a time"),
        closed: CancellationToken::new(),
    };
    let source = Arc::new(One(Mutex::new(Some(target.clone()))));
    let collector = Collector::start(source.clone(), store.clone());

    // What the sandbox was copied from (id 900) is not its own.
    let metrics = r#"{"metrics":{"ts":1,"cpu_count":2,"cpu_used_pct":1.5,"mem_total":4,"mem_used":3,"mem_cache":1,"disk_used":5,"disk_total":6,"more":0}}"#;
    let body = format!(
        "{{\"batch\":{{\"entries\":[{},{},{}]}}}}\n{metrics}\nnonsense\n",
        entry(900, "of another"),
        entry(2_000, "one"),
        entry(3_000, "two"),
    );
    let (head, _) = answer(&listener, &body).await;
    assert!(head.starts_with("GET /telemetry?after=1000&"), "{head}");
    assert!(head.contains("x-access-token: secret\r\n"), "{head}");

    let body = format!(
        "{{\"batch\":{{\"entries\":[{}],\"lost\":7}}}}\n",
        entry(4_000, "three")
    );
    let (head, open) = answer(&listener, &body).await;
    assert!(head.starts_with("GET /telemetry?after=3000&"), "{head}");

    let forward = LogQuery {
        direction: LogDirection::Forward,
        ..LogQuery::default()
    };
    let deadline = Instant::now() + BOUND;
    let messages = loop {
        let entries = store.logs(&target.id, forward.clone()).await.expect("read");
        if entries.len() >= 4 || Instant::now() > deadline {
            break entries
                .into_iter()
                .map(|entry| entry.message)
                .collect::<Vec<_>>();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(messages, ["one", "two", "7 log entries were lost", "three"]);
    let samples = store
        .samples(&target.id, None, None, 10)
        .await
        .expect("read");
    assert_eq!(samples.len(), 1);
    assert_eq!((samples[0].mem_used, samples[0].cpu_used_pct), (3, 1.5));

    // The sandbox pauses and comes back: a new task follows it.
    drop(open);
    target.closed.cancel();
    *source.0.lock().expect("not poisoned") = Some(Target {
        closed: CancellationToken::new(),
        ..target
    });
    let (head, _) = answer(&listener, "").await;
    assert!(head.starts_with("GET /telemetry?after=4000&"), "{head}");
    tokio::time::timeout(BOUND, collector.stop())
        .await
        .expect("in time");
}
