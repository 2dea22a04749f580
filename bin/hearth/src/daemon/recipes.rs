//! Templates that Hearth has a recipe for, and the socket at which whoever owns
//! this machine asks the running daemon to take one in.
//!
//! The command makes the slow part, kernel and root file system, in a process of
//! its own; the daemon boots it once in a network slot of its own pool, keeps the
//! snapshot and publishes it. Nothing of that touches sandboxes. What is half-made
//! is in staging, where the next start sweeps, and unknown to everybody.

use super::audit::{self, Action};
use super::prepare::{self, Place};
use crate::settings::Settings;
use anyhow::Context as _;
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
    serve::Listener,
};
use bytes::Bytes;
use futures::StreamExt as _;
use hearth_builder::{Edition, Event, Outcome, Progress, Stage};
use hearth_control::Control;
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_snapshot::LocalStore;
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible, io, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Where preparations are asked for.
pub const PATH: &str = "/prepare";
/// Words on their way to a client that reads slowly; more are left out.
const WORDS: usize = 256;

/// A template that can be prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    Base,
    CodeInterpreter,
    /// The code interpreter with fewer languages and packages.
    CodeInterpreterSmall,
}

impl Recipe {
    /// The template that it makes.
    pub fn template(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::CodeInterpreter | Self::CodeInterpreterSmall => {
                hearth_builder::INTERPRETER_TEMPLATE
            }
        }
    }

    pub fn edition(self) -> Option<Edition> {
        match self {
            Self::Base => None,
            Self::CodeInterpreter => Some(Edition::Full),
            Self::CodeInterpreterSmall => Some(Edition::Small),
        }
    }
}

/// What the daemon is asked for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Wanted {
    pub recipe: Recipe,
    /// Made again even if nothing has changed.
    pub anew: bool,
}

/// How the daemon is asked. Files that the asker's settings name in place of embedded
/// programs are the daemon's for this preparation: both make the same template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    #[serde(flatten)]
    pub wanted: Wanted,
    #[serde(default)]
    pub agent: Option<PathBuf>,
    #[serde(default)]
    pub interpreter: Option<PathBuf>,
}

impl Request {
    /// The paths become absolute: the daemon's working directory is another.
    pub fn new(wanted: Wanted, settings: &Settings) -> io::Result<Self> {
        let absolute =
            |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        Ok(Self {
            wanted,
            agent: absolute(&settings.agent)?,
            interpreter: absolute(&settings.interpreter)?,
        })
    }

    fn settings(&self, own: &Settings) -> Settings {
        let mut settings = own.clone();
        if let Some(agent) = &self.agent {
            settings.agent = Some(agent.clone());
        }
        if let Some(interpreter) = &self.interpreter {
            settings.interpreter = Some(interpreter.clone());
        }
        settings
    }
}

/// What the daemon says meanwhile, one per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    #[serde(rename_all = "camelCase")]
    Step { stage: Part, text: String },
    #[serde(rename_all = "camelCase")]
    Finished { stage: Part, outcome: How },
    /// The last one: it can be started from.
    #[serde(rename_all = "camelCase")]
    Ready { build_id: String },
    /// The last one: it came to nothing.
    #[serde(rename_all = "camelCase")]
    Failed { message: String },
}

/// [`Stage`] on its way through the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    Kernel,
    Initramfs,
    Rootfs,
    Snapshot,
}

/// [`Outcome`] on its way through the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    Present,
    FromCache,
    Built,
}

impl From<Stage> for Part {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Kernel => Self::Kernel,
            Stage::Initramfs => Self::Initramfs,
            Stage::Rootfs => Self::Rootfs,
            Stage::Snapshot => Self::Snapshot,
        }
    }
}

impl From<Part> for Stage {
    fn from(part: Part) -> Self {
        match part {
            Part::Kernel => Self::Kernel,
            Part::Initramfs => Self::Initramfs,
            Part::Rootfs => Self::Rootfs,
            Part::Snapshot => Self::Snapshot,
        }
    }
}

impl From<Outcome> for How {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Present => Self::Present,
            Outcome::FromCache => Self::FromCache,
            Outcome::Built => Self::Built,
        }
    }
}

impl From<How> for Outcome {
    fn from(how: How) -> Self {
        match how {
            How::Present => Self::Present,
            How::FromCache => Self::FromCache,
            How::Built => Self::Built,
        }
    }
}

/// Hands words to the client, as long as there is one.
struct Told(mpsc::Sender<Word>);

impl Progress for Told {
    fn event(&self, event: Event<'_>) {
        let word = match event {
            Event::Step { stage, text } => Word::Step {
                stage: stage.into(),
                text: text.to_owned(),
            },
            Event::Finished { stage, outcome } => Word::Finished {
                stage: stage.into(),
                outcome: outcome.into(),
            },
            // Counts are for bars; the daemon's part has none worth a line.
            Event::Advanced { .. } => return,
        };
        // A client that went away or sleeps misses words, never the work.
        let _ = self.0.try_send(word);
    }
}

/// The daemon's parts that a preparation needs.
pub struct Kitchen {
    pub settings: Settings,
    pub engine: Arc<dyn Engine>,
    pub slots: SlotPool,
    pub store: LocalStore,
    pub control: Arc<Control>,
}

