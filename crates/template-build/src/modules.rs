//! The guest kernel's modules in templates that do not come from `base`: in the tree of
//! an image, and in a parent that was made for another kernel.

use crate::{error::chain, vm::Vm};
use hearth_agent_client::Command;
use hearth_oci::tree::{Attributes, Tree, member_path};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the archive lies in a guest while it is unpacked.
const IN_GUEST: &str = "/var/tmp/hearth-modules.tar";
const PRESENT: &str = "test -e \"/lib/modules/$(uname -r)/modules.dep\"";
const UNPACK: &str = "mkdir -p /lib/modules && tar -xf /var/tmp/hearth-modules.tar -C /lib; \
                      code=$?; rm -f /var/tmp/hearth-modules.tar; exit $code";
/// How long a guest may take to unpack them; emulated processors are slow.
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("send them to the guest")]
    Send(#[source] hearth_agent_client::Error),
    #[error("run a command in the guest")]
    Command(#[from] hearth_agent_client::Error),
    #[error("unpack them in the guest: {0}")]
    Unpack(String),
}

/// Unpacks the archive below `/lib` of a tree.
pub(crate) fn unpack(tree: &mut Tree, archive: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = member_path(&entry.path()?).map(|path| PathBuf::from("lib").join(path));
        let Some(path) = path else { continue };
        let header = entry.header();
        let attributes = Attributes {
            uid: 0,
            gid: 0,
            mode: header.mode()? & 0o777,
            mtime: 0,
        };
        if header.entry_type().is_dir() {
            tree.make_directory(&path, attributes, &[])?;
        } else if header.entry_type().is_file() {
            tree.file(&path, attributes, &[], &mut entry)?;
        }
    }
    Ok(())
}

/// Gives a guest that runs the modules of its kernel, where it lacks them.
pub(crate) async fn ensure(vm: &Vm, archive: &Path) -> Result<bool, Error> {
    let shell = |line: &str| Command::shell(line).user("root").timeout(UNPACK_LIMIT);
    if vm.client().run(shell(PRESENT)).await?.exit.code == 0 {
        return Ok(false);
    }
    vm.file_send(archive, IN_GUEST).await.map_err(Error::Send)?;
    let unpacked = vm.client().run(shell(UNPACK)).await?;
    if unpacked.exit.code != 0 {
        let said = String::from_utf8_lossy(&unpacked.stderr).into_owned();
        return Err(Error::Unpack(said));
    }
    Ok(true)
}

/// One sentence for a build's log.
pub(crate) fn complaint(error: &Error) -> String {
    format!(
        "the template goes without the kernel's modules: {}",
        chain(error)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_follow_the_link_of_a_merged_tree() {
        let work = tempfile::tempdir().unwrap();
        let archive = work.path().join("modules.tar");
        let mut builder = tar::Builder::new(File::create(&archive).unwrap());
        for (name, kind, content) in [
            ("modules/6.1/", tar::EntryType::Directory, &b""[..]),
            (
                "modules/6.1/modules.dep",
                tar::EntryType::Regular,
                b"a.ko:\n",
            ),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(if content.is_empty() { 0o755 } else { 0o644 });
            builder.append_data(&mut header, name, content).unwrap();
        }
        builder.finish().unwrap();
        let root = work.path().join("root");
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        unpack(&mut Tree::open(&root).unwrap(), &archive).unwrap();
        let text = std::fs::read_to_string(root.join("usr/lib/modules/6.1/modules.dep")).unwrap();
        assert_eq!(text, "a.ko:\n");
        assert!(root.join("lib").is_symlink());
    }
}
