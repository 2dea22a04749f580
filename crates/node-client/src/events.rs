//! The client of a node's outbox of events.

use crate::client::{NodeClient, node_error, within};
use crate::convert::{json_in, optional_time_in, parse, time_in};
use hearth_control::{NodeError, NodeEvent, NodeEventKind, NodeEvents};
use hearth_node_proto::hearth::event::v1 as proto;
use std::time::Duration;

/// What a question may take beyond the time that it may wait.
const GRACE: Duration = Duration::from_secs(10);

impl NodeClient {
    pub(crate) async fn events_take(
        &self,
        acknowledged: &[u64],
        wait: Duration,
    ) -> Result<NodeEvents, NodeError> {
        let request = proto::TakeRequest {
            acknowledged: acknowledged.to_vec(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let response = self
            .events
            .take_with_options(request, within(wait + GRACE))
            .await
            .map_err(node_error)?;
        let mut taken = NodeEvents::default();
        for told in response.into_owned().events {
            taken.numbers.push(told.number);
            match event_in(told) {
                Ok(event) => taken.events.push(event),
                // Told again it would make no more sense, and keep all others from coming.
                Err(error) => tracing::error!(%error, "an event is passed over"),
            }
        }
        Ok(taken)
    }
}

fn kind(kind: proto::EventKind) -> Option<NodeEventKind> {
    match kind {
        proto::EventKind::EVENT_KIND_UNSPECIFIED => None,
        proto::EventKind::EVENT_KIND_CREATED => Some(NodeEventKind::Created),
        proto::EventKind::EVENT_KIND_UPDATED => Some(NodeEventKind::Updated),
        proto::EventKind::EVENT_KIND_PAUSED => Some(NodeEventKind::Paused),
        proto::EventKind::EVENT_KIND_RESUMED => Some(NodeEventKind::Resumed),
        proto::EventKind::EVENT_KIND_CHECKPOINTED => Some(NodeEventKind::Checkpointed),
        proto::EventKind::EVENT_KIND_FORKED => Some(NodeEventKind::Forked),
        proto::EventKind::EVENT_KIND_ROLLED_BACK => Some(NodeEventKind::RolledBack),
        proto::EventKind::EVENT_KIND_KILLED => Some(NodeEventKind::Killed),
    }
}

fn event_in(told: proto::Event) -> Result<NodeEvent, NodeError> {
    let known = told.kind.as_known().and_then(kind);
    let missing =
        |what: &str| NodeError::Internal(format!("the node sent an event without {what}"));
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(NodeEvent {
        kind: known.ok_or_else(|| missing("a kind that is known here"))?,
        sandbox_id: parse("sandbox_id", &told.sandbox_id)?,
        sequence: told.sequence,
        execution_id: parse("execution_id", &told.execution_id)?,
        template_id: parse("template_id", &told.template_id)?,
        build_id: parse("build_id", &told.build_id)?,
        team_id: parse("team_id", &told.team_id)?,
        metadata: told.metadata.into_iter().collect(),
        at: time_in("at", told.at.into_option())?,
        started_at: time_in("started_at", told.started_at.into_option())?,
        ended_at: optional_time_in("ended_at", told.ended_at.into_option())?,
        vcpus: told.vcpu_count,
        memory_mib: told.memory_mib,
        reason: some(told.reason),
        end_at: optional_time_in("end_at", told.end_at.into_option())?,
        network: match told.network_json {
            Some(json) => json_in("network_json", &json)?,
            None => None,
        },
        subject_build: some(told.subject_build_id)
            .map(|id| parse("subject_build_id", &id))
            .transpose()?,
        forked_from: some(told.forked_from)
            .map(|id| parse("forked_from", &id))
            .transpose()?,
    })
}
