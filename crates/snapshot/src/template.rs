//! What a template sets for the sandboxes and templates that are made from it. It
//! lies beside the files of the template's build, as JSON, and is no part of the
//! manifest: a build without it has the usual settings.
//!
//! The document has the `version` of its form, which is 1 where it says none, and
//! `min_version`, the oldest whose programs can read it, where that is another. Fields
//! that this version does not know are passed over; copies of a build have them, for they
//! are copies of the file.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Name of the file.
pub const TEMPLATE_FILE: &str = "template.json";
const VERSION: u32 = 1;

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

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    #[serde(flatten)]
    details: &'a TemplateDetails,
}

/// The part of a document that every version has.
#[derive(Deserialize)]
struct Head {
    #[serde(default = "Head::first")]
    version: u32,
    min_version: Option<u32>,
}

impl Head {
    fn first() -> u32 {
        1
    }
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
    /// When the file cannot be read, is not what [`Self::save`] wrote, or is of a form
    /// that only newer versions can read.
    pub fn load(directory: &Path) -> io::Result<Self> {
        match fs::read(directory.join(TEMPLATE_FILE)) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &[u8]) -> io::Result<Self> {
        let head: Head = serde_json::from_slice(text)?;
        if head.min_version.unwrap_or(head.version) > VERSION {
            let why = format!(
                "a newer version wrote it (format {}, here is {VERSION})",
                head.version
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Writes the file into the directory of a build to be.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let document = Document {
            version: VERSION,
            details: self,
        };
        fs::write(
            directory.join(TEMPLATE_FILE),
            serde_json::to_vec(&document)?,
        )
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

    fn load(text: &str) -> io::Result<TemplateDetails> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(TEMPLATE_FILE), text).unwrap();
        TemplateDetails::load(directory.path())
    }

    #[test]
    fn files_of_earlier_versions_are_read() {
        let details = load(r#"{"user":"root","workdir":"/app"}"#).unwrap();
        assert_eq!((&*details.user, &*details.workdir), ("root", "/app"));
        assert!(details.env.is_empty() && details.start.is_none());
        // As it was before it had a version.
        let text = r#"{"user":"user","workdir":"/home/user","env":{"A":"1"},
            "start":{"command":"serve","ready":"curl localhost","user":"root","workdir":"/"}}"#;
        let start = load(text).unwrap().start.unwrap();
        assert_eq!(start.command.as_deref(), Some("serve"));
        assert_eq!(start.ready.as_deref(), Some("curl localhost"));
    }

    #[test]
    fn files_of_newer_versions_are_read_where_they_allow_it() {
        let text = r#"{"version":3,"min_version":1,"user":"root","workdir":"/","shell":"zsh"}"#;
        assert_eq!(load(text).unwrap().user, "root");
        let error = load(r#"{"version":2,"user":{"name":"root"}}"#).unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn what_is_written_says_its_version() {
        let directory = tempfile::tempdir().unwrap();
        TemplateDetails::default().save(directory.path()).unwrap();
        let text = fs::read(directory.path().join(TEMPLATE_FILE)).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(document["version"], VERSION);
        assert_eq!(document["workdir"], "/home/user");
    }
}
