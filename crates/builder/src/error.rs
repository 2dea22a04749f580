//! What can go wrong while artefacts are made. Every message says which thing
//! failed and, where a person can mend it, how.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{tool} is not installed: install the package {package}")]
    ToolMissing {
        tool: &'static str,
        package: &'static str,
    },
    #[error("{tool} failed ({status}): {output}")]
    Tool {
        tool: &'static str,
        status: std::process::ExitStatus,
        /// The last lines that the tool wrote, without credentials.
        output: String,
    },
    #[error("{tool} did not finish within {limit_seconds} s")]
    ToolTimeout {
        tool: &'static str,
        limit_seconds: u64,
    },
    #[error("{tool} wrote something unexpected: {what}")]
    ToolOutput { tool: &'static str, what: String },
    /// The host cannot do this; the text says what is missing.
    #[error("{0}")]
    Host(String),
    #[error("the downloaded package {package} does not match the hash that apt verified")]
    PackageHash { package: String },
    #[error("the kernel image cannot be used: {0}")]
    KernelImage(#[from] crate::kernel::ImageError),
    #[error("the kernel module {module} cannot be used: {why}")]
    Module { module: String, why: String },
    #[error("the artefact in {path} is damaged: {why}")]
    Artefact { path: PathBuf, why: String },
    #[error("{doing} {path}")]
    Io {
        /// A present-tense verb phrase, such as "read".
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("store the build")]
    Store(#[from] hearth_snapshot::Error),
    #[error("{what}{}", hearth_microvm::after_console(.console))]
    Guest {
        /// What went wrong while the template's guest was up.
        what: String,
        /// The last lines of its console, where it helps.
        console: String,
    },
    #[error("run the template's VM")]
    Machine(#[from] hearth_machine::Error),
    #[error("bring up the template's VM")]
    Start(#[from] hearth_microvm::Error),
    #[error("give back what the template's VM held")]
    Release(#[from] hearth_microvm::NotReleased),
    #[error("read the template's disk")]
    Disk(#[from] hearth_block::Error),
    #[error("read or write the template's disk")]
    DiskIo(#[from] hearth_block::IoError),
    #[error("a worker task ended early")]
    Task(#[source] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// Runs work that blocks or computes on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Task)?
}
