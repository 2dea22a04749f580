//! Deliveries to receivers of all kinds, over real connections.

use chrono::{TimeDelta, Utc};
use hearth_ids::{ExecutionId, SandboxId, TeamId};
use hearth_store::{
    Delivery, DeliveryQuery, DeliveryState, DeliveryStore as _, Event, EventStore as _, NewTeam,
    NewWebhook, OwnerId, TeamLimits, TeamStore as _, Webhook, WebhookStore as _,
};
use hearth_store_sqlite::SqliteStore;
use hearth_webhooks::{Config, Deliverer, Sealer, e2b_signature, hearth_signature};
use secrecy::SecretString;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SECRET: &str = "a secret of thirty-two characters";
const KIND: &str = "sandbox.lifecycle.created";
/// Generous, because others use the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Answer(&'static str),
    /// Reads and says nothing.
    Stall,
    /// Hangs up before or within its answer.
    HangUp(&'static str),
    /// A body of 2 MiB.
    Long,
}

/// A request as it came.
#[derive(Debug, Clone)]
struct Heard {
    headers: HashMap<String, String>,
    body: String,
}

/// A receiver that does what it is told, request by request; the last word holds.
struct Receiver {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    manners: Arc<Mutex<Vec<Manner>>>,
}

impl Receiver {
    async fn start(manners: &[Manner]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let receiver = Self {
            url,
            heard: Arc::default(),
            manners: Arc::new(Mutex::new(manners.to_vec())),
        };
        let (heard, manners) = (receiver.heard.clone(), receiver.manners.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, manners) = (heard.clone(), manners.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &heard, &manners).await;
                });
            }
        });
        receiver
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("unpoisoned").clone()
    }

    fn turn(&self, manner: Manner) {
        *self.manners.lock().expect("unpoisoned") = vec![manner];
    }
}

async fn serve(
    mut stream: TcpStream,
    heard: &Mutex<Vec<Heard>>,
    manners: &Mutex<Vec<Manner>>,
) -> std::io::Result<()> {
    let request = read(&mut stream).await?;
    let manner = {
        let mut manners = manners.lock().expect("unpoisoned");
        heard.lock().expect("unpoisoned").push(request);
        match manners.len() {
            1 => manners[0],
            _ => manners.remove(0),
        }
    };
    match manner {
        Manner::Answer(status) => {
            let answer = format!("HTTP/1.1 {status}\r\nx-mine: yes\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await?;
        }
        Manner::Stall => std::future::pending().await,
        Manner::HangUp(text) => stream.write_all(text.as_bytes()).await?,
        Manner::Long => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 2097152\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&vec![b'x'; 2 << 20]).await?;
        }
    }
    stream.shutdown().await
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Heard> {
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&piece[..length]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else {
            continue;
        };
        let lines = head.lines().skip(1);
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        if body.len().to_string() == headers["content-length"] {
            let body = body.to_owned();
            return Ok(Heard { headers, body });
        }
    }
}

