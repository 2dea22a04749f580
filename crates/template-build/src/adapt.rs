//! An image's tree becomes a sandbox's root: the default user, a resolver, host
//! names, certificates. All by writing files, none by running anything, so it
//! works for every image alike.

use hearth_oci::tree::{Attributes, Tree};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write as _,
    io,
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Files of an image that are read here are at most so long, in bytes.
const MAX_FILE: u64 = 8 << 20;
const USER: &str = crate::DEFAULT_USER;
const HOME: &str = crate::DEFAULT_WORKDIR;
const FIRST_ID: u32 = 1000;
const LOCAL_CA: &str = "usr/local/share/ca-certificates/hearth-builds.crt";
/// Where distributions keep the bundle that programs read.
const BUNDLES: [&str; 2] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
];

/// What is written into every image.
pub(crate) struct Settings {
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) ca_bundle: Option<String>,
}

/// Distributions that differ in how packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    Debian,
    Alpine,
    Fedora,
    Arch,
}

/// What became known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adapted {
    pub(crate) family: Family,
    /// Packages that it lacks.
    pub(crate) missing: Vec<String>,
}

impl Adapted {
    pub(crate) fn lacks_bash(&self) -> bool {
        self.missing.iter().any(|package| package == "bash")
    }
}

impl Family {
    /// By the distribution's own name. Those that are merely like one of these differ
    /// in what their packages are called, or in whether there are any.
    fn of(id: &str) -> Option<Self> {
        match id {
            "debian" | "ubuntu" | "kali" | "linuxmint" | "raspbian" => Some(Self::Debian),
            "alpine" => Some(Self::Alpine),
            "fedora" | "rhel" | "centos" | "rocky" | "almalinux" | "amzn" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            _ => None,
        }
    }

    /// The package that has a program, if there is one.
    fn package(self, program: &str) -> Option<&str> {
        Some(match (program, self) {
            // Its init is another.
            ("systemctl", Self::Alpine) => return None,
            ("systemctl", _) => "systemd",
            ("sshd", Self::Debian | Self::Fedora) => "openssh-server",
            ("sshd", Self::Alpine | Self::Arch) => "openssh",
            ("chronyd", _) => "chrony",
            ("fusermount3", _) => "fuse3",
            ("nft", _) => "nftables",
            ("ping", Self::Debian) => "iputils-ping",
            ("ping", _) => "iputils",
            // Alpine's `ss` is beside the rest of its package; its own pgrep is there.
            ("ss", Self::Alpine) => "iproute2-ss",
            ("ss", Self::Fedora) => "iproute",
            ("ss", Self::Debian | Self::Arch) => "iproute2",
            ("pgrep", Self::Debian) => "procps",
            ("pgrep", Self::Alpine | Self::Fedora | Self::Arch) => "procps-ng",
            (same, _) => same,
        })
    }

    /// Installs the packages that its argument names, as far as the archive has them.
    pub(crate) fn install_script(self) -> String {
        let functions = match self {
            Self::Debian => include_str!("install/debian.sh"),
            Self::Alpine => include_str!("install/alpine.sh"),
            Self::Fedora => include_str!("install/fedora.sh"),
            Self::Arch => include_str!("install/arch.sh"),
        };
        format!("{functions}{}", include_str!("install/install.sh"))
    }
}

/// Changes the tree. The error is a sentence for the template's author.
pub(crate) fn adapt(tree: &mut Tree, settings: &Settings) -> Result<Adapted, String> {
    let family = family(tree)?;
    let write = |error: io::Error| format!("adapt the image: {error}");
    users(tree).map_err(write)?;
    let mut resolver = String::new();
    for address in &settings.nameservers {
        let _ = writeln!(resolver, "nameserver {address}");
    }
    let hosts =
        "127.0.0.1\tlocalhost\n127.0.1.1\thearth\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    put(tree, "etc/resolv.conf", 0o644, &resolver).map_err(write)?;
    put(tree, "etc/hosts", 0o644, hosts).map_err(write)?;
    put(tree, "etc/hostname", 0o644, "hearth\n").map_err(write)?;
    profile(tree).map_err(write)?;
    let missing = missing(tree, family);
    if let Some(pem) = &settings.ca_bundle {
        certificates(tree, pem).map_err(write)?;
    }
    shared_directories(tree).map_err(write)?;
    for (path, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)] {
        if !tree.exists(path) {
            let attributes = Attributes {
                mode,
                ..owned(0, 0)
            };
            tree.make_directory(Path::new(path), attributes, &[])
                .map_err(write)?;
        }
    }
    Ok(Adapted { family, missing })
}

