//! Secrets that rules put into requests: one file for each, below the directory of
//! keys, that only root reads. They are read when they are used, so a change needs
//! no restart.
//!
//! A file is called by the hexadecimal form of the secret's name: whatever a name
//! holds, it is no path, and a rule's secret is found without looking at others.

use super::secrets;
use crate::settings::Settings;
use chrono::{DateTime, Utc};
use hearth_control::{
    NewSecret, SecretInfo, SecretKeepError, SecretKeeper, SecretKey, SecretUpdate,
};
use hearth_egress::SecretSource;
use hearth_ids::TeamId;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Secrets of one team.
const MOST: usize = 1000;

type Result<T> = std::result::Result<T, SecretKeepError>;

#[derive(Debug)]
pub struct SecretFiles {
    directory: PathBuf,
    /// Held while a file is changed.
    changing: Mutex<()>,
}

/// A secret at rest.
#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    name: String,
    version: u64,
    metadata: BTreeMap<String, String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    value: String,
}

impl Record {
    fn info(self) -> SecretInfo {
        SecretInfo {
            id: self.id,
            name: self.name,
            version: self.version,
            metadata: self.metadata,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SecretKeepError {
    SecretKeepError::Failed(error.into())
}

impl SecretFiles {
    pub fn new(settings: &Settings) -> Self {
        Self::at(settings.secrets_dir())
    }

    fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            changing: Mutex::default(),
        }
    }

    /// Keeps a secret under a name, in the place of an older one. Answers whether
    /// there was one.
    pub fn set(&self, team: TeamId, name: &str, value: SecretString) -> anyhow::Result<bool> {
        let name = SecretKey::new_name(name).map_err(|error| anyhow::anyhow!("{error}"))?;
        let update = SecretUpdate {
            value: value.clone(),
            metadata: None,
        };
        if self
            .update(team, &SecretKey::Name(name.clone()), update)?
            .is_some()
        {
            return Ok(true);
        }
        let metadata = BTreeMap::new();
        self.create(
            team,
            NewSecret {
                name,
                value,
                metadata,
            },
        )?;
        Ok(false)
    }

    fn of_team(&self, team: TeamId) -> PathBuf {
        self.directory.join(team.to_string())
    }

    fn path(&self, team: TeamId, name: &str) -> PathBuf {
        self.of_team(team).join(hex::encode(name))
    }

    fn paths(&self, team: TeamId) -> Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(self.of_team(team)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let paths = entries.flatten().map(|entry| entry.path());
        // A file that is being written has an extension.
        Ok(paths.filter(|path| path.extension().is_none()).collect())
    }

    fn records(&self, team: TeamId) -> Result<Vec<Record>> {
        let paths = self.paths(team)?;
        let records = paths.iter().map(|path| read(path));
        records.filter_map(Result::transpose).collect()
    }

    fn record(&self, team: TeamId, key: &SecretKey) -> Result<Option<Record>> {
        match key {
            SecretKey::Name(name) => read(&self.path(team, name)),
            SecretKey::Id(id) => {
                let mut records = self.records(team)?.into_iter();
                Ok(records.find(|record| record.id == *id))
            }
        }
    }

    fn write(&self, team: TeamId, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record).map_err(failed)?;
        secrets::write(&self.path(team, &record.name), &text).map_err(failed)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    match std::fs::read(path) {
        // A name that is too long for a file is nobody's.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::InvalidFilename
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
        // The parser's error would quote what it read.
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| {
            let path = path.display();
            failed(Error::other(format!("{path} holds no secret")))
        }),
    }
}

impl SecretKeeper for SecretFiles {
    fn list(&self, team: TeamId) -> Result<Vec<SecretInfo>> {
        Ok(self.records(team)?.into_iter().map(Record::info).collect())
    }

    fn find(&self, team: TeamId, key: &SecretKey) -> Result<Option<SecretInfo>> {
        Ok(self.record(team, key)?.map(Record::info))
    }

    fn create(&self, team: TeamId, new: NewSecret) -> Result<SecretInfo> {
        let _changing = self.changing();
        if self.path(team, &new.name).exists() {
            return Err(SecretKeepError::Exists);
        }
        if self.paths(team)?.len() >= MOST {
            return Err(SecretKeepError::Full(MOST));
        }
        let now = Utc::now();
        let record = Record {
            id: format!("sec_{}", Uuid::new_v4().simple()),
            name: new.name,
            version: 1,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            value: new.value.expose_secret().to_owned(),
        };
        self.write(team, &record)?;
        Ok(record.info())
    }

    fn update(
        &self,
        team: TeamId,
        key: &SecretKey,
        update: SecretUpdate,
    ) -> Result<Option<SecretInfo>> {
        let _changing = self.changing();
        let Some(mut record) = self.record(team, key)? else {
            return Ok(None);
        };
        record.version += 1;
        update.value.expose_secret().clone_into(&mut record.value);
        if let Some(metadata) = update.metadata {
            record.metadata = metadata;
        }
        record.updated_at = Utc::now();
        self.write(team, &record)?;
        Ok(Some(record.info()))
    }

    fn remove(&self, team: TeamId, key: &SecretKey) -> Result<bool> {
        let _changing = self.changing();
        let Some(record) = self.record(team, key)? else {
            return Ok(false);
        };
        match std::fs::remove_file(self.path(team, &record.name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

impl SecretSource for SecretFiles {
    fn secret(&self, team_id: &str, name: &str) -> Option<String> {
        let record = self.record(team_id.parse().ok()?, &SecretKey::of(name));
        match record {
            Ok(record) => Some(record?.value),
            Err(error) => {
                tracing::warn!(%error, "a secret cannot be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, value: &str) -> NewSecret {
        NewSecret {
            name: name.to_owned(),
            value: value.into(),
            metadata: BTreeMap::new(),
        }
    }

    #[test]
    fn a_secret_is_kept_replaced_and_forgotten() {
        let directory = std::env::temp_dir().join(format!("hearth-secrets-{}", Uuid::new_v4()));
        let files = SecretFiles::at(directory.clone());
        let (team, other) = (TeamId::random(), TeamId::random());
        // As odd as names may be: no path, no clash with a file being written.
        let made = files
            .create(team, new("../a b.new", "one"))
            .expect("a secret");
        assert!(matches!(
            files.create(team, new("../a b.new", "two")),
            Err(SecretKeepError::Exists)
        ));
        let by_name = SecretKey::of("../A b.NEW");
        assert_eq!(
            files.find(team, &by_name).expect("read"),
            Some(made.clone())
        );
        let update = SecretUpdate {
            value: "two".into(),
            metadata: None,
        };
        let updated = files.update(team, &SecretKey::of(&made.id), update);
        assert_eq!(updated.expect("kept").expect("found").version, 2);
        let told = |team: TeamId| files.secret(&team.to_string(), "../a b.new");
        assert_eq!(told(team).as_deref(), Some("two"));
        assert_eq!(told(other), None);
        assert!(!files.remove(other, &by_name).expect("looked"));
        assert!(files.remove(team, &by_name).expect("removed"));
        assert_eq!(told(team), None);
        assert_eq!(files.secret("../..", &"x".repeat(300)), None);
        assert_eq!(files.secret(&team.to_string(), &"x".repeat(300)), None);
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
