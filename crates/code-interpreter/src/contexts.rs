//! All contexts of the server: the default one of each language, made when it is
//! first wanted, and those that clients create.

use crate::{
    Config,
    context::{self, Control, Handle, MAX_WAITING, Place, Request},
    kernel::StartError,
    kernelspec::Catalogue,
    language::{self, Language},
    output::{self, Source},
};
use hearth_util::LockExt as _;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{mpsc::error::TrySendError, oneshot};
use uuid::Uuid;

/// Kernels at the same time; memory usually ends before this.
const MAX_CONTEXTS: usize = 128;
/// Prints, and has a result, which is shown; leaves nothing behind.
const REHEARSAL: &str = "print(1)\n1+1";
/// How often it is run: Python makes quicker what it runs repeatedly.
const REHEARSALS: usize = 3;
/// A variable that rehearsals set, as the first execution sets the sandbox's.
const REHEARSED_VARIABLE: &str = "HEARTH_REHEARSAL";

/// Why a request is refused.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no context {0}")]
    NoContext(String),
    #[error("there is no kernel for {language}; there are kernels for {known}")]
    NoKernel { language: String, known: String },
    #[error("{0} is not a directory")]
    NoDirectory(PathBuf),
    #[error("name either a context or a language, not both")]
    Both,
    #[error("{0:?} cannot be the name of an environment variable")]
    Variable(String),
    #[error("the value of the environment variable {0} holds a zero byte")]
    VariableValue(String),
    #[error("environment variables for one execution cannot be set in {0}")]
    VariablesUnsupported(String),
    #[error("there are {MAX_CONTEXTS} contexts already")]
    TooManyContexts,
    #[error("{MAX_WAITING} executions wait in this context already")]
    Busy,
    #[error("start the kernel")]
    Start(#[from] StartError),
    #[error("the context ended in between")]
    Ended,
}

/// What clients see of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    pub id: String,
    pub language: String,
    pub cwd: PathBuf,
}

/// An execution as a client asks for it.
#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) code: String,
    pub(crate) context: Option<String>,
    pub(crate) language: Option<String>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) token: Option<String>,
}

/// What to do with the default contexts before the server says that it is ready.
#[derive(Debug, Clone, Default)]
pub struct Warming {
    /// A language and code that its default kernel runs; failures are logged only.
    pub rehearsals: Vec<(Language, String)>,
}

/// All contexts of the server. Clones share them.
#[derive(Debug, Clone)]
pub struct Contexts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    state: Mutex<State>,
    /// Held while a default context starts, so that there is one.
    starting: tokio::sync::Mutex<()>,
    ready: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Contexts that there ever were.
    created: u64,
    defaults: BTreeMap<Language, String>,
}

#[derive(Debug, Clone)]
struct Entry {
    language: Language,
    cwd: PathBuf,
    handle: Handle,
    /// Its place in the order of creation.
    number: u64,
}

