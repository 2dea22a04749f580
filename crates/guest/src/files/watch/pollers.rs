//! Watchers for clients that ask instead of listening.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_guest_proto::filesystem::FilesystemEvent;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tree::Tree;
use super::{Options, events};
use crate::files::error::Kind;
use crate::files::{Actor, FileError};

/// Pollers at once.
const MAX_POLLERS: usize = 128;
/// Events that are kept for one poller.
const MAX_EVENTS: usize = 16_384;
/// A poller that nobody has asked for so long makes room for another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);

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
        self.pollers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a poller and returns its id.
    pub fn insert(&self, actor: Actor, tree: Tree, options: Options) -> Result<String, FileError> {
        let id = new_id().map_err(|error| FileError::from_io("error drawing an id", &error))?;
        let poller = Arc::new(Poller {
            actor,
            include_entry: options.include_entry,
            state: tokio::sync::Mutex::new(State {
                tree: Some(tree),
                events: VecDeque::new(),
                lost: false,
            }),
            asked: Mutex::new(Instant::now()),
            stop: self.stop.child_token(),
        });
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

    /// What has happened since the last question; `None` for an unknown id.
    pub async fn take(&self, id: &str) -> Option<Result<Vec<FilesystemEvent>, FileError>> {
        let poller = Arc::clone(self.pollers().get(id)?);
        *poller.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
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
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
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
    let drain = async {
        let handle = poller.state.lock().await.tree.as_ref().map(Tree::handle)?;
        loop {
            let mut ready = handle.readable().await.ok()?;
            let mut state = poller.state.lock().await;
            poller.drain(&mut state).await.ok()?;
            ready.clear_ready();
        }
    };
    tokio::select! {
        // It ends only on failure, which the next question will tell.
        None::<()> = drain => {}
        () = poller.stop.cancelled() => {}
    }
}

/// 128 random bits.
fn new_id() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
