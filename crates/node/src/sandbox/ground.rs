//! What a sandbox's VM stands on: the builds that its memory and its disk come
//! from. The leases keep these, and all below them, from being collected.

use crate::{
    error::Error,
    journal::{Origin, Record},
};
use hearth_ids::BuildId;
use hearth_snapshot::{
    BuildCache, FileRole, Lease, LocalStore, SECRETS_FILE, Stack, TemplateDetails,
};
use serde::{Deserialize, Serialize};
use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

#[derive(Debug)]
pub(crate) struct Ground {
    /// Absent for a VM that was booted.
    pub memory: Option<Stack>,
    pub disk: Stack,
    _leases: Vec<Lease>,
}

impl Ground {
    pub(crate) async fn of(builds: &LocalStore, record: &Record) -> Result<Self, Error> {
        Self::load(builds, record.origin(), record.disk_base()).await
    }

    pub(crate) async fn load(
        builds: &LocalStore,
        origin: Origin,
        disk: BuildId,
    ) -> Result<Self, Error> {
        let mut leases = vec![builds.lease(disk)];
        let below = builds.stack(disk).await.map_err(Error::build(disk))?;
        let memory = match origin {
            Origin::Booted => None,
            Origin::Restored(id) if id == disk => Some(below.clone()),
            Origin::Restored(id) => {
                leases.push(builds.lease(id));
                Some(builds.stack(id).await.map_err(Error::build(id))?)
            }
        };
        Ok(Self {
            memory,
            disk: below,
            _leases: leases,
        })
    }
}

impl Ground {
    /// What the template set that the disk began as. A template that a build
    /// made keeps a file about it beside its disk; others have the usual ones.
    pub(crate) fn defaults(&self) -> std::io::Result<TemplateDetails> {
        match self.disk.disk.image.parent() {
            Some(directory) => TemplateDetails::load(directory),
            None => Ok(TemplateDetails::default()),
        }
    }
}

/// What only the node may know of a build.
#[derive(Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Token that the agent in the build's memory expects, if it expects one.
    pub envd_access_token: Option<String>,
}

impl Secrets {
    /// Writes the file of a build to be, readable by its owner alone.
    pub(crate) fn write(&self, directory: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.join(SECRETS_FILE))?;
        file.write_all(&serde_json::to_vec(self)?)
    }

    /// The secrets of a build; a template has none.
    pub(crate) fn read(stack: &Stack) -> Result<Option<Self>, Error> {
        let Some(path) = stack.build.file_path(FileRole::Secrets) else {
            return Ok(None);
        };
        let read =
            || -> std::io::Result<Self> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
        read()
            .map(Some)
            .map_err(Error::step("read what the build keeps for the node"))
    }
}
