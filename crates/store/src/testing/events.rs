//! Events, webhooks and deliveries.

use super::records::{Shared, at, team, template};
use crate::{
    Attempt, BuildStatus, Delivery, DeliveryPlace, DeliveryQuery, DeliveryState, Event, EventQuery,
    NewBuild, NewBuildRequest, NewWebhook, Redelivery, Verdict, Webhook, WebhookChange,
};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use uuid::Uuid;

pub(super) const CREATED: &str = "sandbox.lifecycle.created";
const KILLED: &str = "sandbox.lifecycle.killed";

pub(super) fn event(team: TeamId, sandbox: &SandboxId, event_type: &str, seconds: i64) -> Event {
    Event {
        id: Uuid::new_v4(),
        team_id: team,
        event_type: event_type.to_owned(),
        category: Some("lifecycle".to_owned()),
        label: None,
        data: Some("{\"a\":1}".to_owned()),
        occurred_at: at(seconds),
        sandbox_id: Some(sandbox.clone()),
        execution_id: Some(ExecutionId::random()),
        template_id: Some(TemplateId::random()),
        build_id: Some(BuildId::random()),
    }
}

fn all_of(team: TeamId) -> EventQuery {
    EventQuery {
        team_id: team,
        sandbox_id: None,
        types: Vec::new(),
        ascending: true,
        offset: 0,
        limit: 100,
    }
}

pub(super) async fn insert(store: &Shared, events: &[Event]) -> u64 {
    store.event_insert(events, at(0)).await.expect("writes")
}

pub(super) async fn webhook(store: &Shared, team: TeamId, events: &[&str]) -> Webhook {
    let new = NewWebhook {
        id: Uuid::new_v4(),
        team_id: team,
        name: "hook".to_owned(),
        url: "https://example.com/".to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        sealed_secret: "sealed".to_owned(),
        enabled: true,
        created_at: at(0),
    };
    let made = store.webhook_create(new, 5).await.expect("writes");
    made.expect("has room")
}

pub(super) fn attempt(webhook: &Webhook, event: &Event, success: bool, seconds: i64) -> Attempt {
    Attempt {
        id: Uuid::new_v4(),
        webhook_id: webhook.id,
        event_id: event.id,
        success,
        duration_ms: 10,
        request_url: webhook.url.clone(),
        request_body: "{}".to_owned(),
        request_headers: "{}".to_owned(),
        response_body: None,
        response_headers: None,
        response_status: success.then_some(200),
        error_class: (!success).then(|| "timeout".to_owned()),
        error_message: None,
        at: at(seconds),
    }
}

async fn due(store: &Shared, webhook: &Webhook, now: DateTime<Utc>) -> Vec<(Uuid, u32)> {
    let due = store.delivery_due(webhook.id, now, 100).await;
    let due = due.expect("reads").into_iter();
    due.map(|due| (due.event.id, due.attempts)).collect()
}

pub(super) fn deliveries_of(webhook: &Webhook) -> DeliveryQuery {
    DeliveryQuery {
        webhook_id: webhook.id,
        after: None,
        start: None,
        end: None,
        success: None,
        types: Vec::new(),
        ascending: true,
        limit: 100,
    }
}

async fn deliveries(store: &Shared, query: &DeliveryQuery) -> Vec<Delivery> {
    let page = store.delivery_list(query).await;
    page.expect("reads").deliveries
}

fn give_up(team: TeamId, failing_before: DateTime<Utc>) -> Verdict {
    let mut told = event(team, &SandboxId::random(), "webhook.disabled", 100);
    told.sandbox_id = None;
    Verdict::GiveUp {
        failing_before,
        disabled: Box::new(told),
        reason: "no answer".to_owned(),
    }
}

/// An event that is told again is kept once, as it was told first.
pub async fn an_event_is_kept_once_and_found(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let (first, second) = (SandboxId::random(), SandboxId::random());
    let events = [
        event(one, &first, CREATED, 1),
        event(one, &second, CREATED, 2),
        event(one, &first, KILLED, 3),
        event(other, &first, CREATED, 4),
    ];
    assert_eq!(insert(&store, &events).await, 4);
    let again = Event {
        data: None,
        ..events[0].clone()
    };
    assert_eq!(insert(&store, &[again]).await, 0);
    let nobodys = event(TeamId::random(), &first, CREATED, 5);
    assert_eq!(insert(&store, &[nobodys]).await, 0, "of no team");

    let list = async |query: EventQuery| store.event_list(&query).await.expect("reads");
    assert_eq!(list(all_of(one)).await, events[..3]);
    let newest = EventQuery {
        ascending: false,
        limit: 1,
        offset: 1,
        ..all_of(one)
    };
    assert_eq!(list(newest).await, [events[1].clone()]);
    let killed = EventQuery {
        types: vec![KILLED.to_owned(), "x".to_owned()],
        ..all_of(one)
    };
    assert_eq!(list(killed).await, [events[2].clone()]);
    let of_sandbox = EventQuery {
        sandbox_id: Some(first),
        ..all_of(one)
    };
    assert_eq!(
        list(of_sandbox).await,
        [events[0].clone(), events[2].clone()]
    );
}

