//! What the tests with real VMs share: a guest, a disk server, waiting.

mod guest;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hearth_confine::Confinement;
use hearth_machine::accelerator::Accelerator;
use hearth_machine::qemu::{QemuConfig, QemuEngine};
use hearth_machine::{
    BootSpec, Console, DiskAttachment, Engine, MemorySource, MemoryTarget, NetworkAttachment,
    RestoreSpec, SaveTarget, VmShape,
};

/// User and group that the VMs run as.
pub(crate) const UID: u32 = 64_321;
pub(crate) const MEMORY_BYTES: u64 = 256 << 20;
/// The longest wait for anything; generous, because software emulation shares the host.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The kernel to boot, or `None` when VM tests are switched off. Fails when neither is
/// said, so that a machine without a kernel does not pass for one where the tests pass.
pub(crate) fn kernel() -> Option<PathBuf> {
    if std::env::var_os("HEARTH_SKIP_VM_TESTS").is_some_and(|value| value == "1") {
        println!("skipped: HEARTH_SKIP_VM_TESTS is set");
        return None;
    }
    let path = PathBuf::from(std::env::var_os("HEARTH_TEST_KERNEL").expect(
        "run scripts/unit after scripts/prepare, or set HEARTH_TEST_KERNEL to an uncompressed kernel",
    ));
    assert!(
        path.is_file(),
        "HEARTH_TEST_KERNEL={} does not exist",
        path.display()
    );
    Some(path)
}

/// A directory with a disk server and everything that a VM leaves behind.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    kernel: PathBuf,
    disk_server: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for pid in hearth_machine::processes::naming(&self.marker()) {
            let _ = hearth_machine::processes::end(pid);
        }
        // Only a test that failed half-way leaves any.
        let groups = hearth_confine::Cgroups::detect();
        for group in groups
            .list()
            .iter()
            .filter(|name| name.starts_with(&self.prefix()))
        {
            let _ = groups.remove(group);
        }
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && name.starts_with(&self.prefix())
            {
                let _ = Command::new("ip").args(["netns", "del", &name]).status();
            }
        }
        let _ = self.disk_server.kill();
        let _ = self.disk_server.wait();
    }
}