impl Contexts {
    /// A server without contexts.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let shared = Shared {
            config: Arc::new(config),
            state: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            ready: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock_unpoisoned()
    }

    /// Whether the default contexts have been started.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Read anew each time: kernels may be installed while the server runs.
    fn catalogue(&self) -> Catalogue {
        Catalogue::read(&self.shared.config.kernel_paths)
    }

    /// Starts the default contexts of these languages, as far as there are kernels
    /// for them, one after another; then the server is ready.
    ///
    /// # Errors
    /// When Python's does not start. Others are tried again when they are wanted.
    pub async fn start_defaults(
        &self,
        languages: &[Language],
        warming: &Warming,
    ) -> Result<(), Error> {
        for language in languages {
            if let Err(error) = self.start_default(language, warming).await {
                if *language == Language::python() {
                    return Err(error);
                }
                let error = hearth_util::chain(&error);
                tracing::warn!(
                    language = language.name(),
                    error,
                    "create default context failed"
                );
            }
        }
        self.shared.ready.store(true, Ordering::Release);
        Ok(())
    }

    async fn start_default(&self, language: &Language, warming: &Warming) -> Result<Handle, Error> {
        let _starting = self.shared.starting.lock().await;
        if let Some(handle) = self.known_default(language) {
            return Ok(handle);
        }
        let place = self.place(language, &self.shared.config.home)?;
        let mut kernel = place.start().await?;
        for (_, code) in warming
            .rehearsals
            .iter()
            .filter(|(wanted, _)| wanted == language)
        {
            if let Err(error) = context::rehearse(&mut kernel, code).await {
                tracing::warn!(language = language.name(), error, "run rehearsal failed");
            }
        }
        let (info, handle) = self.enter(language, place, kernel);
        self.state().defaults.insert(language.clone(), info.id);
        Ok(handle)
    }

    fn known_default(&self, language: &Language) -> Option<Handle> {
        let state = self.state();
        let id = state.defaults.get(language)?;
        state.entries.get(id).map(|entry| entry.handle.clone())
    }

    fn place(&self, language: &Language, cwd: &Path) -> Result<Place, Error> {
        let catalogue = self.catalogue();
        let Some(spec) = catalogue.find(language) else {
            let known: Vec<&str> = catalogue.languages().map(Language::name).collect();
            return Err(Error::NoKernel {
                language: language.name().to_owned(),
                known: known.join(", "),
            });
        };
        if !cwd.is_dir() {
            return Err(Error::NoDirectory(cwd.to_owned()));
        }
        if self.state().entries.len() >= MAX_CONTEXTS {
            return Err(Error::TooManyContexts);
        }
        Ok(Place {
            spec: spec.clone(),
            cwd: cwd.to_owned(),
            config: Arc::clone(&self.shared.config),
        })
    }

    fn enter(
        &self,
        language: &Language,
        place: Place,
        kernel: crate::kernel::Kernel,
    ) -> (Info, Handle) {
        let info = Info {
            id: Uuid::new_v4().to_string(),
            language: language.name().to_owned(),
            cwd: place.cwd.clone(),
        };
        let handle = context::spawn(place, kernel);
        let mut state = self.state();
        let entry = Entry {
            language: language.clone(),
            cwd: info.cwd.clone(),
            handle: handle.clone(),
            number: state.created,
        };
        state.created += 1;
        state.entries.insert(info.id.clone(), entry);
        drop(state);
        (info, handle)
    }

    /// A new context with a kernel that runs.
    ///
    /// # Errors
    /// When there is no such kernel or directory, or the kernel does not start.
    pub async fn create(&self, language: Option<&str>, cwd: Option<&str>) -> Result<Info, Error> {
        let language = Language::parse(language.unwrap_or_default());
        let home = &self.shared.config.home;
        let cwd = cwd.filter(|cwd| !cwd.is_empty());
        // A relative directory is one below home.
        let cwd = cwd.map_or_else(|| home.clone(), |cwd| home.join(cwd));
        let place = self.place(&language, &cwd)?;
        let kernel = place.start().await?;
        Ok(self.enter(&language, place, kernel).0)
    }

    /// All contexts, in the order in which they were created.
    #[must_use]
    pub fn list(&self) -> Vec<Info> {
        let state = self.state();
        let mut entries: Vec<(&String, &Entry)> = state.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.number);
        let infos = entries.into_iter().map(|(id, entry)| Info {
            id: id.clone(),
            language: entry.language.name().to_owned(),
            cwd: entry.cwd.clone(),
        });
        infos.collect()
    }

    /// Ends the context's kernel and starts another; what runs ends with an error.
    ///
    /// # Errors
    /// When there is no such context, or the new kernel does not start.
    pub async fn restart(&self, id: &str) -> Result<(), Error> {
        let handle = self.entry(id)?.handle;
        let (answer, answered) = oneshot::channel();
        handle
            .controls
            .send(Control::Restart(answer))
            .await
            .map_err(|_| Error::Ended)?;
        Ok(answered.await.map_err(|_| Error::Ended)??)
    }

    /// Ends the context and its kernel; what runs ends with an error.
    ///
    /// # Errors
    /// When there is no such context.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let entry = {
            let mut state = self.state();
            state.defaults.retain(|_, default| default.as_str() != id);
            state
                .entries
                .remove(id)
                .ok_or_else(|| Error::NoContext(id.to_owned()))?
        };
        let (answer, answered) = oneshot::channel();
        // A context that has ended by itself needs no telling.
        if entry
            .handle
            .controls
            .send(Control::Remove(answer))
            .await
            .is_ok()
        {
            let _ = answered.await;
        }
        Ok(())
    }

    fn entry(&self, id: &str) -> Result<Entry, Error> {
        let state = self.state();
        let entry = state.entries.get(id).cloned();
        entry.ok_or_else(|| Error::NoContext(id.to_owned()))
    }

    /// Queues an execution; its output comes out of the source.
    ///
    /// # Errors
    /// When it cannot be queued. What goes wrong later is part of its output.
    pub(crate) async fn execute(&self, job: Job) -> Result<Source, Error> {
        let (language, handle) = match (&job.context, &job.language) {
            (Some(_), Some(_)) => return Err(Error::Both),
            (Some(id), None) => {
                let entry = self.entry(id)?;
                (entry.language, entry.handle)
            }
            (None, language) => {
                let language = Language::parse(language.as_deref().unwrap_or_default());
                let handle = match self.known_default(&language) {
                    Some(handle) => handle,
                    None => self.start_default(&language, &Warming::default()).await?,
                };
                (language, handle)
            }
        };
        check_variables(&language, &job.variables)?;
        let (sink, source) = output::channel();
        let request = Request {
            code: job.code,
            variables: job.variables,
            token: job.token,
            rehearsal: false,
            sink,
        };
        queue(&handle, request)?;
        Ok(source)
    }

    /// Does what the first execution in Python will do, and forgets it. A machine
    /// that was just woken up is slow the first time.
    ///
    /// # Errors
    /// When there is no default context, or too much waits in it.
    pub async fn rehearse(&self) -> Result<(), Error> {
        let python = Language::python();
        let handle = self.known_default(&python);
        let handle = handle.ok_or_else(|| Error::NoContext(python.name().to_owned()))?;
        for _ in 0..REHEARSALS {
            let (sink, mut source) = output::channel();
            let request = Request {
                code: REHEARSAL.to_owned(),
                variables: [(REHEARSED_VARIABLE.to_owned(), String::new())].into(),
                token: None,
                rehearsal: true,
                sink,
            };
            queue(&handle, request)?;
            while source.next().await.is_some() {}
        }
        Ok(())
    }
}

fn queue(handle: &Handle, request: Request) -> Result<(), Error> {
    let queued = handle.requests.try_send(request);
    queued.map_err(|error| match error {
        TrySendError::Full(_) => Error::Busy,
        TrySendError::Closed(_) => Error::Ended,
    })
}

fn check_variables(language: &Language, variables: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in variables {
        if !language::is_variable_name(name) {
            return Err(Error::Variable(name.clone()));
        }
        if value.contains('\0') {
            return Err(Error::VariableValue(name.clone()));
        }
    }
    if !variables.is_empty() && language.set_for_call(variables).is_none() {
        return Err(Error::VariablesUnsupported(language.name().to_owned()));
    }
    Ok(())
}
