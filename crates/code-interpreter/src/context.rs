//! One context: the task that owns a kernel and runs one execution at a time.
//!
//! ```text
//!            requests (bounded)                 controls (bounded)
//! clients ──────────────────────▶ context task ◀─────────────────── restart, remove
//!                                      │ owns
//!                                   Kernel (none after it died)
//! ```
//!
//! Requests wait in their queue while one runs; controls are heard at any time.
//! When a client leaves, the kernel is interrupted, again and again at growing
//! intervals, until the code lets go; only then the next request runs. A kernel
//! that dies is reported to whoever uses it and started again for the next.

use crate::{
    Config,
    execution::{self, Environment, Execution},
    kernel::{Event, Kernel, StartError},
    kernelspec::KernelSpec,
    output::{Output, Sink},
};
use serde_json::json;
use std::{borrow::Cow, collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

/// Executions that may wait in one context.
pub(crate) const MAX_WAITING: usize = 64;
const MAX_CONTROLS: usize = 8;
/// The pauses between interrupts for a client that has left.
const FIRST_INTERRUPT_PAUSE: Duration = Duration::from_secs(1);
const LAST_INTERRUPT_PAUSE: Duration = Duration::from_secs(60);

/// Something to run.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) code: String,
    /// For this execution only.
    pub(crate) variables: BTreeMap<String, String>,
    /// The token of the sandbox's agent, as the client sent it.
    pub(crate) token: Option<String>,
    /// Nobody wants its result: it is not counted, and what it learns of the
    /// sandbox is asked for again by whoever comes first.
    pub(crate) rehearsal: bool,
    pub(crate) sink: Sink,
}

#[derive(Debug)]
pub(crate) enum Control {
    Restart(oneshot::Sender<Result<(), StartError>>),
    /// Answered when the kernel has ended.
    Remove(oneshot::Sender<()>),
}

/// What others hold of a context.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) controls: mpsc::Sender<Control>,
}

/// What does not change in a context's life.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) spec: KernelSpec,
    pub(crate) cwd: PathBuf,
    pub(crate) config: Arc<Config>,
}

struct Context {
    place: Place,
    kernel: Option<Kernel>,
    /// Why there is no kernel, until somebody was told.
    lost: Option<String>,
    sandbox: SandboxVariables,
}

/// What the kernel knows of the sandbox's variables.
#[derive(Default)]
struct SandboxVariables {
    /// The token with which they were asked for. Another token is another sandbox,
    /// started from this one's memory.
    token: Option<Option<String>>,
    set: BTreeMap<String, String>,
}

/// Why an execution's loop ended.
enum End {
    Done,
    Died(String),
    Restart(oneshot::Sender<Result<(), StartError>>),
    Remove(Option<oneshot::Sender<()>>),
}

impl Place {
    pub(crate) async fn start(&self) -> Result<Kernel, StartError> {
        let none = BTreeMap::new();
        Kernel::start(&self.spec, &self.cwd, &none, &self.config.run_dir).await
    }
}

/// Hands a running kernel to a task of its own. The task ends when it is told to
/// remove the context or when nobody holds the handle.
pub(crate) fn spawn(place: Place, kernel: Kernel) -> Handle {
    let (requests, request_queue) = mpsc::channel(MAX_WAITING);
    let (controls, control_queue) = mpsc::channel(MAX_CONTROLS);
    let context = Context {
        place,
        kernel: Some(kernel),
        lost: None,
        sandbox: SandboxVariables::default(),
    };
    tokio::spawn(context.run(request_queue, control_queue));
    Handle { requests, controls }
}

/// Runs code that nobody listens to, before the kernel is handed out.
pub(crate) async fn rehearse(kernel: &mut Kernel, code: &str) -> Result<(), String> {
    let mut content = execution::request(code, false);
    content["store_history"] = false.into();
    let id = kernel
        .execute(&json!({}), &content)
        .await
        .map_err(|error| error.to_string())?;
    let mut execution = Execution::new(id);
    while !execution.is_done() {
        let outputs = match kernel.event().await {
            Event::Published(message) => execution.published(&message),
            Event::Reply(message) => execution.reply(&message),
            Event::Ended(why) => return Err(why),
        };
        for output in outputs {
            if let Output::Error { name, value, .. } = output {
                return Err(format!("{name}: {value}"));
            }
        }
    }
    Ok(())
}

