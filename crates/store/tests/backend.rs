//! What every backend of the store must do. Each test takes a fresh store; the
//! module at the end says which backends it runs on.

use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_store::{
    BuildStatus, Error, IdempotencyClaim, IdempotencyRequest, KeyMask, NewApiKey, NewBuild,
    NewSnapshot, NewTeam, NewTemplate, Store, TeamLimits, TemplateAlias,
};
use std::sync::Arc;
use uuid::Uuid;

type Shared = Arc<dyn Store>;

/// A fixed time, and others so many seconds later.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_000_000).expect("in range")
        + TimeDelta::seconds(seconds)
}

async fn team(store: &Shared, slug: &str) -> TeamId {
    let team = NewTeam {
        id: TeamId::random(),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        limits: TeamLimits::default(),
        created_at: at(0),
    };
    store.team_create(team).await.expect("creates").id
}

fn alias(namespace: &str, alias: &str) -> TemplateAlias {
    TemplateAlias {
        namespace: namespace.to_owned(),
        alias: alias.to_owned(),
    }
}

async fn template(store: &Shared, team: TeamId, aliases: Vec<TemplateAlias>) -> TemplateId {
    let template = NewTemplate {
        id: TemplateId::random(),
        team_id: team,
        public: false,
        is_default: false,
        aliases,
        created_at: at(0),
    };
    store.template_create(template).await.expect("creates").id
}

async fn build(store: &Shared, template: &TemplateId, created: i64) -> BuildId {
    let build = NewBuild {
        id: BuildId::random(),
        template_id: template.clone(),
        status: BuildStatus::Waiting,
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 2048,
        envd_version: "0.6.13".to_owned(),
        created_at: at(created),
    };
    store.build_create(build).await.expect("creates").id
}

fn snapshot(
    team: TeamId,
    template: &TemplateId,
    name: Option<&str>,
    sandbox: &SandboxId,
    created: i64,
) -> NewSnapshot {
    NewSnapshot {
        template: name.map(|name| NewTemplate {
            id: template.clone(),
            team_id: team,
            public: false,
            is_default: false,
            aliases: vec![alias("a", name)],
            created_at: at(created),
        }),
        build: NewBuild {
            id: BuildId::random(),
            template_id: template.clone(),
            status: BuildStatus::Ready,
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: "0.6.13".to_owned(),
            created_at: at(created),
        },
        team_id: team,
        sandbox_id: sandbox.clone(),
        tag: "default".to_owned(),
    }
}

fn key(team: TeamId, hash: &str, created: i64) -> NewApiKey {
    NewApiKey {
        id: Uuid::new_v4(),
        team_id: team,
        name: hash.to_owned(),
        hash: hash.to_owned(),
        mask: KeyMask {
            prefix: "e2b_".to_owned(),
            value_length: 40,
            first: "ab".to_owned(),
            last: "cdef".to_owned(),
        },
        created_at: at(created),
    }
}

async fn teams_are_kept(store: Shared) {
    assert!(store.team_by_slug("a").await.expect("reads").is_none());
    let id = team(&store, "a").await;
    let found = store
        .team_by_slug("a")
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!((found.id, found.limits), (id, TeamLimits::default()));
    assert_eq!(found.created_at, at(0));
    let limits = TeamLimits {
        max_concurrent_sandboxes: 7,
        max_length_hours: 24,
        max_vcpus: 1,
        max_memory_mib: 2,
        max_disk_mib: 3,
    };
    assert!(store.team_set_limits(id, limits).await.expect("writes"));
    assert!(
        store
            .team_set_standing(id, true, Some("why"))
            .await
            .expect("writes")
    );
    let found = store.team(id).await.expect("reads").expect("is there");
    assert_eq!(found.limits, limits);
    assert!(found.banned);
    assert_eq!(found.blocked_reason.as_deref(), Some("why"));
    assert!(
        !store
            .team_set_limits(TeamId::random(), limits)
            .await
            .expect("writes")
    );
    let again = NewTeam {
        id: TeamId::random(),
        slug: "a".to_owned(),
        name: String::new(),
        limits,
        created_at: at(1),
    };
    assert!(matches!(
        store.team_create(again).await,
        Err(Error::Conflict(_))
    ));
}

