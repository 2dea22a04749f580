//! `hearth node`: the machines that sandboxes run on, through the running daemon; who may be
//! one is in `membership`.

use super::output::{Format, relative};
use super::{client, membership};
use crate::settings::Settings;
use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Subcommand;
use hearth_client::{ControlClient, Node, NodeStatus};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// How often a node that is drained is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether this becomes a daemon.
    pub fn is_daemon(&self) -> bool {
        matches!(self.command, Command::Run(_))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Known(Known),
    #[command(flatten)]
    Membership(membership::Command),
    /// Run this machine as a node of the cluster that it has joined, and nothing else
    Run(super::serve::Args),
}

/// What is asked of the API.
#[derive(Debug, Subcommand)]
enum Known {
    /// List the nodes with their status and what they hold
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
    /// Show all that is known of a node
    Show {
        /// Name or ID
        node: String,
        #[command(flatten)]
        format: Format,
    },
    /// Place no new sandboxes on a node; what runs there goes on
    Cordon {
        /// Name or ID
        node: String,
    },
    /// Let a node take sandboxes again
    Uncordon {
        /// Name or ID
        node: String,
    },
    /// Cordon a node and wait until no sandbox runs there
    Drain {
        /// Name or ID
        node: String,
        /// Give up waiting after so long; the node stays cordoned [default: never]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Forget a node that does not run any more
    #[command(visible_alias = "rm")]
    Remove {
        /// Name or ID
        node: String,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Known(command) => through_the_api(&client(settings)?, command).await?,
        Command::Membership(command) => membership::run(settings, command).await?,
        Command::Run(args) => super::serve::run_node(settings, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn through_the_api(client: &ControlClient, command: Known) -> anyhow::Result<()> {
    match command {
        Known::Ls { format } => list(client, format).await,
        Known::Show { node, format } => {
            let found = find(client, &node).await?;
            show(&client.node(&found.id).await?, format)
        }
        Known::Cordon { node } => set(client, &node, NodeStatus::Draining).await,
        Known::Uncordon { node } => set(client, &node, NodeStatus::Ready).await,
        Known::Drain { node, timeout } => {
            drain(client, &node, timeout.map(Duration::from_secs)).await
        }
        Known::Remove { node } => {
            let found = find(client, &node).await?;
            client.node_remove(&found.id).await?;
            println!("{}", found.id);
            Ok(())
        }
    }
}

fn status(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Ready => "ready",
        NodeStatus::Draining => "draining",
        NodeStatus::Connecting => "connecting",
        NodeStatus::Unhealthy => "unhealthy",
        NodeStatus::Standby => "standby",
    }
}

fn gib(bytes: u64) -> String {
    let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    format!("{:.1}", f64::from(mib) / 1024.0)
}

/// How long ago a node last reported.
fn last_heartbeat(node: &Node) -> String {
    let last = node.last_heartbeat_at;
    last.map_or_else(|| "never".to_owned(), |at| relative(at, Utc::now()))
}

async fn list(client: &ControlClient, format: Format) -> anyhow::Result<()> {
    let nodes = client.node_list().await?;
    let rows = nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.id.clone(),
            status(node.status).to_owned(),
            format!("{}/{}", node.sandbox_count, node.max_sandboxes),
            format!("{}/{}", node.metrics.allocated_cpu, node.metrics.cpu_count),
            format!(
                "{}/{}",
                gib(node.metrics.memory_used_bytes),
                gib(node.metrics.memory_total_bytes)
            ),
            last_heartbeat(node),
            node.version.clone(),
        ]
    });
    let header = [
        "NAME",
        "NODE",
        "STATUS",
        "SANDBOXES",
        "VCPUS",
        "GIB USED",
        "LAST HEARTBEAT",
        "VERSION",
    ];
    format.print(&nodes, header, rows)
}

fn show(node: &Node, format: Format) -> anyhow::Result<()> {
    let metrics = &node.metrics;
    let labels: Vec<String> = node
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut rows = vec![
        ["name".to_owned(), node.name.clone()],
        ["id".to_owned(), node.id.clone()],
        ["status".to_owned(), status(node.status).to_owned()],
        ["since".to_owned(), node.status_changed_at.to_rfc3339()],
        ["last heartbeat".to_owned(), last_heartbeat(node)],
        ["address".to_owned(), node.address.clone()],
        ["labels".to_owned(), labels.join(", ")],
        ["version".to_owned(), node.version.clone()],
        ["generation".to_owned(), node.generation.to_string()],
        ["cluster".to_owned(), node.cluster_id.clone()],
        [
            "sandboxes".to_owned(),
            format!("{} of {}", node.sandbox_count, node.max_sandboxes),
        ],
        [
            "creates".to_owned(),
            format!(
                "{} made, {} failed",
                node.create_successes, node.create_fails
            ),
        ],
        [
            "processors".to_owned(),
            format!(
                "{}, {} % busy, {} allocated",
                metrics.cpu_count, metrics.cpu_percent, metrics.allocated_cpu
            ),
        ],
        [
            "memory".to_owned(),
            format!(
                "{} of {} GiB used, {} allocated",
                gib(metrics.memory_used_bytes),
                gib(metrics.memory_total_bytes),
                gib(metrics.allocated_memory_bytes)
            ),
        ],
        [
            "machine".to_owned(),
            node.machine_info.cpu_model_name.clone(),
        ],
    ];
    if let Some(problem) = &node.problem {
        rows.push(["problem".to_owned(), problem.clone()]);
    }
    for disk in &metrics.disks {
        rows.push([
            format!("disk {}", disk.mount_point),
            format!(
                "{} of {} GiB used ({})",
                gib(disk.used_bytes),
                gib(disk.total_bytes),
                disk.filesystem_type
            ),
        ]);
    }
    format.print(node, ["FIELD", "VALUE"], rows)
}

/// The node of this name or ID.
async fn find(client: &ControlClient, wanted: &str) -> anyhow::Result<Node> {
    let nodes = client.node_list().await?;
    // Another node may have taken it for its name.
    if let Some(found) = nodes.iter().find(|node| node.id == wanted) {
        return Ok(found.clone());
    }
    let mut named = nodes.into_iter().filter(|node| node.name == wanted);
    let found = named
        .next()
        .with_context(|| format!("there is no node {wanted:?}: see `hearth node ls`"))?;
    if named.next().is_some() {
        bail!("several nodes are called {wanted:?}: name one by its ID, see `hearth node ls`");
    }
    Ok(found)
}

async fn set(client: &ControlClient, wanted: &str, status: NodeStatus) -> anyhow::Result<()> {
    let node = find(client, wanted).await?;
    client.node_set_status(&node.id, status).await?;
    println!("{}", node.id);
    Ok(())
}

async fn drain(
    client: &ControlClient,
    wanted: &str,
    timeout: Option<Duration>,
) -> anyhow::Result<()> {
    let node = find(client, wanted).await?;
    client
        .node_set_status(&node.id, NodeStatus::Draining)
        .await?;
    let started = Instant::now();
    let mut told = None;
    loop {
        let now = client.node(&node.id).await?;
        if now.status == NodeStatus::Unhealthy {
            bail!(
                "{} sends no heartbeats: what runs there is unknown",
                now.name
            );
        }
        let left = now.sandbox_count;
        if left == 0 {
            break;
        }
        if told != Some(left) {
            eprintln!("{} still runs {left} sandboxes", now.name);
            told = Some(left);
        }
        if timeout.is_some_and(|limit| started.elapsed() >= limit) {
            bail!(
                "{} still runs {left} sandboxes; it takes no new ones",
                now.name
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    println!("{}", node.id);
    Ok(())
}
