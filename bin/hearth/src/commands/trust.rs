//! `hearth trust`: makes the system's programs and browsers trust the local
//! authority, and takes that back.
//!
//! Nothing needs it that reads the variables of `hearth env`; it is for browsers
//! and programs started elsewhere. The authority can certify names of Hearth's
//! domain and nothing else, so trusting it gives nothing else away.

use crate::settings::Settings;
use anyhow::{Context, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// How our authorities are called in every store.
const NAME_PREFIX: &str = "Hearth local CA ";
/// What our files in the system's store are called.
const FILE_PREFIX: &str = "hearth-local-ca-";

/// Where distributions take further authorities from, and what reads them.
const SYSTEM_STORES: [(&str, &str, &[&str]); 3] = [
    (
        "/usr/local/share/ca-certificates",
        "update-ca-certificates",
        &[],
    ),
    (
        "/etc/pki/ca-trust/source/anchors",
        "update-ca-trust",
        &["extract"],
    ),
    (
        "/etc/ca-certificates/trust-source/anchors",
        "update-ca-trust",
        &[],
    ),
];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take the trust back, from all stores
    #[arg(long)]
    undo: bool,
    /// Only the system's store
    #[arg(long)]
    system: bool,
    /// Only the browsers of the user who asks (also behind sudo)
    #[arg(long, conflicts_with = "system")]
    browsers: bool,
}

pub fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    if settings.tls.is_public() && !args.undo {
        bail!("hearth.toml names a certificate or its authority: there is none of ours to trust");
    }
    let mut done = 0;
    if !args.browsers {
        done += usize::from(system(settings, args.undo)?);
    }
    if !args.system {
        done += browsers(settings, args.undo)?;
    }
    if done == 0 && !args.undo {
        bail!("nothing was changed");
    }
    if done > 0 && !args.system {
        println!("Browsers that run take it up when they are started again.");
    }
    Ok(ExitCode::SUCCESS)
}

fn system(settings: &Settings, undo: bool) -> anyhow::Result<bool> {
    let found = SYSTEM_STORES
        .iter()
        .find(|(dir, tool, _)| Path::new(dir).is_dir() && have(tool));
    let Some((dir, tool, arguments)) = found else {
        println!("The system's store is of a kind that is not known here: skipped.");
        return Ok(false);
    };
    if !rustix::process::geteuid().is_root() {
        bail!("the system's store belongs to root; --browsers leaves it alone");
    }
    if undo {
        let mut removed = false;
        for entry in std::fs::read_dir(dir).with_context(|| format!("read {dir}"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(FILE_PREFIX) {
                std::fs::remove_file(entry.path())
                    .with_context(|| format!("remove {}", entry.path().display()))?;
                removed = true;
            }
        }
        if !removed {
            println!("The system's store holds no authority of Hearth's.");
            return Ok(false);
        }
    } else {
        // The one that follows, too, when there is one already.
        for authority in authorities(settings)? {
            let path = Path::new(dir).join(format!("{FILE_PREFIX}{}.crt", authority.tag()));
            std::fs::write(&path, &authority.pem)
                .with_context(|| format!("write {}", path.display()))?;
        }
    }
    let status = Command::new(tool)
        .args(*arguments)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("run {tool}"))?;
    if !status.success() {
        bail!("{tool} ended with {status}");
    }
    let word = if undo { "no longer trusts" } else { "trusts" };
    println!("The system {word} Hearth's authority.");
    Ok(true)
}

/// A local authority, as it is to be trusted.
struct Authority {
    pem: String,
    name: String,
}

impl Authority {
    fn tag(&self) -> &str {
        self.name.strip_prefix(NAME_PREFIX).unwrap_or(&self.name)
    }
}

fn authorities(settings: &Settings) -> anyhow::Result<Vec<Authority>> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let file = settings.authority_file();
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("read {} (made by `hearth up`)", file.display()))?;
    text.split_inclusive(END)
        .map(|pem| {
            let name = hearth_tls::common_name(pem.as_bytes())
                .filter(|name| name.starts_with(NAME_PREFIX))
                .with_context(|| format!("{} is no authority of ours", file.display()))?;
            let pem = pem.to_owned();
            Ok(Authority { pem, name })
        })
        .collect()
}

