//! The guest kernel: the distribution's own, for virtual machines, taken from
//! its package without installing it.
//!
//! The package is downloaded through apt, compared with the hash in the signed
//! index, and unpacked aside. Out of its boot image comes the plain ELF kernel
//! (a microVM enters it directly, by the PVH entry point), out of its module tree the
//! modules that the guest loads before it can see its disk, and the whole tree with
//! its indexes as one archive, which goes into every root file system.

mod bzimage;
mod elf;
mod modules;
mod unpack;

pub use bzimage::{Compression, Payload, payload};
pub use modules::REQUIRED as REQUIRED_MODULES;

use crate::{
    Error, apt,
    artefact::{Key, Ready, Shelf},
    error::blocking,
    progress::{StageProgress, Unit},
    tool::Tool,
};
use elf::Elf;
use hearth_snapshot::{ContentDigest, Digest};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Raised when the way from package to artefact changes.
const RECIPE: &[u8] = b"kernel 2";
const KIND: &str = "kernel";
const VMLINUX: &str = "vmlinux";
/// Archive of `modules/<release>`, to be unpacked below `/lib` of a root file system.
pub const MODULE_TREE: &str = "modules.tar";
const DEPMOD: Tool = Tool::new("depmod", "kmod", 300);
const TAR: Tool = Tool::new("tar", "tar", 300);
/// Packages that mean "the current kernel for virtual machines", in the order in
/// which they are tried: Debian's, then Ubuntu's.
const META_PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-generic",
];
/// Boot images beyond this are refused, in bytes.
const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// The ELF note that carries the PVH entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("the file ends too early")]
    Truncated,
    #[error("it has no x86 setup header")]
    NoSetupHeader,
    #[error("its boot protocol {version:#06x} is older than 2.08")]
    OldProtocol { version: u16 },
    #[error("its payload is packed in an unknown way")]
    UnknownCompression,
    #[error("its payload is packed with {0:?}, which is not supported")]
    UnsupportedCompression(Compression),
    #[error("its payload unpacks to another length than it states")]
    UnpackedLength,
    #[error("the unpacked kernel is not a 64-bit ELF file")]
    NotElf,
    #[error("the kernel has no PVH entry point (CONFIG_PVH is off)")]
    NoPvhEntry,
}

/// The kernel, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The uncompressed ELF kernel.
    pub vmlinux: PathBuf,
    /// The release, such as `6.1.0-56-cloud-amd64`, as `uname -r` says it.
    pub release: String,
    /// The package's version.
    pub version: String,
    /// BLAKE3 of `vmlinux`.
    pub digest: Digest,
    /// Module files in the order in which they load.
    pub modules: Vec<PathBuf>,
    /// All modules of the package with their indexes: [`MODULE_TREE`].
    pub module_tree: PathBuf,
    pub(crate) key: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Details {
    release: String,
    /// The packages used: name, version, SHA-256.
    packages: Vec<(String, String, String)>,
    /// Of the plain kernel file.
    #[serde(flatten)]
    content: ContentDigest,
    /// Names of module files, in the order in which they load.
    modules: Vec<String>,
}

