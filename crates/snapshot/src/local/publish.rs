//! From staged files to a build that everybody sees: measured, described, made durable
//! and then renamed.

use super::{Inner, files::sync_directory, scan::manifest_text};
use crate::{
    Below, Build, Corruption, Draft, Error, FileEntry, FileRole, MANIFEST_FILE, Manifest, Staging,
    TEMPLATE_FILE,
    manifest::{MAX_FILES, MAX_MANIFEST_BYTES, rewritten, valid_name_for},
    sparse,
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

impl Inner {
    pub(super) fn publish(
        &self,
        staging: &Staging,
        draft: Draft,
        below: Below,
    ) -> Result<Build, Error> {
        let files = seal_all(staging, draft.files)?;
        let manifest = Manifest {
            format: Manifest::format_for(&below, &files),
            build_id: staging.id,
            kind: draft.kind,
            name: draft.name,
            created_at: chrono::Utc::now(),
            shape: draft.shape,
            engine: draft.engine,
            cpu: draft.cpu,
            inputs: draft.inputs,
            parents: draft.parents,
            memory_below: below.memory,
            disk_below: below.disk,
            files,
        };
        self.place(staging, manifest)
    }

    pub(super) fn import(&self, from: &Build) -> Result<Build, Error> {
        let manifest = &from.manifest;
        let id = manifest.build_id;
        let staging = match self.stage(id) {
            Ok(staging) => staging,
            Err(Error::Exists(_)) => return self.load(id),
            Err(error) => return Err(error),
        };
        for entry in &manifest.files {
            let source = from.directory.join(&entry.name);
            let target = staging.directory.join(&entry.name);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            sparse::copy(&source, &target).map_err(Error::io("copy", source))?;
            let files = vec![(entry.role, entry.name.clone())];
            if seal_all(&staging, files)?.first() != Some(entry) {
                return Err(Error::Corrupt {
                    build: id,
                    file: entry.name.clone(),
                    why: Corruption::Digest,
                });
            }
        }
        let details = from.directory.join(TEMPLATE_FILE);
        match fs::copy(&details, staging.directory.join(TEMPLATE_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("copy", details)(error));
            }
            _ => {}
        }
        let manifest = Manifest {
            created_at: chrono::Utc::now(),
            ..manifest.clone()
        };
        // As it was read, with whatever a newer version says there.
        let text = manifest_text(id, &from.directory)?;
        let text = rewritten(&text, manifest.created_at)
            .map_err(|error| Error::Draft(format!("copy the manifest: {error}")))?;
        match self.place_as(&staging, manifest, text) {
            Err(Error::Exists(_)) => self.load(id),
            placed => placed,
        }
    }

    /// Completes a staging area whose files are sealed and makes it visible.
    fn place(&self, staging: &Staging, manifest: Manifest) -> Result<Build, Error> {
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| Error::Draft(format!("write the manifest: {error}")))?;
        self.place_as(staging, manifest, text)
    }

    /// The same, with the manifest's text as it is to be on disk.
    fn place_as(
        &self,
        staging: &Staging,
        manifest: Manifest,
        text: Vec<u8>,
    ) -> Result<Build, Error> {
        manifest.check().map_err(Error::Draft)?;
        write_manifest(&staging.directory, text)?;
        for layer in manifest.disk_layers() {
            sync_directory(&staging.directory.join(layer))?;
        }
        sync_directory(&staging.directory)?;

        let directory = self.directory(staging.id);
        // Renaming onto a build fails: a directory with content is never replaced.
        // Counted in the same step, so that a collector cannot miss it.
        let mut state = self.leases.lock();
        match fs::rename(&staging.directory, &directory) {
            Ok(()) => state.published += 1,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(Error::Exists(staging.id));
            }
            Err(error) => return Err(Error::io("publish", directory)(error)),
        }
        drop(state);
        sync_directory(&self.root)?;
        Ok(Build {
            directory,
            manifest,
            retired: false,
        })
    }
}

/// Measures staged files and makes them durable. The disk writes while the
/// processor digests.
fn seal_all(staging: &Staging, files: Vec<(FileRole, String)>) -> Result<Vec<FileEntry>, Error> {
    let directory = &staging.directory;
    if files.len() > MAX_FILES {
        return Err(Error::Draft(format!("more than {MAX_FILES} files")));
    }
    let mut opened = Vec::with_capacity(files.len());
    for (role, name) in files {
        opened.push((role, open_staged(directory, role, &name)?, name));
    }
    std::thread::scope(|scope| {
        let syncing: Vec<_> = opened
            .iter()
            .map(|(_, file, _)| scope.spawn(|| file.sync_all()))
            .collect();
        let entries: Result<Vec<FileEntry>, Error> = opened
            .iter()
            .map(|(role, file, name)| measure(staging, *role, file, name))
            .collect();
        for (thread, (_, _, name)) in syncing.into_iter().zip(&opened) {
            let ended = thread.join();
            ended
                .unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
                .map_err(Error::io("flush", directory.join(name)))?;
        }
        entries
    })
}

fn open_staged(directory: &Path, role: FileRole, name: &str) -> Result<File, Error> {
    if !valid_name_for(role, name) {
        return Err(Error::Draft(format!("invalid file name {name:?}")));
    }
    let path = directory.join(name);
    let metadata = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
    if !metadata.is_file() {
        return Err(Error::Draft(format!("{name:?} is not a regular file")));
    }
    File::open(&path).map_err(Error::io("open", path))
}

fn measure(staging: &Staging, role: FileRole, file: &File, name: &str) -> Result<FileEntry, Error> {
    let path = staging.directory.join(name);
    let digest = match staging.digests.get(name) {
        Some(digest) => *digest,
        None => sparse::digest(file).map_err(Error::io("read", &path))?,
    };
    let metadata = file.metadata().map_err(Error::io("inspect", path))?;
    Ok(FileEntry {
        role,
        name: name.to_owned(),
        size_bytes: metadata.len(),
        digest,
    })
}

fn write_manifest(directory: &Path, mut text: Vec<u8>) -> Result<(), Error> {
    let path = directory.join(MANIFEST_FILE);
    text.push(b'\n');
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Error::Draft(format!(
            "the manifest would be longer than {MAX_MANIFEST_BYTES} bytes"
        )));
    }
    File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .map_err(Error::io("write", path))
}
