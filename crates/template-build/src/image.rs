//! Images of registries as a source: pulled, unpacked, adapted to be a sandbox's
//! root, made into ext4, and kept by what they were made of.
//!
//! Whoever names an image is let in by its registry each time, also when the
//! image is here already: the manifest is always asked for, with the caller's
//! own credentials.

use crate::{
    Context, Failure, ImageSource, Part,
    adapt::{self, Adapted},
    cache::State,
    error::chain,
    log::Level,
    modules,
    run::{OUT_OF_DISK, Run},
    steps::{self, Stack, Workbench},
};
use hearth_oci::{Client, Image, Reference, UnpackLimits, Unpacked, tree::Tree};
use hearth_snapshot::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::SystemTime,
};
use uuid::Uuid;

const PART: Part = Part::Base;
/// Changes whenever the same image becomes another root file system.
const RECIPE: &str = "2";
const ROOTFS: &str = "rootfs.ext4";
const DETAILS: &str = "image.json";
const MAX_ENTRIES: u64 = 2_000_000;
/// Of the file system, in bytes.
const BLOCK: u64 = 4096;
/// Room beside an image's content, in MiB, where the usual disk is too small.
const SPARE_MIB: u64 = 1024;

/// What is known of a kept image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Details {
    /// Drawn when the file system was made: layers fit only this one.
    id: Uuid,
    env: Vec<String>,
    adapted: Adapted,
}

pub(crate) async fn stack(
    run: &Run<'_>,
    source: &ImageSource,
    bench: &mut Workbench,
) -> Result<Stack, Failure> {
    let title = format!("[base] FROM {}", source.reference);
    let reference: Reference = source
        .reference
        .parse()
        .map_err(Failure::of(PART, "find the image"))?;
    let client = Client::new(&run.shared.config.registries)
        .map_err(Failure::of(PART, "read the settings of registries"))?;
    let image = client
        .resolve(&reference, &source.credentials)
        .await
        .map_err(|error| Failure::at(PART, chain(&error)))?;
    let root = run.shared.config.state_dir.join("images");
    let key = key(run, &image).to_string();
    let kept = (!run.spec.force).then(|| find(&root, &key)).flatten();
    let (directory, details) = match kept {
        Some(kept) => {
            run.log
                .add(Some(PART), Level::Info, &format!("CACHED {title}"));
            kept
        }
        None => {
            run.log.add(Some(PART), Level::Info, &title);
            make(run, &client, &image, &root, &key).await?
        }
    };
    let rootfs = directory.join(ROOTFS);
    let metadata = fs::metadata(&rootfs).map_err(Failure::of(PART, "read the image"))?;
    let mut stack = Stack {
        image: rootfs,
        size_bytes: metadata.len(),
        below: Vec::new(),
        layers: Vec::new(),
        _lease: None,
        state: State::of(&["image", run.spec.scope.as_str(), &details.id.to_string()]),
        context: context(&details.env),
        start: None,
        forced: run.spec.force,
    };
    complete(run, &mut stack, bench, &details.adapted).await?;
    Ok(stack)
}

/// Everything that decides the file system.
fn key(run: &Run<'_>, image: &Image) -> Digest {
    let config = &run.shared.config;
    let parts = [
        RECIPE.to_owned(),
        image.digest.clone(),
        format!("{:?}", config.nameservers),
        config.ca_bundle.clone().unwrap_or_default(),
        config.guest.kernel_component.blake3.to_string(),
        disk_mib(run, 0).to_string(),
    ];
    Digest::of(parts.join("\0").as_bytes())
}

/// The disk of a template whose image takes so much, in MiB.
fn disk_mib(run: &Run<'_>, content_bytes: u64) -> u64 {
    let limits = &run.shared.config.limits;
    // The file system takes some for itself.
    let content = (content_bytes + content_bytes / 4) >> 20;
    let free = run.spec.min_free_disk_mib.max(SPARE_MIB);
    limits.disk_mib.max(content + free).min(limits.max_disk_mib)
}

fn context(env: &[String]) -> Context {
    let mut context = Context::default();
    for pair in env {
        if let Some((name, value)) = pair.split_once('=')
            && !matches!(name, "" | "HOME" | "USER" | "PWD")
            && !pair.contains('\0')
        {
            context.env.insert(name.to_owned(), value.to_owned());
        }
    }
    context
}

