//! A start that nobody waits for any more: its slot is nobody else's until it is over.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hearth_block::IoLimits;
use hearth_machine::accelerator::Accelerator;
use hearth_machine::{
    BootSpec, Capabilities, DirtyMemory, DiskKind, Engine, Error, ExitReason, GuestCpu, Machine,
    MachineRecord, MemoryMapping, RestoreSpec, SaveTarget, VmShape,
};
use hearth_microvm::{Disk, Kernel, Lifetime, NoJournal, Opening, Owner, SlotHeld};
use hearth_network::{NetworkConfig, SlotPool};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

const INNER: &str = "HEARTH_TEST_ISOLATED";
const LONG: Duration = Duration::from_secs(20);

/// Starts a VM when it is let, whoever waits.
#[derive(Default)]
struct Slow {
    begun: Notify,
    go_on: Notify,
    stopped: Arc<AtomicBool>,
}

#[async_trait]
impl Engine for Slow {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "slow",
            version: "1".to_owned(),
            accelerator: Accelerator::Kvm,
            cpu: GuestCpu {
                model: "none".to_owned(),
                features: BTreeSet::new(),
            },
            disk: DiskKind::NbdSocket,
            memory_pieces: false,
        }
    }

    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, Error> {
        self.begun.notify_one();
        self.go_on.notified().await;
        Ok(Box::new(Vm {
            stopped: Arc::clone(&self.stopped),
            record: MachineRecord {
                engine: "slow".to_owned(),
                id: spec.id,
                pid: u32::MAX,
                start_time_ticks: 0,
                boot_id: String::new(),
                control_socket: PathBuf::new(),
                log: PathBuf::new(),
                shape: spec.shape,
                memory_file: spec.memory_file,
                memory_overlay_files: Vec::new(),
                memory_mapping: MemoryMapping::Shared,
                memory_scratch: None,
                engine_version: None,
                cgroup_name: None,
            },
        }))
    }

    async fn restore(&self, _: RestoreSpec) -> Result<Box<dyn Machine>, Error> {
        Err(Error::Unsupported("restores"))
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, Error> {
        Err(Error::Gone { pid: record.pid })
    }
}

struct Vm {
    stopped: Arc<AtomicBool>,
    record: MachineRecord,
}

#[async_trait]
impl Machine for Vm {
    fn pid(&self) -> u32 {
        self.record.pid
    }
    fn engine_version(&self) -> String {
        "1".to_owned()
    }
    fn record(&self) -> MachineRecord {
        self.record.clone()
    }
    async fn pause(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn resume(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn save(&self, _: SaveTarget) -> Result<(), Error> {
        Err(Error::NotPaused)
    }
    async fn dirty_memory(&self) -> Result<Box<dyn DirtyMemory>, Error> {
        Err(Error::NotPaused)
    }
    async fn written_bytes(&self) -> Result<u64, Error> {
        Ok(0)
    }
    async fn stop(&self) -> Result<(), Error> {
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
    async fn exited(&self) -> ExitReason {
        std::future::pending().await
    }
}

#[test]
fn a_slot_goes_back_only_when_the_start_in_it_is_over() {
    const NAME: &str = "a_slot_goes_back_only_when_the_start_in_it_is_over";
    if std::env::var_os(INNER).is_none() {
        // A host of our own, whose network nobody else uses.
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--", "sh"])
            .args(["-ec", "mount -t tmpfs none /run; ip link set lo up; \"$@\""])
            .arg("sh")
            .arg(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(INNER, "1")
            .output()
            .expect("unshare (util-linux) runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "needs root: {text}");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(cancelled());
}

async fn cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("image"), vec![0; 1 << 20]).unwrap();
    let config = NetworkConfig {
        state_dir: path("state"),
        pool_size: 1,
        max_slots: 1,
        nameservers: Some(Vec::new()),
        ..NetworkConfig::default()
    };
    let slots = SlotPool::start(config, &[]).await.unwrap();
    let tasks = TaskTracker::new();
    let lifetime = Lifetime::Scoped(tasks.clone());
    let held = SlotHeld::acquire(&slots, &Owner::Build, path("run"), lifetime)
        .await
        .unwrap();
    let disk = Disk {
        image: path("image"),
        layers: Vec::new(),
        writable: path("layer"),
        opening: Opening::Create,
        limit_bytes: None,
        reserve_bytes: 0,
        io: IoLimits::default(),
        size_bytes: 1 << 20,
    };
    let served = held.serve(&disk, &mut NoJournal).await.unwrap();
    let slow = Arc::new(Slow::default());
    let engine: Arc<dyn Engine> = Arc::clone(&slow) as Arc<dyn Engine>;
    let guest = Kernel {
        name: "vm".to_owned(),
        shape: VmShape {
            vcpus: 1,
            memory_bytes: 1 << 20,
        },
        kernel: path("kernel"),
        initramfs: path("initramfs"),
        memory_file: path("memory"),
    };
    let mut journal = NoJournal;
    let boot = served.boot(&engine, &guest, &mut journal);
    tokio::select! {
        biased;
        () = slow.begun.notified() => {}
        _ = boot => panic!("over before it could be given up"),
    }
    // What was given up waits for the engine, which has yet to make the VM.
    tasks.close();
    let early = tokio::time::timeout(Duration::from_millis(300), tasks.wait()).await;
    assert!(early.is_err(), "released while the VM starts");
    assert_eq!(slots.status().await.unwrap().held, 1);
    assert!(slots.acquire().await.is_err(), "the only slot is held");

    slow.go_on.notify_one();
    tokio::time::timeout(LONG, tasks.wait()).await.unwrap();
    assert!(slow.stopped.load(Ordering::SeqCst), "the VM was ended");
    assert_eq!(slots.status().await.unwrap().held, 0);
    slots.acquire().await.unwrap();
    slots.shutdown(&[]).await.unwrap();
}
