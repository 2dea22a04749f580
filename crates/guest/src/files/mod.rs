//! Files of the sandbox: describing and changing them ([`service`]), reading and
//! writing their contents ([`download`], [`upload`], [`compose`]), watching directories ([`watch`]).
//!
//! Every operation is done **as the user**: on a blocking thread that has taken
//! on the user's file-system identity ([`Actor::run`]). What the user may not
//! do fails with the kernel's own answer, and what is made belongs to the user
//! from its first moment.

pub mod access;
pub mod compose;
pub mod content;
pub mod download;
pub mod entry;
pub mod error;
pub mod metadata;
pub mod multipart;
mod reading;
pub mod service;
pub mod tree;
pub mod upload;
pub mod watch;

pub use error::FileError;

use std::sync::Arc;

use crate::paths;
use crate::settings::Settings;
use crate::sys::credentials::ActingAs;
use crate::users::{User, UserDatabase};

/// A user with all that is needed to act as it.
#[derive(Clone, Debug)]
pub struct Actor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    user: User,
    groups: Vec<u32>,
    default_workdir: Option<String>,
    users: UserDatabase,
}

impl Actor {
    pub fn new(user: User, settings: &Settings, users: &UserDatabase) -> Self {
        let groups = users.group_ids(&user);
        let default_workdir = settings.default_workdir.clone();
        Self(Arc::new(Inner {
            user,
            groups,
            default_workdir,
            users: users.clone(),
        }))
    }

    pub fn user(&self) -> &User {
        &self.0.user
    }

    pub fn users(&self) -> &UserDatabase {
        &self.0.users
    }

    /// The absolute path that `path` means to this user.
    pub fn resolve(&self, path: &str) -> Result<String, FileError> {
        let workdir = self.0.default_workdir.as_deref();
        paths::resolve(path, &self.0.user, workdir)
            .map_err(|error| FileError::invalid(error.to_string()))
    }

    /// Runs a file operation as the user on a blocking thread. An operation
    /// that has begun is finished even when the caller goes away.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let actor = self.clone();
        let result = tokio::task::spawn_blocking(move || {
            let inner = &actor.0;
            let _acting = ActingAs::user(inner.user.uid, inner.user.gid, &inner.groups)
                .map_err(|error| FileError::from_io("cannot act as the user", &error))?;
            operation()
        });
        match result.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(FileError::internal("the agent is stopping")),
        }
    }
}
