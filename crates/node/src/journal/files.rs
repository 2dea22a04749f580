//! The journals on disk: writing them, and finding what a former daemon left.
//!
//! Nothing that may be readable to somebody is removed here because it is not
//! readable to us: such a sandbox's directory stays as it is, and is looked at
//! again at every start. Meanwhile its builds, its slot and its VM are kept, as far
//! as the text tells of them.

use super::{NotRead, Record};
use crate::spec::SandboxSpec;
use hearth_ids::{BuildId, SandboxId};
use hearth_snapshot::LocalStore;
use serde::Deserialize as _;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

const FILE: &str = "journal.json";
const NEW_FILE: &str = "journal.json.new";
/// The longest journal that is written, and that is read.
pub(super) const MAX_BYTES: u64 = 8 << 20;
/// The longest settings that a sandbox is created with, as they are written: half
/// of a journal, which leaves room for what is changed and noted later.
const MAX_SPEC_BYTES: usize = 4 << 20;
/// Of a journal that is too long to be one, this much is searched for what it needs.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;
/// How often a journal is read that the disk or the system fails to hand out.
const ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// Space that is kept for journals alone: with a full disk, sandboxes can still be
/// ended, resumed, given another end time, and be known to the next daemon.
const RESERVE_FILE: &str = "journal-reserve";
const RESERVE_BYTES: u64 = 16 << 20;

/// The directory `sandboxes/` of the state directory.
#[derive(Debug, Clone)]
pub(crate) struct Journals {
    root: PathBuf,
}

/// What stands in one directory of `sandboxes/`.
#[derive(Debug)]
pub(crate) enum Found {
    Readable(Box<Record>),
    /// A start that had not got as far as its first journal, or a removal that had
    /// got past its last: there is nothing in it.
    Empty(SandboxId),
    Quarantined(Quarantined),
}

/// A sandbox that this daemon cannot make sense of. It is left as it is.
#[derive(Debug, Clone)]
pub(crate) struct Quarantined {
    pub id: SandboxId,
    pub why: String,
    /// The builds that it may need; `None` when nobody can say.
    pub builds: Option<BTreeSet<BuildId>>,
    /// The network slot that it may hold.
    pub slot: Option<u32>,
    /// Its settings, where they can be read by themselves.
    pub spec: Option<Box<SandboxSpec>>,
}

impl Found {
    /// The network slot of a sandbox that is up.
    pub(crate) fn slot(&self) -> Option<u32> {
        match self {
            Self::Readable(record) if record.state.is_up() => record.slot,
            Self::Quarantined(found) => found.slot,
            _ => None,
        }
    }
}

