//! Which kernel modules the guest needs, and in which order they load.
//!
//! The package's tree has no `modules.dep` (the host's `depmod` would write it at
//! installation), so the order comes from the modules themselves: the `depends=`
//! field of their `.modinfo` section. What is built into the kernel
//! (`modules.builtin`) needs no file.

use super::elf::Elf;
use crate::Error;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// What the guest needs before its root disk and network exist, and the overlay
/// file system. Written as the kernel knows them: with underscores.
pub const REQUIRED: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_rng",
    "overlay",
    "ext4",
];

/// Deeper chains of dependencies are taken for a cycle.
const MAX_DEPTH: usize = 32;

/// The modules of one kernel package.
#[derive(Debug)]
pub(super) struct Tree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Reads the tree under `lib/modules/<release>`.
    pub(super) fn read(directory: &Path) -> Result<Self, Error> {
        let list = directory.join("modules.builtin");
        let builtin = std::fs::read_to_string(&list).map_err(Error::io("read", &list))?;
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        Ok(Self {
            files,
            builtin: builtin
                .lines()
                .filter_map(|line| module_name(Path::new(line)))
                .collect(),
        })
    }

    /// The files to load for `wanted`, each after what it depends on.
    /// `read` returns a module's unpacked bytes.
    pub(super) fn closure(
        &self,
        wanted: &[&str],
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<Module>, Error> {
        let mut ordered = Ordered::default();
        for name in wanted {
            self.add(name, &mut read, &mut ordered, 0)?;
        }
        Ok(ordered.modules)
    }

    fn add(
        &self,
        name: &str,
        read: &mut impl FnMut(&Path) -> Result<Vec<u8>, Error>,
        ordered: &mut Ordered,
        depth: usize,
    ) -> Result<(), Error> {
        if self.builtin.contains(name) || ordered.names.contains(name) {
            return Ok(());
        }
        let fault = |why: &str| Error::Module {
            module: name.to_owned(),
            why: why.to_owned(),
        };
        if depth > MAX_DEPTH {
            return Err(fault("its dependencies form a cycle"));
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| fault("neither in the package nor built into the kernel"))?;
        let content = read(path)?;
        let depends = depends(&content).ok_or_else(|| fault("it has no module information"))?;
        for dependency in depends {
            self.add(&dependency, read, ordered, depth + 1)?;
        }
        if ordered.names.insert(name.to_owned()) {
            ordered.modules.push(Module {
                name: name.to_owned(),
                content,
            });
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Ordered {
    names: BTreeSet<String>,
    modules: Vec<Module>,
}

/// A module ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    /// The unpacked `.ko`.
    pub(super) content: Vec<u8>,
}

/// The kernel's name of a module file: `virtio-rng.ko.xz` is `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in std::fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let kind = entry
            .file_type()
            .map_err(Error::io("inspect", entry.path()))?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file()
            && let Some(name) = module_name(&entry.path())
        {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// The names in the module's `depends=` field, or `None` without one.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let information = Elf::parse(module).ok()?.section(".modinfo")?;
    let field = information
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(field).ok()?;
    Some(
        names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(|name| name.replace('-', "_"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relocatable ELF file with one `.modinfo` section.
    fn module(depends: &str) -> Vec<u8> {
        let information = format!("license=GPL\0depends={depends}\0name=x\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0u8; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let information_at = file.len() as u64;
        file.extend_from_slice(information.as_bytes());
        let names_at = file.len() as u64;
        file.extend_from_slice(names);
        let table = file.len() as u64;
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&2u16.to_le_bytes());
        // Null, program data, string table.
        for (name, kind, offset, size) in [
            (0u32, 0u32, 0, 0),
            (1, 1, information_at, information.len() as u64),
            (10, 3, names_at, names.len() as u64),
        ] {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&size.to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    fn tree(modules: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/drivers");
        std::fs::create_dir_all(&kernel).unwrap();
        for (file, depends) in modules {
            std::fs::write(kernel.join(file), module(depends)).unwrap();
        }
        std::fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        let tree = Tree::read(directory.path()).unwrap();
        (directory, tree)
    }

    fn read(path: &Path) -> Result<Vec<u8>, Error> {
        std::fs::read(path).map_err(Error::io("read", path))
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (_directory, tree) = tree(
            &[
                ("virtio.ko", "virtio_ring"),
                ("virtio_ring.ko", ""),
                ("virtio-rng.ko.xz", "virtio,rng-core"),
                ("virtio_net.ko", "virtio,net-failover"),
                ("net-failover.ko", ""),
            ],
            "kernel/drivers/char/hw_random/rng-core.ko\n",
        );
        let names: Vec<_> = tree
            .closure(&["virtio_net", "virtio_rng", "rng_core"], read)
            .unwrap()
            .into_iter()
            .map(|module| module.name)
            .collect();
        assert_eq!(
            names,
            [
                "virtio_ring",
                "virtio",
                "net_failover",
                "virtio_net",
                "virtio_rng"
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_directory, first) = tree(&[("a.ko", "b")], "");
        let error = first.closure(&["a"], read).expect_err("b is missing");
        assert!(error.to_string().contains("module b "), "{error}");

        let (_directory, cycle) = tree(&[("a.ko", "b"), ("b.ko", "a")], "");
        let error = cycle.closure(&["a"], read).expect_err("a cycle");
        assert!(error.to_string().contains("cycle"), "{error}");

        let (directory, third) = tree(&[], "");
        std::fs::write(directory.path().join("kernel/drivers/c.ko"), b"junk").unwrap();
        assert!(third.closure(&["c"], read).is_err());
        let third = Tree::read(directory.path()).unwrap();
        let error = third.closure(&["c"], read).expect_err("junk");
        assert!(error.to_string().contains("module information"), "{error}");
    }
}
