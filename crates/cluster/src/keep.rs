//! What a node got when it joined, on its disk: one file for root alone, replaced as a whole,
//! so that key and certificate belong together after a crash, too.

use crate::{Credentials, Error};
use hearth_tls::{read_if_there, write_private};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The form that this version writes.
const VERSION: u32 = 1;

/// A node's membership of a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct Membership {
    version: u32,
    /// Where the control plane is: `HOST:PORT`.
    pub control: String,
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The node's, in PEM.
    pub certificate: String,
    key: String,
}

/// Without the key.
impl std::fmt::Debug for Membership {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Membership");
        shown.field("control", &self.control);
        shown.finish_non_exhaustive()
    }
}

impl Membership {
    /// Of a key (PEM) that was certified.
    #[must_use]
    pub fn new(control: String, authority: String, certificate: String, key: String) -> Self {
        Self {
            version: VERSION,
            control,
            authority,
            certificate,
            key,
        }
    }

    /// The same with the next certificate of the key.
    #[must_use]
    pub fn renewed(&self, certificate: String) -> Self {
        Self {
            certificate,
            ..self.clone()
        }
    }

    /// Whether both came of one joining: renewals keep the key.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// What is kept at `path`; nothing where this machine has not joined.
    ///
    /// # Errors
    /// When it cannot be read, or another version has written it.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let broken = |what| Error::Content {
            path: PathBuf::from(path),
            what,
        };
        let Some(text) = read_if_there(path)? else {
            return Ok(None);
        };
        let read: Self = serde_json::from_str(&text).map_err(|_| broken("node's membership"))?;
        match read.version {
            VERSION => Ok(Some(read)),
            _ => Err(broken("membership of a version that is known here")),
        }
    }

    /// Keeps it at `path`.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("texts can be written as JSON");
        Ok(write_private(path, text.as_bytes())?)
    }

    /// What the node shows.
    ///
    /// # Errors
    /// When key, certificate and authority do not belong together.
    pub fn credentials(&self) -> Result<Arc<Credentials>, Error> {
        Credentials::new(&self.key, &self.certificate, &self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Member, request};
    use std::os::unix::fs::PermissionsExt as _;
    use uuid::Uuid;

    #[test]
    fn a_membership_is_kept_for_root_alone() {
        let folder = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(folder.path()).expect("is made");
        let path = folder.path().join("keys/membership.json");
        assert!(Membership::read(&path).expect("reads").is_none());
        let (key, request) = request().expect("a request");
        let node = Member::Node(Uuid::new_v4());
        let issued = authority.issue(&request, node).expect("is signed");
        let made = Membership::new(
            "control:5009".to_owned(),
            authority.pem().to_owned(),
            issued.pem,
            key.clone(),
        );
        assert!(!format!("{made:?}").contains("PRIVATE"));
        made.write(&path).expect("writes");
        let meta = std::fs::metadata(&path).expect("is there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let read = Membership::read(&path).expect("reads").expect("is there");
        assert_eq!(read.control, "control:5009");
        let credentials = read.credentials().expect("belong together");
        assert_eq!(credentials.peer(), issued.peer);

        let other = authority
            .issue(&crate::request().expect("a request").1, node)
            .expect("is signed");
        let mixed = Membership::new(String::new(), read.authority.clone(), other.pem, key);
        assert!(mixed.credentials().is_err(), "another key's certificate");
        for (text, why) in [
            ("{}", "holds no node's membership"),
            (
                r#"{"version":2,"control":"","authority":"","certificate":"","key":""}"#,
                "of a version that is known here",
            ),
        ] {
            std::fs::write(&path, text).expect("writable");
            let error = Membership::read(&path).expect_err("is refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
