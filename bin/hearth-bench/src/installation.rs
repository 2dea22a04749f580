//! Where the measured Hearth is: its directories and its API.

use anyhow::Context;
use hearth_client::ControlClient;
use hearth_node_client::NodeClient;
use hearth_snapshot::LocalStore;
use secrecy::{ExposeSecret as _, SecretString};
use std::path::PathBuf;

/// Which Hearth is measured; the variables are the daemon's and the SDKs'.
#[derive(Debug, clap::Args)]
pub struct Installation {
    /// The daemon's state directory
    #[arg(long, global = true, env = "HEARTH_STATE_DIR", default_value = hearth_layout::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// The daemon's run directory
    #[arg(long, global = true, env = "HEARTH_RUN_DIR", default_value = hearth_layout::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Base URL of the API
    #[arg(
        long,
        global = true,
        env = "E2B_API_URL",
        default_value = "http://localhost:3000"
    )]
    api_url: String,
    /// API key; without one, the first team's, which root can read
    #[arg(long, global = true, env = "E2B_API_KEY", hide_env_values = true)]
    api_key: Option<SecretString>,
}

impl Installation {
    /// A client of the API.
    pub fn client(&self) -> anyhow::Result<ControlClient> {
        let key = match &self.api_key {
            Some(key) => key.expose_secret().to_owned(),
            None => {
                let file = hearth_layout::api_key_file(&self.state_dir);
                std::fs::read_to_string(&file).with_context(|| {
                    format!(
                        "read the API key in {} (made by `hearth up`, readable by root); \
                         --api-key gives another",
                        file.display()
                    )
                })?
            }
        };
        Ok(ControlClient::new(&self.api_url, key.trim())?)
    }

    /// A client of the node's service.
    pub fn node(&self) -> NodeClient {
        NodeClient::unix(hearth_layout::node_socket(&self.run_dir))
    }

    /// The daemon's builds.
    pub fn builds(&self) -> anyhow::Result<LocalStore> {
        Ok(LocalStore::open(hearth_layout::builds_dir(
            &self.state_dir,
        ))?)
    }

    /// The daemon's process.
    pub fn daemon(&self) -> anyhow::Result<u32> {
        hearth_layout::lock::holder(&hearth_layout::pid_file(&self.run_dir))
            .with_context(|| format!("no Hearth is up in {}", self.run_dir.display()))
    }
}