/// Changes every certificate database of the user's browsers; returns how many.
fn browsers(settings: &Settings, undo: bool) -> anyhow::Result<usize> {
    let user = User::who_asks()?;
    if !have("certutil") {
        println!("Browsers' stores need `certutil` (package libnss3-tools): skipped.");
        return Ok(0);
    }
    let mut databases = user.databases();
    let common = user.home.join(".pki/nssdb");
    if !undo && !databases.contains(&common) {
        user.run("mkdir", &["-p", "-m", "700", &common.to_string_lossy()])?;
        user.certutil(&common, &["-N", "--empty-password"])?;
        databases.push(common);
    }
    let mut changed = 0;
    for database in databases {
        let listed = user.certutil(&database, &["-L"])?;
        let mut names: Vec<&str> = listed.lines().filter_map(nickname).collect();
        names.dedup();
        if undo {
            for name in &names {
                user.certutil(&database, &["-D", "-n", name])?;
            }
            changed += usize::from(!names.is_empty());
        } else {
            for authority in authorities(settings)? {
                if names.contains(&authority.name.as_str()) {
                    user.certutil(&database, &["-D", "-n", &authority.name])?;
                }
                // The file may be out of the user's reach: handed over as text.
                user.add(&database, &authority.name, authority.pem.as_bytes())?;
            }
            changed += 1;
        }
        let word = if undo { "does not trust" } else { "trusts" };
        println!("{} {word} Hearth's authority.", database.display());
    }
    Ok(changed)
}

/// Our name in a line of `certutil -L`: `<nickname>   <trust flags>`.
fn nickname(line: &str) -> Option<&str> {
    let (name, _flags) = line.trim_end().rsplit_once(' ')?;
    let name = name.trim();
    name.starts_with(NAME_PREFIX).then_some(name)
}

/// For whom browsers are changed: behind sudo, the user who typed it.
struct User {
    home: PathBuf,
    /// Set when that is not the user of this process.
    name: Option<String>,
}

impl User {
    fn who_asks() -> anyhow::Result<Self> {
        let asker = std::env::var("SUDO_USER")
            .ok()
            .filter(|name| !name.is_empty() && name != "root");
        if let (Some(name), true) = (asker, rustix::process::geteuid().is_root()) {
            let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
            let home = passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(&name))
                    .then(|| fields.nth(4))
                    .flatten()
            });
            let home = home.with_context(|| format!("{name} has no line in /etc/passwd"))?;
            return Ok(Self {
                home: home.into(),
                name: Some(name),
            });
        }
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        Ok(Self {
            home: home.into(),
            name: None,
        })
    }

    /// Certificate databases that are there.
    fn databases(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in [".pki/nssdb", "snap/chromium/current/.pki/nssdb"] {
            found.push(self.home.join(dir));
        }
        for profiles in [
            ".mozilla/firefox",
            "snap/firefox/common/.mozilla/firefox",
            ".var/app/org.mozilla.firefox/.mozilla/firefox",
        ] {
            let entries = std::fs::read_dir(self.home.join(profiles));
            found.extend(
                entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        found.retain(|dir| dir.join("cert9.db").is_file());
        found
    }

    fn certutil(&self, database: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let database = format!("sql:{}", database.display());
        let mut all = vec!["-d", &database];
        all.extend(arguments);
        self.run("certutil", &all)
    }

    fn add(&self, database: &Path, name: &str, pem: &[u8]) -> anyhow::Result<()> {
        use std::io::Write as _;
        let database = format!("sql:{}", database.display());
        let arguments = ["-d", &database, "-A", "-a", "-t", "C,,", "-n", name];
        let mut child = self
            .command("certutil", &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("run certutil")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(pem).context("hand the certificate over")?;
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("certutil ended with {status} for {database}");
        }
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(program, arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!(
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Files are to belong to the user, so the program runs as them.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        match &self.name {
            None => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            Some(name) => {
                let mut command = Command::new("runuser");
                command.args(["-u", name, "--", program]).args(arguments);
                command
            }
        }
    }
}

fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::nickname;

    #[test]
    fn names_are_found_in_certutils_list() {
        let line = "Hearth local CA 00ff12ab                                     C,,  ";
        assert_eq!(nickname(line), Some("Hearth local CA 00ff12ab"));
        assert_eq!(nickname("Certificate Nickname      Trust Attributes"), None);
        assert_eq!(nickname(""), None);
    }
}