fn family(tree: &Tree) -> Result<Family, String> {
    const SUPPORTED: &str = "images of Debian, Ubuntu, Alpine, Fedora, RHEL, CentOS, Rocky Linux, \
                             AlmaLinux, Amazon Linux and Arch can become templates";
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let text = text(tree, path).map_err(|error| error.to_string())?;
        if text.is_empty() {
            continue;
        }
        let id = text.lines().find_map(|line| line.strip_prefix("ID="));
        let id = id.unwrap_or("linux").trim().trim_matches(['"', '\'']);
        return Family::of(&id.to_ascii_lowercase()).ok_or_else(|| {
            format!("the image's distribution ID='{id}' is not supported: {SUPPORTED}")
        });
    }
    Err(format!("the image has no /etc/os-release: {SUPPORTED}"))
}

/// What every sandbox has: for its agent and commands, for the questions by which
/// clients tell that a template is ready, and what E2B's templates have, whatever
/// their image.
const PROGRAMS: [&str; 16] = [
    "bash",
    "sudo",
    "tar",
    "curl",
    "ss",
    "pgrep",
    "ping",
    "git",
    "socat",
    "systemctl",
    "sshd",
    "chronyd",
    "fusermount3",
    "iptables",
    "nft",
    // By this name also where busybox has a modprobe, which cannot read every module.
    "kmod",
];
/// What keeps the bundle of certificates.
const TRUST_PROGRAMS: [&str; 2] = ["update-ca-certificates", "update-ca-trust"];

fn missing(tree: &Tree, family: Family) -> Vec<String> {
    let program = |name: &str| {
        ["bin", "usr/bin", "usr/local/bin", "sbin", "usr/sbin"]
            .iter()
            .any(|directory| tree.exists(&format!("{directory}/{name}")))
    };
    let mut missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|name| !program(name))
        .filter_map(|name| family.package(name).map(str::to_owned))
        .collect();
    if !TRUST_PROGRAMS.iter().any(|name| program(name)) {
        missing.push("ca-certificates".to_owned());
    }
    missing
}

fn owned(uid: u32, gid: u32) -> Attributes {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Attributes {
        uid,
        gid,
        mode: 0o644,
        mtime: now.as_secs(),
    }
}

fn put(tree: &mut Tree, path: &str, mode: u32, content: &str) -> io::Result<()> {
    let attributes = Attributes {
        mode,
        ..owned(0, 0)
    };
    tree.write(path, attributes, content.as_bytes())
}

