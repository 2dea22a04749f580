//! The client of a node's template service.

use crate::client::{NodeClient, node_error, within};
use crate::convert;
use async_trait::async_trait;
use buffa::EnumValue;
use hearth_control::{
    BuildLogEntry, BuildLogLevel, BuildSource, FilesPiece, NodeBuildSpec, NodeBuildState,
    NodeBuildView, NodeError, RegistryCredentials, TemplateNode,
};
use hearth_ids::{BuildId, TeamId};
use hearth_node_proto::hearth::template::v1 as proto;
use secrecy::ExposeSecret;
use std::time::Duration;

/// Giving a build up waits until its VM has ended.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// What a call may take beyond the time it is told to wait.
const GRACE: Duration = Duration::from_secs(10);
/// A piece of an upload has to reach the node's disk.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

#[async_trait]
impl TemplateNode for NodeClient {
    async fn files_present(&self, team: TeamId, hash: &str) -> Result<bool, NodeError> {
        let request = proto::FilesRequest {
            scope: team.to_string(),
            hash: hash.to_owned(),
            ..Default::default()
        };
        let response = self
            .templates
            .has_files(request)
            .await
            .map_err(node_error)?;
        Ok(response.into_owned().present)
    }

    async fn files_add(&self, piece: FilesPiece) -> Result<bool, NodeError> {
        let request = proto::UploadRequest {
            scope: piece.team.to_string(),
            hash: piece.hash,
            upload_id: piece.upload_id,
            offset: piece.offset,
            data: piece.data,
            total_bytes: piece.total_bytes,
            ..Default::default()
        };
        let response = self
            .templates
            .upload_files_with_options(request, within(PIECE_TIMEOUT))
            .await
            .map_err(node_error)?;
        Ok(response.into_owned().complete)
    }

    async fn template_build_start(&self, spec: NodeBuildSpec) -> Result<(), NodeError> {
        let steps = spec.steps.into_iter().map(|step| proto::Step {
            r#type: step.kind,
            args: step.args,
            files_hash: step.files_hash,
            force: step.force,
            ..Default::default()
        });
        let request = proto::StartBuildRequest {
            build_id: spec.build_id.to_string(),
            template_id: spec.template_id.to_string(),
            scope: spec.team.to_string(),
            name: spec.name,
            source: source(spec.source).into(),
            steps: steps.collect(),
            start_command: spec.start_command,
            ready_command: spec.ready_command,
            force: spec.force,
            vcpu_count: spec.vcpus,
            memory_mib: spec.memory_mib,
            min_free_disk_mib: spec.min_free_disk_mib,
            ..Default::default()
        };
        self.templates
            .start_build(request)
            .await
            .map_err(node_error)?;
        Ok(())
    }

    async fn template_build_view(
        &self,
        build: BuildId,
        offset: u64,
        limit: u32,
        wait: Duration,
    ) -> Result<NodeBuildView, NodeError> {
        let request = proto::GetBuildRequest {
            build_id: build.to_string(),
            log_offset: offset,
            log_limit: limit,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let response = self
            .templates
            .get_build_with_options(request, within(wait + GRACE))
            .await
            .map_err(node_error)?
            .into_owned();
        use proto::BuildState as S;
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let state = match response.state {
            EnumValue::Known(S::BUILD_STATE_BUILDING) => NodeBuildState::Building,
            EnumValue::Known(S::BUILD_STATE_READY) => NodeBuildState::Ready {
                disk_mib: response.disk_mib,
                envd_version: response.envd_version,
            },
            EnumValue::Known(S::BUILD_STATE_ERROR) => NodeBuildState::Failed {
                reason: response.reason,
                step: text(response.reason_step),
            },
            other => return Err(convert::malformed("state", &other.to_string())),
        };
        Ok(NodeBuildView {
            state,
            entries: response
                .entries
                .into_iter()
                .map(entry)
                .collect::<Result<_, _>>()?,
        })
    }

    async fn template_build_cancel(&self, build: BuildId, reason: &str) -> Result<(), NodeError> {
        let request = proto::CancelBuildRequest {
            build_id: build.to_string(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        self.templates
            .cancel_build_with_options(request, within(CANCEL_TIMEOUT))
            .await
            .map_err(node_error)?;
        Ok(())
    }

    async fn template_build_remove(&self, build: BuildId) -> Result<(), NodeError> {
        let request = proto::RemoveBuildRequest {
            build_id: build.to_string(),
            ..Default::default()
        };
        self.templates
            .remove_build_with_options(request, within(CANCEL_TIMEOUT))
            .await
            .map_err(node_error)?;
        Ok(())
    }
}

fn source(source: BuildSource) -> proto::Source {
    use proto::__buffa::oneof::{image_source::Credentials, source::Origin};
    let origin = match source {
        BuildSource::Build(id) => Origin::BuildId(id.to_string()),
        BuildSource::Image {
            reference,
            credentials,
        } => {
            let credentials = credentials.map(|credentials| match credentials {
                RegistryCredentials::Basic { username, password } => {
                    Credentials::Basic(Box::new(proto::BasicCredentials {
                        username,
                        password: password.expose_secret().to_owned(),
                        ..Default::default()
                    }))
                }
                RegistryCredentials::Aws {
                    access_key_id,
                    secret_access_key,
                    region,
                } => Credentials::Aws(Box::new(proto::AwsCredentials {
                    access_key_id,
                    secret_access_key: secret_access_key.expose_secret().to_owned(),
                    region,
                    ..Default::default()
                })),
                RegistryCredentials::Gcp {
                    service_account_json,
                } => Credentials::Gcp(Box::new(proto::GcpCredentials {
                    service_account_json: service_account_json.expose_secret().to_owned(),
                    ..Default::default()
                })),
            });
            Origin::Image(Box::new(proto::ImageSource {
                reference,
                credentials,
                ..Default::default()
            }))
        }
    };
    proto::Source {
        origin: Some(origin),
        ..Default::default()
    }
}

fn entry(entry: proto::LogEntry) -> Result<BuildLogEntry, NodeError> {
    use proto::LogLevel as L;
    Ok(BuildLogEntry {
        timestamp: convert::time_in("timestamp", entry.timestamp.into_option())?,
        level: match entry.level {
            EnumValue::Known(L::LOG_LEVEL_DEBUG) => BuildLogLevel::Debug,
            EnumValue::Known(L::LOG_LEVEL_WARN) => BuildLogLevel::Warn,
            EnumValue::Known(L::LOG_LEVEL_ERROR) => BuildLogLevel::Error,
            _ => BuildLogLevel::Info,
        },
        message: entry.message,
        step: Some(entry.step).filter(|step| !step.is_empty()),
    })
}
