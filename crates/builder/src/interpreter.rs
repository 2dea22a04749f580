//! The code interpreter's template: `base` with Jupyter kernels, the packages that
//! people expect beside them, and a server that has its kernels running when the
//! snapshot is taken.

use crate::{Artefacts, Error, TemplateSpec, artefact::digest_of_parts};
use hearth_machine::Capabilities;
use hearth_snapshot::{Digest, Shape, StartCommand};
use std::{fmt, fs, path::PathBuf};

/// The name under which the official SDKs look for it.
pub const INTERPRETER_TEMPLATE: &str = "code-interpreter-v1";

/// How much is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// Python, JavaScript, TypeScript and Bash, with the usual packages for data and
    /// charts.
    Small,
    /// Also R and Java, and many more Python packages.
    Full,
}

impl fmt::Display for Edition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Small => "small",
            Self::Full => "full",
        })
    }
}

#[derive(Debug, Clone)]
pub struct InterpreterConfig {
    /// The static server.
    pub server: PathBuf,
    pub edition: Edition,
}

/// Of the distribution, beside what `base` has, in both.
pub(crate) const PACKAGES: &[&str] = &["fonts-noto-cjk"];

/// And in the full one.
pub(crate) const PACKAGES_OF_FULL: &[&str] =
    &["default-jdk-headless", "r-base-core", "r-cran-irkernel"];

macro_rules! files {
    ($($name:literal from $path:literal,)*) => {
        &[$(($name, include_str!(concat!("../../../template/code-interpreter/", $path)))),*]
    };
}

/// What the installation works with, as the paths that its script knows.
pub(crate) const FILES: &[(&str, &str)] = files![
    "install.sh" from "recipe/install.sh",
    "start.sh" from "recipe/start.sh",
    "wait.sh" from "recipe/wait.sh",
    "rehearse.sh" from "recipe/rehearse.sh",
    "matplotlibrc" from "matplotlibrc",
    "requirements.txt" from "requirements.txt",
    "requirements-small.txt" from "requirements-small.txt",
    "python/hearth_kernel.py" from "python/hearth_kernel.py",
    "javascript/package.json" from "javascript/package.json",
    "javascript/package-lock.json" from "javascript/package-lock.json",
    "javascript/kernel.mjs" from "javascript/kernel.mjs",
    "javascript/certificates.mjs" from "javascript/certificates.mjs",
    "javascript/display.mjs" from "javascript/display.mjs",
    "javascript/resolve.mjs" from "javascript/resolve.mjs",
    "javascript/transform.mjs" from "javascript/transform.mjs",
    "javascript/protocol.mjs" from "javascript/protocol.mjs",
];

/// Loaded before the snapshot, so that no sandbox waits for it.
const PRELOADED: &str = "numpy,pandas,matplotlib.pyplot,e2b_charts";

/// Of all that goes in beside the distribution's packages.
pub(crate) fn content(config: &InterpreterConfig) -> Result<Digest, Error> {
    let server = fs::read(&config.server).map_err(Error::io("read", &config.server))?;
    let mut parts: Vec<&[u8]> = vec![&server];
    for (name, text) in FILES {
        parts.push(name.as_bytes());
        parts.push(text.as_bytes());
    }
    Ok(digest_of_parts("code interpreter", &parts))
}

impl TemplateSpec {
    /// The code interpreter's template out of its artefacts.
    #[must_use]
    pub fn interpreter(
        artefacts: Artefacts,
        agent_version: &str,
        shape: Shape,
        capabilities: &Capabilities,
    ) -> Self {
        let library = "/usr/local/lib/hearth/code-interpreter";
        let start = format!(
            "sudo -n setsid --fork {library}/start --preload {PRELOADED} \
             </dev/null >/dev/null 2>&1"
        );
        let ready = format!("{library}/wait 570");
        let lines = [
            "true".to_owned(),
            start.clone(),
            ready.clone(),
            "echo hi".to_owned(),
            "python3 -c 'print(6 * 7)'".to_owned(),
        ];
        let mut spec = Self::named(
            INTERPRETER_TEMPLATE,
            artefacts,
            agent_version,
            shape,
            capabilities,
            lines.into(),
        );
        let details = &mut spec.details;
        details.start = Some(StartCommand {
            command: Some(start),
            ready: Some(ready),
            user: details.user.clone(),
            workdir: details.workdir.clone(),
        });
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_follows_the_server() {
        let server = tempfile::NamedTempFile::new().unwrap();
        let config = InterpreterConfig {
            server: server.path().to_owned(),
            edition: Edition::Small,
        };
        let first = content(&config).unwrap();
        assert_eq!(first, content(&config).unwrap());
        fs::write(server.path(), "another").unwrap();
        assert_ne!(first, content(&config).unwrap());
    }
}
