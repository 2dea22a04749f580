//! The machines that sandboxes run on, for whoever operates them.

use crate::error::{Result, plain_not_found};
use crate::extract::{Body, SegmentPath};
use crate::operator::NodeOperator;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_control::{Disk, NodeReport, NodeState, NodeView};
use hearth_wire::{
    ApiError, DiskMetrics, MachineInfo, Node, NodeMetrics, NodeStatus, NodeStatusChange,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as collect;

/// The body of the contract's 404.
const NO_SUCH_NODE: &str = "";

pub(super) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .routes(collect!(node_list))
        .routes(collect!(node_get, node_set_status, node_remove))
}

fn status(state: NodeState) -> NodeStatus {
    match state {
        NodeState::Ready => NodeStatus::Ready,
        NodeState::Draining => NodeStatus::Draining,
        NodeState::Connecting => NodeStatus::Connecting,
        NodeState::Unhealthy => NodeStatus::Unhealthy,
        NodeState::Standby => NodeStatus::Standby,
    }
}

fn state(status: NodeStatus) -> NodeState {
    match status {
        NodeStatus::Ready => NodeState::Ready,
        NodeStatus::Draining => NodeState::Draining,
        NodeStatus::Connecting => NodeState::Connecting,
        NodeStatus::Unhealthy => NodeState::Unhealthy,
        NodeStatus::Standby => NodeState::Standby,
    }
}

fn metrics(report: &NodeReport) -> NodeMetrics {
    let disk = |disk: &Disk| DiskMetrics {
        mount_point: disk.mount_point.clone(),
        device: disk.device.clone(),
        filesystem_type: disk.filesystem_type.clone(),
        used_bytes: disk.used_bytes,
        total_bytes: disk.total_bytes,
    };
    let (total, available) = (report.memory_total_bytes, report.memory_available_bytes);
    let usage = &report.usage;
    NodeMetrics {
        allocated_cpu: report.allocated_vcpus,
        cpu_percent: usage.cpu_percent,
        cpu_count: usage.cpu_count,
        allocated_memory_bytes: report.allocated_memory_bytes,
        memory_used_bytes: total.saturating_sub(available),
        memory_total_bytes: total,
        huge_pages_total: usage.huge_pages_total,
        huge_pages_used: usage.huge_pages_used,
        huge_pages_reserved: usage.huge_pages_reserved,
        huge_page_size_bytes: usage.huge_page_size_bytes,
        disks: usage.disks.iter().map(disk).collect(),
    }
}

/// As a list shows it.
fn shown(view: NodeView) -> Node {
    let machine = view.machine();
    let machine_info = MachineInfo {
        cpu_family: machine.cpu_family.clone(),
        cpu_model: machine.cpu_model.clone(),
        cpu_model_name: machine.cpu_model_name.clone(),
        cpu_architecture: machine.cpu_architecture.clone(),
    };
    let report = &view.report;
    Node {
        id: view.id.to_string(),
        service_instance_id: view.instance.to_string(),
        cluster_id: view.cluster_id.to_string(),
        status: status(view.state),
        status_changed_at: view.state_since,
        sandbox_count: report.sandboxes,
        metrics: metrics(report),
        create_successes: report.create_successes,
        create_fails: report.create_failures,
        sandbox_starting_count: Some(report.starting),
        max_sandboxes: report.sandboxes_max,
        outstanding_work: match view.state {
            NodeState::Draining => report.sandboxes,
            _ => 0,
        },
        version: view.version,
        commit: view.revision,
        machine_info,
        name: view.name,
        address: view.address,
        labels: view.labels,
        generation: view.generation,
        last_heartbeat_at: view.heartbeat_at,
        problem: view.problem,
    }
}

/// List the nodes
///
/// With the operators' token, or a key of the first team with the scope `admin`. Numbers are
/// those of the last heartbeat, ten seconds old at most, and of the node that answers
/// the present ones.
#[utoipa::path(get, path = "/nodes", tag = "nodes", security(("AdminToken" = []), ("ApiKeyAuth" = [])),
    responses(
        (status = 200, description = "By their names", body = Vec<Node>),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn node_list(
    State(state): State<AppState>,
    _: NodeOperator,
) -> Result<Json<Vec<Node>>> {
    let nodes = state.control.node_list().await?;
    Ok(Json(nodes.into_iter().map(shown).collect()))
}

/// Get a node
///
/// As in the list, without `sandboxStartingCount`. A node that runs elsewhere is asked for its
/// present numbers; `problem` says why where it does not answer.
#[utoipa::path(get, path = "/nodes/{nodeID}", tag = "nodes", security(("AdminToken" = []), ("ApiKeyAuth" = [])),
    params(("nodeID" = String, Path)),
    responses(
        (status = 200, body = Node),
        (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, description = "There is no such node; without a body"),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn node_get(
    State(state): State<AppState>,
    _: NodeOperator,
    SegmentPath(id): SegmentPath,
) -> Result<Json<Node>> {
    let node = state.control.node_get(&id).await;
    let node = shown(node.map_err(plain_not_found(NO_SUCH_NODE))?);
    Ok(Json(Node {
        sandbox_starting_count: None,
        ..node
    }))
}

/// Change the status of a node
///
/// `draining` and `standby`: creates and forks are refused with 503, what runs there goes
/// on, and what is paused there can be resumed. `ready`: it takes sandboxes again. The
/// status holds over restarts of the node.
#[utoipa::path(post, path = "/nodes/{nodeID}", tag = "nodes", security(("AdminToken" = []), ("ApiKeyAuth" = [])),
    params(("nodeID" = String, Path)),
    request_body = NodeStatusChange,
    responses(
        (status = 204, description = "It has the status"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, description = "There is no such node; without a body"),
        (status = 409, description = "It cannot have that status now", body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn node_set_status(
    State(app): State<AppState>,
    _: NodeOperator,
    SegmentPath(id): SegmentPath,
    Body(change): Body<NodeStatusChange>,
) -> Result<StatusCode> {
    let cluster = change.cluster_id.as_deref();
    app.control
        .node_set_state(&id, cluster, state(change.status))
        .await
        .map_err(plain_not_found(NO_SUCH_NODE))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget a node
///
/// One that does not run any more, and was not heard of for as long as it is trusted.
#[utoipa::path(delete, path = "/nodes/{nodeID}", tag = "nodes", security(("AdminToken" = []), ("ApiKeyAuth" = [])),
    params(("nodeID" = String, Path)),
    responses(
        (status = 204, description = "Forgotten"),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "It still reports", body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn node_remove(
    State(state): State<AppState>,
    _: NodeOperator,
    SegmentPath(id): SegmentPath,
) -> Result<StatusCode> {
    state.control.node_remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