/// A store with a team, and a deliverer over it.
struct World {
    /// Holds the database: one in memory would end with its connection, and a deliverer that
    /// is aborted in a query takes that with it.
    _directory: tempfile::TempDir,
    store: Arc<SqliteStore>,
    team: TeamId,
    config: Config,
    wake: Arc<Notify>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = hearth_store_sqlite::open(directory.path().join("db"));
        let store = store.await.expect("opens");
        let team = NewTeam {
            id: TeamId::random(),
            slug: "a".to_owned(),
            name: "A".to_owned(),
            limits: TeamLimits::default(),
            created_at: Utc::now(),
        };
        let team = store.team_create(team).await.expect("creates").id;
        Self {
            _directory: directory,
            store: Arc::new(store),
            team,
            config: Config {
                attempt_limit: Duration::from_secs(2),
                retries: vec![Duration::from_millis(20); 3],
                private: vec!["127.0.0.0/8".to_owned()],
                ..Config::default()
            },
            wake: Arc::default(),
        }
    }

    fn sealer() -> Sealer {
        Sealer::new(&SecretString::from("seed"))
    }

    fn deliver(&self) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let deliverer = Deliverer::new(
            self.store.clone(),
            Self::sealer(),
            self.config.clone(),
            OwnerId::parse("us").expect("an owner"),
            Arc::clone(&self.wake),
        );
        let deliverer = deliverer.expect("starts");
        (stop.clone(), tokio::spawn(deliverer.run(stop)))
    }

    async fn webhook(&self, url: &str) -> Webhook {
        let id = Uuid::new_v4();
        let new = NewWebhook {
            id,
            team_id: self.team,
            name: "hook".to_owned(),
            url: url.to_owned(),
            events: vec![KIND.to_owned()],
            sealed_secret: Self::sealer().seal(id, &SecretString::from(SECRET)),
            enabled: true,
            created_at: Utc::now(),
        };
        let made = self.store.webhook_create(new, 10).await.expect("writes");
        made.expect("has room")
    }

    /// Something happens to a sandbox, `order` milliseconds after the beginning.
    async fn happens(&self, sandbox: &SandboxId, order: i64) -> Event {
        let begin = chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("in range");
        let event = Event {
            id: Uuid::new_v4(),
            team_id: self.team,
            event_type: KIND.to_owned(),
            category: Some("lifecycle".to_owned()),
            label: Some("create".to_owned()),
            data: Some(r#"{"sandbox_metadata":{"a":"b"}}"#.to_owned()),
            occurred_at: begin + TimeDelta::milliseconds(order),
            sandbox_id: Some(sandbox.clone()),
            execution_id: Some(ExecutionId::random()),
            template_id: None,
            build_id: None,
        };
        let new = self
            .store
            .event_insert(std::slice::from_ref(&event), Utc::now())
            .await;
        assert_eq!(new.expect("writes"), 1);
        self.wake.notify_one();
        event
    }

    async fn deliveries(&self, webhook: &Webhook) -> Vec<Delivery> {
        let query = DeliveryQuery {
            webhook_id: webhook.id,
            after: None,
            start: None,
            end: None,
            success: None,
            types: Vec::new(),
            ascending: true,
            limit: 100,
        };
        let page = self.store.delivery_list(&query).await;
        page.expect("reads").deliveries
    }

    /// The only delivery, as soon as it is over.
    async fn over(&self, webhook: &Webhook) -> Delivery {
        let mut found = self.deliveries(webhook).await;
        until(async || {
            found = self.deliveries(webhook).await;
            found.iter().all(|it| it.state != DeliveryState::Pending)
        })
        .await;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_signed_and_written_down() {
    let world = World::new().await;
    let receiver = Receiver::start(&[Manner::Answer("200 OK")]).await;
    let webhook = world.webhook(&receiver.url).await;
    let _deliverer = world.deliver();
    let event = world.happens(&SandboxId::random(), 1).await;
    let delivery = world.over(&webhook).await;
    assert_eq!(delivery.state, DeliveryState::Success);
    let (heard, attempt) = (&receiver.heard()[0], &delivery.attempts[0]);

    let body: serde_json::Value = serde_json::from_str(&heard.body).expect("JSON");
    let sandbox = event.sandbox_id.as_ref().expect("has one").as_str();
    let execution = event.execution_id.expect("has one").to_string();
    let wanted = serde_json::json!({
        "id": event.id.to_string(),
        "version": "v2",
        "type": KIND,
        "timestamp": "2023-11-14T22:13:20.001Z",
        "event_category": "lifecycle",
        "event_label": "create",
        "event_data": {"sandbox_metadata": {"a": "b"}},
        "sandbox_id": sandbox,
        "sandbox_execution_id": execution,
        "sandbox_template_id": "",
        "sandbox_build_id": "",
        "sandbox_team_id": world.team.to_string(),
    });
    assert_eq!(body, wanted);
    let header = |name: &str| heard.headers[name].as_str();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("e2b-webhook-id"), webhook.id.to_string());
    assert_eq!(header("e2b-delivery-id"), attempt.id.to_string());
    assert_eq!(header("e2b-signature-version"), "v1");
    let bytes = heard.body.as_bytes();
    assert_eq!(header("e2b-signature"), e2b_signature(SECRET, bytes));
    let time = attempt.at.timestamp();
    let own = hearth_signature(SECRET, time, bytes);
    assert_eq!(header("hearth-signature"), own);

    assert_eq!(attempt.request_body, heard.body);
    assert_eq!(attempt.response_status, Some(200));
    assert_eq!(attempt.response_body.as_deref(), Some("ok"));
    let shown = attempt.response_headers.as_deref().unwrap_or_default();
    assert!(shown.contains(r#""x-mine":"yes""#), "{shown}");
    for hidden in [header("e2b-signature"), header("hearth-signature"), SECRET] {
        assert!(!attempt.request_headers.contains(hidden));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_their_classes_and_are_tried_again_until_no_more() {
    let world = World::new().await;
    for (manner, class, status) in [
        (Manner::Answer("500 Oh"), "http_error", Some(500)),
        (
            Manner::Answer("302 Found\r\nlocation: http://127.0.0.1:1/"),
            "http_error",
            Some(302),
        ),
        (Manner::Stall, "timeout", None),
        (Manner::HangUp(""), "transport_error", None),
        (Manner::HangUp("HTTP/1.1 2"), "transport_error", None),
        (Manner::HangUp("what?\r\n\r\n"), "transport_error", None),
    ] {
        let receiver = Receiver::start(&[manner]).await;
        let webhook = world.webhook(&receiver.url).await;
        let (stop, task) = world.deliver();
        world.happens(&SandboxId::random(), 1).await;
        let delivery = world.over(&webhook).await;
        assert_eq!(delivery.state, DeliveryState::Failed, "{manner:?}");
        assert_eq!(delivery.attempts.len(), 4, "{manner:?}");
        assert_eq!(receiver.heard().len(), 4, "redirects are not followed");
        for attempt in &delivery.attempts {
            assert_eq!(attempt.error_class.as_deref(), Some(class), "{attempt:?}");
            assert_eq!(attempt.response_status, status);
        }
        stop.cancel();
        task.await.expect("no panic");
        let deleted = world.store.webhook_delete(world.team, webhook.id).await;
        assert!(deleted.expect("writes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_by_its_status_and_is_kept_up_to_a_bound() {
    let world = World::new().await;
    let cut_off = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin";
    for (manner, kept) in [(Manner::Long, 64 << 10), (Manner::HangUp(cut_off), 5)] {
        let receiver = Receiver::start(&[manner]).await;
        let webhook = world.webhook(&receiver.url).await;
        let (stop, task) = world.deliver();
        world.happens(&SandboxId::random(), 1).await;
        let delivery = world.over(&webhook).await;
        assert_eq!(delivery.state, DeliveryState::Success, "{manner:?}");
        let body = delivery.attempts[0].response_body.as_deref();
        assert_eq!(body.map(str::len), Some(kept), "{manner:?}");
        stop.cancel();
        task.await.expect("no panic");
        let deleted = world.store.webhook_delete(world.team, webhook.id).await;
        assert!(deleted.expect("writes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_public_is_not_reached_unless_it_is_listed() {
    let mut world = World::new().await;
    let receiver = Receiver::start(&[Manner::Answer("200 OK")]).await;
    let port = receiver.url.rsplit(':').next().expect("a port").to_owned();
    world.config.private = Vec::new();
    world.config.retries = Vec::new();
    let refused = [
        (receiver.url.clone(), "request_error"),
        (format!("http://localhost:{port}"), "request_error"),
        (format!("http://[::ffff:127.0.0.1]:{port}"), "request_error"),
        ("http://169.254.169.254/latest".to_owned(), "request_error"),
        ("http://no-such-host.invalid/".to_owned(), "dns_error"),
    ];
    for (url, class) in refused {
        let webhook = world.webhook(&url).await;
        let (stop, task) = world.deliver();
        world.happens(&SandboxId::random(), 1).await;
        let delivery = world.over(&webhook).await;
        let found = delivery.attempts[0].error_class.as_deref();
        assert_eq!(found, Some(class), "{url}: {:?}", delivery.attempts);
        stop.cancel();
        task.await.expect("no panic");
        let deleted = world.store.webhook_delete(world.team, webhook.id).await;
        assert!(deleted.expect("writes"));
    }
    assert!(receiver.heard().is_empty());
    world.config.private = vec!["localhost".to_owned()];
    let webhook = world.webhook(&format!("http://localhost:{port}")).await;
    let _deliverer = world.deliver();
    world.happens(&SandboxId::random(), 1).await;
    assert_eq!(world.over(&webhook).await.state, DeliveryState::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_read_sends_nothing() {
    let mut world = World::new().await;
    world.config.retries = Vec::new();
    let receiver = Receiver::start(&[Manner::Answer("200 OK")]).await;
    let webhook = world.webhook(&receiver.url).await;
    let change = hearth_store::WebhookChange {
        sealed_secret: Some("v1.AAAA".to_owned()),
        ..hearth_store::WebhookChange::default()
    };
    let changed = world.store.webhook_update(world.team, webhook.id, change);
    changed.await.expect("writes").expect("is there");
    let _deliverer = world.deliver();
    world.happens(&SandboxId::random(), 1).await;
    let delivery = world.over(&webhook).await;
    let class = delivery.attempts[0].error_class.as_deref();
    assert_eq!(class, Some("signature_error"));
    assert!(receiver.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_sandbox_arrive_in_their_order() {
    let world = World::new().await;
    // The first ones fail, so that later ones could overtake them.
    let fails = Manner::Answer("503 Later");
    let fine = Manner::Answer("204 No Content");
    let receiver = Receiver::start(&[fails, fails, fine, fails, fine]).await;
    let webhook = world.webhook(&receiver.url).await;
    let sandbox = SandboxId::random();
    let mut wanted = Vec::new();
    for order in 0..5 {
        wanted.push(world.happens(&sandbox, order).await.id.to_string());
    }
    let _deliverer = world.deliver();
    until(async || {
        let found = world.deliveries(&webhook).await;
        found.iter().all(|it| it.state == DeliveryState::Success)
    })
    .await;
    let mut arrived: Vec<String> = Vec::new();
    for heard in receiver.heard() {
        let body: serde_json::Value = serde_json::from_str(&heard.body).expect("JSON");
        arrived.push(body["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(arrived.len(), 8);
    arrived.dedup();
    assert_eq!(arrived, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_holds_up_nobody_else() {
    let mut world = World::new().await;
    world.config.attempt_limit = LIMIT;
    let slow = Receiver::start(&[Manner::Stall]).await;
    let quick = Receiver::start(&[Manner::Answer("200 OK")]).await;
    let (slow_hook, quick_hook) = (
        world.webhook(&slow.url).await,
        world.webhook(&quick.url).await,
    );
    let (stop, task) = world.deliver();
    for _ in 0..20 {
        world.happens(&SandboxId::random(), 1).await;
    }
    until(async || quick.heard().len() == 20).await;
    assert_eq!(slow.heard().len(), world.config.concurrency);
    // The stop does not wait for it, and nothing of it is noted.
    stop.cancel();
    task.await.expect("no panic");
    let left = world.deliveries(&slow_hook).await;
    assert!(left.iter().all(|it| it.attempts.is_empty()));
    assert_eq!(world.deliveries(&quick_hook).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deliverer_takes_up_what_one_left() {
    let mut world = World::new().await;
    world.config.attempt_limit = LIMIT;
    let receiver = Receiver::start(&[Manner::Stall]).await;
    let webhook = world.webhook(&receiver.url).await;
    let event = world.happens(&SandboxId::random(), 1).await;
    let (stop, task) = world.deliver();
    until(async || receiver.heard().len() == 1).await;
    // As if its process died: what it was at is not written down.
    task.abort();
    assert!(task.await.is_err());
    stop.cancel();
    receiver.turn(Manner::Answer("200 OK"));
    let _deliverer = world.deliver();
    let delivery = world.over(&webhook).await;
    assert_eq!(
        (delivery.event_id, delivery.state),
        (event.id, DeliveryState::Success)
    );
    let heard = receiver.heard();
    assert_eq!(heard.len(), 2, "at least once");
    assert_eq!(heard[0].body, heard[1].body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_or_fails_for_long_is_left_alone() {
    let mut world = World::new().await;
    world.config.retries = vec![Duration::from_millis(10); 2];
    world.config.disable_after = Duration::ZERO;
    for (manner, attempts, why) in [
        (Manner::Answer("410 Gone"), 1, "410 Gone"),
        (Manner::Answer("500 Oh"), 3, "answered 500"),
    ] {
        let receiver = Receiver::start(&[manner]).await;
        let webhook = world.webhook(&receiver.url).await;
        let (stop, task) = world.deliver();
        world.happens(&SandboxId::random(), 1).await;
        let delivery = world.over(&webhook).await;
        assert_eq!(delivery.attempts.len(), attempts);
        let found = world.store.webhook(world.team, webhook.id).await;
        let found = found.expect("reads").expect("is there");
        assert!(!found.enabled);
        let reason = found.disabled_reason.unwrap_or_default();
        assert!(reason.contains(why), "{reason}");
        world.happens(&SandboxId::random(), 2).await;
        assert_eq!(world.deliveries(&webhook).await.len(), 1, "no more");
        stop.cancel();
        task.await.expect("no panic");
        let told = hearth_store::EventQuery {
            team_id: world.team,
            sandbox_id: None,
            types: vec!["webhook.disabled".to_owned()],
            ascending: false,
            offset: 0,
            limit: 1,
        };
        let told = world.store.event_list(&told).await.expect("reads");
        let data = told[0].data.as_deref().unwrap_or_default();
        assert!(data.contains(&webhook.id.to_string()), "{data}");
        let deleted = world.store.webhook_delete(world.team, webhook.id).await;
        assert!(deleted.expect("writes"));
    }
}
