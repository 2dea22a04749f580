//! Why something could not be done with a volume's content.

use rustix::io::Errno;
use std::io;

/// Why something could not be done with a volume's content. Texts are fit for the caller
/// but for that of [`Self::Io`]'s source.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// There is no such entry, or no such volume.
    #[error("no such file or directory")]
    NotFound,
    /// There is something of this name.
    #[error("it exists already")]
    Exists,
    /// Something that should be a directory is none.
    #[error("a part of the path is no directory")]
    NotDirectory,
    /// Something that should be a file is a directory.
    #[error("it is a directory")]
    IsDirectory,
    /// The root stays.
    #[error("the root of a volume cannot be removed")]
    CannotDeleteRoot,
    /// A part of the path is a link, which is not followed.
    #[error("the path leads through a symbolic link: use the path that it points to")]
    Link,
    /// There is no such thing for this kind of entry.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// A list cannot go so deep.
    #[error("depth must be 1 to 10")]
    Depth,
    /// The request cannot be carried out as it is.
    #[error("{0}")]
    Invalid(&'static str),
    /// The volume is full, or the disk is.
    #[error("{}", no_space(*.limit_mib))]
    NoSpace {
        /// What a volume may hold; [`u64::MAX`] / 2^20 where only the disk limits it.
        limit_mib: u64,
    },
    /// The volume has as many entries as it may.
    #[error("a volume takes at most {limit} files and directories: remove some of them")]
    TooManyEntries {
        /// What a volume may have.
        limit: u64,
    },
    /// Whatever else the file system says.
    #[error("the volume's file system failed")]
    Io(#[source] io::Error),
}

/// Bytes without a limit, in MiB.
const UNLIMITED_MIB: u64 = u64::MAX >> 20;

fn no_space(limit_mib: u64) -> String {
    if limit_mib == UNLIMITED_MIB {
        return "no space left on the server's disk".to_owned();
    }
    format!("no space left: a volume takes at most {limit_mib} MiB, as far as the disk has room")
}

impl From<Errno> for ContentError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::STALE => Self::NotFound,
            Errno::EXIST | Errno::NOTEMPTY => Self::Exists,
            Errno::NOTDIR => Self::NotDirectory,
            Errno::ISDIR => Self::IsDirectory,
            Errno::LOOP | Errno::XDEV => Self::Link,
            Errno::NAMETOOLONG => {
                Self::Invalid("path is too long: 4095 bytes, and 255 for each of its parts")
            }
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpace {
                limit_mib: UNLIMITED_MIB,
            },
            Errno::MLINK => Self::Invalid("the directory holds as much as it can"),
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Errno::from_raw_os_error(code).into(),
            None => Self::Io(error),
        }
    }
}
