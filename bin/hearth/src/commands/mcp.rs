//! `hearth mcp`: sandboxes for an agent that speaks the Model Context Protocol.

use super::client;
use crate::{daemon, settings::Settings};
use anyhow::Context as _;
use hearth_client::ControlClient;
use std::{process::ExitCode, time::Duration};

/// Who is asked, and with which key; as `hearth env` exports them.
const API_URL: &str = "E2B_API_URL";
const API_KEY: &str = "E2B_API_KEY";

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

/// With a key in the environment, anybody's, who need not be root and may be on another
/// machine; else with that of this machine.
fn api(settings: &Settings) -> anyhow::Result<ControlClient> {
    match std::env::var(API_KEY) {
        Ok(key) => {
            let url = std::env::var(API_URL).unwrap_or_else(|_| settings.api_url());
            ControlClient::new(&url, &key).with_context(|| format!("use {API_URL} and {API_KEY}"))
        }
        Err(_) => client(settings),
    }
}

/// Serves one session on standard input and output.
pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    // Standard output is the protocol's.
    daemon::log::quiet();
    let options = hearth_mcp::Options {
        template: args.template,
        timeout: Duration::from_secs(args.timeout),
        tls: settings.tls.port != 0,
        keep: args.keep,
    };
    let stopped = daemon::signals::Stop::listen()?;
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    let client = api(settings)?;
    hearth_mcp::serve(client, options, input, output, stopped.wait()).await?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread may still read standard input, which nobody may ever close"
    )]
    std::process::exit(0)
}
