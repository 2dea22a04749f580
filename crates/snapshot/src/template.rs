//! What a template sets for the sandboxes and templates that are made from it. It
//! lies beside the files of the template's build, as JSON, and is no part of the
//! manifest: a build without it has the usual settings.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Name of the file.
pub const TEMPLATE_FILE: &str = "template.json";

/// As whom, where and with which variables commands run that do not say, and what
/// the template starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateDetails {
    pub user: String,
    pub workdir: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartCommand>,
}

/// What ran when the snapshot was taken, for templates that are built upon it: they
/// boot anew and start it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCommand {
    /// A line of a login shell. Absent where only the ready command was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Succeeds once the command's program is up; absent means the usual wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// As whom and where both run.
    pub user: String,
    pub workdir: String,
}

impl Default for TemplateDetails {
    fn default() -> Self {
        Self {
            user: "user".to_owned(),
            workdir: "/home/user".to_owned(),
            env: BTreeMap::new(),
            start: None,
        }
    }
}

impl TemplateDetails {
    /// Those of the build in a directory; the usual ones where it keeps none.
    ///
    /// # Errors
    /// When the file cannot be read or is not what [`Self::save`] wrote.
    pub fn load(directory: &Path) -> io::Result<Self> {
        match fs::read(directory.join(TEMPLATE_FILE)) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file into the directory of a build to be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(TEMPLATE_FILE), serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_means_the_usual() {
        let directory = tempfile::tempdir().unwrap();
        let usual = TemplateDetails::load(directory.path()).unwrap();
        assert_eq!(usual, TemplateDetails::default());
        let details = TemplateDetails {
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            start: Some(StartCommand {
                command: Some("serve".to_owned()),
                ready: None,
                user: "root".to_owned(),
                workdir: "/".to_owned(),
            }),
            ..usual
        };
        details.save(directory.path()).unwrap();
        assert_eq!(TemplateDetails::load(directory.path()).unwrap(), details);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"user":"root","workdir":"/app"}"#;
        fs::write(directory.path().join(TEMPLATE_FILE), text).unwrap();
        let details = TemplateDetails::load(directory.path()).unwrap();
        assert_eq!((&*details.user, &*details.workdir), ("root", "/app"));
        assert!(details.env.is_empty() && details.start.is_none());
    }
}
