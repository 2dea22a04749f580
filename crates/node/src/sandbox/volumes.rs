//! Volumes of a sandbox: what the node's server has for it, and what its agent mounts.
//!
//! They are part of the settings, and so are there again after a resume or a restart of
//! the daemon. A volume that was deleted meanwhile is left out: its sandbox goes on
//! without it.

use crate::{
    config::NodeConfig,
    error::{Error, chain},
    node::Shared,
    spec::SandboxSpec,
};
use hearth_agent_client::VolumeMount as GuestMount;
use hearth_network::{Slot, services::SERVICE_ADDRESS};
use hearth_nfs::{Export, HandleKey, Limits, ServerConfig, Space, VolumeServer};
use hearth_volumes::{VolumeId, VolumeMount, Volumes};
use std::{io, sync::Arc, time::Duration};

/// The key to the handles that guests have of files, among the node's keys.
const KEY_FILE: &str = "volume-handles.key";

/// The server, whose key is kept so that guests' handles outlive the daemon.
pub(crate) fn server(config: &NodeConfig) -> Result<Arc<VolumeServer>, Error> {
    let keys = hearth_layout::keys_dir(&config.state_dir);
    let key = std::fs::create_dir_all(&keys)
        .and_then(|()| HandleKey::open_or_create(&keys.join(KEY_FILE)))
        .map_err(Error::step("read the key to handles of volumes"))?;
    Ok(VolumeServer::new(ServerConfig {
        key,
        space: Arc::new(Room(Arc::clone(&config.volumes))),
        limits: Limits::default(),
    }))
}

/// What volumes may hold, as the server asks it.
#[derive(Debug)]
struct Room(Arc<Volumes>);

impl Space for Room {
    fn room(&self, volume: VolumeId) -> io::Result<u64> {
        self.0.room_for_guests(volume)
    }

    fn entries(&self, volume: VolumeId) -> u64 {
        self.0.entries_left_for_guests(volume)
    }

    fn made(&self, volume: VolumeId) {
        self.0.note_made(volume);
    }

    fn removed(&self, volume: VolumeId) {
        self.0.note_unlinked(volume);
    }

    fn written(&self, volume: VolumeId, bytes: u64) {
        self.0.note_written(volume, bytes);
    }
}

/// The volumes in a sandbox's settings.
///
/// # Errors
/// [`Error::Invalid`] where they cannot be read.
pub(crate) fn mounts(spec: &SandboxSpec) -> Result<Vec<VolumeMount>, Error> {
    if spec.volume_mounts_json.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&spec.volume_mounts_json)
        .map_err(|error| Error::Invalid(format!("the volume mounts cannot be read: {error}")))
}

/// Refuses a new sandbox one of whose volumes cannot be served. A fork goes on without what
/// was deleted meanwhile, as a resume does.
pub(crate) fn check(shared: &Shared, spec: &SandboxSpec, forked: bool) -> Result<(), Error> {
    if forked {
        return Ok(());
    }
    let exports = exports(shared, &mounts(spec)?);
    match shared.volumes.check(&exports) {
        Err(hearth_nfs::Error::TooMany(count)) => Err(Error::Invalid(format!(
            "a sandbox can mount {} volumes, not {count}",
            hearth_nfs::MOST_EXPORTS
        ))),
        outcome => outcome.map_err(Error::step("serve the sandbox's volumes")),
    }
}

/// Serves a sandbox's volumes at its slot.
pub(crate) fn enter(shared: &Shared, spec: &SandboxSpec, slot: &Slot) {
    let exports = exports(shared, &present(shared, spec));
    if let Err(error) = shared.volumes.enter(slot.host_address, &exports) {
        tracing::error!(sandbox = %spec.sandbox_id, error = %chain(&error), "serve the sandbox's volumes failed");
    }
}

