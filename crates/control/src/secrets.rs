//! A team's secrets: values that egress rules put into the requests of its sandboxes
//! (`${e2b.secrets.NAME}`). They come in and are told to nobody; where they are kept
//! is a [`SecretKeeper`]'s matter.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind, code};
use crate::page::{Page, PageRequest};
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the ids of secrets begin with, and therefore no name.
const ID_PREFIX: &str = "sec_";
const MAX_NAME_BYTES: usize = 120;
const MAX_VALUE_BYTES: usize = 64 * 1024;
const MAX_METADATA_ENTRIES: usize = 32;
const MAX_METADATA_KEY_BYTES: usize = 128;
const MAX_METADATA_VALUE_BYTES: usize = 1024;
const MAX_METADATA_BYTES: usize = 8192;

/// What is told of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    pub id: String,
    pub name: String,
    pub version: u64,
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// How a caller names a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKey {
    Id(String),
    /// In lower case.
    Name(String),
}

impl SecretKey {
    /// Reads an id or a name.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.starts_with(ID_PREFIX) {
            Self::Id(text.to_owned())
        } else {
            Self::Name(text.to_lowercase())
        }
    }

    /// A name that a new secret may have, in the form that is kept.
    pub fn new_name(text: &str) -> Result<String, Error> {
        let name = text.to_lowercase();
        // It stands in `${e2b.secrets.NAME}`.
        let fits = |character: char| !character.is_control() && !matches!(character, '{' | '}');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(fits) {
            return Err(Error::invalid(
                "name",
                format_args!(
                    "must have 1 to {MAX_NAME_BYTES} bytes, without braces and control characters"
                ),
            ));
        }
        if name.starts_with(ID_PREFIX) {
            return Err(Error::invalid(
                "name",
                format_args!("must not begin with {ID_PREFIX:?}, as ids do"),
            ));
        }
        Ok(name)
    }
}

/// A secret to be kept.
#[derive(Debug, Clone)]
pub struct NewSecret {
    pub name: String,
    pub value: SecretString,
    pub metadata: BTreeMap<String, String>,
}