struct Shared {
    kitchen: Kitchen,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Serves the socket.
pub struct Admin {
    shared: Arc<Shared>,
    socket: std::path::PathBuf,
}

impl Admin {
    pub fn start(kitchen: Kitchen) -> anyhow::Result<Self> {
        let socket = kitchen.settings.admin_socket();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", socket.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        let shared = Arc::new(Shared {
            kitchen,
            turn: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let router = Router::new()
            .route(PATH, post(answer))
            .with_state(Arc::clone(&shared));
        let ended = shared.stop.clone().cancelled_owned();
        shared.tasks.spawn(async move {
            let served = axum::serve(Owners(listener), router).with_graceful_shutdown(ended);
            if let Err(error) = served.await {
                tracing::error!(%error, "the admin socket stopped serving");
            }
        });
        Ok(Self { shared, socket })
    }

    /// Gives up what is being prepared.
    pub async fn stop(self, limit: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(limit, self.shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the admin socket did not wind down in time");
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Takes connections of root and of the daemon's own user alone, whatever the
/// socket's permissions say.
struct Owners(UnixListener);

impl Listener for Owners {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.0).await;
            let own = rustix::process::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == own => return (stream, address),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "refused at the admin socket"),
                Err(error) => tracing::warn!(%error, "refused at the admin socket"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, Json(request): Json<Request>) -> Response {
    let (tell, told) = mpsc::channel(WORDS);
    let this = Arc::clone(&shared);
    // In a task of its own: it goes on when the client leaves.
    shared.tasks.spawn(async move {
        let made = tokio::select! {
            made = carry_out(&this, &request, Told(tell.clone())) => made,
            () = this.stop.cancelled() => Err(anyhow::anyhow!("the daemon stops")),
        };
        let template = request.wanted.recipe.template().to_owned();
        let action = Action::at_socket("template.prepare", template);
        audit::operator(&this.kitchen.settings, action, made.is_ok());
        let last = match made {
            Ok(build_id) => Word::Ready { build_id },
            Err(error) => {
                let message = format!("{error:#}");
                tracing::error!(
                    template = request.wanted.recipe.template(),
                    message,
                    "not prepared"
                );
                Word::Failed { message }
            }
        };
        let _ = tell.send_timeout(last, Duration::from_secs(5)).await;
    });
    let lines = ReceiverStream::new(told).map(|word| {
        let mut line = serde_json::to_vec(&word).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    (StatusCode::OK, Body::from_stream(lines)).into_response()
}

async fn carry_out(shared: &Shared, request: &Request, told: Told) -> anyhow::Result<String> {
    let wanted = request.wanted;
    let _turn = shared.turn.lock().await;
    let kitchen = &shared.kitchen;
    let place = Place {
        engine: &kitchen.engine,
        store: &kitchen.store,
        slots: Some(&kitchen.slots),
    };
    prepare::ensure(&request.settings(&kitchen.settings), wanted, place, &told).await?;
    let control = &kitchen.control;
    let team = control
        .store()
        .team_by_slug(super::DEFAULT_TEAM)
        .await?
        .context("the first team is gone")?;
    let publishing = prepare::Publishing {
        store: &kitchen.store,
        control,
        team: team.id,
        here: &hearth_microvm::host(&kitchen.engine.capabilities()),
    };
    let build = prepare::publish(publishing, wanted.recipe.template())
        .await?
        .context("the template was made, but is not there")?;
    tracing::info!(template = wanted.recipe.template(), %build, "prepared");
    Ok(build.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_sent() {
        let words = [
            Word::Step {
                stage: Stage::Snapshot.into(),
                text: "booting".to_owned(),
            },
            Word::Finished {
                stage: Part::Rootfs,
                outcome: Outcome::FromCache.into(),
            },
            Word::Failed {
                message: "why".to_owned(),
            },
        ];
        for word in words {
            let line = serde_json::to_string(&word).expect("serializes");
            assert_eq!(serde_json::from_str::<Word>(&line).expect(&line), word);
        }
    }

    #[test]
    fn the_askers_files_are_the_daemons() {
        // As earlier versions ask.
        let plain = r#"{"recipe":"code-interpreter-small","anew":false}"#;
        let plain: Request = serde_json::from_str(plain).expect("valid");
        assert_eq!(plain.wanted.recipe.template(), "code-interpreter-v1");
        let daemons = Settings {
            agent: Some("/daemons/envd".into()),
            ..Settings::default()
        };
        assert_eq!(plain.settings(&daemons).agent, daemons.agent);

        let askers = Settings {
            agent: Some("/askers/envd".into()),
            interpreter: Some("server".into()),
            ..Settings::default()
        };
        let request = Request::new(plain.wanted, &askers).expect("paths");
        let sent = serde_json::to_string(&request).expect("serializes");
        let got: Request = serde_json::from_str(&sent).expect(&sent);
        let settings = got.settings(&daemons);
        assert_eq!(settings.agent, askers.agent);
        let here = std::env::current_dir().expect("there is one");
        assert_eq!(settings.interpreter, Some(here.join("server")));
    }
}
