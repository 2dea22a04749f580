//! What is SQLite's own: the file, its mode, its reopening.

use hearth_ids::TeamId;
use hearth_store::sqlite::SqliteStore;
use hearth_store::{Error, NewTeam, Store, TeamLimits};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn team() -> NewTeam {
    NewTeam {
        id: TeamId::random(),
        slug: "a".to_owned(),
        name: "A".to_owned(),
        limits: TeamLimits::default(),
        created_at: chrono::Utc::now(),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("is there")
        .permissions()
        .mode()
        & 0o777
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hearth.db");
    std::fs::write(&path, b"").expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("sets");
    let store = SqliteStore::open(&path).await.expect("opens");
    store.team_create(team()).await.expect("creates");
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path()).expect("lists") {
        let file = entry.expect("reads").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log and its index");
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hearth.db");
    let store = SqliteStore::open(&path).await.expect("opens");
    store.team_create(team()).await.expect("creates");
    // A second process may have it open at the same time.
    let second = SqliteStore::open(&path).await.expect("opens");
    assert!(second.team_by_slug("a").await.expect("reads").is_some());
    store.close().await;
    second.close().await;
    let store = SqliteStore::open(&path).await.expect("opens");
    assert!(store.team_by_slug("a").await.expect("reads").is_some());
}

#[tokio::test]
async fn what_cannot_be_opened_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = SqliteStore::open(directory.path().join("no/such/hearth.db")).await;
    assert!(matches!(missing, Err(Error::Open { .. })));
    let path = directory.path().join("garbage.db");
    std::fs::write(&path, vec![7u8; 8192]).expect("writable");
    assert!(SqliteStore::open(&path).await.is_err());
}
