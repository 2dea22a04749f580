//! `hearth template tag` and `untag`: names for builds.

use anyhow::Context as _;
use hearth_client::ControlClient;
use std::process::ExitCode;

pub async fn assign(
    client: &ControlClient,
    target: &str,
    tags: &[String],
) -> anyhow::Result<ExitCode> {
    let assigned = client.template_tags_assign(target, tags).await;
    let assigned = assigned.with_context(|| format!("tag {target}"))?;
    println!("{} {}", assigned.build_id, assigned.tags.join(" "));
    Ok(ExitCode::SUCCESS)
}

pub async fn remove(
    client: &ControlClient,
    template: &str,
    tags: &[String],
) -> anyhow::Result<ExitCode> {
    let removed = client.template_tags_delete(template, tags).await;
    removed.with_context(|| format!("take tags from {template}"))?;
    Ok(ExitCode::SUCCESS)
}
