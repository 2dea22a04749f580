//! The programs that run in guests: the agent (`envd`) and the code interpreter's
//! server. `scripts/build` embeds both, compressed, so that one file is all that has
//! to be copied to another machine. A file named in the settings takes the place of
//! an embedded program.
//!
//! Whoever needs a program gets a path: an embedded one is unpacked below the state
//! directory, in a folder named by its content. A file that is there under its name
//! is complete, because it got that name after its content had reached the disk.

use crate::settings::Settings;
use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

include!(concat!(env!("OUT_DIR"), "/guest_programs.rs"));

/// Below the state directory.
const DIRECTORY: &str = "guest-programs";
/// Programs of other versions of Hearth are removed after this time; until then a
/// daemon of such a version may be about to read them.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A program that runs in guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestProgram {
    /// PID 1 of every guest.
    Agent,
    /// Runs code in the code interpreter's template.
    CodeInterpreter,
}

impl GuestProgram {
    pub const ALL: [Self; 2] = [Self::Agent, Self::CodeInterpreter];

    pub fn file_name(self) -> &'static str {
        match self {
            Self::Agent => "envd",
            Self::CodeInterpreter => "code-interpreter",
        }
    }

    /// How a file is named to take the embedded program's place.
    fn setting(self) -> &'static str {
        match self {
            Self::Agent => "HEARTH_ENVD, or `agent` in hearth.toml",
            Self::CodeInterpreter => "HEARTH_CODE_INTERPRETER, or `interpreter` in hearth.toml",
        }
    }

    fn set(self, settings: &Settings) -> Option<&Path> {
        match self {
            Self::Agent => settings.agent.as_deref(),
            Self::CodeInterpreter => settings.interpreter.as_deref(),
        }
    }

    fn embedded(self) -> Option<&'static [u8]> {
        match self {
            Self::Agent => ENVD,
            Self::CodeInterpreter => CODE_INTERPRETER,
        }
    }

    fn source(self, settings: &Settings) -> anyhow::Result<Source<'_>> {
        let name = self.file_name();
        match (self.set(settings), self.embedded()) {
            (Some(path), _) if path.is_file() => Ok(Source::File(path)),
            (Some(path), _) => bail!(
                "{} is no file, and is named as {name} ({})",
                path.display(),
                self.setting()
            ),
            (None, Some(compressed)) => Ok(Source::Embedded(compressed)),
            (None, None) => bail!(
                "this build of hearth carries no {name}: build it with `make build`, or name a \
                 file ({})",
                self.setting()
            ),
        }
    }

    /// Where the program comes from, in a few words, or why there is none.
    pub fn origin(self, settings: &Settings) -> anyhow::Result<String> {
        let name = self.file_name();
        Ok(match self.source(settings)? {
            Source::File(path) => format!("{name} from {}", path.display()),
            Source::Embedded(_) => format!("{name} embedded"),
        })
    }

    /// The program as a file: the named one, or the embedded one, unpacked.
    pub fn locate(self, settings: &Settings) -> anyhow::Result<PathBuf> {
        match self.source(settings)? {
            Source::File(path) => Ok(path.to_owned()),
            Source::Embedded(compressed) => {
                unpack(&settings.state_dir.join(DIRECTORY), self, compressed)
            }
        }
    }
}

enum Source<'a> {
    File(&'a Path),
    /// Compressed.
    Embedded(&'static [u8]),
}

fn unpack(directory: &Path, program: GuestProgram, compressed: &[u8]) -> anyhow::Result<PathBuf> {
    let name = program.file_name();
    let key = hex::encode(&Sha256::digest(compressed)[..8]);
    let own = directory.join(format!("{name}-{key}"));
    let path = own.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let unpacked = || -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&own)?;
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o700))
            .tempfile_in(&own)?;
        zstd::stream::copy_decode(compressed, file.as_file_mut())?;
        file.as_file().sync_all()?;
        // Another process may have been faster: its file has the same content.
        file.persist(&path)?;
        fs::File::open(&own)?.sync_all()
    };
    unpacked().with_context(|| format!("unpack {name} into {}", own.display()))?;
    remove_others(directory, program, &own);
    Ok(path)
}

/// Best effort: what stays costs some megabytes until the next version.
fn remove_others(directory: &Path, program: GuestProgram, own: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let prefix = format!("{}-", program.file_name());
    let now = SystemTime::now();
    for entry in entries.flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(&prefix);
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > KEPT));
        if named && old && entry.path() != own {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(state_dir: &Path) -> Settings {
        Settings {
            state_dir: state_dir.to_owned(),
            ..Settings::default()
        }
    }

    #[test]
    fn a_named_file_takes_the_embedded_ones_place() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("mine");
        let named = Settings {
            agent: Some(file.clone()),
            ..settings(home.path())
        };
        let error = GuestProgram::Agent.locate(&named).unwrap_err().to_string();
        assert!(
            error.contains("mine is no file") && error.contains("HEARTH_ENVD"),
            "{error}"
        );
        fs::write(&file, "").unwrap();
        assert_eq!(GuestProgram::Agent.locate(&named).unwrap(), file);
    }

    #[test]
    fn what_is_not_carried_is_said_with_the_way_to_it() {
        let home = tempfile::tempdir().unwrap();
        let settings = settings(home.path());
        for program in GuestProgram::ALL {
            match program.embedded() {
                None => {
                    let error = program.locate(&settings).unwrap_err().to_string();
                    assert!(error.contains("make build"), "{error}");
                }
                Some(_) => assert!(program.locate(&settings).unwrap().is_file()),
            }
        }
    }

    #[test]
    fn unpacking_is_private_whole_and_done_once() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(DIRECTORY);
        let program = GuestProgram::CodeInterpreter;
        let compress = |text: &str| zstd::stream::encode_all(text.as_bytes(), 3).unwrap();

        let first = unpack(&directory, program, &compress("one")).unwrap();
        assert_eq!(fs::read_to_string(&first).unwrap(), "one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&first)), (0o700, 0o700));
        let before = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(
            unpack(&directory, program, &compress("one")).unwrap(),
            first
        );
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before);

        // The next version's is beside it; long after, the first one goes.
        let second = unpack(&directory, program, &compress("two")).unwrap();
        assert!(first.is_file() && second.is_file());
        let parent = fs::File::open(first.parent().unwrap()).unwrap();
        parent.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        unpack(&directory, program, &compress("three")).unwrap();
        assert!(!first.exists() && second.is_file());
        let error = unpack(&directory, program, b"not zstd").unwrap_err();
        assert!(
            format!("{error:#}").contains("unpack code-interpreter"),
            "{error:#}"
        );
    }
}
