use super::*;
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::{
    Accelerator, Component, Corruption, CpuRequirement, DEVICE_STATE_FILE, Digest, EngineVersion,
    FileRole, Inputs, Kind, MANIFEST_FILE, MEMORY_FILE, ROOTFS_FILE, Shape,
};
use std::{collections::HashSet, fs::File, os::unix::fs::FileExt};

mod holds;

const MIB: u64 = 1 << 20;

fn draft() -> Draft {
    let component = |version: &str| Component::new(version, Digest::of(version.as_bytes()));
    Draft {
        kind: Kind::Template,
        name: Some("base".to_owned()),
        shape: Shape {
            vcpus: 2,
            memory_mib: 4,
            disk_mib: 8,
        },
        engine: EngineVersion {
            name: "qemu".to_owned(),
            version: "7.2".to_owned(),
        },
        cpu: CpuRequirement {
            accelerator: Accelerator::Tcg,
            model: "max".to_owned(),
            features: Vec::new(),
        },
        inputs: Inputs {
            kernel: component("k"),
            initramfs: component("i"),
            agent: component("a"),
            rootfs: component("r"),
            key: Digest::of(b"key"),
        },
        parents: Vec::new(),
        files: vec![
            (FileRole::Memory, MEMORY_FILE.to_owned()),
            (FileRole::DeviceState, DEVICE_STATE_FILE.to_owned()),
            (FileRole::Rootfs, ROOTFS_FILE.to_owned()),
        ],
    }
}

fn fill(staging: &Staging) {
    let write = |name: &str, size: u64, text: &[u8]| {
        let file = File::create(staging.directory().join(name)).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(text, size / 2).unwrap();
    };
    write(MEMORY_FILE, 4 * MIB, b"memory");
    write(DEVICE_STATE_FILE, 3000, b"devices");
    write(ROOTFS_FILE, 8 * MIB, b"disk");
}

async fn published(store: &LocalStore) -> Build {
    let staging = store.stage(BuildId::random()).await.unwrap();
    fill(&staging);
    store.publish(staging, draft()).await.unwrap()
}

fn store() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path().join("builds")).unwrap();
    (directory, store)
}

fn staging_entries(store: &LocalStore) -> usize {
    fs::read_dir(store.root().join(STAGING)).unwrap().count()
}

#[tokio::test]
async fn a_published_build_is_whole_and_listed() {
    let (_directory, store) = store();
    let build = published(&store).await;
    let id = build.manifest.build_id;
    assert_eq!(staging_entries(&store), 0);
    assert_eq!(store.list().await.unwrap(), vec![build.manifest.clone()]);
    let opened = store.open(id).await.unwrap();
    assert_eq!(opened.manifest, build.manifest);
    assert_eq!(fs::metadata(opened.memory_path()).unwrap().len(), 4 * MIB);
    assert!(opened.rootfs_path().starts_with(store.root()));
    store.verify(id).await.unwrap();

    store.remove(id).await.unwrap();
    assert!(store.list().await.unwrap().is_empty());
    assert!(matches!(store.open(id).await, Err(Error::NotFound(_))));
    assert!(matches!(store.remove(id).await, Err(Error::NotFound(_))));
    assert_eq!(staging_entries(&store), 0);
}

#[tokio::test]
async fn an_abandoned_staging_leaves_nothing() {
    let (_directory, store) = store();
    let staging = store.stage(BuildId::random()).await.unwrap();
    fill(&staging);
    assert!(store.list().await.unwrap().is_empty());
    drop(staging);
    assert_eq!(staging_entries(&store), 0);
}

#[tokio::test]
async fn a_contradicting_draft_is_not_published() {
    let (_directory, store) = store();
    for change in [
        (|draft: &mut Draft| draft.shape.memory_mib = 5) as fn(&mut Draft),
        |draft| draft.files[0].1 = "../memory.img".to_owned(),
        |draft| drop(draft.files.pop()),
    ] {
        let staging = store.stage(BuildId::random()).await.unwrap();
        fill(&staging);
        let mut draft = draft();
        change(&mut draft);
        assert!(matches!(
            store.publish(staging, draft).await,
            Err(Error::Draft(_))
        ));
    }
    let staging = store.stage(BuildId::random()).await.unwrap();
    assert!(matches!(
        store.publish(staging, draft()).await,
        Err(Error::Io { .. })
    ));
    assert!(store.list().await.unwrap().is_empty());
    assert_eq!(staging_entries(&store), 0);
}

