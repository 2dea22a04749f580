//! Random sequences of everything that is done to sandboxes, with a node that
//! fails now and then, against a model of what must come of it; and the same
//! operations all at once, after which nothing may be stuck, doubled or left.

mod support;

use axum::http::{Method, StatusCode};
use hearth_control::{Config, NodeError, NodeSandboxState};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::fake::Call;
use support::{Answer, Api};

/// Most sandboxes that run at the same time.
const LIMIT: usize = 4;

#[derive(Debug, Clone, Copy)]
enum Act {
    Create,
    Pause { memory: bool },
    Connect,
    Resume,
    Snapshot { named: bool },
    FromSnapshot,
    Fork { count: usize },
    Rollback,
    DeleteSnapshot,
    Timeout,
    Kill,
}

/// What the node does with the next call of a kind.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Good,
    /// It refuses.
    Full,
    /// It never answers, and has or has not done what it was asked.
    Lost {
        done: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Step {
    act: Act,
    luck: Luck,
    /// Chooses among what there is.
    pick: usize,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Create),
        4 => any::<bool>().prop_map(|memory| Act::Pause { memory }),
        4 => Just(Act::Connect),
        2 => Just(Act::Resume),
        2 => any::<bool>().prop_map(|named| Act::Snapshot { named }),
        1 => Just(Act::FromSnapshot),
        2 => (1usize..4).prop_map(|count| Act::Fork { count }),
        1 => Just(Act::Rollback),
        1 => Just(Act::DeleteSnapshot),
        1 => Just(Act::Timeout),
        1 => Just(Act::Kill),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let luck = prop_oneof![
        6 => Just(Luck::Good),
        1 => Just(Luck::Full),
        1 => any::<bool>().prop_map(|done| Luck::Lost { done }),
    ];
    (act(), luck, any::<usize>()).prop_map(|(act, luck, pick)| Step { act, luck, pick })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Running,
    Paused,
}

#[derive(Default)]
struct Model {
    sandboxes: BTreeMap<String, Is>,
    /// Those that were paused without their memory the last time: they boot.
    without_memory: BTreeSet<String>,
    /// Snapshot to the sandbox it was made of.
    snapshots: BTreeMap<String, String>,
    /// Sandbox to the snapshot it was made from.
    origin: BTreeMap<String, String>,
}

struct Run {
    api: Api,
    model: Model,
}

impl Luck {
    fn arm(self, api: &Api, call: Call) {
        match self {
            Self::Good => {}
            Self::Full => {
                api.node
                    .fail_next(call, NodeError::Exhausted("full".to_owned()), false);
            }
            Self::Lost { done } => api.node.fail_next(call, NodeError::Deadline, done),
        }
    }

    fn status(self, good: u16) -> u16 {
        match self {
            Self::Good => good,
            Self::Full => 503,
            Self::Lost { .. } => 504,
        }
    }

    fn happens(self) -> bool {
        matches!(self, Self::Good | Self::Lost { done: true })
    }
}

impl Run {
    async fn start(watched: bool) -> Self {
        let configure = |config: &mut Config| {
            config.features.pause = true;
            config.team.limits.max_concurrent_sandboxes = u32::try_from(LIMIT).expect("small");
        };
        let api = match watched {
            true => Api::with(configure).await,
            false => Api::unwatched(configure).await,
        };
        Self {
            api,
            model: Model::default(),
        }
    }

    fn running(&self) -> usize {
        self.model
            .sandboxes
            .values()
            .filter(|state| **state == Is::Running)
            .count()
    }

    fn choose<T>(map: &BTreeMap<String, T>, pick: usize) -> Option<String> {
        map.keys().nth(pick % map.len().max(1)).cloned()
    }

    async fn post(&self, id: &str, call: &str, body: Value) -> Answer {
        self.api
            .post(&format!("/sandboxes/{id}/{call}"), &body)
            .await
    }

