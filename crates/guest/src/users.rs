//! Users and groups, read from the passwd and group files.
//!
//! The agent is linked statically, where glibc's name services do not work, so
//! the files are parsed here. They are read on every question, because the
//! programs in the sandbox may add users at any time and the files are small.

use std::io;
use std::path::PathBuf;

/// One line of the passwd file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

/// Why a user could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unknown user {0}")]
    Unknown(String),
    #[error("cannot read the user database: {0}")]
    Read(#[from] io::Error),
}

/// The user and group files below one root directory.
#[derive(Clone, Debug)]
pub struct UserDatabase {
    passwd: PathBuf,
    group: PathBuf,
}

impl UserDatabase {
    /// Reads `etc/passwd` and `etc/group` below `root`, normally `/`.
    pub fn new(root: &std::path::Path) -> Self {
        Self {
            passwd: root.join("etc/passwd"),
            group: root.join("etc/group"),
        }
    }

    /// The user of this name.
    pub fn by_name(&self, name: &str) -> Result<User, UserError> {
        let text = std::fs::read(&self.passwd)?;
        parse_passwd(&text)
            .find(|user| user.name == name)
            .ok_or_else(|| UserError::Unknown(name.to_owned()))
    }

    /// Ids of all groups the user belongs to, the primary one first.
    /// A missing group file means no further groups.
    pub fn group_ids(&self, user: &User) -> Vec<u32> {
        let text = std::fs::read(&self.group).unwrap_or_default();
        let mut ids = vec![user.gid];
        for (_, gid, members) in parse_group(&text) {
            if gid != user.gid && members.split(',').any(|member| member == user.name) {
                ids.push(gid);
            }
        }
        ids
    }

    /// Id-to-name tables for describing many files; a name that is not there
    /// is shown as its number.
    pub fn names(&self) -> Names {
        let passwd = std::fs::read(&self.passwd).unwrap_or_default();
        let group = std::fs::read(&self.group).unwrap_or_default();
        Names {
            users: parse_passwd(&passwd)
                .map(|user| (user.uid, user.name))
                .collect(),
            groups: parse_group(&group)
                .map(|(name, gid, _)| (gid, name.to_owned()))
                .collect(),
        }
    }

    /// The id of the group of this name, if there is one.
    pub fn group_id(&self, name: &str) -> Option<u32> {
        let text = std::fs::read(&self.group).ok()?;
        parse_group(&text)
            .find(|(group, ..)| *group == name)
            .map(|(_, gid, _)| gid)
    }
}

/// Names of user and group ids at one moment.
#[derive(Debug, Default)]
pub struct Names {
    users: Vec<(u32, String)>,
    groups: Vec<(u32, String)>,
}

impl Names {
    pub fn user(&self, uid: u32) -> String {
        lookup(&self.users, uid)
    }

    pub fn group(&self, gid: u32) -> String {
        lookup(&self.groups, gid)
    }
}

fn lookup(table: &[(u32, String)], id: u32) -> String {
    table
        .iter()
        .find(|(candidate, _)| *candidate == id)
        .map_or_else(|| id.to_string(), |(_, name)| name.clone())
}

fn parse_passwd(text: &[u8]) -> impl Iterator<Item = User> + '_ {
    lines(text).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next()?;
        let home = fields.next()?;
        let shell = fields.next().unwrap_or("");
        Some(User {
            name: name.to_owned(),
            uid,
            gid,
            home: if home.is_empty() {
                "/".to_owned()
            } else {
                home.to_owned()
            },
            shell: if shell.is_empty() {
                "/bin/sh".to_owned()
            } else {
                shell.to_owned()
            },
        })
    })
}

fn parse_group(text: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// Lines that are UTF-8; others cannot be addressed by a client anyway.
fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim_end)
        .filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(passwd: &str, group: &str) -> (tempfile::TempDir, UserDatabase) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.path().join("etc/group"), group).unwrap();
        let database = UserDatabase::new(root.path());
        (root, database)
    }

    #[test]
    fn finds_users_and_their_groups() {
        let (_root, database) = database(
            "root:x:0:0:root:/root:/bin/bash\nbroken\n\nuser:x:1000:1000::/home/user:/bin/bash\n",
            "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:\ndocker:x:998:other,user\n",
        );
        let user = database.by_name("user").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.home.as_str()),
            (1000, 1000, "/home/user")
        );
        assert_eq!(database.group_ids(&user), [1000, 27, 998]);
        assert_eq!(database.names().group(27), "sudo");
        assert_eq!(database.names().user(4242), "4242");
        assert!(matches!(
            database.by_name("nobody"),
            Err(UserError::Unknown(_))
        ));
    }

    #[test]
    fn empty_fields_have_the_customary_meaning() {
        let (_root, database) = database("svc:x:7:7:::\n", "");
        let user = database.by_name("svc").unwrap();
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/", "/bin/sh"));
        assert!(database.by_name("").is_err());
    }
}
