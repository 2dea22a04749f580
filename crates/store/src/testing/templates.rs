//! Templates, builds and tags.

use super::records::{Shared, alias, at, build, team, template, us};
use crate::{BuildStatus, Error, NewTemplate, TagOrder, TagQuery};
use hearth_ids::{BuildId, TemplateId};

/// Templates are found by each of their names.
pub async fn templates_are_found_by_their_names(store: Shared) {
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
    assert!(
        store
            .template_describe(&id, Some("Für alle"), at(5))
            .await
            .expect("writes")
    );
    store.template_spawned(&id, at(6)).await.expect("writes");
    store.template_spawned(&id, at(7)).await.expect("writes");
    let found = store.template(&id).await.expect("reads").expect("is there");
    assert_eq!((found.public, found.spawn_count), (true, 2));
    assert_eq!(found.description.as_deref(), Some("Für alle"));
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
/// A name in use leaves nothing of the template behind.
pub async fn a_template_is_created_whole_or_not_at_all(store: Shared) {
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

/// The order of assignment counts, not the clock.
pub async fn of_a_tags_assignments_the_latest_holds(store: Shared) {
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

/// What the tags named before is known, of builds that are ready, in every order.
pub async fn what_tags_named_is_known(store: Shared) {
    let owner = team(&store, "a").await;
    let (id, other) = (
        template(&store, owner, vec![]).await,
        template(&store, owner, vec![]).await,
    );
    let ready = async |template: &TemplateId, created| {
        let made = build(&store, template, created).await;
        let status = BuildStatus::Ready;
        let set = store.build_set_status(made, status, at(created + 1)).await;
        assert!(set.expect("writes"));
        made
    };
    let (first, second) = (ready(&id, 1).await, ready(&id, 2).await);
    let failed = build(&store, &id, 3).await;
    let elsewhere = ready(&other, 4).await;
    for (template, tag, build, seconds) in [
        (&id, "v1_0", first, 10),
        (&id, "default", first, 11),
        (&other, "default", elsewhere, 12),
        (&id, "default", second, 13),
        (&id, "default", failed, 14),
        (&id, "broken", failed, 15),
        (&id, "default", first, 16),
        (&id, "v1-0", second, 17),
    ] {
        let assigned = store.tag_assign(template, tag, build, at(seconds)).await;
        assigned.expect("writes");
    }
    let history = store.tag_events(&id, "default", None, 10).await;
    let history = history.expect("reads");
    let read: Vec<_> = history
        .iter()
        .map(|event| (event.build_id, event.assigned_at))
        .collect();
    assert_eq!(
        read,
        [(first, at(16)), (second, at(13)), (first, at(11))],
        "the latest first, without builds that are not ready"
    );
    assert_eq!(history[1].build_created_at, at(2));
    assert_eq!(history[1].build_finished_at, Some(at(3)));
    let before = Some(history[0].sequence);
    let page = store.tag_events(&id, "default", before, 1).await;
    assert_eq!(page.expect("reads"), history[1..2]);
    assert_eq!(store.tag_count(&id).await.expect("reads"), 3);

    for (order, expected) in [
        (TagOrder::LatestFirst, ["v1-0", "default", "v1_0"]),
        (TagOrder::LatestLast, ["v1_0", "default", "v1-0"]),
        (TagOrder::NameAscending, ["default", "v1-0", "v1_0"]),
        (TagOrder::NameDescending, ["v1_0", "v1-0", "default"]),
    ] {
        let mut query = TagQuery {
            search: String::new(),
            order,
            after: None,
            limit: 1,
        };
        let mut read = Vec::new();
        while let Some(last) = store.tag_search(&id, &query).await.expect("reads").pop() {
            read.push(last.tag.clone());
            query.after = Some(last);
        }
        assert_eq!(read, expected, "{order:?}");
    }
    the_search_takes_texts_as_they_are(&store, &id).await;
}

async fn the_search_takes_texts_as_they_are(store: &Shared, id: &TemplateId) {
    for (search, expected) in [
        ("_", vec!["v1_0"]),
        ("v1", vec!["v1-0", "v1_0"]),
        ("%", vec![]),
    ] {
        let query = TagQuery {
            search: search.to_owned(),
            order: TagOrder::NameAscending,
            after: None,
            limit: 9,
        };
        let found = store.tag_search(id, &query).await.expect("reads");
        let found: Vec<_> = found.into_iter().map(|latest| latest.tag).collect();
        assert_eq!(found, expected, "{search}");
    }
}

/// Builds are listed newest first, in pages without gaps.
pub async fn builds_move_on_and_come_newest_first(store: Shared) {
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
    made.sort_by_key(ToString::to_string);
    assert_eq!(store.team_builds(owner).await.expect("reads"), made);
    let others = team(&store, "b").await;
    assert!(store.team_builds(others).await.expect("reads").is_empty());
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

/// A deleted template takes names, builds and tags with it.
pub async fn a_deleted_template_takes_all_that_is_its_own(store: Shared) {
    let owner = team(&store, "a").await;
    let id = template(&store, owner, vec![alias("", "base")]).await;
    let build = build(&store, &id, 1).await;
    store
        .tag_assign(&id, "default", build, at(1))
        .await
        .expect("writes");
    assert!(store.template_delete(&id, &us()).await.expect("writes"));
    assert!(!store.template_delete(&id, &us()).await.expect("writes"));
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
