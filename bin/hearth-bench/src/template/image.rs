//! An image of a registry becomes a file system: pulled from a registry on
//! loopback in this process, verified, unpacked, made into ext4 and checked,
//! beside `tar -x` and `mke2fs -d` of the same layers, which lie on the same disk
//! already and are neither verified nor checked.

use crate::installation::Installation;
use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hearth_measure::{Report, Samples};
use hearth_oci::{Client, Credentials, Reference, Registries, UnpackLimits, tree::Tree};
use hearth_snapshot::Digest;
use sha2::Digest as _;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::{net::TcpListener, process::Command};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub const OURS: &str = "image to ext4";
pub const BASELINE: &str = "tar -x and mke2fs -d";
/// Parts of the whole, in percent: images have a large layer and smaller ones.
const LAYERS: [u64; 4] = [60, 25, 10, 5];
const FILES_PER_DIRECTORY: u64 = 40;
/// One large file for so many bytes of small ones, as libraries are.
const LARGE: u64 = 8 << 20;
const LARGE_EVERY: u64 = 32 << 20;

pub async fn measure(
    installation: &Installation,
    runs: usize,
    mib: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let work = Work::create(&installation.state_dir)?;
    let blobs = work.0.join("blobs");
    fs::create_dir(&blobs)?;
    let layers = {
        let blobs = blobs.clone();
        tokio::task::spawn_blocking(move || make_layers(&blobs, mib << 20)).await??
    };
    eprintln!(
        "an image of {mib} MiB in {} files, {} MiB compressed",
        layers.iter().map(|layer| layer.files).sum::<u64>(),
        layers.iter().map(|layer| layer.bytes.len()).sum::<usize>() >> 20
    );
    let disk_mib = mib + mib / 4 + 1024;
    let (_registry, client, reference) = serve(&layers).await?;
    let [
        mut ours,
        mut tree,
        mut file_system,
        mut theirs,
        mut tar,
        mut mke2fs,
    ] = std::array::from_fn(|_| Samples::default());
    for _ in 0..runs {
        let begun = Instant::now();
        let scratch = work.0.join("ours");
        fs::create_dir(&scratch)?;
        let root = assemble(&client, &reference, &scratch).await?;
        tree.push(begun.elapsed());
        let making = Instant::now();
        let image = scratch.join("rootfs.ext4");
        hearth_builder::make_image(&root, &image, disk_mib, 0, Digest::of(b"bench")).await?;
        file_system.push(making.elapsed());
        ours.push(begun.elapsed());
        fs::remove_dir_all(&scratch)?;

        let scratch = work.0.join("theirs");
        fs::create_dir(&scratch)?;
        let (root, image) = (scratch.join("root"), scratch.join("rootfs.ext4"));
        fs::create_dir(&root)?;
        let begun = Instant::now();
        for layer in &layers {
            run(Command::new("tar")
                .args(["--numeric-owner", "-xpzf"])
                .arg(&layer.path)
                .arg("-C")
                .arg(&root))
            .await?;
        }
        tar.push(begun.elapsed());
        let making = Instant::now();
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"])
            .arg(&root)
            .arg(&image)
            .arg(format!("{disk_mib}M")))
        .await?;
        mke2fs.push(making.elapsed());
        theirs.push(begun.elapsed());
        fs::remove_dir_all(&scratch)?;
    }
    report.push(OURS, &ours);
    report.push(BASELINE, &theirs);
    report.push("pull, verify, unpack", &tree);
    report.push("tar -x", &tar);
    report.push("make and check ext4", &file_system);
    report.push("mke2fs -d", &mke2fs);
    Ok(())
}

/// What a build does with an image, as far as its tree.
async fn assemble(
    client: &Client,
    reference: &Reference,
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let root = scratch.join("root");
    fs::create_dir(&root)?;
    let image = client.resolve(reference, &Credentials::Anonymous).await?;
    let limits = UnpackLimits {
        bytes: u64::MAX,
        entries: u64::MAX,
    };
    let tasks = TaskTracker::new();
    hearth_oci::assemble(client, &image, scratch, Tree::open(&root)?, limits, &tasks).await?;
    Ok(root)
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("run {command:?}"))?;
    anyhow::ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// A directory that goes with it.
