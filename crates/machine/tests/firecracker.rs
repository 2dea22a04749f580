//! Real Firecracker VMs: boot, save, restore, what was written, adoption, and what goes
//! wrong.
//!
//! Needs root, KVM that runs a kernel, a guest kernel (`HEARTH_TEST_KERNEL`) and the
//! program (`HEARTH_FIRECRACKER`, then `PATH`). Ignored where these are not said to be
//! there: `scripts/kvm-machine` is such a place.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/guest.rs"]
mod guest;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hearth_confine::Confinement;
use hearth_machine::firecracker::{FirecrackerConfig, FirecrackerEngine, find};
use hearth_machine::{
    BootSpec, Console, DiskAttachment, Engine, Error, ExitReason, Machine, MachineRecord,
    MemoryOverlay, MemoryPiece, MemorySource, MemoryTarget, NetworkAttachment, RestoreSpec,
    SaveTarget, VmShape,
};

const UID: u32 = 64_321;
const MEMORY_BYTES: u64 = 256 << 20;
/// The longest wait for anything; generous, because KVM may be emulated itself.
const LIMIT: Duration = Duration::from_secs(180);

/// A directory with a disk, and everything that a VM leaves behind.
struct Bench {
    dir: tempfile::TempDir,
    disk: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hf").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let attached = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&image)
            .output();
        let disk = String::from_utf8(attached.unwrap().stdout).unwrap();
        let disk = PathBuf::from(disk.trim());
        assert!(
            disk.starts_with("/dev/"),
            "no loop device: {}",
            disk.display()
        );
        chown(&disk, Some(UID), None).unwrap();
        Self { dir, disk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn engine(&self) -> FirecrackerEngine {
        let named = std::env::var_os("HEARTH_FIRECRACKER").map(PathBuf::from);
        let path = std::env::var_os("PATH");
        let program = find(named.as_deref(), path.as_deref()).expect("HEARTH_FIRECRACKER or PATH");
        FirecrackerEngine::new(FirecrackerConfig {
            program,
            restored_console: Console::File,
        })
        .unwrap()
    }

    fn run_dir(&self, id: &str) -> PathBuf {
        let path = self.path(id);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn prefix(&self) -> String {
        let bench = self.dir.path().file_name().unwrap().to_str().unwrap();
        format!("{}-", bench.replace('.', ""))
    }

    fn confinement(&self, id: &str) -> Confinement {
        Confinement {
            cgroup_name: Some(format!("{}{id}", self.prefix())),
            netns: Some(self.network(id).netns),
            memory_limit_bytes: Some(MEMORY_BYTES + (256 << 20)),
            uid: UID,
            gid: UID,
            ..Confinement::default()
        }
    }

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

    fn shape() -> VmShape {
        VmShape {
            vcpus: 1,
            memory_bytes: MEMORY_BYTES,
        }
    }

    fn disk(&self) -> DiskAttachment {
        DiskAttachment::BlockDevice {
            path: self.disk.clone(),
        }
    }

    fn boot_spec(&self, id: &str) -> BootSpec {
        let kernel = std::env::var_os("HEARTH_TEST_KERNEL").expect("HEARTH_TEST_KERNEL is set");
        BootSpec {
            id: id.to_owned(),
            run_dir: self.run_dir(id),
            shape: Self::shape(),
            kernel: kernel.into(),
            initramfs: guest::initramfs().clone(),
            cmdline_extra: "quiet".to_owned(),
            memory_file: self.path(&format!("{id}.memory")),
            disk: self.disk(),
            network: Some(self.network(id)),
            confinement: Some(self.confinement(id)),
        }
    }

    fn restore_spec(&self, id: &str, memory: &Path, state: &Path) -> RestoreSpec {
        RestoreSpec {
            id: id.to_owned(),
            run_dir: self.run_dir(id),
            shape: Self::shape(),
            memory: MemorySource::Image(memory.to_owned()),
            scratch: self.path(&format!("{id}.scratch")),
            device_state: state.to_owned(),
            disk: self.disk(),
            network: Some(self.network(id)),
            confinement: Some(self.confinement(id)),
            resume: true,
        }
    }

    fn target(&self, state: &str, memory: MemoryTarget) -> SaveTarget {
        SaveTarget {
            device_state: self.path(state),
            memory,
        }
    }

    /// Boots the guest and saves it once it counts: memory image, device state, last count.
    async fn saved(&self, engine: &FirecrackerEngine) -> (PathBuf, PathBuf, usize) {
        let spec = self.boot_spec("template");
        let memory = spec.memory_file.clone();
        let machine = engine.boot(spec).await.unwrap();
        self.counts_to("template", 5);
        machine.pause().await.unwrap();
        let target = self.target("template.state", MemoryTarget::Image);
        machine.save(target).await.unwrap();
        let count = self.count("template").unwrap();
        machine.stop().await.unwrap();
        // An image is shown to the users of all VMs; its directory keeps others out.
        fs::set_permissions(&memory, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(self.leftovers("template"), [""; 0]);
        (memory, self.path("template.state"), count)
    }

    fn console(&self, id: &str) -> String {
        let bytes = fs::read(self.path(id).join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn counts(&self, id: &str) -> Vec<usize> {
        counts(&self.console(id))
    }

    fn count(&self, id: &str) -> Option<usize> {
        self.counts(id).last().copied()
    }

    /// One guest in VMs one after the other left no count out and said none twice, but for
    /// the line that it was writing when it was saved: Firecracker keeps no state of the
    /// serial port, so that one may be damaged. A VM that was saved and let go on may lack
    /// that line, too.
    #[track_caller]
    fn went_on(&self, ids: &[&str]) {
        let all: Vec<_> = ids.iter().map(|id| self.counts(id)).collect();
        for own in &all {
            let steps = own.windows(2).map(|pair| pair[1] - pair[0]);
            let lost: Vec<_> = steps.filter(|step| *step != 1).collect();
            assert!(lost.is_empty() || lost == [2], "{all:?}");
        }
        for pair in all.windows(2) {
            let (last, first) = (pair[0].last().unwrap(), pair[1].first().unwrap());
            assert!((last + 1..=last + 2).contains(first), "{all:?}");
        }
    }

    #[track_caller]
    fn counts_to(&self, id: &str, count: usize) {
        let deadline = Instant::now() + LIMIT;
        while self.count(id) < Some(count) {
            assert!(
                Instant::now() < deadline,
                "{id} does not count to {count}: {}\n{}",
                self.console(id),
                fs::read_to_string(self.path(id).join("vm.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether anything of a VM is left: process, directory, scratch or control group.
    fn leftovers(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        let group = self.confinement(id).cgroup_name.unwrap();
        if hearth_confine::Cgroups::detect().list().contains(&group) {
            left.push(format!("control group {group}"));
        }
        for path in [
            self.path(id).join("firecracker"),
            self.path(&format!("{id}.scratch")),
        ] {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        left
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
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
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.disk)
            .status();
    }
}

/// Every complete count on a console.
fn counts(console: &str) -> Vec<usize> {
    console
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| line.trim().strip_prefix("tick ")?.parse().ok())
        .collect()
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "ip {arguments:?}"
    );
}

async fn end_of(machine: &dyn Machine) -> ExitReason {
    tokio::time::timeout(LIMIT, machine.exited())
        .await
        .expect("the VM ends")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM and Firecracker: see scripts/kvm-machine"]
async fn a_saved_guest_goes_on_twice_and_again() {
    let bench = Bench::new();
    let engine = bench.engine();
    let (memory, state, saved_at) = bench.saved(&engine).await;
    let image = fs::read(&memory).unwrap();

    let a = engine
        .restore(bench.restore_spec("a", &memory, &state))
        .await
        .unwrap();
    let b = engine
        .restore(bench.restore_spec("b", &memory, &state))
        .await
        .unwrap();
    for id in ["a", "b"] {
        bench.counts_to(id, saved_at + 10);
        bench.went_on(&["template", id]);
    }
    b.stop().await.unwrap();

    // Saved twice: what is handed out is what was written since the restore, not since the
    // first of the saves.
    let early = a.dirty_memory().await.unwrap_err();
    assert!(matches!(early, Error::NotPaused), "{early}");
    a.pause().await.unwrap();
    a.pause().await.unwrap();
    let unsaved = a.dirty_memory().await.unwrap_err();
    assert!(matches!(unsaved, Error::Unsupported(_)), "{unsaved}");
    let target = bench.target("a.first", MemoryTarget::Difference);
    a.save(target.clone()).await.unwrap();
    assert!(
        matches!(a.save(target).await, Err(Error::Io { .. })),
        "it exists"
    );
    let first = a.dirty_memory().await.unwrap();
    a.resume().await.unwrap();
    let at = bench.count("a").unwrap();
    bench.counts_to("a", at + 5);
    a.pause().await.unwrap();
    let paused_at = bench.count("a").unwrap();
    a.save(bench.target("a.state", MemoryTarget::Difference))
        .await
        .unwrap();
    let dirty = a.dirty_memory().await.unwrap();
    assert!(
        dirty.len() >= first.len(),
        "{} after {}",
        dirty.len(),
        first.len()
    );
    assert!(
        dirty.len() / 4096 >= 10 && dirty.len() < MEMORY_BYTES / 2,
        "{}",
        dirty.len()
    );
    assert!(a.written_bytes().await.unwrap() >= 10 * 4096);

    // The image with these pages over it is the memory of the second generation.
    let second = bench.path("second.memory");
    fs::copy(&memory, &second).unwrap();
    let file = File::options().write(true).open(&second).unwrap();
    for run in dirty.runs() {
        let mut bytes = vec![0; usize::try_from(run.length).unwrap()];
        dirty.read_at(run.offset, &mut bytes).unwrap();
        file.write_all_at(&bytes, run.offset).unwrap();
    }
    drop(dirty);
    a.stop().await.unwrap();
    let mut spec = bench.restore_spec("c", &second, &bench.path("a.state"));
    spec.resume = false;
    let c = engine.restore(spec).await.unwrap();
    assert_eq!(bench.counts("c"), [0; 0]);
    c.resume().await.unwrap();
    bench.counts_to("c", paused_at + 10);
    bench.went_on(&["template", "a", "c"]);
    c.stop().await.unwrap();

    assert!(
        fs::read(&memory).unwrap() == image,
        "the memory image changed"
    );
    for id in ["a", "b", "c"] {
        assert_eq!(bench.leftovers(id), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM and Firecracker: see scripts/kvm-machine"]
async fn a_vm_is_adopted_by_its_record_until_it_ends() {
    let bench = Bench::new();
    let engine = bench.engine();
    let machine = engine.boot(bench.boot_spec("vm")).await.unwrap();
    let version = machine.engine_version();
    let record = serde_json::to_string(&machine.record()).unwrap();
    let unpaused = machine.save(bench.target("s", MemoryTarget::Image)).await;
    assert!(matches!(unpaused, Err(Error::NotPaused)), "{unpaused:?}");
    // As after a daemon's end.
    let pid = machine.pid();
    drop(machine);

    // Whoever has no record finds it by its run directory.
    let marker = format!("{}/", bench.path("vm").display());
    assert_eq!(hearth_machine::processes::naming(&marker), [pid]);
    let record: MachineRecord = serde_json::from_str(&record).unwrap();
    assert_eq!(record.engine_version.as_ref(), Some(&version));
    let adopted = bench.engine().adopt(record.clone()).await.unwrap();
    assert_eq!(adopted.engine_version(), version);
    bench.counts_to("vm", 3);
    adopted.pause().await.unwrap();
    let other = adopted
        .save(bench.target("s", MemoryTarget::Difference))
        .await;
    assert!(matches!(other, Err(Error::Unsupported(_))), "{other:?}");
    adopted
        .save(bench.target("s", MemoryTarget::Image))
        .await
        .unwrap();
    adopted.resume().await.unwrap();
    let impostor = MachineRecord {
        start_time_ticks: record.start_time_ticks + 1,
        ..record.clone()
    };
    assert!(matches!(
        engine.adopt(impostor).await,
        Err(Error::Gone { .. })
    ));
    hearth_machine::processes::end(adopted.pid()).unwrap();
    end_of(&*adopted).await;
    assert!(matches!(adopted.pause().await, Err(Error::Ended { .. })));
    adopted.stop().await.unwrap();
    assert!(matches!(
        engine.adopt(record).await,
        Err(Error::Gone { .. })
    ));
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM and Firecracker: see scripts/kvm-machine"]
async fn a_guest_that_powers_off_ends_its_vm() {
    let bench = Bench::new();
    let mut spec = bench.boot_spec("vm");
    spec.cmdline_extra = "quiet end".to_owned();
    let machine = bench.engine().boot(spec).await.unwrap();
    assert_eq!(end_of(&*machine).await, ExitReason::Exited { code: 0 });
    assert_eq!(bench.count("vm"), Some(5));
    machine.stop().await.unwrap();
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM and Firecracker: see scripts/kvm-machine"]
async fn a_failed_start_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    let engine = bench.engine();

    let mut spec = bench.boot_spec("nokernel");
    spec.kernel = bench.path("kernel");
    fs::write(&spec.kernel, "not a kernel").unwrap();
    let memory = spec.memory_file.clone();
    let error = engine.boot(spec).await.err().unwrap();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(
        error.to_string().to_lowercase().contains("kernel"),
        "{error}"
    );
    assert_eq!(bench.leftovers("nokernel"), [""; 0]);
    assert!(!memory.exists());

    let mut spec = bench.boot_spec("nodisk");
    spec.disk = DiskAttachment::BlockDevice {
        path: bench.path("none"),
    };
    let error = engine.boot(spec).await.err().unwrap();
    assert!(matches!(error, Error::Spawn { .. }), "{error}");
    assert_eq!(bench.leftovers("nodisk"), [""; 0]);

    let mut spec = bench.boot_spec("socket");
    spec.disk = DiskAttachment::NbdSocket {
        socket: bench.path("nbd.sock"),
        export: "root".to_owned(),
    };
    let error = engine.boot(spec).await.err().unwrap();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    assert_eq!(bench.leftovers("socket"), [""; 0]);

    // A device state that is rubbish, one that ends early, a memory that does.
    let (memory, state, _) = bench.saved(&engine).await;
    let good = fs::read(&state).unwrap();
    for (id, bytes) in [
        ("rubbish", &b"no device state"[..]),
        ("short", &good[..good.len() / 2]),
    ] {
        let bad = bench.path("bad.state");
        fs::write(&bad, bytes).unwrap();
        let error = engine
            .restore(bench.restore_spec(id, &memory, &bad))
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, Error::Refused { .. } | Error::Ended { .. }),
            "{id}: {error}"
        );
        assert_eq!(bench.leftovers(id), [""; 0]);
    }
    let short = bench.path("short.memory");
    fs::copy(&memory, &short).unwrap();
    File::options()
        .write(true)
        .open(&short)
        .unwrap()
        .set_len(MEMORY_BYTES / 2)
        .unwrap();
    let error = engine
        .restore(bench.restore_spec("cut", &short, &state))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::InvalidSpec(_)), "{error}");
    assert_eq!(bench.leftovers("cut"), [""; 0]);
    let mut spec = bench.restore_spec("pieces", &memory, &state);
    spec.memory = MemorySource::Pieces {
        image: memory.clone(),
        overlay: MemoryOverlay {
            files: vec![memory.clone()],
            pieces: vec![MemoryPiece {
                file: 0,
                file_offset: 0,
                memory_offset: 0,
                length: 4096,
            }],
        },
    };
    let error = engine.restore(spec).await.err().unwrap();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    assert_eq!(bench.leftovers("pieces"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KVM and Firecracker: see scripts/kvm-machine"]
async fn the_vm_is_in_a_jail() {
    let bench = Bench::new();
    let machine = bench.engine().boot(bench.boot_spec("vm")).await.unwrap();
    bench.counts_to("vm", 1);
    let proc = PathBuf::from(format!("/proc/{}", machine.pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let uid = UID.to_string();
    assert_eq!(field("Uid:"), [&*uid; 4].join("\t"));
    assert_eq!(field("Groups:"), "");
    for none in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(none).trim_start_matches('0'), "", "{none}");
    }
    assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"));
    let mut root: Vec<_> = fs::read_dir(proc.join("root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    root.sort();
    let program = std::env::var("HEARTH_FIRECRACKER").unwrap();
    let own = program.split('/').nth(1).unwrap();
    let mut known = vec!["dev", "etc", "lib", "lib64", "proc", "run", "usr", own];
    known.sort_unstable();
    known.dedup();
    root.retain(|name| !known.contains(&name.as_str()));
    assert_eq!(root, [""; 0]);
    for kind in ["mnt", "pid", "ipc", "uts", "cgroup", "net"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    machine.stop().await.unwrap();
}
