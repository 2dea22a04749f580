//! Taking builds away: those that somebody names, and those that nothing needs. What is
//! needless is decided by [`crate::gc`]; here is what it decides upon, and the removal.

use super::{
    Inner, RETIRED,
    files::{chain, remove_directory, sync_directory},
    lease::State,
    scan::Stored,
};
use crate::{
    Error, Kind,
    gc::{self, Facts, Held, References, StoredBuild},
};
use hearth_ids::BuildId;
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::MutexGuard,
};

impl Inner {
    pub(super) fn retire(&self, id: BuildId) -> Result<(), Error> {
        let directory = self.directory(id);
        let path = directory.join(RETIRED);
        let marked = File::options().write(true).create_new(true).open(&path);
        match marked {
            Ok(_) => sync_directory(&directory),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                Err(Error::NotFound(id))
            }
            Err(error) => Err(Error::io("mark", path)(error)),
        }
    }

    /// Finds, and unless it is only asked for removes, what nothing needs. A build that
    /// cannot be removed now is left to the next time, and does not keep others.
    pub(super) fn collect(&self, only_look: bool) -> Result<Vec<BuildId>, Error> {
        // Locked to the end, so that no lease comes between looking and removing.
        let (stored, mut state) = self.look_and_lock()?;
        self.hold_for_builds(&stored, &mut state);
        let garbage = gc::removable(&facts(&stored, &state, &named(&stored)));
        if only_look {
            return Ok(garbage);
        }
        let mut removed = Vec::new();
        let mut doomed = Vec::new();
        for id in garbage {
            match self.hide(id) {
                Ok(directory) => {
                    removed.push(id);
                    doomed.push(directory);
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => {
                    tracing::error!(build = %id, error = %chain(&error), "remove a needless build failed");
                }
            }
        }
        drop(state);
        for directory in doomed {
            // Out of sight: what is left of it is swept at the next start.
            if let Err(error) = remove_directory(&directory) {
                tracing::error!(error = %chain(&error), "remove a needless build's files failed");
            }
        }
        if !removed.is_empty() {
            sync_directory(&self.root)?;
        }
        Ok(removed)
    }

    /// What is stored, with the register locked and nothing published in between.
    fn look_and_lock(&self) -> Result<(Stored, MutexGuard<'_, State>), Error> {
        loop {
            let published = self.leases.lock().published;
            let stored = self.look()?;
            let state = self.leases.lock();
            if state.published == published {
                return Ok((stored, state));
            }
        }
    }

    pub(super) fn remove(&self, id: BuildId) -> Result<(), Error> {
        let doomed = self.hide(id)?;
        remove_directory(&doomed)?;
        sync_directory(&self.root)
    }

    /// Takes a build out of sight, to be removed or, after a crash, swept.
    fn hide(&self, id: BuildId) -> Result<PathBuf, Error> {
        let directory = self.directory(id);
        let doomed = self
            .staging()
            .join(format!("removed-{}", BuildId::random()));
        match fs::rename(&directory, &doomed) {
            Ok(()) => Ok(doomed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(id)),
            Err(error) => Err(Error::io("remove", directory)(error)),
        }
    }
}

/// What unreadable builds name, which stays, as they do themselves.
fn named(stored: &Stored) -> Held {
    let named = stored
        .unreadable
        .iter()
        .filter_map(|build| match &build.references {
            References::Named(builds) => Some(builds),
            References::Unknown => None,
        });
    Held::Present(named.flatten().copied().collect())
}

fn facts<'a>(stored: &'a Stored, state: &'a State, named: &'a Held) -> Facts<'a> {
    let builds = stored.builds.iter().map(|build| StoredBuild {
        id: build.manifest.build_id,
        expendable: build.retired || build.manifest.kind == Kind::Pause,
        parents: &build.manifest.parents,
    });
    Facts {
        builds: builds.collect(),
        leased: state.held.keys().copied().collect(),
        holds: state.holds.values().chain([named]).collect(),
    }
}
