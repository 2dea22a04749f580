use super::{
    room::{KEPT, TEMPORARY},
    *,
};

const KIND: &str = "thing";

fn key(version: &str) -> Key {
    Key::new(KIND, &[b"recipe 1"], &[version.as_bytes()])
}

async fn store(shelf: &Shelf, key: &Key, content: &[u8]) -> Ready<String> {
    let temporary = shelf.temporary().unwrap();
    fs::write(temporary.path().join("file"), content).unwrap();
    shelf
        .store(key, temporary, "details".to_owned())
        .await
        .unwrap()
}

fn content(ready: &Ready<String>) -> Vec<u8> {
    fs::read(ready.directory.join("file")).unwrap()
}

#[test]
fn keys_tell_lists_apart() {
    let one = Key::new(KIND, &[b"ab", b"c"], &[]);
    let two = Key::new(KIND, &[b"a", b"bc"], &[]);
    let three = Key::new("other", &[b"ab", b"c"], &[]);
    assert_ne!(one.key, two.key);
    assert_ne!(one.key, three.key);
    assert_eq!(key("1").recipe, key("2").recipe);
    assert_ne!(key("1").key, key("2").key);
}

#[tokio::test]
async fn an_artefact_is_found_again_and_by_recipe() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), None).await.unwrap();
    assert!(shelf.find::<String>(&key("1")).await.unwrap().is_none());
    assert_eq!(
        store(&shelf, &key("1"), b"one").await.outcome,
        Outcome::Built
    );
    let found = shelf.find::<String>(&key("1")).await.unwrap().unwrap();
    assert_eq!(
        (found.outcome, content(&found)),
        (Outcome::Present, b"one".to_vec())
    );
    assert_eq!(found.digest("file").unwrap(), {
        let file = File::open(found.directory.join("file")).unwrap();
        sparse::digest(&file).unwrap()
    });
    assert!(shelf.find::<String>(&key("2")).await.unwrap().is_none());
    let by_recipe = shelf
        .find_by_recipe::<String>(&key("unknown"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by_recipe.key, key("1").key);
}

#[tokio::test]
async fn the_cache_outlives_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let shelf = Shelf::open(&directory.path().join("one"), Some(&cache))
        .await
        .unwrap();
    store(&shelf, &key("1"), b"one").await;
    drop(shelf);
    let shelf = Shelf::open(&directory.path().join("two"), Some(&cache))
        .await
        .unwrap();
    let found = shelf.find::<String>(&key("1")).await.unwrap().unwrap();
    assert_eq!(
        (found.outcome, content(&found)),
        (Outcome::FromCache, b"one".to_vec())
    );
    let again = shelf.find::<String>(&key("1")).await.unwrap().unwrap();
    assert_eq!(again.outcome, Outcome::Present);
}

#[tokio::test]
async fn a_copied_cache_serves_where_no_version_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let shelf = Shelf::open(&directory.path().join("one"), Some(&cache))
        .await
        .unwrap();
    store(&shelf, &key("1"), b"one").await;
    drop(shelf);
    // Another machine, whose apt has no lists.
    let copied = directory.path().join("copied");
    fs::rename(&cache, &copied).unwrap();
    let shelf = Shelf::open(&directory.path().join("two"), Some(&copied))
        .await
        .unwrap();
    let unknown = key("unknown");
    assert!(shelf.find::<String>(&unknown).await.unwrap().is_none());
    let found = shelf
        .find_by_recipe::<String>(&unknown)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.outcome, Outcome::FromCache);
    assert_eq!(
        (found.key, content(&found)),
        (key("1").key, b"one".to_vec())
    );
    let again = shelf
        .find_by_recipe::<String>(&unknown)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.outcome, Outcome::Present);
    // Another recipe's is no substitute, and neither is no cache at all.
    let other = Key::new(KIND, &[b"recipe 2"], &[]);
    assert!(
        shelf
            .find_by_recipe::<String>(&other)
            .await
            .unwrap()
            .is_none()
    );
    let missing = directory.path().join("missing");
    let shelf = Shelf::open(&directory.path().join("three"), Some(&missing))
        .await
        .unwrap();
    assert!(
        shelf
            .find_by_recipe::<String>(&unknown)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_manipulated_cache_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    let shelf = Shelf::open(&directory.path().join("one"), Some(&cache))
        .await
        .unwrap();
    store(&shelf, &key("1"), b"one").await;
    let cached = cache.join(key("1").directory_name()).join("file");
    fs::write(&cached, b"two").unwrap();
    drop(shelf);
    let shelf = Shelf::open(&directory.path().join("two"), Some(&cache))
        .await
        .unwrap();
    assert!(shelf.find::<String>(&key("1")).await.unwrap().is_none());
    // It is made anew, and the cache mended.
    store(&shelf, &key("1"), b"one").await;
    assert_eq!(fs::read(&cached).unwrap(), b"one");
}

#[tokio::test]
async fn damage_in_the_state_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(directory.path(), None).await.unwrap();
    let ready = store(&shelf, &key("1"), b"one").await;
    fs::write(ready.directory.join("file"), b"longer").unwrap();
    assert!(shelf.find::<String>(&key("1")).await.unwrap().is_none());
    let info = ready.directory.join(ARTEFACT_FILE);
    let text = fs::read_to_string(&info).unwrap();
    fs::write(&info, text.replace("\"file\"", "\"../file\"")).unwrap();
    assert!(shelf.find::<String>(&key("1")).await.unwrap().is_none());
    fs::write(&info, b"{").unwrap();
    assert!(shelf.find::<String>(&key("1")).await.unwrap().is_none());
    assert!(
        shelf
            .find_by_recipe::<String>(&key("1"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn leftovers_are_swept_and_old_artefacts_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join(TEMPORARY).join("build-x");
    fs::create_dir_all(left.join("root")).unwrap();
    let shelf = Shelf::open(directory.path(), None).await.unwrap();
    assert!(!left.exists());
    for version in 0..KEPT + 2 {
        store(&shelf, &key(&version.to_string()), b"x").await;
    }
    assert_eq!(by_age(directory.path(), KIND).unwrap().len(), KEPT);
    let temporary = directory.path().join(TEMPORARY);
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
}
