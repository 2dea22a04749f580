//! Watchers for clients that ask instead of listening.

use hearth_util::LockExt as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hearth_guest_proto::filesystem::FilesystemEvent;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tree::{Tree, TreeState};
use super::{Options, events};
use crate::files::error::Kind;
use crate::files::{Actor, FileError};

/// Pollers at once.
const MAX_POLLERS: usize = 128;
/// Events that are kept for one poller.
const MAX_EVENTS: usize = 16_384;
/// A poller that nobody has asked for so long makes room for another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);

/// What one poller leaves to the agent's successor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct PollerState {
    id: String,
    pub user: String,
    include_entry: bool,
    tree: TreeState,
    events: Vec<FilesystemEvent>,
    lost: bool,
}

/// All pollers.
#[derive(Debug)]
pub struct Pollers {
    pollers: Mutex<HashMap<String, Arc<Poller>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Poller {
    actor: Actor,
    include_entry: bool,
    /// Held across reading, so that events stay in order. `None` only when a
    /// read was broken off.
    state: tokio::sync::Mutex<State>,
    asked: Mutex<Instant>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    tree: Option<Tree>,
    events: VecDeque<FilesystemEvent>,
    lost: bool,
}

impl Pollers {
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            pollers: Mutex::default(),
            tasks,
            stop,
        }
    }

    fn pollers(&self) -> MutexGuard<'_, HashMap<String, Arc<Poller>>> {
        self.pollers.lock_unpoisoned()
    }

    /// Adds a poller and returns its id.
    pub fn insert(&self, actor: Actor, tree: Tree, options: Options) -> Result<String, FileError> {
        let id = new_id().map_err(|error| FileError::from_io("error drawing an id", &error))?;
        let state = State {
            tree: Some(tree),
            events: VecDeque::new(),
            lost: false,
        };
        let poller = self.poller(actor, options.include_entry, state);
        let mut pollers = self.pollers();
        if pollers.len() >= MAX_POLLERS {
            pollers.retain(|_, poller| poller.is_wanted());
        }
        if pollers.len() >= MAX_POLLERS {
            return Err(FileError::new(
                Kind::TooMany,
                format!("more than {MAX_POLLERS} watchers, remove some"),
            ));
        }
        pollers.insert(id.clone(), Arc::clone(&poller));
        drop(pollers);
        self.tasks.spawn(keep_draining(poller));
        Ok(id)
    }

    fn poller(&self, actor: Actor, include_entry: bool, state: State) -> Arc<Poller> {
        Arc::new(Poller {
            actor,
            include_entry,
            state: tokio::sync::Mutex::new(state),
            asked: Mutex::new(Instant::now()),
            stop: self.stop.child_token(),
        })
    }

    /// All of them, for the agent's successor. Those that cannot be kept are left
    /// out; their next question then finds no watcher.
    pub fn state_for_successor(&self) -> Vec<PollerState> {
        let pollers = self.pollers();
        let kept = pollers.iter().filter_map(|(id, poller)| {
            let mut state = poller.state.try_lock().ok()?;
            let events = state.events.iter().cloned().collect();
            Some(PollerState {
                id: id.clone(),
                user: poller.actor.user().name.clone(),
                include_entry: poller.include_entry,
                tree: state.tree.as_mut()?.state_for_successor().ok()?,
                events,
                lost: state.lost,
            })
        });
        kept.collect()
    }

    /// Goes on with one of the predecessor. Must run inside the runtime.
    pub fn adopt(&self, state: PollerState, actor: Actor) -> std::io::Result<()> {
        let inner = State {
            tree: Some(Tree::adopt(state.tree)?),
            events: state.events.into(),
            lost: state.lost,
        };
        let poller = self.poller(actor, state.include_entry, inner);
        self.pollers().insert(state.id, Arc::clone(&poller));
        self.tasks.spawn(keep_draining(poller));
        Ok(())
    }

    /// What has happened since the last question; `None` for an unknown id.
    pub async fn take(&self, id: &str) -> Option<Result<Vec<FilesystemEvent>, FileError>> {
        let poller = Arc::clone(self.pollers().get(id)?);
        *poller.asked.lock_unpoisoned() = Instant::now();
        let mut state = poller.state.lock().await;
        if let Err(error) = poller.drain(&mut state).await {
            return Some(Err(error));
        }
        if std::mem::take(&mut state.lost) {
            state.events.clear();
            return Some(Err(super::lost()));
        }
        Some(Ok(std::mem::take(&mut state.events).into()))
    }

    /// `false` for an unknown id.
    pub fn remove(&self, id: &str) -> bool {
        match self.pollers().remove(id) {
            Some(poller) => {
                poller.stop.cancel();
                true
            }
            None => false,
        }
    }
}

impl Poller {
    fn is_wanted(&self) -> bool {
        let asked = *self.asked.lock_unpoisoned();
        let wanted = asked.elapsed() < FORGOTTEN_AFTER;
        if !wanted {
            self.stop.cancel();
        }
        wanted
    }

    /// Moves all that the kernel has into the buffer.
    async fn drain(&self, state: &mut State) -> Result<(), FileError> {
        let Some(mut tree) = state.tree.take() else {
            return Err(FileError::internal(
                "the watcher has failed, create a new one",
            ));
        };
        let (actor, include_entry) = (self.actor.clone(), self.include_entry);
        let (tree, read) = self
            .actor
            .run(move || {
                let read = tree
                    .read()
                    .map(|changes| events(&actor, tree.root(), changes, include_entry));
                Ok((tree, read))
            })
            .await?;
        state.tree = Some(tree);
        match read {
            Ok(events) if state.events.len() + events.len() > MAX_EVENTS => {
                state.events.clear();
                state.lost = true;
            }
            Ok(events) => state.events.extend(events),
            Err(error) if error.kind == Kind::TooMany => state.lost = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Until the poller is removed. It waits for the kernel without holding the
/// lock, so that a question never waits for an event.
async fn keep_draining(poller: Arc<Poller>) {
    let Some(handle) = poller.state.lock().await.tree.as_ref().map(Tree::handle) else {
        return;
    };
    loop {
        // Only waiting is cut short, never reading: the tree would be lost.
        let ready = tokio::select! {
            ready = handle.readable() => ready,
            () = poller.stop.cancelled() => return,
        };
        let Ok(mut ready) = ready else {
            return;
        };
        let mut state = poller.state.lock().await;
        // A failure will be told to the next question.
        if poller.drain(&mut state).await.is_err() {
            return;
        }
        ready.clear_ready();
    }
}

/// 128 random bits.
fn new_id() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
