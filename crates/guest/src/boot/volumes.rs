//! Volumes: network file systems of the node (NFS version 3), mounted where the sandbox
//! asked for them.
//!
//! The kernel's client needs nothing kept for it: a guest that is restored, copied or
//! reached by a new daemon finds the same address, connects anew and goes on with the
//! handles that it has. So what is mounted already is left alone.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::modules;

/// How long all mounts together may take.
pub const LIMIT: Duration = Duration::from_secs(10);
/// How long written data may take to get to the node before a snapshot.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
const KIND: &str = "nfs";
/// With all that it needs.
const MODULE: &str = "nfsv3";
const MOUNTS: &str = "/proc/self/mountinfo";
/// Options of the kernel's client.
///
/// - `hard`: a request waits for the node as long as it takes, like one to a disk.
/// - `actimeo=0,lookupcache=pos`: what one sandbox has closed or synced, others see when
///   they open, look up or list it next; written data may wait until then.
/// - `nolock`: locks hold within one sandbox.
/// - `timeo=50`: a silent connection is given up after seconds; a restored guest has one.
const OPTIONS: &str = "vers=3,proto=tcp,mountproto=tcp,mountvers=3,port=2049,mountport=2049,\
    hard,nolock,noacl,rsize=1048576,wsize=1048576,timeo=50,retrans=2,actimeo=0,lookupcache=pos";

/// A volume as `/init` names it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct VolumeMount {
    /// Address and name: `192.0.2.1:/data`.
    pub nfs_target: String,
    /// Where to see it.
    pub path: String,
}

/// Mounts what is not mounted yet, and takes away what is not wanted any more. Blocks.
///
/// # Errors
/// When a volume cannot be mounted; the text names it. Those before it are mounted.
pub fn ensure(wanted: &[VolumeMount]) -> io::Result<()> {
    let present = present()?;
    for mounted in present.iter().rev() {
        let kept = wanted.iter().any(|wanted| mounted.is(wanted));
        if !kept && let Err(error) = remove(&mounted.path) {
            tracing::error!(%error, path = %mounted.path.display(), "unmount volume failed");
        }
    }
    let mut missing: Vec<&VolumeMount> = wanted
        .iter()
        .filter(|wanted| !present.iter().any(|mounted| mounted.is(wanted)))
        .collect();
    // What is above is mounted first: it would hide what is below it.
    missing.sort_by_key(|wanted| Path::new(&wanted.path).components().count());
    for (number, volume) in missing.into_iter().enumerate() {
        if number == 0 {
            load_module();
        }
        attach(volume).map_err(|error| {
            let what = format!("mount {} at {}: {error}", volume.nfs_target, volume.path);
            io::Error::new(error.kind(), what)
        })?;
    }
    Ok(())
}

/// Sends the node what programs have written and it has not got yet: a copy of the guest
/// would otherwise write it once more, later, over what is there then. Waits a while, in
/// which the node may be away; a snapshot is worth more.
pub fn flush() {
    let mounts = match present() {
        Ok(mounts) if mounts.is_empty() => return,
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::error!(%error, "read mounts failed");
            return;
        }
    };
    let (done, waiting) = std::sync::mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("volumes".to_owned())
        .spawn(move || {
            for mount in mounts {
                if let Err(error) = flush_one(&mount.path) {
                    tracing::error!(%error, path = %mount.path.display(), "sync volume failed");
                }
            }
            let _nobody_waits = done.send(());
        });
    if spawned.is_err() || waiting.recv_timeout(FLUSH_LIMIT).is_err() {
        tracing::error!("volumes were not synced in time");
    }
}

fn flush_one(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(rustix::fs::syncfs(root)?)
}

fn load_module() {
    // The kernel asks `modprobe` for it otherwise, which not every image has.
    if let Err(error) = modules::load_from_disk(MODULE) {
        tracing::warn!(%error, module = MODULE, "load kernel module failed");
    }
}

