//! Idempotency keys.

use super::records::{Shared, at, team, us};
use crate::{IdempotencyClaim, IdempotencyHolder, IdempotencyRequest, OwnerId};
use hearth_ids::{SandboxId, TeamId};
use std::sync::Arc;

fn request(team: TeamId, hash: &str, now: i64) -> IdempotencyRequest {
    IdempotencyRequest {
        holder: IdempotencyHolder {
            team_id: team,
            key: "k".to_owned(),
            sandbox_id: SandboxId::random(),
            owner: us(),
        },
        request_hash: hash.to_owned(),
        now: at(now),
        lease_until: at(now + 10),
        expires_at: at(now + 100),
    }
}

/// A claim is held, taken over and ended as the states of a key say.
pub async fn a_key_is_claimed_once(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let claim = |request| store.idempotency_claim(request);
    let first = request(one, "h", 0);
    let holder = first.holder.clone();
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
        sandbox_id: holder.sandbox_id.clone(),
    };
    assert_eq!(claim(request(one, "h", 10)).await.expect("claims"), over);
    assert_eq!(
        claim(request(one, "h", 11)).await.expect("claims"),
        IdempotencyClaim::InProgress
    );

    store.idempotency_yield(&holder).await.expect("writes");
    assert_eq!(claim(request(one, "h", 12)).await.expect("claims"), over);
    // Another process's leases are none of its business.
    let others = OwnerId::random();
    store.idempotency_end_leases(&others).await.expect("writes");
    let held = claim(request(one, "h", 13)).await.expect("claims");
    assert_eq!(held, IdempotencyClaim::InProgress);
    store.idempotency_end_leases(&us()).await.expect("writes");
    assert_eq!(claim(request(one, "h", 13)).await.expect("claims"), over);

    store
        .idempotency_finish(&holder, "made")
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
    store.idempotency_release(&holder).await.expect("writes");
    assert_eq!(claim(request(one, "h", 99)).await.expect("claims"), done);
    assert_eq!(
        claim(request(one, "x", 100)).await.expect("claims"),
        IdempotencyClaim::Fresh
    );
}

/// Who does not hold a claim cannot end it.
pub async fn only_the_holder_frees_a_key(store: Shared) {
    let owner = team(&store, "a").await;
    let first = request(owner, "h", 0);
    let holder = first.holder.clone();
    store.idempotency_claim(first).await.expect("claims");
    let stranger = IdempotencyHolder {
        sandbox_id: SandboxId::random(),
        ..holder.clone()
    };
    // One who held it, and stood still until another process took it over.
    let late = IdempotencyHolder {
        owner: OwnerId::random(),
        ..holder.clone()
    };
    store.idempotency_release(&late).await.expect("writes");
    store
        .idempotency_finish(&late, "late")
        .await
        .expect("writes");
    store.idempotency_release(&stranger).await.expect("writes");
    store
        .idempotency_finish(&stranger, "x")
        .await
        .expect("writes");
    let claimed = store
        .idempotency_claim(request(owner, "h", 1))
        .await
        .expect("claims");
    assert_eq!(claimed, IdempotencyClaim::InProgress);
    store.idempotency_release(&holder).await.expect("writes");
    let claimed = store
        .idempotency_claim(request(owner, "x", 2))
        .await
        .expect("claims");
    assert_eq!(claimed, IdempotencyClaim::Fresh);
}

/// Of many who claim a key at the same time, one gets it.
pub async fn claims_race(store: Shared) {
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
