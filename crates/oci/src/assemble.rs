//! An image becomes a tree: its layers are unpacked in their order, each while
//! those after it are still on their way.
//!
//! The unpacking is a thread of its own, which nothing can take back. Whoever
//! drops the future stops it, and can wait for its end by the tracker.

use crate::{
    Client, Error, Image, Unpacked,
    tree::Tree,
    unpack::{UnpackLimits, unpack},
};
use futures::{StreamExt, TryStreamExt};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Layers that are downloaded at once.
const DOWNLOADS: usize = 3;

/// Downloads an image's layers into `scratch` and unpacks them into `tree`.
///
/// # Errors
/// For a layer that cannot be had, is not what the manifest says, or cannot be
/// unpacked. What the tree holds is then of no use.
pub async fn assemble(
    client: &Client,
    image: &Image,
    scratch: &Path,
    tree: Tree,
    limits: UnpackLimits,
    tasks: &TaskTracker,
) -> Result<(Tree, Unpacked), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let _stops = StopOnDrop(Arc::clone(&stop));
    // Room for all: a slow thread holds no download up.
    let (sender, arrived) = mpsc::channel(image.layers.len().max(1));
    let mut unpacking = tasks.spawn_blocking(move || unpack_all(arrived, tree, limits, &stop));
    let mut downloads = Vec::with_capacity(image.layers.len());
    for (index, layer) in image.layers.iter().enumerate() {
        let path = scratch.join(format!("blob-{index}"));
        downloads.push(async move {
            client.layer(image, layer, &path).await?;
            Ok::<_, Error>(path)
        });
    }
    let pull = async move {
        let mut downloads = futures::stream::iter(downloads).buffered(DOWNLOADS);
        while let Some(path) = downloads.try_next().await? {
            if sender.send(path).await.is_err() {
                // It failed, and says why.
                break;
            }
        }
        Ok::<_, Error>(())
    };
    tokio::pin!(pull);
    tokio::select! {
        pulled = &mut pull => pulled?,
        // Only a failure comes before the last layer.
        unpacked = &mut unpacking => return unpacked?,
    }
    unpacking.await?
}

fn unpack_all(
    mut arrived: mpsc::Receiver<PathBuf>,
    mut tree: Tree,
    limits: UnpackLimits,
    stop: &AtomicBool,
) -> Result<(Tree, Unpacked), Error> {
    let mut so_far = Unpacked::default();
    while let Some(layer) = arrived.blocking_recv() {
        unpack(&layer, &mut tree, limits, &mut so_far, stop)?;
        let _ = fs::remove_file(layer);
    }
    Ok((tree, so_far))
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
