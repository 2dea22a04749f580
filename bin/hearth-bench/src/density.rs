//! What sandboxes cost in memory: the proportional set size (`Pss` of
//! `/proc/<pid>/smaps_rollup`) of the daemon and of every VM process. A page that
//! several VMs share, as those of a template's image, counts once in the sum.

use crate::installation::Installation;
use anyhow::Context;
use hearth_client::{Command, NewSandbox, SandboxId};
use serde::Serialize;
use std::fmt;

/// Seconds that the sandboxes live if their kill never arrives.
const LIFETIME_SECONDS: i64 = 900;

#[derive(Debug, Serialize)]
pub struct Report {
    pub sandboxes: u32,
    /// VM processes, those of sandboxes made ahead among them.
    pub vm_processes: usize,
    pub daemon_bytes: u64,
    pub vm_bytes: u64,
    pub total_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        writeln!(
            formatter,
            "{} sandboxes alive ({} VM processes): {} MiB, of which the daemon {} MiB; {} MiB per VM",
            self.sandboxes,
            self.vm_processes,
            mib(self.total_bytes),
            mib(self.daemon_bytes),
            mib(self.vm_bytes / self.vm_processes.max(1) as u64),
        )
    }
}

/// Creates the sandboxes, runs a line in each, and measures while all are alive.
pub async fn measure(installation: &Installation, sandboxes: u32) -> anyhow::Result<Report> {
    let control = installation.client()?;
    let new = NewSandbox {
        template_id: "base".to_owned(),
        timeout: Some(LIFETIME_SECONDS),
        ..NewSandbox::default()
    };
    let mut made = Vec::new();
    let mut use_all = async || -> anyhow::Result<Report> {
        for _ in 0..sandboxes {
            let created = control
                .sandbox_create(&new)
                .await
                .context("create a sandbox")?;
            made.push(SandboxId::parse_client(&created.sandbox_id)?);
            let sandbox = control.sandbox_client(&created)?;
            sandbox
                .run(Command::shell("echo hi"))
                .await
                .context("run a line")?;
        }
        report(installation, sandboxes)
    };
    let result = use_all().await;
    for id in &made {
        control.sandbox_kill(id).await.context("end a sandbox")?;
    }
    result
}

fn report(installation: &Installation, sandboxes: u32) -> anyhow::Result<Report> {
    let daemon = installation.daemon()?;
    let marker = hearth_layout::sandbox_sockets_dir(&installation.run_dir);
    let marker = marker.to_str().context("the run directory is not text")?;
    let vms = hearth_machine::processes::naming(marker);
    let vm_bytes = vms
        .iter()
        .map(|pid| proportional_bytes(*pid))
        .sum::<anyhow::Result<u64>>()?;
    let daemon_bytes = proportional_bytes(daemon)?;
    Ok(Report {
        sandboxes,
        vm_processes: vms.len(),
        daemon_bytes,
        vm_bytes,
        total_bytes: daemon_bytes + vm_bytes,
    })
}

/// `Pss` of a process in bytes.
fn proportional_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))
        .and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1024)
        .with_context(|| format!("{path} has no Pss"))
}
