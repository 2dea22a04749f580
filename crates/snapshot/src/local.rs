//! Builds in a local directory: `<root>/<build id>/{manifest.json, ...}`.
//!
//! Staging areas live beside them under `<root>/.staging/`, on the same file
//! system, so that publishing is one `rename`. Each has a lock file that its
//! owner holds with `flock`; the kernel releases it when the owner dies, which
//! is how [`LocalStore::open`] finds what crashes left behind, without ever
//! touching a staging area in use by another process.
//!
//! Removal first renames the build into the staging area: nobody sees half a
//! build, and a crash in between leaves only something to sweep.

use crate::{
    ArtefactStore, Below, Build, Corruption, Draft, Error, FileEntry, FileRole, Kind, Lease,
    MANIFEST_FILE, Manifest, Stack, Staging, TEMPLATE_FILE,
    lease::Register,
    manifest::{MAX_FILES, MAX_MANIFEST_BYTES, builds_named, rewritten, valid_name_for},
    sparse,
};
use async_trait::async_trait;
use hearth_ids::BuildId;
use rustix::fs::FlockOperation;
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

const STAGING: &str = ".staging";
const STORE_LOCK: &str = ".lock";
const LOCK_SUFFIX: &str = ".lock";
/// Marks a build that no new sandbox is started from. No file of a build can have
/// this name.
const RETIRED: &str = ".retired";

/// The store of one machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    leases: Arc<Register>,
}

impl LocalStore {
    /// Opens the store in `root`, making the directory if need be, and sweeps
    /// what interrupted builds and removals left.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let inner = Inner {
            root: root.into(),
            leases: Arc::default(),
        };
        let staging = inner.staging();
        fs::create_dir_all(&staging).map_err(Error::io("create", &staging))?;
        // Machines get the files as open descriptors; nobody else has business here.
        fs::set_permissions(&inner.root, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("close", &inner.root))?;
        inner.sweep()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Takes over a build from another store, bit for bit, comparing every byte
    /// with its manifest on the way. The copy counts as created now. Returns the
    /// build that is here, should it be here already.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the other store's build is damaged; nothing is
    /// taken over then.
    pub async fn import(&self, from: &Build) -> Result<Build, Error> {
        let from = from.clone();
        self.run(move |inner| inner.import(&from)).await
    }

    /// Keeps a build, which need not exist yet, and all below it from collection
    /// by this store and its clones.
    #[must_use]
    pub fn lease(&self, id: BuildId) -> Lease {
        self.inner.leases.take(id)
    }

    /// The same for as long as this process lives.
    pub fn keep(&self, id: BuildId) {
        self.inner.leases.keep(id);
    }

    /// Lets nothing be collected by this store and its clones: somebody needs builds,
    /// and nobody knows which.
    pub fn keep_all(&self, why: &str) {
        self.inner.leases.lock().keep_all = Some(why.to_owned());
    }

    /// Lets no new sandbox be started from a build, for good. What still needs its
    /// files keeps them; [`Self::collect`] removes them after that.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when it is retired already.
    pub async fn retire(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.retire(id)).await
    }

    /// Every readable build, the retired ones too, with what its own files occupy
    /// in bytes; oldest first.
    pub async fn list_all(&self) -> Result<Vec<(Build, u64)>, Error> {
        self.run(|inner| {
            let builds = inner.builds()?.into_iter();
            Ok(builds
                .map(|build| {
                    let bytes = own_bytes(&build);
                    (build, bytes)
                })
                .collect())
        })
        .await
    }

    /// Builds that cannot be read, each with the reason. They are left as they are.
    pub async fn unreadable(&self) -> Result<Vec<(BuildId, String)>, Error> {
        self.run(|inner| {
            let found = inner.look()?.unreadable.into_iter();
            Ok(found.map(|build| (build.id, build.why)).collect())
        })
        .await
    }

    /// Removes every build that nothing needs: neither a lease, nor a build that
    /// can be started from, nor a build that cannot be read now, nor a build that one
    /// of these stands on. Returns what was removed: nothing, while some build does
    /// not tell what it stands on.
    pub async fn collect(&self) -> Result<Vec<BuildId>, Error> {
        self.run(|inner| inner.collect(false)).await
    }

    /// What [`Self::collect`] would remove now.
    pub async fn garbage(&self) -> Result<Vec<BuildId>, Error> {
        self.run(|inner| inner.collect(true)).await
    }

    /// Compares the content of a build's own files, those of at most
    /// `limit_bytes` on disk, with the manifest. Cheaper than [`Self::verify`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the damaged file.
    pub async fn verify_small(&self, build: &Build, limit_bytes: u64) -> Result<(), Error> {
        let build = build.clone();
        self.run(move |_| verify_files(&build, limit_bytes)).await
    }

    /// Runs blocking work of this store on the blocking pool.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(Error::Task)?
    }
}

