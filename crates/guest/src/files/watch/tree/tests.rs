use std::time::Duration;

use EventType::{
    EVENT_TYPE_CHMOD as CHMOD, EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_REMOVE as REMOVE,
    EVENT_TYPE_RENAME as RENAME, EVENT_TYPE_WRITE as WRITE,
};

use super::*;

struct Scratch {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Scratch {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn watch(&self, recursive: bool) -> Tree {
        let _runtime = self.runtime.enter();
        let root = self.directory.path().to_str().unwrap();
        Tree::open(
            root,
            Options {
                recursive,
                ..Options::default()
            },
        )
        .unwrap()
    }

    /// All changes up to and including one of `last`.
    fn changes_to(&self, tree: &mut Tree, last: &str) -> Vec<(String, EventType)> {
        let mut all = Vec::new();
        self.runtime.block_on(async {
            let wait = async {
                while !all.iter().any(|(name, _)| name == last) {
                    let handle = tree.handle();
                    let mut ready = handle.readable().await.unwrap();
                    let changes = tree.read().unwrap();
                    all.extend(changes.into_iter().map(|change| (change.name, change.kind)));
                    ready.clear_ready();
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait)
                .await
                .expect("the last change");
        });
        all
    }

    fn changes(&self, tree: &mut Tree) -> Vec<(String, EventType)> {
        std::fs::write(self.path("end"), "").unwrap();
        let mut changes = self.changes_to(tree, "end");
        changes.retain(|(name, _)| name != "end");
        std::fs::remove_file(self.path("end")).unwrap();
        changes
    }
}

fn told(list: &[(&str, EventType)]) -> Vec<(String, EventType)> {
    list.iter()
        .map(|(name, kind)| ((*name).to_owned(), *kind))
        .collect()
}

#[test]
fn each_operation_is_told_as_clients_expect() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new();
    let mut tree = scratch.watch(false);
    std::fs::write(scratch.path("a"), "x").unwrap();
    assert_eq!(
        scratch.changes(&mut tree),
        told(&[("a", CREATE), ("a", WRITE)])
    );
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(scratch.path("a"), mode).unwrap();
    let changes = scratch.changes(&mut tree);
    assert_eq!(changes.last().cloned(), told(&[("a", CHMOD)]).pop());
    std::fs::rename(scratch.path("a"), scratch.path("b")).unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(
        changes.ends_with(&told(&[("a", RENAME), ("b", CREATE)])),
        "{changes:?}"
    );
    std::fs::remove_file(scratch.path("b")).unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(changes.ends_with(&told(&[("b", REMOVE)])), "{changes:?}");
    // Not recursive: what happens below is not told.
    std::fs::create_dir(scratch.path("d")).unwrap();
    std::fs::write(scratch.path("d/x"), "x").unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(changes.ends_with(&told(&[("d", CREATE)])), "{changes:?}");
}

#[test]
fn new_directories_are_watched_and_nothing_is_told_twice() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("old")).unwrap();
    let mut tree = scratch.watch(true);
    std::fs::create_dir_all(scratch.path("old/a/b/c")).unwrap();
    std::fs::write(scratch.path("old/a/b/c/f"), "").unwrap();
    let changes = scratch.changes(&mut tree);
    for name in ["old/a", "old/a/b", "old/a/b/c", "old/a/b/c/f"] {
        let count = changes
            .iter()
            .filter(|change| **change == (name.to_owned(), CREATE))
            .count();
        assert_eq!(count, 1, "{name} in {changes:?}");
    }
    std::fs::write(scratch.path("old/a/b/c/f"), "x").unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(
        changes.contains(&("old/a/b/c/f".to_owned(), WRITE)),
        "{changes:?}"
    );
    // Made anew after it was told by reading: it is news again.
    std::fs::remove_file(scratch.path("old/a/b/c/f")).unwrap();
    std::fs::write(scratch.path("old/a/b/c/f"), "").unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(changes.ends_with(&told(&[("old/a/b/c/f", REMOVE), ("old/a/b/c/f", CREATE)])));
}

#[test]
fn moved_directories_keep_being_watched_under_their_new_name() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("a/deep")).unwrap();
    let mut tree = scratch.watch(true);
    std::fs::rename(scratch.path("a"), scratch.path("b")).unwrap();
    assert_eq!(
        scratch.changes(&mut tree),
        told(&[("a", RENAME), ("b", CREATE)])
    );
    std::fs::write(scratch.path("b/deep/f"), "").unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(
        changes.contains(&("b/deep/f".to_owned(), CREATE)),
        "{changes:?}"
    );
    // Out of the tree: no more of it is told.
    let outside = tempfile::tempdir().unwrap();
    std::fs::rename(scratch.path("b"), outside.path().join("b")).unwrap();
    scratch.changes(&mut tree);
    std::fs::write(outside.path().join("b/deep/g"), "").unwrap();
    let changes = scratch.changes(&mut tree);
    assert!(
        !changes.iter().any(|(name, _)| name.contains("deep")),
        "{changes:?}"
    );
    assert_eq!(tree.directories.len(), 1);
}

#[test]
fn only_directories_can_be_watched() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("f"), "").unwrap();
    let _runtime = scratch.runtime.enter();
    let kind = |name: &str| {
        Tree::open(&scratch.path(name), Options::default())
            .unwrap_err()
            .kind
    };
    assert_eq!(kind("f"), Kind::Invalid);
    assert_eq!(kind("missing"), Kind::NotFound);
}