    async fn create(&mut self, template: &str, luck: Luck) {
        let full = self.running() >= LIMIT;
        if !full {
            luck.arm(&self.api, Call::Create);
        }
        let body = json!({"templateID": template});
        let answer = self.api.post("/v2/sandboxes", &body).await;
        let expected = if full { 429 } else { luck.status(201) };
        assert_eq!(answer.status, expected, "{}", answer.text);
        if answer.status == StatusCode::CREATED {
            let id = answer.json()["sandboxID"]
                .as_str()
                .expect("an id")
                .to_owned();
            if template != "base" {
                self.model.origin.insert(id.clone(), template.to_owned());
            }
            self.model.sandboxes.insert(id, Is::Running);
        }
    }

    async fn step(&mut self, step: Step) {
        let Step { act, luck, pick } = step;
        if matches!(act, Act::Create) || self.model.sandboxes.is_empty() {
            return self.create("base", luck).await;
        }
        if matches!(act, Act::FromSnapshot) {
            if let Some(snapshot) = Self::choose(&self.model.snapshots, pick) {
                self.create(&snapshot, luck).await;
            }
            return;
        }
        if matches!(act, Act::DeleteSnapshot) {
            return self.delete_snapshot(pick).await;
        }
        let id = Self::choose(&self.model.sandboxes, pick).expect("there is one");
        let state = self.model.sandboxes[&id];
        match act {
            Act::Pause { memory } => self.pause(&id, state, memory, luck).await,
            Act::Connect => self.bring_up(&id, state, "connect", luck).await,
            Act::Resume => self.bring_up(&id, state, "resume", luck).await,
            Act::Snapshot { named } => self.snapshot(&id, state, named, luck).await,
            Act::Fork { count } => self.fork(&id, state, count, luck).await,
            Act::Rollback => self.rollback(&id, state, pick, luck).await,
            Act::Timeout => {
                let answer = self.post(&id, "timeout", json!({"timeout": 60})).await;
                let expected = if state == Is::Running { 204 } else { 404 };
                assert_eq!(answer.status, expected, "{}", answer.text);
            }
            Act::Kill => {
                luck.arm(&self.api, Call::Delete);
                let answer = self.api.delete(&format!("/sandboxes/{id}")).await;
                assert_eq!(answer.status, luck.status(204), "{}", answer.text);
                if luck.happens() {
                    self.model.sandboxes.remove(&id);
                }
            }
            Act::Create | Act::FromSnapshot | Act::DeleteSnapshot => {}
        }
    }

    async fn pause(&mut self, id: &str, state: Is, memory: bool, luck: Luck) {
        if state == Is::Paused {
            let answer = self.post(id, "pause", json!({})).await;
            return assert!(answer.error(409).contains("already paused"));
        }
        luck.arm(&self.api, Call::Pause);
        let answer = self.post(id, "pause", json!({"memory": memory})).await;
        assert_eq!(answer.status, luck.status(204), "{}", answer.text);
        if luck.happens() {
            self.model.sandboxes.insert(id.to_owned(), Is::Paused);
            if memory {
                self.model.without_memory.remove(id);
            } else {
                self.model.without_memory.insert(id.to_owned());
            }
        }
    }

    async fn bring_up(&mut self, id: &str, state: Is, call: &str, luck: Luck) {
        let body = json!({"timeout": 60});
        if state == Is::Running {
            let answer = self.post(id, call, body).await;
            let expected = if call == "connect" { 200 } else { 409 };
            return assert_eq!(answer.status, expected, "{}", answer.text);
        }
        let full = self.running() >= LIMIT;
        if !full {
            luck.arm(&self.api, Call::Resume);
        }
        let answer = self.post(id, call, body).await;
        let boots = self.model.without_memory.contains(id);
        let expected = match luck {
            _ if full => 429,
            Luck::Lost { .. } if boots => 503,
            luck => luck.status(201),
        };
        assert_eq!(answer.status, expected, "{}", answer.text);
        if !full && luck.happens() {
            self.model.sandboxes.insert(id.to_owned(), Is::Running);
        }
    }

