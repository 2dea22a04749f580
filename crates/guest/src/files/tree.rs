//! Operations on names and directories. All blocking, all with absolute paths as
//! clients write them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hearth_guest_proto::filesystem::EntryInfo;

use super::FileError;
use super::entry::{describe_known, not_found};
use super::error::Kind;
use super::names::{native, shown};
use super::owner::Owner;
use crate::users::Names;

/// Entries of one listing. A directory tree with more is not listed in one
/// answer.
pub const MAX_ENTRIES: usize = 200_000;

/// Makes a directory and what is missing above it.
pub fn make_directory(path: &str, owner: Owner) -> Result<(), FileError> {
    let directory = native(path);
    match std::fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(FileError::new(
                Kind::Exists,
                format!("directory already exists: {path}"),
            ));
        }
        Ok(_) => {
            return Err(FileError::invalid(format!(
                "path already exists but it is not a directory: {path}"
            )));
        }
        Err(_) => {}
    }
    make_missing(&directory, path, owner)
}

/// Makes all missing directories above a file.
pub fn make_parent_of(path: &str, owner: Owner) -> Result<(), FileError> {
    match native(path).parent() {
        Some(parent) => make_missing(parent, path, owner),
        None => Ok(()),
    }
}

/// Makes a directory and those above it, as far as they are missing; those belong to
/// the owner.
fn make_missing(directory: &Path, for_path: &str, owner: Owner) -> Result<(), FileError> {
    let failed = |error: &io::Error| match error.raw_os_error() {
        // What is in the way is a file, whichever way the kernel says it.
        Some(libc::EEXIST | libc::ENOTDIR) => FileError::invalid(format!(
            "a part of the path '{for_path}' is not a directory"
        )),
        _ => FileError::from_io(
            &format!("error creating directories for '{for_path}'"),
            error,
        ),
    };
    let mut missing = Vec::new();
    for ancestor in directory.ancestors() {
        match std::fs::metadata(ancestor) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(failed(&io::Error::from_raw_os_error(libc::ENOTDIR))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(failed(&error)),
        }
    }
    for directory in missing.into_iter().rev() {
        match owner.make_directory(directory) {
            // Somebody else was faster, and it is theirs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            result => result.map_err(|error| failed(&error))?,
        }
    }
    Ok(())
}

/// Renames, replacing what is there; makes missing directories above the
/// destination.
pub fn move_path(source: &str, destination: &str, owner: Owner) -> Result<(), FileError> {
    let from = native(source);
    std::fs::symlink_metadata(&from).map_err(|error| not_found(source, &error))?;
    make_parent_of(destination, owner)?;
    match std::fs::rename(from, native(destination)) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => move_across(source, destination),
        result => result.map_err(|error| {
            FileError::from_io(
                &format!("error renaming '{source}' to '{destination}'"),
                &error,
            )
        }),
    }
}

/// Between file systems only a regular file can be moved, by copying it.
fn move_across(source: &str, destination: &str) -> Result<(), FileError> {
    let failed = |error: io::Error| {
        FileError::from_io(
            &format!("error moving '{source}' to '{destination}'"),
            &error,
        )
    };
    let (from, to) = (native(source), native(destination));
    let metadata = std::fs::symlink_metadata(&from).map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::new(
            Kind::Precondition,
            format!("cannot move '{source}' to another file system: not a regular file"),
        ));
    }
    match std::fs::remove_file(&to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut source = File::open(&from).map_err(failed)?;
    // A new file: were a link there by now, it would not be followed.
    let mut target = File::create_new(&to).map_err(failed)?;
    io::copy(&mut source, &mut target).map_err(failed)?;
    // Moving changes neither whose it is nor what may be done with it.
    let (uid, gid) = (Some(metadata.uid()), Some(metadata.gid()));
    std::os::unix::fs::fchown(&target, uid, gid).map_err(failed)?;
    target
        .set_permissions(metadata.permissions())
        .map_err(failed)?;
    std::fs::remove_file(&from).map_err(failed)
}

/// Removes a file, or a directory with all that is in it. What is not there
/// counts as removed.
pub fn remove(path: &str) -> Result<(), FileError> {
    if path == "/" {
        return Err(FileError::invalid("the root directory cannot be removed"));
    }
    let native = native(path);
    let removed = match std::fs::symlink_metadata(&native) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(native),
        Ok(_) => std::fs::remove_file(native),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Ok(()),
        result => {
            result.map_err(|error| FileError::from_io(&format!("error removing '{path}'"), &error))
        }
    }
}

/// The entries below a directory, `depth` levels deep (0 counts as 1), each
/// directory's sorted by name and followed by what is in it. Links are shown,
/// not followed, except the directory itself.
pub fn list(path: &str, depth: u32, names: &Names) -> Result<Vec<EntryInfo>, FileError> {
    let native = native(path);
    let metadata = std::fs::metadata(&native).map_err(|error| not_found(path, &error))?;
    if !metadata.is_dir() {
        return Err(FileError::invalid(format!(
            "path is not a directory: {path}"
        )));
    }
    let mut entries = Vec::new();
    list_into(path, &native, depth.max(1), names, &mut entries)?;
    Ok(entries)
}

