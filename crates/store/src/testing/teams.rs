//! Teams and API keys.

use super::{Shared, at, key, team};
use crate::{Error, NewTeam, TeamLimits};
use hearth_ids::TeamId;

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