async fn keys_are_found_until_they_are_revoked(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let second = store
        .api_key_create(key(one, "h2", 2))
        .await
        .expect("creates");
    let first = store
        .api_key_create(key(one, "h1", 1))
        .await
        .expect("creates");
    let (found, owner) = store
        .api_key_by_hash("h1")
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!((&found, owner.id), (&first, one));
    assert_eq!(
        store.api_key_list(one).await.expect("reads"),
        [first.clone(), second]
    );
    assert!(store.api_key_list(other).await.expect("reads").is_empty());
    assert!(matches!(
        store.api_key_create(key(other, "h1", 3)).await,
        Err(Error::Conflict(_))
    ));
    assert!(matches!(
        store.api_key_create(key(TeamId::random(), "h3", 3)).await,
        Err(Error::Dangling)
    ));

    store.api_key_touch(first.id, at(9)).await.expect("writes");
    let (found, _) = store
        .api_key_by_hash("h1")
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(found.last_used_at, Some(at(9)));

    assert!(
        !store
            .api_key_revoke(other, first.id, at(10))
            .await
            .expect("writes")
    );
    assert!(
        store
            .api_key_revoke(one, first.id, at(10))
            .await
            .expect("writes")
    );
    assert!(
        !store
            .api_key_revoke(one, first.id, at(10))
            .await
            .expect("writes")
    );
    assert!(store.api_key_by_hash("h1").await.expect("reads").is_none());
    assert_eq!(store.api_key_list(one).await.expect("reads").len(), 1);
    // A revoked key's hash stays taken.
    assert!(matches!(
        store.api_key_create(key(one, "h1", 3)).await,
        Err(Error::Conflict(_))
    ));
}

async fn templates_are_found_by_their_names(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![alias("", "base"), alias("a", "base")]).await;
    for namespace in ["", "a"] {
        let found = store
            .template_by_alias(namespace, "base")
            .await
            .expect("reads");
        assert_eq!(found.expect("is there").id, id);
    }
    assert!(
        store
            .template_by_alias("b", "base")
            .await
            .expect("reads")
            .is_none()
    );
    store
        .alias_create(&id, "a", "other")
        .await
        .expect("creates");
    let aliases = store.alias_list(&id).await.expect("reads");
    assert_eq!(
        aliases,
        [alias("", "base"), alias("a", "base"), alias("a", "other")]
    );
    let taken = store.alias_create(&id, "", "base").await;
    assert!(matches!(taken, Err(Error::Conflict("the template alias"))));

    assert!(
        store
            .template_set_public(&id, true, at(5))
            .await
            .expect("writes")
    );
    store.template_spawned(&id, at(6)).await.expect("writes");
    store.template_spawned(&id, at(7)).await.expect("writes");
    let found = store.template(&id).await.expect("reads").expect("is there");
    assert_eq!((found.public, found.spawn_count), (true, 2));
    assert_eq!(
        (found.last_spawned_at, found.updated_at),
        (Some(at(7)), at(5))
    );
    assert!(
        store
            .template_list_default()
            .await
            .expect("reads")
            .is_empty()
    );
    assert_eq!(store.template_list(owner).await.expect("reads"), [found]);
}

/// Nothing is left of a template whose alias was taken.
async fn a_template_is_created_whole_or_not_at_all(store: Shared) {
    let owner = team(&store, "a").await;
    template(&store, owner, vec![alias("", "base")]).await;
    let second = NewTemplate {
        id: TemplateId::random(),
        team_id: owner,
        public: false,
        is_default: false,
        aliases: vec![alias("", "fresh"), alias("", "base")],
        created_at: at(0),
    };
    let id = second.id.clone();
    assert!(matches!(
        store.template_create(second).await,
        Err(Error::Conflict(_))
    ));
    assert!(store.template(&id).await.expect("reads").is_none());
    assert!(
        store
            .template_by_alias("", "fresh")
            .await
            .expect("reads")
            .is_none()
    );
}

