//! `hearth cp`: files and directories, into sandboxes and out of them.

mod tree;

use super::attach::CALL_LIMIT;
use super::client;
use crate::settings::Settings;
use anyhow::Context as _;
use hearth_client::{Command, SandboxClient, SandboxId};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read and write in the sandbox as this user [default: the template's]
    #[arg(short, long)]
    user: Option<String>,
    /// Seconds that the sandbox lives from now, at least
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// A file or directory, here or as SANDBOX:PATH
    source: Place,
    /// Where to, here or as SANDBOX:PATH: a directory that is there takes the source in,
    /// anything else is its new name
    destination: Place,
}

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    Sandbox { id: SandboxId, path: String },
}

impl std::str::FromStr for Place {
    type Err = String;

    /// A name with a colon before any slash is a sandbox's; `./a:b` is a file here.
    fn from_str(text: &str) -> Result<Self, String> {
        let (before, path) = match text.split_once(':') {
            Some((before, path)) if !before.contains('/') => (before, path),
            _ if text.is_empty() => return Err("a path is empty".to_owned()),
            _ => return Ok(Self::Here(PathBuf::from(text))),
        };
        let id = SandboxId::parse_client(before)
            .map_err(|error| format!("{error}; a file of this name is ./{text}"))?;
        if path.is_empty() {
            return Err("the path after the sandbox's ID is missing".to_owned());
        }
        let path = path.to_owned();
        Ok(Self::Sandbox { id, path })
    }
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let (id, copy) = match (args.source, args.destination) {
        (Place::Here(from), Place::Sandbox { id, path }) => (id, Copy::In { from, to: path }),
        (Place::Sandbox { id, path }, Place::Here(to)) => (id, Copy::Out { from: path, to }),
        (Place::Here(_), Place::Here(_)) => {
            anyhow::bail!("one of the two has to be in a sandbox: SANDBOX:PATH")
        }
        (Place::Sandbox { .. }, Place::Sandbox { .. }) => {
            anyhow::bail!("copy from one sandbox to another by way of a directory here")
        }
    };
    let client = client(settings)?;
    let timeout = Duration::from_secs(args.timeout);
    let sandbox = client.sandbox_connect(&id, Some(timeout)).await?;
    let agent = client.with_timeout(CALL_LIMIT).sandbox_client(&sandbox)?;
    let guest = Guest {
        agent,
        user: args.user,
    };
    match copy {
        Copy::In { from, to } => copy_in(&guest, &from, &to).await?,
        Copy::Out { from, to } => copy_out(&guest, &from, &to).await?,
    }
    Ok(ExitCode::SUCCESS)
}

enum Copy {
    In { from: PathBuf, to: String },
    Out { from: String, to: PathBuf },
}

/// A sandbox, and whom its files are read and written as.
struct Guest {
    agent: SandboxClient,
    user: Option<String>,
}

impl Guest {
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program).args(args.iter().copied());
        command.user.clone_from(&self.user);
        command
    }

    async fn is_directory(&self, path: &str) -> anyhow::Result<bool> {
        let test = self.command("test", &["-d", path]);
        Ok(self.agent.run(test).await?.exit.code == 0)
    }
}

async fn copy_in(guest: &Guest, from: &Path, to: &str) -> anyhow::Result<()> {
    let name = || {
        let whole = from.canonicalize().with_context(|| cannot_read(from))?;
        let name = whole.file_name().and_then(|name| name.to_str());
        let name = name.map(str::to_owned);
        name.with_context(|| format!("{} has no name that a sandbox could use", from.display()))
    };
    let kind = std::fs::metadata(from).with_context(|| cannot_read(from))?;
    let into = to.ends_with('/') || guest.is_directory(to).await?;
    let target = if into {
        format!("{}/{}", to.trim_end_matches('/'), name()?)
    } else {
        to.to_owned()
    };
    if kind.is_dir() {
        return tree::send(guest, from, &target).await;
    }
    let file = tokio::fs::File::open(from)
        .await
        .with_context(|| cannot_read(from))?;
    guest
        .agent
        .file_upload(file, &target, guest.user.as_deref())
        .await
        .with_context(|| format!("write {target} in the sandbox"))
}

async fn copy_out(guest: &Guest, from: &str, to: &Path) -> anyhow::Result<()> {
    let name = from.trim_end_matches('/').rsplit('/').next();
    let name = name.filter(|name| !matches!(*name, "" | "." | ".."));
    let into = to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/');
    let target = match (into, name) {
        (false, _) => to.to_owned(),
        (true, Some(name)) => to.join(name),
        (true, None) => anyhow::bail!("say under which name {from} is to be kept here"),
    };
    if guest.is_directory(from).await? {
        return tree::fetch(guest, from, &target).await;
    }
    // A device or a pipe takes what is written; it is not to be replaced.
    let target = target.canonicalize().unwrap_or(target);
    if std::fs::metadata(&target).is_ok_and(|kind| !kind.is_file()) {
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .open(&target)
            .await?;
        download(guest, from, &mut file).await?;
        return Ok(());
    }
    // Beside the target, so that a copy that breaks off leaves the old file.
    let directory = directory_of(&target);
    let part = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("write to {}", directory.display()))?;
    let mut file = tokio::fs::File::from_std(part.reopen()?);
    download(guest, from, &mut file).await?;
    open_to_umask(part.path())?;
    part.persist(&target)
        .with_context(|| format!("write {}", target.display()))?;
    Ok(())
}

async fn download(guest: &Guest, from: &str, into: &mut tokio::fs::File) -> anyhow::Result<()> {
    guest
        .agent
        .file_download(from, guest.user.as_deref(), into)
        .await
        .map(drop)
        .with_context(|| format!("read {from} in the sandbox"))
}

/// Gives a file, made for its owner alone, the mode that new files have.
fn open_to_umask(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let mode = 0o666 & !umask.as_raw_mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// The directory that holds the name.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn cannot_read(path: &Path) -> String {
    format!("read {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let id = "iabcdefghij0123456789";
        let there: Place = format!("{id}:/a:b").parse().expect("a place in a sandbox");
        let Place::Sandbox { id: parsed, path } = there else {
            panic!("not in a sandbox")
        };
        assert_eq!((parsed.as_str(), path.as_str()), (id, "/a:b"));
        for here in ["file", "./a:b", "/tmp/x:y", "."] {
            assert_eq!(here.parse(), Ok(Place::Here(PathBuf::from(here))));
        }
        for bad in ["", ":/x", "no id:/x", &format!("{id}:")] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_directory_of_a_bare_name_is_this_one() {
        assert_eq!(directory_of(Path::new("name")), Path::new("."));
        assert_eq!(directory_of(Path::new("/a/b")), Path::new("/a"));
    }
}
