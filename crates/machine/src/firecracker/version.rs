//! Finding the program, and whether it is one that Hearth knows to speak to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest version, major and minor, whose API has all that is used here: network
/// overrides at a load came with it.
pub const MINIMUM: (u32, u32) = (1, 12);

/// Where the program is: `named`, or the first `firecracker` of the directories of `path`,
/// as in `PATH`.
#[must_use]
pub fn find(named: Option<&Path>, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    std::env::split_paths(path?)
        .map(|directory| directory.join("firecracker"))
        .find(|candidate| candidate.is_file())
}

/// The program's version, or why it cannot be used. Blocks for some milliseconds.
pub(super) fn of(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    check(&String::from_utf8_lossy(&output.stdout))
}

/// The version in what `firecracker --version` prints, if it is new enough.
fn check(text: &str) -> Result<String, String> {
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Firecracker v"))
        .ok_or_else(|| "it does not tell its version as Firecracker does".to_owned())?;
    let mut numbers = version
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < MINIMUM {
        let (major, minor) = MINIMUM;
        return Err(format!(
            "its version {version} is too old: {major}.{minor} or later is needed"
        ));
    }
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_old_ones_refused() {
        let text = "Firecracker v1.16.1\n\n2026-01-01T00:00:00 [x:main] exit_code=0\n";
        assert_eq!(check(text).as_deref(), Ok("1.16.1"));
        assert_eq!(check("Firecracker v1.12.0").as_deref(), Ok("1.12.0"));
        assert_eq!(check("Firecracker v2.0.0-dev").as_deref(), Ok("2.0.0-dev"));
        for old in [
            "Firecracker v1.11.0",
            "Firecracker v1.9.1",
            "Firecracker v0.25.2",
        ] {
            let refused = check(old).unwrap_err();
            assert!(refused.contains("1.12 or later"), "{refused}");
        }
        for other in ["", "QEMU emulator version 7.2.22", "Firecracker"] {
            assert!(check(other).is_err(), "{other:?}");
        }
        assert!(of(Path::new("/nonexistent/firecracker")).is_err());
    }

    #[test]
    fn the_named_program_goes_before_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("firecracker");
        let path = std::env::join_paths(["/nonexistent".as_ref(), dir.path()]).unwrap();
        assert_eq!(find(None, Some(&path)), None);
        std::fs::write(&program, "").unwrap();
        assert_eq!(find(None, Some(&path)), Some(program));
        assert_eq!(find(None, None), None);
        let named = Path::new("/opt/firecracker");
        assert_eq!(find(Some(named), Some(&path)).as_deref(), Some(named));
    }
}
