//! What must be remembered across restarts: the chosen address ranges, which
//! running sandboxes depend on, and whether IP forwarding was turned on by us.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::RangePair;
use crate::error::{Error, Result};

const FILE_NAME: &str = "network.json";
const VERSION: u32 = 1;

/// The remembered state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The ranges in use.
    pub(crate) ranges: RangePair,
    /// The ranges that the configuration preferred when `ranges` was chosen; when
    /// they change, the choice is made anew.
    pub(crate) preferred: RangePair,
    /// `net.ipv4.ip_forward` was off and we turned it on.
    pub(crate) enabled_ip_forward: bool,
    /// What a newer version keeps beside these.
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

impl State {
    pub(crate) fn new(ranges: RangePair, preferred: RangePair, enabled_ip_forward: bool) -> Self {
        Self {
            version: VERSION,
            ranges,
            preferred,
            enabled_ip_forward,
            unknown: serde_json::Map::new(),
        }
    }

    /// The same with what a newer version kept beside it.
    pub(crate) fn beside(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            self.unknown = before.unknown.clone();
        }
        self
    }

    /// Reads the state kept in `directory`, if there is one.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>> {
        let path = path_in(directory);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| Error::State {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        if state.version != VERSION {
            let detail = format!("version {} is not {VERSION}", state.version);
            return Err(Error::State { path, detail });
        }
        Ok(Some(state))
    }

    /// Replaces the state kept in `directory` atomically and durably.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        let path = path_in(directory);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::State {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        let write = || -> io::Result<()> {
            fs::create_dir_all(directory)?;
            let temporary = path.with_extension("json.new");
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(Error::io(format!("write {}", path.display())))
    }
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(slot: &str, link: &str) -> RangePair {
        RangePair {
            slot_range: slot.parse().unwrap(),
            link_range: link.parse().unwrap(),
        }
    }

    #[test]
    fn what_a_newer_version_keeps_beside_stays() {
        let directory = tempfile::tempdir().unwrap();
        let ranges = pair("10.11.0.0/16", "10.12.0.0/16");
        State::new(ranges, ranges, true)
            .save(directory.path())
            .unwrap();
        let path = path_in(directory.path());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen('{', "{\"vlan\": 7,", 1)).unwrap();
        let mut state = State::load(directory.path()).unwrap().unwrap();
        state.enabled_ip_forward = false;
        state.save(directory.path()).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("\"vlan\": 7"));
        // What a start makes anew keeps it, too.
        State::new(ranges, ranges, true)
            .beside(Some(&state))
            .save(directory.path())
            .unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("\"vlan\": 7"));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("not/yet/there");
        assert_eq!(State::load(&inner).unwrap(), None);
        let ranges = pair("10.211.0.0/16", "10.212.0.0/16");
        let state = State::new(ranges, pair("10.11.0.0/16", "10.12.0.0/16"), true);
        state.save(&inner).unwrap();
        assert_eq!(State::load(&inner).unwrap(), Some(state));
    }

    #[test]
    fn a_damaged_or_newer_file_is_an_error_and_not_a_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        let ranges = pair("10.11.0.0/16", "10.12.0.0/16");
        State::new(ranges, ranges, false)
            .save(directory.path())
            .unwrap();
        let path = path_in(directory.path());
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            &text[..text.len() / 2],
            &text.replace("\"version\": 1", "\"version\": 2"),
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(
                State::load(directory.path()),
                Err(Error::State { .. })
            ));
        }
    }
}
