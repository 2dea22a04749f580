//! `hearth sandbox show`: all that the API says of one sandbox.

use super::output::{Format, relative};
use chrono::Utc;
use hearth_client::{ControlClient, OnTimeout, SandboxDetail, SandboxId, SandboxState};

/// Prints it, as a list of names and values or as JSON.
pub async fn run(client: &ControlClient, id: &SandboxId, format: Format) -> anyhow::Result<()> {
    let sandbox = client.sandbox(id).await?;
    format.print(
        &sandbox,
        ["SANDBOX".to_owned(), sandbox.sandbox_id.clone()],
        rows(&sandbox),
    )
}

fn rows(sandbox: &SandboxDetail) -> Vec<[String; 2]> {
    let now = Utc::now();
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    let running = sandbox.state == SandboxState::Running;
    row(
        "State",
        if running { "running" } else { "paused" }.to_owned(),
    );
    let template = match &sandbox.alias {
        Some(alias) => format!("{alias} ({})", sandbox.template_id),
        None => sandbox.template_id.clone(),
    };
    row("Template", template);
    row("Started", relative(sandbox.started_at, now));
    if running {
        let then = match sandbox.lifecycle.on_timeout {
            OnTimeout::Pause => "pauses",
            OnTimeout::Kill => "ends",
        };
        row(
            "Time over",
            format!("{}, then {then}", relative(sandbox.end_at, now)),
        );
    }
    row("Wakes on access", yes_or_no(sandbox.lifecycle.auto_resume));
    row("CPUs", sandbox.cpu_count.to_string());
    row("Memory", format!("{} MiB", sandbox.memory_mb));
    row("Disk", format!("{} MiB", sandbox.disk_size_mb));
    row("Agent", sandbox.envd_version.clone());
    row("Domain", sandbox.domain.clone());
    row(
        "Internet access",
        yes_or_no(sandbox.allow_internet_access != Some(false)),
    );
    for (name, value) in &sandbox.metadata {
        row("Metadata", format!("{name}={value}"));
    }
    rows
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