#[async_trait]
impl ArtefactStore for LocalStore {
    async fn list(&self) -> Result<Vec<Manifest>, Error> {
        self.run(Inner::list).await
    }

    async fn open(&self, id: BuildId) -> Result<Build, Error> {
        self.run(move |inner| inner.open(id)).await
    }

    async fn stack(&self, id: BuildId) -> Result<Stack, Error> {
        self.run(move |inner| Stack::load(inner.load(id)?, |id| inner.load(id)))
            .await
    }

    async fn stage(&self, id: BuildId) -> Result<Staging, Error> {
        self.run(move |inner| inner.stage(id)).await
    }

    async fn publish_over(
        &self,
        staging: Staging,
        draft: Draft,
        below: Below,
    ) -> Result<Build, Error> {
        self.run(move |inner| inner.publish(&staging, draft, below))
            .await
    }

    async fn verify(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.verify(id)).await
    }

    async fn remove(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.remove(id)).await
    }
}

/// What is in the store's directory.
#[derive(Debug, Default)]
struct Stored {
    /// Readable ones, oldest first.
    builds: Vec<Build>,
    /// The others, each with what it stands on, where its manifest tells.
    unreadable: Vec<Unreadable>,
}

#[derive(Debug)]
struct Unreadable {
    id: BuildId,
    why: String,
    named: Option<Vec<BuildId>>,
}

impl Inner {
    fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    fn directory(&self, id: BuildId) -> PathBuf {
        self.root.join(id.to_string())
    }

    fn list(&self) -> Result<Vec<Manifest>, Error> {
        let builds = self.builds()?.into_iter();
        Ok(builds
            .filter(|build| !build.retired)
            .map(|build| build.manifest)
            .collect())
    }

    /// Every readable build, oldest first.
    fn builds(&self) -> Result<Vec<Build>, Error> {
        Ok(self.look()?.builds)
    }

    /// What is stored, readable or not.
    fn look(&self) -> Result<Stored, Error> {
        let mut stored = Stored::default();
        for entry in fs::read_dir(&self.root).map_err(Error::io("list", &self.root))? {
            let entry = entry.map_err(Error::io("list", &self.root))?;
            let Some(id) = build_id_of(&entry.file_name()) else {
                continue;
            };
            match self.load(id) {
                Ok(build) => stored.builds.push(build),
                // Removed between the listing and the look.
                Err(Error::NotFound(_)) => {}
                Err(_) if !self.directory(id).exists() => {}
                Err(error) => {
                    tracing::warn!(build = %id, error = %chain(&error), "skip a build that cannot be read");
                    stored.unreadable.push(Unreadable {
                        id,
                        why: chain(&error),
                        named: self.builds_named_by(id),
                    });
                }
            }
        }
        stored
            .builds
            .sort_by_key(|build| (build.manifest.created_at, build.manifest.build_id));
        Ok(stored)
    }

    /// What a build that cannot be read stands on; `None` when nobody can tell.
    fn builds_named_by(&self, id: BuildId) -> Option<Vec<BuildId>> {
        let text = manifest_text(id, &self.directory(id)).ok()?;
        builds_named(&text)
    }

    /// A build for new sandboxes.
    fn open(&self, id: BuildId) -> Result<Build, Error> {
        match self.load(id)? {
            build if build.retired => Err(Error::NotFound(id)),
            build => Ok(build),
        }
    }

