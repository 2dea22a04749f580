//! The cache of steps: which disk layer came of which step upon which state.
//!
//! ```text
//! index/<key>  ──names──▶  layers/<id>/      key = digest(state before, step)
//! ```
//!
//! A layer holds differences of blocks and fits exactly one state below it.
//! Every layer therefore has an id of its own, drawn when it is made, and the
//! key of a step holds the id of the layer below, not the step that made it: two
//! runs of one step never mix, and a step that was run anew makes everything
//! above it unreachable. What the index does not reach is removed.

use crate::Error;
use hearth_snapshot::Digest;
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use uuid::Uuid;

/// In the index for a step that made no layer.
const NO_LAYER: &str = "-";
/// Steps of this kind that are remembered.
const MAX_NOTES: usize = 10_000;

/// Identifies a disk's whole content: equal states read equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State(Digest);

impl State {
    /// A state that other code identifies.
    pub(crate) fn of(parts: &[&str]) -> Self {
        Self(digest(parts))
    }

    /// The state after something that changed no block.
    pub(crate) fn then(self, parts: &[&str]) -> Self {
        Self(self.key(parts))
    }

    /// The key of a step upon this state.
    pub(crate) fn key(self, parts: &[&str]) -> Digest {
        let own = self.0.to_string();
        let all: Vec<&str> = std::iter::once(own.as_str())
            .chain(parts.iter().copied())
            .collect();
        digest(&all)
    }
}

/// Parts with their lengths, so that no two lists of parts are one text.
fn digest(parts: &[&str]) -> Digest {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    Digest::of(&text)
}

#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// Layers that builds use right now, and how many.
    pinned: Mutex<HashMap<Uuid, usize>>,
}

/// A layer that stays while this lives.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) path: PathBuf,
    id: Uuid,
    cache: Arc<Cache>,
}

impl Layer {
    pub(crate) fn state(&self) -> State {
        State::of(&["layer", &self.id.to_string()])
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let mut pinned = lock(&self.cache.pinned);
        if let Some(count) = pinned.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                pinned.remove(&self.id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    pub(crate) fn open(root: PathBuf) -> Result<Arc<Self>, Error> {
        for name in ["index", "layers"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", path))?;
        }
        Ok(Arc::new(Self {
            root,
            pinned: Mutex::default(),
        }))
    }

    fn index(&self, key: Digest) -> PathBuf {
        self.root.join("index").join(key.to_string())
    }

    fn layer_path(&self, id: Uuid) -> PathBuf {
        self.root.join("layers").join(id.to_string())
    }

    fn pin(self: &Arc<Self>, id: Uuid) -> Layer {
        *lock(&self.pinned).entry(id).or_default() += 1;
        Layer {
            path: self.layer_path(id),
            id,
            cache: Arc::clone(self),
        }
    }

    /// The layer of this key, if there is one.
    pub(crate) fn find(self: &Arc<Self>, key: Digest) -> Option<Layer> {
        let path = self.index(key);
        let id: Uuid = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        // Before the look, so that nothing removes it in between.
        let layer = self.pin(id);
        if !layer.path.join("index").is_file() {
            return None;
        }
        let used = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = used {
            tracing::debug!(%error, "cannot note the use of a layer");
        }
        Some(layer)
    }

    /// Notes that a step was carried out which changed no block. Answers whether it
    /// was noted before. Nothing depends on it, so a failure is no reason to fail.
    pub(crate) fn note(&self, key: Digest) -> bool {
        let path = self.index(key);
        match fs::File::open(&path) {
            Ok(file) => {
                let _ = file.set_modified(SystemTime::now());
                true
            }
            Err(_) => {
                if let Err(error) = fs::write(&path, NO_LAYER) {
                    tracing::debug!(%error, "cannot note a step that made no layer");
                }
                false
            }
        }
    }

    /// Takes a finished layer over, as what the key stands for from now on.
    pub(crate) fn insert(self: &Arc<Self>, key: Digest, from: &Path) -> Result<Layer, Error> {
        let layer = self.pin(Uuid::new_v4());
        fs::rename(from, &layer.path).map_err(Error::io("keep", from))?;
        let index = self.index(key);
        let new = self.root.join(format!("index.{}", layer.id));
        fs::write(&new, layer.id.to_string()).map_err(Error::io("write", &new))?;
        fs::rename(&new, &index).map_err(Error::io("write", index))?;
        Ok(layer)
    }

    /// Forgets the keys used longest ago until the layers take at most
    /// `limit_bytes`, and removes the layers that no key reaches.
    pub(crate) fn trim(&self, limit_bytes: u64) {
        if let Err(error) = self.try_trim(limit_bytes) {
            tracing::warn!(%error, "cannot trim the cache of template steps");
        }
    }

    fn read_index(&self) -> io::Result<Index> {
        let mut index = Index::default();
        for entry in fs::read_dir(self.root.join("index"))?.filter_map(Result::ok) {
            let text = match fs::read_to_string(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
                // One that cannot be read now is not one that is of no use.
                Err(error) => {
                    let path = entry.path();
                    tracing::warn!(path = %path.display(), %error, "read a key of the cache of template steps failed");
                    index.unknown = true;
                    continue;
                }
                Ok(text) => text,
            };
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            if text == NO_LAYER {
                index.notes.push((used, entry.path()));
                continue;
            }
            let id = text.trim().parse::<Uuid>().ok();
            index.keys.push((used, entry.path(), id));
        }
        Ok(index)
    }

    fn try_trim(&self, limit_bytes: u64) -> io::Result<()> {
        let Index {
            mut keys,
            mut notes,
            unknown,
        } = self.read_index()?;
        notes.sort();
        for (_, path) in notes.iter().rev().skip(MAX_NOTES) {
            fs::remove_file(path)?;
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.0));
        let (mut kept, mut dropped) = (HashSet::new(), HashSet::new());
        let mut total = 0;
        for (_, path, id) in keys {
            let bytes = id.map(|id| allocated(&self.layer_path(id)));
            match (id, bytes) {
                (Some(id), Some(bytes)) if total + bytes <= limit_bytes => {
                    total += bytes;
                    kept.insert(id);
                }
                _ => {
                    fs::remove_file(path)?;
                    dropped.extend(id);
                }
            }
        }
        for entry in fs::read_dir(self.root.join("layers"))?.filter_map(Result::ok) {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<Uuid>().ok());
            // Held until it is gone: nobody pins what is being removed.
            let pinned = lock(&self.pinned);
            let stays = id.is_some_and(|id| {
                let named = kept.contains(&id) || (unknown && !dropped.contains(&id));
                named || pinned.contains_key(&id)
            });
            if !stays && let Err(error) = fs::remove_dir_all(entry.path()) {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "remove a layer of template steps failed");
            }
        }
        Ok(())
    }
}

