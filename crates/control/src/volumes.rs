//! Volumes of a team: directory trees that outlive sandboxes and are mounted by name.
//!
//! ```text
//!  create: noted (making) ─▶ directory ─▶ noted (ready)
//!  copy:   noted (making) ─▶ answer; content copied by a task ─▶ noted (ready or failed)
//!  delete: noted (removing) ─▶ answer; directory moved aside ─▶ forgotten
//! ```
//!
//! A process that dies in between leaves a note: the next one fails what was being made
//! and removes what was being removed.

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::node::VolumeMount;
use crate::quotas::{Demand, Exceeded};
use crate::{Access, Action, Control, Resource};
use chrono::Utc;
use hearth_ids::VolumeId;
pub use hearth_store::Volume;
use hearth_store::VolumeState;
use hearth_volumes::Volumes;
use hearth_volumes::content::{Content, ContentError};
use secrecy::SecretString;
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Component, Path};
use std::sync::Arc;

/// Copies that are made at the same time; others wait.
pub(crate) const COPIES: usize = 2;
const MAX_NAME_BYTES: usize = 128;
/// As many as a node serves to one sandbox.
const MAX_MOUNTS: usize = 16;

/// A mount as it is asked for: a volume by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountRequest {
    /// The volume's name.
    pub name: String,
    /// Where the guest is to see it.
    pub path: String,
}

/// A volume, and a token for its content.
#[derive(Debug, Clone)]
pub struct VolumeAccess {
    /// Which one.
    pub volume: Volume,
    /// Good for an hour.
    pub token: SecretString,
}

fn not_found() -> Error {
    Error::not_found("Volume not found")
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Invalid,
            format!(
                "Invalid volume name: it takes 1 to {MAX_NAME_BYTES} characters of a-z, A-Z, 0-9, \
                 \"_\" and \"-\""
            ),
        )),
    }
}

impl Control {
    /// Says where volumes are. Later calls change nothing.
    pub fn connect_volumes(&self, volumes: Arc<Volumes>) {
        let _ = self.volumes.set(volumes);
    }

    pub(crate) fn volume_files(&self) -> Result<&Arc<Volumes>, Error> {
        let volumes = self.volumes.get();
        volumes.ok_or_else(|| Error::new(Kind::Forbidden, "use of volumes is not enabled"))
    }

    /// The volumes of the team, in order of their names.
    ///
    /// Errors: `Forbidden` where there are none at all, here as everywhere below.
    pub async fn volume_list(&self, caller: &Caller) -> Result<Vec<Volume>, Error> {
        self.volume_files()?;
        Ok(self.store.volume_list(caller.team_id()).await?)
    }

    /// A volume of the team, with a token.
    ///
    /// Errors: `NotFound`.
    pub async fn volume_access(
        &self,
        caller: &Caller,
        id: VolumeId,
    ) -> Result<VolumeAccess, Error> {
        let volume = self.volume(caller, id).await?;
        Ok(VolumeAccess {
            token: self.volume_token(caller, id)?,
            volume,
        })
    }

    async fn volume(&self, caller: &Caller, id: VolumeId) -> Result<Volume, Error> {
        self.volume_files()?;
        let found = self.store.volume(caller.team_id(), id).await?;
        found.ok_or_else(not_found)
    }

    /// Makes an empty volume.
    ///
    /// Errors: `Invalid` for its name, also where it is taken; `LimitReached`.
    pub async fn volume_create(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
    ) -> Result<VolumeAccess, Error> {
        let files = Arc::clone(self.volume_files()?);
        let volume = self.volume_begin(caller, name).await?;
        let (control, id) = (Arc::clone(self), volume.id);
        // Not stopped half-way by a caller who goes away.
        let made = self.tasks.spawn(async move {
            let made = tokio::task::spawn_blocking(move || files.create(id)).await;
            control.volume_end(id, flat(made)).await
        });
        if !made.await.map_err(Error::internal)?? {
            return Err(Error::new(Kind::Internal, "Error when creating directory"));
        }
        let token = self.volume_token(caller, id)?;
        let volume = Volume {
            state: VolumeState::Ready,
            ..volume
        };
        Ok(VolumeAccess { volume, token })
    }

