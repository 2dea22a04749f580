//! The lifecycle on real microVMs.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::BuildId;
use hearth_machine::{
    BootSpec, Capabilities, Engine, Machine, MachineRecord, RestoreSpec, qemu::QemuEngine,
};
use hearth_node::{Error, SandboxState, hooks::NoHooks};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{Home, in_an_hour, isolated, run, state, until};

#[test]
fn a_paused_sandbox_goes_on_where_it_was() {
    isolated("a_paused_sandbox_goes_on_where_it_was", async || {
        let home = Home::new().await;
        let node = home.start().await;
        let spec = home.spec(home.base);
        let id = spec.sandbox_id.clone();
        let first = node.create(spec, in_an_hour()).await.unwrap();
        run(
            &first,
            "echo on disk > /root/file; echo in memory > /dev/shm/file",
        )
        .await;
        run(&first, "setsid sh -c 'while :; do echo x >> /dev/shm/count; sleep 0.1; done' >/dev/null 2>&1 &").await;

        // Twice, so that a difference stands on a difference.
        let mut before = first.clone();
        for round in 0..2 {
            let build = BuildId::random();
            node.pause(&id, build, true).await.unwrap();
            let paused = node.status(&id).unwrap();
            assert_eq!((paused.state, paused.address), (SandboxState::Paused, None));
            assert!(paused.paused.unwrap().with_memory);
            assert_eq!(
                (paused.memory_mib, paused.vcpus),
                (first.memory_mib, first.vcpus)
            );
            until("end of the VM", async || home.vm_processes().is_empty()).await;
            assert!(matches!(
                node.pause(&id, build, true).await,
                Err(Error::State { .. })
            ));

            let resumed = node.resume(&id, in_an_hour(), false).await.unwrap();
            assert_eq!(resumed.state, SandboxState::Running);
            assert_ne!(resumed.execution_id, before.execution_id);
            assert!(matches!(
                node.resume(&id, in_an_hour(), false).await,
                Err(Error::State { .. })
            ));
            assert_eq!(
                run(&resumed, "cat /root/file /dev/shm/file").await,
                "on disk\nin memory"
            );
            let count: u32 = run(&resumed, "wc -l < /dev/shm/count")
                .await
                .parse()
                .unwrap();
            until("further count", async || {
                run(&resumed, "wc -l < /dev/shm/count")
                    .await
                    .parse::<u32>()
                    .unwrap()
                    > count
            })
            .await;
            run(&resumed, &format!("echo {round} >> /root/rounds; dd if=/dev/urandom of=/dev/shm/r bs=1M count=3 2>/dev/null")).await;
            before = resumed;
        }
        node.delete(&id).await.unwrap();
        until("end of the builds", async || {
            node.builds().await.unwrap().len() == 1
        })
        .await;
        until("end of the sandbox's files", async || {
            !home.state().join("sandboxes").join(id.as_str()).exists()
        })
        .await;
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
        assert_eq!(state(&node, &id), None);
    });
}

