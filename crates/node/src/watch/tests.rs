use super::*;
use crate::{
    registry::tests::Driven,
    spec::SandboxState::{Paused, Pausing, Running},
};
use std::collections::BTreeMap;

struct Sandboxes(Registry);

impl Source for Sandboxes {
    fn registry(&self) -> &Registry {
        &self.0
    }
}

fn sandboxes() -> Arc<Sandboxes> {
    Arc::new(Sandboxes(Registry::default()))
}

fn watch(source: &Arc<Sandboxes>, after: Option<Revision>) -> Watcher<Sandboxes> {
    let watcher = Watcher::new(Arc::clone(source), after, CancellationToken::new());
    watcher.expect("few watch")
}

async fn next(watcher: &mut Watcher<Sandboxes>) -> News {
    watcher.next().await.expect("goes on")
}

fn states(news: &News) -> Vec<crate::spec::SandboxState> {
    news.changes.changed.iter().map(|s| s.state).collect()
}

#[tokio::test(start_paused = true)]
async fn all_there_is_comes_first_then_every_change_in_order() {
    let source = sandboxes();
    let registry = &source.0;
    let first = Driven::new(registry, 1);
    first.becomes(registry, Running);
    let mut watcher = watch(&source, None);
    let all = next(&mut watcher).await;
    assert!(all.reset && all.changes.complete);
    assert_eq!(states(&all), [Running]);
    let mut told = all.changes.sequence;
    for state in [Pausing, Paused] {
        first.becomes(registry, state);
        let news = next(&mut watcher).await;
        assert_eq!(states(&news), [state]);
        assert!(!news.reset && news.changes.sequence > told);
        told = news.changes.sequence;
    }
    registry.remove(&first.id);
    let news = next(&mut watcher).await;
    assert_eq!(news.changes.removed[0].id, first.id);
    // Nothing happens: the reader hears that nothing does.
    let silence = next(&mut watcher).await;
    assert!(silence.changes.changed.is_empty() && silence.changes.complete);
}

#[tokio::test(start_paused = true)]
async fn a_known_place_is_gone_on_from_and_an_unknown_one_begins_anew() {
    let source = sandboxes();
    let registry = &source.0;
    let driven = Driven::new(registry, 1);
    let all = next(&mut watch(&source, None)).await;
    let place = Revision {
        instance: all.instance,
        sequence: all.changes.sequence,
    };
    driven.becomes(registry, Running);
    let news = next(&mut watch(&source, Some(place))).await;
    assert!(!news.reset);
    assert_eq!(states(&news), [Running]);
    let elsewhere = Revision {
        instance: place.instance ^ 1,
        ..place
    };
    let future = Revision {
        sequence: u64::MAX,
        ..place
    };
    for unknown in [elsewhere, future] {
        let news = next(&mut watch(&source, Some(unknown))).await;
        assert!(news.reset, "{unknown:?}");
        assert_eq!(states(&news), [Running]);
    }
}

/// A reader that takes a message now and then, while sandboxes come, change and go by
/// the thousand, ends with what there is; what waits for it is never more than one
/// message.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_costs_one_message_and_ends_with_what_there_is() {
    const METADATA: usize = 100 << 10;
    let source = sandboxes();
    let registry = &source.0;
    let mut driven: Vec<Driven> = (0..40).map(|_| Driven::new(registry, METADATA)).collect();
    let mut watcher = watch(&source, None);
    let mut known = BTreeMap::new();
    let mut resets = 0;
    let mut read = async |watcher: &mut Watcher<Sandboxes>| {
        let news = next(watcher).await;
        let bytes: usize = news.changes.changed.iter().map(size).sum();
        assert!(bytes <= listing::PAGE_BYTES, "{bytes}");
        if news.reset {
            resets += 1;
            known.clear();
        }
        for status in &news.changes.changed {
            known.insert(status.spec.sandbox_id.clone(), status.state);
        }
        for removal in &news.changes.removed {
            known.remove(&removal.id);
        }
        (news.changes.complete, known.clone(), resets)
    };
    for round in 0..200 {
        driven[round % 40].becomes(registry, Running);
        let gone = driven.swap_remove((round * 7) % 40);
        registry.remove(&gone.id);
        driven.push(Driven::new(registry, METADATA));
        if round % 50 == 0 {
            read(&mut watcher).await;
        }
    }
    // While it reads nothing, more go than the registry remembers.
    for _ in 0..5000 {
        let driven = Driven::new(registry, 1);
        registry.remove(&driven.id);
    }
    let (mut complete, mut end) = (false, (BTreeMap::new(), 0));
    while !complete {
        let (done, known, resets) = read(&mut watcher).await;
        (complete, end) = (done, (known, resets));
    }
    let there: BTreeMap<_, _> = registry
        .statuses()
        .into_iter()
        .map(|status| (status.spec.sandbox_id.clone(), status.state))
        .collect();
    assert_eq!(there.len(), 40);
    assert_eq!(end, (there, 2), "begun anew once");
}

#[tokio::test]
async fn a_watch_ends_with_its_server() {
    let source = sandboxes();
    let end = CancellationToken::new();
    let watcher = Watcher::new(Arc::clone(&source), None, end.clone());
    let mut watcher = watcher.expect("few watch");
    watcher.next().await.expect("begins");
    end.cancel();
    assert!(watcher.next().await.is_none());
}

#[tokio::test]
async fn only_so_many_watch_at_a_time() {
    let source = sandboxes();
    let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| watch(&source, None)).collect();
    let one_more = || Watcher::new(Arc::clone(&source), None, CancellationToken::new());
    assert!(one_more().is_none());
    watchers.pop();
    assert!(one_more().is_some());
}