    /// Begins to copy a volume to a new one, which is `Making` until all of it is there.
    /// What guests write meanwhile may be in the copy or not.
    ///
    /// Errors: as [`Self::volume_create`]; `NotFound`, `Conflict` for what cannot be
    /// copied yet.
    pub async fn volume_copy(
        self: &Arc<Self>,
        caller: &Caller,
        from: VolumeId,
        name: &str,
    ) -> Result<VolumeAccess, Error> {
        let files = Arc::clone(self.volume_files()?);
        check_ready(&self.volume(caller, from).await?)?;
        let volume = self.volume_begin(caller, name).await?;
        let (control, to, team) = (Arc::clone(self), volume.id, caller.team_id());
        self.tasks.spawn(async move {
            // When the process ends before its turn, the next start fails it.
            let Ok(_turn) = control.volume_copies.acquire().await else {
                return;
            };
            // It may have been deleted while it waited.
            if let Ok(None) = control.store.volume(team, to).await {
                return;
            }
            let copied = tokio::task::spawn_blocking(move || files.copy(from, to)).await;
            if let Err(error) = control.volume_end(to, flat(copied)).await {
                // The next start takes it for interrupted.
                tracing::warn!(%error, volume = %to, "note the copy of the volume failed");
            }
        });
        let token = self.volume_token(caller, to)?;
        Ok(VolumeAccess { volume, token })
    }

    /// Notes a volume that is to be made.
    async fn volume_begin(&self, caller: &Caller, name: &str) -> Result<Volume, Error> {
        check_name(name)?;
        let volume = Volume {
            id: VolumeId::random(),
            team_id: caller.team_id(),
            name: name.to_owned(),
            state: VolumeState::Making,
            created_at: Utc::now(),
        };
        let most = caller.team.limits.max_volumes;
        let begun = self.store.volume_begin(volume.clone(), most).await;
        let begun = begun.map_err(|error| match error {
            hearth_store::Error::Conflict(_) => Error::new(
                Kind::Invalid,
                format!("Volume with name '{name}' already exists"),
            ),
            other => other.into(),
        })?;
        match begun {
            true => Ok(volume),
            false => Err(Exceeded {
                demand: Demand::Volume,
                most,
            }
            .into()),
        }
    }

