//! Random sequences of operations on real microVMs against a model, with steps that
//! fail and daemons that are replaced in between. `HEARTH_SOAK_OPERATIONS` makes it
//! longer, `HEARTH_SOAK_SEED` another one.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, SandboxId};
use hearth_node::{
    Error, Node, SandboxState,
    hooks::{Hooks, Step},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{Home, in_an_hour, isolated, run, state, until};

const OPERATIONS: u64 = 30;

/// A generator whose sequence its seed alone decides (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % bound
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// Makes one step fail once.
#[derive(Default)]
struct FailOnce(Mutex<Option<Step>>);

impl Hooks for FailOnce {
    fn reached(&self, step: Step) -> Result<(), String> {
        let mut failing = self.0.lock().unwrap();
        if *failing == Some(step) {
            *failing = None;
            return Err("made to fail".to_owned());
        }
        Ok(())
    }
}

/// What a sandbox holds: the number last written to its disk, and to its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    disk: u32,
    memory: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Running(Content),
    Paused { content: Content, memory: bool },
}

struct World {
    home: Home,
    hooks: Arc<FailOnce>,
    node: Arc<Node>,
    random: Random,
    sandboxes: BTreeMap<SandboxId, Model>,
    snapshots: BTreeMap<BuildId, Content>,
    written: u32,
}

#[test]
fn random_lives_follow_the_model() {
    isolated("random_lives_follow_the_model", async || {
        let number = |name: &str, default| {
            std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap())
        };
        let home = Home::new().await;
        let hooks = Arc::new(FailOnce::default());
        let node = home.start_with(Arc::clone(&hooks) as Arc<dyn Hooks>).await;
        let base = Content {
            disk: 0,
            memory: None,
        };
        let mut world = World {
            snapshots: BTreeMap::from([(home.base, base)]),
            home,
            hooks,
            node,
            random: Random(number("HEARTH_SOAK_SEED", 20_261_123)),
            sandboxes: BTreeMap::new(),
            written: 0,
        };
        for _ in 0..number("HEARTH_SOAK_OPERATIONS", OPERATIONS) {
            world.operate().await;
        }
        world.end().await;
    });
}

impl World {
    async fn operate(&mut self) {
        let ids: Vec<SandboxId> = self.sandboxes.keys().cloned().collect();
        if ids.is_empty() || (ids.len() < 3 && self.random.below(4) == 0) {
            return self.create().await;
        }
        let id = self.random.pick(&ids);
        let failing = match self.random.below(4) {
            0 => Some(self.random.pick(&Step::ALL)),
            _ => None,
        };
        *self.hooks.0.lock().unwrap() = failing;
        let what = format!("{:?} failing at {failing:?}", self.sandboxes[&id]);
        match self.random.below(9) {
            0 | 1 => self.pause(&id).await,
            2 | 3 => self.resume(&id).await,
            4 => self.checkpoint(&id).await,
            5 => self.roll_back(&id).await,
            6 => self.restart().await,
            7 if ids.len() > 1 => self.delete(&id).await,
            _ => self.write(&id).await,
        }
        *self.hooks.0.lock().unwrap() = None;
        self.compare(&id, &what).await;
    }

    async fn create(&mut self) {
        let builds: Vec<BuildId> = self.snapshots.keys().copied().collect();
        let build = self.random.pick(&builds);
        let spec = self.home.spec(build);
        let id = spec.sandbox_id.clone();
        self.node.create(spec, in_an_hour()).await.unwrap();
        let content = self.snapshots[&build];
        self.sandboxes.insert(id.clone(), Model::Running(content));
        self.compare(&id, "created").await;
    }

    async fn write(&mut self, id: &SandboxId) {
        let Model::Running(content) = self.sandboxes.get_mut(id).unwrap() else {
            return;
        };
        self.written += 1;
        let number = self.written;
        let status = self.node.status(id).unwrap();
        let line = format!("echo {number} > /root/file; echo {number} > /dev/shm/file");
        run(&status, &line).await;
        *content = Content {
            disk: number,
            memory: Some(number),
        };
    }

    async fn pause(&mut self, id: &SandboxId) {
        let memory = self.random.below(4) > 0;
        let result = self.node.pause(id, BuildId::random(), memory).await;
        let model = self.sandboxes.get_mut(id).unwrap();
        match (*model, result) {
            (Model::Running(content), Ok(_)) => *model = Model::Paused { content, memory },
            (Model::Running(_), Err(Error::Step { .. }))
            | (Model::Paused { .. }, Err(Error::State { .. })) => {}
            (model, result) => panic!("pausing {model:?}: {result:?}"),
        }
    }

