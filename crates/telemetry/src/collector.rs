//! Reads every running sandbox's stream into the store.
//!
//! A supervisor compares the sandboxes that run with the tasks that there are and
//! starts what is missing; a task ends with its sandbox. A stream that breaks is
//! opened again from the last entry that was kept, so a restart of the daemon, a
//! resume or a broken connection loses nothing that the agent still has.

use crate::store::{Store, Writer};
use crate::stream::{Batch, Line, MAX_LINE_BYTES};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hearth_control::{LogEntry, LogLevel};
use hearth_ids::{SandboxId, TeamId};
use hearth_util::LockExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often new sandboxes are looked for. Agents keep what they have to say until
/// somebody comes, so nothing is lost by coming late.
const LOOK: Duration = Duration::from_millis(500);
const PRUNE: Duration = Duration::from_secs(600);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Seconds between samples.
const SAMPLE_SECONDS: u64 = 5;
/// An agent that sends nothing for so long, not even a sample, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(4 * SAMPLE_SECONDS);
/// What one guest may send in the long run, and at once.
const BYTES_PER_SECOND: f64 = 256.0 * 1024.0;
const BURST_BYTES: f64 = 4.0 * 1024.0 * 1024.0;

/// A running sandbox.
#[derive(Debug, Clone)]
pub struct Target {
    /// The sandbox.
    pub id: SandboxId,
    /// The team that owns it.
    pub team_id: TeamId,
    /// Of its agent.
    pub address: SocketAddr,
    /// What it asks for, if anything.
    pub token: Option<SecretString>,
    /// What was logged before is another's: the sandbox began as a copy.
    pub started_at: DateTime<Utc>,
    /// Fires when the sandbox ends or pauses.
    pub closed: CancellationToken,
}

/// Knows the sandboxes that run.
pub trait Source: Send + Sync + 'static {
    /// Those that run now.
    fn targets(&self) -> Vec<Target>;
}

