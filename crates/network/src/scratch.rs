//! A namespace with a TAP and nothing else: what a VM needs to be restored into,
//! for measurements that must not touch the pool.

use std::path::{Path, PathBuf};

use crate::address::{GUEST_MAC, TAP_NAME};
use crate::error::{Error, Result};
use crate::{netns, tap};

/// Removed, name and all, when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// Makes the namespace, replacing one that an interrupted run left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn create(name: &str) -> Result<Self> {
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            netns::remove(&name)?;
            let namespace = Self {
                path: netns::path_of(&name),
                name,
            };
            netns::create(&namespace.name, || tap::create_persistent(TAP_NAME, 0))?;
            Ok(namespace)
        })
        .await
        .map_err(|_| Error::WorkerDied)?
    }

    /// The namespace's file, as `setns` takes it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the TAP in the namespace.
    #[must_use]
    pub fn tap(&self) -> &'static str {
        TAP_NAME
    }

    /// The guest's MAC address on the TAP.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        GUEST_MAC
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = netns::remove(&self.name) {
            tracing::warn!(name = self.name, %error, "cannot remove a network namespace");
        }
    }
}
