//! The client against a node's service on a unix socket, over real gRPC.

#![allow(
    refining_impl_trait,
    reason = "the service's answers have one type each"
)]

use buffa::{EnumValue, MessageField};
use buffa_types::google::protobuf::Timestamp;
use chrono::{DateTime, Utc};
use connectrpc::{
    ConnectError, RequestContext, Response, Router, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use hearth_control::{
    Lifecycle, NetworkSettings, Node, NodeError, NodeSandbox, NodeSandboxState, OnTimeout,
    Revision, SandboxConfig, SandboxQuery, SandboxUpdate, VolumeMount,
};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId, VolumeId};
use hearth_node_client::NodeClient;
use hearth_node_proto::hearth::node::v1 as proto;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A node that keeps what it was sent, and refuses as it is told.
#[derive(Default)]
struct Service {
    sandboxes: Mutex<Vec<proto::Sandbox>>,
    builds: Mutex<Vec<String>>,
    refusal: Mutex<Option<ConnectError>>,
    /// What lists were asked for.
    lists: Mutex<Vec<proto::SandboxListRequest>>,
}

/// Sandboxes in one page of a list.
const PAGE: usize = 8;

fn summary(sandbox: &proto::Sandbox, with_metadata: bool) -> proto::SandboxSummary {
    let sandbox = sandbox.clone();
    let config = sandbox.config.into_option().expect("has a config");
    proto::SandboxSummary {
        sandbox_id: config.sandbox_id,
        template_id: config.template_id,
        build_id: config.build_id,
        team_id: config.team_id,
        alias: config.alias,
        metadata: if with_metadata {
            config.metadata
        } else {
            Default::default()
        },
        volume_mounts_json: config.volume_mounts_json,
        state: sandbox.state,
        started_at: sandbox.started_at,
        end_at: sandbox.end_at,
        vcpu_count: sandbox.vcpu_count,
        memory_mib: sandbox.memory_mib,
        disk_mib: sandbox.disk_mib,
        envd_version: sandbox.envd_version,
        paused_at: sandbox.paused_at,
        paused_with_memory: sandbox.paused_with_memory,
        revision: sandbox.revision,
        ..Default::default()
    }
}

fn revision(sequence: u64) -> MessageField<proto::Revision, buffa::Inline<proto::Revision>> {
    MessageField::some(proto::Revision {
        instance: 7,
        sequence,
        ..Default::default()
    })
}

