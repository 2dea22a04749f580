//! Which root file system is built: `base`, or one that has more in it.

use crate::{
    Edition, Error, InterpreterConfig,
    error::blocking,
    interpreter::{self, FILES, PACKAGES, PACKAGES_OF_FULL},
    rootfs::{self, HOST_PIP, shell_word, write_private},
    tool::Tool,
};
use hearth_snapshot::Digest;
use std::{fs, path::Path};

const NPM: Tool = Tool::new("npm", "npm", 60);

/// What differs between root file systems.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Names the artefacts.
    pub(crate) kind: &'static str,
    pub(crate) packages: Vec<&'static str>,
    /// Of everything that is installed beside packages.
    pub(crate) content: Option<Digest>,
    interpreter: Option<InterpreterConfig>,
}

impl Variant {
    pub(crate) fn base() -> Self {
        Self {
            kind: "rootfs",
            packages: rootfs::PACKAGES.to_vec(),
            content: None,
            interpreter: None,
        }
    }

    pub(crate) fn interpreter(config: &InterpreterConfig) -> Result<Self, Error> {
        let mut packages = rootfs::PACKAGES.to_vec();
        packages.extend(PACKAGES);
        if config.edition == Edition::Full {
            packages.extend(PACKAGES_OF_FULL);
        }
        Ok(Self {
            kind: match config.edition {
                Edition::Full => "rootfs-interpreter",
                Edition::Small => "rootfs-interpreter-small",
            },
            packages,
            content: Some(interpreter::content(config)?),
            interpreter: Some(config.clone()),
        })
    }

    /// Refuses early when a tool is missing.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        if self.interpreter.is_some() {
            let mut command = NPM.command();
            command.arg("--version");
            NPM.run(command).await?;
        }
        Ok(())
    }

    /// The command that mmdebstrap runs with the tree as `$1`, after laying out
    /// what it needs in `temporary`.
    pub(crate) async fn hook(&self, temporary: &Path) -> Result<Option<String>, Error> {
        let Some(config) = self.interpreter.clone() else {
            return Ok(None);
        };
        let kit = temporary.join("kit");
        let command = format!(
            "{} \"$1\" {} {}",
            shell_word(&kit.join("install.sh")),
            shell_word(&kit),
            config.edition
        );
        blocking(move || {
            for (name, text) in FILES.iter().chain(&[(HOST_PIP, rootfs::HOST_PIP_TEXT)]) {
                let path = kit.join(name);
                let parent = path.parent().unwrap_or(&kit);
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                let mode = if name.ends_with(".sh") { 0o755 } else { 0o644 };
                write_private(&path, text, mode)?;
            }
            let server = kit.join("server");
            fs::copy(&config.server, &server).map_err(Error::io("copy", &config.server))?;
            Ok(())
        })
        .await?;
        Ok(Some(command))
    }
}