/// How long the guest may take to hold its programs: longer where it first sends what was
/// written to its volumes, which the agent gives up on after ten seconds.
pub(crate) fn freeze_limit(spec: &SandboxSpec, without: Duration) -> Duration {
    match spec.volume_mounts_json.is_empty() {
        true => without,
        false => without + Duration::from_secs(10),
    }
}

/// What the agent is to mount.
pub(crate) fn for_guest(shared: &Shared, spec: &SandboxSpec) -> Vec<GuestMount> {
    let mounts = present(shared, spec).into_iter();
    let mounts = mounts.map(|mount| GuestMount {
        nfs_target: format!("{SERVICE_ADDRESS}:/{}", export_name(&mount)),
        path: mount.path,
    });
    mounts.collect()
}

/// Why an agent did not take its settings. An agent or a kernel from before there were
/// volumes says that it has no such thing.
pub(crate) fn refusal(error: hearth_microvm::Error, spec: &SandboxSpec) -> Error {
    const NOT_IMPLEMENTED: u16 = 501;
    let unable = match &error {
        hearth_microvm::Error::Agent(cause) => cause.status() == Some(NOT_IMPLEMENTED),
        _ => false,
    };
    match unable && !spec.volume_mounts_json.is_empty() {
        true => Error::Invalid(format!(
            "volumes are not supported; template must be rebuilt: {}",
            chain(&error)
        )),
        false => Error::step("hand the agent its settings")(error),
    }
}

/// The volumes in a sandbox's settings that can be served now.
fn present(shared: &Shared, spec: &SandboxSpec) -> Vec<VolumeMount> {
    let mut mounts = mounts(spec).unwrap_or_else(|error| {
        tracing::error!(sandbox = %spec.sandbox_id, error = %chain(&error), "serve the sandbox's volumes failed");
        Vec::new()
    });
    mounts.retain(|mount| {
        let served = shared.volumes.check(&[export(shared, mount)]);
        served
            .inspect_err(|error| {
                let (sandbox, volume) = (&spec.sandbox_id, mount.volume);
                tracing::warn!(%sandbox, %volume, error = %chain(error), "serve volume failed");
            })
            .is_ok()
    });
    mounts
}

/// By the name alone a guest that was kept for long could take a volume for another one
/// that was called so before.
fn export_name(mount: &VolumeMount) -> String {
    format!("{}/{}", mount.name, mount.volume)
}

fn exports(shared: &Shared, mounts: &[VolumeMount]) -> Vec<Export> {
    mounts.iter().map(|mount| export(shared, mount)).collect()
}

fn export(shared: &Shared, mount: &VolumeMount) -> Export {
    Export {
        volume: mount.volume,
        name: export_name(mount),
        tree: shared.config.volumes.tree(mount.volume),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        let journal = include_str!("../journal/fixtures/oldest.json");
        let mut journal: serde_json::Value = serde_json::from_str(journal).expect("a journal");
        serde_json::from_value(journal["spec"].take()).expect("settings")
    }

    #[test]
    fn a_journal_from_before_there_were_volumes_has_none() {
        assert_eq!(mounts(&spec()).expect("settings"), []);
    }

    #[test]
    fn mounts_are_read_as_the_control_plane_writes_them() {
        let volume = hearth_ids::VolumeId::random();
        let json = format!(r#"[{{"volume": "{volume}", "name": "data", "path": "/mnt"}}]"#);
        let read = |volume_mounts_json: String| {
            mounts(&SandboxSpec {
                volume_mounts_json,
                ..spec()
            })
        };
        let mount = VolumeMount {
            volume,
            name: "data".to_owned(),
            path: "/mnt".to_owned(),
        };
        assert_eq!(read(json).expect("mounts"), std::slice::from_ref(&mount));
        assert_eq!(export_name(&mount), format!("data/{volume}"));
        let nameless = r#"[{"path": "/mnt"}]"#.to_owned();
        assert!(matches!(read(nameless), Err(Error::Invalid(_))));
    }
}