/// The newest file system of this key. Each has a directory of its own, never
/// replaced: layers that were made upon one fit no other.
fn find(root: &Path, key: &str) -> Option<(PathBuf, Details)> {
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(key))
        .filter_map(|entry| {
            let made = fs::metadata(entry.path().join(ROOTFS)).and_then(|data| data.modified());
            Some((made.ok()?, entry.path()))
        })
        .collect();
    found.sort();
    let (_, directory) = found.pop()?;
    let path = directory.join(DETAILS);
    let details = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let used = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = used {
        tracing::debug!(%error, "cannot note the use of an image");
    }
    Some((directory, details))
}

async fn make(
    run: &Run<'_>,
    client: &Client,
    image: &Image,
    root: &Path,
    key: &str,
) -> Result<(PathBuf, Details), Failure> {
    let (tree_path, adapted, unpacked) = pull(run, client, image).await?;
    if unpacked.skipped > 0 {
        let text = format!(
            "{} device files of the image were left out",
            unpacked.skipped
        );
        run.log.add(Some(PART), Level::Warn, &text);
    }
    let text = format!(
        "[base] making the file system: {} files, {} MiB",
        unpacked.entries,
        unpacked.bytes >> 20
    );
    run.log.add(Some(PART), Level::Info, &text);
    let assembled = run.work.join("image");
    let keep = |error: std::io::Error| Failure::at(PART, format!("keep the image: {error}"));
    fs::create_dir(&assembled).map_err(keep)?;
    let id = Uuid::new_v4();
    let rootfs = assembled.join(ROOTFS);
    // A file takes whole blocks.
    let modules = module_bytes(run);
    let content = unpacked.bytes + modules + unpacked.entries * BLOCK;
    let size = disk_mib(run, content);
    let identity = Digest::of(id.as_bytes());
    hearth_builder::make_image(&tree_path, &rootfs, size, unpacked.entries, identity)
        .await
        .map_err(|error| {
            let limit = run.shared.config.limits.max_disk_mib;
            if content >> 20 > limit {
                return too_large(limit);
            }
            Failure::of(PART, "make the file system")(error)
        })?;
    // Nothing waits for its end but the build's own.
    run.tasks
        .spawn_blocking(move || fs::remove_dir_all(tree_path));
    let details = Details {
        id,
        env: image.env.clone(),
        adapted,
    };
    let text = serde_json::to_vec(&details).map_err(|error| keep(error.into()))?;
    fs::write(assembled.join(DETAILS), text).map_err(keep)?;
    let directory = root.join(format!("{key}-{id}"));
    fs::create_dir_all(root)
        .and_then(|()| fs::rename(&assembled, &directory))
        .map_err(keep)?;
    trim(&directory, run.shared.config.limits.cache_bytes);
    Ok((directory, details))
}

/// What the kernel's modules add to an image, in bytes.
fn module_bytes(run: &Run<'_>) -> u64 {
    let archive = run.shared.config.guest.module_tree();
    let metadata = archive.and_then(|path| fs::metadata(path).ok());
    metadata.map_or(0, |metadata| metadata.len())
}

