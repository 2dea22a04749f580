//! `hearth events`: what happened to sandboxes.

use super::client;
use crate::settings::Settings;
use chrono::SecondsFormat;
use hearth_client::{SandboxEvent, SandboxId};
use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

/// As many as one answer of the API holds.
const MOST: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those of this sandbox
    sandbox: Option<String>,
    /// Wait for more, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Events to begin with, from 1 to 100
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    lines: u32,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    let sandbox = args.sandbox.as_deref().map(SandboxId::parse_client);
    let sandbox = sandbox.transpose()?;
    let mut limit = args.lines;
    let mut seen: HashSet<String> = HashSet::new();
    loop {
        let found = match client.event_list(sandbox.as_ref(), limit).await {
            // One of which nothing is told yet.
            Err(error) if args.follow && error.status() == Some(404) => Vec::new(),
            found => found?,
        };
        for event in found.iter().rev() {
            if !seen.contains(&event.id) {
                print(event, args.json)?;
            }
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // What is not among the newest any more does not come again.
        if !found.is_empty() {
            seen = found.into_iter().map(|event| event.id).collect();
        }
        limit = MOST;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn print(event: &SandboxEvent, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(event)?);
        return Ok(());
    }
    let data = event.event_data.as_ref();
    // Metadata is a stranger's: JSON escapes what would move a cursor.
    let data = data.map(ToString::to_string).unwrap_or_default();
    let line = format!(
        "{}  {}  {}  {data}",
        event.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true),
        event.sandbox_id,
        event.r#type
    );
    println!("{}", line.trim_end());
    Ok(())
}
