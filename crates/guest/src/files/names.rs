//! File names that are not UTF-8.
//!
//! Linux names are bytes; the protocols carry text. A name that is valid UTF-8 is shown
//! as it is. In any other, each byte that does not belong to a valid sequence is
//! written `\xHH`, and a backslash `\x5c`, so that the text names one file only.
//!
//! A client may send such a text back. Because a file may also really be called
//! `\xe9`, every part of a path is first taken literally; only where nothing has that
//! name, and something has the name that the escapes stand for, is that one meant. So
//! no escape ever hides a file, and nothing new is made under an escaped name.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// A name or path as clients are shown it.
pub fn shown(name: &OsStr) -> Cow<'_, str> {
    if let Some(text) = name.to_str() {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(name.len() + 16);
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\x5c"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

/// The file that an absolute path without `.` and `..` means. Looks at the file system
/// only when the path has escapes in it.
pub fn native(path: &str) -> Cow<'_, Path> {
    if !path.contains("\\x") {
        return Cow::Borrowed(Path::new(path));
    }
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let mut native = PathBuf::from("/");
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let literal = native.join(part);
        let meant = unescaped(part)
            .filter(|_| !is_there(&literal))
            .map(|name| native.join(name));
        native = meant.filter(|path| is_there(path)).unwrap_or(literal);
    }
    Cow::Owned(native)
}

/// The bytes of an escaped name; `None` for a text that [`shown`] does not make.
fn unescaped(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let byte = escape.strip_prefix("\\x")?.get(..2)?;
        let byte = u8::from_str_radix(byte, 16).ok()?;
        if byte != b'\\' && byte < 0x80 {
            return None;
        }
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(byte);
        rest = escape.get(4..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    std::str::from_utf8(&bytes)
        .is_err()
        .then(|| OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_bytes_are_shown_and_meant() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        let odd = OsStr::from_bytes(b"caf\xe9");
        std::fs::create_dir(directory.path().join(odd)).unwrap();
        let path = format!("{root}/{}", shown(odd));
        assert!(path.ends_with("/caf\\xe9"));
        assert_eq!(native(&path), directory.path().join(odd));
        let below = format!("{path}/new");
        assert_eq!(native(&below), directory.path().join(odd).join("new"));
        // A file that really has this name goes first.
        std::fs::write(&path, "").unwrap();
        assert_eq!(native(&path), Path::new(&path));
        // Where neither is there, the text is the name.
        let missing = format!("{root}/na\\xefve");
        assert_eq!(native(&missing), Path::new(&missing));
    }

    #[test]
    fn only_what_is_shown_is_unescaped() {
        for text in [
            "plain",
            "\\x41",
            "\\xzz",
            "\\x",
            "\\xé9",
            "\\",
            "\\x5c",
            "\\xc3\\xa9",
            "\\n\\xff",
        ] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_comes_back(bytes in proptest::collection::vec(1_u8.., 1..24)) {
            let name = OsString::from_vec(bytes);
            match name.to_str() {
                Some(text) => prop_assert_eq!(shown(&name), text),
                None => prop_assert_eq!(unescaped(&shown(&name)), Some(name)),
            }
        }

        #[test]
        fn any_text_is_a_path(path in "/[a-z\\\\x0-9é/]{0,40}") {
            prop_assert!(native(&path).is_absolute());
        }
    }
}
