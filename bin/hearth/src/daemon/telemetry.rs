//! The collection's view of this node's sandboxes.

use hearth_control::{LogEntry, LogLevel};
use hearth_node::{Node, SandboxState};
use hearth_telemetry::{Source, Target};
use std::net::SocketAddr;
use std::sync::Arc;

/// Port of the guest's agent.
const AGENT_PORT: u16 = 49983;

pub struct NodeSource(pub Arc<Node>);

impl Source for NodeSource {
    fn targets(&self) -> Vec<Target> {
        let running = |state| state == SandboxState::Running;
        let statuses = self.0.list().into_iter();
        statuses
            .filter(|status| running(status.state))
            .filter_map(|status| {
                let target = self.0.target(&status.spec.sandbox_id)?;
                Some(Target {
                    id: target.sandbox_id,
                    team_id: status.spec.team_id,
                    address: SocketAddr::from((target.address, AGENT_PORT)),
                    token: target.envd_access_token.map(Into::into),
                    started_at: status.started_at,
                    closed: target.closed,
                })
            })
            .collect()
    }
}

/// What guests log at the node: among what their sandbox told, and nowhere else.
#[derive(Debug)]
pub struct GuestLog(pub hearth_telemetry::EventLog);

impl hearth_egress::LogSink for GuestLog {
    fn log(&self, guest: &hearth_egress::Guest, message: serde_json::Value) {
        let identity = &guest.identity;
        let Ok(team_id) = identity.team_id.parse() else {
            return;
        };
        self.0.add(hearth_telemetry::Event {
            sandbox_id: identity.sandbox_id.clone(),
            team_id,
            entry: entry(&message),
        });
    }
}

/// The entry that a message becomes: its own text where it says one, else all of it.
fn entry(message: &serde_json::Value) -> LogEntry {
    let text = |name: &str| message.get(name).and_then(serde_json::Value::as_str);
    let level = match text("level").map(str::to_ascii_lowercase).as_deref() {
        Some("debug" | "trace") => LogLevel::Debug,
        Some("warn" | "warning") => LogLevel::Warn,
        Some("error" | "fatal" | "critical") => LogLevel::Error,
        _ => LogLevel::Info,
    };
    LogEntry {
        timestamp: chrono::Utc::now(),
        level,
        message: text("message").map_or_else(|| message.to_string(), str::to_owned),
        fields: [("logger".to_owned(), "events".to_owned())].into(),
    }
}
