use super::*;
use crate::node::{NodeBuild, NodeSandboxState, SandboxBatch, SandboxRemoval, SandboxWatch};
use async_trait::async_trait;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const INSTANCE: u64 = 1;

fn id(number: u8) -> SandboxId {
    let letters = format!("i{number:0>20}");
    letters.parse().expect("an id")
}

fn team(number: u8) -> TeamId {
    TeamId::from_uuid(uuid::Uuid::from_u128(u128::from(number)))
}

fn at(sequence: u64) -> Revision {
    Revision {
        instance: INSTANCE,
        sequence,
    }
}

fn summary(number: u8, sequence: u64, state: NodeSandboxState) -> SandboxSummary {
    SandboxSummary {
        sandbox_id: id(number),
        template_id: format!("{:0>20}", number % 2).parse().expect("an id"),
        build_id: BuildId::from_uuid(uuid::Uuid::nil()),
        team_id: team(number % 3),
        alias: None,
        metadata: BTreeMap::new(),
        volume_mounts: Vec::new(),
        state,
        started_at: DateTime::UNIX_EPOCH,
        end_at: DateTime::UNIX_EPOCH,
        vcpus: 1,
        memory_mib: 1,
        disk_mib: 1,
        envd_version: String::new(),
        paused: None,
        revision: at(sequence),
    }
}

fn running(number: u8, sequence: u64) -> SandboxSummary {
    summary(number, sequence, NodeSandboxState::Running)
}

fn whole(summary: &SandboxSummary) -> NodeSandbox {
    NodeSandbox {
        config: SandboxConfig {
            sandbox_id: summary.sandbox_id.clone(),
            template_id: summary.template_id.clone(),
            build_id: summary.build_id,
            team_id: summary.team_id,
            alias: None,
            metadata: BTreeMap::new(),
            env_vars: BTreeMap::new(),
            envd_access_token: None,
            traffic_access_token: None,
            allow_internet_access: None,
            network: None,
            lifecycle: crate::Lifecycle::default(),
            volume_mounts: Vec::new(),
        },
        state: summary.state,
        started_at: summary.started_at,
        end_at: summary.end_at,
        vcpus: 1,
        memory_mib: 1,
        disk_mib: 1,
        envd_version: String::new(),
        execution_id: String::new(),
        address: None,
        paused: None,
        revision: summary.revision,
    }
}

fn news(changed: Vec<SandboxSummary>, sequence: u64) -> SandboxBatch {
    SandboxBatch {
        changed,
        current: at(sequence),
        complete: true,
        ..SandboxBatch::default()
    }
}

fn snapshot(changed: Vec<SandboxSummary>, sequence: u64) -> SandboxBatch {
    SandboxBatch {
        reset: true,
        ..news(changed, sequence)
    }
}

type Watch = mpsc::UnboundedSender<Result<SandboxBatch, NodeError>>;

/// A node that answers what it is told to, and hands its watches over to the test.
struct Scripted {
    answers: Mutex<VecDeque<Result<SandboxSummary, NodeError>>>,
    asked: AtomicUsize,
    watches: mpsc::UnboundedSender<(Option<Revision>, Watch)>,
}

impl Scripted {
    fn answer(&self) -> Result<NodeSandbox, NodeError> {
        self.summary().map(|summary| whole(&summary))
    }

    fn summary(&self) -> Result<SandboxSummary, NodeError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().expect("unpoisoned");
        answers.pop_front().expect("an answer")
    }
}

