//! What is SQLite's own: the file, its mode, its reopening.

use hearth_ids::{BuildId, SandboxId, TeamId};
use hearth_store::{
    ApiKeyStore as _, BuildStore as _, DiscardStore as _, Error, IdempotencyClaim,
    IdempotencyHolder, IdempotencyRequest, IdempotencyStore as _, NewTeam, OwnerId,
    SnapshotStore as _, TeamLimits, TeamStore as _, TemplateBuildStore as _, TemplateStore as _,
};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
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
    let store = hearth_store_sqlite::open(&path).await.expect("opens");
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
    let store = hearth_store_sqlite::open(&path).await.expect("opens");
    store.team_create(team()).await.expect("creates");
    // A second process may have it open at the same time.
    let second = hearth_store_sqlite::open(&path).await.expect("opens");
    assert!(second.team_by_slug("a").await.expect("reads").is_some());
    store.database().close().await;
    second.database().close().await;
    let store = hearth_store_sqlite::open(&path).await.expect("opens");
    assert!(store.team_by_slug("a").await.expect("reads").is_some());
}

#[tokio::test]
async fn what_cannot_be_opened_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = hearth_store_sqlite::open(directory.path().join("no/such/hearth.db")).await;
    assert!(matches!(missing, Err(Error::Open { .. })));
    let path = directory.path().join("garbage.db");
    std::fs::write(&path, vec![7u8; 8192]).expect("writable");
    assert!(hearth_store_sqlite::open(&path).await.is_err());
}

/// Everything that an earlier version wrote is there, and what it had not finished can
/// be taken up at once.
#[tokio::test]
async fn a_database_of_an_earlier_version_is_taken_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hearth.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    sqlx::raw_sql(include_str!("data/schema-0010.sql"))
        .execute(&mut old)
        .await
        .expect("is written");
    old.close().await.expect("closes");

    let store = hearth_store_sqlite::open(&path).await.expect("opens");
    let hash = "$sha256$tBP0fRPuL+bIRbLuFBr4HehY307FSaWLeXC7lmRbyNI";
    let (key, team) = store
        .api_key_by_hash(hash)
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(
        (key.name.as_str(), team.slug.as_str()),
        ("first key", "default")
    );
    assert_eq!(team.limits.max_concurrent_sandboxes, 100);
    let base = store.template_by_alias("", "base").await.expect("reads");
    let base = base.expect("is there");
    assert_eq!(
        (base.spawn_count, base.is_default, base.public),
        (3, true, true)
    );
    let tagged = store.tag_build(&base.id, "default").await.expect("reads");
    let build: BuildId = "11111111-2222-4333-8444-555555555550"
        .parse()
        .expect("an id");
    assert_eq!(tagged.expect("is tagged").id, build);
    assert_eq!(
        store
            .build_request_list_active()
            .await
            .expect("reads")
            .len(),
        1
    );
    let snapshots = store
        .snapshot_list(team.id, None, None)
        .await
        .expect("reads");
    assert_eq!(snapshots.len(), 1);

    let owner = OwnerId::random();
    let left: BuildId = "11111111-2222-4333-8444-555555555559"
        .parse()
        .expect("an id");
    assert_eq!(
        store.discard_take_over(&owner).await.expect("writes"),
        [left]
    );
    let now = chrono::Utc::now();
    let claim = |key: &str| IdempotencyRequest {
        holder: IdempotencyHolder {
            team_id: team.id,
            key: key.to_owned(),
            sandbox_id: SandboxId::random(),
            owner: owner.clone(),
        },
        request_hash: "h".to_owned(),
        now,
        lease_until: now,
        expires_at: now,
    };
    let unfinished = store.idempotency_claim(claim("unfinished")).await;
    let sandbox_id = "ibbcdefghij0123456789".parse().expect("an id");
    assert_eq!(
        unfinished.expect("claims"),
        IdempotencyClaim::TakenOver { sandbox_id }
    );
    let done = store.idempotency_claim(claim("done")).await;
    let outcome = "{\"a\":1}".to_owned();
    assert_eq!(done.expect("claims"), IdempotencyClaim::Done { outcome });
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hearth.db");
    let store = hearth_store_sqlite::open(&path).await.expect("opens");
    store.database().close().await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut newer = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'to come', 1, x'00', 1)",
    )
    .execute(&mut newer)
    .await
    .expect("is written");
    newer.close().await.expect("closes");
    let refused = hearth_store_sqlite::open(&path).await;
    assert!(matches!(refused, Err(Error::Migrate(_))));
}