    async fn snapshot(&mut self, id: &str, state: Is, named: bool, luck: Luck) {
        let body = if named {
            json!({"name": format!("s-{id}")})
        } else {
            json!({})
        };
        if state == Is::Paused {
            let answer = self.post(id, "snapshots", body).await;
            return assert!(answer.error(409).contains("not running"));
        }
        luck.arm(&self.api, Call::Checkpoint);
        let answer = self.post(id, "snapshots", body).await;
        assert_eq!(answer.status, luck.status(201), "{}", answer.text);
        if answer.status == StatusCode::CREATED {
            let snapshot = answer.json()["snapshotID"]
                .as_str()
                .expect("an id")
                .to_owned();
            self.model.snapshots.insert(snapshot, id.to_owned());
        }
    }

    async fn fork(&mut self, id: &str, state: Is, count: usize, luck: Luck) {
        let body = json!({"count": count, "timeout": 60});
        if state == Is::Paused {
            let answer = self.post(id, "fork", body).await;
            return assert!(answer.error(409).contains("not running"));
        }
        let room = LIMIT - self.running();
        luck.arm(&self.api, Call::Checkpoint);
        let answer = self.post(id, "fork", body).await;
        assert_eq!(answer.status, luck.status(201), "{}", answer.text);
        if answer.status != StatusCode::CREATED {
            return;
        }
        let forks = answer.json();
        let forks = forks.as_array().expect("a list");
        assert_eq!(forks.len(), count);
        let made: Vec<&str> = forks
            .iter()
            .filter_map(|fork| fork["sandbox"]["sandboxID"].as_str())
            .collect();
        assert_eq!(made.len(), count.min(room), "{}", answer.text);
        let origin = self.model.origin.get(id).cloned();
        for fork in made {
            self.model.sandboxes.insert(fork.to_owned(), Is::Running);
            if let Some(origin) = &origin {
                self.model.origin.insert(fork.to_owned(), origin.clone());
            }
        }
    }

    async fn rollback(&mut self, id: &str, state: Is, pick: usize, luck: Luck) {
        let Some(snapshot) = Self::choose(&self.model.snapshots, pick) else {
            return;
        };
        // Made of it, or it was made from that.
        let own = self.model.snapshots[&snapshot] == id;
        let body = json!({"snapshotID": snapshot});
        if !own {
            let answer = self.post(id, "rollback", body).await;
            let made_from = self.model.origin.get(id) == Some(&snapshot);
            let fits = |status: u16| {
                status == 400
                    || made_from && (status == 200 || state == Is::Paused && status == 409)
            };
            return assert!(fits(answer.status.as_u16()), "{}", answer.text);
        }
        if state == Is::Paused {
            let answer = self.post(id, "rollback", body).await;
            return assert!(answer.error(409).contains("not running"));
        }
        luck.arm(&self.api, Call::Rollback);
        let answer = self.post(id, "rollback", body).await;
        assert_eq!(answer.status, luck.status(200), "{}", answer.text);
    }

    async fn delete_snapshot(&mut self, pick: usize) {
        let Some(snapshot) = Self::choose(&self.model.snapshots, pick) else {
            return;
        };
        let encoded = snapshot.replace('/', "%2F");
        let answer = self.api.delete(&format!("/templates/{encoded}")).await;
        let users = self.model.origin.iter();
        let used = users
            .filter(|(id, _)| self.model.sandboxes.contains_key(*id))
            .any(|(_, origin)| *origin == snapshot);
        assert_eq!(
            answer.status,
            if used { 400 } else { 204 },
            "{}",
            answer.text
        );
        if !used {
            self.model.snapshots.remove(&snapshot);
        }
    }

