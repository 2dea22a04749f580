//! `hearth mcp`: sandboxes for an agent that speaks the Model Context Protocol.

use super::client;
use crate::{daemon, settings::Settings};
use std::{process::ExitCode, time::Duration};

/// Without rights of its own: it uses the API with this machine's key.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Template of sandboxes for which none is named: an ID, or `name[:tag]`
    #[arg(long, default_value = "base", value_name = "TEMPLATE")]
    template: String,
    /// Seconds that a sandbox lives after its last use
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Leave sandboxes to their timeouts when the session ends
    #[arg(long)]
    keep: bool,
}

/// Serves one session on standard input and output.
pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    // Standard output is the protocol's.
    daemon::log::quiet();
    let options = hearth_mcp::Options {
        template: args.template,
        timeout: Duration::from_secs(args.timeout),
        keep: args.keep,
    };
    let stopped = daemon::signals::Stop::listen()?;
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    let client = client(settings)?;
    hearth_mcp::serve(client, options, input, output, stopped.wait()).await?;
    Ok(ExitCode::SUCCESS)
}