    fn retire(&self, id: BuildId) -> Result<(), Error> {
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

    /// Finds, and unless it is only asked for removes, what nothing needs. A
    /// build that cannot be read is nobody's garbage: it stays, with what it stands
    /// on, for a person to look at or for a version that can read it.
    fn collect(&self, only_look: bool) -> Result<Vec<BuildId>, Error> {
        let (stored, state) = loop {
            let published = self.leases.lock().published;
            let stored = self.look()?;
            let state = self.leases.lock();
            if state.published == published {
                break (stored, state);
            }
        };
        if let Some(why) = &state.keep_all {
            tracing::warn!(why, "no build is removed");
            return Ok(Vec::new());
        }
        let mut needed: Vec<BuildId> = state.held.keys().copied().collect();
        for Unreadable { id, named, .. } in &stored.unreadable {
            let Some(named) = named else {
                tracing::warn!(build = %id, "no build is removed: this one does not tell what it stands on");
                return Ok(Vec::new());
            };
            needed.extend(named);
        }
        // Locked to the end, so that no lease comes between looking and removing.
        let garbage = needless(&stored.builds, needed.iter());
        if only_look {
            return Ok(garbage);
        }
        let mut doomed = Vec::new();
        for id in &garbage {
            doomed.push(self.hide(*id)?);
        }
        drop(state);
        for directory in doomed {
            remove_directory(&directory)?;
        }
        if !garbage.is_empty() {
            sync_directory(&self.root)?;
        }
        Ok(garbage)
    }

    fn load(&self, id: BuildId) -> Result<Build, Error> {
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

    fn stage(&self, id: BuildId) -> Result<Staging, Error> {
        if self.directory(id).exists() {
            return Err(Error::Exists(id));
        }
        let base = self.staging();
        let _creating = self.lock()?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{id}-"))
            .tempdir_in(&base)
            .map_err(Error::io("create a directory in", &base))?
            .keep();
        let lock_path = lock_path(&directory);
        let lock = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path)
            .and_then(|lock| {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                Ok(lock)
            })
            .map_err(Error::io("lock", &lock_path))?;
        Ok(Staging {
            id,
            directory,
            digests: HashMap::new(),
            lock,
            lock_path,
        })
    }

    fn publish(&self, staging: &Staging, draft: Draft, below: Below) -> Result<Build, Error> {
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

    fn import(&self, from: &Build) -> Result<Build, Error> {
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

    fn verify(&self, id: BuildId) -> Result<(), Error> {
        verify_files(&self.load(id)?, u64::MAX)
    }

    fn remove(&self, id: BuildId) -> Result<(), Error> {
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

    /// Keeps making a staging area and sweeping apart, also between processes:
    /// between its directory and its lock, an area would look abandoned. Held
    /// for moments only.
    fn lock(&self) -> Result<File, Error> {
        let path = self.root.join(STORE_LOCK);
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
                Ok(file)
            })
            .map_err(Error::io("lock", path))
    }

    /// Deletes every staging area whose owner no longer lives.
    fn sweep(&self) -> Result<(), Error> {
        let base = self.staging();
        let _sweeping = self.lock()?;
        for entry in fs::read_dir(&base).map_err(Error::io("list", &base))? {
            let path = entry.map_err(Error::io("list", &base))?.path();
            if path.to_string_lossy().ends_with(LOCK_SUFFIX) {
                // Swept with its directory; alone, it belongs to a directory
                // that was published or removed already.
                if !path.with_extension("").exists() && !is_locked(&path) {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            let lock = lock_path(&path);
            if is_locked(&lock) {
                continue;
            }
            remove_directory(&path)?;
            let _ = fs::remove_file(&lock);
        }
        Ok(())
    }
}

/// The directory's id, if its name is an id in the one form that we write.
fn build_id_of(name: &std::ffi::OsStr) -> Option<BuildId> {
    let text = name.to_str()?;
    let id: BuildId = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

fn lock_path(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    PathBuf::from(name)
}

/// Whether another holder has the lock. A missing file is not locked.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    })
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

fn manifest_text(id: BuildId, directory: &Path) -> Result<Vec<u8>, Error> {
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

fn verify_files(build: &Build, limit_bytes: u64) -> Result<(), Error> {
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

/// What a build's own files occupy on the disk. A file that several builds share
/// (as a link) counts for each.
fn own_bytes(build: &Build) -> u64 {
    let files = build.manifest.files.iter();
    let sizes = files.filter_map(|entry| {
        let file = File::open(build.directory.join(&entry.name)).ok()?;
        sparse::allocated_bytes(&file).ok()
    });
    sizes.sum()
}

/// The builds that can go: retired ones and kept states of sandboxes, unless a
/// lease or another build that stays needs them.
fn needless<'a>(builds: &[Build], leased: impl Iterator<Item = &'a BuildId>) -> Vec<BuildId> {
    let free = |build: &Build| build.retired || build.manifest.kind == Kind::Pause;
    let id = |build: &Build| build.manifest.build_id;
    let parents: HashMap<BuildId, &[BuildId]> = builds
        .iter()
        .map(|build| (id(build), &*build.manifest.parents))
        .collect();
    let roots = builds.iter().filter(|build| !free(build)).map(id);
    let mut open: Vec<BuildId> = roots.chain(leased.copied()).collect();
    let mut needed: HashSet<BuildId> = HashSet::new();
    while let Some(id) = open.pop() {
        if needed.insert(id) {
            open.extend(parents.get(&id).copied().unwrap_or_default());
        }
    }
    let garbage = builds.iter().filter(|build| free(build)).map(id);
    garbage.filter(|id| !needed.contains(id)).collect()
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

/// Removes a directory that another process may be removing too.
fn remove_directory(path: &Path) -> Result<(), Error> {
    // What the other one took first makes a removal end early; the rest is looked
    // for again.
    for _ in 0..8 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("flush", path))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests;