    /// What the API lists is what the model has.
    async fn compare(&self) {
        let listed = self.api.get("/v2/sandboxes").await;
        let listed: BTreeMap<String, Is> = listed
            .json()
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| {
                let state = match entry["state"].as_str() {
                    Some("running") => Is::Running,
                    _ => Is::Paused,
                };
                (
                    entry["sandboxID"].as_str().expect("an id").to_owned(),
                    state,
                )
            })
            .collect();
        // What a lost create made is ended behind its caller's back.
        let known: BTreeMap<String, Is> = listed
            .into_iter()
            .filter(|(id, _)| self.model.sandboxes.contains_key(id))
            .collect();
        assert_eq!(known, self.model.sandboxes);
        let snapshots = self.api.get("/snapshots").await.json();
        let snapshots: BTreeSet<&str> = snapshots
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| entry["snapshotID"].as_str().expect("an id"))
            .collect();
        let expected: BTreeSet<&str> = self.model.snapshots.keys().map(String::as_str).collect();
        assert_eq!(snapshots, expected);
    }

    /// In the end the node holds what the model knows of, and no build too many.
    async fn end(self) {
        assert!(self.api.control.shutdown(Duration::from_secs(30)).await);
        assert_eq!(self.api.node.count(), self.model.sandboxes.len());
        let discards = self.api.store.discard_list().await.expect("reads");
        assert!(discards.is_empty(), "{discards:?}");
        let held = self.api.node.builds.lock().expect("unpoisoned").clone();
        for build in held {
            let source = self.api.store.snapshot_source(build).await.expect("reads");
            assert!(source.is_some(), "nobody refers to build {build}");
        }
    }
}

#[test]
fn any_sequence_ends_as_the_model_says() {
    let config = ProptestConfig {
        cases: 48,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("starts");
    // Now and then the node's watch breaks off, where there is one.
    let broken = proptest::option::weighted(0.1, Just(()));
    let steps = proptest::collection::vec((step(), broken), 1..40);
    TestRunner::new(config)
        .run(&(steps, any::<bool>()), |(steps, watched)| {
            runtime.block_on(async {
                let mut run = Run::start(watched).await;
                for (step, broken) in steps {
                    if broken.is_some() {
                        run.api.node.end_watches().await;
                    }
                    run.step(step).await;
                    // Lost creates are ended before the next step counts sandboxes.
                    settle(&run).await;
                    run.compare().await;
                }
                run.end().await;
            });
            Ok(())
        })
        .expect("holds");
}

async fn settle(run: &Run) {
    let settled = async {
        while run.api.node.count() > run.model.sandboxes.len() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled)
        .await
        .expect("what nobody has is ended");
}

/// Every operation on a few sandboxes at once, over and over: each request is
/// answered with one of its documented statuses, and at rest everything works.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_gets_nothing_stuck() {
    let api = Api::with(|config| config.features.pause = true).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(api.sandbox(&json!({"templateID": "base"})).await);
    }
    let calls = [
        ("pause", json!({}), vec![204, 409, 404]),
        ("pause", json!({"memory": false}), vec![204, 409, 404]),
        ("connect", json!({"timeout": 60}), vec![200, 201, 409, 404]),
        ("resume", json!({"timeout": 60}), vec![201, 409, 404]),
        ("snapshots", json!({"name": "shared"}), vec![201, 409, 404]),
        (
            "fork",
            json!({"count": 2, "timeout": 60}),
            vec![201, 409, 404],
        ),
        ("timeout", json!({"timeout": 60}), vec![204, 409, 404]),
    ];
    let mut requests = Vec::new();
    for round in 0..12 {
        for (index, id) in ids.iter().enumerate() {
            for (call, body, allowed) in &calls {
                let path = format!("/sandboxes/{id}/{call}");
                let api = &api;
                requests.push(async move {
                    // Another order for each sandbox and round.
                    for _ in 0..(round * 7 + index * 3) % 11 {
                        tokio::task::yield_now().await;
                    }
                    let answer = api.call(Method::POST, &path, body.to_string()).await;
                    let status = answer.status.as_u16();
                    assert!(
                        allowed.contains(&status),
                        "{path}: {status} {}",
                        answer.text
                    );
                });
            }
        }
    }
    let all = futures::future::join_all(requests);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("nothing is stuck");
    for id in &ids {
        let connect = format!("/v2/sandboxes/{id}/connect");
        let answer = api.post(&connect, &json!({})).await;
        assert!(answer.status.is_success(), "{}", answer.text);
        assert_eq!(api.node.sandbox(id).state, NodeSandboxState::Running);
        let answer = api
            .post(&format!("/sandboxes/{id}/pause"), &json!({}))
            .await;
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
    assert!(api.control.shutdown(Duration::from_secs(30)).await);
    assert!(api.store.discard_list().await.expect("reads").is_empty());
}
