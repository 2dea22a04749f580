//! Builds upon the base template: three commands, all of them run and all of them
//! cached; and what each further step adds.

use crate::installation::Installation;
use anyhow::{Context, bail};
use hearth_control::{BuildSource, BuildStep, Node, NodeBuildSpec, NodeBuildState, TemplateNode};
use hearth_ids::{BuildId, TeamId, TemplateId};
use hearth_measure::{Report, Samples};
use hearth_node_client::NodeClient;
use hearth_snapshot::{BuildCache, Kind, LocalStore};
use std::time::{Duration, Instant};

const COLD: &str = "build of 3 steps, nothing cached";
const CACHED: &str = "build of 3 steps, all cached";
const MORE_COLD: &str = "build of 13 steps, nothing cached";
const MORE_CACHED: &str = "build of 13 steps, all cached";
const FEW: usize = 3;
const MORE: usize = 13;
const WAIT: Duration = Duration::from_secs(10);

pub async fn measure(
    installation: &Installation,
    runs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let bench = Bench {
        node: installation.node(),
        base: base(&installation.builds()?).await?,
        // A cache of their own.
        team: TeamId::random(),
    };
    let [mut cold, mut cached, mut more_cold, mut more_cached] =
        std::array::from_fn(|_| Samples::default());
    for _ in 0..runs {
        for (count, cold, cached) in [
            (FEW, &mut cold, &mut cached),
            (MORE, &mut more_cold, &mut more_cached),
        ] {
            let steps = commands(count);
            let (first, took) = bench.build(&steps).await?;
            cold.push(took);
            // The second result is the first's files: both are there until then.
            let again = bench.build(&steps).await;
            bench.remove(first).await?;
            let (second, took) = again?;
            cached.push(took);
            bench.remove(second).await?;
        }
    }
    report.push(COLD, &cold);
    report.push(CACHED, &cached);
    report.push(MORE_COLD, &more_cold);
    report.push(MORE_CACHED, &more_cached);
    Ok(())
}

/// What one step costs, by the difference that ten of them make.
pub fn compare(report: &Report) {
    for (few, more, what) in [
        (COLD, MORE_COLD, "a step that is run"),
        (CACHED, MORE_CACHED, "a cached step"),
    ] {
        if let (Some(few), Some(more)) = (report.row(few), report.row(more)) {
            let each = (more.p50_ms - few.p50_ms) / (MORE - FEW) as f64;
            println!("{what}: {each:.1} ms");
        }
    }
}

/// Commands that were never run before: small ones, so that the time is ours.
fn commands(count: usize) -> Vec<String> {
    let nonce = uuid::Uuid::new_v4();
    (0..count)
        .map(|number| format!("echo {nonce} > ~/step-{number}"))
        .collect()
}

async fn base(store: &LocalStore) -> anyhow::Result<BuildId> {
    let mut builds = store.list().await?.into_iter();
    let newest =
        builds.rfind(|build| build.kind == Kind::Template && build.name.as_deref() == Some("base"));
    let newest = newest.context("no base template is prepared: run `hearth up`")?;
    Ok(newest.build_id)
}

struct Bench {
    node: NodeClient,
    base: BuildId,
    team: TeamId,
}

impl Bench {
    fn templates(&self) -> anyhow::Result<&dyn TemplateNode> {
        self.node
            .templates()
            .context("the node builds no templates")
    }

    /// From the order to a template that sandboxes can start from.
    async fn build(&self, commands: &[String]) -> anyhow::Result<(BuildId, Duration)> {
        let build_id = BuildId::random();
        let spec = NodeBuildSpec {
            build_id,
            template_id: TemplateId::random(),
            team: self.team,
            name: "bench".to_owned(),
            source: BuildSource::Build(self.base),
            steps: commands
                .iter()
                .map(|command| BuildStep {
                    kind: "RUN".to_owned(),
                    args: vec![command.clone()],
                    files_hash: String::new(),
                    force: false,
                })
                .collect(),
            start_command: String::new(),
            ready_command: String::new(),
            force: false,
            vcpus: 1,
            memory_mib: 512,
            min_free_disk_mib: 0,
        };
        let templates = self.templates()?;
        let begun = Instant::now();
        templates.template_build_start(spec).await?;
        let mut seen = 0;
        loop {
            let view = templates
                .template_build_view(build_id, seen, u32::MAX, WAIT)
                .await?;
            seen += view.entries.len() as u64;
            match view.state {
                NodeBuildState::Building => {}
                NodeBuildState::Ready { .. } => return Ok((build_id, begun.elapsed())),
                NodeBuildState::Failed { reason, .. } => bail!("the build failed: {reason}"),
            }
        }
    }

    async fn remove(&self, build: BuildId) -> anyhow::Result<()> {
        Ok(self.templates()?.template_build_remove(build).await?)
    }
}
