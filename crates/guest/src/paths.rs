//! From the path that a client writes to an absolute one. Pure text: nothing
//! here looks at the file system.
//!
//! An empty path means the default working directory, `~` and `~/…` the user's
//! home, and a relative path is relative to the home directory (not to the
//! working directory: clients have relied on that since the first version).

use crate::users::User;

/// Why a path cannot be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("cannot expand user-specific home dir")]
    OtherHome,
    #[error("path contains a null byte")]
    Null,
    #[error("path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
}

/// Linux refuses longer ones anyway (`PATH_MAX`, with its terminating null).
pub const MAX_PATH_BYTES: usize = 4095;

/// Resolves `path` for `user`. The result is absolute, without `.`, `..` or
/// doubled slashes.
pub fn resolve(
    path: &str,
    user: &User,
    default_workdir: Option<&str>,
) -> Result<String, PathError> {
    let path = if path.is_empty() {
        default_workdir.unwrap_or("")
    } else {
        path
    };
    if path.contains('\0') {
        return Err(PathError::Null);
    }
    let joined = match path.strip_prefix('~') {
        Some("") => user.home.clone(),
        Some(rest) if rest.starts_with('/') => format!("{}{rest}", user.home),
        Some(_) => return Err(PathError::OtherHome),
        None if path.starts_with('/') => path.to_owned(),
        None => format!("{}/{path}", user.home),
    };
    let clean = clean(&joined);
    if clean.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    Ok(clean)
}

/// Removes `.`, `..` and empty components lexically; `..` at the root stays
/// there. The result starts with a slash.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for part in &parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// The last component; `/` for the root.
pub fn file_name(path: &str) -> &str {
    match path.rsplit('/').find(|part| !part.is_empty()) {
        Some(name) => name,
        None => "/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user() -> User {
        User {
            name: "user".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/user".into(),
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn resolves_as_documented() {
        let user = user();
        let cases = [
            ("", None, "/home/user"),
            ("", Some("/code"), "/code"),
            ("", Some("work"), "/home/user/work"),
            ("~", Some("/code"), "/home/user"),
            ("~/a", None, "/home/user/a"),
            ("a/../b//c/.", Some("/code"), "/home/user/b/c"),
            ("../../../../etc", None, "/etc"),
            ("/", None, "/"),
            ("/tmp/", None, "/tmp"),
            ("./~", None, "/home/user/~"),
        ];
        for (path, workdir, expected) in cases {
            assert_eq!(
                resolve(path, &user, workdir).as_deref(),
                Ok(expected),
                "{path:?}"
            );
        }
        assert_eq!(resolve("~root/x", &user, None), Err(PathError::OtherHome));
        assert_eq!(resolve("a\0b", &user, None), Err(PathError::Null));
        assert_eq!(
            resolve(&"a/".repeat(3000), &user, None),
            Err(PathError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn result_is_absolute_clean_and_stable(path in "[a-z./~ é]{0,40}") {
            if let Ok(resolved) = resolve(&path, &user(), None) {
                prop_assert!(resolved.starts_with('/'));
                prop_assert!(resolved == "/" || !resolved.ends_with('/'));
                prop_assert!(!resolved.split('/').any(|part| part == ".." || part == "."));
                prop_assert!(!resolved.contains("//"));
                prop_assert_eq!(resolve(&resolved, &user(), Some("/elsewhere")).unwrap(), resolved);
            }
        }

        #[test]
        fn an_absolute_path_never_depends_on_the_user(path in "/[a-z./]{0,30}") {
            let mut other = user();
            other.home = "/root".into();
            prop_assert_eq!(resolve(&path, &user(), None), resolve(&path, &other, Some("/x")));
        }
    }
}
