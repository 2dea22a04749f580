//! Leases. What is over is made by a length of nothing, so that no test waits.

use super::records::{Shared, us};
use crate::{LeaseName, OwnerId};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A lease is its holder's, who may renew it, until its time is over or it is given back.
pub async fn a_lease_is_its_holders_until_its_time_is_over(store: Shared) {
    let (one, other) = (us(), OwnerId::random());
    let name = LeaseName::sweep();
    assert_eq!(store.lease_holder(&name).await.expect("reads"), None);
    for (owner, length, gets) in [
        (&one, HOUR, true),
        (&other, HOUR, false),
        (&one, HOUR, true),
        // Renewed for no time at all: free for everybody.
        (&one, Duration::ZERO, true),
        (&other, HOUR, true),
        (&one, HOUR, false),
    ] {
        let acquired = store.lease_acquire(&name, owner, length).await;
        assert_eq!(acquired.expect("writes"), gets, "{owner} for {length:?}");
    }
    let holder = store.lease_holder(&name).await.expect("reads");
    assert_eq!(holder.as_ref(), Some(&other));
    // Another lease has nothing to do with it.
    let presence = LeaseName::presence(&one);
    let present = store.lease_acquire(&presence, &one, HOUR).await;
    assert!(present.expect("writes"));
    store.lease_release(&name, &one).await.expect("writes");
    let holder = store.lease_holder(&name).await.expect("reads");
    assert_eq!(
        holder.as_ref(),
        Some(&other),
        "who does not hold it cannot give it back"
    );
    store.lease_release(&name, &other).await.expect("writes");
    assert!(
        store
            .lease_acquire(&name, &one, HOUR)
            .await
            .expect("writes")
    );
}

/// Of many who want a lease at the same time, one gets it.
pub async fn of_many_who_want_a_lease_one_gets_it(store: Shared) {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let name = LeaseName::sweep();
                store.lease_acquire(&name, &OwnerId::random(), HOUR).await
            })
        })
        .collect();
    let mut holders = 0;
    for task in tasks {
        holders += usize::from(task.await.expect("no panic").expect("writes"));
    }
    assert_eq!(holders, 1);
}
