//! The service of the node's events.

use super::{
    Service,
    messages::{missing_time, timestamp},
};
use crate::events::{EventKind, SandboxEvent};
use buffa::{EnumValue, MessageField};
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use hearth_node_proto::hearth::event::v1 as proto;
use std::time::Duration;

/// A caller waits no longer than this at once.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::EventService for Service {
    async fn take(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::TakeRequest>,
    ) -> ServiceResult<proto::TakeResponse> {
        let request = request.to_owned_message();
        let wait = Duration::from_millis(request.wait_ms.into()).min(LONGEST_WAIT);
        let events = self.node.events(&request.acknowledged, wait);
        let events = tokio::select! {
            () = self.stop.cancelled() => Vec::new(),
            events = events => events,
        };
        Response::ok(proto::TakeResponse {
            events: events.into_iter().map(message).collect(),
            ..Default::default()
        })
    }
}

fn kind(kind: EventKind) -> proto::EventKind {
    match kind {
        EventKind::Created => proto::EventKind::EVENT_KIND_CREATED,
        EventKind::Updated => proto::EventKind::EVENT_KIND_UPDATED,
        EventKind::Paused => proto::EventKind::EVENT_KIND_PAUSED,
        EventKind::Resumed => proto::EventKind::EVENT_KIND_RESUMED,
        EventKind::Checkpointed => proto::EventKind::EVENT_KIND_CHECKPOINTED,
        EventKind::Forked => proto::EventKind::EVENT_KIND_FORKED,
        EventKind::RolledBack => proto::EventKind::EVENT_KIND_ROLLED_BACK,
        EventKind::Killed => proto::EventKind::EVENT_KIND_KILLED,
    }
}

fn message((number, told): (u64, SandboxEvent)) -> proto::Event {
    let (event, details) = (told.event, |id: Option<String>| id.unwrap_or_default());
    proto::Event {
        number,
        kind: EnumValue::from(kind(event.kind)),
        sandbox_id: told.sandbox_id.to_string(),
        sequence: event.sequence,
        execution_id: event.execution_id.to_string(),
        template_id: told.template_id.to_string(),
        build_id: told.build_id.to_string(),
        team_id: told.team_id.to_string(),
        metadata: told.metadata.into_iter().collect(),
        at: MessageField::some(timestamp(event.at)),
        started_at: MessageField::some(timestamp(event.started_at)),
        ended_at: missing_time(event.ended_at),
        vcpu_count: told.vcpus,
        memory_mib: told.memory_mib,
        reason: details(event.details.reason),
        end_at: missing_time(event.details.end_at),
        network_json: event.details.network_json,
        subject_build_id: details(event.details.build_id.map(|id| id.to_string())),
        forked_from: details(event.details.forked_from.map(|id| id.to_string())),
        ..Default::default()
    }
}