/// Finds or makes the kernel artefact.
pub(crate) async fn prepare(
    shelf: &Shelf,
    archive: &apt::Archive,
    progress: StageProgress<'_>,
) -> Result<Kernel, Error> {
    progress.step("look up the kernel package");
    let packages = resolve(archive).await?;
    let key = key(&packages);
    let found = if packages.is_empty() {
        // apt knows nothing just now: what stands ready still does.
        shelf.find_by_recipe::<Details>(&key).await?
    } else {
        shelf.find::<Details>(&key).await?
    };
    if let Some(ready) = found {
        progress.finished(ready.outcome);
        return finish(ready);
    }
    if packages.is_empty() {
        return Err(Error::Host(format!(
            "apt knows no kernel package (looked for {}); run `apt-get update`, \
             and make sure that the distribution's main archive is among its sources",
            META_PACKAGES.join(", ")
        )));
    }
    let temporary = shelf.temporary()?;
    let assembled = shelf.temporary()?;
    let release = fetch(&packages, temporary.path(), progress).await?;
    progress.step("unpack the kernel");
    let blake3 = unpack_kernel(temporary.path(), &release, assembled.path()).await?;
    let directory = module_directory(temporary.path(), &release)?;
    let modules = unpack_modules(&directory, assembled.path()).await?;
    progress.step("index the kernel's modules");
    pack_tree(
        &directory,
        &release,
        &temporary.path().join("packed"),
        &assembled.path().join(MODULE_TREE),
    )
    .await?;
    let details = Details {
        release,
        packages: packages
            .into_iter()
            .map(|package| (package.name, package.version, package.sha256))
            .collect(),
        content: ContentDigest { blake3 },
        modules,
    };
    let ready = shelf.store(&key, assembled, details).await?;
    progress.finished(ready.outcome);
    finish(ready)
}

fn finish(ready: Ready<Details>) -> Result<Kernel, Error> {
    let version = ready
        .details
        .packages
        .first()
        .map(|(_, version, _)| version.clone())
        .unwrap_or_default();
    Ok(Kernel {
        vmlinux: ready.directory.join(VMLINUX),
        release: ready.details.release,
        version,
        digest: ready.details.content.blake3,
        modules: ready
            .details
            .modules
            .iter()
            .map(|name| ready.directory.join(name))
            .collect(),
        module_tree: ready.directory.join(MODULE_TREE),
        key: ready.key,
    })
}

fn key(packages: &[apt::Package]) -> Key {
    let required = modules::REQUIRED.join(" ");
    let versions: Vec<&[u8]> = packages
        .iter()
        .flat_map(|package| {
            [
                package.name.as_bytes(),
                package.version.as_bytes(),
                package.sha256.as_bytes(),
            ]
        })
        .collect();
    Key::new(KIND, &[RECIPE, required.as_bytes()], &versions)
}

/// The packages that hold the kernel and its modules, the image first; none when
/// apt knows no kernel.
async fn resolve(archive: &apt::Archive) -> Result<Vec<apt::Package>, Error> {
    for meta in META_PACKAGES {
        let Some(meta) = archive.show(meta).await? else {
            continue;
        };
        let Some(image) = meta
            .dependency_names()
            .find(|name| name.starts_with("linux-image-"))
        else {
            continue;
        };
        let Some(image) = archive.show(image).await? else {
            continue;
        };
        // Where the modules are a package of their own, the image depends on it.
        let mut packages = vec![image.clone()];
        for name in image.dependency_names() {
            if name.starts_with("linux-modules-") {
                packages.extend(archive.show(name).await?);
            }
        }
        return Ok(packages);
    }
    Ok(Vec::new())
}

/// Downloads and unpacks the packages under `directory`; returns the release.
async fn fetch(
    packages: &[apt::Package],
    directory: &Path,
    progress: StageProgress<'_>,
) -> Result<String, Error> {
    progress.step("download the kernel package");
    let total = packages.iter().map(|package| package.size_bytes).sum();
    let mut done = 0;
    progress.advanced(done, total, Unit::Bytes);
    for package in packages {
        let file = package.download(directory).await?;
        done += package.size_bytes.unwrap_or_default();
        progress.advanced(done, total, Unit::Bytes);
        apt::unpack(&file, &directory.join("tree")).await?;
    }
    let release = packages[0]
        .name
        .trim_start_matches("linux-image-")
        .trim_start_matches("unsigned-");
    Ok(release.to_owned())
}