#[test]
fn a_snapshot_is_started_from_as_another_machine() {
    isolated(
        "a_snapshot_is_started_from_as_another_machine",
        async || {
            let home = Home::new().await;
            let node = home.start().await;
            let spec = home.spec(home.base);
            let source = node.create(spec, in_an_hour()).await.unwrap();
            let id = source.spec.sandbox_id.clone();
            run(
                &source,
                "echo before > /root/file; echo held > /dev/shm/file",
            )
            .await;
            let build = BuildId::random();
            node.checkpoint(&id, build).await.unwrap();
            assert_eq!(state(&node, &id), Some(SandboxState::Running));
            run(&source, "echo after > /root/file").await;

            let mut forks = Vec::new();
            for number in 0..2 {
                let mut spec = home.spec(build);
                spec.envd_access_token = Some(format!("token-of-fork-{number}-0123456789abcdef"));
                forks.push(node.create(spec, in_an_hour()).await.unwrap());
            }
            let ask = "cat /root/file /dev/shm/file; hostname; cat /etc/machine-id; \
            head -c 16 /dev/urandom | od -An -tx1; openssl rand -hex 16 2>/dev/null; \
            python3 -c 'import random, secrets; print(random.random(), secrets.token_hex(8))'";
            let (a, b) = (run(&forks[0], ask).await, run(&forks[1], ask).await);
            let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
            assert_eq!(a[..2], ["before", "held"]);
            assert_eq!(a[..2], b[..2]);
            for (a, b) in a.iter().zip(&b).skip(2) {
                assert_ne!(a, b);
            }
            let own = run(&source, "cat /root/file; hostname; cat /etc/machine-id").await;
            assert!(own.starts_with("after\n"));
            assert_ne!(own.lines().nth(2), Some(a[3]));

            // A deleted snapshot goes when the last sandbox that stands on it has gone.
            node.delete_build(build).await.unwrap();
            let gone = node.create(home.spec(build), in_an_hour()).await;
            assert!(matches!(gone, Err(Error::BuildNotFound { .. })));
            assert!(home.store().list_all().await.unwrap().len() == 2);
            run(
                &forks[0],
                "sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/file",
            )
            .await;
            for status in forks.iter().chain([&source]) {
                node.delete(&status.spec.sandbox_id).await.unwrap();
            }
            until("end of the deleted build", async || {
                home.store().list_all().await.unwrap().len() == 1
            })
            .await;
            node.shutdown(Duration::from_secs(10)).await;
            home.assert_nothing_left();
        },
    );
}

#[test]
fn a_sandbox_returns_to_a_snapshot_under_its_name() {
    isolated(
        "a_sandbox_returns_to_a_snapshot_under_its_name",
        async || {
            let home = Home::new().await;
            let node = home.start().await;
            let first = node
                .create(home.spec(home.base), in_an_hour())
                .await
                .unwrap();
            let id = first.spec.sandbox_id.clone();
            run(&first, "echo kept > /root/file; echo kept > /dev/shm/file").await;
            let build = BuildId::random();
            node.checkpoint(&id, build).await.unwrap();
            run(
                &first,
                "echo lost > /root/file; echo lost > /dev/shm/file; sync",
            )
            .await;
            for _ in 0..2 {
                let back = node.roll_back(&id, build).await.unwrap();
                assert_eq!(back.address, first.address);
                assert_eq!(back.spec, first.spec);
                assert_ne!(back.execution_id, first.execution_id);
                assert_eq!(
                    run(&back, "cat /root/file /dev/shm/file").await,
                    "kept\nkept"
                );
                run(&back, "echo lost > /root/file; sync").await;
            }
            // A build that is not there changes nothing.
            let absent = node.roll_back(&id, BuildId::random()).await;
            assert!(matches!(absent, Err(Error::BuildNotFound { .. })));
            let now = node.status(&id).unwrap();
            assert_eq!(run(&now, "cat /root/file").await, "lost");
            node.delete(&id).await.unwrap();
            node.shutdown(Duration::from_secs(10)).await;
            home.assert_nothing_left();
        },
    );
}

#[test]
fn a_disk_alone_is_kept_and_booted() {
    isolated("a_disk_alone_is_kept_and_booted", async || {
        let home = Home::new().await;
        let node = home.start().await;
        let first = node
            .create(home.spec(home.base), in_an_hour())
            .await
            .unwrap();
        let id = first.spec.sandbox_id.clone();
        run(
            &first,
            "echo on disk > /root/file; echo in memory > /dev/shm/file",
        )
        .await;
        node.pause(&id, BuildId::random(), false).await.unwrap();
        assert!(!node.status(&id).unwrap().paused.unwrap().with_memory);
        let booted = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_eq!(
            run(&booted, "cat /root/file; ls /dev/shm; hostname").await,
            format!("on disk\n{id}")
        );

        // What was booted is kept whole, with memory, by a snapshot and by a pause.
        run(&booted, "echo again > /dev/shm/file").await;
        let build = BuildId::random();
        node.checkpoint(&id, build).await.unwrap();
        let copy = node.create(home.spec(build), in_an_hour()).await.unwrap();
        assert_eq!(
            run(&copy, "cat /root/file /dev/shm/file").await,
            "on disk\nagain"
        );
        node.delete(&copy.spec.sandbox_id).await.unwrap();
        node.delete_build(build).await.unwrap();
        node.pause(&id, BuildId::random(), true).await.unwrap();
        let back = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_eq!(
            run(&back, "cat /root/file /dev/shm/file").await,
            "on disk\nagain"
        );
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
    });
}

