//! Pages of deliveries.

use super::events::{CREATED, attempt, deliveries_of, event, insert, webhook};
use super::records::{Shared, at, team};
use crate::{Event, Verdict};
use hearth_ids::SandboxId;

/// However many attempts there were, and however much was answered, a page is bounded.
pub async fn a_page_of_deliveries_is_bounded(store: Shared) {
    let owner = team(&store, "a").await;
    let hook = webhook(&store, owner, &[CREATED]).await;
    let events: Vec<Event> = (0..3)
        .map(|n| event(owner, &SandboxId::random(), CREATED, n))
        .collect();
    insert(&store, &events).await;
    let mut last = None;
    for (nth, bytes) in [(0, 100), (1, 3 << 20), (2, 1000)] {
        for second in 0..35 {
            let mut attempt = attempt(&hook, &events[nth], false, second);
            attempt.response_body = Some("x".repeat(if second > 32 { bytes } else { 1 }));
            let again = Verdict::Again(at(second + 1));
            let noted = store.delivery_attempted(&attempt, &again, at(second));
            noted.await.expect("writes");
            last = Some(attempt);
        }
    }
    let mut query = deliveries_of(&hook);
    query.limit = 2;
    let page = store.delivery_list(&query).await.expect("reads");
    assert_eq!((page.deliveries.len(), page.more), (2, true));
    let attempts = &page.deliveries[0].attempts;
    assert_eq!(attempts.len(), 30, "the newest ones");
    assert_eq!(attempts[29].at, at(34));
    assert_eq!(
        attempts[29].response_body.as_deref(),
        Some(&*"x".repeat(100))
    );
    query.limit = 3;
    query.ascending = false;
    let page = store.delivery_list(&query).await.expect("reads");
    assert_eq!((page.deliveries.len(), page.more), (3, false));
    assert_eq!(page.deliveries[0].attempts.last(), last.as_ref());

    // Two that are too large for one page, and one between them: the last begins the next.
    let large = event(owner, &SandboxId::random(), CREATED, 9);
    insert(&store, std::slice::from_ref(&large)).await;
    for second in 0..3 {
        let mut attempt = attempt(&hook, &large, false, second);
        attempt.response_body = Some("x".repeat(3 << 20));
        let again = Verdict::Again(at(second + 1));
        let noted = store.delivery_attempted(&attempt, &again, at(second));
        noted.await.expect("writes");
    }
    let page = store.delivery_list(&query).await.expect("reads");
    assert_eq!((page.deliveries.len(), page.more), (2, true));
    assert_eq!(page.deliveries[0].attempts.len(), 2, "the newest that fit");
    assert_eq!(page.deliveries[0].attempts[1].at, at(2));
}
