//! Builds that teams ask for.

use super::records::{Shared, at, team, template};
use crate::{BuildStatus, NewBuild, NewBuildRequest};
use hearth_ids::{BuildId, TeamId, TemplateId};
use std::sync::Arc;

fn asked(team: TeamId, template: &TemplateId, tags: &[&str], created: i64) -> NewBuildRequest {
    NewBuildRequest {
        build: NewBuild {
            id: BuildId::random(),
            template_id: template.clone(),
            status: BuildStatus::Waiting,
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: String::new(),
            created_at: at(created),
        },
        team_id: team,
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        min_free_disk_mib: 77,
    }
}

/// A build waits, is begun, and is ready under its tags or failed with a reason.
pub async fn a_build_that_was_asked_for_ends_once(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![]).await;
    let (good, bad) = (
        asked(owner, &id, &["v1", "v2"], 1),
        asked(owner, &id, &["v1"], 2),
    );
    let (good_id, bad_id) = (good.build.id, bad.build.id);
    store.build_request_create(good).await.expect("creates");
    store.build_request_create(bad).await.expect("creates");
    let active = store.build_request_list_active().await.expect("reads");
    let active: Vec<BuildId> = active.iter().map(|request| request.build.id).collect();
    assert_eq!(active, [good_id, bad_id]);

    assert!(store.build_begin(good_id, at(3)).await.expect("writes"));
    assert!(!store.build_begin(good_id, at(3)).await.expect("writes"));
    let done = store.build_succeed(good_id, 4096, "0.6.13", at(4)).await;
    assert!(done.expect("writes"));
    let failed = store.build_fail(bad_id, "no space", Some("3"), at(5)).await;
    assert!(failed.expect("writes"));
    // What has ended stays as it is.
    let again = store.build_fail(good_id, "late", None, at(6)).await;
    assert!(!again.expect("writes"));
    let again = store.build_succeed(bad_id, 1, "x", at(6)).await;
    assert!(!again.expect("writes"));

    let good = store.build_request(good_id).await.expect("reads");
    let good = good.expect("is there");
    assert_eq!((good.team_id, good.min_free_disk_mib), (owner, 77));
    assert_eq!(good.tags, ["v1", "v2"]);
    assert_eq!(good.build.status, BuildStatus::Ready);
    assert_eq!(
        (good.build.disk_mib, good.build.envd_version.as_str()),
        (4096, "0.6.13")
    );
    assert_eq!(good.build.finished_at, Some(at(4)));
    let bad = store.build_request(bad_id).await.expect("reads");
    let bad = bad.expect("is there");
    assert_eq!(bad.reason.as_deref(), Some("no space"));
    assert_eq!(bad.reason_step.as_deref(), Some("3"));
    for tag in ["v1", "v2"] {
        let tagged = store.tag_build(&id, tag).await.expect("reads");
        assert_eq!(tagged.expect("is tagged").id, good_id);
    }
    assert!(
        store
            .build_request_list_active()
            .await
            .expect("reads")
            .is_empty()
    );
}

/// Two processes that follow one build write its end once, and its tags with it.
pub async fn of_two_ends_of_a_build_one_wins(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![]).await;
    let request = asked(owner, &id, &["v1"], 1);
    let build = request.build.id;
    store.build_request_create(request).await.expect("creates");
    let ends: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.build_succeed(build, 1, "v", at(2)).await })
        })
        .collect();
    let mut won = 0;
    for end in ends {
        won += usize::from(end.await.expect("no panic").expect("writes"));
    }
    assert_eq!(won, 1);
    let tags = store.tag_list(&id).await.expect("reads");
    assert_eq!((tags.len(), tags[0].build_id), (1, build));
}