struct Work(PathBuf);

impl Work {
    fn create(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(format!("bench-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("hearth: cannot remove {}: {error}", self.0.display());
        }
    }
}

struct Layer {
    path: PathBuf,
    bytes: Bytes,
    files: u64,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

type Answers = Arc<HashMap<String, Bytes>>;

/// A registry that holds the image, and what finds it there.
async fn serve(layers: &[Layer]) -> anyhow::Result<(AbortOnDropHandle<()>, Client, Reference)> {
    let config = Bytes::from_static(br#"{"os":"linux","architecture":"amd64"}"#);
    let mut answers = HashMap::new();
    let mut describe = |bytes: &Bytes| {
        let digest = digest(bytes);
        answers.insert(format!("/v2/bench/image/blobs/{digest}"), bytes.clone());
        serde_json::json!({ "digest": digest, "size": bytes.len() })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": describe(&config),
        "layers": layers.iter().map(|layer| describe(&layer.bytes)).collect::<Vec<_>>(),
    });
    let manifest = Bytes::from(manifest.to_string());
    answers.insert("/v2/bench/image/manifests/latest".to_owned(), manifest);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?.to_string();
    let router = Router::new().fallback(answer).with_state(Arc::new(answers));
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("hearth: the registry ended: {error}");
        }
    });
    let registries = Registries {
        insecure: vec![host.clone()],
        ..Registries::default()
    };
    let reference = format!("{host}/bench/image").parse()?;
    let client = Client::new(&registries)?;
    Ok((AbortOnDropHandle::new(serving), client, reference))
}

async fn answer(State(answers): State<Answers>, uri: axum::http::Uri) -> axum::response::Response {
    match answers.get(uri.path()) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn make_layers(directory: &Path, total: u64) -> anyhow::Result<Vec<Layer>> {
    let mut content = Content::new();
    let mut layers = Vec::new();
    for (number, percent) in LAYERS.iter().enumerate() {
        let compressed = GzEncoder::new(Vec::new(), Compression::fast());
        let mut archive = tar::Builder::new(compressed);
        let (mut left, mut files) = (total * percent / 100, 0);
        let mut until_large = LARGE_EVERY;
        let mut file = Vec::new();
        while left > 0 {
            let size = if until_large == 0 {
                until_large = LARGE_EVERY;
                LARGE
            } else {
                content.size()
            };
            let size = size.min(left);
            left -= size;
            until_large = until_large.saturating_sub(size);
            if files % FILES_PER_DIRECTORY == 0 {
                let path = format!("layer-{number}/{}/", files / FILES_PER_DIRECTORY);
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, path, &[][..])?;
            }
            content.fill(&mut file, usize::try_from(size)?);
            let path = format!(
                "layer-{number}/{}/file-{files}",
                files / FILES_PER_DIRECTORY
            );
            let mut header = header(tar::EntryType::Regular, 0o644, size);
            archive.append_data(&mut header, path, &file[..])?;
            files += 1;
        }
        let bytes = Bytes::from(archive.into_inner()?.finish()?);
        let path = directory.join(format!("{number}.tar.gz"));
        fs::write(&path, &bytes)?;
        layers.push(Layer { path, bytes, files });
    }
    Ok(layers)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

/// The same bytes every time, which compress about as programs and sources do.
struct Content {
    state: u64,
    phrases: Vec<[u8; 16]>,
}

impl Content {
    fn new() -> Self {
        let mut this = Self {
            state: 0x9e37_79b9_7f4a_7c15,
            phrases: Vec::new(),
        };
        this.phrases = (0..512).map(|_| this.noise()).collect();
        this
    }

    /// xorshift64
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn noise(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }

    /// From 64 bytes to 256 KiB, each power of two as likely as another.
    fn size(&mut self) -> u64 {
        let least = 64_u64 << (self.next() % 12);
        least + self.next() % least
    }

    fn fill(&mut self, file: &mut Vec<u8>, size: usize) {
        file.clear();
        while file.len() < size {
            let choice = self.next();
            let piece = match choice % 3 {
                0 => self.noise(),
                _ => self.phrases[usize::try_from(choice >> 32).unwrap_or(0) % 512],
            };
            file.extend_from_slice(&piece);
        }
        file.truncate(size);
    }
}