#[async_trait]
impl Node for Scripted {
    async fn create(&self, _: SandboxConfig, _: DateTime<Utc>) -> Result<NodeSandbox, NodeError> {
        self.answer()
    }
    async fn update(&self, _: &SandboxId, _: SandboxUpdate) -> Result<NodeSandbox, NodeError> {
        self.answer()
    }
    async fn get(&self, _: &SandboxId) -> Result<Option<NodeSandbox>, NodeError> {
        match self.answer() {
            Ok(sandbox) => Ok(Some(sandbox)),
            Err(NodeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
    async fn list(&self, _: SandboxQuery<'_>) -> Result<Vec<SandboxSummary>, NodeError> {
        self.summary().map(|summary| vec![summary])
    }
    async fn watch(&self, after: Option<Revision>) -> Result<SandboxWatch, NodeError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.send((after, sender)).expect("somebody looks");
        Ok(Box::pin(futures::stream::unfold(
            receiver,
            |mut receiver| async move {
                let batch = receiver.recv().await?;
                Some((batch, receiver))
            },
        )))
    }
    async fn delete(&self, _: &SandboxId) -> Result<Revision, NodeError> {
        self.summary().map(|summary| summary.revision)
    }
    async fn pause(&self, _: &SandboxId, _: BuildId, _: bool) -> Result<SandboxSummary, NodeError> {
        self.summary()
    }
    async fn resume(
        &self,
        _: &SandboxId,
        _: DateTime<Utc>,
        _: bool,
    ) -> Result<NodeSandbox, NodeError> {
        self.answer()
    }
    async fn checkpoint(&self, _: &SandboxId, _: BuildId) -> Result<SandboxSummary, NodeError> {
        self.summary()
    }
    async fn rollback(&self, _: &SandboxId, _: BuildId) -> Result<NodeSandbox, NodeError> {
        self.answer()
    }
    async fn build_list(&self) -> Result<Vec<NodeBuild>, NodeError> {
        Ok(Vec::new())
    }
    async fn build_delete(&self, _: BuildId) -> Result<(), NodeError> {
        Ok(())
    }
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Err(NodeError::Unimplemented("info".to_owned()))
    }
}

struct Followed {
    fleet: Arc<Fleet>,
    node: Arc<Scripted>,
    watches: mpsc::UnboundedReceiver<(Option<Revision>, Watch)>,
    stop: CancellationToken,
}

impl Followed {
    fn start() -> Self {
        let (sender, watches) = mpsc::unbounded_channel();
        let node = Arc::new(Scripted {
            answers: Mutex::default(),
            asked: AtomicUsize::new(0),
            watches: sender,
        });
        let fleet = Arc::new(Fleet::new(Arc::clone(&node) as Arc<dyn Node>));
        let stop = CancellationToken::new();
        let (following, until) = (Arc::clone(&fleet), stop.clone());
        tokio::spawn(async move { following.follow(until).await });
        Self {
            fleet,
            node,
            watches,
            stop,
        }
    }

    /// The next watch that it begins, and where it goes on from.
    async fn watch(&mut self) -> (Option<u64>, Watch) {
        let (after, watch) = self.watches.recv().await.expect("goes on");
        (after.map(|after| after.sequence), watch)
    }

