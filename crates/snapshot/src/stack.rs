//! A build with all that it stands on, ready for use: where its memory and its
//! disk are composed from. Loading one checks that every file is there, has its
//! length, and that the memory's indexes are sound; it never yields a part.

use crate::{
    Build, Corruption, Error, FileRole, MEMORY_INDEX_FILE,
    difference::{Composition, Index, MAX_INDEX_BYTES, over},
    manifest::layer_directory,
};
use hearth_ids::BuildId;
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Stack {
    pub build: Build,
    /// Absent for a build of which only the disk was kept.
    pub memory: Option<Composition>,
    pub disk: DiskStack,
}

/// A whole disk with layers over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStack {
    pub image: PathBuf,
    /// Directories of the layers, the lowest first.
    pub layers: Vec<PathBuf>,
}

impl Stack {
    /// Builds up a stack out of the build and those below it, which `load` finds.
    pub(crate) fn load(
        build: Build,
        load: impl Fn(BuildId) -> Result<Build, Error>,
    ) -> Result<Self, Error> {
        let mut below: HashMap<BuildId, Build> = HashMap::new();
        for id in &build.manifest.parents {
            below.insert(*id, load(*id)?);
        }
        let find =
            |id: &BuildId| -> Result<&Build, Error> { below.get(id).ok_or(Error::NotFound(*id)) };
        let memory = match build.manifest.has_memory() {
            true => Some(memory(&build, &find)?),
            false => None,
        };
        let disk = disk(&build, &find)?;
        Ok(Self {
            build,
            memory,
            disk,
        })
    }

    #[must_use]
    pub fn id(&self) -> BuildId {
        self.build.manifest.build_id
    }

    /// The build's device state; present where memory is.
    #[must_use]
    pub fn device_state_path(&self) -> Option<PathBuf> {
        self.build.file_path(FileRole::DeviceState)
    }

    /// Builds that a further memory difference stands on, nearest first.
    #[must_use]
    pub fn memory_chain(&self) -> Vec<BuildId> {
        let below = self.build.manifest.memory_below.iter().copied();
        std::iter::once(self.id()).chain(below).collect()
    }

    /// Builds that a further disk layer stands on, nearest first.
    #[must_use]
    pub fn disk_chain(&self) -> Vec<BuildId> {
        let below = self.build.manifest.disk_below.iter().copied();
        std::iter::once(self.id()).chain(below).collect()
    }
}

fn memory<'a>(
    build: &'a Build,
    find: &impl Fn(&BuildId) -> Result<&'a Build, Error>,
) -> Result<Composition, Error> {
    let mut pieces = Vec::new();
    let mut files = Vec::new();
    let chain = std::iter::once(Ok(build)).chain(build.manifest.memory_below.iter().map(find));
    for layer in chain {
        let layer = layer?;
        same_shape(build, layer)?;
        if let Some(image) = layer.file_path(FileRole::Memory) {
            return Ok(Composition {
                image,
                files,
                pieces,
            });
        }
        let data = part(layer, FileRole::MemoryDifference)?;
        let index = read_index(layer)?;
        let mut layers = BTreeMap::new();
        let place = files.len();
        files.push(data);
        for (number, length) in index.disk_layers() {
            layers.insert(number, files.len());
            files.push(layer_data(layer, number, length)?);
        }
        // The lowest is put under what is there: nearer builds win.
        pieces = over(&pieces, &index.pieces(place, &layers));
    }
    Err(missing(build, FileRole::Memory))
}

/// The data file of a disk layer in which pages are found, up to this length.
fn layer_data(build: &Build, number: u32, length: u64) -> Result<PathBuf, Error> {
    let name = format!("{}/data", layer_directory(number));
    let mut files = build.manifest.files.iter();
    match files.find(|entry| entry.role == FileRole::DiskData && entry.name == name) {
        // A VM that maps what is behind a file's end dies of it.
        Some(entry) if entry.size_bytes >= length => Ok(build.directory().join(&entry.name)),
        Some(_) => Err(corrupt(
            build,
            MEMORY_INDEX_FILE,
            &format!("it has pages behind the end of {name}"),
        )),
        None => Err(corrupt(
            build,
            MEMORY_INDEX_FILE,
            &format!("it has pages in {name}, which the build has not"),
        )),
    }
}

fn disk<'a>(
    build: &'a Build,
    find: &impl Fn(&BuildId) -> Result<&'a Build, Error>,
) -> Result<DiskStack, Error> {
    let mut layers = Vec::new();
    let chain = std::iter::once(Ok(build)).chain(build.manifest.disk_below.iter().map(find));
    for layer in chain {
        let layer = layer?;
        same_shape(build, layer)?;
        let directories = layer.manifest.disk_layers();
        layers.extend(
            directories
                .iter()
                .rev()
                .map(|name| layer.directory().join(name)),
        );
        if let Some(image) = layer.file_path(FileRole::Rootfs) {
            layers.reverse();
            return Ok(DiskStack { image, layers });
        }
    }
    Err(missing(build, FileRole::Rootfs))
}

fn same_shape(top: &Build, layer: &Build) -> Result<(), Error> {
    let (top, found) = (top.manifest.shape, layer.manifest.shape);
    if (top.memory_mib, top.disk_mib) == (found.memory_mib, found.disk_mib) {
        return Ok(());
    }
    Err(corrupt(
        layer,
        crate::MANIFEST_FILE,
        "its shape is not that of the build on top of it",
    ))
}

fn part(build: &Build, role: FileRole) -> Result<PathBuf, Error> {
    build.file_path(role).ok_or_else(|| missing(build, role))
}

fn missing(build: &Build, role: FileRole) -> Error {
    corrupt(
        build,
        crate::MANIFEST_FILE,
        &format!("it has no file for the role {role:?}, which a build on top needs"),
    )
}

fn corrupt(build: &Build, file: &str, why: &str) -> Error {
    Error::Corrupt {
        build: build.manifest.build_id,
        file: file.to_owned(),
        why: Corruption::Manifest(why.to_owned()),
    }
}

fn read_index(build: &Build) -> Result<Index, Error> {
    let path = part(build, FileRole::MemoryIndex)?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let bytes = read_bounded(&path)?;
    let index = Index::decode(&bytes).map_err(|why| corrupt(build, name, &why))?;
    let manifest = &build.manifest;
    if index.memory_bytes != manifest.shape.memory_mib << 20 {
        return Err(corrupt(build, name, "it is for a memory of another size"));
    }
    let data = manifest.file(FileRole::MemoryDifference);
    if data.is_none_or(|data| data.size_bytes != index.file_bytes()) {
        return Err(corrupt(build, name, "it is not for this build's pages"));
    }
    Ok(index)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes))
        .map_err(Error::io("read", path))?;
    Ok(bytes)
}
