//! Holds: what stays because somebody who cannot be read may need it.
//!
//! A hold begins when its holder is first found unreadable, and covers the builds that
//! are there then. It is remembered in `.holds.json`, so that the next process does not
//! hold what was made meanwhile; what is remembered counts only while the file that
//! could not be read is the very same, by length, times and inode. Without the memory,
//! as on a full disk, a hold begins anew: that only holds more.

use super::{Inner, files::sync_directory, scan::Stored};
use crate::{
    Error, MANIFEST_FILE,
    gc::{Held, References},
    hold::{Hold, Holder},
    local::lease::State,
};
use chrono::Utc;
use hearth_ids::{BuildId, SandboxId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, btree_map::Entry},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

const FILE: &str = ".holds.json";
const VERSION: u32 = 1;
/// A memory longer than this, in bytes, is none.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Remembered {
    version: u32,
    holds: Vec<Hold>,
}

impl Inner {
    /// Begins a sandbox's hold, or goes on with a remembered one.
    pub(super) fn hold_for(&self, sandbox: &SandboxId, journal: &Path) {
        let holder = Holder::Sandbox(sandbox.clone());
        let held = self.begin(&holder, journal, || self.present());
        self.leases.lock().holds.insert(holder, held);
    }

    /// Begins the holds of builds that do not tell what they are based on, and ends those
    /// of builds that do by now, or are gone.
    pub(super) fn hold_for_builds(&self, stored: &Stored, state: &mut State) {
        let silent: BTreeSet<BuildId> = stored
            .unreadable
            .iter()
            .filter(|build| build.references == References::Unknown)
            .map(|build| build.id)
            .collect();
        state.holds.retain(|holder, _| match holder {
            Holder::Build(id) => silent.contains(id),
            Holder::Sandbox(_) => true,
        });
        let present = || Ok(stored.ids());
        for id in silent {
            if let Entry::Vacant(new) = state.holds.entry(Holder::Build(id)) {
                let manifest = self.directory(id).join(MANIFEST_FILE);
                let held = self.begin(new.key(), &manifest, present);
                new.insert(held);
            }
        }
    }

    /// Remembered holds that still count, with the builds that are still there.
    pub(super) fn holds(&self) -> Result<Vec<Hold>, Error> {
        let present = self.present()?;
        let mut holds = self.remembered();
        for hold in &mut holds {
            hold.builds.retain(|id| present.contains(id));
        }
        Ok(holds)
    }

    fn begin(
        &self,
        holder: &Holder,
        path: &Path,
        present: impl Fn() -> Result<BTreeSet<BuildId>, Error>,
    ) -> Held {
        let mut holds = self.remembered();
        if let Some(hold) = holds.iter().find(|hold| hold.holder == *holder) {
            return Held::Present(hold.builds.clone());
        }
        let builds = match present() {
            Ok(builds) => builds,
            Err(error) => {
                tracing::error!(%holder, %error, "list builds failed: garbage collection removes none");
                return Held::All;
            }
        };
        tracing::error!(%holder, path = %path.display(), builds = builds.len(), "read failed: hold the builds that it may need");
        if let Some(evidence) = evidence_of(path) {
            holds.push(Hold {
                holder: holder.clone(),
                path: path.to_owned(),
                since: Utc::now(),
                builds: builds.clone(),
                evidence,
            });
            if let Err(error) = self.remember(holds) {
                tracing::warn!(%holder, %error, "remember a hold failed: it begins anew at the next start");
            }
        }
        Held::Present(builds)
    }

    fn present(&self) -> Result<BTreeSet<BuildId>, Error> {
        Ok(self.ids()?.into_iter().collect())
    }

    /// What an earlier look found, as far as it is still so.
    fn remembered(&self) -> Vec<Hold> {
        let path = self.root.join(FILE);
        let read = || -> io::Result<Remembered> {
            let mut text = Vec::new();
            File::open(&path)?.take(MAX_BYTES).read_to_end(&mut text)?;
            Ok(serde_json::from_slice(&text)?)
        };
        let mut holds = match read() {
            Ok(found) if found.version == VERSION => found.holds,
            Ok(_) => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "read holds failed: they begin anew");
                Vec::new()
            }
        };
        holds.retain(|hold| evidence_of(&hold.path).as_ref() == Some(&hold.evidence));
        holds
    }

    fn remember(&self, holds: Vec<Hold>) -> io::Result<()> {
        let text = serde_json::to_vec(&Remembered {
            version: VERSION,
            holds,
        })?;
        let (new, path) = (self.root.join(format!("{FILE}.new")), self.root.join(FILE));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(new, path)?;
        sync_directory(&self.root).map_err(io::Error::other)
    }
}

/// What changes when a file is written, replaced or made. Where it is not there, its
/// directory is looked at.
fn evidence_of(path: &Path) -> Option<String> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::symlink_metadata(path.parent()?).ok()?
        }
        found => found.ok()?,
    };
    Some(format!(
        "{:o}-{}-{}-{}.{:09}-{}.{:09}",
        found.mode(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}
