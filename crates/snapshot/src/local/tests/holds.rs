//! Who cannot be read, and what stays for them.

use super::*;
use crate::Holder;

fn id_of(build: &Build) -> BuildId {
    build.manifest.build_id
}

/// Cuts a build's manifest off in the middle, as a damaged disk does.
fn damage(build: &Build) {
    let path = build.directory().join(MANIFEST_FILE);
    let length = fs::metadata(&path).unwrap().len();
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
}

/// A build that nothing needs.
async fn needless(store: &LocalStore) -> BuildId {
    let id = id_of(&published(store).await);
    store.retire(id).await.unwrap();
    id
}

#[tokio::test]
async fn a_damaged_build_holds_what_was_there_and_collection_goes_on() {
    let (_directory, store) = store();
    let base = needless(&store).await;
    let bystander = needless(&store).await;
    let damaged = layered(&store, Kind::Snapshot, &[base]).await;
    damage(&damaged);
    // Either may be what it is based on.
    assert_eq!(store.garbage().await.unwrap(), []);
    assert_eq!(store.collect().await.unwrap(), []);
    let later = needless(&store).await;
    assert_eq!(store.garbage().await.unwrap(), [later]);
    assert_eq!(store.collect().await.unwrap(), [later]);

    // The next process goes on from there: what was made after the damage is not held.
    let later = needless(&store).await;
    let again = LocalStore::open(store.root()).unwrap();
    assert_eq!(again.collect().await.unwrap(), [later]);
    let holds = again.holds().await.unwrap();
    assert_eq!(holds.len(), 1);
    assert_eq!(holds[0].holder, Holder::Build(id_of(&damaged)));
    let held = [base, bystander, id_of(&damaged)];
    assert_eq!(holds[0].builds, held.into_iter().collect());

    // Once it is gone, so is what it held.
    fs::remove_dir_all(damaged.directory()).unwrap();
    let removed: HashSet<BuildId> = again.collect().await.unwrap().into_iter().collect();
    assert_eq!(removed, HashSet::from([base, bystander]));
    assert_eq!(again.holds().await.unwrap(), []);
}

#[tokio::test]
async fn a_flipped_bit_in_an_id_does_not_cost_the_build_that_it_named() {
    let (_directory, store) = store();
    let base = needless(&store).await;
    let above = layered(&store, Kind::Snapshot, &[base]).await;
    rewrite(&above, |manifest| manifest["parents"][0] = "x".into());
    assert_eq!(store.collect().await.unwrap(), []);
    store.open(base).await.expect_err("it is retired");
    assert!(store.root().join(base.to_string()).exists());
}

#[tokio::test]
async fn a_build_that_can_be_read_again_holds_only_what_it_names() {
    let (_directory, store) = store();
    let base = needless(&store).await;
    let bystander = needless(&store).await;
    let above = layered(&store, Kind::Snapshot, &[base]).await;
    let manifest = above.directory().join(MANIFEST_FILE);
    let text = fs::read(&manifest).unwrap();
    damage(&above);
    assert_eq!(store.collect().await.unwrap(), []);
    fs::write(&manifest, text).unwrap();
    assert_eq!(store.collect().await.unwrap(), [bystander]);
    store.stack(id_of(&above)).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_without_a_readable_journal_holds_what_was_there() {
    let (directory, store) = store();
    let old = needless(&store).await;
    let journal = directory.path().join("journal.json");
    fs::write(&journal, "{\"vers").unwrap();
    let sandbox: SandboxId = "iabc123def456ghi789jk".parse().unwrap();
    store.hold_for(&sandbox, &journal);
    let new = needless(&store).await;
    assert_eq!(store.collect().await.unwrap(), [new]);

    // A later process holds no more than that, unless the journal is another by then.
    let new = needless(&store).await;
    let again = LocalStore::open(store.root()).unwrap();
    again.hold_for(&sandbox, &journal);
    assert_eq!(again.garbage().await.unwrap(), [new]);
    assert_eq!(
        again.holds().await.unwrap()[0].holder,
        Holder::Sandbox(sandbox.clone())
    );
    fs::write(&journal, "{\"versio").unwrap();
    assert_eq!(again.holds().await.unwrap(), []);
    let third = LocalStore::open(store.root()).unwrap();
    third.hold_for(&sandbox, &journal);
    assert_eq!(third.collect().await.unwrap(), []);

    // Without its directory nothing speaks for it any more.
    fs::remove_file(&journal).unwrap();
    let last = LocalStore::open(store.root()).unwrap();
    let removed: HashSet<BuildId> = last.collect().await.unwrap().into_iter().collect();
    assert_eq!(removed, HashSet::from([old, new]));
}

#[tokio::test]
async fn a_hold_that_cannot_be_remembered_holds_all_the_same() {
    let (directory, store) = store();
    let old = needless(&store).await;
    // As from a newer version, or damaged: neither is trusted.
    for text in ["{\"version\":2,\"holds\":[]}", "no document"] {
        let again = LocalStore::open(store.root()).unwrap();
        fs::write(store.root().join(".holds.json"), text).unwrap();
        let sandbox: SandboxId = "iabc123def456ghi789jk".parse().unwrap();
        again.hold_for(&sandbox, &directory.path().join("no/such/journal.json"));
        assert_eq!(again.collect().await.unwrap(), []);
    }
    assert_eq!(store.collect().await.unwrap(), [old]);
}

#[tokio::test]
async fn what_an_unreadable_build_stands_on_is_not_garbage() {
    let (_directory, store) = store();
    let base = published(&store).await.manifest.build_id;
    let needless = published(&store).await.manifest.build_id;
    let newer = layered(&store, Kind::Snapshot, &[base]).await;
    rewrite(&newer, |manifest| {
        manifest["format"] = 9.into();
        manifest["chains"] = serde_json::json!({ "disk": [base.to_string()] });
        manifest.as_object_mut().unwrap().remove("parents");
    });
    for id in [base, needless] {
        store.retire(id).await.unwrap();
    }
    assert_eq!(store.collect().await.unwrap(), [needless]);
    assert!(newer.directory().exists());
    let unreadable = store.unreadable().await.unwrap();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].0, newer.manifest.build_id);
    assert!(unreadable[0].1.contains("format 9"), "{}", unreadable[0].1);
}
