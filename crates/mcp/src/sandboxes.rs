//! The sandboxes of a session: the one that tools use where none is named, and all that
//! were made and are to be ended.

use crate::options::Options;
use hearth_client::{
    ControlClient, Error, ListQuery, ListedSandbox, NewSandbox, Sandbox, SandboxClient, SandboxId,
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long the end of one sandbox is waited for when the session is over.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Why a tool has no sandbox to work in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSandbox {
    #[error("{id} is no ID of a sandbox: {error}")]
    Id { id: String, error: String },
    #[error(
        "the sandbox {0} has ended, and its files with it. Without `sandbox_id` the next call \
         makes a new one."
    )]
    Ended(SandboxId),
    #[error("there is no sandbox {0}: list_sandboxes says which there are")]
    Unknown(SandboxId),
    #[error(transparent)]
    Client(#[from] Error),
}

pub(crate) struct Sandboxes {
    client: ControlClient,
    options: Options,
    /// Made in this session. Locked for moments only.
    own: Mutex<BTreeSet<SandboxId>>,
    /// Used where a tool names none. Locked while it is made, so that calls that come at
    /// once share it.
    default: tokio::sync::Mutex<Option<SandboxId>>,
}

impl Sandboxes {
    pub(crate) fn new(client: ControlClient, options: Options) -> Self {
        Self {
            client,
            options,
            own: Mutex::default(),
            default: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a sandbox; what `new` leaves out is as the options say.
    pub(crate) async fn create(&self, mut new: NewSandbox) -> Result<Sandbox, NoSandbox> {
        if new.template_id.is_empty() {
            new.template_id.clone_from(&self.options.template);
        }
        new.timeout.get_or_insert_with(|| {
            i64::try_from(self.options.timeout.as_secs()).unwrap_or(i64::MAX)
        });
        let made = self.client.sandbox_create(&new).await?;
        let id = SandboxId::parse_client(&made.sandbox_id).map_err(Error::from)?;
        self.lock_own().insert(id);
        Ok(made)
    }

    /// The named sandbox, or else the session's, which is made at its first use. A paused
    /// one is resumed. It lives on for the options' timeout from now, at least.
    pub(crate) async fn get(&self, named: Option<&str>) -> Result<Sandbox, NoSandbox> {
        if let Some(named) = named {
            let id = parse(named)?;
            return match self.connect(&id).await {
                Err(error) if error.status() == Some(404) => Err(NoSandbox::Unknown(id)),
                other => Ok(other?),
            };
        }
        let mut default = self.default.lock().await;
        let Some(id) = default.clone() else {
            let made = self.create(NewSandbox::default()).await?;
            *default = Some(SandboxId::parse_client(&made.sandbox_id).map_err(Error::from)?);
            return Ok(made);
        };
        match self.connect(&id).await {
            Err(error) if error.status() == Some(404) => {
                // Said once: whoever calls must know that what it wrote is gone.
                *default = None;
                self.lock_own().remove(&id);
                Err(NoSandbox::Ended(id))
            }
            other => Ok(other?),
        }
    }

    async fn connect(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        let timeout = self.options.timeout;
        self.client.sandbox_connect(id, Some(timeout)).await
    }

    /// Speaks to a sandbox's agent; a call may take `limit`.
    pub(crate) fn agent(&self, sandbox: &Sandbox, limit: Duration) -> Result<SandboxClient, Error> {
        let client = self.client.clone().with_timeout(limit);
        client.sandbox_client(sandbox)
    }

    /// The URL of a port of a sandbox.
    pub(crate) fn url(&self, sandbox: &Sandbox, port: u16) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!(
            "{scheme}://{port}-{}.{}",
            sandbox.sandbox_id, sandbox.domain
        )
    }

    /// All sandboxes that the key may see.
    pub(crate) async fn list(&self) -> Result<Vec<ListedSandbox>, Error> {
        self.client.sandbox_list_all(&ListQuery::default()).await
    }

    /// Whether the sandbox was made in this session.
    pub(crate) fn is_own(&self, id: &str) -> bool {
        self.lock_own().iter().any(|own| own.as_str() == id)
    }

    /// Ends a sandbox. False when there was none.
    pub(crate) async fn kill(&self, named: &str) -> Result<bool, NoSandbox> {
        let id = parse(named)?;
        let was = self.client.sandbox_kill(&id).await?;
        self.lock_own().remove(&id);
        let mut default = self.default.lock().await;
        if default.as_ref() == Some(&id) {
            *default = None;
        }
        Ok(was)
    }

    /// Ends what was made in this session, unless it is to be kept. One that cannot be ended
    /// ends by its timeout.
    pub(crate) async fn end_own(&self) {
        if self.options.keep {
            return;
        }
        let own = std::mem::take(&mut *self.lock_own());
        for id in own {
            let ended = tokio::time::timeout(END_LIMIT, self.client.sandbox_kill(&id)).await;
            match ended {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(sandbox = %id, %error, "end sandbox failed"),
                Err(_) => tracing::warn!(sandbox = %id, "end sandbox failed: no answer in time"),
            }
        }
    }

    fn lock_own(&self) -> std::sync::MutexGuard<'_, BTreeSet<SandboxId>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(named: &str) -> Result<SandboxId, NoSandbox> {
    SandboxId::parse_client(named).map_err(|error| NoSandbox::Id {
        id: named.to_owned(),
        error: error.to_string(),
    })
}
