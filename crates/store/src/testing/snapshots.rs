//! Snapshots and builds to be discarded.

use super::records::{Shared, alias, snapshot, team, template, us};
use crate::{Error, LeaseName, NewSnapshot, OwnerId};
use hearth_ids::{BuildId, SandboxId, TemplateId};
use std::time::Duration;

/// A snapshot's build is noted before it is made.
async fn note(store: &Shared, snapshot: &NewSnapshot) {
    let noted = store.discard_add(snapshot.build.id, &us()).await;
    noted.expect("writes");
}

/// Snapshots are listed as such and not among templates.
pub async fn snapshots_are_templates_apart(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let usual = template(&store, one, vec![alias("a", "usual")]).await;
    let (first, second) = (TemplateId::random(), TemplateId::random());
    let (left, right) = (SandboxId::random(), SandboxId::random());
    let named = snapshot(one, &first, Some("first"), &left, 1);
    let build = named.build.id;
    store.discard_add(build, &us()).await.expect("writes");
    store.snapshot_create(named).await.expect("creates");
    assert!(store.discard_list().await.expect("reads").is_empty());
    let later = snapshot(one, &second, Some("second"), &right, 2);
    note(&store, &later).await;
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
    note(&store, &again).await;
    store.snapshot_create(again).await.expect("creates");
    let of_first = list(None, Some(&first)).await.expect("reads");
    assert_eq!((of_first.len(), of_first[0].build_id), (1, newer));
}

/// A snapshot that is refused leaves nothing behind but its note.
pub async fn a_snapshot_is_recorded_whole_or_not_at_all(store: Shared) {
    let owner = team(&store, "a").await;
    template(&store, owner, vec![alias("a", "taken")]).await;
    let fresh = TemplateId::random();
    let clash = snapshot(owner, &fresh, Some("taken"), &SandboxId::random(), 1);
    let build = clash.build.id;
    store.discard_add(build, &us()).await.expect("writes");
    let refused = store.snapshot_create(clash).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    assert!(store.template(&fresh).await.expect("reads").is_none());
    assert!(store.build(build).await.expect("reads").is_none());
    assert_eq!(store.discard_list().await.expect("reads"), [build]);
    let gone = snapshot(owner, &fresh, None, &SandboxId::random(), 1);
    let refused = store.snapshot_create(gone).await;
    assert!(matches!(refused, Err(Error::Dangling)), "{refused:?}");
}

/// Builds whose template goes are noted.
pub async fn builds_of_a_deleted_template_are_discarded(store: Shared) {
    let owner = team(&store, "a").await;
    let id = TemplateId::random();
    let kept = snapshot(owner, &id, Some("kept"), &SandboxId::random(), 1);
    let build = kept.build.id;
    note(&store, &kept).await;
    store.snapshot_create(kept).await.expect("creates");
    assert!(store.template_delete(&id, &us()).await.expect("writes"));
    assert_eq!(store.discard_list().await.expect("reads"), [build]);
    assert_eq!(store.snapshot_source(build).await.expect("reads"), None);
    store
        .discard_add(build, &us())
        .await
        .expect("may be repeated");
    store.discard_remove(build).await.expect("writes");
    assert!(store.discard_list().await.expect("reads").is_empty());
}

/// Notes whose owner is there stay with it; those of the others are the first taker's.
pub async fn notes_of_the_dead_are_taken_over(store: Shared) {
    let (alive, dead, taker) = (us(), OwnerId::random(), OwnerId::random());
    let hour = Duration::from_secs(3600);
    for (owner, length) in [(&alive, hour), (&dead, Duration::ZERO), (&taker, hour)] {
        let presence = LeaseName::presence(owner);
        let present = store.lease_acquire(&presence, owner, length).await;
        assert!(present.expect("writes"));
    }
    let (kept, left) = (BuildId::random(), BuildId::random());
    store.discard_add(kept, &alive).await.expect("writes");
    store.discard_add(left, &dead).await.expect("writes");
    assert_eq!(
        store.discard_take_over(&taker).await.expect("writes"),
        [left]
    );
    assert!(
        store
            .discard_take_over(&alive)
            .await
            .expect("writes")
            .is_empty()
    );
    assert_eq!(store.discard_list().await.expect("reads").len(), 2);
    // One that starts again where it had died has no presence yet.
    let presence = LeaseName::presence(&alive);
    store
        .lease_release(&presence, &alive)
        .await
        .expect("writes");
    assert_eq!(
        store.discard_take_over(&alive).await.expect("writes"),
        [kept]
    );
}

/// A process that stood still for so long that another one discards its build does not
/// record it any more.
pub async fn a_snapshot_whose_note_was_taken_over_is_refused(store: Shared) {
    let owner = team(&store, "a").await;
    let id = TemplateId::random();
    let late = snapshot(owner, &id, Some("late"), &SandboxId::random(), 1);
    let build = late.build.id;
    note(&store, &late).await;
    let taken = store.discard_take_over(&OwnerId::random()).await;
    assert_eq!(taken.expect("writes"), [build]);
    let refused = store.snapshot_create(late).await;
    assert!(matches!(refused, Err(Error::TakenOver(_))), "{refused:?}");
    assert!(store.template(&id).await.expect("reads").is_none());
    assert_eq!(store.discard_list().await.expect("reads"), [build]);
}
