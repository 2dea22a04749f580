//! Artefacts: the kernel, the initramfs and root file systems, each a directory
//! named by a digest of everything it was made from.
//!
//! ```text
//! <state>/artefacts/<kind>-<key>/{info.json, files...}    used from here
//! <cache>/<kind>-<key>/{info.json, files...}              a copy that outlives the state
//! ```
//!
//! An artefact is assembled in `.tmp` beside its place and renamed, so it is
//! whole or absent. One [`Shelf`] per directory at a time: it holds a lock, which
//! is also why whatever lies in `.tmp` when it opens is a leftover. What comes
//! out of the cache is compared with its digests, since others can write there.

mod room;

use crate::{Error, error::blocking, progress::Outcome};
use hearth_snapshot::{ARTEFACT_FILE, ArtefactFile, ArtefactInfo, Digest, sparse};
use room::{Room, by_age, occupied};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

const SCRATCH: &str = ".scratch";
/// How long to wait for another builder to let go of the directory, and of the
/// cache, which is not worth as much.
const LOCK_WAIT: Duration = Duration::from_secs(3600);
const CACHE_LOCK_WAIT: Duration = Duration::from_secs(60);
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// What an artefact is made from. `key` names it; `recipe` is the part that does
/// not depend on package versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) kind: &'static str,
    pub(crate) key: Digest,
    pub(crate) recipe: Digest,
}

impl Key {
    /// `recipe` and `versions` are lists of parts; each part is delimited, so
    /// that no two lists have the same digest.
    pub(crate) fn new(kind: &'static str, recipe: &[&[u8]], versions: &[&[u8]]) -> Self {
        let recipe = digest_of_parts(kind, recipe);
        let mut parts: Vec<&[u8]> = vec![recipe.as_bytes()];
        parts.extend(versions);
        Self {
            kind,
            key: digest_of_parts(kind, &parts),
            recipe,
        }
    }

    fn directory_name(&self) -> String {
        format!("{}-{}", self.kind, &self.key.to_string()[..16])
    }
}

pub(crate) fn digest_of_parts(label: &str, parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// An artefact that stands ready.
#[derive(Debug)]
pub(crate) struct Ready<D> {
    pub(crate) directory: PathBuf,
    pub(crate) key: Digest,
    pub(crate) details: D,
    pub(crate) outcome: Outcome,
    files: Vec<ArtefactFile>,
}

impl<D> Ready<D> {
    /// The digest of one of its files.
    pub(crate) fn digest(&self, name: &str) -> Result<Digest, Error> {
        self.files
            .iter()
            .find(|file| file.name == name)
            .map(|file| file.digest)
            .ok_or_else(|| damaged(&self.directory, format!("it has no {name}")))
    }
}

/// The two places where artefacts lie. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Room,
    cache: Option<PathBuf>,
}