/// The running collection.
#[derive(Debug)]
pub struct Collector {
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Shared {
    source: Arc<dyn Source>,
    store: Store,
    followed: Mutex<HashSet<SandboxId>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("keep what was told")]
    Store(#[source] io::Error),
    #[error("connect to the agent")]
    Connect(#[source] io::Error),
    #[error("talk to the agent")]
    Http(#[from] hyper::Error),
    #[error("the agent answered with status {0}")]
    Refused(u16),
    #[error("the agent sent a line of more than {MAX_LINE_BYTES} bytes")]
    LongLine,
    #[error("the agent sent what cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("the agent fell silent")]
    Silent,
}

impl Collector {
    /// Must be called in a runtime.
    #[must_use]
    pub fn start(source: Arc<dyn Source>, store: Store) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            source,
            store,
            followed: Mutex::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        tasks.spawn(supervise(shared));
        Self { tasks, stop }
    }

    /// Ends the collection; what was read is on disk.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn supervise(shared: Arc<Shared>) {
    let mut prune_at = Instant::now();
    loop {
        if prune_at <= Instant::now() {
            prune_at = Instant::now() + PRUNE;
            let store = shared.store.clone();
            let pruned = tokio::task::spawn_blocking(move || store.prune(SystemTime::now()));
            if let Ok(Err(error)) = pruned.await {
                tracing::warn!(%error, "prune telemetry failed");
            }
        }
        for target in shared.source.targets() {
            let mut followed = shared.followed.lock_unpoisoned();
            if !target.closed.is_cancelled() && followed.insert(target.id.clone()) {
                shared.tasks.spawn(follow(Arc::clone(&shared), target));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// One sandbox, until it does not run any more.
async fn follow(shared: Arc<Shared>, target: Target) {
    let id = target.id.clone();
    let reading = async {
        let mut pause = FIRST_PAUSE;
        let mut target = Some(target);
        // After a pause it may be elsewhere.
        while let Some(present) = target {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = stream(&shared.store, &present) => ended,
                () = present.closed.cancelled() => return,
            };
            match &ended {
                // Another life began, or the agent was replaced.
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    let error = error as &dyn std::error::Error;
                    tracing::debug!(sandbox = %id, error, "collect telemetry failed");
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let mut targets = shared.source.targets().into_iter();
            target = targets.find(|other| other.id == id && !other.closed.is_cancelled());
        }
    };
    tokio::select! {
        () = reading => {}
        () = shared.stop.cancelled() => {}
    }
    let mut followed = shared.followed.lock_unpoisoned();
    followed.remove(&id);
}

/// One connection.
async fn stream(store: &Store, target: &Target) -> Result<(), Failure> {
    let (writer, last) = {
        let (store, id, team) = (store.clone(), target.id.clone(), target.team_id);
        let opened = tokio::task::spawn_blocking(move || {
            let writer = store.writer(&id, team)?;
            Ok::<_, io::Error>((writer, store.last_id(&id)?))
        });
        let opened = opened.await.map_err(io::Error::other).and_then(|it| it);
        opened.map_err(Failure::Store)?
    };
    let started = u64::try_from(target.started_at.timestamp_micros()).unwrap_or(0);
    let mut reading = Reading {
        id: target.id.clone(),
        writer: Some(writer),
        after: last.max(started),
        buffer: Vec::new(),
        allowance: Allowance::full(),
    };
    let connect = tokio::time::timeout(CONNECT_LIMIT, open(target, reading.after));
    let (mut body, _connection) = connect.await.map_err(|_| Failure::Silent)??;
    loop {
        let frame = tokio::time::timeout(SILENCE_LIMIT, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Failure::Silent)? else {
            return Ok(());
        };
        if let Ok(data) = frame?.into_data() {
            reading.take(&data).await?;
        }
    }
}

/// The stream's body, and the connection's task, which ends when it is dropped.
async fn open(
    target: &Target,
    after: u64,
) -> Result<(Incoming, tokio::task::JoinSet<hyper::Result<()>>), Failure> {
    let socket = TcpStream::connect(target.address)
        .await
        .map_err(Failure::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let mut request =
        http::Request::get(format!("/telemetry?after={after}&sample={SAMPLE_SECONDS}"))
            .header(http::header::HOST, target.address.to_string());
    if let Some(token) = &target.token {
        request = request.header("x-access-token", token.expose_secret());
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Connect(io::Error::other(error)))?;
    let response = sender.send_request(request).await?;
    if response.status() != http::StatusCode::OK {
        return Err(Failure::Refused(response.status().as_u16()));
    }
    Ok((response.into_body(), driver))
}

/// What is known of one stream.
struct Reading {
    id: SandboxId,
    /// Absent only while a blocking thread has it, or when writing failed.
    writer: Option<Writer>,
    after: u64,
    buffer: Vec<u8>,
    allowance: Allowance,
}

impl Reading {
    async fn take(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        self.allowance.spend(data.len()).await;
        while let Some(at) = data.iter().position(|byte| *byte == b'\n') {
            self.buffer.extend_from_slice(&data[..at]);
            data = &data[at + 1..];
            let line = std::mem::take(&mut self.buffer);
            let line = serde_json::from_slice(&line).map_err(Failure::Malformed)?;
            self.keep(line).await?;
        }
        self.buffer.extend_from_slice(data);
        if self.buffer.len() > MAX_LINE_BYTES {
            return Err(Failure::LongLine);
        }
        Ok(())
    }

    async fn keep(&mut self, line: Line) -> Result<(), Failure> {
        match line {
            Line::Metrics(sample) => {
                let sample = sample.accept(Utc::now());
                self.write(move |writer| writer.sample(&sample)).await
            }
            Line::Batch(batch) => {
                if batch.lost > 0 {
                    tracing::debug!(sandbox = %self.id, lost = batch.lost, "log entries were lost");
                }
                let entries = accept(batch, &mut self.after);
                self.write(move |writer| writer.log(&entries)).await
            }
        }
    }

    async fn write(
        &mut self,
        work: impl FnOnce(&mut Writer) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Failure> {
        let gone = || Failure::Store(io::Error::other("the file is closed"));
        let mut writer = self.writer.take().ok_or_else(gone)?;
        let written = tokio::task::spawn_blocking(move || {
            let result = work(&mut writer);
            (writer, result)
        });
        let (writer, result) = written.await.map_err(|_| gone())?;
        result.map_err(Failure::Store)?;
        self.writer = Some(writer);
        Ok(())
    }
}

/// Entries in order of time, each later than all that came before.
pub(crate) fn accept(batch: Batch, after: &mut u64) -> Vec<LogEntry> {
    let mut kept = Vec::with_capacity(batch.entries.len() + 1);
    for entry in batch.entries {
        if entry.id > *after {
            *after = entry.id;
            kept.extend(entry.accept());
        }
    }
    if batch.lost > 0 {
        kept.insert(0, lost(batch.lost, kept.first(), *after));
    }
    kept
}

/// What stands in the log where entries are missing.
fn lost(count: u64, next: Option<&LogEntry>, after: u64) -> LogEntry {
    let before = i64::try_from(after).ok();
    let timestamp = next
        .map(|entry| entry.timestamp)
        .or_else(|| DateTime::from_timestamp_micros(before?))
        .unwrap_or_else(Utc::now);
    LogEntry {
        timestamp,
        level: LogLevel::Warn,
        message: format!("{count} log entries were lost"),
        fields: BTreeMap::from([
            ("logger".to_owned(), "envd".to_owned()),
            ("lost".to_owned(), count.to_string()),
        ]),
    }
}

/// A token bucket that makes the reader wait, and so the guest.
struct Allowance {
    left: f64,
    filled: Instant,
}

impl Allowance {
    fn full() -> Self {
        Self {
            left: BURST_BYTES,
            filled: Instant::now(),
        }
    }

    async fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        let earned = (now - self.filled).as_secs_f64() * BYTES_PER_SECOND;
        self.left = (self.left + earned).min(BURST_BYTES) - bytes as f64;
        self.filled = now;
        if self.left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.left / BYTES_PER_SECOND)).await;
        }
    }
}

#[cfg(test)]
mod tests;
