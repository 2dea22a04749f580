//! The root file system of the `base` template: the host's own distribution
//! release, installed by mmdebstrap through the host's apt sources, made into
//! one ext4 image.
//!
//! Everything dangerous is fenced: mmdebstrap runs in its own mount and process
//! namespaces, so that a build that is killed leaves neither mounts nor running
//! maintainer scripts, and the tree lies in a temporary directory of the shelf.
//! The image is checked by e2fsck before it is used.

mod host;

use crate::{
    Error, apt,
    artefact::{Ready, Shelf, digest_of_parts},
    error::blocking,
    kernel::Kernel,
    progress::{StageProgress, Unit},
    tool::Tool,
    variant::Variant,
};
use hearth_snapshot::{Digest, sparse};
use host::Host;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Raised when the way from packages to image changes; the script below counts
/// by itself.
const RECIPE: &[u8] = b"rootfs 2";
/// What turns a freshly installed tree into the root of `base`.
const SCRIPT: &str = "base.sh";
/// The files of that script, as the names that it knows.
const FILES: &[(&str, &str)] = &[
    (SCRIPT, include_str!("recipe/base.sh")),
    (HOST_PIP, HOST_PIP_TEXT),
    ("node.txt", include_str!("recipe/node.txt")),
];
/// Sourced by recipes: pip inside a tree, with the host's settings.
pub(crate) const HOST_PIP: &str = "host-pip.sh";
pub(crate) const HOST_PIP_TEXT: &str = include_str!("recipe/host-pip.sh");
const IMAGE: &str = "rootfs.ext4";
const APT_DIRECTORY: &str = "/etc/apt";
/// What the template promises, beside what the distribution deems essential.
pub const PACKAGES: &[&str] = &[
    "bash",
    "build-essential",
    "bzip2",
    "ca-certificates",
    "curl",
    "file",
    "fuse3",
    "gh",
    "git",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libnss-myhostname",
    "lsof",
    "nano",
    "ncurses-base",
    "netbase",
    "netcat-openbsd",
    "nftables",
    "openssh-client",
    "procps",
    "python-is-python3",
    "python3",
    "python3-dev",
    "python3-pip",
    "python3-venv",
    "ripgrep",
    "rsync",
    "socat",
    "sqlite3",
    "sudo",
    "tree",
    "tzdata",
    "unzip",
    "wget",
    "xz-utils",
    "zip",
];
/// Documentation and translations stay out, now and in later installations, as
/// in the usual container images; copyright notices stay in.
const DPKG_OPTIONS: &[&str] = &[
    // A sandbox is thrown away, not recovered: no waiting for the disk.
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
];

const MMDEBSTRAP: Tool = Tool::new("setpriv", "util-linux", 1800);
const MKE2FS: Tool = Tool::new("mke2fs", "e2fsprogs", 600);
const E2FSCK: Tool = Tool::new("e2fsck", "e2fsprogs", 600);
const DPKG_QUERY: Tool = Tool::new("dpkg-query", "dpkg", 60);

/// What decides the image beside the packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsConfig {
    /// The size of the disk that a sandbox sees. The image is sparse.
    pub disk_mib: u64,
    /// The servers in the guest's `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
}

/// The image, ready to be booted from. Used read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    pub image: PathBuf,
    /// The distribution release, such as `bookworm`.
    pub release: String,
    /// [`sparse::digest`] of the image.
    pub digest: Digest,
    pub disk_mib: u64,
    /// The installed packages and their versions.
    pub packages: BTreeMap<String, String>,
    pub(crate) key: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Details {
    release: String,
    disk_mib: u64,
    packages: BTreeMap<String, String>,
}

