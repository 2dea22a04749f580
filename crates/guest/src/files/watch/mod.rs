//! Watching directories.
//!
//! A [`tree::Tree`] turns the kernel's events into what clients are told. Two
//! ways lead to it. A stream owns its tree and asks it whenever the client has
//! taken the last event, so that the only queue is the kernel's, which is
//! bounded. A poller ([`pollers`]) is asked from time to time; a task drains its
//! tree in between, so that new directories are watched without delay.
//!
//! When events were lost, in either queue, the client gets an error that says
//! so, never a silent gap.

pub mod pollers;
pub mod tree;

use buffa::{EnumValue, MessageField};
use connectrpc::ConnectError;
use hearth_guest_proto::filesystem::{EventType, FilesystemEvent};

use super::error::Kind;
use super::{Actor, FileError, entry};

/// What is watched, and how much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Also directories below, those made later included.
    pub recursive: bool,
    /// Describe the file with each event, if it is still there.
    pub include_entry: bool,
    /// File systems over a network tell nothing of what others do; watching
    /// one must be asked for.
    pub allow_network_mounts: bool,
}

/// Something happened to `name`, relative to the watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub kind: EventType,
}

/// Waits for the kernel to have something and takes it. Empty when all of it is
/// nothing that clients are told.
pub async fn next_changes(
    actor: &Actor,
    mut tree: tree::Tree,
    include_entry: bool,
) -> Result<(tree::Tree, Vec<FilesystemEvent>), FileError> {
    let handle = tree.handle();
    let mut ready = handle
        .readable()
        .await
        .map_err(|error| FileError::from_io("error watching", &error))?;
    let of = actor.clone();
    let read = actor
        .run(move || {
            let changes = tree.read()?;
            let events = events(&of, tree.root(), changes, include_entry);
            Ok((tree, events))
        })
        .await?;
    ready.clear_ready();
    Ok(read)
}

/// Messages of changes; blocking when entries are wanted.
fn events(
    actor: &Actor,
    root: &str,
    changes: Vec<Change>,
    include_entry: bool,
) -> Vec<FilesystemEvent> {
    let names = (include_entry && !changes.is_empty()).then(|| actor.users().names());
    let describe = |name: &str| {
        let entry = entry::describe(&join(root, name), names.as_ref()?).ok()?;
        Some(entry)
    };
    changes
        .into_iter()
        .map(|change| FilesystemEvent {
            entry: describe(&change.name).map_or_else(MessageField::none, MessageField::some),
            name: change.name,
            r#type: EnumValue::from(change.kind),
            ..Default::default()
        })
        .collect()
}

/// A path below `directory`, which may be the root.
fn join(directory: &str, name: &str) -> String {
    match (directory, name) {
        (directory, "" | ".") => directory.to_owned(),
        ("" | "/", name) => format!("{}{name}", if directory == "/" { "/" } else { "" }),
        (directory, name) => format!("{directory}/{name}"),
    }
}

/// Tells that events are missing.
pub fn lost() -> FileError {
    FileError::new(
        Kind::TooMany,
        "more happened than could be kept; events were lost, list the directory anew",
    )
}

/// For an unknown poller.
pub fn unknown(id: &str) -> ConnectError {
    ConnectError::not_found(format!("watcher with id {id} not found"))
}
