//! What one sandbox is served.

use crate::Losses;
use crate::replay::Replies;
use crate::sys::KernelHandle;
use crate::tree::Tree;
use std::sync::Arc;

/// The volumes of one sandbox, by the names that it mounts them by.
#[derive(Debug)]
pub(crate) struct Exports {
    volumes: Vec<(String, Arc<Tree>)>,
    pub(crate) replies: Replies,
    losses: Arc<Losses>,
}

impl Exports {
    pub(crate) fn new(volumes: Vec<(String, Arc<Tree>)>, losses: Arc<Losses>) -> Self {
        Self {
            volumes,
            replies: Replies::default(),
            losses,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().map(|(name, _)| name.as_str())
    }

    /// The handle of the root of the volume of this name.
    pub(crate) fn root(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut volumes = self.volumes.iter();
        let (_, tree) = volumes.find(|(known, _)| known.as_bytes() == name)?;
        Some(tree.root_handle())
    }

    /// The tree that a handle was made for, if it is one of this sandbox's.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<(Arc<Tree>, KernelHandle)> {
        self.volumes
            .iter()
            .find_map(|(_, tree)| Some((Arc::clone(tree), tree.unseal(sealed)?)))
    }

    /// What changes when written data may be lost that was not on disk yet.
    pub(crate) fn write_verifier(&self) -> [u8; 8] {
        self.losses.verifier()
    }

    /// Data did not get to the disk: clients send again what they still have.
    pub(crate) fn data_lost(&self) {
        self.losses.note();
    }
}
