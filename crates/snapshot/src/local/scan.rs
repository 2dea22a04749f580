//! What lies in the store's directory: every build, readable or not, and one of them.
//! Looking changes nothing.

use super::{Inner, RETIRED, files::chain};
use crate::{
    Build, Corruption, Error, FileEntry, MANIFEST_FILE, Manifest,
    gc::References,
    manifest::{MAX_MANIFEST_BYTES, references},
    sparse,
};
use hearth_ids::BuildId;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// What is in the store's directory.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Readable ones, oldest first.
    pub(super) builds: Vec<Build>,
    /// The others, each with what it stands on, where its manifest tells.
    pub(super) unreadable: Vec<Unreadable>,
}

/// A build that is left as it is.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) id: BuildId,
    pub(super) why: String,
    pub(super) references: References,
}

impl Stored {
    /// Of all of them.
    pub(super) fn ids(&self) -> BTreeSet<BuildId> {
        let readable = self.builds.iter().map(|build| build.manifest.build_id);
        let others = self.unreadable.iter().map(|build| build.id);
        readable.chain(others).collect()
    }
}

impl Inner {
    pub(super) fn list(&self) -> Result<Vec<Manifest>, Error> {
        let builds = self.builds()?.into_iter();
        Ok(builds
            .filter(|build| !build.retired)
            .map(|build| build.manifest)
            .collect())
    }

    /// Every readable build, oldest first.
    pub(super) fn builds(&self) -> Result<Vec<Build>, Error> {
        Ok(self.look()?.builds)
    }

    /// What is stored, readable or not.
    pub(super) fn look(&self) -> Result<Stored, Error> {
        let mut stored = Stored::default();
        for id in self.ids()? {
            match self.load(id) {
                Ok(build) => stored.builds.push(build),
                // Removed between the listing and the look.
                Err(Error::NotFound(_)) => {}
                Err(_) if !self.directory(id).exists() => {}
                Err(error) => {
                    tracing::warn!(build = %id, error = %chain(&error), "read build failed: it is skipped");
                    stored.unreadable.push(Unreadable {
                        id,
                        why: chain(&error),
                        references: self.references_of(id),
                    });
                }
            }
        }
        stored
            .builds
            .sort_by_key(|build| (build.manifest.created_at, build.manifest.build_id));
        Ok(stored)
    }

    /// What a build that cannot be read is based on.
    fn references_of(&self, id: BuildId) -> References {
        match manifest_text(id, &self.directory(id)) {
            Ok(text) => references(&text),
            Err(_) => References::Unknown,
        }
    }

    /// Every directory that is named like a build, readable or not.
    pub(super) fn ids(&self) -> Result<Vec<BuildId>, Error> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(Error::io("list", &self.root))? {
            let entry = entry.map_err(Error::io("list", &self.root))?;
            ids.extend(build_id_of(&entry.file_name()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// A build for new sandboxes.
    pub(super) fn open(&self, id: BuildId) -> Result<Build, Error> {
        match self.load(id)? {
            build if build.retired => Err(Error::NotFound(id)),
            build => Ok(build),
        }
    }
    pub(super) fn load(&self, id: BuildId) -> Result<Build, Error> {
        let directory = self.directory(id);
        let manifest = read_manifest(id, &directory)?;
        for entry in &manifest.files {
            check_file(id, &directory, entry)?;
        }
        let retired = directory.join(RETIRED).exists();
        Ok(Build {
            directory,
            manifest,
            retired,
        })
    }
}

/// The directory's id, if its name is an id in the one form that we write.
fn build_id_of(name: &std::ffi::OsStr) -> Option<BuildId> {
    let text = name.to_str()?;
    let id: BuildId = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

fn corrupt_manifest(build: BuildId, why: Corruption) -> Error {
    Error::Corrupt {
        build,
        file: MANIFEST_FILE.to_owned(),
        why,
    }
}

fn read_manifest(id: BuildId, directory: &Path) -> Result<Manifest, Error> {
    let text = manifest_text(id, directory)?;
    let manifest =
        Manifest::parse(&text).map_err(|why| corrupt_manifest(id, Corruption::Manifest(why)))?;
    if manifest.build_id != id {
        let why = format!("it belongs to build {}", manifest.build_id);
        return Err(corrupt_manifest(id, Corruption::Manifest(why)));
    }
    Ok(manifest)
}

pub(super) fn manifest_text(id: BuildId, directory: &Path) -> Result<Vec<u8>, Error> {
    let corrupt = |why| corrupt_manifest(id, why);
    let path = directory.join(MANIFEST_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(if directory.exists() {
                corrupt(Corruption::Missing)
            } else {
                Error::NotFound(id)
            });
        }
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(corrupt(Corruption::Manifest(format!(
            "longer than {MAX_MANIFEST_BYTES} bytes"
        ))));
    }
    Ok(bytes)
}

fn check_file(id: BuildId, directory: &Path, entry: &FileEntry) -> Result<(), Error> {
    let path = directory.join(&entry.name);
    let why = match fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Corruption::NotAFile,
        Ok(found) if found.len() != entry.size_bytes => Corruption::Size {
            expected: entry.size_bytes,
            found: found.len(),
        },
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Corruption::Missing,
        Err(error) => return Err(Error::io("inspect", path)(error)),
    };
    Err(Error::Corrupt {
        build: id,
        file: entry.name.clone(),
        why,
    })
}

/// What a build's own files occupy on the disk. A file that several builds share
/// (as a link) counts for each.
pub(super) fn own_bytes(build: &Build) -> u64 {
    let files = build.manifest.files.iter();
    let sizes = files.filter_map(|entry| {
        let file = File::open(build.directory.join(&entry.name)).ok()?;
        sparse::allocated_bytes(&file).ok()
    });
    sizes.sum()
}
