//! What the host's apt knows: package versions, package files, and the sources
//! and settings that make its mirrors reachable.
//!
//! The guest's root file system comes from the same archive as the host, through
//! the host's own sources: a machine behind a mirror needs no second set-up.

mod sources;

pub(crate) use sources::SourceList;

use crate::{Error, tool::Tool};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

const APT_CACHE: Tool = Tool::new("apt-cache", "apt", 120);
const APT_CONFIG: Tool = Tool::new("apt-config", "apt", 60);
const APT_GET: Tool = Tool::new("apt-get", "apt", 900);
const DPKG: Tool = Tool::new("dpkg", "dpkg", 300);

/// One version of a package in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: String,
    pub(crate) sha256: String,
    pub(crate) size_bytes: Option<u64>,
}

/// apt's view of the archive. It keeps its index ready in a file of ours: where
/// the host keeps none, every question would cost a second.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    index: PathBuf,
}

impl Archive {
    /// `directory` holds the index; apt renews it when its lists change.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            index: directory.join("pkgcache.bin"),
        }
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = APT_CACHE.command();
        command
            .arg("-o")
            .arg(format!("Dir::Cache::pkgcache={}", self.index.display()))
            .args(["-o", "Dir::Cache::srcpkgcache="]);
        command
    }

    /// The version that apt would install of each package; `None` where it knows
    /// the package not at all.
    pub(crate) async fn candidates(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, Option<String>>, Error> {
        let mut command = self.command();
        command.arg("policy").args(names);
        Ok(parse_policy(&APT_CACHE.text(command).await?))
    }

    /// The record of a package's candidate version, or of the version that
    /// `name=version` asks for; `None` where apt does not know it.
    pub(crate) async fn show(&self, reference: &str) -> Result<Option<Package>, Error> {
        let mut command = self.command();
        command.args(["show", "--no-all-versions", reference]);
        match APT_CACHE.text(command).await {
            Ok(text) => Ok(parse_show(&text)),
            // What apt answers for a name it does not know.
            Err(Error::Tool { output, .. }) if output.contains("No packages found") => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn parse_policy(text: &str) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            current = Some(name.to_owned());
        } else if let Some(version) = line.strip_prefix("  Candidate: ")
            && let Some(name) = current.take()
        {
            found.insert(name, (version != "(none)").then(|| version.to_owned()));
        }
    }
    found
}

fn parse_show(text: &str) -> Option<Package> {
    let record = text.split("\n\n").next()?;
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
    };
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        depends: field("Depends").unwrap_or_default(),
        sha256: field("SHA256")?,
        size_bytes: field("Size").and_then(|size| size.parse().ok()),
    })
}

impl Package {
    /// The names of the packages that this one depends on, without versions and
    /// without alternatives after the first.
    pub(crate) fn dependency_names(&self) -> impl Iterator<Item = &str> {
        self.depends.split(',').filter_map(|dependency| {
            dependency
                .split('|')
                .next()?
                .split_whitespace()
                .next()
                .map(|name| name.split(':').next().unwrap_or(name))
        })
    }

    /// Downloads the package into `directory` and compares it with the hash in
    /// the signed index. apt has compared it too; this also covers what happened
    /// to the file since.
    pub(crate) async fn download(&self, directory: &Path) -> Result<PathBuf, Error> {
        let target = directory.join(&self.name);
        std::fs::create_dir(&target).map_err(Error::io("create", &target))?;
        let mut command = APT_GET.command();
        command
            .current_dir(&target)
            // Everything happens in a private directory; the download user
            // could not write there.
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .arg(format!("{}={}", self.name, self.version));
        APT_GET.run(command).await?;
        let package = self.clone();
        crate::error::blocking(move || {
            let file = only_file(&target)?;
            if sha256(&file)? != package.sha256 {
                return Err(Error::PackageHash {
                    package: package.name,
                });
            }
            Ok(file)
        })
        .await
    }
}

/// Unpacks a package's files under `target`, running none of its scripts.
pub(crate) async fn unpack(package: &Path, target: &Path) -> Result<(), Error> {
    let mut command = DPKG.command();
    command.arg("--extract").arg(package).arg(target);
    DPKG.run(command).await
}

/// The host's settings for fetching, as `Name "value";` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchSettings {
    /// All of them, proxies included: for the build itself.
    pub(crate) all: Vec<String>,
    /// Those that the guest keeps, so that its apt works with the same mirrors.
    /// A proxy may carry credentials and stays on the host.
    pub(crate) guest: Vec<String>,
}

pub(crate) async fn fetch_settings() -> Result<FetchSettings, Error> {
    let mut command = APT_CONFIG.command();
    command.arg("dump");
    Ok(parse_settings(&APT_CONFIG.text(command).await?))
}

fn parse_settings(text: &str) -> FetchSettings {
    const GUEST: &[&str] = &["Acquire::Check-Valid-Until ", "Acquire::Check-Date "];
    const BUILD: &[&str] = &["Acquire::http", "Acquire::https", "Acquire::Retries "];
    let of = |prefixes: &[&str]| -> Vec<String> {
        text.lines()
            .filter(|line| prefixes.iter().any(|prefix| line.starts_with(prefix)))
            // Empty values are section heads.
            .filter(|line| !line.ends_with("\"\";"))
            .map(str::to_owned)
            .collect()
    };
    let guest = of(GUEST);
    let mut all = of(BUILD);
    all.extend(guest.iter().cloned());
    FetchSettings { all, guest }
}

fn only_file(directory: &Path) -> Result<PathBuf, Error> {
    let mut entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    match (entries.next(), entries.next()) {
        (Some(Ok(entry)), None) => Ok(entry.path()),
        _ => Err(Error::ToolOutput {
            tool: "apt-get",
            what: "not exactly one downloaded file".to_owned(),
        }),
    }
}

fn sha256(path: &Path) -> Result<String, Error> {
    let mut file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_output_is_understood() {
        let text = "git:\n  Installed: (none)\n  Candidate: 1:2.39.5-0+deb12u2\n  \
                    Version table:\n     1:2.39.5-0+deb12u2 500\n\
                    gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        let found = parse_policy(text);
        assert_eq!(found["git"].as_deref(), Some("1:2.39.5-0+deb12u2"));
        assert_eq!(found["gone"], None);
        assert_eq!(found.len(), 2);
        assert!(parse_policy("").is_empty());
    }

    #[test]
    fn show_output_is_understood() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
                    Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod | module-init, x:any\n\
                    Size: 1504\nSHA256: 00be\n\nPackage: other\nVersion: 1\n";
        let package = parse_show(text).unwrap();
        assert_eq!(package.version, "6.1.192-2");
        assert_eq!(package.size_bytes, Some(1504));
        assert_eq!(
            package.dependency_names().collect::<Vec<_>>(),
            ["linux-image-6.1.0-56-cloud-amd64", "kmod", "x"]
        );
        assert_eq!(parse_show("Package: x\n"), None);
    }

    #[test]
    fn proxies_stay_on_the_host() {
        let settings = parse_settings(
            "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://u:p@h\";\n\
             Acquire::Check-Date \"false\";\nAPT::Architecture \"amd64\";\n",
        );
        assert_eq!(
            settings.all,
            [
                "Acquire::http::Proxy \"http://u:p@h\";",
                "Acquire::Check-Date \"false\";"
            ]
        );
        assert_eq!(settings.guest, ["Acquire::Check-Date \"false\";"]);
    }
}
