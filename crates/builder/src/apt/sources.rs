//! apt's source lists, both forms: one-line (`*.list`) and deb822 (`*.sources`).
//! Only what names an archive is kept; see sources.list(5).

use crate::{Error, tool::without_credentials};
use std::path::{Path, PathBuf};

/// Source lists beyond this length are refused, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One archive entry for binary packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    /// A key file's path, or a key itself over several lines.
    pub(crate) signed_by: Option<String>,
    pub(crate) trusted: bool,
}

/// All entries of one machine that are switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceList(pub(crate) Vec<Source>);

impl SourceList {
    /// Reads `sources.list` and `sources.list.d` under an apt directory.
    pub(crate) fn read(apt: &Path) -> Result<Self, Error> {
        let mut paths = vec![apt.join("sources.list")];
        let directory = apt.join("sources.list.d");
        if let Ok(entries) = std::fs::read_dir(&directory) {
            paths.extend(entries.flatten().map(|entry| entry.path()));
        }
        paths.sort();
        let mut sources = Vec::new();
        for path in paths {
            let parse = match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => parse_one_line,
                Some("sources") => parse_deb822,
                _ => continue,
            };
            sources.extend(parse(&read(&path)?));
        }
        Ok(Self(sources))
    }

    /// What belongs to a release of the distribution itself: the suite of that
    /// name, its updates and its security updates. Foreign archives, backports
    /// and candidates have no place in a template.
    pub(crate) fn of_release(&self, codename: &str) -> Self {
        let suites = ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}"));
        let sources = self.0.iter().filter_map(|source| {
            let mut source = source.clone();
            source.suites.retain(|suite| suites.contains(suite));
            (!source.suites.is_empty()).then_some(source)
        });
        Self(sources.collect())
    }

    pub(crate) fn has_suite(&self, suite: &str) -> bool {
        self.0
            .iter()
            .any(|source| source.suites.iter().any(|known| known == suite))
    }

    /// The key files that the entries name.
    pub(crate) fn key_files(&self) -> impl Iterator<Item = PathBuf> {
        self.0
            .iter()
            .filter_map(|source| source.signed_by.as_deref())
            .filter(|key| key.starts_with('/'))
            .map(PathBuf::from)
    }

    /// The same archives without user names and passwords in their addresses.
    pub(crate) fn without_credentials(&self) -> Self {
        let mut clean = self.clone();
        for uri in clean.0.iter_mut().flat_map(|source| &mut source.uris) {
            *uri = without_credentials(uri);
        }
        clean
    }

    /// The list in deb822 form.
    pub(crate) fn to_deb822(&self) -> String {
        let mut text = String::new();
        for source in &self.0 {
            let mut field = |name: &str, value: &str| {
                if !value.is_empty() {
                    text.push_str(&format!("{name}: {value}\n"));
                }
            };
            field("Types", "deb");
            field("URIs", &source.uris.join(" "));
            field("Suites", &source.suites.join(" "));
            field("Components", &source.components.join(" "));
            if source.trusted {
                field("Trusted", "yes");
            }
            if let Some(key) = &source.signed_by {
                // Continuation lines of a key keep their indentation.
                field("Signed-By", key);
            }
            text.push('\n');
        }
        text
    }
}

fn read(path: &Path) -> Result<String, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
            return Err(Error::Host(format!(
                "the source list {} is longer than {MAX_FILE_BYTES} bytes",
                path.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(Error::io("inspect", path)(error)),
    }
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

/// `deb [options] uri suite [component...]`, one per line.
fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with(char::is_whitespace) {
        return None;
    }
    rest = rest.trim_start();
    let mut options = "";
    if let Some(bracket) = rest.strip_prefix('[') {
        (options, rest) = bracket.split_once(']')?;
    }
    let option = |name: &str| {
        options
            .split_whitespace()
            .find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: option("signed-by").map(str::to_owned),
        trusted: option("trusted") == Some("yes"),
    })
}

/// Stanzas of `Field: value`, with indented continuation lines.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza_source(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza_source(stanza: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| {
        stanza
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let (types, uris, suites) = (words("types"), words("uris"), words("suites"));
    let enabled = field("enabled").is_none_or(|value| value != "no");
    let usable = enabled && types.iter().any(|kind| kind == "deb");
    (usable && !uris.is_empty() && !suites.is_empty()).then(|| Source {
        uris,
        suites,
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
        trusted: field("trusted") == Some("yes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE_LINE: &str = "# comment\n\
        deb http://user:secret@mirror.test/debian bookworm main contrib # more\n\
        deb-src http://mirror.test/debian bookworm main\n\
        deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.test/s bookworm-security main\n\
        deb http://tools.test/apt stable main\n\
        debris\n";
    const DEB822: &str = "# head\nTypes: deb deb-src\nURIs: http://mirror.test/debian\n\
        Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n\
        Signed-By:\n -----BEGIN-----\n .\n x\n\n\
        Types: deb\nURIs: http://off.test\nSuites: bookworm\nEnabled: no\n\n\
        Types: deb-src\nURIs: http://src.test\nSuites: bookworm\n";

    #[test]
    fn both_forms_are_read_and_filtered() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("sources.list"), ONE_LINE).unwrap();
        std::fs::create_dir(directory.path().join("sources.list.d")).unwrap();
        std::fs::write(directory.path().join("sources.list.d/d.sources"), DEB822).unwrap();
        std::fs::write(
            directory.path().join("sources.list.d/d.sources.off"),
            DEB822,
        )
        .unwrap();
        let list = SourceList::read(directory.path()).unwrap();
        assert_eq!(list.0.len(), 4);
        let release = list.of_release("bookworm");
        assert!(release.has_suite("bookworm-security"));
        assert!(!release.has_suite("bookworm-backports"));
        assert_eq!(
            release.key_files().collect::<Vec<_>>(),
            [Path::new("/usr/share/keyrings/a.gpg")]
        );
        insta::assert_snapshot!(release.without_credentials().to_deb822());
    }

    proptest! {
        /// What is written is read back as it was.
        #[test]
        fn deb822_round_trip(
            words in proptest::collection::vec("[a-z]{1,8}", 1..4),
            key in proptest::option::of("/[a-z]{1,8}"),
            trusted in any::<bool>(),
        ) {
            let list = SourceList(vec![Source {
                uris: words.clone(),
                suites: words.clone(),
                components: words,
                signed_by: key,
                trusted,
            }]);
            prop_assert_eq!(parse_deb822(&list.to_deb822()), list.0);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
            let _ = parse_one_line(&text);
            let _ = parse_deb822(&text);
        }
    }
}