/// What is old goes, and of a team that has too many the oldest; deliveries with them.
pub async fn old_events_are_deleted(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let sandbox = SandboxId::random();
    let hook = webhook(&store, one, &[CREATED]).await;
    let events: Vec<Event> = (0..6).map(|n| event(one, &sandbox, CREATED, n)).collect();
    insert(&store, &events).await;
    insert(&store, &[event(other, &sandbox, CREATED, 0)]).await;
    assert_eq!(store.event_prune(at(2), 100).await.expect("deletes"), 3);
    assert_eq!(store.event_prune(at(2), 3).await.expect("deletes"), 1);
    assert_eq!(store.event_prune(at(2), 3).await.expect("deletes"), 0);
    let left = store.event_list(&all_of(one)).await.expect("reads");
    assert_eq!(left, events[3..]);
    let left = deliveries(&store, &deliveries_of(&hook)).await;
    assert_eq!(left.len(), 3);
}

/// A webhook is its team's, is changed in parts, and a team has only so many.
pub async fn webhooks_are_kept(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let hook = webhook(&store, one, &[CREATED, KILLED]).await;
    assert_eq!(hook.events, [CREATED, KILLED]);
    assert!(hook.enabled);
    let found = store.webhook(one, hook.id).await.expect("reads");
    assert_eq!(found.as_ref(), Some(&hook));
    assert_eq!(store.webhook(other, hook.id).await.expect("reads"), None);
    for _ in 0..4 {
        webhook(&store, one, &[CREATED]).await;
    }
    let beyond = NewWebhook {
        id: Uuid::new_v4(),
        team_id: one,
        name: "beyond".to_owned(),
        url: "https://example.com/".to_owned(),
        events: vec![CREATED.to_owned()],
        sealed_secret: String::new(),
        enabled: true,
        created_at: at(1),
    };
    let beyond = store.webhook_create(beyond, 5).await.expect("writes");
    assert_eq!(beyond, None);
    assert_eq!(store.webhook_list(one).await.expect("reads").len(), 5);
    assert!(store.webhook_list(other).await.expect("reads").is_empty());

    let change = WebhookChange {
        name: Some("new".to_owned()),
        events: Some(vec![KILLED.to_owned()]),
        enabled: Some(false),
        ..WebhookChange::default()
    };
    let of_other = store.webhook_update(other, hook.id, change.clone()).await;
    assert_eq!(of_other.expect("writes"), None);
    let changed = store.webhook_update(one, hook.id, change).await;
    let changed = changed.expect("writes").expect("is there");
    let wanted = Webhook {
        name: "new".to_owned(),
        events: vec![KILLED.to_owned()],
        enabled: false,
        ..hook.clone()
    };
    assert_eq!(changed, wanted);
    assert!(!store.webhook_delete(other, hook.id).await.expect("writes"));
    // With more of it than one batch takes.
    let events: Vec<Event> = (0..1100)
        .map(|n| event(one, &SandboxId::random(), KILLED, n))
        .collect();
    let enable = WebhookChange {
        enabled: Some(true),
        ..WebhookChange::default()
    };
    let enabled = store.webhook_update(one, hook.id, enable).await;
    enabled.expect("writes").expect("is there");
    insert(&store, &events).await;
    note(&store, &hook, (&events[0], true, 2000), Verdict::Success).await;
    assert!(store.webhook_delete(one, hook.id).await.expect("writes"));
    assert_eq!(store.delivery_next(at(0)).await.expect("reads"), None);
    assert!(deliveries(&store, &deliveries_of(&hook)).await.is_empty());
    assert!(!store.webhook_delete(one, hook.id).await.expect("writes"));
}