impl Shelf {
    /// Opens the shelf and waits, within reason, for another builder to finish.
    pub(crate) async fn open(state: &Path, cache: Option<&Path>) -> Result<Self, Error> {
        let lock = async {
            loop {
                if let Some(lock) = Room::try_lock(state)? {
                    return Ok(lock);
                }
                // The kernel has no lock that can be waited for with a deadline.
                tokio::time::sleep(LOCK_RETRY).await;
            }
        };
        let lock = tokio::time::timeout(LOCK_WAIT, lock)
            .await
            .unwrap_or_else(|_| Err(occupied(state, LOCK_WAIT)))?;
        let (state, cache) = (state.to_owned(), cache.map(Path::to_owned));
        let inner = blocking(move || {
            Ok(Inner {
                state: Room::open(&state, lock)?,
                cache,
            })
        })
        .await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// A directory for what may be thrown away at any time.
    pub(crate) fn scratch(&self) -> Result<PathBuf, Error> {
        let scratch = self.inner.state.root.join(SCRATCH);
        std::fs::create_dir_all(&scratch).map_err(Error::io("create", &scratch))?;
        Ok(scratch)
    }

    /// An empty directory that disappears unless it is given to [`Self::store`].
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir, Error> {
        self.inner.state.temporary()
    }

    /// The artefact of this key, from the state directory or the cache.
    pub(crate) async fn find<D>(&self, key: &Key) -> Result<Option<Ready<D>>, Error>
    where
        D: DeserializeOwned + Send + 'static,
    {
        let (inner, key) = (Arc::clone(&self.inner), *key);
        blocking(move || inner.find(&key)).await
    }

    /// The newest artefact of the same recipe, whatever its package versions and sources,
    /// from the state directory or the cache: what to use where the versions cannot be
    /// known, as on a machine without package lists that a cache was copied to.
    pub(crate) async fn find_by_recipe<D>(&self, key: &Key) -> Result<Option<Ready<D>>, Error>
    where
        D: DeserializeOwned + Send + 'static,
    {
        let (inner, key) = (Arc::clone(&self.inner), *key);
        blocking(move || inner.find_by_recipe(&key)).await
    }

    /// Makes the artefact out of an assembled directory, and copies it to the
    /// cache.
    pub(crate) async fn store<D>(
        &self,
        key: &Key,
        assembled: tempfile::TempDir,
        details: D,
    ) -> Result<Ready<D>, Error>
    where
        D: Serialize + DeserializeOwned + Send + 'static,
    {
        let (inner, key) = (Arc::clone(&self.inner), *key);
        blocking(move || inner.store(&key, assembled, &details)).await
    }
}

impl Inner {
    fn find<D: DeserializeOwned>(&self, key: &Key) -> Result<Option<Ready<D>>, Error> {
        if let Some(ready) = load(&self.state.root, key)? {
            return Ok(Some(ready));
        }
        let Some(cache) = &self.cache else {
            return Ok(None);
        };
        // A damaged cache is as good as none: it is made anew.
        match self.import(cache, key) {
            Ok(imported) => Ok(imported),
            Err(error) => {
                tracing::warn!(%error, cache = %cache.display(), "ignore a cached artefact");
                Ok(None)
            }
        }
    }

    fn find_by_recipe<D: DeserializeOwned>(&self, key: &Key) -> Result<Option<Ready<D>>, Error> {
        if let Some(ready) = newest(&self.state.root, key)? {
            return Ok(Some(ready));
        }
        let Some(cache) = self.cache.as_ref().filter(|cache| cache.is_dir()) else {
            return Ok(None);
        };
        let Some(cached) = newest::<D>(cache, key)? else {
            return Ok(None);
        };
        let found = Key {
            key: cached.key,
            ..*key
        };
        self.find(&found)
    }

    fn store<D: Serialize + DeserializeOwned>(
        &self,
        key: &Key,
        assembled: tempfile::TempDir,
        details: &D,
    ) -> Result<Ready<D>, Error> {
        describe(assembled.path(), key, details)?;
        let directory = self.state.place(key, assembled)?;
        if let Some(cache) = &self.cache
            && let Err(error) = export(cache, key, &directory)
        {
            tracing::warn!(%error, cache = %cache.display(), "leave the cache as it is");
        }
        let mut ready = load(&self.state.root, key)?
            .ok_or_else(|| damaged(&directory, "it vanished".to_owned()))?;
        ready.outcome = Outcome::Built;
        Ok(ready)
    }

