use super::*;
use std::time::{Duration, Instant};

fn volumes() -> (Volumes, tempfile::TempDir) {
    let state = tempfile::tempdir().expect("a directory");
    (Volumes::open(state.path()).expect("opens"), state)
}

/// Waits until nothing is left to delete.
fn wait_until_deleted(state: &Path) {
    let removed = hearth_layout::volumes_dir(state).join(REMOVED);
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&removed).expect("reads").count() > 0 {
        assert!(Instant::now() < end, "something is left in {removed:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_volume_is_there_from_its_making_to_its_removal() {
    let (volumes, state) = volumes();
    let id = VolumeId::random();
    assert!(volumes.open_tree(id).is_err());
    volumes.create(id).expect("creates");
    assert_eq!(volumes.list().expect("lists"), [id]);
    let again = volumes.create(id).expect_err("is there");
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    std::fs::write(volumes.tree(id).join("file"), "x").expect("writes");
    let tree = volumes.open_tree(id).expect("opens");
    assert!(volumes.remove(id).expect("removes"));
    assert!(!volumes.remove(id).expect("is gone"));
    assert_eq!(volumes.list().expect("lists"), []);
    wait_until_deleted(state.path());
    let left = rustix::fs::statat(&tree, "file", rustix::fs::AtFlags::empty());
    assert_eq!(left.expect_err("is deleted"), rustix::io::Errno::NOENT);
}

#[test]
fn nobody_else_on_the_host_comes_to_a_tree() {
    let (volumes, state) = volumes();
    volumes.create(VolumeId::random()).expect("creates");
    let root = hearth_layout::volumes_dir(state.path());
    let mode = rustix::fs::stat(&root).expect("is there").st_mode;
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_deep_tree_is_deleted_without_depth() {
    let (volumes, state) = volumes();
    let id = VolumeId::random();
    volumes.create(id).expect("creates");
    // Deeper than a path can be and than a process may have descriptors.
    let mut at = volumes.open_tree(id).expect("opens");
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "directory", Mode::RWXU).expect("makes");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, "directory", flags, Mode::empty()).expect("opens");
    }
    volumes.remove(id).expect("removes");
    wait_until_deleted(state.path());
}

#[test]
fn links_are_deleted_and_not_followed() {
    let (volumes, state) = volumes();
    let outside = state.path().join("outside");
    std::fs::create_dir(&outside).expect("makes");
    std::fs::write(outside.join("file"), "keep").expect("writes");
    let id = VolumeId::random();
    volumes.create(id).expect("creates");
    std::os::unix::fs::symlink(&outside, volumes.tree(id).join("link")).expect("links");
    volumes.remove(id).expect("removes");
    wait_until_deleted(state.path());
    assert_eq!(
        std::fs::read(outside.join("file")).expect("is there"),
        b"keep"
    );
}

#[test]
fn the_next_process_ends_what_one_has_begun() {
    let state = tempfile::tempdir().expect("a directory");
    let root = hearth_layout::volumes_dir(state.path());
    for left in [".removed/some/tree/deep", ".staging/half/tree"] {
        std::fs::create_dir_all(root.join(left)).expect("makes");
        std::fs::write(root.join(left).join("file"), "x").expect("writes");
    }
    let volumes = Volumes::open(state.path()).expect("opens");
    wait_until_deleted(state.path());
    assert_eq!(
        std::fs::read_dir(root.join(STAGING))
            .expect("reads")
            .count(),
        0
    );
    assert_eq!(volumes.list().expect("lists"), []);
}

#[test]
fn a_mount_is_written_as_documented() {
    let mount = VolumeMount {
        volume: "6f1c0000-0000-4000-8000-000000000001"
            .parse()
            .expect("an id"),
        name: "data".to_owned(),
        path: "/mnt/data".to_owned(),
    };
    let text = serde_json::to_string(&mount).expect("is text");
    assert_eq!(
        text,
        r#"{"volume":"6f1c0000-0000-4000-8000-000000000001","name":"data","path":"/mnt/data"}"#
    );
    let read: VolumeMount = serde_json::from_str(&text).expect("is read");
    assert_eq!(read, mount);
}

#[test]
fn a_copy_is_like_its_original_and_apart_from_it() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
    let (volumes, _state) = volumes();
    let (from, to) = (VolumeId::random(), VolumeId::random());
    volumes.create(from).expect("creates");
    let tree = volumes.tree(from);
    std::fs::create_dir_all(tree.join("a/b")).expect("makes");
    std::fs::write(tree.join("a/b/file"), "content").expect("writes");
    std::fs::hard_link(tree.join("a/b/file"), tree.join("a/other")).expect("links");
    std::os::unix::fs::symlink("/nowhere", tree.join("link")).expect("links");
    let mode = std::fs::Permissions::from_mode(0o4751);
    std::fs::set_permissions(tree.join("a/b/file"), mode).expect("sets");
    let sparse = std::fs::File::create(tree.join("sparse")).expect("makes");
    sparse.write_all_at(b"end", 8 << 20).expect("writes");
    let fifo = tree.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).expect("makes");
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    std::fs::File::open(tree.join("a"))
        .expect("opens")
        .set_modified(old)
        .expect("sets");

    volumes.copy(from, to).expect("copies");
    let copy = volumes.tree(to);
    let stat = |path: &str| {
        let (one, other) = (tree.join(path), copy.join(path));
        let one = std::fs::symlink_metadata(one).expect("is there");
        let other = std::fs::symlink_metadata(other).expect("is there");
        assert_eq!(
            (one.mode(), one.uid()),
            (other.mode(), other.uid()),
            "{path}"
        );
        assert_eq!(
            (one.len(), one.mtime()),
            (other.len(), other.mtime()),
            "{path}"
        );
        other
    };
    assert_eq!(stat("a").mtime(), 1000);
    assert_eq!(stat("a/b/file").ino(), stat("a/other").ino());
    assert!(stat("sparse").blocks() * 512 < 1 << 20, "holes stay");
    stat("fifo");
    stat("a/b");
    let target = std::fs::read_link(copy.join("link")).expect("is a link");
    assert_eq!(target, Path::new("/nowhere"));
    std::fs::write(copy.join("a/b/file"), "changed").expect("writes");
    let kept = std::fs::read(tree.join("a/b/file")).expect("reads");
    assert_eq!(kept, b"content");

    let again = volumes.copy(from, to).expect_err("is there");
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    let missing = volumes.copy(VolumeId::random(), VolumeId::random());
    assert_eq!(
        missing.expect_err("is missing").kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_copy_ends_when_its_original_or_itself_is_removed() {
    for remove_copy in [false, true] {
        let (volumes, _state) = volumes();
        let (from, to) = (VolumeId::random(), VolumeId::random());
        volumes.create(from).expect("creates");
        let tree = volumes.tree(from);
        // So many that it is not at its end when it is found to have begun.
        for number in 0..20_000 {
            std::fs::write(tree.join(number.to_string()), "x").expect("writes");
        }
        let copied = std::thread::scope(|scope| {
            let copying = scope.spawn(|| volumes.copy(from, to));
            while !volumes.staged(to).exists() && !copying.is_finished() {
                std::thread::yield_now();
            }
            let gone = volumes.remove(if remove_copy { to } else { from });
            assert_eq!(gone.expect("removes"), !remove_copy);
            copying.join().expect("ends")
        });
        let ended = copied.expect_err("ends early");
        assert_eq!(ended.kind(), std::io::ErrorKind::NotFound, "{ended}");
        assert!(!volumes.exists(to), "nothing is left of it");
    }
}
