//! Describing one file.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use buffa::{EnumValue, MessageField};
use buffa_types::google::protobuf::Timestamp;
use hearth_guest_proto::filesystem::{EntryInfo, FileType};

use super::names::{native, shown};
use super::{FileError, metadata};
use crate::paths;
use crate::users::Names;

/// Describes the file at an absolute path. For a symbolic link, type and mode
/// are those of its target, if it has one.
pub fn describe(path: &str, names: &Names) -> Result<EntryInfo, FileError> {
    let native = native(path);
    let own = std::fs::symlink_metadata(&native).map_err(|error| not_found(path, &error))?;
    Ok(describe_known(path, &native, &own, names))
}

/// The error for a path that cannot be looked at.
pub fn not_found(path: &str, error: &io::Error) -> FileError {
    if error.kind() == io::ErrorKind::NotFound {
        FileError::new(
            super::error::Kind::NotFound,
            format!("file not found: {path}"),
        )
    } else {
        FileError::from_io(&format!("error reading '{path}'"), error)
    }
}

/// Like [`describe`], when the file's own metadata is at hand. `path` is what clients
/// are shown for `native`.
pub fn describe_known(path: &str, native: &Path, own: &Metadata, names: &Names) -> EntryInfo {
    let is_symlink = own.file_type().is_symlink();
    let (target, symlink_target) = if is_symlink {
        (std::fs::metadata(native).ok(), Some(link_target(native)))
    } else {
        (Some(own.clone()), None)
    };
    let kind = target
        .as_ref()
        .map_or(FileType::FILE_TYPE_UNSPECIFIED, kind);
    EntryInfo {
        name: paths::file_name(path).to_owned(),
        r#type: EnumValue::from(kind),
        path: path.to_owned(),
        size: i64::try_from(own.len()).unwrap_or(i64::MAX),
        mode: target.as_ref().map_or(0, |target| target.mode() & 0o777),
        permissions: permissions(own),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: MessageField::some(Timestamp {
            seconds: own.mtime(),
            nanos: i32::try_from(own.mtime_nsec()).unwrap_or(0),
            ..Default::default()
        }),
        symlink_target,
        metadata: metadata::read(native).into_iter().collect(),
        is_symlink,
        ..Default::default()
    }
}

/// Where a link leads in the end; where it points when it leads nowhere.
fn link_target(link: &Path) -> String {
    let target = std::fs::canonicalize(link).or_else(|_| std::fs::read_link(link));
    let target = target.as_deref().unwrap_or(link);
    shown(target.as_os_str()).into_owned()
}

fn kind(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if kind.is_file() {
        FileType::FILE_TYPE_FILE
    } else if kind.is_symlink() {
        FileType::FILE_TYPE_SYMLINK
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// Letters as Go writes a file mode, which is what clients have always been
/// shown: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`, `dtrwxrwxrwx`.
fn permissions(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let mode = metadata.mode();
    let flags = [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_block_device() || kind.is_char_device(), 'D'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & libc::S_ISUID != 0, 'u'),
        (mode & libc::S_ISGID != 0, 'g'),
        (kind.is_char_device(), 'c'),
        (mode & libc::S_ISVTX != 0, 't'),
    ];
    let mut text: String = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, letter)| *letter)
        .collect();
    if text.is_empty() {
        text.push('-');
    }
    for (bit, letter) in (0..9).rev().zip("rwxrwxrwx".chars()) {
        text.push(if mode & (1 << bit) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn describes_files_directories_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        std::fs::write(path("file"), "abc").unwrap();
        std::fs::set_permissions(path("file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        let names = Names::default();

        let file = describe(&path("file"), &names).unwrap();
        assert_eq!(
            (file.size, file.mode, file.permissions.as_str()),
            (3, 0o640, "-rw-r-----")
        );
        assert!(!file.is_symlink && file.symlink_target.is_none());

        let link = describe(&path("link"), &names).unwrap();
        assert!(link.is_symlink);
        assert_eq!(link.r#type, FileType::FILE_TYPE_FILE);
        assert_eq!(link.mode, 0o640);
        assert_eq!(link.permissions, "Lrwxrwxrwx");
        assert_eq!(link.symlink_target.as_deref(), Some(path("file").as_str()));

        let dangling = describe(&path("dangling"), &names).unwrap();
        assert_eq!(dangling.r#type, FileType::FILE_TYPE_UNSPECIFIED);
        assert_eq!(dangling.symlink_target.as_deref(), Some("nowhere"));

        let missing = describe(&path("missing"), &names).unwrap_err();
        assert_eq!(
            missing.message,
            format!("file not found: {}", path("missing"))
        );
    }

    #[test]
    fn special_bits_come_first() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o1777))
            .unwrap();
        let metadata = std::fs::metadata(directory.path()).unwrap();
        assert_eq!(permissions(&metadata), "dtrwxrwxrwx");
    }
}
