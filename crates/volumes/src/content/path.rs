//! Paths as callers write them.

use super::ContentError;

/// The kernel's limit of a path, its end included.
const MAX_BYTES: usize = 4095;
const MAX_PART_BYTES: usize = 255;
/// As deep as a copy goes: what is made from outside can be copied.
const MAX_PARTS: usize = crate::MAX_DEPTH;

/// A path within a volume: absolute, and without `.` and `..`, which are resolved as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPath(Vec<String>);

impl EntryPath {
    /// Reads a path. One that is not absolute is taken from the root; `..` of the root is
    /// the root.
    ///
    /// # Errors
    /// [`ContentError::Invalid`] for one that no file can have.
    pub fn parse(text: &str) -> Result<Self, ContentError> {
        if text.is_empty() {
            return Err(ContentError::Invalid("path must not be empty"));
        }
        if text.contains('\0') {
            return Err(ContentError::Invalid(
                "path must not contain a NUL character",
            ));
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                name => parts.push(name.to_owned()),
            }
        }
        if parts.len() > MAX_PARTS {
            return Err(ContentError::Invalid(
                "path must have at most 256 components",
            ));
        }
        let path = Self(parts);
        let too_long = path.0.iter().any(|part| part.len() > MAX_PART_BYTES);
        if too_long || path.text().len() > MAX_BYTES {
            return Err(rustix::io::Errno::NAMETOOLONG.into());
        }
        Ok(path)
    }

    /// The path from the root on, which is `/`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("/{}", self.0.join("/"))
    }

    pub(super) fn name(&self) -> &str {
        self.0.last().map_or("/", String::as_str)
    }

    /// The path for the kernel, from the tree's root.
    pub(super) fn relative(&self) -> String {
        match self.0.is_empty() {
            true => ".".to_owned(),
            false => self.0.join("/"),
        }
    }

    /// The directory and the name in it; none for the root.
    pub(super) fn split(&self) -> Option<(Self, &str)> {
        let (name, parents) = self.0.split_last()?;
        Some((Self(parents.to_vec()), name))
    }

    /// All directories down to this one, itself included, without the root.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        (1..=self.0.len()).map(|length| Self(self.0[..length].to_vec()))
    }
}