    async fn resume(&mut self, id: &SandboxId) {
        let discard = self.random.below(6) == 0;
        let result = self.node.resume(id, in_an_hour(), discard).await;
        let model = self.sandboxes.get_mut(id).unwrap();
        match (*model, result) {
            (Model::Paused { content, memory }, Ok(_)) => {
                let kept = content.memory.filter(|_| memory && !discard);
                *model = Model::Running(Content {
                    memory: kept,
                    ..content
                });
            }
            // Discarding takes several steps; where one fails in the middle, the
            // sandbox is left running or paused, and its disk as it was.
            (Model::Paused { content, .. }, Err(Error::Step { .. })) if discard => {
                let status = self.node.status(id).unwrap();
                *model = match status.paused {
                    Some(paused) => Model::Paused {
                        content,
                        memory: paused.with_memory,
                    },
                    None => Model::Running(content),
                };
            }
            (Model::Paused { .. }, Err(Error::Step { .. }))
            | (Model::Running(_), Err(Error::State { .. })) => {}
            (model, result) => panic!("resuming {model:?}: {result:?}"),
        }
    }

    async fn checkpoint(&mut self, id: &SandboxId) {
        let build = BuildId::random();
        let result = self.node.checkpoint(id, build).await;
        match (self.sandboxes[id], result) {
            (Model::Running(content), Ok(_)) => {
                self.snapshots.insert(build, content);
                let others = self.snapshots.keys().filter(|old| **old != self.home.base);
                let others: Vec<BuildId> = others.copied().collect();
                if others.len() > 3 {
                    let old = self.random.pick(&others);
                    self.snapshots.remove(&old);
                    self.node.delete_build(old).await.unwrap();
                }
            }
            (Model::Running(_), Err(Error::Step { .. }))
            | (Model::Paused { .. }, Err(Error::State { .. })) => {}
            (model, result) => panic!("taking a snapshot of {model:?}: {result:?}"),
        }
    }

    async fn roll_back(&mut self, id: &SandboxId) {
        let builds: Vec<BuildId> = self.snapshots.keys().copied().collect();
        let build = self.random.pick(&builds);
        let result = self.node.roll_back(id, build).await;
        let content = self.snapshots[&build];
        let model = self.sandboxes.get_mut(id).unwrap();
        match (*model, result) {
            (Model::Running(_), Ok(_)) => *model = Model::Running(content),
            (Model::Running(_), Err(Error::Step { .. })) => {
                *model = Model::Paused {
                    content,
                    memory: true,
                };
            }
            (Model::Paused { .. }, Err(Error::State { .. })) => {}
            (model, result) => panic!("rolling back {model:?}: {result:?}"),
        }
    }

    async fn restart(&mut self) {
        self.node.shutdown(Duration::from_secs(30)).await;
        let hooks = Arc::clone(&self.hooks) as Arc<dyn Hooks>;
        self.node = self.home.start_with(hooks).await;
    }

    async fn delete(&mut self, id: &SandboxId) {
        self.node.delete(id).await.unwrap();
        self.sandboxes.remove(id);
        assert!(matches!(
            self.node.delete(id).await,
            Err(Error::NotFound(_))
        ));
    }

    async fn compare(&self, id: &SandboxId, what: &str) {
        let listed = self.node.list().len();
        assert_eq!(listed, self.sandboxes.len(), "{what}");
        match self.sandboxes.get(id) {
            None => assert_eq!(state(&self.node, id), None, "{what}"),
            Some(Model::Paused { memory, .. }) => {
                let status = self.node.status(id).unwrap();
                assert_eq!(status.state, SandboxState::Paused, "{what}");
                assert_eq!(status.paused.unwrap().with_memory, *memory, "{what}");
            }
            Some(Model::Running(content)) => {
                let status = self.node.status(id).unwrap();
                assert_eq!(status.state, SandboxState::Running, "{what}");
                let line = "cat /root/file 2>/dev/null || echo 0; cat /dev/shm/file 2>/dev/null";
                let found = run(&status, &format!("{line}; true")).await;
                let memory = content.memory.map(|number| number.to_string());
                let expected = format!("{}\n{}", content.disk, memory.unwrap_or_default());
                assert_eq!(found, expected.trim(), "{what}");
            }
        }
    }

    async fn end(self) {
        let running = |model: &&Model| matches!(model, Model::Running(_));
        let running = self.sandboxes.values().filter(running).count();
        until("as many VMs as sandboxes run", async || {
            self.home.vm_processes().len() == running
        })
        .await;
        for id in self.sandboxes.keys() {
            self.compare(id, "at the end").await;
        }
        for id in self.sandboxes.keys() {
            self.node.delete(id).await.unwrap();
        }
        for build in self.snapshots.keys().filter(|id| **id != self.home.base) {
            self.node.delete_build(*build).await.unwrap();
        }
        until("end of all builds", async || {
            self.home.store().list_all().await.unwrap().len() == 1
        })
        .await;
        self.node.shutdown(Duration::from_secs(30)).await;
        self.home.assert_nothing_left();
    }
}