async fn of_a_tags_assignments_the_latest_holds(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![]).await;
    let (first, second) = (build(&store, &id, 1).await, build(&store, &id, 2).await);
    assert!(
        store
            .tag_build(&id, "default")
            .await
            .expect("reads")
            .is_none()
    );
    // The order of assignment counts, not the clock's.
    for (tag, build, seconds) in [
        ("default", first, 30),
        ("default", second, 20),
        ("v1", first, 10),
        ("v2", second, 10),
        ("v2", first, 10),
    ] {
        store
            .tag_assign(&id, tag, build, at(seconds))
            .await
            .expect("writes");
    }
    let tagged = store.tag_build(&id, "default").await.expect("reads");
    assert_eq!(tagged.expect("is there").id, second);
    let tags = store.tag_list(&id).await.expect("reads");
    let tags: Vec<_> = tags
        .iter()
        .map(|tag| (tag.tag.as_str(), tag.build_id))
        .collect();
    assert_eq!(tags, [("default", second), ("v1", first), ("v2", first)]);
    assert!(store.tag_delete(&id, "v2").await.expect("writes"));
    assert!(!store.tag_delete(&id, "v2").await.expect("writes"));
    assert!(store.tag_build(&id, "v2").await.expect("reads").is_none());
    let unknown = store.tag_assign(&id, "v3", BuildId::random(), at(0)).await;
    assert!(matches!(unknown, Err(Error::Dangling)));
}

async fn builds_move_on_and_come_newest_first(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![]).await;
    let mut made = Vec::new();
    for created in [1, 2, 2, 3] {
        made.push(build(&store, &id, created).await);
    }
    let waiting = store
        .build(made[0])
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(
        (waiting.status, waiting.finished_at),
        (BuildStatus::Waiting, None)
    );
    assert!(
        store
            .build_set_status(made[0], BuildStatus::Building, at(5))
            .await
            .expect("writes")
    );
    assert!(
        store
            .build_set_status(made[0], BuildStatus::Ready, at(6))
            .await
            .expect("writes")
    );
    let ready = store
        .build(made[0])
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(
        (ready.status, ready.finished_at, ready.updated_at),
        (BuildStatus::Ready, Some(at(6)), at(6))
    );

    assert_eq!(store.build_count(&id).await.expect("reads"), 4);
    let mut read = Vec::new();
    let mut before = None;
    loop {
        let page = store.build_list(&id, before, 1).await.expect("reads");
        let Some(last) = page.last() else { break };
        before = Some((last.created_at, last.id));
        read.push((last.created_at, last.id));
    }
    assert_eq!(read.len(), 4);
    assert!(read.is_sorted_by(|a, b| a > b), "{read:?}");
}

async fn a_deleted_template_takes_all_that_is_its_own(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![alias("", "base")]).await;
    let build = build(&store, &id, 1).await;
    store
        .tag_assign(&id, "default", build, at(1))
        .await
        .expect("writes");
    assert!(store.template_delete(&id).await.expect("writes"));
    assert!(!store.template_delete(&id).await.expect("writes"));
    assert!(
        store
            .template_by_alias("", "base")
            .await
            .expect("reads")
            .is_none()
    );
    assert!(store.build(build).await.expect("reads").is_none());
    assert!(store.tag_list(&id).await.expect("reads").is_empty());
}

fn request(team: TeamId, hash: &str, now: i64) -> IdempotencyRequest {
    IdempotencyRequest {
        team_id: team,
        key: "k".to_owned(),
        request_hash: hash.to_owned(),
        sandbox_id: SandboxId::random(),
        now: at(now),
        lease_until: at(now + 10),
        expires_at: at(now + 100),
    }
}

