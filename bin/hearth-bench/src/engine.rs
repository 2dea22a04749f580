//! The engine alone: what restoring the base build takes, and saving it again, stage by
//! stage. No daemon takes part, but one has prepared the build.

use crate::installation::Installation;
use anyhow::Context;
use hearth_machine::qemu::{PROGRAM, QemuConfig, QemuEngine, probe};
use hearth_measure::{
    Report,
    engine::{Plan, restores},
};
use std::path::Path;

/// Restores the base build `runs` times.
pub async fn measure(installation: &Installation, runs: usize) -> anyhow::Result<Report> {
    let engine = tokio::task::spawn_blocking(|| {
        // By a user that is none of the sandboxes', as the daemon does.
        let accelerator = probe(Path::new(PROGRAM), hearth_network::DEFAULT_UIDS.0 - 1);
        QemuEngine::new(QemuConfig::new(accelerator)).context("start QEMU")
    })
    .await??;
    let builds = hearth_layout::builds_dir(&installation.state_dir);
    let work = installation.run_dir.join("bench");
    let stages = restores(&engine, &builds, &work, runs, Plan::Save).await?;
    let mut report = Report::default();
    report.push("restore", &stages.restore);
    report.push("pause and save", &stages.pause_and_save);
    report.push("find written memory", &stages.find_written);
    report.push("stop", &stages.stop);
    Ok(report)
}