impl Journals {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&root)?;
        let this = Self { root };
        this.keep_reserve();
        Ok(this)
    }

    /// Takes the space that is kept for journals, where there is so much.
    pub(crate) fn keep_reserve(&self) {
        let path = self.root.with_file_name(RESERVE_FILE);
        if fs::metadata(&path).is_ok_and(|it| it.len() >= RESERVE_BYTES) {
            return;
        }
        let take = || -> io::Result<()> {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            let flags = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES)?)
        };
        if let Err(error) = take() {
            let _ = fs::remove_file(&path);
            tracing::warn!(%error, "no space can be kept for journals");
        }
    }

    /// Gives the space that is kept for journals to whoever comes first.
    fn free_reserve(&self) -> bool {
        fs::remove_file(self.root.with_file_name(RESERVE_FILE)).is_ok()
    }

    /// A directory to look at.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory of one sandbox, for its journal and its disk layer.
    pub(crate) fn dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Makes the sandbox's directory and writes its first journal.
    pub(crate) fn create(&self, record: &Record) -> io::Result<()> {
        let dir = self.dir(&record.spec.sandbox_id);
        let text = text_of(record)?;
        // A sandbox that there is no room for is not begun: the reserve is for those
        // that are there.
        fs::DirBuilder::new().mode(0o711).create(&dir)?;
        self.replace(record, &text, false).inspect_err(|_| {
            // Nothing but our own file can be in there yet.
            let _ = fs::remove_dir_all(&dir);
        })
    }

    /// Replaces the journal. On an error the former one still stands.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        self.replace_surely(record, false)
    }

    /// The same, and the new one survives a power cut. On an error either stands.
    pub(crate) fn write_durably(&self, record: &Record) -> io::Result<()> {
        self.replace_surely(record, true)
    }

    /// Replaces the journal, at the expense of the reserve if need be.
    fn replace_surely(&self, record: &Record, durably: bool) -> io::Result<()> {
        let text = text_of(record)?;
        match self.replace(record, &text, durably) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.free_reserve() => {
                tracing::error!("the disk is full: journals take the space that was kept for them");
                self.replace(record, &text, durably)
            }
            done => done,
        }
    }

    fn replace(&self, record: &Record, text: &[u8], durably: bool) -> io::Result<()> {
        let dir = self.dir(&record.spec.sandbox_id);
        let new = dir.join(NEW_FILE);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        io::Write::write_all(&mut file, text)?;
        if durably {
            file.sync_data()?;
        }
        fs::rename(&new, dir.join(FILE))?;
        if durably {
            fs::File::open(&dir)?.sync_all()?;
            fs::File::open(&self.root)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes everything in the sandbox's directory but the journal and the named
    /// entries.
    pub(crate) fn clear(&self, id: &SandboxId, keep: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(self.dir(id))? {
            let entry = entry?;
            let name = entry.file_name();
            if name == FILE || keep.iter().any(|kept| name == *kept) {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes the sandbox's directory, the journal last of all: a removal that
    /// is interrupted is found and repeated.
    pub(crate) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        let dir = self.dir(id);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == FILE) {
                continue;
            }
            if path.is_dir() {
                fs::remove_dir_all(&path)?
            } else {
                fs::remove_file(&path)?
            }
        }
        fs::remove_dir_all(dir)
    }

    /// Slots of the sandboxes that go on, by their journals: their drivers have ended.
    pub(crate) fn kept_slots(&self) -> Vec<u32> {
        match self.scan() {
            Ok(found) => found.iter().filter_map(Found::slot).collect(),
            Err(error) => {
                tracing::error!(%error, "read journals at the stop failed");
                Vec::new()
            }
        }
    }

    /// Every sandbox directory that a former daemon left.
    pub(crate) fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let Some(id) = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
            else {
                tracing::warn!(path = %path.display(), "leaving a foreign file among the sandboxes");
                continue;
            };
            found.push(look_at(&path, id));
        }
        Ok(found)
    }
}

