//! Volumes.

use super::records::{Shared, at, team};
use crate::{Error, Volume, VolumeState};
use hearth_ids::{TeamId, VolumeId};

fn new(team_id: TeamId, name: &str) -> Volume {
    Volume {
        id: VolumeId::random(),
        team_id,
        name: name.to_owned(),
        state: VolumeState::Making,
        created_at: at(1),
    }
}

async fn begin(store: &Shared, volume: &Volume) {
    let begun = store.volume_begin(volume.clone(), 100).await;
    assert!(begun.expect("writes"));
}

/// Volumes are a team's own, found by id, listed by name; a removed one is gone at once
/// and its name is free.
pub async fn volumes_are_found_until_they_are_removed(store: Shared) {
    let (one, other) = (team(&store, "a").await, team(&store, "b").await);
    let (mut data, logs) = (new(one, "data"), new(one, "Logs"));
    for volume in [&data, &logs, &new(other, "data")] {
        begin(&store, volume).await;
    }
    let (making, ready) = (VolumeState::Making, VolumeState::Ready);
    let advanced = store.volume_advance(data.id, making, ready).await;
    assert!(advanced.expect("writes"));
    let again = store.volume_advance(data.id, making, ready).await;
    assert!(!again.expect("writes"));
    data.state = ready;
    let listed = store.volume_list(one).await.expect("reads");
    assert_eq!(listed, [logs.clone(), data.clone()]);
    let found = store.volume(one, data.id).await.expect("reads");
    assert_eq!(found.as_ref(), Some(&data));
    let foreign = store.volume(other, data.id).await.expect("reads");
    assert_eq!(foreign, None);

    let taken = store.volume_begin(new(one, "data"), 100).await;
    assert!(matches!(taken, Err(Error::Conflict(_))));
    let foreign = store.volume_remove(other, data.id).await;
    assert!(!foreign.expect("reads"));
    assert!(store.volume_remove(one, data.id).await.expect("writes"));
    assert!(!store.volume_remove(one, data.id).await.expect("writes"));
    let gone = store.volume(one, data.id).await.expect("reads");
    assert_eq!(gone, None);
    assert_eq!(
        store.volume_list(one).await.expect("reads"),
        std::slice::from_ref(&logs)
    );
    begin(&store, &new(one, "data")).await;
    store.volume_forget(data.id).await.expect("writes");
    // Only what is being removed is forgotten.
    store.volume_forget(logs.id).await.expect("writes");
    assert_eq!(store.volume_list(one).await.expect("reads").len(), 2);
    // The data of a team's volumes would be left on disk.
    assert!(matches!(store.team_delete(one).await, Err(Error::Dangling)));
}

/// The limit holds whoever asks at the same time, and what is being removed is not counted.
pub async fn a_team_has_no_more_volumes_than_it_may(store: Shared) {
    let owner = team(&store, "a").await;
    let asked = (0..8).map(|number| {
        let (store, volume) = (store.clone(), new(owner, &format!("v{number}")));
        tokio::spawn(async move { store.volume_begin(volume, 3).await.expect("writes") })
    });
    let mut made = 0;
    for task in asked.collect::<Vec<_>>() {
        made += usize::from(task.await.expect("ends"));
    }
    assert_eq!(made, 3);
    let listed = store.volume_list(owner).await.expect("reads");
    assert_eq!(listed.len(), 3);
    // The name tells more than the number.
    let taken = store.volume_begin(new(owner, &listed[0].name), 3).await;
    assert!(matches!(taken, Err(Error::Conflict(_))));
    let removed = store.volume_remove(owner, listed[0].id).await;
    assert!(removed.expect("writes"));
    let more = store.volume_begin(new(owner, "more"), 3).await;
    assert!(more.expect("writes"));
}

/// What a process left half done is found by the next one.
pub async fn unfinished_volumes_are_known(store: Shared) {
    let owner = team(&store, "a").await;
    let volumes = ["making", "ready", "failed", "removing"].map(|name| new(owner, name));
    for volume in &volumes {
        begin(&store, volume).await;
    }
    let [making, ready, failed, removing] = &volumes;
    for (volume, to) in [(ready, VolumeState::Ready), (failed, VolumeState::Failed)] {
        let from = VolumeState::Making;
        let advanced = store.volume_advance(volume.id, from, to).await;
        assert!(advanced.expect("writes"));
    }
    let removed = store.volume_remove(owner, removing.id).await;
    assert!(removed.expect("writes"));
    let unfinished = store.volume_list_unfinished().await.expect("reads");
    let mut states: Vec<_> = unfinished.iter().map(|v| (v.id, v.state)).collect();
    states.sort_unstable_by_key(|(id, _)| *id);
    let mut expected = vec![
        (making.id, VolumeState::Making),
        (removing.id, VolumeState::Removing),
    ];
    expected.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(states, expected);
    store.volume_forget(removing.id).await.expect("writes");
    let unfinished = store.volume_list_unfinished().await.expect("reads");
    assert_eq!(unfinished.len(), 1);
}
