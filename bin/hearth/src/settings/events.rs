//! `[events]`: lifecycle events and webhooks.

use super::{Problem, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const LONGEST_DAYS: u32 = 365;

/// What is kept of events, and where webhooks may lead.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventSettings {
    /// Days for which events and deliveries are kept; 1 to 365.
    pub retention_days: u32,
    /// Events that are kept of one team; the oldest go first.
    pub events_per_team: u32,
    /// Webhooks that one team may have.
    pub webhooks_per_team: u32,
    /// Receivers that webhooks may reach though their addresses are not public, or are this
    /// host's own: `host`, `host:port`, or networks such as `10.1.0.0/16`.
    #[schemars(example = &["hooks.internal:8443", "10.1.0.0/16"])]
    pub private_receivers: Vec<String>,
}

impl Default for EventSettings {
    fn default() -> Self {
        let config = hearth_control::EventsConfig::default();
        Self {
            retention_days: u32::try_from(config.retention.num_days()).unwrap_or(LONGEST_DAYS),
            events_per_team: config.most_of_team,
            webhooks_per_team: config.webhooks_of_team,
            private_receivers: Vec::new(),
        }
    }
}

impl EventSettings {
    /// The control plane's form.
    pub fn config(&self) -> hearth_control::EventsConfig {
        hearth_control::EventsConfig {
            retention: chrono::TimeDelta::days(self.retention_days.into()),
            most_of_team: self.events_per_team,
            webhooks_of_team: self.webhooks_per_team,
        }
    }

    /// The deliverer's form.
    pub fn webhooks(&self, settings: &Settings) -> hearth_webhooks::Config {
        hearth_webhooks::Config {
            private: self.private_receivers.clone(),
            ca_file: settings.node.ca_file.clone(),
            ..hearth_webhooks::Config::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if !(1..=LONGEST_DAYS).contains(&self.retention_days) {
            return Err(Problem::new(
                "events.retention_days",
                format!("must be from 1 to {LONGEST_DAYS}"),
            ));
        }
        if self.events_per_team == 0 {
            return Err(Problem::new("events.events_per_team", "must be at least 1"));
        }
        Ok(())
    }
}