fn attach(volume: &VolumeMount) -> io::Result<()> {
    let path = Path::new(&volume.path);
    if !path.is_absolute() {
        let what = "the path is not absolute";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let (address, _) = volume.nfs_target.split_once(":/").ok_or_else(|| {
        let what = "the target is not an address and a name";
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })?;
    let address: std::net::Ipv4Addr = address
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the target has no address"))?;
    std::fs::create_dir_all(path)?;
    let options = format!("{OPTIONS},addr={address},mountaddr={address}");
    let options = CString::new(options).map_err(io::Error::from)?;
    let target = volume.nfs_target.as_str();
    // There are no devices on a volume.
    let flags = MountFlags::NODEV;
    match rustix::mount::mount(target, path, KIND, flags, Some(options.as_c_str())) {
        Err(rustix::io::Errno::NODEV) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the template's kernel has no NFS client",
        )),
        outcome => Ok(outcome?),
    }
}

/// Whatever has a file open there keeps it, and gets errors instead of waiting for ever.
fn remove(path: &Path) -> io::Result<()> {
    let forced = rustix::mount::unmount(path, UnmountFlags::FORCE);
    match forced {
        Ok(()) => Ok(()),
        Err(_) => Ok(rustix::mount::unmount(path, UnmountFlags::DETACH)?),
    }
}

/// A mounted volume.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    target: OsString,
    path: std::path::PathBuf,
}

impl Mounted {
    fn is(&self, wanted: &VolumeMount) -> bool {
        self.target == *wanted.nfs_target && self.path == Path::new(&wanted.path)
    }
}

fn present() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read(MOUNTS)?))
}

/// The volumes in a list of mounts (`proc_pid_mountinfo(5)`): mounts of network file
/// systems that are ours by the address that only sandboxes' nodes have.
fn parse(mounts: &[u8]) -> Vec<Mounted> {
    const NODE: &[u8] = b"192.0.2.1:/";
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let path = unescape(fields.nth(4)?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let (kind, target) = (fields.next()?, unescape(fields.next()?));
        let ours = kind == KIND.as_bytes() && target.as_bytes().starts_with(NODE);
        ours.then(|| Mounted {
            target,
            path: path.into(),
        })
    };
    mounts
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// Undoes `\040` and its like.
fn unescape(field: &[u8]) -> OsString {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                text.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                text.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_found_among_mounts() {
        let mounts = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            30 21 0:40 / /mnt/my\\040data rw,nodev,relatime shared:7 - nfs 192.0.2.1:/data rw,vers=3\n\
            31 21 0:41 / /mnt/own rw - nfs 10.0.0.1:/data rw\n\
            32 21 0:42 / /tmp rw - tmpfs 192.0.2.1:/data rw\n\
            broken line\n";
        let found = parse(mounts);
        let wanted = VolumeMount {
            nfs_target: "192.0.2.1:/data".to_owned(),
            path: "/mnt/my data".to_owned(),
        };
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].is(&wanted));
        let elsewhere = VolumeMount {
            path: "/mnt/other".to_owned(),
            ..wanted
        };
        assert!(!found[0].is(&elsewhere));
    }

    #[test]
    fn escapes_are_undone_and_others_kept() {
        assert_eq!(unescape(b"a\\040b\\134c\\9"), OsString::from("a b\\c\\9"));
        assert_eq!(unescape(b"\\"), OsString::from("\\"));
    }

    #[test]
    fn targets_and_paths_of_another_kind_are_refused() {
        for (target, path) in [
            ("192.0.2.1:/a", "relative"),
            ("192.0.2.1", "/nowhere"),
            ("node:/a", "/nowhere"),
            ("192.0.2.1,sec=krb5:/a", "/nowhere"),
        ] {
            let volume = VolumeMount {
                nfs_target: target.to_owned(),
                path: path.to_owned(),
            };
            let error = attach(&volume).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{target}");
        }
    }
}
