//! `hearth-bench lifecycle`: what pausing, resuming and taking snapshots cost, by how
//! much memory a sandbox has written, beside a fresh start of the same template on
//! the same machine in the same run. Talks to the daemon's node directly, so that
//! nothing but the node is measured.
//!
//! A snapshot's standstill is seen from outside: how long the guest's agent, asked
//! without a pause over one connection, keeps silent at most.

use crate::installation::Installation;
use anyhow::Context;
use chrono::Utc;
use hearth_agent_client::{AGENT_PORT, Agent, AgentClient, Command};
use hearth_control::{Node, NodeSandbox, SandboxConfig, SandboxUpdate};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_measure::{Report, Samples};
use hearth_node_client::NodeClient;
use hearth_snapshot::{BuildCache, Kind, LocalStore};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

/// Memory of the guest that is not to be filled.
const RESERVED_MIB: u64 = 160;
/// How long the sandboxes live whose end is measured.
const LIVES: chrono::TimeDelta = chrono::TimeDelta::milliseconds(800);
const LIMIT: Duration = Duration::from_secs(300);

/// What to measure.
pub struct Plan {
    pub runs: usize,
    /// Amounts of memory, in MiB, that the sandbox writes before it is measured.
    pub dirtied_mib: Vec<u32>,
    /// Copies of one snapshot that are started at once.
    pub forks: Vec<usize>,
}

pub async fn measure(installation: &Installation, plan: &Plan) -> anyhow::Result<Report> {
    let store = installation.builds()?;
    let (template, memory_mib) = base(&store).await?;
    let bench = Bench {
        node: installation.node(),
        template,
        memory_mib,
        store,
    };
    let mut report = Report::default();
    // Some of the memory is the guest's own.
    let room = bench.memory_mib.saturating_sub(RESERVED_MIB);
    let (fitting, too_much): (Vec<u32>, Vec<u32>) = plan
        .dirtied_mib
        .iter()
        .partition(|mib| u64::from(**mib) <= room);
    for mib in too_much {
        eprintln!(
            "{mib} MiB cannot be written in {} MiB of memory: left out (template.memory_mib)",
            bench.memory_mib
        );
    }
    bench.fresh(plan, &mut report).await?;
    bench.timeout(plan, &mut report).await?;
    for mib in &fitting {
        bench.dirtied(plan, *mib, &mut report).await?;
    }
    for count in &plan.forks {
        bench.fork(*count, &mut report).await?;
    }
    Ok(report)
}

struct Bench {
    node: NodeClient,
    store: LocalStore,
    template: BuildId,
    memory_mib: u64,
}

async fn base(store: &LocalStore) -> anyhow::Result<(BuildId, u64)> {
    let mut builds = store.list().await?.into_iter();
    let newest =
        builds.rfind(|build| build.kind == Kind::Template && build.name.as_deref() == Some("base"));
    let newest = newest.context("no base template is prepared: run `hearth up`")?;
    Ok((newest.build_id, newest.shape.memory_mib))
}

impl Bench {
    /// The baseline: create to a completed command.
    async fn fresh(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let mut samples = Samples::default();
        for run in 0..=plan.runs {
            let begun = Instant::now();
            let sandbox = self.create(self.template).await?;
            exec(&sandbox, "true").await?;
            // The first one warms the machine up.
            if run > 0 {
                samples.push(begun.elapsed());
            }
            self.node.delete(&sandbox.config.sandbox_id).await?;
        }
        report.push("create + exec", &samples);
        Ok(())
    }

