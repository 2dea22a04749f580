//! A node with real microVMs, in namespaces of its own: what happens in here meets
//! no other Hearth on the machine, and ends with the test.
//!
//! Needs root, QEMU, and what `scripts/prepare` makes: `HEARTH_TEST_KERNEL` names
//! the prepared kernel, and the base template is found beside it.

#![allow(dead_code, reason = "every test binary uses a part of this")]

use hearth_agent_client::{Agent, AgentClient, Command};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_machine::{
    Engine,
    accelerator::Accelerator,
    qemu::{QemuConfig, QemuEngine},
};
use hearth_network::{NetworkConfig, TapOwner, UidRange};
use hearth_node::{
    Node, NodeConfig, SandboxSpec, SandboxState, Status, TimeoutAction,
    config::GrpcConfig,
    hooks::{Hooks, NoHooks},
};
use hearth_snapshot::{BuildCache, Kind, LocalStore};
use hearth_volumes::{Limits, Volumes};
use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

const INSIDE: &str = "HEARTH_TEST_INSIDE";
const HOME: &str = "HEARTH_TEST_HOME";
/// The longest wait for anything; generous, because emulation shares the host.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Runs the body of the test `name` in namespaces of its own, unless VM tests are
/// switched off.
pub(crate) fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os("HEARTH_SKIP_VM_TESTS").is_some_and(|value| value == "1") {
        println!("skipped: HEARTH_SKIP_VM_TESTS is set");
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
        return;
    }
    let status = std::process::Command::new("unshare")
        .args(["-n", "-m", "-p", "--fork", "--mount-proc", "--kill-child"])
        .args(["--propagation", "private", "--", "sh", "-c"])
        .arg(
            "ip link set lo up && ip addr add 198.51.100.254/24 dev lo && \
             mount -t tmpfs tmpfs /run && mkdir -p /run/lock /run/netns && exec \"$@\"",
        )
        .arg("isolated")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success(), "{status}");
}

enum Dir {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl Dir {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

/// Directories of a node that starts and ends several times.
pub(crate) struct Home {
    dir: Dir,
    pub(crate) base: BuildId,
    /// Warm sandboxes that its nodes keep of each build.
    pub(crate) warm_pool_size: usize,
    /// What guests leave of the disk.
    pub(crate) disk_reserve_bytes: u64,
    /// What one volume may hold.
    pub(crate) volume_bytes: u64,
}

impl Drop for Home {
    fn drop(&mut self) {
        // Where nothing is mounted, nothing is done.
        let _ = std::process::Command::new("umount")
            .args(["--quiet", "--lazy"])
            .arg(self.state())
            .status();
    }
}

impl Home {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with a state directory on a file system of its own.
    pub(crate) async fn on_a_disk_of_mib(mib: u32) -> Self {
        Self::with(|state| mount(&format!("size={mib}m"), state)).await
    }

    /// Changes the size of that file system.
    pub(crate) fn resize_mib(&self, mib: u32) {
        mount(&format!("remount,size={mib}m"), &self.state());
    }

    async fn with(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hn")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir_all(&state).unwrap();
        prepare(&state);
        std::fs::create_dir_all(state.join("builds")).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o711)).unwrap();
        let cache = cache();
        std::os::unix::fs::symlink(&cache, state.join("artefacts")).unwrap();
        let store = LocalStore::open(cache.join("builds")).unwrap();
        let newest = store
            .list()
            .await
            .unwrap()
            .into_iter()
            .rfind(|build| build.kind == Kind::Template && build.parents.is_empty())
            .expect("scripts/prepare has made a base template");
        let build = store.open(newest.build_id).await.unwrap();
        let target = state.join("builds").join(newest.build_id.to_string());
        // Nothing of it is ever written.
        std::os::unix::fs::symlink(build.directory(), &target).unwrap();
        Self {
            dir: Dir::Own(dir),
            base: newest.build_id,
            warm_pool_size: 0,
            disk_reserve_bytes: 0,
            volume_bytes: u64::MAX,
        }
    }

    /// The same, or the one that a process above has made.
    pub(crate) async fn shared() -> Self {
        match std::env::var(HOME) {
            Err(_) => Self::new().await,
            Ok(text) => {
                let (dir, base) = text.split_once(' ').unwrap();
                Self {
                    dir: Dir::Given(dir.into()),
                    base: base.parse().unwrap(),
                    warm_pool_size: 0,
                    disk_reserve_bytes: 0,
                    volume_bytes: u64::MAX,
                }
            }
        }
    }

