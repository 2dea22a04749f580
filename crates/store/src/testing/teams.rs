//! Teams and API keys.

use super::records::{Shared, at, key, team, template};
use crate::{Error, KeyGrant, LimitsSetBy, NewTeam, Scope, TeamLimits};
use hearth_ids::TeamId;
use uuid::Uuid;

/// Teams are found by id and slug, with what was set of them.
pub async fn teams_are_kept(store: Shared) {
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
        max_paused_sandboxes: 4,
        max_snapshots: 5,
        max_templates: 6,
        max_volumes: 7,
        max_stored_mib: 8,
        max_total_vcpus: 9,
        max_total_memory_mib: 10,
    };
    let by = LimitsSetBy::Operator;
    assert!(store.team_set_limits(id, limits, by).await.expect("writes"));
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
            .team_set_limits(TeamId::random(), limits, by)
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

/// Keys are found by hash until they are revoked; a hash stays taken.
pub async fn keys_are_found_until_they_are_revoked(store: Shared) {
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

/// What an operator set of a team stays when a start applies the settings.
pub async fn the_settings_do_not_undo_an_operators_limits(store: Shared) {
    let id = team(&store, "a").await;
    let of = |max_vcpus| TeamLimits {
        max_vcpus,
        ..TeamLimits::default()
    };
    for (vcpus, by, holds) in [
        (3, LimitsSetBy::Settings, true),
        (4, LimitsSetBy::Settings, true),
        (5, LimitsSetBy::Operator, true),
        (6, LimitsSetBy::Settings, false),
        (7, LimitsSetBy::Operator, true),
    ] {
        let set = store.team_set_limits(id, of(vcpus), by).await;
        assert_eq!(set.expect("writes"), holds, "{vcpus} by {by:?}");
        let found = store.team(id).await.expect("reads").expect("is there");
        assert_eq!(found.limits.max_vcpus == vcpus, holds);
    }
    let found = store.team(id).await.expect("reads").expect("is there");
    assert_eq!(found.limits_set_by, LimitsSetBy::Operator);
}

/// A team goes with its keys; one that has templates stays.
pub async fn a_team_is_deleted_with_its_keys_and_not_with_templates(store: Shared) {
    let (bare, full) = (team(&store, "a").await, team(&store, "b").await);
    for (owner, hash) in [(bare, "h1"), (full, "h2")] {
        let made = store.api_key_create(key(owner, hash, 1)).await;
        made.expect("creates");
    }
    template(&store, full, vec![]).await;
    let refused = store.team_delete(full).await;
    assert!(matches!(refused, Err(Error::Dangling)), "{refused:?}");
    assert!(store.api_key_by_hash("h2").await.expect("reads").is_some());
    assert!(store.team_delete(bare).await.expect("writes"));
    assert!(!store.team_delete(bare).await.expect("writes"));
    assert!(store.api_key_by_hash("h1").await.expect("reads").is_none());
    assert!(store.team_by_slug("a").await.expect("reads").is_none());
}

/// What a key may be used for is kept, and its name can be changed by its team alone.
pub async fn a_keys_grant_is_kept(store: Shared) {
    let (owner, other) = (team(&store, "a").await, team(&store, "b").await);
    let network = |text: &str| text.parse().expect("a network");
    let mut narrow = key(owner, "h1", 1);
    narrow.grant = KeyGrant {
        scopes: [Scope::Secrets, Scope::Sandboxes].into(),
        read_only: true,
        expires_at: Some(at(60)),
        networks: vec![network("198.51.100.0/24"), network("2001:db8::/32")],
    };
    let (id, wanted) = (narrow.id, narrow.grant.clone());
    store.api_key_create(narrow).await.expect("creates");
    let (found, _) = store
        .api_key_by_hash("h1")
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(found.grant, wanted);
    assert!(!store.api_key_rename(other, id, "x").await.expect("writes"));
    assert!(
        store
            .api_key_rename(owner, id, "new")
            .await
            .expect("writes")
    );
    let listed = store.api_key_list(owner).await.expect("reads");
    assert_eq!(
        (listed[0].name.as_str(), &listed[0].grant),
        ("new", &wanted)
    );
}

/// A key that takes another one's place is there exactly when that one's end is set,
/// and never lengthens it.
pub async fn a_key_is_replaced_whole_or_not_at_all(store: Shared) {
    let owner = team(&store, "a").await;
    let old = store.api_key_create(key(owner, "h1", 1)).await;
    let old = old.expect("creates").id;
    let ends = async || {
        let (found, _) = store
            .api_key_by_hash("h1")
            .await
            .expect("reads")
            .expect("is there");
        found.grant.expires_at
    };
    let taken = store
        .api_key_replace(old, at(50), key(owner, "h1", 2))
        .await;
    assert!(matches!(taken, Err(Error::Conflict(_))));
    assert_eq!(ends().await, None);
    let replaced = store
        .api_key_replace(old, at(50), key(owner, "h2", 2))
        .await;
    assert!(replaced.expect("writes").is_some());
    assert_eq!(ends().await, Some(at(50)));
    let later = store
        .api_key_replace(old, at(90), key(owner, "h3", 2))
        .await;
    assert!(later.expect("writes").is_some());
    assert_eq!(ends().await, Some(at(50)));
    for unknown in [Uuid::new_v4(), old] {
        store
            .api_key_revoke(owner, old, at(3))
            .await
            .expect("writes");
        let none = store
            .api_key_replace(unknown, at(1), key(owner, "h4", 2))
            .await;
        assert!(none.expect("writes").is_none());
    }
    assert!(store.api_key_by_hash("h4").await.expect("reads").is_none());
}
