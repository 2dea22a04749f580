//! What the host brings to a root file system: its release, its apt sources, and the
//! versions that these offer.

use super::{APT_DIRECTORY, DPKG_OPTIONS, FILES, RECIPE, RootfsConfig};
use crate::{
    Error, apt,
    apt::{FetchSettings, SourceList},
    artefact::Key,
    variant::Variant,
};
use hearth_snapshot::Digest;
use std::{collections::BTreeMap, fs, path::Path};

/// What the host brings to the build.
pub(super) struct Host {
    pub(super) codename: String,
    pub(super) sources: SourceList,
    pub(super) settings: FetchSettings,
    pub(super) versions: BTreeMap<String, Option<String>>,
}

impl Host {
    pub(super) async fn inspect(archive: &apt::Archive, variant: &Variant) -> Result<Self, Error> {
        let release =
            fs::read_to_string("/etc/os-release").map_err(Error::io("read", "/etc/os-release"))?;
        let codename = codename(&release).ok_or_else(|| {
            Error::Host(
                "the guest's root file system is built from a Debian or Ubuntu host's own \
                 archive, and /etc/os-release names no VERSION_CODENAME"
                    .to_owned(),
            )
        })?;
        Ok(Self {
            sources: SourceList::read(Path::new(APT_DIRECTORY))?.of_release(&codename),
            settings: apt::fetch_settings().await?,
            versions: archive.candidates(&variant.packages).await?,
            codename,
        })
    }

    pub(super) fn is_known(&self, package: &str) -> bool {
        matches!(self.versions.get(package), Some(Some(_)))
    }

    pub(super) fn versions_known(&self, variant: &Variant) -> bool {
        variant.packages.iter().all(|name| self.is_known(name))
    }

    /// Refuses early, with the remedy.
    pub(super) fn check(&self, variant: &Variant) -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Host(
                "only root can build a root file system".to_owned(),
            ));
        }
        if !self.sources.has_suite(&self.codename) {
            return Err(Error::Host(format!(
                "apt has no source for the suite {} under {APT_DIRECTORY}",
                self.codename
            )));
        }
        let missing: Vec<&str> = variant
            .packages
            .iter()
            .filter(|name| !self.is_known(name))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(Error::Host(format!(
                "apt knows no version of {}; run `apt-get update`, and make sure that the \
                 distribution's archive is among its sources",
                missing.join(", ")
            )));
        }
        for key in self.sources.key_files() {
            if !key.exists() {
                return Err(Error::Host(format!(
                    "the archive's key file {} is missing: install the package \
                     debian-archive-keyring or ubuntu-keyring",
                    key.display()
                )));
            }
        }
        Ok(())
    }

    pub(super) fn key(&self, kernel: Digest, config: &RootfsConfig, variant: &Variant) -> Key {
        let nameservers = format!("{:?}", config.nameservers);
        let packages = variant.packages.join(" ");
        let options = DPKG_OPTIONS.join(" ");
        let sources = self.sources.without_credentials().to_deb822();
        let guest = self.settings.guest.join("\n");
        let versions = format!("{:?}", self.versions);
        let disk_mib = config.disk_mib.to_le_bytes();
        let mut recipe: Vec<&[u8]> = vec![
            RECIPE,
            packages.as_bytes(),
            options.as_bytes(),
            self.codename.as_bytes(),
            &disk_mib,
            nameservers.as_bytes(),
        ];
        recipe.extend(FILES.iter().map(|(_, text)| text.as_bytes()));
        recipe.extend(
            variant
                .content
                .as_ref()
                .map(|content| content.as_bytes().as_slice()),
        );
        Key::new(
            variant.kind,
            &recipe,
            &[
                sources.as_bytes(),
                guest.as_bytes(),
                versions.as_bytes(),
                kernel.as_bytes(),
            ],
        )
    }
}

pub(super) fn codename(os_release: &str) -> Option<String> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"').to_owned())
        .filter(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}