/// A new value for a secret, and new metadata where there are some.
#[derive(Debug, Clone)]
pub struct SecretUpdate {
    pub value: SecretString,
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Why a secret was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretKeepError {
    #[error("there is a secret of this name")]
    Exists,
    #[error("the team has as many secrets as it may have: {0}")]
    Full(usize),
    #[error("the secrets cannot be reached")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps secrets. Calls may block for a moment.
pub trait SecretKeeper: Send + Sync {
    fn list(&self, team: TeamId) -> Result<Vec<SecretInfo>, SecretKeepError>;
    fn find(&self, team: TeamId, key: &SecretKey) -> Result<Option<SecretInfo>, SecretKeepError>;
    fn create(&self, team: TeamId, new: NewSecret) -> Result<SecretInfo, SecretKeepError>;
    /// `None` where there is no such secret.
    fn update(
        &self,
        team: TeamId,
        key: &SecretKey,
        update: SecretUpdate,
    ) -> Result<Option<SecretInfo>, SecretKeepError>;
    /// False where there is no such secret.
    fn remove(&self, team: TeamId, key: &SecretKey) -> Result<bool, SecretKeepError>;
}

impl Control {
    /// Says where secrets are kept. Later calls change nothing.
    pub fn connect_secrets(&self, keeper: Arc<dyn SecretKeeper>) {
        let _ = self.secrets.set(keeper);
    }

    pub async fn secret_list(
        &self,
        caller: &Caller,
        page: &PageRequest,
    ) -> Result<Page<SecretInfo>, Error> {
        let query = page.check::<String>()?;
        let team = caller.team.id;
        let all = self.with_keeper(move |keeper| keeper.list(team)).await?;
        Ok(query.page(all, |secret| (secret.created_at, &secret.id)))
    }

    pub async fn secret_info(&self, caller: &Caller, key: &str) -> Result<SecretInfo, Error> {
        let (team, wanted) = (caller.team.id, SecretKey::of(key));
        let found = self.with_keeper(move |keeper| keeper.find(team, &wanted));
        found.await?.ok_or_else(|| not_found(key))
    }

    pub async fn secret_create(
        &self,
        caller: &Caller,
        mut new: NewSecret,
    ) -> Result<SecretInfo, Error> {
        new.name = SecretKey::new_name(&new.name)?;
        check_value(&new.value)?;
        check_metadata(&new.metadata)?;
        let team = caller.team.id;
        self.with_keeper(move |keeper| keeper.create(team, new))
            .await
    }

    pub async fn secret_update(
        &self,
        caller: &Caller,
        key: &str,
        update: SecretUpdate,
    ) -> Result<SecretInfo, Error> {
        check_value(&update.value)?;
        if let Some(metadata) = &update.metadata {
            check_metadata(metadata)?;
        }
        let (team, wanted) = (caller.team.id, SecretKey::of(key));
        let updated = self.with_keeper(move |keeper| keeper.update(team, &wanted, update));
        updated.await?.ok_or_else(|| not_found(key))
    }

    pub async fn secret_destroy(&self, caller: &Caller, key: &str) -> Result<(), Error> {
        let (team, wanted) = (caller.team.id, SecretKey::of(key));
        let removed = self.with_keeper(move |keeper| keeper.remove(team, &wanted));
        if removed.await? {
            Ok(())
        } else {
            Err(not_found(key))
        }
    }

    /// Forgets all secrets of a team that is gone.
    pub(crate) async fn secrets_remove_all(&self, team: TeamId) -> Result<(), Error> {
        if self.secrets.get().is_none() {
            return Ok(());
        }
        self.with_keeper(move |keeper| {
            for secret in keeper.list(team)? {
                keeper.remove(team, &SecretKey::Id(secret.id))?;
            }
            Ok(())
        })
        .await
    }

    async fn with_keeper<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn SecretKeeper) -> Result<T, SecretKeepError> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(keeper) = self.secrets.get().cloned() else {
            return Err(Error::new(Kind::Forbidden, "secrets are not enabled"));
        };
        let done = tokio::task::spawn_blocking(move || work(&*keeper)).await;
        done.map_err(Error::internal)?.map_err(|error| match error {
            SecretKeepError::Exists => {
                Error::new(Kind::Conflict, "a secret with this name already exists")
            }
            SecretKeepError::Full(most) => Error::new(
                Kind::Conflict,
                format!("Project has reached its limit of {most} live secrets: delete some"),
            )
            .with_code(code::SECRET_LIMIT_REACHED)
            .never_retry(),
            SecretKeepError::Failed(source) => Error::internal(source),
        })
    }
}

fn not_found(key: &str) -> Error {
    let shown: String = key.chars().take(64).collect();
    Error::not_found(format!("secret {shown:?} does not exist"))
}

fn check_value(value: &SecretString) -> Result<(), Error> {
    if (1..=MAX_VALUE_BYTES).contains(&value.expose_secret().len()) {
        return Ok(());
    }
    Err(Error::invalid(
        "value",
        format_args!("must have 1 to {MAX_VALUE_BYTES} bytes"),
    ))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let total: usize = metadata
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let fits = metadata.len() <= MAX_METADATA_ENTRIES
        && total <= MAX_METADATA_BYTES
        && metadata.iter().all(|(key, value)| {
            (1..=MAX_METADATA_KEY_BYTES).contains(&key.len())
                && value.len() <= MAX_METADATA_VALUE_BYTES
        });
    if fits {
        return Ok(());
    }
    Err(Error::invalid(
        "metadata",
        format_args!(
            "must have at most {MAX_METADATA_ENTRIES} entries, keys of at most \
             {MAX_METADATA_KEY_BYTES} bytes, values of at most {MAX_METADATA_VALUE_BYTES} and \
             {MAX_METADATA_BYTES} bytes in all"
        ),
    ))
}
