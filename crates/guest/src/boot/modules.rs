//! Loading kernel modules: those in the initramfs, and by name those on the root disk.

use std::ffi::CString;
use std::io;
use std::path::Path;

/// Loads `directory`/name for each line of `order`, in that order. A module
/// that the kernel has already is no error.
pub fn load_all(order: &Path, directory: &Path) -> io::Result<()> {
    let list = match std::fs::read_to_string(order) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in list.lines().map(str::trim).filter(|name| !name.is_empty()) {
        load(&directory.join(name))
            .map_err(|error| io::Error::new(error.kind(), format!("module {name}: {error}")))?;
    }
    Ok(())
}

/// Loads a module of the root disk, with what it needs, by `depmod`'s index. One that the
/// kernel has already is no error.
pub fn load_from_disk(name: &str) -> io::Result<()> {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy().into_owned();
    let directory = Path::new("/lib/modules").join(release);
    let index = std::fs::read_to_string(directory.join("modules.dep"))?;
    let files = needed(&index, name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the kernel has no such module"))?;
    for file in files {
        load(&directory.join(file))
            .map_err(|error| io::Error::new(error.kind(), format!("module {file}: {error}")))?;
    }
    Ok(())
}

/// The files of a module and of what it needs, in the order in which they are loaded.
/// `depmod` lists what is needed in the opposite one.
fn needed<'a>(index: &'a str, name: &str) -> Option<Vec<&'a str>> {
    index.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        let last = file.rsplit('/').next()?;
        let (stem, _) = last.split_once(".ko")?;
        let same = stem.replace('-', "_") == name.replace('-', "_");
        same.then(|| {
            let needs = needs.split_whitespace().rev();
            needs.chain([file]).collect()
        })
    })
}

fn load(path: &Path) -> io::Result<()> {
    /// The kernel unpacks it by itself (`MODULE_INIT_COMPRESSED_FILE`).
    const COMPRESSED: i32 = 4;
    let file = std::fs::File::open(path)?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    match rustix::system::finit_module(&file, &CString::default(), flags) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let index = "kernel/fs/nfs/nfs.ko: kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko\n\
            kernel/fs/nfs/nfsv3.ko.xz: kernel/fs/nfs/nfs.ko kernel/net/sunrpc/sunrpc.ko\n\
            kernel/net/some-thing.ko:\n";
        let files = [
            "kernel/net/sunrpc/sunrpc.ko",
            "kernel/fs/nfs/nfs.ko",
            "kernel/fs/nfs/nfsv3.ko.xz",
        ];
        assert_eq!(needed(index, "nfsv3").unwrap(), files);
        let alone = ["kernel/net/some-thing.ko"];
        assert_eq!(needed(index, "some_thing").unwrap(), alone);
        assert_eq!(needed(index, "nfsv4"), None);
    }
}