impl Bench {
    pub(crate) fn new(kernel: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("hm").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let disk = dir.path().join("disk.img");
        fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        let socket = dir.path().join("nbd.sock");
        let disk_server = Command::new("qemu-nbd")
            .args([
                "--persistent",
                "--shared=64",
                "--format=raw",
                "--export-name=root",
            ])
            .arg("--socket")
            .arg(&socket)
            .arg(&disk)
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-nbd (package qemu-utils) runs");
        wait_for("the disk server", || socket.exists());
        chown(&socket, Some(UID), Some(UID)).unwrap();
        Self {
            dir,
            kernel,
            disk_server,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the command lines of this bench's VMs contain.
    pub(crate) fn marker(&self) -> String {
        format!("{}/", self.dir.path().display())
    }

    pub(crate) fn engine(&self) -> QemuEngine {
        let tcg = Accelerator::Tcg {
            reason: "the tests run anywhere".to_owned(),
        };
        let config = QemuConfig {
            restored_console: Console::File,
            ..QemuConfig::new(tcg)
        };
        QemuEngine::new(config).unwrap()
    }

    fn run_dir(&self, id: &str) -> PathBuf {
        let path = self.path(id);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn disk(&self) -> DiskAttachment {
        DiskAttachment::NbdSocket {
            socket: self.path("nbd.sock"),
            export: "root".to_owned(),
        }
    }

    /// How the names of this bench's control groups start.
    fn prefix(&self) -> String {
        let bench = self.dir.path().file_name().unwrap().to_str().unwrap();
        format!("{}-", bench.replace('.', ""))
    }

    fn confinement(&self, id: &str) -> Option<Confinement> {
        Some(Confinement {
            cgroup_name: Some(format!("{}{id}", self.prefix())),
            netns: Some(self.network(id).netns),
            memory_limit_bytes: Some(MEMORY_BYTES + (256 << 20)),
            pids_max: Some(64),
            uid: UID,
            gid: UID,
            oom_score_adj: Some(500),
            ..Confinement::default()
        })
    }

    /// A network namespace of the VM's own, with a TAP device in it.
    fn network(&self, id: &str) -> NetworkAttachment {
        let name = format!("{}{id}", self.prefix());
        let netns = Path::new("/run/netns").join(&name);
        if !netns.exists() {
            ip(&["netns", "add", &name]);
            ip(&["-n", &name, "tuntap", "add", "dev", "tap0", "mode", "tap"]);
        }
        NetworkAttachment {
            netns,
            tap: "tap0".to_owned(),
            mac: [2, 0xfc, 0, 0, 0, 5],
        }
    }

    pub(crate) fn boot_spec(&self, id: &str) -> BootSpec {
        BootSpec {
            id: id.to_owned(),
            run_dir: self.run_dir(id),
            shape: VmShape {
                vcpus: 1,
                memory_bytes: MEMORY_BYTES,
            },
            kernel: self.kernel.clone(),
            initramfs: guest::initramfs().clone(),
            cmdline_extra: "quiet".to_owned(),
            memory_file: self.path(&format!("{id}.memory")),
            disk: self.disk(),
            network: Some(self.network(id)),
            confinement: self.confinement(id),
        }
    }

    pub(crate) fn restore_spec(&self, id: &str, memory: &Path, state: &Path) -> RestoreSpec {
        RestoreSpec {
            id: id.to_owned(),
            run_dir: self.run_dir(id),
            shape: VmShape {
                vcpus: 1,
                memory_bytes: MEMORY_BYTES,
            },
            memory: MemorySource::Image(memory.to_owned()),
            scratch: self.path(&format!("{id}.scratch")),
            device_state: state.to_owned(),
            disk: self.disk(),
            network: Some(self.network(id)),
            confinement: self.confinement(id),
            resume: true,
        }
    }

    /// Boots the guest, saves it once it counts, and returns memory image, device state
    /// and the last count before the save.
    pub(crate) async fn saved(&self, engine: &QemuEngine) -> (PathBuf, PathBuf, usize) {
        let spec = self.boot_spec("template");
        let (memory, state) = (spec.memory_file.clone(), self.path("template.state"));
        let machine = engine.boot(spec).await.unwrap();
        wait_for("the guest to count to 5", || {
            self.count("template") >= Some(5)
        });
        machine.pause().await.unwrap();
        machine
            .save(SaveTarget {
                device_state: state.clone(),
                memory: MemoryTarget::Image,
            })
            .await
            .unwrap();
        let count = self.count("template").unwrap();
        machine.stop().await.unwrap();
        (memory, state, count)
    }

    pub(crate) fn console(&self, id: &str) -> String {
        let bytes = fs::read(self.path(id).join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last complete count on a guest's console.
    pub(crate) fn count(&self, id: &str) -> Option<usize> {
        counts(&self.console(id)).last().copied()
    }

    /// Whether anything of a VM is left: process, socket or control group.
    pub(crate) fn leftovers(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        let group = self.confinement(id).and_then(|c| c.cgroup_name).unwrap();
        if hearth_confine::Cgroups::detect().list().contains(&group) {
            left.push(format!("control group {group}"));
        }
        if self.path(id).join("qmp.sock").exists() {
            left.push("monitor socket".to_owned());
        }
        let named = format!("-name\0{id}\0");
        for pid in hearth_machine::processes::naming(&self.marker()) {
            if fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.contains(&named))
            {
                left.push(format!("process {pid}"));
            }
        }
        left
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "ip {arguments:?}"
    );
}

/// Every complete count on a console.
pub(crate) fn counts(console: &str) -> Vec<usize> {
    console
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| line.trim().strip_prefix("tick ")?.parse().ok())
        .collect()
}

/// Waits until `condition` holds, and fails loudly when it does not.
#[track_caller]
pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
