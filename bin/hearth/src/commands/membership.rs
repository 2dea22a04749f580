//! `hearth node token`, `join` and `revoke`: who may be a node.

use crate::daemon::{
    self,
    audit::{self, Action},
    node,
};
use crate::settings::Settings;
use anyhow::{Context as _, bail};
use clap::Subcommand;
use hearth_cluster::JoinToken;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a token that one machine can join with, once (on the control plane)
    Token {
        /// How long the token is good
        #[arg(long, value_name = "MINUTES", default_value_t = 30,
              value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
    },
    /// Join a cluster as a node (on the machine that is to be one)
    Join {
        /// Where the control plane listens for nodes, such as https://control.example.com:5009
        url: String,
        /// What `hearth node token` printed there; without it, it is read from standard input
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
    },
    /// Refuse a node from now on, also one that runs (on the control plane)
    Revoke {
        /// ID of the node
        node: Uuid,
    },
}

pub async fn run(settings: &Settings, command: Command) -> anyhow::Result<()> {
    daemon::log::quiet();
    match command {
        Command::Token { minutes } => token(settings, minutes).await,
        Command::Join { url, token } => join(settings, &url, token).await,
        Command::Revoke { node } => revoke(settings, node).await,
    }
}

/// Prints the token alone, for programs; how it is used goes to standard error.
async fn token(settings: &Settings, minutes: u64) -> anyhow::Result<()> {
    let store = daemon::open_store(settings).await?;
    let lifetime = Duration::from_secs(minutes * 60);
    let made = daemon::cluster::token(settings, store.as_ref(), lifetime).await;
    let action = Action::new("node.token", None, format!("for {minutes} minutes"));
    audit::operator(settings, action, made.is_ok());
    let (token, until) = made?;
    println!("{}", token.reveal());
    let port = settings.cluster.listen.map_or(0, |address| address.port());
    eprintln!(
        "Good once, until {}. On the machine that is to be a node:\n  hearth node join \
         https://{}:{port} --token TOKEN",
        until.format("%F %T UTC"),
        node::name(),
    );
    Ok(())
}

async fn join(settings: &Settings, url: &str, token: Option<String>) -> anyhow::Result<()> {
    let text = match token {
        Some(token) => token,
        None => super::input::secret("hearth node join URL < FILE")?,
    };
    let token: JoinToken = text.parse()?;
    daemon::make_state_dir(settings)?;
    let id = node::id(settings)?;
    let membership = hearth_membership::join(url, &token, id).await?;
    let file = settings.membership_file();
    membership.write(&file).context("keep the certificate")?;
    let until = membership.credentials()?.peer().not_after;
    let until = chrono::DateTime::<chrono::Utc>::from(until);
    println!("{id}");
    eprintln!(
        "This machine is a node of the cluster of {}; its certificate is good until {} and \
         renews itself. Start it with `hearth node run`, again where it runs already.",
        membership.control,
        until.format("%F"),
    );
    Ok(())
}

async fn revoke(settings: &Settings, node: Uuid) -> anyhow::Result<()> {
    let store = daemon::open_store(settings).await?;
    let revoked = store.node_identity_revoke(node).await;
    let action = Action::new("node.revoke", None, node.to_string());
    audit::operator(settings, action, matches!(revoked, Ok(true)));
    if !revoked? {
        bail!(
            "no node {node} has joined here: see `hearth node ls`; the daemon's own node cannot \
             be revoked"
        );
    }
    println!("{node}");
    Ok(())
}
