//! The `process.Process` RPC service: from messages to operations and back.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{
    ConnectError, ErrorCode, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::{Stream, StreamExt as _};
use hearth_guest_proto::process::__buffa::oneof::process_event::Event;
use hearth_guest_proto::process::__buffa::oneof::process_event::data_event::Output as Data;
use hearth_guest_proto::process::__buffa::oneof::process_input::Input as InputKind;
use hearth_guest_proto::process::__buffa::oneof::stream_input_request::Event as InputEvent;
use hearth_guest_proto::process::process_event::{DataEvent, StartEvent};
use hearth_guest_proto::process::{
    self as proto, CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse,
    ListRequest, ListResponse, ProcessEvent, ProcessInfo, ProcessInput, ProcessSelector,
    SendInputRequest, SendInputResponse, SendSignalRequest, SendSignalResponse, StartRequest,
    StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::CommandError;
use super::input::InputError;
use super::launch::{LaunchError, terminal_size};
use super::output::{Begin, Item, Reader, Source};
use super::table::SelectError;
use super::{Process, Signal};
use crate::Agent;
use crate::handover::interrupted;
use crate::http::caller;
use crate::http::timeout::CallTimeout;

/// The header by which `Connect` is asked for output from before it, too.
const REPLAY: &str = "hearth-output-replay";
/// Seconds between keepalives when the client does not say.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(90);
/// Asked-for intervals beyond this mean no keepalives in practice.
const MAX_KEEPALIVE: Duration = Duration::from_secs(24 * 60 * 60);

/// The service's implementation; all state is the agent's.
#[derive(Debug)]
pub struct ProcessService(pub Arc<Agent>);

impl ProcessService {
    fn running(&self, selector: Option<&ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
        let table = &self.0.launcher.table;
        table
            .find_running(selector.ok_or(SelectError::Missing)?)
            .map_err(ConnectError::from)
    }

    async fn write(&self, process: &Process, input: &ProcessInput) -> Result<(), ConnectError> {
        match &input.input {
            Some(InputKind::Stdin(data)) => process.input.write_stdin(data).await?,
            Some(InputKind::Pty(data)) => process.input.write_terminal(data).await?,
            None => return Err(ConnectError::unimplemented("invalid input type")),
        }
        Ok(())
    }
}

#[expect(
    refining_impl_trait,
    reason = "callers go through the trait, which hides the type"
)]
impl proto::Process for ProcessService {
    async fn list(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let info = |process: Arc<Process>| ProcessInfo {
            config: buffa::MessageField::some(process.config.clone()),
            pid: process.pid,
            tag: process.tag.clone(),
            ..Default::default()
        };
        let processes = self
            .0
            .launcher
            .table
            .running()
            .into_iter()
            .map(info)
            .collect();
        Response::ok(ListResponse {
            processes,
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let request = request.to_owned_message();
        let selector = request.process.as_option().ok_or(SelectError::Missing)?;
        let process = self.0.launcher.table.find(selector)?;
        let begun = self.0.handover.begun().clone();
        let begin = if wants_replay(&ctx) {
            Begin::Kept
        } else {
            Begin::Now
        };
        let reader = Reader::attach(process, begin);
        let events = events(reader, keepalive_interval(&ctx), None, begun);
        Response::ok(Box::pin(events.map(|event| {
            event.map(|event| ConnectResponse {
                event: buffa::MessageField::some(event),
                ..Default::default()
            })
        })))
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let settings = self.0.settings.snapshot();
        let user = caller::rpc_user(ctx.headers(), &settings, &self.0.users)?;
        let deadline = ctx
            .extensions()
            .get::<CallTimeout>()
            .and_then(CallTimeout::deadline);
        let request = request.to_owned_message();
        let reader = self.0.launcher.start(request, &user, &settings, deadline)?;
        let begun = self.0.handover.begun().clone();
        let events = events(reader, keepalive_interval(&ctx), deadline, begun);
        Response::ok(Box::pin(events.map(|event| {
            event.map(|event| StartResponse {
                event: buffa::MessageField::some(event),
                ..Default::default()
            })
        })))
    }

    async fn update(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        if let Some(pty) = request.pty.as_option() {
            process.input.resize(terminal_size(pty))?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process = None;
        loop {
            let message = tokio::select! {
                message = requests.next() => message,
                () = self.0.handover.begun().cancelled() => return Err(interrupted()),
            };
            let Some(message) = message else {
                break;
            };
            match (message?.to_owned_message().event, &process) {
                (Some(InputEvent::Start(start)), None) => {
                    process = Some(self.running(start.process.as_option())?);
                }
                (Some(InputEvent::Start(_)), Some(_)) => {
                    return Err(ConnectError::invalid_argument("start was sent twice"));
                }
                (Some(InputEvent::Data(_)), None) => {
                    return Err(ConnectError::invalid_argument("data was sent before start"));
                }
                (Some(InputEvent::Data(data)), Some(process)) => {
                    self.write(process, &data.input).await?;
                }
                (Some(InputEvent::Keepalive(_)) | None, _) => {}
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        self.write(&process, &request.input).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let signal = match request.signal.as_known() {
            Some(proto::Signal::SIGNAL_SIGTERM) => Signal::Terminate,
            Some(proto::Signal::SIGNAL_SIGKILL) => Signal::Kill,
            _ => return Err(ConnectError::unimplemented("invalid signal")),
        };
        let process = self.running(request.process.as_option())?;
        match process.signal(signal) {
            Ok(true) => Response::ok(SendSignalResponse::default()),
            Ok(false) => Err(SelectError::Pid(process.pid).into()),
            Err(error) => Err(ConnectError::internal(format!(
                "error sending signal: {error}"
            ))),
        }
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let request = request.to_owned_message();
        self.running(request.process.as_option())?
            .input
            .close()
            .await?;
        Response::ok(CloseStdinResponse::default())
    }
}

/// Whether `Connect` is to repeat the last output of the process first.
fn wants_replay(ctx: &RequestContext) -> bool {
    ctx.header(REPLAY)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// How often the client wants a sign of life on a quiet stream. Zero and
/// nonsense mean the default.
pub fn keepalive_interval(ctx: &RequestContext) -> Duration {
    ctx.header("keepalive-ping-interval")
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(DEFAULT_KEEPALIVE, |seconds| {
            Duration::from_secs(seconds).min(MAX_KEEPALIVE)
        })
}

enum Step {
    Start,
    Output,
    Done,
}

/// The events of one stream: start, output with keepalives between, end. At the
/// deadline it ends with an error instead; whoever set it has also seen to the
/// process.
fn events(
    reader: Reader,
    keepalive: Duration,
    deadline: Option<Instant>,
    handover: CancellationToken,
) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send + 'static {
    futures::stream::unfold((reader, Step::Start), move |(mut reader, step)| {
        let handover = handover.clone();
        async move {
            let (event, next) = match step {
                Step::Done => return None,
                Step::Start => {
                    let pid = reader.process().pid;
                    (Ok(start_event(pid)), Step::Output)
                }
                Step::Output => tokio::select! {
                    biased;
                    () = handover.cancelled() => (Err(interrupted()), Step::Done),
                    item = reader.next() => match item {
                        Item::Data(source, data) => (Ok(data_event(source, &data)), Step::Output),
                        Item::End(end) => (Ok(event(Event::End(Box::new(end)))), Step::Done),
                        Item::Lagged => (Err(lagged()), Step::Done),
                    },
                    () = until(deadline) => (Err(timed_out()), Step::Done),
                    () = tokio::time::sleep(keepalive) => {
                        (Ok(event(Event::Keepalive(Box::default()))), Step::Output)
                    }
                },
            };
            Some((event, (reader, next)))
        }
    })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn event(event: Event) -> ProcessEvent {
    ProcessEvent {
        event: Some(event),
        ..Default::default()
    }
}

fn start_event(pid: u32) -> ProcessEvent {
    event(Event::Start(Box::new(StartEvent {
        pid,
        ..Default::default()
    })))
}

fn data_event(source: Source, data: &[u8]) -> ProcessEvent {
    let output = match source {
        Source::Stdout => Data::Stdout(data.to_vec()),
        Source::Stderr => Data::Stderr(data.to_vec()),
        Source::Terminal => Data::Pty(data.to_vec()),
    };
    event(Event::Data(Box::new(DataEvent {
        output: Some(output),
        ..Default::default()
    })))
}

fn timed_out() -> ConnectError {
    ConnectError::deadline_exceeded("the process was killed at the deadline of the request")
}

fn lagged() -> ConnectError {
    ConnectError::resource_exhausted(
        "output was not read in time; connect again with the header 'Hearth-Output-Replay: true' \
         to get the latest of it",
    )
}

impl From<SelectError> for ConnectError {
    fn from(error: SelectError) -> Self {
        let code = match error {
            SelectError::Missing => ErrorCode::InvalidArgument,
            SelectError::Pid(_) | SelectError::Tag(_) => ErrorCode::NotFound,
        };
        Self::new(code, error.to_string())
    }
}

impl From<InputError> for ConnectError {
    fn from(error: InputError) -> Self {
        let code = match error {
            InputError::Write(_) => ErrorCode::Internal,
            _ => ErrorCode::FailedPrecondition,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LaunchError> for ConnectError {
    fn from(error: LaunchError) -> Self {
        let code = match &error {
            LaunchError::Command(CommandError::Path(_) | _) => ErrorCode::InvalidArgument,
            LaunchError::Spawn(error) => match error.source.raw_os_error() {
                Some(libc::E2BIG | libc::ENOENT | libc::ENOTDIR) => ErrorCode::InvalidArgument,
                Some(libc::EACCES | libc::EPERM) => ErrorCode::PermissionDenied,
                Some(libc::EAGAIN | libc::ENOMEM) => ErrorCode::ResourceExhausted,
                _ => ErrorCode::Internal,
            },
            LaunchError::Prepare(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC) => ErrorCode::ResourceExhausted,
                _ => ErrorCode::Internal,
            },
        };
        Self::new(code, error.to_string())
    }
}