    /// Runs this very test again in a process that is told `order` in the variable
    /// `variable`, and has to be killed by a signal.
    pub(crate) fn run_and_die(&self, variable: &str, order: &str) {
        use std::os::unix::process::ExitStatusExt;
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(std::env::args().skip(1))
            .env(HOME, format!("{} {}", self.dir.path().display(), self.base))
            .env(variable, order)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(6), "{order}: {words}");
    }

    /// Gives the home a base build that may be marked and removed: a directory of its
    /// own with the files of the shared one, which nobody writes.
    pub(crate) fn own_base(&self) {
        let own = self.state().join("builds").join(self.base.to_string());
        let shared = std::fs::read_link(&own).unwrap();
        std::fs::remove_file(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        for entry in std::fs::read_dir(shared).unwrap() {
            let (from, to) = {
                let entry = entry.unwrap();
                (entry.path(), own.join(entry.file_name()))
            };
            // Another file system takes no link.
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to).unwrap();
            }
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn volumes(&self) -> Volumes {
        Volumes::open(&self.state()).unwrap().with_limits(Limits {
            max_bytes: self.volume_bytes,
            max_entries: u64::MAX,
            reserve_bytes: self.disk_reserve_bytes,
        })
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn store(&self) -> LocalStore {
        LocalStore::open(self.state().join("builds")).unwrap()
    }

    pub(crate) async fn start(&self) -> Arc<Node> {
        self.start_with(Arc::new(NoHooks)).await
    }

    pub(crate) async fn start_with(&self, hooks: Arc<dyn Hooks>) -> Arc<Node> {
        self.start_on(Arc::new(engine()), hooks).await
    }

    pub(crate) async fn start_on(
        &self,
        engine: Arc<dyn Engine>,
        hooks: Arc<dyn Hooks>,
    ) -> Arc<Node> {
        let config = NodeConfig {
            warm_pool_size: self.warm_pool_size,
            warm_pool_memory_percent: 100,
            node_id: "test".to_owned(),
            state_dir: self.state(),
            run_dir: self.run(),
            max_sandboxes: 8,
            memory_reserve_bytes: 0,
            disk_reserve_bytes: self.disk_reserve_bytes,
            disk_io: hearth_block::IoLimits::default(),
            agent_timeout: LIMIT,
            grpc: GrpcConfig {
                socket: self.run().join("node.sock"),
                tcp: None,
                mutual: None,
            },
            ca_bundle: None,
            egress: hearth_egress::EgressConfig::default(),
            volumes: Arc::new(self.volumes()),
        };
        let network = NetworkConfig {
            state_dir: self.state(),
            pool_size: 1,
            max_slots: 16,
            tap_owner: TapOwner::Fresh(UidRange {
                first: 64_400,
                count: 1000,
                record: self.run().join("uids.json"),
            }),
            ..NetworkConfig::default()
        };
        Node::start_with(config, engine, Arc::new(self.store()), network, hooks)
            .await
            .unwrap()
    }

    pub(crate) fn spec(&self, build: BuildId) -> SandboxSpec {
        SandboxSpec {
            sandbox_id: SandboxId::random(),
            template_id: TemplateId::random(),
            build_id: build,
            team_id: TeamId::random(),
            alias: None,
            metadata: BTreeMap::new(),
            env_vars: BTreeMap::new(),
            envd_access_token: Some(TOKEN.to_owned()),
            traffic_access_token: None,
            allow_internet_access: None,
            network_json: String::new(),
            lifecycle_json: String::new(),
            volume_mounts_json: String::new(),
            timeout_action: TimeoutAction::Kill,
        }
    }

    /// Files and processes that no sandbox accounts for.
    pub(crate) fn assert_nothing_left(&self) {
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(&self.state().join("sandboxes")), [""; 0]);
        assert_eq!(names(&self.run().join("sb")), [""; 0]);
        assert_eq!(names(&self.state().join("builds/.staging")), [""; 0]);
        assert_eq!(self.vm_processes(), [0; 0]);
    }

    pub(crate) fn vm_processes(&self) -> Vec<u32> {
        let marker = format!("{}/", self.run().display());
        hearth_machine::processes::naming(&marker)
    }
}

fn mount(options: &str, target: &Path) {
    let status = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(target)
        .status()
        .unwrap();
    assert!(status.success());
}

/// QEMU without KVM.
pub(crate) fn engine() -> QemuEngine {
    let accelerator = Accelerator::Tcg {
        reason: "the tests run anywhere".to_owned(),
    };
    QemuEngine::new(QemuConfig::new(accelerator)).unwrap()
}

/// Where `scripts/prepare` put what guests are made of.
fn cache() -> PathBuf {
    let kernel = std::env::var_os("HEARTH_TEST_KERNEL")
        .expect("set HEARTH_TEST_KERNEL to the prepared guest kernel, or HEARTH_SKIP_VM_TESTS=1");
    let cache = Path::new(&kernel).ancestors().nth(2);
    cache.expect("the kernel lies in the cache").to_owned()
}

pub(crate) fn in_an_hour() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now() + chrono::TimeDelta::hours(1)
}

/// The agent of a sandbox that is up.
pub(crate) fn agent(status: &Status) -> AgentClient {
    let address = status.address.expect("the sandbox is up");
    let token = status.spec.envd_access_token.as_deref();
    let agent = Agent::new(address).with_token(token).unwrap();
    agent.client(LIMIT).unwrap()
}

/// The output of a shell line that must succeed.
pub(crate) async fn run(status: &Status, line: &str) -> String {
    let command = Command::new("/bin/sh")
        .args(["-c", line])
        .user("root")
        .timeout(LIMIT);
    let output = agent(status).run(command).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.exit.code, 0, "{line}: {text}{errors}");
    text.trim().to_owned()
}

pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < LIMIT, "no {what} in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The state in which a sandbox is listed.
pub(crate) fn state(node: &Node, id: &SandboxId) -> Option<SandboxState> {
    node.status(id).ok().map(|status| status.state)
}