/// Writes the plain kernel into `target`; returns its digest.
async fn unpack_kernel(temporary: &Path, release: &str, target: &Path) -> Result<Digest, Error> {
    let image_path = temporary
        .join("tree/boot")
        .join(format!("vmlinuz-{release}"));
    let size = fs::metadata(&image_path)
        .map_err(Error::io("inspect", &image_path))?
        .len();
    if size > MAX_IMAGE_BYTES {
        return Err(Error::Host(format!(
            "the kernel image is longer than {MAX_IMAGE_BYTES} bytes"
        )));
    }
    let image = fs::read(&image_path).map_err(Error::io("read", &image_path))?;
    let payload = payload(&image)?;
    let packed = temporary.join("payload");
    fs::write(&packed, payload.stream).map_err(Error::io("write", &packed))?;
    let vmlinux = target.join(VMLINUX);
    unpack::unpack(payload.compression, &packed, &vmlinux).await?;
    let stated = payload.unpacked_bytes;
    blocking(move || {
        let kernel = fs::read(&vmlinux).map_err(Error::io("read", &vmlinux))?;
        check_kernel(&kernel, stated)?;
        Ok(Digest::of(&kernel))
    })
    .await
}

fn check_kernel(kernel: &[u8], stated_bytes: Option<u32>) -> Result<(), ImageError> {
    if stated_bytes.is_some_and(|stated| u64::from(stated) != kernel.len() as u64) {
        return Err(ImageError::UnpackedLength);
    }
    if !Elf::parse(kernel)?.has_note("Xen", XEN_ELFNOTE_PHYS32_ENTRY) {
        return Err(ImageError::NoPvhEntry);
    }
    Ok(())
}

/// Whether a program needs a dynamic loader to start.
pub(crate) fn needs_interpreter(program: &[u8]) -> bool {
    Elf::parse(program).is_ok_and(|elf| elf.has_interpreter())
}

/// Where the unpacked package has its modules.
fn module_directory(temporary: &Path, release: &str) -> Result<PathBuf, Error> {
    let tree = temporary.join("tree");
    ["lib/modules", "usr/lib/modules"]
        .map(|base| tree.join(base).join(release))
        .into_iter()
        .find(|directory| directory.is_dir())
        .ok_or_else(|| {
            Error::Host(format!(
                "the kernel package of {release} comes without its modules"
            ))
        })
}

/// Moves the package's tree into the new directory `work`, indexes it as an installation
/// would, and writes it to `archive`.
async fn pack_tree(
    directory: &Path,
    release: &str,
    work: &Path,
    archive: &Path,
) -> Result<(), Error> {
    let base = work.join("lib/modules");
    fs::create_dir_all(&base).map_err(Error::io("create", &base))?;
    let target = base.join(release);
    fs::rename(directory, &target).map_err(Error::io("move", directory))?;
    for link in ["build", "source"] {
        // Links to headers that no guest has.
        let _ = fs::remove_file(target.join(link));
    }
    let mut command = DEPMOD.command();
    command.arg("--basedir").arg(work).arg(release);
    DEPMOD.run(command).await?;
    let mut command = TAR.command();
    command
        .args([
            "--create",
            "--sort=name",
            "--mtime=@0",
            "--mode=u=rwX,go=rX",
        ])
        .args(["--owner=0", "--group=0", "--numeric-owner", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(work.join("lib"))
        .arg(format!("modules/{release}"));
    TAR.run(command).await
}

/// Writes the needed modules into `target`; returns their file names in order.
async fn unpack_modules(directory: &Path, target: &Path) -> Result<Vec<String>, Error> {
    let directory = directory.to_owned();
    let target = target.to_owned();
    blocking(move || {
        let modules =
            modules::Tree::read(&directory)?.closure(modules::REQUIRED, unpack::read_module)?;
        let mut names = Vec::with_capacity(modules.len());
        for module in modules {
            let name = format!("{}.ko", module.name);
            let path = target.join(&name);
            fs::write(&path, module.content).map_err(Error::io("write", path))?;
            names.push(name);
        }
        Ok(names)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_must_be_what_the_image_says() {
        assert_eq!(
            check_kernel(b"abc", Some(4)),
            Err(ImageError::UnpackedLength)
        );
        assert_eq!(check_kernel(b"abc", Some(3)), Err(ImageError::NotElf));
        let program = fs::read("/proc/self/exe").unwrap();
        assert_eq!(check_kernel(&program, None), Err(ImageError::NoPvhEntry));
    }
}
