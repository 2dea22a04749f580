//! Files of the sandbox: describing and changing them ([`service`]), reading and
//! writing their contents ([`download`], [`upload`], [`compose`]), watching directories ([`watch`]).
//!
//! Every operation has **the agent's own power, which in a guest is root's**, whoever
//! the user is: clients write to `/app`, `/opt` and `/etc` as the default user. The user
//! decides what a relative path means, and whom belongs what is made: new files, new
//! directories above them, and an existing file that is written ([`owner`]).

pub mod access;
pub mod compose;
pub mod content;
pub mod download;
pub mod entry;
pub mod error;
pub mod metadata;
pub mod multipart;
pub mod names;
pub mod owner;
mod reading;
pub mod service;
pub mod tree;
pub mod upload;
pub mod watch;

pub use error::FileError;

use std::sync::Arc;

use crate::paths;
use crate::settings::Settings;
use crate::users::{User, UserDatabase};
use owner::Owner;

/// A user on whose behalf files are worked on.
#[derive(Clone, Debug)]
pub struct Actor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    user: User,
    default_workdir: Option<String>,
    users: UserDatabase,
}

impl Actor {
    pub fn new(user: User, settings: &Settings, users: &UserDatabase) -> Self {
        let default_workdir = settings.default_workdir.clone();
        Self(Arc::new(Inner {
            user,
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

    /// Whom what is made belongs to.
    pub fn owner(&self) -> Owner {
        Owner::new(self.0.user.uid, self.0.user.gid)
    }

    /// The absolute path that `path` means to this user.
    pub fn resolve(&self, path: &str) -> Result<String, FileError> {
        let workdir = self.0.default_workdir.as_deref();
        paths::resolve(path, &self.0.user, workdir)
            .map_err(|error| FileError::invalid(error.to_string()))
    }

    /// Runs a file operation on a blocking thread. An operation that has begun is
    /// finished even when the caller goes away.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        match tokio::task::spawn_blocking(operation).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(FileError::internal("the agent is stopping")),
        }
    }
}