    /// Lets the follower take in what was said.
    async fn until(&self, holds: impl Fn(&Known) -> bool) {
        let reached = async {
            while !holds(&self.fleet.lock()) {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, reached).await.expect("in time");
    }

    fn answer(&self, answer: Result<SandboxSummary, NodeError>) {
        let mut answers = self.node.answers.lock().expect("unpoisoned");
        answers.push_back(answer);
    }

    async fn state(&self, number: u8) -> Option<NodeSandboxState> {
        let found = self.fleet.lookup(&id(number)).await.expect("answers");
        found.map(|summary| summary.state)
    }

    fn asked(&self) -> usize {
        self.node.asked.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

use NodeSandboxState::{Paused, Pausing, Running};

#[tokio::test(start_paused = true)]
async fn the_node_is_asked_until_all_has_been_told_and_after_the_watch_broke() {
    let mut followed = Followed::start();
    let (after, watch) = followed.watch().await;
    assert_eq!(after, None);
    followed.answer(Ok(running(1, 4)));
    assert_eq!(followed.state(1).await, Some(Running));
    assert_eq!(followed.asked(), 1);
    // Half of a snapshot says nothing of what it does not hold.
    let half = SandboxBatch {
        complete: false,
        ..snapshot(vec![running(1, 4)], 4)
    };
    watch.send(Ok(half)).expect("listens");
    followed.until(|known| known.staged.is_some()).await;
    followed.answer(Ok(running(2, 6)));
    assert_eq!(followed.state(2).await, Some(Running));
    watch
        .send(Ok(news(vec![running(2, 6)], 6)))
        .expect("listens");
    followed.until(|known| known.live).await;
    followed.asked();
    assert_eq!(followed.state(1).await, Some(Running));
    assert_eq!(followed.state(3).await, None);
    let own = followed.fleet.of_team(team(2)).await.expect("answers");
    assert_eq!(own.len(), 1);
    let made_from = running(1, 0).template_id;
    let made = followed.fleet.of_template(&made_from).await;
    assert_eq!(made.expect("answers")[0].sandbox_id, id(1));
    assert_eq!(followed.asked(), 0, "all from memory");

    watch
        .send(Err(NodeError::Unreachable("gone".to_owned())))
        .expect("listens");
    followed.until(|known| !known.live).await;
    followed.answer(Err(NodeError::Unreachable("gone".to_owned())));
    followed.fleet.lookup(&id(1)).await.expect_err("says so");
    // It goes on from where it was, and knows again when it has heard all.
    let (after, watch) = followed.watch().await;
    assert_eq!(after, Some(6));
    let mut more = news(vec![summary(2, 7, Paused)], 8);
    more.removed.push(SandboxRemoval {
        sandbox_id: id(1),
        sequence: 8,
    });
    watch.send(Ok(more)).expect("listens");
    followed.until(|known| known.live).await;
    assert_eq!(followed.state(1).await, None);
    assert_eq!(followed.state(2).await, Some(Paused));
    assert_eq!(followed.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_here_is_known_at_once_whatever_is_still_on_its_way() {
    let mut followed = Followed::start();
    let (_, watch) = followed.watch().await;
    watch
        .send(Ok(snapshot(vec![running(1, 2)], 2)))
        .expect("listens");
    followed.until(|known| known.live).await;
    let fleet = Arc::clone(&followed.fleet);
    followed.answer(Ok(running(2, 5)));
    let config = whole(&running(2, 0)).config;
    fleet.create(config, Utc::now()).await.expect("creates");
    assert_eq!(followed.state(2).await, Some(Running));
    followed.answer(Ok(summary(1, 7, Paused)));
    let build = BuildId::from_uuid(uuid::Uuid::nil());
    fleet.pause(&id(1), build, true).await.expect("pauses");
    followed.answer(Ok(running(2, 9)));
    fleet.delete(&id(2)).await.expect("deletes");
    assert_eq!(followed.state(2).await, None);
    // The watch tells of all that only now, from the beginning.
    for (batch, position) in [
        (news(vec![summary(2, 4, NodeSandboxState::Starting)], 4), 4),
        (news(vec![running(2, 5), summary(1, 6, Pausing)], 6), 6),
        (news(vec![summary(2, 8, NodeSandboxState::Stopping)], 8), 8),
    ] {
        watch.send(Ok(batch)).expect("listens");
        followed
            .until(|known| known.table.position().sequence == position)
            .await;
        assert_eq!(followed.state(2).await, None, "at {position}");
        assert_eq!(followed.state(1).await, Some(Paused), "at {position}");
    }
    assert_eq!(fleet.lock().table.remembered_removals(), 1);
    watch.send(Ok(news(Vec::new(), 9))).expect("listens");
    followed
        .until(|known| known.table.position().sequence == 9)
        .await;
    assert_eq!(fleet.lock().table.remembered_removals(), 0, "for no longer");
    // An answer that comes after the watch has told of the end brings nothing back.
    followed.answer(Ok(running(2, 5)));
    let update = SandboxUpdate::default();
    fleet.update(&id(2), update).await.expect("answers");
    assert_eq!(followed.state(2).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_by_the_sandbox_s_next_change_alone() {
    let mut followed = Followed::start();
    let (_, watch) = followed.watch().await;
    let all = vec![summary(1, 1, Pausing), running(2, 2)];
    watch.send(Ok(snapshot(all, 2))).expect("listens");
    followed.until(|known| known.live).await;
    let seen = followed.fleet.lookup(&id(1)).await;
    let seen = seen.expect("answers").expect("is there");
    let wait = |limit: u64| {
        let (fleet, seen) = (Arc::clone(&followed.fleet), Arc::clone(&seen));
        tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(limit);
            let mut looks = Looks::default();
            let changed = fleet.changed(&seen, &mut looks, deadline).await;
            (changed, deadline)
        })
    };
    let waiters: Vec<_> = (0..3).map(|_| wait(60)).collect();
    followed.until(|known| known.waiting.len() == 1).await;
    watch
        .send(Ok(news(vec![running(2, 3)], 3)))
        .expect("listens");
    followed
        .until(|known| known.table.position().sequence == 3)
        .await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    let changed = news(vec![summary(1, 4, Paused)], 4);
    watch.send(Ok(changed)).expect("listens");
    for waiter in waiters {
        let (changed, deadline) = waiter.await.expect("ends");
        assert!(changed && Instant::now() < deadline - Duration::from_secs(59));
    }
    assert!(followed.fleet.lock().waiting.is_empty(), "nobody is kept");
    // What has changed already is not waited for; what does not, until the deadline.
    assert!(wait(60).await.expect("ends").0);
    let now = followed.fleet.lookup(&id(1)).await;
    let now = now.expect("answers").expect("is there");
    let deadline = Instant::now() + Duration::from_secs(5);
    let looks = &mut Looks::default();
    assert!(!followed.fleet.changed(&now, looks, deadline).await);
    assert!(Instant::now() >= deadline);
    assert_eq!(followed.asked(), 0, "nobody asked the node");

    // The end of the watch wakes too: from then on the node is asked.
    let waiter = {
        let fleet = Arc::clone(&followed.fleet);
        let deadline = Instant::now() + Duration::from_secs(3600);
        tokio::spawn(async move { fleet.changed(&now, &mut Looks::default(), deadline).await })
    };
    followed.until(|known| known.waiting.len() == 1).await;
    drop(watch);
    assert!(waiter.await.expect("ends"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_started_anew_is_noticed_by_its_answers() {
    let mut followed = Followed::start();
    let (_, watch) = followed.watch().await;
    watch
        .send(Ok(snapshot(vec![running(1, 90)], 90)))
        .expect("listens");
    followed.until(|known| known.live).await;
    // Its watch still hangs, but somebody else answers already.
    let mut other = running(2, 3);
    other.revision.instance = INSTANCE + 1;
    followed.answer(Ok(other.clone()));
    let config = whole(&other).config;
    let made = followed.fleet.create(config, Utc::now()).await;
    made.expect("creates");
    followed.answer(Ok(other.clone()));
    assert_eq!(followed.state(2).await, Some(Running), "it is asked");
    let (_, anew) = followed.watch().await;
    assert!(watch.is_closed());
    let mut all = snapshot(vec![other], 3);
    all.current.instance = INSTANCE + 1;
    anew.send(Ok(all)).expect("listens");
    followed.until(|known| known.live).await;
    assert_eq!(followed.state(1).await, None);
    assert_eq!(followed.state(2).await, Some(Running));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_its_news_and_then_asks() {
    let mut followed = Followed::start();
    let (_, watch) = followed.watch().await;
    watch
        .send(Ok(snapshot(vec![running(1, 1)], 1)))
        .expect("listens");
    followed.until(|known| known.live).await;
    let seen = followed.fleet.lookup(&id(1)).await;
    let seen = seen.expect("answers").expect("is there");
    let mut looks = Looks::default();
    let deadline = Instant::now() + Duration::from_secs(1);
    followed.answer(Ok(summary(1, 2, Paused)));
    assert!(followed.fleet.moved(&seen, &mut looks, deadline).await);
    assert_eq!(followed.asked(), 1, "the news was slow");
    assert_eq!(followed.state(1).await, Some(Paused), "and is known now");
    assert!(followed.fleet.moved(&seen, &mut looks, deadline).await);
    assert_eq!(followed.asked(), 0);
    let past = Instant::now();
    assert!(!followed.fleet.moved(&seen, &mut looks, past).await);
}

/// One thing that happens to a sandbox on the node, and when its answer, if it is one
/// of this process's calls, arrives: after so many further words of the watch.
#[derive(Debug, Clone, Copy)]
struct Happening {
    number: u8,
    ends: bool,
    answered_after: Option<usize>,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = (
        0u8..6,
        prop::bool::weighted(0.3),
        prop::option::of(0usize..5),
    );
    let one = one.prop_map(|(number, ends, answered_after)| Happening {
        number,
        ends,
        answered_after,
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// In whichever order words of the watch and answers arrive: nothing goes back in
    /// time, and in the end the table holds what the node holds.
    #[test]
    fn the_table_ends_with_what_the_node_holds(happenings in happenings()) {
        let mut table = Table::of(INSTANCE);
        let mut there = BTreeMap::new();
        let mut answers: Vec<(usize, u8, bool, u64)> = Vec::new();
        let mut seen: BTreeMap<u8, u64> = BTreeMap::new();
        for (index, happening) in happenings.iter().enumerate() {
            let sequence = index as u64 + 1;
            let number = happening.number;
            if happening.ends {
                there.remove(&number);
            } else {
                there.insert(number, sequence);
            }
            if let Some(after) = happening.answered_after {
                answers.push((index + after, number, happening.ends, sequence));
            }
            // Those whose answers overtake the watch come before its word of them.
            let (now, later): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|(due, ..)| *due <= index);
            answers = later;
            for (_, number, ends, sequence) in now {
                match ends {
                    true => drop(table.remove(&id(number), sequence)),
                    false => drop(table.put(running(number, sequence))),
                }
            }
            let mut batch = news(Vec::new(), sequence);
            if happening.ends {
                batch.removed.push(SandboxRemoval { sandbox_id: id(number), sequence });
            } else {
                batch.changed.push(running(number, sequence));
            }
            table.take(batch, |_| {});
            for number in 0..6u8 {
                let known = table.get(&id(number)).map(|known| known.revision.sequence);
                let before = seen.get(&number).copied().unwrap_or(0);
                if let Some(known) = known {
                    prop_assert!(known >= before, "back in time");
                    seen.insert(number, known);
                }
                prop_assert_eq!(known, there.get(&number).copied());
            }
            prop_assert_eq!(table.remembered_removals(), 0);
        }
        for (_, number, ends, sequence) in answers {
            match ends {
                true => drop(table.remove(&id(number), sequence)),
                false => drop(table.put(running(number, sequence))),
            }
        }
        let ids: std::collections::BTreeSet<SandboxId> = there.keys().map(|n| id(*n)).collect();
        prop_assert_eq!(table.ids(), ids.clone());
        let by_team: usize = (0..3).map(|t| table.of_team(&team(t)).len()).sum();
        prop_assert_eq!(by_team, ids.len());
    }
}
