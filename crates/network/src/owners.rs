//! Who may open each slot's TAP, and whom its VM process runs as.
//!
//! With [`TapOwner::Fresh`] every holder of a slot gets a uid that nobody had since the
//! host booted: what a process of an earlier holder may have left (a file, an IPC object,
//! a process that outlived its sandbox) belongs to nobody who comes later. A uid is
//! written down as used before it is used, in a file of the run directory, so that a
//! daemon that starts again knows; that of a slot is on its TAP, where the next daemon
//! finds it.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::{TapOwner, UidRange};
use crate::error::{Error, Result};

const VERSION: u32 = 1;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The boot of the host in which these were used.
    boot_id: String,
    /// Those from the first of the range up to, and without, this one were used.
    next: u32,
}

/// The owners of all slots.
#[derive(Debug)]
pub(crate) enum Owners {
    /// One for all.
    Fixed(u32),
    /// One for each holder.
    Fresh(Fresh),
}

#[derive(Debug)]
pub(crate) struct Fresh {
    range: UidRange,
    boot_id: String,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    next: u32,
    /// By slot.
    owners: HashMap<u32, u32>,
}

impl Owners {
    /// Reads what was used. `adopted` are slots with the uids on their TAPs.
    pub(crate) fn load(owner: &TapOwner, adopted: &[(u32, u32)]) -> Result<Self> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(Error::io(format!("read {BOOT_ID}")))?;
        Self::load_in(owner, adopted, boot_id.trim())
    }

    fn load_in(owner: &TapOwner, adopted: &[(u32, u32)], boot_id: &str) -> Result<Self> {
        let range = match owner {
            TapOwner::Fixed(uid) => return Ok(Self::Fixed(*uid)),
            TapOwner::Fresh(range) => range.clone(),
        };
        let record = read(&range.record)?.filter(|record| record.boot_id == boot_id);
        let remembered = record.map_or(range.first, |record| record.next);
        // Should the file have been removed, those in use are known all the same.
        let seen = adopted.iter().map(|(_, uid)| uid + 1);
        let next = seen
            .chain([remembered])
            .filter(|next| (range.first..=range.end()).contains(next))
            .max()
            .unwrap_or(range.first);
        Ok(Self::Fresh(Fresh {
            used: Mutex::new(Used {
                next,
                owners: adopted.iter().copied().collect(),
            }),
            boot_id: boot_id.to_owned(),
            range,
        }))
    }

    /// Gives slot `index` an owner for its next holder, and says which. Blocks for the
    /// time of writing a small file.
    pub(crate) fn renew(&self, index: u32) -> Result<u32> {
        match self {
            Self::Fixed(uid) => Ok(*uid),
            Self::Fresh(fresh) => fresh.renew(index),
        }
    }

    /// The owner of slot `index`, which has been given one.
    pub(crate) fn of(&self, index: u32) -> Result<u32> {
        match self {
            Self::Fixed(uid) => Ok(*uid),
            Self::Fresh(fresh) => {
                let owner = fresh.lock().owners.get(&index).copied();
                owner.ok_or(Error::NotHeld { index })
            }
        }
    }
}

impl Fresh {
    fn renew(&self, index: u32) -> Result<u32> {
        let mut used = self.lock();
        let uid = used.next;
        if uid >= self.range.end() {
            return Err(Error::NoUser {
                first: self.range.first,
                last: self.range.end() - 1,
            });
        }
        let record = Record {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            next: uid + 1,
        };
        write(&self.range.record, &record)?;
        used.next = record.next;
        used.owners.insert(index, uid);
        Ok(uid)
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // Whole between any two statements: a uid that is lost is only not used.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
    };
    let invalid = |detail: String| Error::State {
        path: path.to_owned(),
        detail,
    };
    if text.is_empty() {
        // The host went down between the write and the disk: it has booted since.
        return Ok(None);
    }
    let record: Record = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    if record.version != VERSION {
        let version = record.version;
        return Err(invalid(format!("version {version} is not {VERSION}")));
    }
    Ok(Some(record))
}

/// Replaces the record. It need not outlive the host's next boot, so it is not synced.
fn write(path: &Path, record: &Record) -> Result<()> {
    let attempt = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?
            .write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(Error::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "boot-1";

    fn owner(directory: &Path, count: u32) -> TapOwner {
        TapOwner::Fresh(UidRange {
            first: 1000,
            count,
            record: directory.join("run/uids.json"),
        })
    }

    fn load(owner: &TapOwner, adopted: &[(u32, u32)], boot: &str) -> Owners {
        Owners::load_in(owner, adopted, boot).unwrap()
    }

    #[test]
    fn no_uid_is_given_twice_in_an_uptime_whatever_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let owner = owner(directory.path(), 100);
        let mut given = Vec::new();
        for round in 0..5 {
            let owners = load(&owner, &[], BOOT);
            assert!(owners.of(0).is_err());
            for index in [0, 1, 0] {
                let uid = owners.renew(index).unwrap();
                assert_eq!(owners.of(index).unwrap(), uid);
                assert!(!given.contains(&uid), "{uid} again in round {round}");
                given.push(uid);
            }
        }
        assert_eq!(given, (1000..1015).collect::<Vec<_>>());
        let next_boot = load(&owner, &[], "boot-2");
        assert_eq!(next_boot.renew(0).unwrap(), 1000);
    }

    #[test]
    fn what_is_adopted_is_known_and_in_use_without_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let owner = owner(directory.path(), 100);
        // One is of an earlier version's range.
        let owners = load(&owner, &[(3, 1041), (5, 830_005)], BOOT);
        assert_eq!(owners.of(3).unwrap(), 1041);
        assert_eq!(owners.of(5).unwrap(), 830_005);
        assert_eq!(owners.renew(0).unwrap(), 1042);
    }

    #[test]
    fn a_range_that_is_used_up_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let owner = owner(directory.path(), 2);
        let owners = load(&owner, &[], BOOT);
        owners.renew(0).unwrap();
        owners.renew(1).unwrap();
        for owners in [owners, load(&owner, &[], BOOT)] {
            let error = owners.renew(0).unwrap_err();
            assert!(matches!(
                error,
                Error::NoUser {
                    first: 1000,
                    last: 1001
                }
            ));
            assert!(error.to_string().contains("1000 to 1001"), "{error}");
        }
    }

    #[test]
    fn nothing_is_given_that_cannot_be_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let owner = owner(directory.path(), 10);
        fs::write(directory.path().join("run"), "in the way").unwrap();
        // The path leads through a file.
        assert!(Owners::load_in(&owner, &[], BOOT).is_err());
        fs::remove_file(directory.path().join("run")).unwrap();
        let owners = load(&owner, &[], BOOT);
        fs::write(directory.path().join("run"), "in the way").unwrap();
        assert!(matches!(owners.renew(0), Err(Error::Io { .. })));
        fs::remove_file(directory.path().join("run")).unwrap();
        assert_eq!(owners.renew(0).unwrap(), 1000);
        fs::write(directory.path().join("run/uids.json"), "{").unwrap();
        let damaged = Owners::load_in(&owner, &[], BOOT);
        assert!(matches!(damaged, Err(Error::State { .. })));
    }
}