async fn a_key_is_claimed_once(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let claim = |request| store.idempotency_claim(request);
    let first = request(one, "h", 0);
    let id = first.sandbox_id.clone();
    assert_eq!(claim(first).await.expect("claims"), IdempotencyClaim::Fresh);
    assert_eq!(
        claim(request(other, "h", 0)).await.expect("claims"),
        IdempotencyClaim::Fresh
    );
    assert_eq!(
        claim(request(one, "h", 9)).await.expect("claims"),
        IdempotencyClaim::InProgress
    );
    assert_eq!(
        claim(request(one, "x", 9)).await.expect("claims"),
        IdempotencyClaim::Mismatch
    );
    let over = IdempotencyClaim::TakenOver {
        sandbox_id: id.clone(),
    };
    assert_eq!(claim(request(one, "h", 10)).await.expect("claims"), over);
    assert_eq!(
        claim(request(one, "h", 11)).await.expect("claims"),
        IdempotencyClaim::InProgress
    );

    store
        .idempotency_yield(one, "k", &id)
        .await
        .expect("writes");
    assert_eq!(claim(request(one, "h", 12)).await.expect("claims"), over);
    store.idempotency_end_leases().await.expect("writes");
    assert_eq!(claim(request(one, "h", 13)).await.expect("claims"), over);

    store
        .idempotency_finish(one, "k", &id, "made")
        .await
        .expect("writes");
    let done = IdempotencyClaim::Done {
        outcome: "made".to_owned(),
    };
    assert_eq!(claim(request(one, "h", 14)).await.expect("claims"), done);
    assert_eq!(
        claim(request(one, "x", 14)).await.expect("claims"),
        IdempotencyClaim::Mismatch
    );
    // A finished claim cannot be given up, and ends by its expiry.
    store
        .idempotency_release(one, "k", &id)
        .await
        .expect("writes");
    assert_eq!(claim(request(one, "h", 99)).await.expect("claims"), done);
    assert_eq!(
        claim(request(one, "x", 100)).await.expect("claims"),
        IdempotencyClaim::Fresh
    );
}

async fn only_the_holder_frees_a_key(store: Shared) {
    let owner = team(&store, "a").await;
    let first = request(owner, "h", 0);
    let id = first.sandbox_id.clone();
    store.idempotency_claim(first).await.expect("claims");
    let stranger = SandboxId::random();
    store
        .idempotency_release(owner, "k", &stranger)
        .await
        .expect("writes");
    store
        .idempotency_finish(owner, "k", &stranger, "x")
        .await
        .expect("writes");
    let claimed = store
        .idempotency_claim(request(owner, "h", 1))
        .await
        .expect("claims");
    assert_eq!(claimed, IdempotencyClaim::InProgress);
    store
        .idempotency_release(owner, "k", &id)
        .await
        .expect("writes");
    let claimed = store
        .idempotency_claim(request(owner, "x", 2))
        .await
        .expect("claims");
    assert_eq!(claimed, IdempotencyClaim::Fresh);
}

/// Of many who claim a key at the same time, one gets it.
async fn claims_race(store: Shared) {
    let owner = team(&store, "a").await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.idempotency_claim(request(owner, "h", 0)).await })
        })
        .collect();
    let mut fresh = 0;
    for task in tasks {
        match task.await.expect("no panic").expect("claims") {
            IdempotencyClaim::Fresh => fresh += 1,
            other => assert_eq!(other, IdempotencyClaim::InProgress),
        }
    }
    assert_eq!(fresh, 1);
}