fn text(tree: &Tree, path: &str) -> io::Result<String> {
    let bytes = tree.read(path, MAX_FILE)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Appends lines to a file whose last line may lack its end.
fn append(tree: &mut Tree, path: &str, mode: u32, line: &str) -> io::Result<()> {
    let mut all = text(tree, path)?;
    if !all.is_empty() && !all.ends_with('\n') {
        all.push('\n');
    }
    all.push_str(line);
    all.push('\n');
    put(tree, path, mode, &all)
}

/// The default user: as the image has it, else made, with its group, home and
/// leave to become root.
fn users(tree: &mut Tree) -> io::Result<()> {
    let passwd = text(tree, "etc/passwd")?;
    let group = text(tree, "etc/group")?;
    if passwd.is_empty() {
        put(
            tree,
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/bash\n",
        )?;
    }
    if group.is_empty() {
        put(tree, "etc/group", 0o644, "root:x:0:\n")?;
    }
    let field = |line: &str, index: usize| line.split(':').nth(index).map(str::to_owned);
    let number = |line: &str, index| field(line, index).and_then(|text| text.parse::<u32>().ok());
    let named = |text: &str| {
        text.lines()
            .find(|line| field(line, 0).as_deref() == Some(USER))
            .map(str::to_owned)
    };
    let free = |text: &str| {
        let taken: Vec<u32> = text.lines().filter_map(|line| number(line, 2)).collect();
        (FIRST_ID..)
            .find(|id| !taken.contains(id))
            .unwrap_or(FIRST_ID)
    };
    let (uid, gid, home) = match named(&passwd) {
        Some(line) => {
            let home = field(&line, 5).filter(|home| home.starts_with('/'));
            (
                number(&line, 2).unwrap_or(FIRST_ID),
                number(&line, 3).unwrap_or(FIRST_ID),
                home.unwrap_or_else(|| HOME.to_owned()),
            )
        }
        None => {
            let gid = match named(&group) {
                Some(line) => number(&line, 2).unwrap_or(FIRST_ID),
                None => {
                    let gid = free(&group);
                    append(tree, "etc/group", 0o644, &format!("{USER}:x:{gid}:"))?;
                    gid
                }
            };
            let uid = free(&passwd);
            append(
                tree,
                "etc/passwd",
                0o644,
                &format!("{USER}:x:{uid}:{gid}::{HOME}:/bin/bash"),
            )?;
            if tree.exists("etc/shadow") {
                append(
                    tree,
                    "etc/shadow",
                    0o640,
                    &format!("{USER}:!:19000:0:99999:7:::"),
                )?;
            }
            (uid, gid, HOME.to_owned())
        }
    };
    make_home(tree, home.trim_matches('/'), uid, gid)?;
    // The default directory, whatever home the image's own user has.
    make_home(tree, HOME.trim_matches('/'), uid, gid)?;
    put(
        tree,
        "etc/sudoers.d/hearth-user",
        0o440,
        &format!("{USER} ALL=(ALL:ALL) NOPASSWD:ALL\n"),
    )
}

fn make_home(tree: &mut Tree, home: &str, uid: u32, gid: u32) -> io::Result<()> {
    if tree.exists(home) || home.is_empty() {
        return Ok(());
    }
    let attributes = owned(uid, gid);
    tree.make_directory(
        Path::new(home),
        Attributes {
            mode: 0o755,
            ..attributes
        },
        &[],
    )?;
    for name in tree.names(Path::new("etc/skel"))? {
        let Some(name) = name.to_str() else { continue };
        if let Some(content) = tree.read(&format!("etc/skel/{name}"), MAX_FILE)? {
            tree.write(&format!("{home}/{name}"), attributes, &content)?;
        }
    }
    let bashrc = format!("{home}/.bashrc");
    if !tree.exists(&bashrc) {
        tree.write(&bashrc, attributes, b"# Read by interactive shells.\n")?;
    }
    Ok(())
}

/// Login shells read what the template adds to the profile.
fn profile(tree: &mut Tree) -> io::Result<()> {
    if tree.exists("etc/profile") {
        return Ok(());
    }
    let profile =
        "for file in /etc/profile.d/*.sh; do [ -r \"$file\" ] && . \"$file\"; done\nunset file\n";
    put(tree, "etc/profile", 0o644, profile)
}

/// The default user installs there without becoming root: `npm -g`, `pip`.
fn shared_directories(tree: &mut Tree) -> io::Result<()> {
    for path in ["usr/local", "code"] {
        if !tree.exists(path) {
            let attributes = Attributes {
                mode: 0o777,
                ..owned(0, 0)
            };
            tree.make_directory(Path::new(path), attributes, &[])?;
        }
        tree.open_to_all(Path::new(path))?;
    }
    Ok(())
}

/// Makes the site's certificates trusted by whatever reads the bundle.
fn certificates(tree: &mut Tree, pem: &str) -> io::Result<()> {
    put(tree, LOCAL_CA, 0o644, pem)?;
    // The first path everywhere: builds name it to programs.
    if !tree.exists(BUNDLES[0]) {
        let own = text(tree, BUNDLES[1])?;
        put(tree, BUNDLES[0], 0o644, &own)?;
    }
    for path in BUNDLES {
        if tree.exists(path) {
            append(tree, path, 0o644, pem.trim_end())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
