use super::*;
use crate::{listing::tests::status, sandbox::View};
use hearth_ids::TeamId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A sandbox whose driver is this test.
pub(crate) struct Driven {
    pub id: SandboxId,
    view: watch::Sender<View>,
    _commands: mpsc::Receiver<crate::sandbox::Command>,
}

impl Driven {
    pub(crate) fn new(registry: &Registry, metadata_bytes: usize) -> Self {
        let mut status = status(TeamId::random(), SandboxState::Starting, metadata_bytes);
        // Thousands of them are made.
        let spec = std::sync::Arc::make_mut(&mut status.spec);
        spec.env_vars.clear();
        spec.network_json.clear();
        let id = status.spec.sandbox_id.clone();
        let (sender, commands) = mpsc::channel(1);
        let closed = CancellationToken::new();
        let (view, reader) = watch::channel(View { status, closed });
        let handle = Handle {
            commands: sender,
            view: reader,
        };
        registry.insert(&id, handle, |_| None).expect("is new");
        Self {
            id,
            view,
            _commands: commands,
        }
    }

    pub(crate) fn becomes(&self, registry: &Registry, state: SandboxState) {
        registry.publish(&self.id, |sequence| {
            self.view.send_modify(|view| {
                view.status.state = state;
                view.status.sequence = sequence;
            });
        });
    }
}

fn told(changes: &Changes) -> Vec<(SandboxId, SandboxState, u64)> {
    let changed = changes.changed.iter();
    changed
        .map(|status| {
            let id = status.spec.sandbox_id.clone();
            (id, status.state, status.sequence)
        })
        .collect()
}

fn after(registry: &Registry, sequence: u64) -> Changes {
    let begun = if sequence == 0 { registry.last() } else { 0 };
    let changes = registry.changes(sequence, begun, usize::MAX, |_| 1);
    changes.expect("nothing was forgotten")
}

#[test]
fn each_change_has_a_number_and_the_latest_of_each_sandbox_is_told() {
    use SandboxState::{Pausing, Running};
    let registry = Registry::default();
    assert!(after(&registry, 0).complete);
    let (one, other) = (Driven::new(&registry, 1), Driven::new(&registry, 1));
    one.becomes(&registry, Running);
    other.becomes(&registry, Running);
    one.becomes(&registry, Pausing);
    let all = after(&registry, 0);
    let expected = [(other.id.clone(), Running, 4), (one.id.clone(), Pausing, 5)];
    assert_eq!(told(&all), expected);
    assert!(all.complete && all.removed.is_empty());
    assert_eq!(all.sequence, 5);
    assert_eq!(told(&after(&registry, 4)), expected[1..]);
    assert_eq!(registry.status(&one.id).expect("is there").sequence, 5);

    assert_eq!(registry.remove(&other.id), 6);
    let news = after(&registry, 5);
    assert!(news.changed.is_empty());
    let gone = Removal {
        id: other.id.clone(),
        sequence: 6,
    };
    assert_eq!(news.removed, [gone]);
    // Whoever begins needs no word of those that went before.
    assert!(after(&registry, 0).removed.is_empty());
}

#[test]
fn what_does_not_fit_comes_with_the_next_ones() {
    let registry = Registry::default();
    let all: Vec<Driven> = (0..5).map(|_| Driven::new(&registry, 1)).collect();
    let first = registry.changes(0, 5, 2, |_| 1).expect("begins");
    assert_eq!((first.changed.len(), first.sequence), (2, 2));
    assert!(!first.complete);
    // One that was told goes, and one that was not.
    registry.remove(&all[0].id);
    registry.remove(&all[3].id);
    let second = registry.changes(2, 5, 1, |_| 1).expect("goes on");
    assert_eq!((second.changed.len(), second.sequence), (1, 4));
    assert!(second.removed.is_empty(), "told in its turn");
    let third = registry
        .changes(second.sequence, 5, 9, |_| 1)
        .expect("goes on");
    assert!(third.complete);
    let changed = told(&third);
    assert_eq!((changed.len(), &changed[0].0), (1, &all[4].id));
    let removed: Vec<_> = third.removed.iter().map(|gone| &gone.id).collect();
    assert_eq!(removed, [&all[0].id, &all[3].id]);
    // One alone is told however large it is.
    let large = registry.changes(0, 7, 1, |_| 100).expect("begins");
    assert_eq!(large.changed.len(), 1);
}

#[test]
fn a_place_is_gone_when_removals_after_it_are_forgotten() {
    let registry = Registry::default();
    let kept = Driven::new(&registry, 1);
    for _ in 0..=MAX_REMOVED {
        let driven = Driven::new(&registry, 1);
        registry.remove(&driven.id);
    }
    assert!(registry.changes(1, 1, 9, |_| 1).is_none());
    assert!(registry.changes(u64::MAX, 0, 9, |_| 1).is_none());
    let last = after(&registry, 0).sequence;
    assert!(registry.changes(last, last, 9, |_| 1).is_some());
    assert_eq!(told(&after(&registry, 0))[0].0, kept.id);
    assert!(registry.lock().removed.len() <= MAX_REMOVED);
}