    /// From the end time to the end of the VM, as those who list sandboxes see it.
    async fn timeout(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let mut samples = Samples::default();
        for _ in 0..plan.runs {
            let sandbox = self.create(self.template).await?;
            let id = &sandbox.config.sandbox_id;
            let end = Utc::now() + LIVES;
            let update = SandboxUpdate {
                end_at: Some(end),
                ..SandboxUpdate::default()
            };
            self.node.update(id, update).await?;
            while self.node.get(id).await?.is_some() {
                anyhow::ensure!(Utc::now() < end + LIVES * 10, "the end time passed in vain");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            samples.push((Utc::now() - end).to_std().unwrap_or_default());
        }
        report.push("end time to gone", &samples);
        Ok(())
    }

    async fn dirtied(&self, plan: &Plan, mib: u32, report: &mut Report) -> anyhow::Result<()> {
        let [
            mut pause,
            mut resume,
            mut total,
            mut standstill,
            mut copied,
            mut boot,
        ] = std::array::from_fn(|_| Samples::default());
        let mut space = 0;
        for _ in 0..plan.runs {
            let sandbox = self.create(self.template).await?;
            let id = sandbox.config.sandbox_id.clone();
            dirty(&sandbox, mib).await?;

            let build = BuildId::random();
            let silence = Silence::watch(&sandbox).await?;
            let begun = Instant::now();
            self.node.checkpoint(&id, build).await?;
            total.push(begun.elapsed());
            standstill.push(silence.longest().await?);

            // The same bytes from memory to memory: what copying alone costs here.
            copied.push(tokio::task::spawn_blocking(move || copy(mib)).await?);

            let begun = Instant::now();
            let kept = BuildId::random();
            self.node.pause(&id, kept, true).await?;
            pause.push(begun.elapsed());
            space = self.own_bytes(kept).await?;

            let begun = Instant::now();
            let sandbox = self.node.resume(&id, end_at(), false).await?;
            exec(&sandbox, "true").await?;
            resume.push(begun.elapsed());

            if mib == 0 {
                self.node.pause(&id, BuildId::random(), false).await?;
                let begun = Instant::now();
                let sandbox = self.node.resume(&id, end_at(), false).await?;
                exec(&sandbox, "true").await?;
                boot.push(begun.elapsed());
            }
            self.node.delete(&id).await?;
            self.node.build_delete(build).await?;
        }
        let name = |what: &str| format!("{what}, {mib} MiB dirty");
        report.push(&name("pause"), &pause);
        report.push(&name("resume + exec"), &resume);
        report.push(&name("snapshot"), &total);
        report.push(&name("snapshot's standstill"), &standstill);
        report.push(&name("memcpy of as much"), &copied);
        if mib == 0 {
            report.push("resume without memory + exec", &boot);
        }
        eprintln!("{}: {} KiB on disk", name("a pause"), space >> 10);
        Ok(())
    }

    /// One snapshot and several starts of it at once.
    async fn fork(&self, count: usize, report: &mut Report) -> anyhow::Result<()> {
        let source = self.create(self.template).await?;
        exec(&source, "true").await?;
        let build = BuildId::random();
        let silence = Silence::watch(&source).await?;
        let begun = Instant::now();
        self.node
            .checkpoint(&source.config.sandbox_id, build)
            .await?;
        let forks = (0..count).map(|_| async {
            let sandbox = self.create(build).await?;
            exec(&sandbox, "true").await?;
            anyhow::Ok(sandbox)
        });
        let forks = futures::future::join_all(forks).await;
        let (mut all, mut standstill) = (Samples::default(), Samples::default());
        all.push(begun.elapsed());
        standstill.push(silence.longest().await?);
        for fork in forks {
            self.node.delete(&fork?.config.sandbox_id).await?;
        }
        self.node.delete(&source.config.sandbox_id).await?;
        self.node.build_delete(build).await?;
        report.push(&format!("fork {count}, all exec-ready"), &all);
        report.push(&format!("fork {count}, source silent"), &standstill);
        Ok(())
    }

    async fn create(&self, build: BuildId) -> anyhow::Result<NodeSandbox> {
        let config = SandboxConfig {
            sandbox_id: SandboxId::random(),
            template_id: TemplateId::random(),
            build_id: build,
            team_id: TeamId::random(),
            alias: None,
            metadata: std::collections::BTreeMap::new(),
            env_vars: std::collections::BTreeMap::new(),
            envd_access_token: Some("bench".to_owned().into()),
            traffic_access_token: None,
            allow_internet_access: None,
            network: None,
            lifecycle: hearth_control::Lifecycle::default(),
            volume_mounts: Vec::new(),
        };
        Ok(self.node.create(config, end_at()).await?)
    }

    async fn own_bytes(&self, build: BuildId) -> anyhow::Result<u64> {
        let all = self.store.list_all().await?.into_iter();
        let mut found = all.filter(|(found, _)| found.manifest.build_id == build);
        Ok(found.next().map_or(0, |(_, bytes)| bytes))
    }
}

fn end_at() -> chrono::DateTime<Utc> {
    Utc::now() + chrono::TimeDelta::hours(1)
}

fn agent(sandbox: &NodeSandbox) -> anyhow::Result<AgentClient> {
    let address = sandbox.address.context("the sandbox has no address")?;
    let agent = Agent::new(address).with_token(Some("bench"))?;
    Ok(agent.client(LIMIT)?)
}

async fn exec(sandbox: &NodeSandbox, line: &str) -> anyhow::Result<()> {
    let command = Command::new("/bin/sh").args(["-c", line]).user("root");
    let output = agent(sandbox)?.run(command.timeout(LIMIT)).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.exit.code == 0, "{line:?} failed: {errors}");
    Ok(())
}

/// Lets the guest hold `mib` MiB of memory that it has written.
async fn dirty(sandbox: &NodeSandbox, mib: u32) -> anyhow::Result<()> {
    if mib == 0 {
        return exec(sandbox, "true").await;
    }
    // Not from the random device: under emulation that alone takes a minute. Every
    // page differs, and none is zeros.
    let line = format!(
        "mount -o remount,size=100% /dev/shm; python3 -c \"
import os
block = os.urandom(1 << 20)
with open('/dev/shm/dirty', 'wb') as file:
    for number in range({mib}):
        file.write(number.to_bytes(8, 'little') + block[8:])
\""
    );
    exec(sandbox, &line).await
}

/// Copies memory that is in no cache, page by page into fresh memory.
fn copy(mib: u32) -> Duration {
    let bytes = usize::try_from(mib).unwrap_or_default() << 20;
    let source = vec![1_u8; bytes];
    let begun = Instant::now();
    let copy = source.clone();
    let took = begun.elapsed();
    std::hint::black_box(copy);
    took
}

/// Asks the agent for its health over and over, and knows the longest wait.
struct Silence {
    stop: oneshot::Sender<()>,
    asking: tokio::task::JoinHandle<anyhow::Result<Duration>>,
}

impl Silence {
    async fn watch(sandbox: &NodeSandbox) -> anyhow::Result<Self> {
        let address = sandbox.address.context("the sandbox has no address")?;
        let mut stream = TcpStream::connect((address, AGENT_PORT)).await?;
        stream.set_nodelay(true)?;
        ask(&mut stream).await?;
        let (stop, mut stopped) = oneshot::channel();
        let asking = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let begun = Instant::now();
                ask(&mut stream).await?;
                longest = longest.max(begun.elapsed());
            }
            Ok(longest)
        });
        Ok(Self { stop, asking })
    }

    async fn longest(self) -> anyhow::Result<Duration> {
        let _ = self.stop.send(());
        self.asking.await?
    }
}

async fn ask(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: guest\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut part = [0; 512];
        let count = stream.read(&mut part).await?;
        anyhow::ensure!(count > 0, "the agent hung up");
        answer.extend_from_slice(&part[..count]);
    }
    Ok(())
}