impl Context {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut controls: mpsc::Receiver<Control>,
    ) {
        loop {
            let end = tokio::select! {
                control = controls.recv() => match control {
                    Some(Control::Restart(answer)) => End::Restart(answer),
                    Some(Control::Remove(answer)) => End::Remove(Some(answer)),
                    None => End::Remove(None),
                },
                Some(request) = requests.recv() => self.execute(request, &mut controls).await,
                why = died(self.kernel.as_mut()) => End::Died(why),
            };
            match end {
                End::Done => {}
                End::Died(why) => {
                    tracing::warn!(
                        kernel = self.place.spec.name,
                        why,
                        "kernel ended unexpectedly"
                    );
                    self.kernel = None;
                    self.lost.get_or_insert(why);
                }
                End::Restart(answer) => {
                    self.end_kernel().await;
                    self.lost = None;
                    let started = self.ensure_kernel().await;
                    let _ = answer.send(started);
                }
                End::Remove(answer) => {
                    self.end_kernel().await;
                    if let Some(answer) = answer {
                        let _ = answer.send(());
                    }
                    return;
                }
            }
        }
    }

    async fn end_kernel(&mut self) {
        if let Some(kernel) = self.kernel.take() {
            kernel.end().await;
        }
        self.sandbox = SandboxVariables::default();
    }

    async fn ensure_kernel(&mut self) -> Result<(), StartError> {
        if self.kernel.is_none() {
            self.sandbox = SandboxVariables::default();
            self.kernel = Some(self.place.start().await?);
        }
        Ok(())
    }

    /// One execution, with everything around it.
    async fn execute(&mut self, request: Request, controls: &mut mpsc::Receiver<Control>) -> End {
        if request.sink.has_left() {
            return End::Done;
        }
        if let Err(error) = self.ensure_kernel().await {
            let value = hearth_util::chain(&error);
            fail(&request.sink, "KernelNotStarted", value).await;
            request.sink.put(&Output::EndOfExecution).await;
            return End::Done;
        }
        if let Some(why) = self.lost.take() {
            let text = format!(
                "[the kernel had died: {why}; a new one was started, without the variables \
                 of the old]\n"
            );
            request
                .sink
                .put(&Output::Stderr {
                    text,
                    timestamp: None,
                })
                .await;
        }
        let variables = self.sandbox_variables(request.token.as_deref()).await;
        let end = match self.begin(&request, variables).await {
            Ok(execution) => self.follow(execution, &request.sink, controls).await,
            Err(error) => End::Died(format!("it hung up: {error}")),
        };
        match &end {
            End::Done => {}
            End::Died(why) => {
                let value = format!("the kernel died: {why}; the next execution starts a new one");
                fail(&request.sink, "KernelDied", value).await;
            }
            End::Restart(_) => {
                fail(
                    &request.sink,
                    "ContextRestarted",
                    "the context was restarted".to_owned(),
                )
                .await;
            }
            End::Remove(_) => {
                fail(
                    &request.sink,
                    "ContextRemoved",
                    "the context was removed".to_owned(),
                )
                .await;
            }
        }
        if request.rehearsal {
            self.sandbox.token = None;
        }
        request.sink.put(&Output::EndOfExecution).await;
        drop(request.sink);
        let set_by_code = !self.place.spec.takes_environment && !request.variables.is_empty();
        if matches!(end, End::Done) && set_by_code {
            let restore = self.place.spec.language.restore(&request.variables);
            if let Err(error) = self.silently(restore).await {
                return End::Died(format!("it hung up: {error}"));
            }
        }
        end
    }

    /// Sends what comes before the code, and the code. The kernel works one
    /// request off after the other, so nothing is waited for in between.
    async fn begin(
        &mut self,
        request: &Request,
        sandbox: Option<BTreeMap<String, String>>,
    ) -> io::Result<Execution> {
        let environment = self.environment(request, sandbox);
        let metadata = if self.place.spec.takes_environment {
            environment.metadata()
        } else {
            self.set_by_code(&environment).await?;
            json!({})
        };
        let mut content = execution::request(&request.code, false);
        content["store_history"] = (!request.rehearsal).into();
        let id = self.kernel()?.execute(&metadata, &content).await?;
        Ok(Execution::new(id))
    }

    /// What of the environment the kernel lacks for this execution.
    fn environment<'a>(
        &mut self,
        request: &'a Request,
        sandbox: Option<BTreeMap<String, String>>,
    ) -> Environment<'a> {
        let mut environment = Environment {
            call: Cow::Borrowed(&request.variables),
            ..Environment::default()
        };
        if let Some(new) = sandbox {
            let known = self.sandbox.set.keys();
            let gone = known.filter(|name| !new.contains_key(*name)).cloned();
            environment.unset = gone.collect();
            environment.set.clone_from(&new);
            self.sandbox.set = new;
            self.sandbox.token = Some(request.token.clone());
        }
        environment
    }

    /// Executes code that changes the environment, in kernels that know no better.
    async fn set_by_code(&mut self, environment: &Environment<'_>) -> io::Result<()> {
        let language = self.place.spec.language.clone();
        let Environment { unset, set, call } = environment;
        for code in [
            (!unset.is_empty()).then(|| language.unset(unset)),
            (!set.is_empty()).then(|| language.set(set)),
            (!call.is_empty()).then(|| language.set_for_call(call)),
        ] {
            self.silently(code.flatten()).await?;
        }
        Ok(())
    }

    fn kernel(&mut self) -> io::Result<&mut Kernel> {
        self.kernel
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn silently(&mut self, code: Option<String>) -> io::Result<()> {
        if let Some(code) = code {
            let content = execution::request(&code, true);
            self.kernel()?.execute(&json!({}), &content).await?;
        }
        Ok(())
    }

    /// The sandbox's variables, when this kernel does not have them yet.
    async fn sandbox_variables(&self, token: Option<&str>) -> Option<BTreeMap<String, String>> {
        let agent = self.place.config.agent.as_ref()?;
        if self
            .sandbox
            .token
            .as_ref()
            .is_some_and(|known| known.as_deref() == token)
        {
            return None;
        }
        match agent.variables(token).await {
            Ok(variables) => Some(variables),
            Err(error) => {
                let error = hearth_util::chain(&error);
                tracing::warn!(
                    error,
                    "fetch the sandbox's variables failed; running without them"
                );
                None
            }
        }
    }

    /// Passes on what the kernel says until the execution is over.
    async fn follow(
        &mut self,
        mut execution: Execution,
        sink: &Sink,
        controls: &mut mpsc::Receiver<Control>,
    ) -> End {
        let Some(kernel) = self.kernel.as_mut() else {
            return End::Died("it is gone".to_owned());
        };
        let mut pause = FIRST_INTERRUPT_PAUSE;
        let mut interrupt_at: Option<Instant> = None;
        while !execution.is_done() {
            let outputs = tokio::select! {
                event = kernel.event() => match event {
                    Event::Published(message) => execution.published(&message),
                    Event::Reply(message) => execution.reply(&message),
                    Event::Ended(why) => return End::Died(why),
                },
                control = controls.recv() => return ended_by(control),
                () = sink.left(), if interrupt_at.is_none() => {
                    kernel.interrupt().await;
                    interrupt_at = Some(Instant::now() + pause);
                    continue;
                }
                () = at(interrupt_at) => {
                    kernel.interrupt().await;
                    pause = (pause * 2).min(LAST_INTERRUPT_PAUSE);
                    interrupt_at = Some(Instant::now() + pause);
                    continue;
                }
                () = at(execution.deadline()) => break,
            };
            for output in outputs {
                tokio::select! {
                    () = sink.put(&output) => {}
                    control = controls.recv() => return ended_by(control),
                }
            }
        }
        End::Done
    }
}

fn ended_by(control: Option<Control>) -> End {
    match control {
        Some(Control::Restart(answer)) => End::Restart(answer),
        Some(Control::Remove(answer)) => End::Remove(Some(answer)),
        None => End::Remove(None),
    }
}

async fn fail(sink: &Sink, name: &str, value: String) {
    let output = Output::Error {
        name: name.to_owned(),
        value,
        traceback: String::new(),
    };
    sink.put(&output).await;
}

/// Completes at that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Completes when an idle kernel ends. What it says meanwhile belongs to
/// executions that are over.
async fn died(kernel: Option<&mut Kernel>) -> String {
    match kernel {
        Some(kernel) => loop {
            if let Event::Ended(why) = kernel.event().await {
                return why;
            }
        },
        None => std::future::pending().await,
    }
}
