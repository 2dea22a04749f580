//! Many sandboxes asked for at once, each answering a command, beside what one costs alone.
//!
//! The baseline is processor time, as it does not depend on what else the machine does: that
//! of a sandbox made with nothing else going on, daemon and VM process together, times the
//! number of sandboxes, over the processors. No order of work takes less wall time.

use crate::{installation::Installation, processes::processor_time};
use anyhow::Context;
use hearth_client::{Command, ControlClient, NewSandbox, SandboxId};
use serde::Serialize;
use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

/// Seconds that the sandboxes live if their kill never arrives.
const LIFETIME_SECONDS: i64 = 900;
/// Sandboxes in a burst.
const MOST: usize = 1000;
/// Quiet before each burst: the warm pool is full again.
const PAUSE: Duration = Duration::from_secs(3);

/// One line per number of sandboxes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processors that the daemon may use.
    pub processors: usize,
    pub bursts: Vec<Burst>,
}

/// Times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Burst {
    pub sandboxes: usize,
    pub wall_ms: f64,
    pub create_p50_ms: f64,
    pub create_max_ms: f64,
    /// From the request to the end of the first command.
    pub tti_p50_ms: f64,
    pub tti_max_ms: f64,
    /// Processor time of the daemon and of VM processes, by sandbox.
    pub processor_ms: f64,
    /// Wall time as a multiple of the baseline; none for the first burst, which is it.
    pub times_baseline: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{} processors; times in ms", self.processors)?;
        writeln!(
            formatter,
            "{:>9} {:>8} {:>10} {:>10} {:>8} {:>8} {:>12} {:>9}",
            "sandboxes",
            "wall",
            "create p50",
            "create max",
            "TTI p50",
            "TTI max",
            "CPU each",
            "x baseline"
        )?;
        for burst in &self.bursts {
            let times = burst
                .times_baseline
                .map_or("-".to_owned(), |times| format!("{times:.2}"));
            writeln!(
                formatter,
                "{:>9} {:>8.0} {:>10.0} {:>10.0} {:>8.0} {:>8.0} {:>12.0} {:>9}",
                burst.sandboxes,
                burst.wall_ms,
                burst.create_p50_ms,
                burst.create_max_ms,
                burst.tti_p50_ms,
                burst.tti_max_ms,
                burst.processor_ms,
                times
            )?;
        }
        Ok(())
    }
}

/// Makes one sandbox for the baseline, then as many at once as `sizes` say, in turn.
pub async fn measure(installation: &Installation, sizes: &[usize]) -> anyhow::Result<Report> {
    anyhow::ensure!(
        sizes.iter().all(|size| (1..=MOST).contains(size)),
        "1 to {MOST} sandboxes at once"
    );
    let control = installation.client()?;
    let processors = std::thread::available_parallelism()?.get();
    // The first one of all warms the machine up.
    burst(installation, &control, 1).await?;
    let alone = burst(installation, &control, 1).await?;
    let each = alone.processor_ms;
    let mut bursts = vec![alone];
    for size in sizes {
        let mut next = burst(installation, &control, *size).await?;
        let baseline = each * count(*size) / count(processors);
        next.times_baseline = Some(next.wall_ms / baseline.max(f64::EPSILON));
        bursts.push(next);
    }
    Ok(Report { processors, bursts })
}

async fn burst(
    installation: &Installation,
    control: &ControlClient,
    size: usize,
) -> anyhow::Result<Burst> {
    tokio::time::sleep(PAUSE).await;
    let before = Processors::read(installation)?;
    let begun = Instant::now();
    let all = futures::future::join_all((0..size).map(|_| one(control))).await;
    let wall = begun.elapsed();
    let used = Processors::read(installation).map(|now| now.since(&before));
    let (mut made, mut failed) = (Vec::new(), None);
    for one in all {
        match one {
            Ok(one) => made.push(one),
            Err(error) => failed = Some(error),
        }
    }
    for one in &made {
        control
            .sandbox_kill(&one.id)
            .await
            .context("end a sandbox")?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let of = |times: fn(&One) -> Duration| {
        let mut all: Vec<f64> = made.iter().map(|one| millis(times(one))).collect();
        all.sort_by(f64::total_cmp);
        let last = all.last().copied().unwrap_or_default();
        (all.get(all.len() / 2).copied().unwrap_or_default(), last)
    };
    let ((create_p50_ms, create_max_ms), (tti_p50_ms, tti_max_ms)) =
        (of(|one| one.created), of(|one| one.answered));
    Ok(Burst {
        sandboxes: size,
        wall_ms: millis(wall),
        create_p50_ms,
        create_max_ms,
        tti_p50_ms,
        tti_max_ms,
        processor_ms: millis(used?) / count(size),
        times_baseline: None,
    })
}

struct One {
    id: SandboxId,
    created: Duration,
    answered: Duration,
}

async fn one(control: &ControlClient) -> anyhow::Result<One> {
    let new = NewSandbox {
        template_id: "base".to_owned(),
        timeout: Some(LIFETIME_SECONDS),
        ..NewSandbox::default()
    };
    let begun = Instant::now();
    let made = control.sandbox_create(&new).await.context("create")?;
    let created = begun.elapsed();
    let id = SandboxId::parse_client(&made.sandbox_id)?;
    let answered = async {
        let sandbox = control.sandbox_client(&made)?;
        sandbox
            .run(Command::shell("echo hi"))
            .await
            .context("run a line")
    };
    if let Err(error) = answered.await {
        // Its own failure is the one to tell; its end time ends the sandbox otherwise.
        let _ = control.sandbox_kill(&id).await;
        return Err(error);
    }
    Ok(One {
        id,
        created,
        answered: begun.elapsed(),
    })
}

/// Processor time that the daemon and each VM process have had.
struct Processors(HashMap<u32, Duration>);

impl Processors {
    fn read(installation: &Installation) -> anyhow::Result<Self> {
        let marker = hearth_layout::sandbox_sockets_dir(&installation.run_dir);
        let marker = marker.to_str().context("the run directory is not text")?;
        let mut all = HashMap::new();
        for pid in hearth_machine::processes::naming(marker) {
            // One may end meanwhile.
            if let Ok(time) = processor_time(pid) {
                all.insert(pid, time);
            }
        }
        let daemon = installation.daemon()?;
        all.insert(daemon, processor_time(daemon)?);
        Ok(Self(all))
    }

    fn since(&self, before: &Self) -> Duration {
        let all = self.0.iter().map(|(pid, time)| {
            let earlier = before.0.get(pid).copied().unwrap_or_default();
            time.saturating_sub(earlier)
        });
        all.sum()
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of sandboxes and processors"
)]
fn count(number: usize) -> f64 {
    number as f64
}