fn text_of(record: &Record) -> io::Result<Vec<u8>> {
    let text = record.text()?;
    if text.len() as u64 > MAX_BYTES {
        let why = format!("the journal would be longer than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(text)
}

/// Refuses settings that a journal has no room for.
pub(crate) fn check_spec(spec: &SandboxSpec) -> Result<(), String> {
    match serde_json::to_vec(spec) {
        Ok(text) if text.len() <= MAX_SPEC_BYTES => Ok(()),
        Ok(text) => Err(format!(
            "the sandbox's settings take {} bytes, and {MAX_SPEC_BYTES} are allowed",
            text.len()
        )),
        Err(error) => Err(format!("the sandbox's settings cannot be kept: {error}")),
    }
}

/// Leases the builds that the sandboxes below `root` need, for as long as the process
/// lives. Those whose journals do not tell hold what is there.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn lease_builds(root: &Path, builds: &LocalStore) -> io::Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let journals = Journals::at(root.to_owned());
    for found in journals.scan()? {
        match found {
            Found::Readable(record) => record.builds().into_iter().for_each(|id| builds.keep(id)),
            Found::Empty(_) => {}
            Found::Quarantined(found) => found.lease_builds(&journals, builds),
        }
    }
    Ok(())
}

fn look_at(directory: &Path, id: SandboxId) -> Found {
    let unknown = |id, why| {
        Found::Quarantined(Quarantined {
            id,
            why,
            builds: None,
            slot: None,
            spec: None,
        })
    };
    let text = match read_patiently(&directory.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match is_empty(directory) {
                Ok(true) => Found::Empty(id),
                Ok(false) => unknown(id, "it has no journal".to_owned()),
                Err(error) => unknown(id, error.to_string()),
            };
        }
        Err(error) => return unknown(id, error.to_string()),
    };
    let document: Value = match serde_json::from_slice(&text) {
        Ok(document) => document,
        Err(error) => return unknown(id, format!("the journal is damaged: {error}")),
    };
    let why = if text.len() as u64 > MAX_BYTES {
        format!("the journal is longer than {MAX_BYTES} bytes")
    } else {
        match Record::parse(&document) {
            Ok(record) if record.spec.sandbox_id == id => {
                return Found::Readable(Box::new(record));
            }
            Ok(_) => "the journal names another sandbox".to_owned(),
            Err(NotRead::Newer(why)) => why,
            Err(NotRead::Damaged(why)) => {
                let found = Quarantined::of(id, why, &document);
                // What is damaged may be one of the ids.
                return Found::Quarantined(Quarantined {
                    builds: None,
                    ..found
                });
            }
        }
    };
    Found::Quarantined(Quarantined::of(id, why, &document))
}

impl Quarantined {
    /// What the document tells of a sandbox, whatever its fields are called.
    fn of(id: SandboxId, why: String, document: &Value) -> Self {
        let mut builds = BTreeSet::new();
        ids_in(document, &mut builds);
        let slot = document.get("slot").and_then(Value::as_u64);
        let spec = document.get("spec").map(SandboxSpec::deserialize);
        Self {
            id,
            why,
            builds: Some(builds),
            slot: slot.and_then(|slot| u32::try_from(slot).ok()),
            spec: spec.and_then(Result::ok).map(Box::new),
        }
    }

    /// Leases the builds that it may need, for as long as the process lives; those that
    /// are there, where nobody can tell which.
    pub(crate) fn lease_builds(&self, journals: &Journals, builds: &LocalStore) {
        match &self.builds {
            Some(needed) => needed.iter().for_each(|id| builds.keep(*id)),
            None => builds.hold_for(&self.id, &journals.dir(&self.id).join(FILE)),
        }
    }

    /// A sandbox whose journal can be read, but which can neither go on now nor be
    /// known to have ended.
    pub(crate) fn undecided(record: &Record, why: String) -> Self {
        Self {
            id: record.spec.sandbox_id.clone(),
            why,
            builds: Some(record.builds().into_iter().collect()),
            slot: record.slot,
            spec: Some(Box::new(record.spec.clone())),
        }
    }
}

/// Everything in a document that has the form of a build's id. Ids of other things
/// have it too; holding on to builds that are not there costs nothing.
fn ids_in(document: &Value, found: &mut BTreeSet<BuildId>) {
    match document {
        Value::String(text) => found.extend(text.parse::<BuildId>().ok()),
        Value::Array(items) => items.iter().for_each(|item| ids_in(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| ids_in(field, found)),
        _ => {}
    }
}

/// Whether nothing but a first journal that was never put in place is in there.
fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.file_name() != NEW_FILE {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Blocks, for moments.
fn read_patiently(path: &Path) -> io::Result<Vec<u8>> {
    let mut attempt = 1;
    loop {
        let read = || -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            File::open(path)?
                .take(MAX_SEARCHED_BYTES)
                .read_to_end(&mut text)?;
            Ok(text)
        };
        match read() {
            Err(error) if error.kind() != io::ErrorKind::NotFound && attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(BETWEEN_ATTEMPTS);
            }
            read => return read,
        }
    }
}
