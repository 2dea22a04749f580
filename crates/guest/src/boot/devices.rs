//! Device files of drivers that are modules: whoever opens one has the kernel load
//! its module. The list is the kernel package's own (`modules.devname`).

use std::io;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};

/// Names below `/dev` that every user may open, as udev's rules have it; the drivers
/// themselves check what a user may do with them.
const FOR_ALL: [&str; 3] = ["fuse", "net/tun", "vsock"];

/// One line: `fuse fuse c10:229`.
#[derive(Debug, PartialEq, Eq)]
struct Node<'a> {
    name: &'a str,
    kind: FileType,
    major: u32,
    minor: u32,
}

/// Makes the device files of all modules of the kernel that runs. Without modules
/// there are none to make.
pub fn make_all() -> io::Result<()> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let list = Path::new("/lib/modules")
        .join(&*release)
        .join("modules.devname");
    let text = match std::fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for node in text.lines().filter_map(parse) {
        make(&node)?;
    }
    Ok(())
}

fn parse(line: &str) -> Option<Node<'_>> {
    let mut words = line.split_whitespace();
    let (_module, name, device) = (words.next()?, words.next()?, words.next()?);
    let kind = match device.as_bytes().first()? {
        b'c' => FileType::CharacterDevice,
        b'b' => FileType::BlockDevice,
        _ => return None,
    };
    let (major, minor) = device.get(1..)?.split_once(':')?;
    let plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then_some(Node {
        name,
        kind,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn make(node: &Node<'_>) -> io::Result<()> {
    let path = Path::new("/dev").join(node.name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mode = Mode::from_raw_mode(if FOR_ALL.contains(&node.name) {
        0o666
    } else {
        0o600
    });
    let device = rustix::fs::makedev(node.major, node.minor);
    match rustix::fs::mknodat(CWD, &path, node.kind, mode, device) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Whatever the mask is, and of a device that the kernel has made already.
    rustix::fs::chmod(&path, mode)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_strictly() {
        let node = parse("tun net/tun c10:200").expect("a device");
        assert_eq!((node.name, node.major, node.minor), ("net/tun", 10, 200));
        assert_eq!(node.kind, FileType::CharacterDevice);
        let block = parse("loop loop0 b7:0").expect("a device");
        assert_eq!(block.kind, FileType::BlockDevice);
        for line in [
            "# Device nodes to trigger on-demand module loading.",
            "",
            "a ../b c1:2",
            "a /b c1:2",
            "a b x1:2",
            "a b c1",
            "a b cx:2",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