/// Events of a sandbox are delivered one after the other; those of another need not wait.
pub async fn deliveries_of_a_sandbox_wait_for_each_other(store: Shared) {
    let owner = team(&store, "a").await;
    let (first, second) = (SandboxId::random(), SandboxId::random());
    let hook = webhook(&store, owner, &[CREATED, KILLED]).await;
    // Wants none of them, or nothing at all.
    let deaf = webhook(&store, owner, &["sandbox.lifecycle.create"]).await;
    let off = webhook(&store, owner, &[CREATED]).await;
    let disable = WebhookChange {
        enabled: Some(false),
        ..WebhookChange::default()
    };
    store
        .webhook_update(owner, off.id, disable.clone())
        .await
        .expect("writes");
    let events = [
        event(owner, &first, CREATED, 1),
        event(owner, &first, KILLED, 2),
        event(owner, &second, CREATED, 3),
        event(owner, &second, "sandbox.lifecycle.updated", 4),
    ];
    insert(&store, &events).await;
    for none in [&deaf, &off] {
        assert!(deliveries(&store, &deliveries_of(none)).await.is_empty());
    }
    let hooks = store.delivery_webhooks_due(at(0)).await.expect("reads");
    assert_eq!(hooks, std::slice::from_ref(&hook));
    let (created, killed, other) = (events[0].id, events[1].id, events[2].id);
    assert_eq!(due(&store, &hook, at(0)).await, [(created, 0), (other, 0)]);
    // The first one fails: the second one waits for it still.
    let failed = attempt(&hook, &events[0], false, 5);
    let again = Verdict::Again(at(15));
    let noted = store.delivery_attempted(&failed, &again, at(5)).await;
    assert!(!noted.expect("writes"));
    assert_eq!(due(&store, &hook, at(6)).await, [(other, 0)]);
    assert_eq!(
        store.delivery_next(at(6)).await.expect("reads"),
        Some(at(15))
    );
    assert_eq!(due(&store, &hook, at(15)).await, [(other, 0), (created, 1)]);
    let arrived = attempt(&hook, &events[0], true, 15);
    store
        .delivery_attempted(&arrived, &Verdict::Success, at(15))
        .await
        .expect("writes");
    // It was not due before, and so comes after what was.
    assert_eq!(due(&store, &hook, at(15)).await, [(other, 0), (killed, 0)]);
    // Its end by the owner ends what waits.
    store
        .webhook_update(owner, hook.id, disable)
        .await
        .expect("writes");
    assert!(due(&store, &hook, at(15)).await.is_empty());
    assert_eq!(store.delivery_next(at(0)).await.expect("reads"), None);
}

/// Notes an attempt at a delivery with what follows.
async fn note(
    store: &Shared,
    webhook: &Webhook,
    (event, success, seconds): (&Event, bool, i64),
    verdict: Verdict,
) -> Attempt {
    let attempt = attempt(webhook, event, success, seconds);
    let noted = store.delivery_attempted(&attempt, &verdict, at(seconds));
    noted.await.expect("writes");
    attempt
}

/// Deliveries are listed in pages with their attempts.
pub async fn deliveries_are_listed(store: Shared) {
    let owner = team(&store, "a").await;
    let sandbox = SandboxId::random();
    let hook = webhook(&store, owner, &[CREATED, KILLED]).await;
    let events = [
        event(owner, &sandbox, CREATED, 1),
        event(owner, &sandbox, KILLED, 2),
    ];
    insert(&store, &events).await;
    let again = Verdict::Again(at(20));
    let first = note(&store, &hook, (&events[0], false, 10), again).await;
    let second = note(&store, &hook, (&events[0], true, 20), Verdict::Success).await;
    let base = deliveries_of(&hook);
    let all = deliveries(&store, &base).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].attempts, [first, second]);
    assert_eq!(
        (all[0].state, all[1].state),
        (DeliveryState::Success, DeliveryState::Pending)
    );
    let after = DeliveryPlace {
        occurred_at: events[0].occurred_at,
        event_id: events[0].id,
    };
    type Change = Box<dyn Fn(&mut DeliveryQuery)>;
    let (newer, older) = (Some(after.clone()), Some(after));
    let cases: [(Change, usize); 8] = [
        (Box::new(move |query| query.after = newer.clone()), 1),
        (
            Box::new(move |query| (query.after, query.ascending) = (older.clone(), false)),
            0,
        ),
        (Box::new(|query| query.success = Some(true)), 1),
        (Box::new(|query| query.success = Some(false)), 0),
        (Box::new(|query| query.types = vec![KILLED.to_owned()]), 1),
        (Box::new(|query| query.start = Some(at(2))), 1),
        (Box::new(|query| query.end = Some(at(2))), 1),
        (Box::new(|query| query.limit = 1), 1),
    ];
    for (change, found) in cases {
        let mut query = base.clone();
        change(&mut query);
        assert_eq!(deliveries(&store, &query).await.len(), found, "{query:?}");
    }
}

