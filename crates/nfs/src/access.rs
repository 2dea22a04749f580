//! Who may do what with a file, by the ids that the guest claims. Pure.
//!
//! The ids are the guest's own: its root is root of the volume and can claim to be
//! anybody. The checks keep the guest's users apart as its kernel would; between
//! sandboxes, and between them and the host, nothing depends on them.

/// Permission bits of a request, as in the last digit of a mode.
pub(crate) const READ: u32 = 4;
/// See [`READ`].
pub(crate) const WRITE: u32 = 2;
/// See [`READ`].
pub(crate) const EXECUTE: u32 = 1;

/// The set-group-id bit.
pub(crate) const SET_GROUP_ID: u32 = 0o2000;
/// The set-user-id bit.
pub(crate) const SET_USER_ID: u32 = 0o4000;
const STICKY: u32 = 0o1000;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// What the decision depends on of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits with set-id and sticky ones.
    pub(crate) mode: u32,
    pub(crate) directory: bool,
}

impl Credentials {
    pub(crate) const NOBODY: Self = Self {
        uid: 65_534,
        gid: 65_534,
        groups: Vec::new(),
    };

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn owns(&self, subject: &Subject) -> bool {
        self.is_root() || self.uid == subject.uid
    }

    pub(crate) fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// The permissions of these that the caller has.
    pub(crate) fn granted(&self, subject: &Subject) -> u32 {
        if self.is_root() {
            let executable = subject.directory || subject.mode & 0o111 != 0;
            return READ | WRITE | if executable { EXECUTE } else { 0 };
        }
        let shift = match () {
            () if self.uid == subject.uid => 6,
            () if self.is_in(subject.gid) => 3,
            () => 0,
        };
        (subject.mode >> shift) & 7
    }

    pub(crate) fn may(&self, subject: &Subject, wanted: u32) -> bool {
        self.granted(subject) & wanted == wanted
    }

    /// Whether the caller may read or write what it has open, as far as is known here:
    /// an owner may, whatever the mode has become since.
    pub(crate) fn may_transfer(&self, subject: &Subject, wanted: u32) -> bool {
        self.owns(subject) || self.may(subject, wanted)
    }

    /// Whether a name in `directory` may be taken away that stands for `target`.
    pub(crate) fn may_unlink(&self, directory: &Subject, target: &Subject) -> bool {
        directory.mode & STICKY == 0 || self.owns(directory) || self.uid == target.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    fn file(mode: u32) -> Subject {
        Subject {
            uid: 1000,
            gid: 100,
            mode,
            directory: false,
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        assert!(who(1000, 1, &[]).may(&file(0o700), READ | WRITE | EXECUTE));
        assert!(!who(1000, 100, &[]).may(&file(0o077), READ), "owner first");
        assert!(who(7, 1, &[100]).may(&file(0o070), READ));
        assert!(!who(7, 100, &[]).may(&file(0o707), READ), "then the group");
        assert!(who(7, 7, &[]).may(&file(0o004), READ));
        assert!(!who(7, 7, &[]).may(&file(0o004), READ | WRITE));
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_may() {
        assert!(who(0, 0, &[]).may(&file(0), READ | WRITE));
        assert!(!who(0, 0, &[]).may(&file(0o666), EXECUTE));
        assert!(who(0, 0, &[]).may(&file(0o001), EXECUTE));
    }

    #[test]
    fn a_sticky_directory_keeps_others_names() {
        let directory = |mode| Subject {
            uid: 0,
            gid: 0,
            mode,
            directory: true,
        };
        assert!(!who(7, 7, &[]).may_unlink(&directory(0o1777), &file(0o666)));
        assert!(who(1000, 7, &[]).may_unlink(&directory(0o1777), &file(0o666)));
        assert!(who(7, 7, &[]).may_unlink(&directory(0o777), &file(0o666)));
        assert!(who(0, 0, &[]).may_unlink(&directory(0o1777), &file(0o666)));
    }
}
