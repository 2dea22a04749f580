//! The template service: messages in, calls on [`Templates`], messages out.
//! Every field is checked here.

use crate::{
    BuildSpec, Error, FilesHash, ImageSource, Piece, Scope, Source, Status, Step, Templates,
    error::chain,
    log::{Entry, Level},
    spec::MAX_STEPS,
};
use buffa::{EnumValue, MessageField};
use buffa_types::google::protobuf::Timestamp;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use hearth_ids::BuildId;
use hearth_node_proto::hearth::template::v1 as proto;
use hearth_oci::Credentials;
use std::{str::FromStr, sync::Arc, time::Duration};

/// The longest that a caller may wait for news.
const MAX_WAIT: Duration = Duration::from_secs(30);
const MAX_ENTRIES: u32 = 1000;
/// Virtual processors and memory of a build at most, whatever the team's limits.
const MAX_VCPUS: u32 = 64;
const MAX_MEMORY_MIB: u32 = 1 << 20;

/// The service over a node's builds.
pub struct Service {
    templates: Arc<Templates>,
}

impl Service {
    /// Adds the service to a router.
    #[must_use]
    pub fn register(templates: Arc<Templates>, router: connectrpc::Router) -> connectrpc::Router {
        proto::TemplateServiceExt::register(Arc::new(Self { templates }), router)
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::TemplateService for Service {
    async fn has_files(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::FilesRequest>,
    ) -> ServiceResult<proto::FilesResponse> {
        let request = request.to_owned_message();
        let (scope, hash): (Scope, FilesHash) = (parse(&request.scope)?, parse(&request.hash)?);
        Response::ok(proto::FilesResponse {
            present: self.templates.has_files(&scope, &hash),
            ..Default::default()
        })
    }

    async fn upload_files(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::UploadRequest>,
    ) -> ServiceResult<proto::UploadResponse> {
        let request = request.to_owned_message();
        let (scope, hash): (Scope, FilesHash) = (parse(&request.scope)?, parse(&request.hash)?);
        let upload = request
            .upload_id
            .parse()
            .map_err(|_| ConnectError::invalid_argument("the upload's id is no UUID"))?;
        let templates = Arc::clone(&self.templates);
        let complete = tokio::task::spawn_blocking(move || {
            let piece = Piece {
                upload,
                offset: request.offset,
                data: &request.data,
                total_bytes: request.total_bytes,
            };
            templates.add_files(&scope, &hash, &piece)
        })
        .await
        .map_err(|error| ConnectError::internal(error.to_string()))?
        .map_err(connect_error)?;
        Response::ok(proto::UploadResponse {
            complete,
            ..Default::default()
        })
    }

    async fn start_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::StartBuildRequest>,
    ) -> ServiceResult<proto::StartBuildResponse> {
        let spec = spec(request.to_owned_message()).map_err(connect_error)?;
        self.templates.begin(spec).map_err(connect_error)?;
        Response::ok(proto::StartBuildResponse::default())
    }

    async fn get_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::GetBuildRequest>,
    ) -> ServiceResult<proto::GetBuildResponse> {
        let request = request.to_owned_message();
        let offset = usize::try_from(request.log_offset).unwrap_or(usize::MAX);
        let limit = request.log_limit.min(MAX_ENTRIES) as usize;
        let wait = Duration::from_millis(request.wait_ms.into()).min(MAX_WAIT);
        let view = self
            .templates
            .view(build_id(&request.build_id)?, offset, limit, wait)
            .await
            .map_err(connect_error)?;
        let mut response = proto::GetBuildResponse {
            entries: view.entries.into_iter().map(entry).collect(),
            ..Default::default()
        };
        response.state = EnumValue::Known(match view.status {
            Status::Building => proto::BuildState::BUILD_STATE_BUILDING,
            Status::Ready(ready) => {
                response.disk_mib = u32::try_from(ready.disk_mib).unwrap_or(u32::MAX);
                response.envd_version = ready.envd_version;
                proto::BuildState::BUILD_STATE_READY
            }
            Status::Failed(failure) => {
                response.reason = failure.message;
                response.reason_step = failure
                    .part
                    .map(|part| part.to_string())
                    .unwrap_or_default();
                proto::BuildState::BUILD_STATE_ERROR
            }
        });
        Response::ok(response)
    }