async fn snapshots_are_templates_apart(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let usual = template(&store, one, vec![alias("a", "usual")]).await;
    let (first, second) = (TemplateId::random(), TemplateId::random());
    let (left, right) = (SandboxId::random(), SandboxId::random());
    let named = snapshot(one, &first, Some("first"), &left, 1);
    let build = named.build.id;
    store.discard_add(build).await.expect("writes");
    store.snapshot_create(named).await.expect("creates");
    assert!(store.discard_list().await.expect("reads").is_empty());
    let later = snapshot(one, &second, Some("second"), &right, 2);
    store.snapshot_create(later).await.expect("creates");

    assert!(store.template_is_snapshot(&first).await.expect("reads"));
    assert!(!store.template_is_snapshot(&usual).await.expect("reads"));
    let listed = store.template_list(one).await.expect("reads");
    assert_eq!(listed.len(), 1, "snapshots are not listed as templates");
    let tagged = store.tag_build(&first, "default").await.expect("reads");
    assert_eq!(tagged.expect("is tagged").id, build);
    let source = store.snapshot_source(build).await.expect("reads");
    assert_eq!(source.as_ref(), Some(&left));

    let list = |sandbox, template| store.snapshot_list(one, sandbox, template);
    let all = list(None, None).await.expect("reads");
    let templates: Vec<&TemplateId> = all.iter().map(|entry| &entry.template_id).collect();
    assert_eq!(templates, [&second, &first]);
    assert_eq!(list(Some(&left), None).await.expect("reads").len(), 1);
    assert_eq!(list(None, Some(&second)).await.expect("reads").len(), 1);
    let foreign = store.snapshot_list(other, None, None).await.expect("reads");
    assert!(foreign.is_empty());

    // A new build under the same tag takes the old one's place.
    let again = snapshot(one, &first, None, &right, 3);
    let newer = again.build.id;
    store.snapshot_create(again).await.expect("creates");
    let of_first = list(None, Some(&first)).await.expect("reads");
    assert_eq!((of_first.len(), of_first[0].build_id), (1, newer));
}

async fn a_snapshot_is_recorded_whole_or_not_at_all(store: Shared) {
    let owner = team(&store, "a").await;
    template(&store, owner, vec![alias("a", "taken")]).await;
    let fresh = TemplateId::random();
    let clash = snapshot(owner, &fresh, Some("taken"), &SandboxId::random(), 1);
    let build = clash.build.id;
    store.discard_add(build).await.expect("writes");
    let refused = store.snapshot_create(clash).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    assert!(store.template(&fresh).await.expect("reads").is_none());
    assert!(store.build(build).await.expect("reads").is_none());
    assert_eq!(store.discard_list().await.expect("reads"), [build]);
    let gone = snapshot(owner, &fresh, None, &SandboxId::random(), 1);
    let refused = store.snapshot_create(gone).await;
    assert!(matches!(refused, Err(Error::Dangling)), "{refused:?}");
}

async fn builds_of_a_deleted_template_are_discarded(store: Shared) {
    let owner = team(&store, "a").await;
    let id = TemplateId::random();
    let kept = snapshot(owner, &id, Some("kept"), &SandboxId::random(), 1);
    let build = kept.build.id;
    store.snapshot_create(kept).await.expect("creates");
    assert!(store.template_delete(&id).await.expect("writes"));
    assert_eq!(store.discard_list().await.expect("reads"), [build]);
    assert_eq!(store.snapshot_source(build).await.expect("reads"), None);
    store.discard_add(build).await.expect("may be repeated");
    store.discard_remove(build).await.expect("writes");
    assert!(store.discard_list().await.expect("reads").is_empty());
}

macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod sqlite_in_memory {
            $(
                #[tokio::test]
                async fn $name() {
                    let store = hearth_store::sqlite::SqliteStore::in_memory().await.expect("opens");
                    super::$name(std::sync::Arc::new(store)).await;
                }
            )+
        }
        mod sqlite_file {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    let directory = tempfile::tempdir().expect("a directory");
                    let path = directory.path().join("hearth.db");
                    let store = hearth_store::sqlite::SqliteStore::open(path).await.expect("opens");
                    super::$name(std::sync::Arc::new(store)).await;
                }
            )+
        }
    };
}

suite!(
    teams_are_kept,
    keys_are_found_until_they_are_revoked,
    templates_are_found_by_their_names,
    a_template_is_created_whole_or_not_at_all,
    of_a_tags_assignments_the_latest_holds,
    builds_move_on_and_come_newest_first,
    a_deleted_template_takes_all_that_is_its_own,
    snapshots_are_templates_apart,
    a_snapshot_is_recorded_whole_or_not_at_all,
    builds_of_a_deleted_template_are_discarded,
    a_key_is_claimed_once,
    only_the_holder_frees_a_key,
    claims_race,
);