/// Finds or makes a root file system.
pub(crate) async fn build(
    shelf: &Shelf,
    archive: &apt::Archive,
    kernel: &Kernel,
    config: &RootfsConfig,
    variant: &Variant,
    progress: StageProgress<'_>,
) -> Result<Rootfs, Error> {
    progress.step("look up package versions");
    let host = Host::inspect(archive, variant).await?;
    let key = host.key(kernel.key, config, variant);
    let found = if host.versions_known(variant) {
        shelf.find::<Details>(&key).await?
    } else {
        shelf.find_by_recipe::<Details>(&key).await?
    };
    if let Some(ready) = found {
        progress.finished(ready.outcome);
        return finish(ready);
    }
    host.check(variant)?;
    variant.check().await?;
    let temporary = shelf.temporary()?;
    let tree = temporary.path().join("root");
    install(&host, kernel, variant, temporary.path(), &tree, progress).await?;
    progress.step("read the installed versions");
    let packages = installed(&tree).await?;
    let details = Details {
        release: host.codename.clone(),
        disk_mib: config.disk_mib,
        packages,
    };
    let nameservers = config.nameservers.clone();
    let tree_copy = tree.clone();
    blocking(move || configure(&host, &tree_copy, &nameservers)).await?;
    progress.step("make the ext4 image");
    let assembled = shelf.temporary()?;
    make_image(
        &tree,
        &assembled.path().join(IMAGE),
        config.disk_mib,
        0,
        key.key,
    )
    .await?;
    progress.step("store the image");
    blocking(move || {
        let path = temporary.path().to_owned();
        temporary.close().map_err(Error::io("remove", path))
    })
    .await?;
    let ready = shelf.store(&key, assembled, details).await?;
    progress.finished(ready.outcome);
    finish(ready)
}

fn finish(ready: Ready<Details>) -> Result<Rootfs, Error> {
    Ok(Rootfs {
        image: ready.directory.join(IMAGE),
        digest: ready.digest(IMAGE)?,
        release: ready.details.release,
        disk_mib: ready.details.disk_mib,
        packages: ready.details.packages,
        key: ready.key,
    })
}

/// Installs the packages into the new directory `tree`.
async fn install(
    host: &Host,
    kernel: &Kernel,
    variant: &Variant,
    temporary: &Path,
    tree: &Path,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let recipe = temporary.join("base");
    fs::create_dir(&recipe).map_err(Error::io("create", &recipe))?;
    for (name, text) in FILES {
        write_private(&recipe.join(name), text, 0o700)?;
    }
    // The name tells mmdebstrap the form. It may hold credentials.
    let sources = temporary.join("host.sources");
    write_private(&sources, &host.sources.to_deb822(), 0o600)?;
    let settings = temporary.join("apt.conf");
    write_private(&settings, &host.settings.all.join("\n"), 0o600)?;

    let mut command = MMDEBSTRAP.command();
    command
        // Mounts and processes of the build end with it, and it ends with us, even
        // when we are killed.
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(["--mount", "--propagation=private", "--pid", "--fork"])
        .args(["--kill-child", "--", "mmdebstrap", "--verbose"])
        .args(["--mode=root", "--format=directory", "--variant=minbase"])
        // The script cleans up; apt is not run once more for that.
        .arg("--skip=cleanup/apt")
        .arg(format!("--include={}", variant.packages.join(",")))
        .arg(format!("--aptopt={}", settings.display()))
        .arg("--aptopt=Acquire::Languages \"none\"");
    for option in DPKG_OPTIONS {
        command.arg(format!("--dpkgopt={option}"));
    }
    // Packages such as Java's link their manual pages and fail where the folder, which
    // the options above leave out, is not there.
    command.arg("--essential-hook=mkdir -p \"$1/usr/share/man/man1\"");
    command.arg(format!(
        "--customize-hook={} \"$1\" {} {}",
        shell_word(&recipe.join(SCRIPT)),
        shell_word(&recipe),
        shell_word(&kernel.module_tree),
    ));
    if let Some(hook) = variant.hook(temporary).await? {
        command.arg(format!("--customize-hook={hook}"));
    }
    command.arg(&host.codename).arg(tree).arg(&sources);
    progress.step("install packages");
    let mut count = Counter::default();
    MMDEBSTRAP
        .lines(command, |line| {
            if let Some((done, total)) = count.line(line) {
                progress.advanced(done, total, Unit::Items);
            } else if let Some(text) = line.strip_prefix("I: ") {
                progress.step(text.trim_end_matches("..."));
            }
        })
        .await
        .map_err(|error| match error {
            // unshare(1) says it in words; the package is what helps.
            Error::Tool { output, .. } if output.contains("failed to execute mmdebstrap") => {
                Error::ToolMissing {
                    tool: "mmdebstrap",
                    package: "mmdebstrap",
                }
            }
            other => other,
        })
}

/// Counts packages out of apt's and dpkg's messages: each is unpacked and set up.
#[derive(Debug, Default)]
struct Counter {
    done: u64,
    announced: u64,
}

