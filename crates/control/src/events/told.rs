//! What a node tells of its sandboxes' lives, and how it becomes an event.

use super::types;
use crate::network::NetworkSettings;
use chrono::{DateTime, SecondsFormat, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use hearth_store::Event;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use uuid::Uuid;

/// What happened to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEventKind {
    Created,
    Updated,
    Paused,
    Resumed,
    Checkpointed,
    Forked,
    RolledBack,
    Killed,
}

/// An event as its node tells it, until it is acknowledged.
#[derive(Debug, Clone)]
pub struct NodeEvent {
    pub kind: NodeEventKind,
    pub sandbox_id: SandboxId,
    /// Among the events of the sandbox, from 1.
    pub sequence: u64,
    pub execution_id: ExecutionId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub metadata: BTreeMap<String, String>,
    pub at: DateTime<Utc>,
    pub started_at: DateTime<Utc>,
    /// When the execution had ended, where that was before the event.
    pub ended_at: Option<DateTime<Utc>>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub reason: Option<String>,
    /// The end time that was set.
    pub end_at: Option<DateTime<Utc>>,
    /// The network settings that were set.
    pub network: Option<NetworkSettings>,
    /// The build that was made, or gone back to.
    pub subject_build: Option<BuildId>,
    pub forked_from: Option<SandboxId>,
}

/// What a node tells at once.
#[derive(Debug, Clone, Default)]
pub struct NodeEvents {
    /// Numbers to acknowledge, also those of what makes no sense.
    pub numbers: Vec<u64>,
    /// In their order.
    pub events: Vec<NodeEvent>,
}

impl NodeEventKind {
    fn names(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Created => (types::CREATED, Some("create")),
            Self::Updated => (types::UPDATED, Some("update")),
            Self::Paused => (types::PAUSED, Some("pause")),
            Self::Resumed => (types::RESUMED, Some("resume")),
            Self::Checkpointed => (types::CHECKPOINTED, None),
            Self::Forked => (types::FORKED, Some("fork")),
            Self::RolledBack => (types::ROLLED_BACK, Some("rollback")),
            Self::Killed => (types::KILLED, Some("kill")),
        }
    }
}

impl NodeEvent {
    /// The event that is kept. Told twice, it has one id.
    pub(crate) fn event(self) -> Event {
        let (event_type, label) = self.kind.names();
        let data = self.data();
        Event {
            id: self.id(event_type),
            team_id: self.team_id,
            event_type: event_type.to_owned(),
            category: label.map(|_| "lifecycle".to_owned()),
            label: label.map(str::to_owned),
            data: (!data.is_empty()).then(|| Value::Object(data).to_string()),
            occurred_at: self.at,
            sandbox_id: Some(self.sandbox_id),
            execution_id: Some(self.execution_id),
            template_id: Some(self.template_id),
            build_id: Some(self.build_id),
        }
    }

    fn id(&self, event_type: &str) -> Uuid {
        let mut digest = Sha256::new();
        for part in [
            "hearth event",
            self.sandbox_id.as_str(),
            &self.execution_id.to_string(),
            &self.sequence.to_string(),
            event_type,
        ] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    fn data(&self) -> Map<String, Value> {
        let mut data = Map::new();
        if !self.metadata.is_empty() {
            data.insert("sandbox_metadata".to_owned(), json!(self.metadata));
        }
        match self.kind {
            NodeEventKind::Paused => {
                data.insert("execution".to_owned(), self.execution());
                if let Some(reason) = &self.reason {
                    data.insert("pause_reason".to_owned(), json!(reason));
                }
            }
            NodeEventKind::Killed => {
                data.insert("execution".to_owned(), self.execution());
                let reason = self.reason.as_deref().unwrap_or("unknown");
                data.insert("kill_reason".to_owned(), json!(reason));
            }
            _ => {}
        }
        if let Some(end) = self.end_at {
            data.insert("set_timeout".to_owned(), json!(rfc3339(end)));
        }
        if let Some(network) = &self.network {
            data.insert("network_egress".to_owned(), egress(network));
        }
        if let Some(build) = self.subject_build {
            data.insert("snapshot_build_id".to_owned(), json!(build.to_string()));
        }
        if let Some(source) = &self.forked_from {
            data.insert("forked_from".to_owned(), json!(source.as_str()));
        }
        data
    }

    fn execution(&self) -> Value {
        let until = self.ended_at.unwrap_or(self.at);
        json!({
            "started_at": rfc3339(self.started_at),
            "vcpu_count": self.vcpus,
            "memory_mb": self.memory_mib,
            "execution_time": (until - self.started_at).num_milliseconds().max(0),
        })
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Destinations, addresses and names apart.
fn egress(network: &NetworkSettings) -> Value {
    let is_address =
        |entry: &&String| entry.parse::<IpNet>().is_ok() || entry.parse::<IpAddr>().is_ok();
    let split = |entries: &Option<Vec<String>>| -> (Vec<String>, Vec<String>) {
        let entries = entries.iter().flatten();
        let (cidrs, names): (Vec<&String>, Vec<&String>) = entries.partition(is_address);
        let owned = |list: Vec<&String>| list.into_iter().cloned().collect();
        (owned(cidrs), owned(names))
    };
    let (allowed_cidrs, allowed_domains) = split(&network.allow_out);
    let (denied_cidrs, denied_hosts) = split(&network.deny_out);
    let mut shown = json!({
        "allowed_cidrs": allowed_cidrs,
        "denied_cidrs": denied_cidrs,
        "allowed_domains": allowed_domains,
    });
    if !denied_hosts.is_empty() {
        shown["denied_hosts"] = json!(denied_hosts);
    }
    shown
}
