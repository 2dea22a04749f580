//! The kernels that are installed: `kernels/<name>/kernel.json` under Jupyter's
//! data directories.

use crate::language::Language;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

const MAX_SPEC_BYTES: u64 = 64 << 10;

/// How a kernel is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSpec {
    /// The directory's name, such as `python3`.
    pub name: String,
    /// The program and its arguments, with `{connection_file}` in one of them.
    pub argv: Vec<String>,
    /// Variables beyond those of the server.
    pub env: BTreeMap<String, String>,
    /// What it runs.
    pub language: Language,
    /// How it is told to stop what it runs.
    pub interrupt: Interrupt,
    /// The kernel takes environment variables with an execution, see
    /// `execution::Environment`.
    pub takes_environment: bool,
    /// `{resource_dir}` in `argv`.
    pub directory: PathBuf,
}

/// How a kernel wants to be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interrupt {
    #[default]
    Signal,
    Message,
}

#[derive(Deserialize)]
struct File_ {
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    language: String,
    #[serde(default)]
    interrupt_mode: Interrupt,
    #[serde(default)]
    metadata: Metadata,
}

/// What Jupyter leaves to whoever installs a kernel.
#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    hearth: Abilities,
}

#[derive(Default, Deserialize)]
struct Abilities {
    #[serde(default)]
    takes_environment: bool,
}

/// All installed kernels.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    kernels: Vec<KernelSpec>,
}

impl Catalogue {
    /// Reads the data directories; of two kernels with one name the first counts.
    /// What cannot be read or makes no sense is left out and logged.
    #[must_use]
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut kernels: Vec<KernelSpec> = Vec::new();
        for directory in directories {
            let Ok(entries) = std::fs::read_dir(directory.join("kernels")) else {
                continue;
            };
            let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            found.sort();
            for path in found {
                match read(&path) {
                    Ok(spec) if kernels.iter().any(|known| known.name == spec.name) => {}
                    Ok(spec) => kernels.push(spec),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error, "read kernel spec failed; leaving the kernel out");
                    }
                }
            }
        }
        Self { kernels }
    }

    /// The kernel for a language: by its language, else by its own name.
    #[must_use]
    pub fn find(&self, language: &Language) -> Option<&KernelSpec> {
        self.kernels
            .iter()
            .find(|spec| spec.language == *language)
            .or_else(|| {
                self.kernels
                    .iter()
                    .find(|spec| spec.name == language.name())
            })
    }

    /// The languages of all kernels, one for each kernel.
    pub fn languages(&self) -> impl Iterator<Item = &Language> {
        self.kernels.iter().map(|spec| &spec.language)
    }
}

fn read(directory: &Path) -> Result<KernelSpec, String> {
    let name = directory
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("its name is not text")?
        .to_lowercase();
    let mut text = Vec::new();
    File::open(directory.join("kernel.json"))
        .and_then(|file| file.take(MAX_SPEC_BYTES).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    let file: File_ = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if file.argv.is_empty()
        || !file
            .argv
            .iter()
            .any(|arg| arg.contains("{connection_file}"))
    {
        return Err("its command line takes no connection file".to_owned());
    }
    let language = if file.language.is_empty() {
        &name
    } else {
        &file.language
    };
    Ok(KernelSpec {
        language: Language::parse(language),
        name,
        argv: file.argv,
        env: file.env,
        interrupt: file.interrupt_mode,
        takes_environment: file.metadata.hearth.takes_environment,
        directory: directory.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let directory = root.join("kernels").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("kernel.json"), text).unwrap();
    }

    #[test]
    fn kernels_are_found_by_language_and_by_name() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let python = |program: &str| {
            format!(
                r#"{{"argv": ["{program}", "-f", "{{connection_file}}"], "language": "python"}}"#
            )
        };
        write(first.path(), "python3", &python("first"));
        write(second.path(), "python3", &python("second"));
        write(
            second.path(),
            "ir",
            r#"{"argv": ["R", "{connection_file}"], "language": "R", "interrupt_mode": "message",
                "metadata": {"hearth": {"takes_environment": true}, "debugger": true}}"#,
        );
        write(second.path(), "broken", "{");
        write(second.path(), "useless", r#"{"argv": ["x"]}"#);
        let directories = [first.path().to_owned(), second.path().to_owned()];
        let catalogue = Catalogue::read(&directories);
        let python = catalogue.find(&Language::parse("python")).expect("there");
        assert_eq!(python.argv[0], "first");
        let r = catalogue.find(&Language::parse("r")).expect("there");
        assert_eq!(r.interrupt, Interrupt::Message);
        assert!(r.takes_environment && !python.takes_environment);
        assert!(catalogue.find(&Language::parse("ir")).is_some());
        assert!(catalogue.find(&Language::parse("broken")).is_none());
        assert_eq!(catalogue.languages().count(), 2);
    }
}