impl Service {
    fn refuse(&self) -> Result<(), ConnectError> {
        match self.refusal.lock().expect("unpoisoned").take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl proto::SandboxService for Service {
    async fn create(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxCreateRequest>,
    ) -> ServiceResult<proto::SandboxCreateResponse> {
        self.refuse()?;
        let request = request.to_owned_message();
        let sandbox = proto::Sandbox {
            config: request.config,
            state: EnumValue::from(proto::SandboxState::SANDBOX_STATE_RUNNING),
            started_at: request.end_at.clone(),
            end_at: request.end_at,
            vcpu_count: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: "0.6.13".to_owned(),
            execution_id: "e".to_owned(),
            address: "10.11.0.7".to_owned(),
            revision: revision(3),
            ..Default::default()
        };
        self.sandboxes
            .lock()
            .expect("unpoisoned")
            .push(sandbox.clone());
        Response::ok(proto::SandboxCreateResponse {
            sandbox: MessageField::some(sandbox),
            ..Default::default()
        })
    }

    async fn update(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxUpdateRequest>,
    ) -> ServiceResult<proto::SandboxUpdateResponse> {
        let request = request.to_owned_message();
        let mut sandbox = self.sandboxes.lock().expect("unpoisoned")[0].clone();
        assert!(request.only_extend);
        sandbox.end_at = request.end_at;
        let mut config = sandbox.config.into_option().expect("has a config");
        config.network_json = request.network_json.expect("was sent");
        sandbox.config = MessageField::some(config);
        Response::ok(proto::SandboxUpdateResponse {
            sandbox: MessageField::some(sandbox),
            ..Default::default()
        })
    }

    async fn list(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxListRequest>,
    ) -> ServiceResult<proto::SandboxListResponse> {
        self.refuse()?;
        let request = request.to_owned_message();
        let mut page: Vec<proto::SandboxSummary> = self
            .sandboxes
            .lock()
            .expect("unpoisoned")
            .iter()
            .map(|sandbox| summary(sandbox, request.with_metadata))
            .filter(|summary| {
                let team = request.team_id.as_ref();
                summary.sandbox_id > request.page_token
                    && team.is_none_or(|team| summary.team_id == *team)
            })
            .collect();
        page.sort_by(|a, b| a.sandbox_id.cmp(&b.sandbox_id));
        let more = page.len() > PAGE;
        page.truncate(PAGE);
        let last = page.last().filter(|_| more);
        let next_page_token = last.map_or_else(String::new, |last| last.sandbox_id.clone());
        self.lists.lock().expect("unpoisoned").push(request);
        Response::ok(proto::SandboxListResponse {
            sandboxes: page,
            next_page_token,
            ..Default::default()
        })
    }

    /// A reset with what there is, then a change for each of the next; then silence,
    /// where the request goes on from somewhere, else the end.
    async fn watch(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxWatchRequest>,
    ) -> ServiceResult<ServiceStream<proto::SandboxWatchResponse>> {
        self.refuse()?;
        let after = request.to_owned_message().after.into_option();
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let all = proto::SandboxWatchResponse {
            reset: after.is_none(),
            changed: sandboxes.iter().map(|s| summary(s, true)).collect(),
            removed: vec![proto::SandboxRemoval {
                sandbox_id: SandboxId::random().to_string(),
                sequence: 4,
                ..Default::default()
            }],
            current: revision(after.as_ref().map_or(5, |after| after.sequence + 1)),
            complete: true,
            ..Default::default()
        };
        let spoilt = proto::SandboxWatchResponse::default();
        let said = futures::stream::iter([Ok(all), Ok(spoilt)]);
        match after {
            None => Response::stream_ok(said),
            Some(_) => Response::stream_ok(said.take(1).chain(futures::stream::pending())),
        }
    }

    /// The sandbox of the id, or the only one there is, whatever it is called.
    async fn get(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxGetRequest>,
    ) -> ServiceResult<proto::SandboxGetResponse> {
        self.refuse()?;
        let id = request.to_owned_message().sandbox_id;
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let named = sandboxes.iter().find(|sandbox| {
            let config = sandbox.config.as_option();
            config.is_some_and(|config| config.sandbox_id == id)
        });
        let found = match (named, sandboxes.as_slice()) {
            (Some(found), _) | (None, [found]) => found.clone(),
            _ => return Err(ConnectError::not_found("no such sandbox")),
        };
        Response::ok(proto::SandboxGetResponse {
            sandbox: MessageField::some(found),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::SandboxDeleteRequest>,
    ) -> ServiceResult<proto::SandboxDeleteResponse> {
        self.refuse()?;
        Response::ok(proto::SandboxDeleteResponse {
            revision: revision(9),
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::SandboxPauseRequest>,
    ) -> ServiceResult<proto::SandboxPauseResponse> {
        self.refuse()?;
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        Response::ok(proto::SandboxPauseResponse {
            sandbox: MessageField::some(summary(&sandboxes[0], true)),
            ..Default::default()
        })
    }

    async fn checkpoint(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::SandboxCheckpointRequest>,
    ) -> ServiceResult<proto::SandboxCheckpointResponse> {
        self.refuse()?;
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        Response::ok(proto::SandboxCheckpointResponse {
            sandbox: MessageField::some(summary(&sandboxes[0], true)),
            ..Default::default()
        })
    }

    async fn reserve(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::SandboxReserveRequest>,
    ) -> ServiceResult<proto::SandboxReserveResponse> {
        self.refuse()?;
        Response::ok(proto::SandboxReserveResponse::default())
    }

    async fn resume(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxResumeRequest>,
    ) -> ServiceResult<proto::SandboxResumeResponse> {
        self.refuse()?;
        let request = request.to_owned_message();
        let mut sandbox = self.sandboxes.lock().expect("unpoisoned")[0].clone();
        assert!(request.discard_memory);
        sandbox.end_at = request.end_at;
        Response::ok(proto::SandboxResumeResponse {
            sandbox: MessageField::some(sandbox),
            ..Default::default()
        })
    }

    async fn rollback(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::SandboxRollbackRequest>,
    ) -> ServiceResult<proto::SandboxRollbackResponse> {
        self.refuse()?;
        let request = request.to_owned_message();
        let mut sandbox = self.sandboxes.lock().expect("unpoisoned")[0].clone();
        sandbox.execution_id = request.build_id;
        Response::ok(proto::SandboxRollbackResponse {
            sandbox: MessageField::some(sandbox),
            ..Default::default()
        })
    }
}

impl proto::BuildService for Service {
    async fn list_builds(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::BuildListRequest>,
    ) -> ServiceResult<proto::BuildListResponse> {
        self.refuse()?;
        let builds = self.builds.lock().expect("unpoisoned");
        let builds = builds.iter().map(|id| proto::Build {
            build_id: id.clone(),
            kind: "snapshot".to_owned(),
            created_at: MessageField::some(Timestamp {
                seconds: 1_700_000_000,
                ..Default::default()
            }),
            own_bytes: 5,
            parent_build_ids: vec![id.clone()],
            ..Default::default()
        });
        Response::ok(proto::BuildListResponse {
            builds: builds.collect(),
            ..Default::default()
        })
    }

    async fn delete_build(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, proto::BuildDeleteRequest>,
    ) -> ServiceResult<proto::BuildDeleteResponse> {
        let id = request.to_owned_message().build_id;
        let mut builds = self.builds.lock().expect("unpoisoned");
        let before = builds.len();
        builds.retain(|build| *build != id);
        if builds.len() == before {
            return Err(ConnectError::not_found("no such build"));
        }
        Response::ok(proto::BuildDeleteResponse::default())
    }
}

impl proto::InfoService for Service {
    async fn service_info(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, proto::ServiceInfoRequest>,
    ) -> ServiceResult<proto::ServiceInfoResponse> {
        Response::ok(proto::ServiceInfoResponse {
            node_id: "n".to_owned(),
            sandboxes_max: 9,
            sandboxes_starting: 3,
            create_successes: 5,
            create_failures: 1,
            usage: buffa::MessageField::some(proto::HostUsage {
                cpu_percent: 42,
                disks: vec![proto::Disk {
                    mount_point: "/var".to_owned(),
                    used_bytes: 7,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            machine: buffa::MessageField::some(proto::Machine {
                cpu_model: "85".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

fn serve(service: &Arc<Service>, path: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("binds");
    let router = proto::SandboxServiceExt::register(Arc::clone(service), Router::new());
    let router = proto::BuildServiceExt::register(Arc::clone(service), router);
    let router = proto::InfoServiceExt::register(Arc::clone(service), router);
    let app = axum::Router::new().fallback_service(router.into_axum_service());
    tokio::spawn(async move {
        axum::serve(listener, app).await.expect("serves");
    })
}

fn config() -> SandboxConfig {
    SandboxConfig {
        sandbox_id: SandboxId::random(),
        template_id: TemplateId::random(),
        build_id: BuildId::random(),
        team_id: TeamId::random(),
        alias: Some("base".to_owned()),
        metadata: BTreeMap::from([("ä".to_owned(), String::new())]),
        env_vars: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        envd_access_token: Some(SecretString::from("t1")),
        traffic_access_token: Some(SecretString::from("t2")),
        allow_internet_access: Some(false),
        network: Some(NetworkSettings {
            mask_request_host: Some("h".to_owned()),
            ..NetworkSettings::default()
        }),
        lifecycle: Lifecycle {
            on_timeout: OnTimeout::Pause,
            auto_resume: true,
            auto_pause_memory: false,
            initial_timeout_seconds: Some(60),
        },
        volume_mounts: vec![VolumeMount {
            volume: VolumeId::random(),
            name: "v".to_owned(),
            path: "/v".to_owned(),
        }],
    }
}

fn assert_same(sent: &SandboxConfig, got: &NodeSandbox) {
    let got = &got.config;
    assert_eq!(got.sandbox_id, sent.sandbox_id);
    assert_eq!(got.template_id, sent.template_id);
    assert_eq!((got.build_id, got.team_id), (sent.build_id, sent.team_id));
    assert_eq!((&got.alias, &got.metadata), (&sent.alias, &sent.metadata));
    assert_eq!(
        (&got.env_vars, &got.network),
        (&sent.env_vars, &sent.network)
    );
    let token = got.envd_access_token.as_ref().expect("it has one");
    assert_eq!(token.expose_secret(), "t1");
    let traffic = got.traffic_access_token.as_ref().expect("was sent");
    assert_eq!(traffic.expose_secret(), "t2");
    assert_eq!(got.allow_internet_access, sent.allow_internet_access);
    assert_eq!(
        (got.lifecycle, &got.volume_mounts),
        (sent.lifecycle, &sent.volume_mounts)
    );
}

#[tokio::test]
async fn what_is_sent_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    let sent = config();
    let end_at: DateTime<Utc> = "2030-01-02T03:04:05.678901234Z".parse().expect("a time");

    let made = client.create(sent.clone(), end_at).await.expect("creates");
    assert_same(&sent, &made);
    assert_eq!(
        (made.end_at, made.state),
        (end_at, NodeSandboxState::Running)
    );
    assert_eq!(
        (made.vcpus, made.memory_mib, made.disk_mib),
        (2, 1024, 2048)
    );
    assert_eq!(made.address, Some("10.11.0.7".parse().expect("an address")));
    let got = client.get(&sent.sandbox_id).await.expect("answers");
    assert_same(&sent, &got.expect("is there"));
    let listed = client.list(SandboxQuery::default()).await.expect("lists");
    let [listed] = listed.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!(listed.sandbox_id, sent.sandbox_id);
    assert_eq!(listed.template_id, sent.template_id);
    assert_eq!(
        (listed.build_id, listed.team_id),
        (sent.build_id, sent.team_id)
    );
    assert_eq!(
        (&listed.alias, &listed.volume_mounts),
        (&sent.alias, &sent.volume_mounts)
    );
    assert!(listed.metadata.is_empty(), "it was not asked for");
    assert_eq!(
        (listed.end_at, listed.state),
        (end_at, NodeSandboxState::Running)
    );
    assert_eq!(
        (listed.vcpus, listed.memory_mib, listed.disk_mib),
        (2, 1024, 2048)
    );
    let query = SandboxQuery {
        team: Some(sent.team_id),
        template: Some(&sent.template_id),
        skip_paused: true,
        with_metadata: true,
    };
    let listed = client.list(query).await.expect("lists");
    assert_eq!(listed[0].metadata, sent.metadata);
    let asked = service
        .lists
        .lock()
        .expect("unpoisoned")
        .pop()
        .expect("a list");
    assert_eq!(asked.team_id, Some(sent.team_id.to_string()));
    assert_eq!(asked.template_id, Some(sent.template_id.to_string()));
    assert!(asked.skip_paused && asked.with_metadata);

    let update = SandboxUpdate {
        end_at: Some(end_at),
        only_extend: true,
        network: Some(NetworkSettings::default()),
    };
    let updated = client
        .update(&sent.sandbox_id, update)
        .await
        .expect("updates");
    assert_eq!(updated.config.network, Some(NetworkSettings::default()));
    client.delete(&sent.sandbox_id).await.expect("deletes");
    server.abort();
}

#[tokio::test]
async fn what_a_node_says_of_itself_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let server = serve(&Arc::new(Service::default()), &path);
    let client = NodeClient::unix(&path);
    let info = client.info().await.expect("answers");
    assert_eq!((info.node_id.as_str(), info.sandboxes_max), ("n", 9));
    assert_eq!(
        (
            info.sandboxes_starting,
            info.create_successes,
            info.create_failures
        ),
        (3, 5, 1)
    );
    assert_eq!(
        (info.usage.cpu_percent, info.usage.disks[0].used_bytes),
        (42, 7)
    );
    assert_eq!(info.machine.cpu_model, "85");
    server.abort();
}

#[tokio::test]
async fn a_paused_sandbox_and_its_way_back_cross_the_wire() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    let sent = config();
    let made = client
        .create(sent.clone(), Utc::now())
        .await
        .expect("creates");
    assert_eq!(made.paused, None);
    let stored = service.sandboxes.lock().expect("unpoisoned")[0].clone();
    let action = stored
        .config
        .into_option()
        .expect("a config")
        .timeout_action;
    assert_eq!(
        action,
        EnumValue::from(proto::TimeoutAction::TIMEOUT_ACTION_PAUSE_FILESYSTEM)
    );

    {
        let mut sandboxes = service.sandboxes.lock().expect("unpoisoned");
        sandboxes[0].state = EnumValue::from(proto::SandboxState::SANDBOX_STATE_PAUSED);
        sandboxes[0].address.clear();
        sandboxes[0].paused_with_memory = true;
        sandboxes[0].paused_at = MessageField::some(Timestamp {
            seconds: 1_700_000_000,
            ..Default::default()
        });
    }
    let got = client.get(&sent.sandbox_id).await.expect("answers");
    let got = got.expect("is there");
    assert_eq!((got.state, got.address), (NodeSandboxState::Paused, None));
    let listed = client.list(SandboxQuery::default()).await.expect("lists");
    for paused in [got.paused, listed[0].paused] {
        let paused = paused.expect("says when and how");
        assert_eq!(
            (paused.at.timestamp(), paused.memory),
            (1_700_000_000, true)
        );
    }

    let end_at: DateTime<Utc> = "2030-01-02T03:04:05Z".parse().expect("a time");
    let resumed = client
        .resume(&sent.sandbox_id, end_at, true)
        .await
        .expect("resumes");
    assert_eq!(resumed.end_at, end_at);
    let build = BuildId::random();
    let rolled_back = client
        .rollback(&sent.sandbox_id, build)
        .await
        .expect("rolls back");
    assert_eq!(rolled_back.execution_id, build.to_string());
    server.abort();
}

#[tokio::test]
async fn a_watch_crosses_the_wire_and_silence_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    let sent = config();
    let made = client.create(sent.clone(), Utc::now()).await;
    let place = |sequence| Revision {
        instance: 7,
        sequence,
    };
    assert_eq!(made.expect("creates").revision, place(3));
    let mut watch = client.watch(None).await.expect("begins");
    let all = watch.next().await.expect("says").expect("is well-formed");
    assert!(all.reset && all.complete);
    assert_eq!(all.current, place(5));
    assert_eq!(all.changed[0].sandbox_id, sent.sandbox_id);
    assert_eq!(all.changed[0].metadata, sent.metadata);
    assert_eq!(all.changed[0].revision, place(3));
    assert_eq!(all.removed[0].sequence, 4);
    let spoilt = watch.next().await.expect("says");
    assert!(matches!(&spoilt, Err(NodeError::Internal(why)) if why.contains("current")));
    assert!(watch.next().await.is_none(), "nothing after an error");

    let mut watch = client.watch(Some(place(8))).await.expect("begins");
    let news = watch.next().await.expect("says").expect("is well-formed");
    assert_eq!((news.reset, news.current), (false, place(9)));
    tokio::time::pause();
    let silence = watch.next().await.expect("says");
    assert!(
        matches!(silence, Err(NodeError::Unreachable(_))),
        "{silence:?}"
    );
    tokio::time::resume();
    let build = BuildId::random();
    let paused = client.pause(&sent.sandbox_id, build, true).await;
    assert_eq!(paused.expect("pauses").revision, place(3));
    let kept = client.checkpoint(&sent.sandbox_id, build).await;
    assert_eq!(kept.expect("keeps").metadata, sent.metadata);
    let gone = client.delete(&sent.sandbox_id).await;
    assert_eq!(gone.expect("deletes"), place(9));
    server.abort();
}

#[tokio::test]
async fn builds_are_listed_and_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    let id = BuildId::random();
    service
        .builds
        .lock()
        .expect("unpoisoned")
        .push(id.to_string());
    let builds = client.build_list().await.expect("lists");
    assert_eq!(builds.len(), 1);
    assert_eq!(
        (builds[0].id, builds[0].kind.as_str(), builds[0].own_bytes),
        (id, "snapshot", 5)
    );
    assert_eq!(builds[0].parents, [id]);
    client.build_delete(id).await.expect("deletes");
    let again = client.build_delete(id).await;
    assert!(matches!(again, Err(NodeError::NotFound(_))), "{again:?}");
    server.abort();
}

/// Forty sandboxes of a megabyte each: more than any one message may hold.
#[tokio::test]
async fn what_others_keep_in_their_sandboxes_stands_in_nobodys_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    let large = TeamId::random();
    for _ in 0..40 {
        let mut config = config();
        config.team_id = large;
        config
            .env_vars
            .insert("LARGE".to_owned(), "x".repeat(1024 * 1024));
        client.create(config, Utc::now()).await.expect("creates");
    }
    let mine = config();
    client
        .create(mine.clone(), Utc::now())
        .await
        .expect("creates");

    let got = client.get(&mine.sandbox_id).await.expect("answers");
    assert_same(&mine, &got.expect("is there"));
    let unknown = client.get(&SandboxId::random()).await.expect("answers");
    assert!(unknown.is_none());
    let of = async |team| {
        let query = SandboxQuery {
            team: Some(team),
            ..SandboxQuery::default()
        };
        let listed = client.list(query).await.expect("lists");
        let asked = std::mem::take(&mut *service.lists.lock().expect("unpoisoned"));
        (listed.len(), asked.len())
    };
    assert_eq!(of(mine.team_id).await, (1, 1));
    assert_eq!(of(large).await, (40, 5), "page by page");
    client.delete(&mine.sandbox_id).await.expect("deletes");
    server.abort();
}

#[tokio::test]
async fn each_refusal_keeps_its_kind_and_its_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    type Check = fn(&NodeError) -> bool;
    let cases: [(ConnectError, Check); 9] = [
        (
            ConnectError::resource_exhausted("why"),
            |e| matches!(e, NodeError::Exhausted(t) if t == "why"),
        ),
        (
            ConnectError::not_found("why"),
            |e| matches!(e, NodeError::NotFound(t) if t == "why"),
        ),
        (
            ConnectError::already_exists("why"),
            |e| matches!(e, NodeError::AlreadyExists(t) if t == "why"),
        ),
        (
            ConnectError::failed_precondition("why"),
            |e| matches!(e, NodeError::InTransition(t) if t == "why"),
        ),
        (
            ConnectError::invalid_argument("why"),
            |e| matches!(e, NodeError::Invalid(t) if t == "why"),
        ),
        (
            ConnectError::unimplemented("why"),
            |e| matches!(e, NodeError::Unimplemented(t) if t == "why"),
        ),
        (
            ConnectError::data_loss("why"),
            |e| matches!(e, NodeError::Damaged(t) if t == "why"),
        ),
        (ConnectError::unavailable("why"), |e| {
            matches!(e, NodeError::Unreachable(_))
        }),
        (ConnectError::internal("why"), |e| {
            matches!(e, NodeError::Internal(_))
        }),
    ];
    for (refusal, check) in cases {
        let shown = format!("{refusal:?}");
        *service.refusal.lock().expect("unpoisoned") = Some(refusal);
        let error = client
            .create(config(), Utc::now())
            .await
            .expect_err("refused");
        assert!(check(&error), "{shown} became {error:?}");
    }
    server.abort();
}

#[tokio::test]
async fn a_node_may_come_late_go_and_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let client = NodeClient::unix(&path);
    let error = client
        .list(SandboxQuery::default())
        .await
        .expect_err("nobody is there");
    assert!(matches!(error, NodeError::Unreachable(_)), "{error:?}");

    // A runtime of its own: when that ends, so does every connection.
    let service = Arc::new(Service::default());
    let process = tokio::runtime::Runtime::new().expect("starts");
    let guard = process.enter();
    serve(&service, &path);
    drop(guard);
    client
        .list(SandboxQuery::default())
        .await
        .expect("the node came");
    client.create(config(), Utc::now()).await.expect("creates");

    process.shutdown_background();
    client
        .list(SandboxQuery::default())
        .await
        .expect_err("nobody listens");
    std::fs::remove_file(&path).expect("removes");
    let server = serve(&service, &path);
    let back = async {
        loop {
            match client.list(SandboxQuery::default()).await {
                Ok(listed) => break listed,
                Err(NodeError::Unreachable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let listed = tokio::time::timeout(Duration::from_secs(30), back).await;
    assert_eq!(listed.expect("the node came back").len(), 1);
    server.abort();
}

#[tokio::test]
async fn what_a_node_sends_is_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.sock");
    let service = Arc::new(Service::default());
    let server = serve(&service, &path);
    let client = NodeClient::unix(&path);
    client.create(config(), Utc::now()).await.expect("creates");
    let good = service.sandboxes.lock().expect("unpoisoned")[0].clone();
    type Spoil = fn(&mut proto::Sandbox);
    let spoils: [(&str, Spoil); 7] = [
        ("paused_at", |s| {
            s.state = EnumValue::from(proto::SandboxState::SANDBOX_STATE_PAUSED)
        }),
        ("config", |s| s.config = MessageField::none()),
        ("state", |s| s.state = EnumValue::from(99)),
        ("started_at", |s| s.started_at = MessageField::none()),
        ("address", |s| s.address = "nowhere".to_owned()),
        ("sandbox_id", |s| {
            change(s, |c| c.sandbox_id = "../x".to_owned())
        }),
        ("lifecycle_json", |s| {
            change(s, |c| c.lifecycle_json = "{".to_owned())
        }),
    ];
    for (field, spoil) in spoils {
        let mut bad = good.clone();
        spoil(&mut bad);
        *service.sandboxes.lock().expect("unpoisoned") = vec![bad];
        match client.get(&SandboxId::random()).await {
            Err(NodeError::Internal(text)) => assert!(text.contains(field), "{field}: {text}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    server.abort();
}

fn change(sandbox: &mut proto::Sandbox, change: fn(&mut proto::SandboxConfig)) {
    let mut config = sandbox.config.clone().into_option().expect("has a config");
    change(&mut config);
    sandbox.config = MessageField::some(config);
}
