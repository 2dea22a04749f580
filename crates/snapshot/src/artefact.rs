//! What lies beside the files of an artefact (a kernel, an initramfs, a root file
//! system), as JSON. Its builder writes it; the node looks kernels up by it.
//!
//! Fields that this version does not know are passed over; copies of an artefact have
//! them, for they are copies of the file. A document that a newer version wrote in a form
//! that is not ours has a higher `format`.

use crate::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Name of the file.
pub const ARTEFACT_FILE: &str = "info.json";
const FORMAT: u32 = 1;
/// A document longer than this, in bytes, is none.
const MAX_BYTES: u64 = 1 << 20;

/// One artefact. `D` is what its kind tells besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactInfo<D> {
    format: u32,
    /// Such as `kernel`.
    pub kind: String,
    /// A digest over all that it was made from.
    pub key: Digest,
    /// A digest over that part of it which does not depend on package versions.
    pub recipe: Digest,
    /// See the kind's builder.
    pub details: D,
    /// The files beside this one, by name.
    pub files: Vec<ArtefactFile>,
}

/// One file of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactFile {
    /// A plain name inside the artefact's directory.
    pub name: String,
    /// The file's length, holes included.
    pub size_bytes: u64,
    /// [`crate::sparse::digest`] of the content.
    pub digest: Digest,
}

/// What the details of kernels and initial RAM file systems have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentDigest {
    /// BLAKE3 of the file that is booted, as manifests have it.
    pub blake3: Digest,
}

impl<D> ArtefactInfo<D> {
    /// Of files that lie in one directory.
    pub fn new(
        kind: &str,
        (key, recipe): (Digest, Digest),
        details: D,
        files: Vec<ArtefactFile>,
    ) -> Self {
        Self {
            format: FORMAT,
            kind: kind.to_owned(),
            key,
            recipe,
            details,
            files,
        }
    }
}

impl<D: DeserializeOwned> ArtefactInfo<D> {
    /// Reads the document of the artefact in a directory, and checks that the names in it
    /// stay inside; whether the files are there is not looked at.
    ///
    /// # Errors
    /// `InvalidData` for what is no such document, or one of a newer format; else what
    /// reading reports.
    pub fn load(directory: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut text = Vec::new();
        let file = File::open(directory.join(ARTEFACT_FILE))?;
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        let head: Head = serde_json::from_slice(&text)?;
        if head.format != FORMAT {
            let found = head.format;
            return Err(invalid(format!(
                "format {found} is not supported, only {FORMAT} is"
            )));
        }
        let info: Self = serde_json::from_slice(&text)?;
        for ArtefactFile { name, .. } in &info.files {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(invalid(format!("invalid file name {name:?}")));
            }
        }
        Ok(info)
    }
}

impl<D: Serialize> ArtefactInfo<D> {
    /// Writes the document into the directory of an artefact to be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        fs::write(
            directory.join(ARTEFACT_FILE),
            serde_json::to_vec_pretty(self)?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As every version before this one wrote it.
    const KERNEL: &str = r#"{
      "format": 1,
      "kind": "kernel",
      "key": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
      "recipe": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
      "details": {
        "release": "6.1.0-37-cloud-amd64",
        "packages": [["linux-image-6.1.0-37-cloud-amd64", "6.1.140-1", "ab"]],
        "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "modules": ["virtio_net.ko"]
      },
      "files": [
        {
          "name": "vmlinux",
          "size_bytes": 4096,
          "digest": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        }
      ]
    }"#;

    fn load(text: &str) -> io::Result<ArtefactInfo<ContentDigest>> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(ARTEFACT_FILE), text).unwrap();
        ArtefactInfo::load(directory.path())
    }

    #[test]
    fn the_present_form_is_read_and_written() {
        let info = load(KERNEL).unwrap();
        assert_eq!(info.details.blake3, Digest::of(b""));
        assert_eq!(info.files[0].name, "vmlinux");
        let directory = tempfile::tempdir().unwrap();
        let keys = (info.key, info.recipe);
        let again = ArtefactInfo::new("kernel", keys, info.details, info.files.clone());
        again.save(directory.path()).unwrap();
        assert_eq!(again, info);
        assert_eq!(
            ArtefactInfo::<ContentDigest>::load(directory.path()).unwrap(),
            info
        );
    }

    #[test]
    fn unknown_fields_are_passed_over_and_other_formats_refused() {
        let more = KERNEL.replacen("\"kind\"", "\"signature\": {\"by\": 1}, \"kind\"", 1);
        assert_eq!(load(&more).unwrap(), load(KERNEL).unwrap());
        let newer = KERNEL.replacen("\"format\": 1", "\"format\": 2", 1);
        let error = load(&newer).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn names_stay_inside_the_directory() {
        for name in ["../vmlinux", "/etc/passwd", ".hidden", "a/b", ""] {
            let error = load(&KERNEL.replacen("vmlinux", name, 1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }
}