#[tokio::test]
async fn one_id_is_published_once() {
    let (_directory, store) = store();
    let id = BuildId::random();
    let first = store.stage(id).await.unwrap();
    let second = store.stage(id).await.unwrap();
    fill(&first);
    fill(&second);
    let build = store.publish(first, draft()).await.unwrap();
    assert!(matches!(
        store.publish(second, draft()).await,
        Err(Error::Exists(_))
    ));
    assert!(matches!(store.stage(id).await, Err(Error::Exists(_))));
    assert_eq!(store.open(id).await.unwrap().manifest, build.manifest);
    assert_eq!(staging_entries(&store), 0);
}

/// What a dead process leaves is swept, what a living one uses is not.
#[tokio::test]
async fn only_leftovers_are_swept() {
    let (_directory, store) = store();
    let alive = store.stage(BuildId::random()).await.unwrap();
    let base = store.root().join(STAGING);
    for name in ["left-1", "removed-2"] {
        fs::create_dir(base.join(name)).unwrap();
        fs::write(base.join(name).join("memory.img"), b"x").unwrap();
    }
    fs::write(base.join("left-1.lock"), b"").unwrap();
    fs::write(base.join("gone-3.lock"), b"").unwrap();
    let again = LocalStore::open(store.root()).unwrap();
    assert_eq!(staging_entries(&again), 2);
    fill(&alive);
    store.publish(alive, draft()).await.unwrap();
    assert_eq!(again.list().await.unwrap().len(), 1);
    assert_eq!(staging_entries(&again), 0);
}

fn corruption(result: Result<impl std::fmt::Debug, Error>) -> (String, Corruption) {
    match result.expect_err("the damage is found") {
        Error::Corrupt { file, why, .. } => (file, why),
        other => panic!("unexpected error {other:?}"),
    }
}

#[tokio::test]
async fn truncation_and_loss_are_found_on_open() {
    let (_directory, store) = store();
    let build = published(&store).await;
    let id = build.manifest.build_id;
    let disk = build.rootfs_path();
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(MIB)
        .unwrap();
    assert_eq!(
        corruption(store.open(id).await),
        (
            ROOTFS_FILE.to_owned(),
            Corruption::Size {
                expected: 8 * MIB,
                found: MIB
            }
        )
    );
    assert!(store.list().await.unwrap().is_empty());
    fs::remove_file(&disk).unwrap();
    assert_eq!(corruption(store.open(id).await).1, Corruption::Missing);
    std::os::unix::fs::symlink("/etc/passwd", &disk).unwrap();
    assert_eq!(corruption(store.open(id).await).1, Corruption::NotAFile);
}

#[tokio::test]
async fn changed_bytes_are_found_by_verify() {
    let (_directory, store) = store();
    let build = published(&store).await;
    let id = build.manifest.build_id;
    File::options()
        .write(true)
        .open(build.memory_path())
        .unwrap()
        .write_all_at(b"M", 2 * MIB)
        .unwrap();
    store.open(id).await.unwrap();
    assert_eq!(
        corruption(store.verify(id).await),
        (MEMORY_FILE.to_owned(), Corruption::Digest)
    );
}

#[tokio::test]
async fn a_manifest_of_another_build_or_none_is_refused() {
    let (_directory, store) = store();
    let build = published(&store).await;
    let other = BuildId::random();
    fs::create_dir(store.root().join(other.to_string())).unwrap();
    assert_eq!(corruption(store.open(other).await).1, Corruption::Missing);
    fs::copy(
        build.directory().join(MANIFEST_FILE),
        store.root().join(other.to_string()).join(MANIFEST_FILE),
    )
    .unwrap();
    let (_, why) = corruption(store.open(other).await);
    assert!(matches!(why, Corruption::Manifest(text) if text.contains("belongs to")));
    let long = File::create(build.directory().join(MANIFEST_FILE)).unwrap();
    long.set_len(MAX_MANIFEST_BYTES + 1).unwrap();
    let (_, why) = corruption(store.open(build.manifest.build_id).await);
    assert!(matches!(why, Corruption::Manifest(text) if text.contains("longer")));
}

#[tokio::test]
async fn a_build_is_taken_over_whole_or_not_at_all() {
    let (_first_directory, first) = store();
    let (_second_directory, second) = store();
    let build = published(&first).await;
    let id = build.manifest.build_id;
    let details = crate::TemplateDetails {
        user: "root".to_owned(),
        ..Default::default()
    };
    details.save(build.directory()).unwrap();
    let taken = second.import(&build).await.unwrap();
    assert_eq!(
        crate::TemplateDetails::load(taken.directory()).unwrap(),
        details
    );
    assert_eq!(taken.manifest.files, build.manifest.files);
    assert_eq!(taken.manifest.inputs, build.manifest.inputs);
    second.verify(id).await.unwrap();
    assert!(taken.directory().starts_with(second.root()));
    second.import(&build).await.unwrap();

    second.remove(id).await.unwrap();
    File::options()
        .write(true)
        .open(build.memory_path())
        .unwrap()
        .write_all_at(b"M", 2 * MIB)
        .unwrap();
    assert_eq!(
        corruption(second.import(&build).await),
        (MEMORY_FILE.to_owned(), Corruption::Digest)
    );
    assert!(matches!(second.open(id).await, Err(Error::NotFound(_))));
    assert_eq!(staging_entries(&second), 0);
}