/// Attempts are counted, and deliveries begun again.
pub async fn deliveries_are_counted_and_begun_again(store: Shared) {
    let owner = team(&store, "a").await;
    let sandbox = SandboxId::random();
    let hook = webhook(&store, owner, &[CREATED]).await;
    let event = event(owner, &sandbox, CREATED, 1);
    insert(&store, std::slice::from_ref(&event)).await;
    let again = Verdict::Again(at(20));
    note(&store, &hook, (&event, false, 10), again).await;
    note(&store, &hook, (&event, true, 20), Verdict::Success).await;
    let stats = store.delivery_stats(hook.id, at(0)..at(20), 60_000).await;
    let stats = stats.expect("reads");
    assert_eq!((stats.len(), stats[0].total, stats[0].failed), (1, 1, 1));
    let stats = store.delivery_stats(hook.id, at(0)..at(21), 1_000).await;
    let stats = stats.expect("reads");
    assert_eq!((stats.len(), stats[1].failed), (2, 0));
    assert_eq!(
        (stats[1].minimum_ms, stats[1].maximum_ms, stats[1].sum_ms),
        (10, 10, 10)
    );
    let other = team(&store, "b").await;
    let redeliver = async |team| {
        let again = store.delivery_redeliver(team, hook.id, event.id, at(30));
        again.await.expect("writes")
    };
    assert_eq!(redeliver(other).await, Redelivery::NotFound);
    assert_eq!(redeliver(owner).await, Redelivery::Begun);
    assert_eq!(due(&store, &hook, at(30)).await, [(event.id, 0)]);
}

/// A webhook at which everything has failed for long is disabled, which is an event; one
/// success in between keeps it.
pub async fn a_webhook_that_fails_for_long_is_disabled(store: Shared) {
    let owner = team(&store, "a").await;
    let hook = webhook(&store, owner, &[CREATED]).await;
    let events: Vec<Event> = (0..4)
        .map(|n| event(owner, &SandboxId::random(), CREATED, n))
        .collect();
    insert(&store, &events).await;
    let note = async |event: &Event, success, seconds, verdict: Verdict| {
        let attempt = attempt(&hook, event, success, seconds);
        let noted = store.delivery_attempted(&attempt, &verdict, at(seconds));
        noted.await.expect("writes")
    };
    assert!(!note(&events[0], false, 10, Verdict::Again(at(11))).await);
    assert!(!note(&events[1], true, 20, Verdict::Success).await);
    assert!(!note(&events[2], false, 30, give_up(owner, at(29))).await);
    assert!(!note(&events[0], false, 31, Verdict::Again(at(40))).await);
    assert!(note(&events[0], false, 40, give_up(owner, at(30))).await);
    let found = store.webhook(owner, hook.id).await.expect("reads");
    let found = found.expect("is there");
    assert!(!found.enabled);
    assert_eq!(found.disabled_reason.as_deref(), Some("no answer"));
    let told = EventQuery {
        types: vec!["webhook.disabled".to_owned()],
        ..all_of(owner)
    };
    assert_eq!(store.event_list(&told).await.expect("reads").len(), 1);
    let again = store.delivery_redeliver(owner, hook.id, events[0].id, at(50));
    assert_eq!(again.await.expect("reads"), Redelivery::Disabled);
    let left = deliveries(&store, &deliveries_of(&hook)).await;
    assert!(
        left.iter()
            .all(|delivery| delivery.state != DeliveryState::Pending),
        "{left:?}"
    );
    let enable = WebhookChange {
        enabled: Some(true),
        ..WebhookChange::default()
    };
    let enabled = store.webhook_update(owner, hook.id, enable).await;
    let enabled = enabled.expect("writes").expect("is there");
    assert!(enabled.enabled);
    assert_eq!(
        (enabled.disabled_reason, enabled.failing_since),
        (None, None)
    );
}

/// The end of a build is an event, once.
pub async fn the_end_of_a_build_is_an_event(store: Shared) {
    let owner = team(&store, "a").await;
    let template = template(&store, owner, vec![]).await;
    let mut builds = Vec::new();
    for n in 0..2 {
        let build = NewBuild {
            id: BuildId::random(),
            template_id: template.clone(),
            status: BuildStatus::Waiting,
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: String::new(),
            created_at: at(n),
        };
        builds.push(build.id);
        let request = NewBuildRequest {
            build,
            team_id: owner,
            tags: vec!["default".to_owned()],
            min_free_disk_mib: 0,
        };
        store.build_request_create(request).await.expect("creates");
    }
    for _ in 0..2 {
        let done = store.build_succeed(builds[0], 1, "0.6.13", at(5)).await;
        done.expect("writes");
        let failed = store.build_fail(builds[1], "no \"space\"", Some("3"), at(6));
        failed.await.expect("writes");
    }
    let told = store.event_list(&all_of(owner)).await.expect("reads");
    let types: Vec<&str> = told.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["template.build.ready", "template.build.failed"]);
    assert_eq!(
        told.iter().map(|event| event.build_id).collect::<Vec<_>>(),
        [Some(builds[0]), Some(builds[1])]
    );
    assert_eq!(told[0].template_id, Some(template));
    let why = told[1].data.as_deref().unwrap_or_default();
    assert!(why.contains(r#"no \"space\""#), "{why}");
}