/// What happens to the first VM that is booted.
#[derive(Clone, Copy)]
enum EarlyFailure {
    /// It stands still before its guest has come up, which looks like a hang.
    Hang,
    /// It ends, as after a guest's triple fault or panic.
    Reset,
}

struct FailsOnce {
    qemu: QemuEngine,
    boots: AtomicUsize,
    failure: EarlyFailure,
}

#[async_trait::async_trait]
impl Engine for FailsOnce {
    fn capabilities(&self) -> Capabilities {
        self.qemu.capabilities()
    }

    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, hearth_machine::Error> {
        let machine = self.qemu.boot(spec).await?;
        if self.boots.fetch_add(1, Ordering::SeqCst) == 0 {
            match self.failure {
                EarlyFailure::Hang => machine.pause().await?,
                EarlyFailure::Reset => {
                    hearth_machine::processes::end(machine.pid()).expect("it can be ended");
                }
            }
        }
        Ok(machine)
    }

    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, hearth_machine::Error> {
        self.qemu.restore(spec).await
    }

    async fn adopt(
        &self,
        record: MachineRecord,
    ) -> Result<Box<dyn Machine>, hearth_machine::Error> {
        self.qemu.adopt(record).await
    }
}

#[test]
fn a_guest_that_hangs_in_early_boot_is_booted_once_more() {
    isolated(
        "a_guest_that_hangs_in_early_boot_is_booted_once_more",
        async || is_booted_once_more(EarlyFailure::Hang).await,
    );
}

#[test]
fn a_guest_that_resets_itself_in_early_boot_is_booted_once_more() {
    isolated(
        "a_guest_that_resets_itself_in_early_boot_is_booted_once_more",
        async || is_booted_once_more(EarlyFailure::Reset).await,
    );
}

async fn is_booted_once_more(failure: EarlyFailure) {
    let home = Home::new().await;
    let engine = Arc::new(FailsOnce {
        qemu: support::engine(),
        boots: AtomicUsize::new(0),
        failure,
    });
    let node = home
        .start_on(Arc::clone(&engine) as Arc<dyn Engine>, Arc::new(NoHooks))
        .await;
    let first = node
        .create(home.spec(home.base), in_an_hour())
        .await
        .unwrap();
    let id = first.spec.sandbox_id.clone();
    run(&first, "echo on disk > /root/file").await;
    node.pause(&id, BuildId::random(), false).await.unwrap();
    assert_eq!(engine.boots.load(Ordering::SeqCst), 0);
    let booted = node.resume(&id, in_an_hour(), false).await.unwrap();
    assert_eq!(engine.boots.load(Ordering::SeqCst), 2);
    assert_eq!(booted.state, SandboxState::Running);
    assert_eq!(run(&booted, "cat /root/file").await, "on disk");
    assert_eq!(home.vm_processes().len(), 1);

    // What it keeps is the second VM's.
    run(&booted, "echo in memory > /dev/shm/file").await;
    node.pause(&id, BuildId::random(), true).await.unwrap();
    let back = node.resume(&id, in_an_hour(), false).await.unwrap();
    let files = run(&back, "cat /root/file /dev/shm/file").await;
    assert_eq!(files, "on disk\nin memory");
    node.delete(&id).await.unwrap();
    node.shutdown(Duration::from_secs(10)).await;
    home.assert_nothing_left();
}