/// Publishes a small build over others, as a paused sandbox's.
async fn layered(store: &LocalStore, kind: Kind, below: &[BuildId]) -> Build {
    layered_with(store, kind, below, |_| {}).await
}

async fn layered_with(
    store: &LocalStore,
    kind: Kind,
    below: &[BuildId],
    change: impl FnOnce(&mut crate::difference::Index),
) -> Build {
    let staging = store.stage(BuildId::random()).await.unwrap();
    let directory = staging.directory();
    fs::write(directory.join(crate::SECRETS_FILE), b"{}").unwrap();
    fs::write(directory.join(DEVICE_STATE_FILE), b"devices").unwrap();
    let data = File::create(directory.join(crate::MEMORY_DIFFERENCE_FILE)).unwrap();
    let ranges = [0..4096, 8192..12288];
    let mut disk = crate::DiskBlocks::default();
    let written = crate::difference::write(&data, 4 * MIB, &ranges, &mut disk, |offset, buffer| {
        buffer.fill(1 + u8::try_from(offset / 4096).unwrap());
        Ok(())
    });
    let mut index = written.unwrap().index;
    change(&mut index);
    fs::write(directory.join(crate::MEMORY_INDEX_FILE), index.encode()).unwrap();
    fs::create_dir(directory.join("disk-0")).unwrap();
    fs::write(directory.join("disk-0/index"), b"index").unwrap();
    let disk = File::create(directory.join("disk-0/data")).unwrap();
    disk.set_len(8 * MIB).unwrap();
    let below = Below {
        memory: below.to_vec(),
        disk: below.to_vec(),
    };
    let draft = Draft {
        kind,
        name: None,
        parents: below.parents(),
        files: vec![
            (
                FileRole::MemoryDifference,
                crate::MEMORY_DIFFERENCE_FILE.to_owned(),
            ),
            (FileRole::MemoryIndex, crate::MEMORY_INDEX_FILE.to_owned()),
            (FileRole::DeviceState, DEVICE_STATE_FILE.to_owned()),
            (FileRole::DiskIndex, "disk-0/index".to_owned()),
            (FileRole::DiskData, "disk-0/data".to_owned()),
            (FileRole::Secrets, crate::SECRETS_FILE.to_owned()),
        ],
        ..draft()
    };
    store.publish_over(staging, draft, below).await.unwrap()
}