/// What stands in the directory of keys.
#[derive(Default)]
struct Index {
    /// When each was used, and the layer that it names, if it names one.
    keys: Vec<(SystemTime, PathBuf, Option<Uuid>)>,
    /// Of steps that made no layer, and when they were noted.
    notes: Vec<(SystemTime, PathBuf)>,
    /// Whether some key may name a layer that no other names.
    unknown: bool,
}

/// Bytes that a directory's files take on disk.
pub(crate) fn allocated(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(root: &Path, name: &str, bytes: usize) -> PathBuf {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("index"), vec![1; bytes]).unwrap();
        path
    }

    #[test]
    fn a_step_that_ran_anew_hides_what_was_built_upon_it() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path().join("cache")).unwrap();
        let base = State::of(&["base"]);
        let first_key = base.key(&["RUN a"]);
        let first = cache
            .insert(first_key, &layer(root.path(), "1", 10))
            .unwrap();
        let second_key = first.state().key(&["RUN b"]);
        cache
            .insert(second_key, &layer(root.path(), "2", 10))
            .unwrap();
        assert!(cache.find(second_key).is_some());

        let again = cache
            .insert(first_key, &layer(root.path(), "3", 10))
            .unwrap();
        let found = cache.find(first_key).unwrap();
        assert_eq!(found.path, again.path);
        assert!(cache.find(found.state().key(&["RUN b"])).is_none());
    }

    #[test]
    fn what_is_in_use_survives_a_trim() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path().join("cache")).unwrap();
        let keys: Vec<Digest> = ["a", "b"]
            .map(|step| State::of(&["base"]).key(&[step]))
            .to_vec();
        let held = cache
            .insert(keys[0], &layer(root.path(), "1", 9000))
            .unwrap();
        let dropped = cache
            .insert(keys[1], &layer(root.path(), "2", 9000))
            .unwrap();
        let dropped_path = dropped.path.clone();
        drop(dropped);
        cache.trim(0);
        assert!(held.path.exists() && !dropped_path.exists());
        assert!(cache.find(keys[1]).is_none());
        drop(held);
        cache.trim(0);
        assert_eq!(
            fs::read_dir(root.path().join("cache/layers"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_key_that_cannot_be_read_keeps_what_it_may_name_and_trimming_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path().join("cache")).unwrap();
        let key = |step: &str| State::of(&["base"]).key(&[step]);
        let path_of = |step: &str| {
            let directory = layer(root.path(), step, 9000);
            cache.insert(key(step), &directory).unwrap().path.clone()
        };
        let (hidden, known) = (path_of("a"), path_of("b"));
        // Reading a directory fails, as a disk does.
        let index = cache.index(key("a"));
        let id = fs::read(&index).unwrap();
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        cache.trim(0);
        assert!(hidden.exists() && !known.exists());
        assert!(cache.find(key("b")).is_none());
        fs::remove_dir(&index).unwrap();
        fs::write(&index, id).unwrap();
        assert!(cache.find(key("a")).is_some());
        cache.trim(0);
        assert!(!hidden.exists());
    }

    #[test]
    fn steps_without_a_layer_are_noted_and_not_taken_for_layers() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path().join("cache")).unwrap();
        let key = State::of(&["base"]).key(&["ENV", "A", "1"]);
        assert!(!cache.note(key));
        cache.trim(0);
        assert!(cache.note(key));
        assert!(cache.find(key).is_none());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let base = State::of(&["base"]);
        assert_ne!(base.key(&["ab", "c"]), base.key(&["a", "bc"]));
        assert_ne!(base.key(&["a"]), base.then(&["x"]).key(&["a"]));
    }
}