impl Counter {
    fn line(&mut self, line: &str) -> Option<(u64, Option<u64>)> {
        if line.starts_with("Unpacking ") || line.starts_with("Setting up ") {
            self.done += 1;
        } else if let Some((_, rest)) = line.split_once(" upgraded, ")
            && let Some(count) = rest.split_once(" newly installed")
            && let Ok(count) = count.0.trim().parse::<u64>()
        {
            self.announced += 2 * count;
        } else {
            return None;
        }
        // What apt announced may be less than what comes, never by much.
        let total = (self.announced >= self.done).then_some(self.announced);
        Some((self.done, total))
    }
}

/// The versions that ended up in the tree.
async fn installed(tree: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut command = DPKG_QUERY.command();
    command
        .arg(format!(
            "--admindir={}",
            tree.join("var/lib/dpkg").display()
        ))
        .args(["--show", "--showformat=${Package} ${Version}\n"]);
    let text = DPKG_QUERY.text(command).await?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

/// What depends on the host: apt's sources and name servers in the guest.
fn configure(host: &Host, tree: &Path, nameservers: &[IpAddr]) -> Result<(), Error> {
    let apt = tree.join("etc/apt");
    let lists = apt.join("sources.list.d");
    let _ = fs::remove_file(apt.join("sources.list"));
    for entry in fs::read_dir(&lists).map_err(Error::io("list", &lists))? {
        let path = entry.map_err(Error::io("list", &lists))?.path();
        fs::remove_file(&path).map_err(Error::io("remove", path))?;
    }
    let guest = host.sources.without_credentials();
    write(&lists.join("distribution.sources"), &guest.to_deb822())?;
    for key in guest.key_files() {
        let inside = tree.join(key.strip_prefix("/").unwrap_or(&key));
        if !inside.exists() {
            let parent = inside.parent().unwrap_or(tree);
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            fs::copy(&key, &inside).map_err(Error::io("copy", &key))?;
        }
    }
    let mut settings = host.settings.guest.join("\n");
    settings.push_str("\nAcquire::Languages \"none\";\n");
    write(&apt.join("apt.conf.d/99hearth"), &settings)?;
    // mmdebstrap's own note of its options; it may name a proxy.
    let _ = fs::remove_file(apt.join("apt.conf.d/99mmdebstrap"));
    let resolver: String = nameservers
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect();
    let resolv_conf = tree.join("etc/resolv.conf");
    let _ = fs::remove_file(&resolv_conf);
    write(&resolv_conf, &resolver)
}

/// What mke2fs makes by itself.
const USUAL_INODES_PER_MIB: u64 = 64;
/// For what a template's author adds to many files.
const SPARE_INODES: u64 = 16 << 10;

/// Makes the ext4 image of a tree. Its identifiers follow from the key, so that
/// the same inputs give the same file system again. Blocks are shared by nothing.
/// There is room for `files` entries and some more, however small the disk.
///
/// # Errors
/// When the content does not fit, or a tool is missing or fails.
pub async fn make_image(
    tree: &Path,
    image: &Path,
    disk_mib: u64,
    files: u64,
    key: Digest,
) -> Result<(), Error> {
    let uuid = |label: &str| {
        let digest = digest_of_parts(label, &[key.as_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    };
    let (identity, hash_seed): (Uuid, Uuid) = (uuid("file system"), uuid("directory hash"));
    let file = File::create_new(image).map_err(Error::io("create", image))?;
    file.set_len(disk_mib << 20)
        .map_err(Error::io("resize", image))?;
    drop(file);
    let mut command = MKE2FS.command();
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"])
        // Root keeps a little room when a user fills the disk; the journal is
        // small since its whole content is in every snapshot.
        .args(["-m", "1", "-J", "size=16", "-L", "hearth"])
        .args(["-U", &identity.to_string()])
        .arg("-E")
        // All tables are written now (as holes): no kernel thread does it later
        // in every sandbox.
        .arg(format!(
            "hash_seed={hash_seed},lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        ));
    let inodes = files + files / 4 + SPARE_INODES;
    if inodes > disk_mib * USUAL_INODES_PER_MIB {
        command.args(["-N", &inodes.to_string()]);
    }
    command.arg("-d").arg(tree).arg(image);
    MKE2FS.run(command).await?;
    let mut command = E2FSCK.command();
    command.args(["-f", "-n"]).arg(image);
    E2FSCK.run(command).await?;
    let path = image.to_owned();
    blocking(move || {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        sparse::punch_zeros(&file).map_err(Error::io("thin out", path))?;
        Ok(())
    })
    .await
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io("write", path))
}

pub(crate) fn write_private(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::io("write", path))
}

/// A path as one word for the shell.
pub(crate) fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