/// Removes images that were used longest ago, but never `newest`.
fn trim(newest: &Path, limit_bytes: u64) {
    let Some(Ok(entries)) = newest.parent().map(fs::read_dir) else {
        return;
    };
    let mut images: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| {
            let used = fs::metadata(entry.path().join(DETAILS)).and_then(|data| data.modified());
            (used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
        })
        .collect();
    images.sort_by(|a, b| b.cmp(a));
    let mut total = 0;
    for (_, path) in images {
        total += crate::cache::allocated(&path);
        if total > limit_bytes && path != newest {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn too_large(limit_mib: u64) -> Failure {
    let text = format!("the image is larger than the {limit_mib} MiB that are allowed");
    Failure::at(PART, text)
}

/// Pulls, unpacks and adapts. The tree lies where only root looks: it holds
/// programs that run as their owner.
async fn pull(
    run: &Run<'_>,
    client: &Client,
    image: &Image,
) -> Result<(PathBuf, Adapted, Unpacked), Failure> {
    let config = &run.shared.config;
    let limit = config.limits.max_disk_mib;
    if image.size() >> 20 > limit {
        return Err(too_large(limit));
    }
    // The layers, the tree, and the file system made of it.
    let room = run.free_disk()?.saturating_sub(image.size()) / 2;
    let limits = UnpackLimits {
        bytes: room.min(limit << 20),
        entries: MAX_ENTRIES,
    };
    if limits.bytes < image.size() {
        return Err(Failure::at(PART, OUT_OF_DISK));
    }
    let text = format!(
        "[base] pulling {} layers, {:.1} MiB",
        image.layers.len(),
        image.size() as f64 / f64::from(1 << 20)
    );
    run.log.add(Some(PART), Level::Info, &text);
    let private = run.work.join("tree");
    let path = private.join("root");
    let make = |path: &Path, mode| fs::DirBuilder::new().mode(mode).create(path);
    make(&private, 0o700)
        .and_then(|()| make(&path, 0o755))
        .map_err(Failure::of(PART, "make room for the image"))?;
    let failed = |error: hearth_oci::Error| match error {
        hearth_oci::Error::TooLarge { .. } if limits.bytes < limit << 20 => {
            Failure::at(PART, OUT_OF_DISK)
        }
        error => Failure::at(PART, chain(&error)),
    };
    let tree = Tree::open(&path).map_err(failed)?;
    let assembled = hearth_oci::assemble(client, image, &run.work, tree, limits, run.tasks);
    let (mut tree, unpacked) = assembled.await.map_err(failed)?;
    let settings = adapt::Settings {
        nameservers: config.nameservers.clone(),
        ca_bundle: config.ca_bundle.clone(),
    };
    let modules = config.guest.module_tree();
    let adapting = run.tasks.spawn_blocking(move || {
        if let Some(archive) = &modules {
            modules::unpack(&mut tree, archive)
                .map_err(|error| format!("give the image the kernel's modules: {error}"))?;
        }
        adapt::adapt(&mut tree, &settings)
    });
    match adapting.await {
        Ok(Ok(adapted)) => Ok((path, adapted, unpacked)),
        Ok(Err(why)) => Err(Failure::at(PART, why)),
        Err(error) => Err(Failure::at(PART, error.to_string())),
    }
}

/// Installs what the image lacks, with its own package manager, as a cached
/// layer. Only bash is needed; the rest is worth a warning.
async fn complete(
    run: &Run<'_>,
    stack: &mut Stack,
    bench: &mut Workbench,
    adapted: &Adapted,
) -> Result<(), Failure> {
    if adapted.missing.is_empty() || !(run.shared.config.install_packages || adapted.lacks_bash()) {
        return Ok(());
    }
    let packages = adapted.missing.join(" ");
    let script = adapted.family.install_script();
    let script = script.as_str();
    let key = stack.state.key(&["complete", script, &packages]);
    // A failure is believed for an hour.
    let hour = chrono::Utc::now().timestamp() / 3600;
    let failed = ["complete", script, &packages, "failed", &hour.to_string()];
    let failed_key = stack.state.key(&failed);
    let title = format!("[base] install {packages}");
    let cache = &run.shared.cache;
    if !stack.forced
        && let Some(layer) = cache.find(key).or_else(|| cache.find(failed_key))
    {
        run.log
            .add(Some(PART), Level::Info, &format!("CACHED {title}"));
        stack.push(layer);
        return Ok(());
    }
    run.log.add(Some(PART), Level::Info, &title);
    let vm = bench.vm(run, stack, PART).await?;
    let mut install = steps::root(run, vm, PART, script, &[&packages], "install packages").await;
    if let Err(failure) = &install
        && adapted.lacks_bash()
    {
        // Perhaps one of the others is to blame.
        let why = failure.message.clone();
        let alone = steps::root(run, vm, PART, script, &["bash"], "install bash").await;
        if let Err(failure) = alone {
            let text = format!(
                "the image has no bash, which sandboxes need, and it could not be installed: {}",
                failure.message
            );
            return Err(Failure::at(PART, text));
        }
        install = Err(Failure::at(PART, why));
    }
    if let Err(failure) = install {
        let text = format!("the template goes without {packages}: {}", failure.message);
        run.log.add(Some(PART), Level::Warn, &text);
        return bench.close_layer(run, stack, failed_key, PART).await;
    }
    bench.close_layer(run, stack, key, PART).await
}