fn list_into(
    path: &str,
    native: &Path,
    depth: u32,
    names: &Names,
    entries: &mut Vec<EntryInfo>,
) -> Result<(), FileError> {
    let failed = |error: &io::Error| FileError::from_io(&format!("error reading '{path}'"), error);
    let mut children = Vec::new();
    for child in std::fs::read_dir(native).map_err(|error| failed(&error))? {
        let child = child.map_err(|error| failed(&error))?;
        children.push(child.file_name());
        if entries.len() + children.len() > MAX_ENTRIES {
            return Err(FileError::new(
                Kind::TooMany,
                format!("more than {MAX_ENTRIES} entries; list with less depth"),
            ));
        }
    }
    children.sort_unstable();
    for name in children {
        let separator = if path == "/" { "" } else { "/" };
        let child = format!("{path}{separator}{}", shown(&name));
        let native = native.join(&name);
        // Gone since the directory was read.
        let Ok(metadata) = std::fs::symlink_metadata(&native) else {
            continue;
        };
        entries.push(describe_known(&child, &native, &metadata, names));
        if depth > 1 && metadata.is_dir() {
            match list_into(&child, &native, depth - 1, names, entries) {
                // What may not be read is shown without what is in it.
                Err(error) if matches!(error.kind, Kind::Denied | Kind::NotFound) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        (directory, path)
    }

    fn me() -> Owner {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Owner::new(uid.as_raw(), gid.as_raw())
    }

    fn kind<T>(result: Result<T, FileError>) -> Option<Kind> {
        result.err().map(|error| error.kind)
    }

    #[test]
    fn lists_to_the_depth_asked_for() {
        let (_guard, root) = scratch();
        std::fs::create_dir_all(format!("{root}/b/c/d")).unwrap();
        std::fs::write(format!("{root}/a"), "").unwrap();
        std::os::unix::fs::symlink("b", format!("{root}/l")).unwrap();
        let names = |depth| -> Vec<String> {
            let entries = list(&root, depth, &Names::default()).unwrap();
            entries
                .iter()
                .map(|entry| entry.path[root.len()..].to_owned())
                .collect()
        };
        assert_eq!(names(0), ["/a", "/b", "/l"]);
        assert_eq!(names(1), names(0));
        assert_eq!(names(2), ["/a", "/b", "/b/c", "/l"]);
        assert_eq!(names(u32::MAX), ["/a", "/b", "/b/c", "/b/c/d", "/l"]);
        let through_link = list(&format!("{root}/l"), 1, &Names::default()).unwrap();
        assert_eq!(through_link[0].path, format!("{root}/l/c"));
        assert_eq!(
            kind(list(&format!("{root}/a"), 1, &Names::default())),
            Some(Kind::Invalid)
        );
        assert_eq!(
            kind(list(&format!("{root}/x"), 1, &Names::default())),
            Some(Kind::NotFound)
        );
    }

    #[test]
    fn directories_are_made_once() {
        let (_guard, root) = scratch();
        let path = format!("{root}/a/b");
        make_directory(&path, me()).unwrap();
        assert_eq!(kind(make_directory(&path, me())), Some(Kind::Exists));
        std::fs::write(format!("{root}/f"), "").unwrap();
        assert_eq!(
            kind(make_directory(&format!("{root}/f"), me())),
            Some(Kind::Invalid)
        );
        assert_eq!(
            kind(make_directory(&format!("{root}/f/x"), me())),
            Some(Kind::Invalid)
        );
    }

    #[test]
    fn moving_makes_parents_and_replaces() {
        let (_guard, root) = scratch();
        std::fs::write(format!("{root}/a"), "1").unwrap();
        std::fs::create_dir(format!("{root}/x")).unwrap();
        std::fs::write(format!("{root}/x/b"), "2").unwrap();
        move_path(&format!("{root}/a"), &format!("{root}/x/b"), me()).unwrap();
        assert_eq!(std::fs::read_to_string(format!("{root}/x/b")).unwrap(), "1");
        move_path(&format!("{root}/x/b"), &format!("{root}/y/z/b"), me()).unwrap();
        let gone = move_path(&format!("{root}/a"), &format!("{root}/b"), me());
        assert_eq!(kind(gone), Some(Kind::NotFound));
        assert!(!Path::new(&format!("{root}/x/b")).exists());
    }

    #[test]
    fn removing_takes_everything_and_forgives_nothing_there() {
        let (_guard, root) = scratch();
        std::fs::create_dir_all(format!("{root}/a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", format!("{root}/a/etc")).unwrap();
        remove(&format!("{root}/a")).unwrap();
        remove(&format!("{root}/a")).unwrap();
        assert!(Path::new("/etc/passwd").exists());
        assert_eq!(kind(remove("/")), Some(Kind::Invalid));
    }
}
