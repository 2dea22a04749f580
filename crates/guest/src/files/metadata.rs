//! What a client has noted on a file: extended attributes in a name space of
//! their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use http::HeaderMap;
use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::FileError;
use super::error::Kind;

const PREFIX: &str = "user.e2b.";
const HEADER_PREFIX: &str = "x-metadata-";
/// Longest key: the kernel's limit for names, less the prefix.
pub const MAX_KEY_BYTES: usize = 255 - PREFIX.len();
/// All keys with their prefixes and all values: what fits an inode's block.
pub const MAX_TOTAL_BYTES: usize = 4096;

/// Reads the metadata of a request's headers. The first of equal names counts.
pub fn from_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, FileError> {
    let mut metadata = BTreeMap::new();
    let mut total = 0;
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else {
            continue;
        };
        let Some(value) = headers.get(name) else {
            continue;
        };
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(FileError::invalid(format!(
                "metadata key must have 1 to {MAX_KEY_BYTES} bytes"
            )));
        }
        let printable = |byte: &u8| (0x20..=0x7e).contains(byte);
        let value = match std::str::from_utf8(value.as_bytes()) {
            Ok(text) if text.as_bytes().iter().all(printable) => text,
            _ => {
                return Err(FileError::invalid(format!(
                    "metadata value of '{key}' must be printable US-ASCII"
                )));
            }
        };
        total += PREFIX.len() + key.len() + value.len();
        metadata.insert(key.to_owned(), value.to_owned());
    }
    if total > MAX_TOTAL_BYTES {
        return Err(FileError::invalid(format!(
            "metadata has {total} bytes, more than {MAX_TOTAL_BYTES}"
        )));
    }
    Ok(metadata)
}

/// The metadata of a file; nothing where it cannot be read.
#[inline(never)] // its buffers must not add to the frames of a recursive listing
pub fn read(path: &Path) -> BTreeMap<String, String> {
    let mut names = [0_u8; 8192];
    let Ok(length) = llistxattr(path, &mut names[..]) else {
        return BTreeMap::new();
    };
    let mut metadata = BTreeMap::new();
    for name in own_names(names.get(..length).unwrap_or_default()) {
        let mut value = [0_u8; MAX_TOTAL_BYTES];
        let Ok(length) = lgetxattr(path, name, &mut value[..]) else {
            continue;
        };
        let value = String::from_utf8_lossy(value.get(..length).unwrap_or_default());
        metadata.insert(name[PREFIX.len()..].to_owned(), value.into_owned());
    }
    metadata
}

/// Makes `metadata` all that is noted on the file.
pub fn replace(file: &File, metadata: &BTreeMap<String, String>) -> Result<(), FileError> {
    let mut names = [0_u8; 8192];
    // A file system without attributes has none to remove.
    let length = flistxattr(file, &mut names[..]).unwrap_or(0);
    for name in own_names(names.get(..length).unwrap_or_default()) {
        if !metadata.contains_key(&name[PREFIX.len()..]) {
            fremovexattr(file, name).map_err(failed)?;
        }
    }
    for (key, value) in metadata {
        let name = format!("{PREFIX}{key}");
        fsetxattr(file, name.as_str(), value.as_bytes(), XattrFlags::empty()).map_err(failed)?;
    }
    Ok(())
}

fn failed(errno: Errno) -> FileError {
    if errno == Errno::OPNOTSUPP {
        return FileError::new(
            Kind::Precondition,
            "this file system does not keep metadata",
        );
    }
    FileError::from_io("error writing metadata", &errno.into())
}

/// Our names in a list of null-terminated ones.
fn own_names(list: &[u8]) -> impl Iterator<Item = &str> {
    list.split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                let name: http::HeaderName = name.parse().unwrap();
                (
                    name,
                    http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn headers_are_checked() {
        let read = from_headers(&headers(&[("X-Metadata-Author", "me"), ("Other", "x")])).unwrap();
        assert_eq!(
            read,
            BTreeMap::from([("author".to_owned(), "me".to_owned())])
        );
        assert!(from_headers(&headers(&[("x-metadata-a", "é")])).is_err());
        assert!(from_headers(&headers(&[("x-metadata-", "a")])).is_err());
        let long = format!("x-metadata-{}", "k".repeat(MAX_KEY_BYTES + 1));
        assert!(from_headers(&headers(&[(&long, "a")])).is_err());
        let value = "v".repeat(MAX_TOTAL_BYTES);
        assert!(from_headers(&headers(&[("x-metadata-a", &value)])).is_err());
    }

    #[test]
    fn replacing_forgets_what_is_not_named() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let one = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".into()),
        ]);
        match replace(file.as_file(), &one) {
            // The test's own file system may not have any.
            Err(error) if error.kind == Kind::Precondition => return,
            result => result.unwrap(),
        }
        assert_eq!(read(file.path()), one);
        let two = BTreeMap::from([("b".to_owned(), "3".to_owned())]);
        replace(file.as_file(), &two).unwrap();
        assert_eq!(read(file.path()), two);
        replace(file.as_file(), &BTreeMap::new()).unwrap();
        assert!(read(file.path()).is_empty());
    }
}
