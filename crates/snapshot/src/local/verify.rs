//! Comparing content with manifests.

use super::Inner;
use crate::{Build, Corruption, Error, sparse};
use hearth_ids::BuildId;
use std::fs::File;

impl Inner {
    pub(super) fn verify(&self, id: BuildId) -> Result<(), Error> {
        verify_files(&self.load(id)?, u64::MAX)
    }
}

pub(super) fn verify_files(build: &Build, limit_bytes: u64) -> Result<(), Error> {
    for entry in &build.manifest.files {
        let path = build.directory.join(&entry.name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let bytes = sparse::allocated_bytes(&file).map_err(Error::io("inspect", &path))?;
        if bytes > limit_bytes {
            continue;
        }
        let found = sparse::digest(&file).map_err(Error::io("read", &path))?;
        if found != entry.digest {
            return Err(Error::Corrupt {
                build: build.manifest.build_id,
                file: entry.name.clone(),
                why: Corruption::Digest,
            });
        }
    }
    Ok(())
}
