//! Blobs in a directory: `<root>/<first two digits>/<digest>`.
//!
//! A blob is written under another name, flushed and renamed, so it is whole or absent.
//! What a crash left half-written has a name that is no digest: it is passed over, and
//! removed when the place is opened, unless its writer lives.

use super::{BlobError, BlobInfo, BuildBlobs, MAX_BLOB_BYTES, digest_to_put, verified};
use crate::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Where blobs are written. No directory of blobs has this name.
const INCOMING: &str = "incoming";
/// A blob is at most some MiB: whoever has written at one for so long is dead.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileBlobs {
    root: Arc<Path>,
}

impl FileBlobs {
    /// Opens the place in `root`, making the directory if need be.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] when it cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root: PathBuf = root.into();
        let incoming = root.join(INCOMING);
        make_directory(&incoming).map_err(BlobError::unavailable("make room for"))?;
        remove_abandoned(&incoming).map_err(BlobError::unavailable("make room for"))?;
        Ok(Self { root: root.into() })
    }

    /// Runs blocking work on the blocking pool.
    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Path) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .map_err(BlobError::unavailable(doing))?
    }
}

#[async_trait]
impl BuildBlobs for FileBlobs {
    async fn put(&self, content: Bytes) -> Result<Digest, BlobError> {
        let put = move |root: &Path| {
            let digest = digest_to_put(&content)?;
            write(root, digest, &content).map_err(BlobError::unavailable("write"))?;
            Ok(digest)
        };
        self.run("write", put).await
    }

    async fn get(&self, digest: Digest) -> Result<Bytes, BlobError> {
        let get = move |root: &Path| {
            let content = fs::read(path_of(root, digest)).map_err(not_read(digest))?;
            verified(digest, content.into())
        };
        self.run("read", get).await
    }

    async fn range(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.run("read", move |root| read_range(root, digest, range))
            .await
    }

    async fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let list = |root: &Path| list(root).map_err(BlobError::unavailable("list"));
        self.run("list", list).await
    }

    async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        let delete = move |root: &Path| match fs::remove_file(path_of(root, digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BlobError::unavailable("delete")(error))
            }
            _ => Ok(()),
        };
        self.run("delete", delete).await
    }
}

fn path_of(root: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    root.join(&name[..2]).join(name)
}

fn not_read(digest: Digest) -> impl FnOnce(io::Error) -> BlobError {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => BlobError::NotFound(digest),
        _ => BlobError::unavailable("read")(error),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn write(root: &Path, digest: Digest, content: &[u8]) -> io::Result<()> {
    let path = path_of(root, digest);
    // One that is damaged is replaced.
    if fs::read(&path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(root);
    make_directory(directory)?;
    let mut new = tempfile::NamedTempFile::new_in(root.join(INCOMING))?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    File::open(directory)?.sync_all()?;
    File::open(root)?.sync_all()
}

fn read_range(root: &Path, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
    let unavailable = || BlobError::unavailable("read");
    let file = File::open(path_of(root, digest)).map_err(not_read(digest))?;
    let length = file.metadata().map_err(unavailable())?.len();
    if range.is_empty() || range.end > length {
        return Err(BlobError::Range { digest, range });
    }
    let wanted = usize::try_from(range.end - range.start).ok();
    let Some(wanted) = wanted.filter(|wanted| *wanted <= MAX_BLOB_BYTES) else {
        return Err(BlobError::Range { digest, range });
    };
    let mut content = vec![0; wanted];
    file.read_exact_at(&mut content, range.start)
        .map_err(unavailable())?;
    Ok(content.into())
}

fn list(root: &Path) -> io::Result<Vec<BlobInfo>> {
    let mut found = Vec::new();
    for directory in fs::read_dir(root)? {
        let directory = directory?;
        if directory.file_name() == INCOMING || !directory.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(directory.path())? {
            let entry = entry?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let size = match entry.metadata() {
                Ok(metadata) if metadata.is_file() => metadata.len(),
                // Deleted since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
                Ok(_) => continue,
            };
            found.extend(digest.map(|digest| BlobInfo {
                digest,
                size_bytes: size,
            }));
        }
    }
    Ok(found)
}

fn remove_abandoned(incoming: &Path) -> io::Result<()> {
    for entry in fs::read_dir(incoming)? {
        let entry = entry?;
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|written| SystemTime::now().duration_since(written));
        if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
