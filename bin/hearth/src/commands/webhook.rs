//! `hearth webhook`: where events are sent, and what came of that.

use super::output::Format;
use super::{client, input};
use crate::settings::Settings;
use anyhow::{Context, ensure};
use clap::Subcommand;
use hearth_client::{ControlClient, DeliveryStatus, NewWebhook, Webhook};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send events to a URL; the secret that signs them is read from standard input
    Create {
        /// For people
        name: String,
        /// Where to, by http or https
        url: String,
        /// A type of events, such as `sandbox.lifecycle.killed`; may be repeated
        #[arg(long = "event", required = true, value_name = "TYPE")]
        events: Vec<String>,
    },
    /// List webhooks
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
    /// Print a webhook as JSON
    Show {
        /// Name or ID
        webhook: String,
    },
    /// Delete a webhook; what was to be delivered is not any more
    Rm {
        /// Name or ID
        webhook: String,
    },
    /// List the newest deliveries
    Deliveries {
        /// Name or ID
        webhook: String,
        #[command(flatten)]
        format: Format,
    },
    /// Deliver an event once more
    Redeliver {
        /// Name or ID
        webhook: String,
        /// ID of the event, as `hearth webhook deliveries` shows it
        event: String,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    match args.command {
        Command::Create { name, url, events } => {
            let new = NewWebhook {
                name,
                url,
                events,
                signature_secret: input::secret("openssl rand -hex 32 | hearth webhook create …")?,
                enabled: None,
            };
            println!("{}", client.webhook_create(&new).await?.id);
        }
        Command::Ls { format } => list(&client, format).await?,
        Command::Show { webhook } => {
            let found = find(&client, &webhook).await?;
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
        Command::Rm { webhook } => {
            let found = find(&client, &webhook).await?;
            ensure!(
                client.webhook_delete(&found.id).await?,
                "the webhook {webhook:?} was deleted meanwhile"
            );
        }
        Command::Deliveries { webhook, format } => deliveries(&client, &webhook, format).await?,
        Command::Redeliver { webhook, event } => {
            let found = find(&client, &webhook).await?;
            let event: uuid::Uuid = event.parse().context("read the ID of the event")?;
            let event = event.to_string();
            client.webhook_redeliver(&found.id, &event).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The webhook of this ID, or else the one of this name.
async fn find(client: &ControlClient, wanted: &str) -> anyhow::Result<Webhook> {
    let mut all = client.webhook_list().await?;
    if let Some(index) = all.iter().position(|webhook| webhook.id == wanted) {
        return Ok(all.swap_remove(index));
    }
    all.retain(|webhook| webhook.name == wanted);
    ensure!(
        all.len() < 2,
        "several webhooks have the name {wanted:?}: use an ID of `hearth webhook ls`"
    );
    all.pop()
        .with_context(|| format!("there is no webhook {wanted:?}: see `hearth webhook ls`"))
}

async fn list(client: &ControlClient, format: Format) -> anyhow::Result<()> {
    let all = client.webhook_list().await?;
    let rows = all.iter().map(|webhook| {
        let state = match (webhook.enabled, &webhook.disabled_reason) {
            (true, _) => "enabled",
            (false, Some(_)) => "failed",
            (false, None) => "disabled",
        };
        [
            webhook.id.clone(),
            webhook.name.clone(),
            state.to_owned(),
            webhook.url.clone(),
            webhook.events.join(","),
        ]
    });
    format.print(&all, ["WEBHOOK", "NAME", "STATE", "URL", "EVENTS"], rows)
}

async fn deliveries(client: &ControlClient, name: &str, format: Format) -> anyhow::Result<()> {
    let webhook = find(client, name).await?;
    let all = client.webhook_deliveries(&webhook.id, 100).await?;
    let rows = all.iter().map(|delivery| {
        [
            delivery.event_id.clone(),
            delivery.event_type.clone(),
            delivery.sandbox_id.clone(),
            status(delivery.status).to_owned(),
            delivery.attempts.len().to_string(),
        ]
    });
    let header = ["EVENT", "TYPE", "SANDBOX", "STATUS", "ATTEMPTS"];
    format.print(&all, header, rows)
}

fn status(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Pending => "pending",
        DeliveryStatus::Success => "success",
        DeliveryStatus::Failed => "failed",
    }
}