#[tokio::test]
async fn a_stack_is_put_together_or_its_damage_named() {
    let (_directory, store) = store();
    let base = published(&store).await;
    let base = base.manifest.build_id;
    let low = layered(&store, Kind::Snapshot, &[base]).await;
    let low_id = low.manifest.build_id;
    let top = layered(&store, Kind::Pause, &[low_id, base]).await;
    let stack = store.stack(top.manifest.build_id).await.unwrap();
    assert_eq!(stack.memory_chain(), [top.manifest.build_id, low_id, base]);
    let memory = stack.memory.unwrap();
    assert_eq!(memory.files.len(), 2);
    // The upper one hides the whole of the lower one.
    assert!(memory.pieces.iter().all(|piece| piece.file == 0));
    let layers = [
        low.directory().join("disk-0"),
        top.directory().join("disk-0"),
    ];
    assert_eq!(stack.disk.layers, layers);
    store.verify(top.manifest.build_id).await.unwrap();

    let name_of = |error: Error| match error {
        Error::Corrupt { build, file, .. } => (build, file),
        other => panic!("{other:?}"),
    };
    // A changed index is found when it is put together, changed pages by reading.
    let index = low.directory().join(crate::MEMORY_INDEX_FILE);
    let good = fs::read(&index).unwrap();
    let mut bad = good.clone();
    bad[45] ^= 1;
    fs::write(&index, &bad).unwrap();
    let error = store.stack(top.manifest.build_id).await.unwrap_err();
    assert_eq!(
        name_of(error),
        (low_id, crate::MEMORY_INDEX_FILE.to_owned())
    );
    fs::write(&index, &good).unwrap();
    let pages = top.directory().join(crate::MEMORY_DIFFERENCE_FILE);
    File::options()
        .write(true)
        .open(&pages)
        .unwrap()
        .write_all_at(b"x", 100)
        .unwrap();
    store.stack(top.manifest.build_id).await.unwrap();
    let error = store.verify_small(&top, 1 << 20).await.unwrap_err();
    assert_eq!(name_of(error).1, crate::MEMORY_DIFFERENCE_FILE);
    File::options()
        .write(true)
        .open(&pages)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = store.stack(top.manifest.build_id).await.unwrap_err();
    assert_eq!(name_of(error).1, crate::MEMORY_DIFFERENCE_FILE);
    // Pages in a disk layer that ends before them, or is not there.
    let end = u32::try_from(8 * MIB / 4096).unwrap();
    for (layer, block, wanted) in [
        (0, end - 2, None),
        (0, end - 1, Some("behind the end")),
        (1, 0, Some("has not")),
    ] {
        let run = crate::difference::Run {
            first_page: 9,
            pages: 2,
            source: crate::difference::Source::Disk { layer, block },
        };
        let below = [low_id, base];
        let build = layered_with(&store, Kind::Pause, &below, |index| index.runs.push(run)).await;
        let stack = store.stack(build.manifest.build_id).await;
        let Some(wanted) = wanted else {
            assert_eq!(stack.unwrap().memory.unwrap().files.len(), 3);
            continue;
        };
        let error = stack.unwrap_err();
        assert!(format!("{error:?}").contains(wanted), "{error:?}");
        assert_eq!(name_of(error).1, crate::MEMORY_INDEX_FILE);
    }
    // Without its base nothing is half-loaded.
    store.remove(base).await.unwrap();
    assert!(matches!(store.stack(low_id).await, Err(Error::NotFound(id)) if id == base));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Collecting removes exactly what neither a lease, nor a live build, nor a
    /// build above one of these needs.
    #[test]
    fn only_needless_builds_are_collected(
        makes in proptest::collection::vec((0usize..8, proptest::prelude::any::<bool>()), 1..7),
        retired in proptest::collection::vec(0usize..8, 0..4),
        leased in proptest::collection::vec(0usize..8, 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, store) = store();
            let mut builds = vec![(published(&store).await.manifest.build_id, Vec::new(), false)];
            for (below, pause) in makes {
                let (id, mut chain, _) = builds[below % builds.len()].clone();
                chain.insert(0, id);
                let kind = if pause { Kind::Pause } else { Kind::Snapshot };
                let build = layered(&store, kind, &chain).await;
                builds.push((build.manifest.build_id, chain, pause));
            }
            let mut free: Vec<bool> = builds.iter().map(|(_, _, pause)| *pause).collect();
            for index in retired {
                let index = index % builds.len();
                let _ = store.retire(builds[index].0).await;
                free[index] = true;
                assert!(matches!(store.open(builds[index].0).await, Err(Error::NotFound(_))));
            }
            let leases: Vec<_> = leased
                .iter()
                .map(|index| store.lease(builds[index % builds.len()].0))
                .collect();
            let mut needed = HashSet::new();
            for (index, (id, chain, _)) in builds.iter().enumerate() {
                if !free[index] || leases.iter().any(|lease| lease.id() == *id) {
                    needed.insert(*id);
                    needed.extend(chain.iter().copied());
                }
            }
            let expected: HashSet<BuildId> =
                builds.iter().map(|(id, _, _)| *id).filter(|id| !needed.contains(id)).collect();
            let would: HashSet<_> = store.garbage().await.unwrap().into_iter().collect();
            assert_eq!(would, expected);
            let removed: HashSet<_> = store.collect().await.unwrap().into_iter().collect();
            assert_eq!(removed, expected);
            for (id, _, _) in &builds {
                assert_eq!(store.stack(*id).await.is_ok(), needed.contains(id));
            }
            assert_eq!(staging_entries(&store), 0);
        });
    }
}

/// Replaces a build's manifest by what `change` makes of it.
fn rewrite(build: &Build, change: impl FnOnce(&mut serde_json::Value)) {
    let path = build.directory().join(MANIFEST_FILE);
    let mut document = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut document);
    fs::write(path, serde_json::to_vec(&document).unwrap()).unwrap();
}

#[tokio::test]
async fn fields_of_a_newer_version_are_read_past_and_copied() {
    let (_directory, from) = store();
    let (_other, to) = store();
    let build = published(&from).await;
    rewrite(&build, |manifest| {
        manifest["signature"] = "abc".into();
        manifest["shape"]["hugepages"] = true.into();
    });
    let build = from.open(build.manifest.build_id).await.unwrap();
    let copy = to.import(&build).await.unwrap();
    let text = fs::read(copy.directory().join(MANIFEST_FILE)).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["signature"], "abc");
    assert_eq!(document["shape"]["hugepages"], true);
    assert_ne!(document["created_at"], serde_json::Value::Null);
    assert_eq!(
        to.open(build.manifest.build_id).await.unwrap().manifest,
        copy.manifest
    );
}
