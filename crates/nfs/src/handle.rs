//! What guests name files by. A handle is the kernel's own with a code that only this
//! node can make, for one volume. So the server remembers none, handles outlive the
//! daemon, and a guest can neither make one up nor use another volume's.
//!
//! ```text
//!  version  length  type  volume (hint)  code  kernel's handle
//!        1       1     4              4    16         at most 38
//! ```

use crate::sys::KernelHandle;
use hearth_ids::VolumeId;
use rustix::fs::{Mode, OFlags};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// Most bytes of a handle (RFC 1813, `NFS3_FHSIZE`).
pub(crate) const LONGEST: usize = 64;
const VERSION: u8 = 1;
const CODE: usize = 16;
const HINT: usize = 4;
const KEY: usize = 32;

/// The node's key to handles.
#[derive(Clone)]
pub struct HandleKey([u8; KEY]);

impl std::fmt::Debug for HandleKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HandleKey(..)")
    }
}

impl HandleKey {
    /// Reads the key in a file, which is made, for its owner alone, where there is none.
    ///
    /// # Errors
    /// When the file can be neither read nor made, or holds something else.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            outcome => outcome,
        }
    }

    /// A key that nothing keeps.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut key = [0; KEY];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self(key))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(KEY as u64 + 1).read_to_end(&mut bytes)?;
        let key = bytes.try_into().map_err(|_| {
            let what = format!("{} does not hold a key of {KEY} bytes", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        Ok(Self(key))
    }

    /// The key appears whole: a daemon that dies meanwhile leaves none.
    fn create(path: &Path) -> io::Result<Self> {
        let key = Self::random()?;
        let partial = path.with_extension("partial");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::open(&partial, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&key.0)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(key)
    }

    /// What marks and checks the handles of one volume.
    pub(crate) fn of(&self, volume: VolumeId) -> VolumeKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"volume");
        hasher.update(volume.to_string().as_bytes());
        let key = *hasher.finalize().as_bytes();
        let public = blake3::hash(volume.to_string().as_bytes());
        let mut hint = [0; HINT];
        hint.copy_from_slice(
            public
                .as_bytes()
                .first_chunk::<HINT>()
                .unwrap_or(&[0; HINT]),
        );
        VolumeKey { key, hint }
    }
}

/// Marks and checks the handles of one volume.
pub(crate) struct VolumeKey {
    key: [u8; KEY],
    hint: [u8; HINT],
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("VolumeKey(..)")
    }
}

impl VolumeKey {
    /// The handle as guests see it.
    pub(crate) fn seal(&self, handle: &KernelHandle) -> Vec<u8> {
        let data = handle.bytes();
        let mut sealed = Vec::with_capacity(LONGEST);
        sealed.push(VERSION);
        sealed.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
        sealed.extend_from_slice(&handle.kind.to_be_bytes());
        sealed.extend_from_slice(&self.hint);
        sealed.extend_from_slice(&self.code(handle));
        sealed.extend_from_slice(data);
        sealed
    }

    /// The kernel's handle in one that a guest sent, if it was made here for this
    /// volume.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<KernelHandle> {
        let (&[version, length], rest) = sealed.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (hint, rest) = rest.split_first_chunk::<HINT>()?;
        let (code, data) = rest.split_first_chunk::<CODE>()?;
        if version != VERSION || *hint != self.hint || data.len() != usize::from(length) {
            return None;
        }
        let handle = KernelHandle::new(i32::from_be_bytes(*kind), data)?;
        bool::from(self.code(&handle).ct_eq(code)).then_some(handle)
    }

    /// Eight bytes that belong to this volume and these bytes.
    pub(crate) fn tag(&self, bytes: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"tag");
        hasher.update(bytes);
        let hash = hasher.finalize();
        *hash.as_bytes().first_chunk().unwrap_or(&[0; 8])
    }

    fn code(&self, handle: &KernelHandle) -> [u8; CODE] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"handle");
        hasher.update(&handle.kind.to_be_bytes());
        hasher.update(handle.bytes());
        let hash = hasher.finalize();
        *hash.as_bytes().first_chunk().unwrap_or(&[0; CODE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn handle() -> KernelHandle {
        KernelHandle::new(1, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap()
    }

    #[test]
    fn no_bit_of_a_handle_can_be_changed() {
        let key = HandleKey([7; KEY]).of(VolumeId::random());
        let sealed = key.seal(&handle());
        assert!(sealed.len() <= LONGEST);
        assert_eq!(key.open(&sealed), Some(handle()));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&changed), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(key.open(&sealed[..length]), None);
        }
    }

    #[test]
    fn a_handle_is_of_one_volume_and_of_one_node() {
        let (node, volume) = (HandleKey([7; KEY]), VolumeId::random());
        let sealed = node.of(volume).seal(&handle());
        assert_eq!(node.of(VolumeId::random()).open(&sealed), None);
        assert_eq!(HandleKey([8; KEY]).of(volume).open(&sealed), None);
    }

    #[test]
    fn the_longest_handle_fits() {
        let key = HandleKey([7; KEY]).of(VolumeId::random());
        let longest = KernelHandle::new(-1, &[9; crate::sys::LONGEST]).unwrap();
        let sealed = key.seal(&longest);
        assert_eq!(sealed.len(), LONGEST);
        assert_eq!(key.open(&sealed), Some(longest));
    }

    #[test]
    fn the_key_is_kept_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let first = HandleKey::open_or_create(&path).unwrap();
        assert_eq!(HandleKey::open_or_create(&path).unwrap().0, first.0);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        let error = HandleKey::open_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