    fn import<D: DeserializeOwned>(
        &self,
        cache: &Path,
        key: &Key,
    ) -> Result<Option<Ready<D>>, Error> {
        let Some(cached) = load::<D>(cache, key)? else {
            return Ok(None);
        };
        let temporary = self.state.temporary()?;
        copy_files(&cached.directory, temporary.path(), &cached.files)?;
        for file in &cached.files {
            let path = temporary.path().join(&file.name);
            let content = File::open(&path).map_err(Error::io("open", &path))?;
            if sparse::digest(&content).map_err(Error::io("read", &path))? != file.digest {
                return Err(damaged(
                    &cached.directory,
                    format!("{} does not match its digest", file.name),
                ));
            }
        }
        self.state.place(key, temporary)?;
        let ready = load(&self.state.root, key)?;
        Ok(ready.map(|ready| Ready {
            outcome: Outcome::FromCache,
            ..ready
        }))
    }
}

/// Copies an artefact into the cache directory.
fn export(cache: &Path, key: &Key, directory: &Path) -> Result<(), Error> {
    let started = Instant::now();
    let lock = loop {
        match Room::try_lock(cache)? {
            Some(lock) => break lock,
            None if started.elapsed() < CACHE_LOCK_WAIT => std::thread::sleep(LOCK_RETRY),
            None => return Err(occupied(cache, CACHE_LOCK_WAIT)),
        }
    };
    let room = Room::open(cache, lock)?;
    let files = read::<serde_json::Value>(directory, |_| true)?.files;
    let temporary = room.temporary()?;
    copy_files(directory, temporary.path(), &files)?;
    room.place(key, temporary)?;
    Ok(())
}

/// Writes the document of the files that lie in `directory`.
fn describe<D: Serialize>(directory: &Path, key: &Key, details: &D) -> Result<(), Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| damaged(directory, "a file name is not text".to_owned()))?;
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        files.push(ArtefactFile {
            name: name.to_owned(),
            size_bytes: file.metadata().map_err(Error::io("inspect", &path))?.len(),
            digest: sparse::digest(&file).map_err(Error::io("read", &path))?,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let info = ArtefactInfo::new(key.kind, (key.key, key.recipe), details, files);
    info.save(directory)
        .map_err(Error::io("describe the artefact in", directory))
}

fn load<D: DeserializeOwned>(root: &Path, key: &Key) -> Result<Option<Ready<D>>, Error> {
    let directory = root.join(key.directory_name());
    if !directory.exists() {
        return Ok(None);
    }
    match read(&directory, |info| info.key == key.key) {
        Ok(ready) => Ok(Some(ready)),
        Err(error) => {
            tracing::warn!(%error, "make a damaged artefact anew");
            Ok(None)
        }
    }
}

fn read<D: DeserializeOwned>(
    directory: &Path,
    wanted: impl FnOnce(&ArtefactInfo<D>) -> bool,
) -> Result<Ready<D>, Error> {
    let info: ArtefactInfo<D> = ArtefactInfo::load(directory)
        .map_err(|error| damaged(directory, format!("{ARTEFACT_FILE}: {error}")))?;
    if !wanted(&info) {
        return Err(damaged(directory, "it is another artefact".to_owned()));
    }
    for file in &info.files {
        let path = directory.join(&file.name);
        let found = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
        if !found.is_file() || found.len() != file.size_bytes {
            return Err(damaged(
                directory,
                format!("{} is not what was stored", file.name),
            ));
        }
    }
    Ok(Ready {
        directory: directory.to_owned(),
        key: info.key,
        details: info.details,
        outcome: Outcome::Present,
        files: info.files,
    })
}

fn copy_files(from: &Path, to: &Path, files: &[ArtefactFile]) -> Result<(), Error> {
    for name in files
        .iter()
        .map(|file| file.name.as_str())
        .chain([ARTEFACT_FILE])
    {
        let source = from.join(name);
        sparse::copy(&source, &to.join(name)).map_err(Error::io("copy", source))?;
    }
    Ok(())
}

/// The newest sound artefact of a recipe.
fn newest<D: DeserializeOwned>(root: &Path, key: &Key) -> Result<Option<Ready<D>>, Error> {
    let mut sound = by_age(root, key.kind)?.into_iter().filter_map(|directory| {
        read(&directory, |info: &ArtefactInfo<D>| {
            info.recipe == key.recipe
        })
        .ok()
    });
    Ok(sound.next())
}

fn damaged(path: &Path, why: String) -> Error {
    Error::Artefact {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests;