    /// Notes how the making of a volume ended. Answers whether there is one now.
    async fn volume_end(&self, id: VolumeId, made: std::io::Result<()>) -> Result<bool, Error> {
        let to = match &made {
            Ok(()) => VolumeState::Ready,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::info!(volume = %id, %error, "copy of volume ended");
                VolumeState::Failed
            }
            Err(error) => {
                tracing::error!(volume = %id, %error, "make volume failed");
                VolumeState::Failed
            }
        };
        let advanced = self.store.volume_advance(id, VolumeState::Making, to);
        if !advanced.await? && made.is_ok() {
            // It was deleted meanwhile, when there was nothing to remove yet.
            self.volume_discard(id).await?;
            return Ok(false);
        }
        Ok(made.is_ok())
    }

    /// Deletes a volume, its data in the background. Sandboxes that have it mounted find
    /// stale files from then on.
    ///
    /// Errors: `NotFound`.
    pub async fn volume_delete(
        self: &Arc<Self>,
        caller: &Caller,
        id: VolumeId,
    ) -> Result<(), Error> {
        self.volume_files()?;
        if !self.store.volume_remove(caller.team_id(), id).await? {
            return Err(not_found());
        }
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = control.volume_discard(id).await {
                // The next start does it.
                tracing::warn!(%error, volume = %id, "remove the data of the volume failed");
            }
        });
        Ok(())
    }

    /// Removes what is on disk of a volume that is being removed, and forgets it.
    async fn volume_discard(&self, id: VolumeId) -> Result<(), Error> {
        let files = Arc::clone(self.volume_files()?);
        let removed = tokio::task::spawn_blocking(move || files.remove(id)).await;
        removed.map_err(Error::internal)?.map_err(Error::internal)?;
        Ok(self.store.volume_forget(id).await?)
    }

    /// Takes up what an earlier process did not end. Call it once, before serving.
    ///
    /// # Errors
    /// When the store or the disk cannot be used.
    pub async fn volumes_take_up(&self) -> Result<(), Error> {
        let files = Arc::clone(self.volume_files()?);
        for volume in self.store.volume_list_unfinished().await? {
            let id = volume.id;
            match volume.state {
                VolumeState::Removing => self.volume_discard(id).await?,
                _ => {
                    let files = Arc::clone(&files);
                    let found = tokio::task::spawn_blocking(move || files.exists(id)).await;
                    // It appears on disk whole.
                    let to = match found.map_err(Error::internal)? {
                        true => VolumeState::Ready,
                        false => VolumeState::Failed,
                    };
                    self.store
                        .volume_advance(id, VolumeState::Making, to)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// The content of a volume, for whoever may have such access to it.
    ///
    /// Errors: `NotFound`, `Forbidden`, `Conflict` while it is being made.
    pub async fn volume_content(
        &self,
        caller: &Caller,
        id: VolumeId,
        access: Access,
    ) -> Result<Content, Error> {
        caller.may(Action {
            resource: Resource::Sandboxes,
            access,
        })?;
        check_ready(&self.volume(caller, id).await?)?;
        let files = Arc::clone(self.volume_files()?);
        let content = tokio::task::spawn_blocking(move || Content::open(files, id)).await;
        content
            .map_err(Error::internal)?
            .map_err(|error| match error {
                // It was deleted meanwhile.
                ContentError::NotFound => not_found(),
                error => Error::internal(error),
            })
    }

    /// The volumes that a sandbox is to mount.
    ///
    /// Errors: `Invalid` with everything that is wrong with any of them.
    pub(crate) async fn volume_mounts(
        &self,
        caller: &Caller,
        requests: &[MountRequest],
    ) -> Result<Vec<VolumeMount>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        if self.volumes.get().is_none() {
            return Err(Error::new(Kind::Invalid, "Volume mounts are not enabled."));
        }
        if requests.len() > MAX_MOUNTS {
            return Err(Error::invalid(
                "volumeMounts",
                format_args!(
                    "at most {MAX_MOUNTS} are allowed, {} are given",
                    requests.len()
                ),
            ));
        }
        let volumes = self.store.volume_list(caller.team_id()).await?;
        resolve(requests, &volumes)
    }
}

fn resolve(requests: &[MountRequest], volumes: &[Volume]) -> Result<Vec<VolumeMount>, Error> {
    let mut mounts = Vec::new();
    let mut wrong = String::new();
    let mut used = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let mut refuse = |reason: String| {
            wrong.push_str(&format!("\n\t- volume mount #{index}: {reason}"));
        };
        let volume = volumes.iter().find(|volume| volume.name == request.name);
        match volume {
            None => refuse(format!("volume '{}' not found", shown(&request.name))),
            Some(volume) if volume.state != VolumeState::Ready => {
                refuse(format!("volume '{}' is not ready", volume.name));
            }
            Some(volume) => mounts.push(VolumeMount {
                volume: volume.id,
                name: request.name.clone(),
                path: request.path.clone(),
            }),
        }
        match check_path(&request.path) {
            Err(reason) => refuse(reason.to_owned()),
            // The same place, however it is written.
            Ok(()) => {
                let place: Vec<_> = request.path.split('/').filter(|p| !p.is_empty()).collect();
                if !used.insert(place) {
                    refuse(format!("path '{}' is already used", shown(&request.path)));
                }
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(mounts),
        false => Err(Error::new(Kind::Invalid, format!("invalid mounts:{wrong}"))),
    }
}

/// What was asked for is repeated, but not without bound.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("path cannot be empty");
    }
    if !path.starts_with('/') {
        return Err("path must be absolute");
    }
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("path must not contain any '.' or '..' components");
    }
    // What the guest's kernel could not mount at.
    let long = path.len() > 4095 || path.split('/').any(|part| part.len() > 255);
    if long || path.contains('\0') {
        return Err("path must have at most 4095 bytes, 255 in each component, and no NUL");
    }
    if Path::new(path)
        .components()
        .all(|part| part == Component::RootDir)
    {
        return Err("path must not be the root");
    }
    Ok(())
}

fn check_ready(volume: &Volume) -> Result<(), Error> {
    let message = match volume.state {
        VolumeState::Ready => return Ok(()),
        VolumeState::Making => "The volume is still being copied: try again later",
        _ => "The volume could not be copied: delete it",
    };
    Err(Error::new(Kind::Conflict, message))
}

/// What a blocking task answers; one that panicked has failed.
fn flat(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> std::io::Result<()> {
    ended.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests;