    async fn cancel_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::CancelBuildRequest>,
    ) -> ServiceResult<proto::CancelBuildResponse> {
        let request = request.to_owned_message();
        let id = build_id(&request.build_id)?;
        self.templates
            .cancel(id, &request.reason)
            .await
            .map_err(connect_error)?;
        Response::ok(proto::CancelBuildResponse::default())
    }

    async fn remove_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, proto::RemoveBuildRequest>,
    ) -> ServiceResult<proto::RemoveBuildResponse> {
        let request = request.to_owned_message();
        let id = build_id(&request.build_id)?;
        self.templates.remove(id).await.map_err(connect_error)?;
        Response::ok(proto::RemoveBuildResponse::default())
    }
}

fn spec(request: proto::StartBuildRequest) -> Result<BuildSpec, Error> {
    if request.steps.len() > MAX_STEPS {
        return Err(Error::Invalid(format!(
            "a template has at most {MAX_STEPS} steps"
        )));
    }
    let steps = request
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            Step::parse(
                index + 1,
                &step.r#type,
                &step.args,
                &step.files_hash,
                step.force,
            )
        })
        .collect::<Result<_, _>>()?;
    let (vcpus, memory) = (request.vcpu_count, request.memory_mib);
    if !(1..=MAX_VCPUS).contains(&vcpus) || !(128..=MAX_MEMORY_MIB).contains(&memory) {
        return Err(Error::Invalid(format!(
            "no machine has {vcpus} processors and {memory} MiB of memory"
        )));
    }
    let command = |text: String| Some(text).filter(|text| !text.trim().is_empty());
    Ok(BuildSpec {
        build_id: request
            .build_id
            .parse()
            .map_err(|error: hearth_ids::ParseError| Error::Invalid(error.to_string()))?,
        template_id: request.template_id,
        scope: request.scope.parse()?,
        name: request.name,
        source: source(request.source.into_option())?,
        steps,
        start_command: command(request.start_command),
        ready_command: command(request.ready_command),
        force: request.force,
        vcpus,
        memory_mib: memory.into(),
        min_free_disk_mib: request.min_free_disk_mib.into(),
    })
}

fn source(source: Option<proto::Source>) -> Result<Source, Error> {
    use proto::__buffa::oneof::{image_source::Credentials as Sent, source::Origin};
    let missing = || Error::Invalid("the source is missing".to_owned());
    let origin = source
        .and_then(|source| source.origin)
        .ok_or_else(missing)?;
    match origin {
        Origin::BuildId(id) => {
            Ok(Source::Build(id.parse().map_err(|_| {
                Error::Invalid(format!("{id:?} is no build"))
            })?))
        }
        Origin::Image(image) => Ok(Source::Image(ImageSource {
            reference: image.reference,
            credentials: match image.credentials {
                None => Credentials::Anonymous,
                Some(Sent::Basic(basic)) => Credentials::basic(basic.username, basic.password),
                Some(Sent::Aws(aws)) => {
                    Credentials::aws(aws.access_key_id, aws.secret_access_key, aws.region)
                }
                Some(Sent::Gcp(gcp)) => Credentials::gcp(gcp.service_account_json),
            },
        })),
    }
}

fn entry(entry: Entry) -> proto::LogEntry {
    use proto::LogLevel as L;
    proto::LogEntry {
        timestamp: MessageField::some(Timestamp {
            seconds: entry.timestamp.timestamp(),
            nanos: i32::try_from(entry.timestamp.timestamp_subsec_nanos().min(999_999_999))
                .unwrap_or(0),
            ..Default::default()
        }),
        level: EnumValue::Known(match entry.level {
            Level::Debug => L::LOG_LEVEL_DEBUG,
            Level::Info => L::LOG_LEVEL_INFO,
            Level::Warn => L::LOG_LEVEL_WARN,
            Level::Error => L::LOG_LEVEL_ERROR,
        }),
        message: entry.message,
        step: entry.step.unwrap_or_default(),
        ..Default::default()
    }
}

fn build_id(text: &str) -> Result<BuildId, ConnectError> {
    text.parse()
        .map_err(|error: hearth_ids::ParseError| ConnectError::invalid_argument(error.to_string()))
}

fn parse<T: FromStr<Err = Error>>(text: &str) -> Result<T, ConnectError> {
    text.parse().map_err(connect_error)
}

fn connect_error(error: Error) -> ConnectError {
    let text = chain(&error);
    match error {
        Error::Invalid(_) => ConnectError::invalid_argument(text),
        Error::AlreadyExists(_) => ConnectError::already_exists(text),
        Error::NotFound(_) => ConnectError::not_found(text),
        Error::Busy(_) => ConnectError::resource_exhausted(text),
        Error::Io { .. } | Error::Store(_) => {
            tracing::error!(error = text, "a call about templates failed");
            ConnectError::internal(text)
        }
    }
}
