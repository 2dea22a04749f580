//! What goes wrong while sandboxes are kept and started again: steps that fail, a
//! daemon that dies between any two of them, damaged files, a full disk.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, SandboxId};
use hearth_node::{
    Error, Node, SandboxState, Status, TimeoutAction,
    hooks::{Hooks, NoHooks, Step},
};
use hearth_snapshot::{BuildCache, Kind};
use std::{
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{Home, in_an_hour, isolated, run, state, until};

/// Lets one step fail, as often as told.
#[derive(Default)]
struct Failing(Mutex<Option<Step>>);

impl Failing {
    fn at(&self, step: Option<Step>) {
        *self.0.lock().unwrap() = step;
    }
}

impl Hooks for Failing {
    fn reached(&self, step: Step) -> Result<(), String> {
        match *self.0.lock().unwrap() {
            Some(failing) if failing == step => Err(format!("made to fail at {step:?}")),
            _ => Ok(()),
        }
    }
}

/// The sandbox answers, and has what it wrote before.
async fn assert_sound(status: &Status, written: &str) {
    assert_eq!(run(status, "cat /root/file /dev/shm/file").await, written);
    run(status, "echo more >> /root/more; sync").await;
}

#[test]
fn a_pause_or_resume_that_fails_changes_nothing() {
    isolated("a_pause_or_resume_that_fails_changes_nothing", async || {
        let home = Home::new().await;
        let failing = Arc::new(Failing::default());
        let node = home
            .start_with(Arc::clone(&failing) as Arc<dyn Hooks>)
            .await;
        let first = node
            .create(home.spec(home.base), in_an_hour())
            .await
            .unwrap();
        let id = first.spec.sandbox_id.clone();
        run(&first, "echo a > /root/file; echo b > /dev/shm/file").await;
        for step in Step::ALL
            .into_iter()
            .take_while(|step| *step <= Step::Published)
        {
            failing.at(Some(step));
            let build = BuildId::random();
            let error = node.pause(&id, build, true).await.unwrap_err();
            assert!(matches!(error, Error::Step { .. }), "{step:?}: {error:?}");
            let error = node.checkpoint(&id, build).await.unwrap_err();
            assert!(matches!(error, Error::Step { .. }), "{step:?}: {error:?}");
            failing.at(None);
            let now = node.status(&id).unwrap();
            assert_eq!(now.state, SandboxState::Running, "{step:?}");
            assert_sound(&now, "a\nb").await;
            assert_eq!(node.builds().await.unwrap().len(), 1, "{step:?}");
        }
        node.pause(&id, BuildId::random(), true).await.unwrap();
        for step in [
            Step::SlotTaken,
            Step::DiskServed,
            Step::VmStarted,
            Step::Greeted,
        ] {
            failing.at(Some(step));
            node.resume(&id, in_an_hour(), false).await.unwrap_err();
            failing.at(None);
            assert_eq!(state(&node, &id), Some(SandboxState::Paused), "{step:?}");
            assert_eq!(home.vm_processes(), [0; 0]);
        }
        let back = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_sound(&back, "a\nb").await;
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
    });
}

/// What a daemon that is to die does, in a process of its own.
const DIES_AT: &str = "HEARTH_TEST_DIES_AT";

/// Ends the process at one step, as a kill would: nothing is cleaned up.
struct Dying(Step);

impl Hooks for Dying {
    fn reached(&self, step: Step) -> Result<(), String> {
        if step == self.0 {
            std::process::abort();
        }
        Ok(())
    }
}

/// A sandbox is paused and resumed by daemons that die at each step in turn. The
/// next daemon finds it running or paused, as it was, with nothing left over.
#[test]
fn a_daemon_may_die_between_any_two_steps() {
    isolated("a_daemon_may_die_between_any_two_steps", async || {
        let home = Home::shared().await;
        if let Ok(order) = std::env::var(DIES_AT) {
            return die(&home, &order).await;
        }
        let node = home.start().await;
        let first = node
            .create(home.spec(home.base), in_an_hour())
            .await
            .unwrap();
        let id = first.spec.sandbox_id.clone();
        run(&first, "echo a > /root/file; echo b > /dev/shm/file").await;
        node.shutdown(Duration::from_secs(20)).await;
        drop(node);

        for operation in ["pause", "checkpoint"] {
            for step in Step::ALL {
                if operation == "checkpoint" && step > Step::Published {
                    break;
                }
                let order = format!("{operation} {id} {step:?}");
                home.run_and_die(DIES_AT, &order);
                let node = home.start().await;
                let committed = step >= Step::Published && operation == "pause";
                let expected = if committed {
                    SandboxState::Paused
                } else {
                    SandboxState::Running
                };
                // What was in the middle of a pause is let go on first.
                until(&format!("{expected:?} after {order}"), async || {
                    state(&node, &id) == Some(expected)
                })
                .await;
                let vms = usize::from(!committed);
                until("end of the former VM", async || {
                    home.vm_processes().len() == vms
                })
                .await;
                let now = if committed {
                    node.resume(&id, in_an_hour(), false).await.unwrap()
                } else {
                    node.status(&id).unwrap()
                };
                assert_sound(&now, "a\nb").await;
                let builds = node.builds().await.unwrap();
                assert!(
                    builds.iter().all(|build| build.kind != Kind::Snapshot),
                    "{order}: {builds:?}"
                );
                node.shutdown(Duration::from_secs(20)).await;
            }
        }
        let node = home.start().await;
        node.delete(&id).await.unwrap();
        until("end of the builds", async || {
            node.builds().await.unwrap().len() == 1
        })
        .await;
        node.shutdown(Duration::from_secs(20)).await;
        home.assert_nothing_left();
    });
}

async fn die(home: &Home, order: &str) {
    let mut words = order.split(' ');
    let operation = words.next().unwrap();
    let id: SandboxId = words.next().unwrap().parse().unwrap();
    let step = words.next().unwrap();
    let step = Step::ALL
        .into_iter()
        .find(|known| format!("{known:?}") == step);
    let node = home.start_with(Arc::new(Dying(step.unwrap()))).await;
    let kept = match operation {
        "pause" => node.pause(&id, BuildId::random(), true).await,
        _ => node.checkpoint(&id, BuildId::random()).await,
    };
    kept.unwrap();
    node.resume(&id, in_an_hour(), false).await.unwrap();
    panic!("{order}: the step was never reached");
}

#[test]
fn damage_is_named_and_never_half_loaded() {
    isolated("damage_is_named_and_never_half_loaded", async || {
        let home = Home::new().await;
        let node = home.start().await;
        let first = node
            .create(home.spec(home.base), in_an_hour())
            .await
            .unwrap();
        let id = first.spec.sandbox_id.clone();
        run(&first, "echo a > /root/file; echo b > /dev/shm/file").await;
        let build = BuildId::random();
        node.pause(&id, build, true).await.unwrap();
        let stored = home.store().open(build).await.unwrap();
        for entry in &stored.manifest.files {
            let path = stored.directory().join(&entry.name);
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let at = first_data(&file);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            refused(&node, &id, &entry.name).await;
            file.write_all_at(&byte, at).unwrap();

            file.set_len(entry.size_bytes + 1).unwrap();
            refused(&node, &id, &entry.name).await;
            file.set_len(entry.size_bytes).unwrap();

            std::fs::rename(&path, path.with_extension("away")).unwrap();
            refused(&node, &id, &entry.name).await;
            std::fs::rename(path.with_extension("away"), &path).unwrap();
            assert_eq!(home.vm_processes(), [0; 0]);
        }
        let back = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_sound(&back, "a\nb").await;
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
    });
}

#[test]
fn a_memory_of_another_engine_waits_and_its_disk_does_not() {
    isolated(
        "a_memory_of_another_engine_waits_and_its_disk_does_not",
        async || {
            let home = Home::new().await;
            let node = home.start().await;
            let spec = home.spec(home.base);
            let first = node.create(spec, in_an_hour()).await.unwrap();
            let id = first.spec.sandbox_id.clone();
            run(&first, "echo a > /root/file; echo b > /dev/shm/file").await;
            let build = BuildId::random();
            node.pause(&id, build, true).await.unwrap();
            let stored = home.store().open(build).await.unwrap();
            let manifest = stored.directory().join("manifest.json");
            let own = std::fs::read_to_string(&manifest).unwrap();
            let version = format!("\"version\": \"{}\"", stored.manifest.engine.version);
            let older = own.replacen(&version, "\"version\": \"2.11.1\"", 1);
            assert_ne!(older, own, "{version}");

            std::fs::write(&manifest, &older).unwrap();
            let error = node.resume(&id, in_an_hour(), false).await.unwrap_err();
            assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("saved by qemu 2.11.1"), "{text}");
            assert_eq!(state(&node, &id), Some(SandboxState::Paused));
            assert_eq!(home.vm_processes(), [0; 0]);

            // With the engine that saved it, all is there.
            std::fs::write(&manifest, &own).unwrap();
            let back = node.resume(&id, in_an_hour(), false).await.unwrap();
            assert_sound(&back, "a\nb").await;
            // Without it, the disk is.
            let build = BuildId::random();
            node.pause(&id, build, true).await.unwrap();
            let stored = home.store().open(build).await.unwrap();
            let manifest = stored.directory().join("manifest.json");
            let own = std::fs::read_to_string(&manifest).unwrap();
            std::fs::write(
                &manifest,
                own.replacen(&version, "\"version\": \"2.11.1\"", 1),
            )
            .unwrap();
            let booted = node.resume(&id, in_an_hour(), true).await.unwrap();
            assert_eq!(run(&booted, "cat /root/file").await, "a");
            node.delete(&id).await.unwrap();
            node.shutdown(Duration::from_secs(10)).await;
            home.assert_nothing_left();
        },
    );
}

/// Offset of the first byte that is not in a hole.
fn first_data(file: &std::fs::File) -> u64 {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)).unwrap_or(0)
}

async fn refused(node: &Node, id: &SandboxId, file: &str) {
    let error = node.resume(id, in_an_hour(), false).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(matches!(error, Error::Damaged { .. }), "{file}: {text}");
    assert!(text.contains(file), "{file}: {text}");
    assert_eq!(state(node, id), Some(SandboxState::Paused));
}

#[test]
fn the_end_time_is_kept_and_pauses_where_asked() {
    isolated("the_end_time_is_kept_and_pauses_where_asked", async || {
        let home = Home::new().await;
        let node = home.start_with(Arc::new(NoHooks)).await;
        let mut spec = home.spec(home.base);
        spec.timeout_action = TimeoutAction::Pause { memory: true };
        let first = node.create(spec, in_an_hour()).await.unwrap();
        let id = first.spec.sandbox_id.clone();
        run(&first, "echo a > /root/file; echo b > /dev/shm/file").await;
        let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(300);
        let end = hearth_node::EndAt::At(soon);
        node.update(&id, Some(end), None).await.unwrap();
        until("automatic pause", async || {
            state(&node, &id) == Some(SandboxState::Paused)
        })
        .await;
        let back = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_sound(&back, "a\nb").await;
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
    });
}

#[test]
fn a_full_disk_leaves_the_sandbox_running() {
    isolated("a_full_disk_leaves_the_sandbox_running", async || {
        let home = Home::on_a_disk_of_mib(48).await;
        let node = home.start().await;
        let first = node
            .create(home.spec(home.base), in_an_hour())
            .await
            .unwrap();
        let id = first.spec.sandbox_id.clone();
        run(&first, "echo a > /root/file; echo b > /dev/shm/file; sync").await;
        run(&first, "python3 -c 'import os; open(\"/dev/shm/big\", \"wb\").write(os.urandom(1 << 20) * 80)'").await;
        let error = node.pause(&id, BuildId::random(), true).await.unwrap_err();
        assert!(matches!(error, Error::Capacity(_)), "{error:?}");
        let error = node.checkpoint(&id, BuildId::random()).await.unwrap_err();
        assert!(matches!(error, Error::Capacity(_)), "{error:?}");
        let now = node.status(&id).unwrap();
        assert_eq!(now.state, SandboxState::Running);
        assert_sound(&now, "a\nb").await;
        home.resize_mib(400);
        node.pause(&id, BuildId::random(), true).await.unwrap();
        let back = node.resume(&id, in_an_hour(), false).await.unwrap();
        assert_sound(&back, "a\nb").await;
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
    });
}

/// One guest writes until it may not any more; then the host's disk is filled from
/// elsewhere, to the last byte, and the daemon starts again.
#[test]
fn a_full_disk_stops_neither_the_node_nor_its_start() {
    isolated(
        "a_full_disk_stops_neither_the_node_nor_its_start",
        async || {
            const RESERVE_MIB: u64 = 48;
            let mut home = Home::on_a_disk_of_mib(160).await;
            home.disk_reserve_bytes = RESERVE_MIB << 20;
            let node = home.start().await;
            let kept = node
                .create(home.spec(home.base), in_an_hour())
                .await
                .unwrap();
            let kept_id = kept.spec.sandbox_id.clone();
            run(&kept, "echo a > /root/file; echo b > /dev/shm/file; sync").await;
            node.pause(&kept_id, BuildId::random(), true).await.unwrap();

            let greedy = node
                .create(home.spec(home.base), in_an_hour())
                .await
                .unwrap();
            let greedy_id = greedy.spec.sandbox_id.clone();
            let free = || {
                let stat = rustix::fs::statvfs(home.state()).unwrap();
                (stat.f_bavail * stat.f_frsize) >> 20
            };
            assert!(free() > RESERVE_MIB + 8, "{}", free());
            let told = run(
                &greedy,
                "dd if=/dev/zero bs=1M count=150 oflag=direct of=/root/big 2>&1 || true",
            )
            .await;
            assert!(
                told.contains("error") || told.contains("No space"),
                "{told}"
            );
            assert!(free() >= RESERVE_MIB - 1, "{}", free());

            // The rest goes to somebody else.
            let hog = home.state().join("hog");
            let _ = std::fs::write(&hog, vec![1; (free() as usize + 16) << 20]);
            assert_eq!(free(), 0);
            let later = hearth_node::EndAt::At(in_an_hour() + chrono::TimeDelta::hours(1));
            node.update(&greedy_id, Some(later), None).await.unwrap();
            node.delete(&greedy_id).await.unwrap();
            node.shutdown(Duration::from_secs(10)).await;
            let _ = std::fs::write(
                home.state().join("more"),
                vec![1; (free() as usize + 16) << 20],
            );
            assert_eq!(free(), 0);

            let node = home.start().await;
            assert_eq!(state(&node, &kept_id), Some(SandboxState::Paused));
            for name in ["hog", "more"] {
                std::fs::remove_file(home.state().join(name)).unwrap();
            }
            let back = node.resume(&kept_id, in_an_hour(), false).await.unwrap();
            assert_sound(&back, "a\nb").await;
            node.delete(&kept_id).await.unwrap();
            node.shutdown(Duration::from_secs(10)).await;
            home.assert_nothing_left();
        },
    );
}

/// What the daemon cannot read it leaves, and a daemon that can takes it up again.
#[test]
fn a_sandbox_of_another_version_outlives_a_daemon_that_cannot_read_it() {
    isolated(
        "a_sandbox_of_another_version_outlives_a_daemon_that_cannot_read_it",
        async || {
            let home = Home::new().await;
            let node = home.start().await;
            let mut ids = Vec::new();
            for _ in 0..2 {
                let made = node
                    .create(home.spec(home.base), in_an_hour())
                    .await
                    .unwrap();
                run(&made, "echo a > /root/file; echo b > /dev/shm/file; sync").await;
                ids.push(made.spec.sandbox_id.clone());
            }
            let (paused, running) = (ids[0].clone(), ids[1].clone());
            let build = BuildId::random();
            node.pause(&paused, build, true).await.unwrap();
            until("end of a VM", async || home.vm_processes().len() == 1).await;
            node.shutdown(Duration::from_secs(10)).await;

            let journal = |id| {
                home.state()
                    .join("sandboxes")
                    .join(format!("{id}"))
                    .join("journal.json")
            };
            let texts = ids
                .iter()
                .map(|id| std::fs::read_to_string(journal(id)).unwrap());
            let texts: Vec<String> = texts.collect();
            for (id, text) in ids.iter().zip(&texts) {
                let newer = text.replacen("\"version\":1", "\"version\":9", 1);
                assert_ne!(*text, newer);
                std::fs::write(journal(id), newer).unwrap();
            }
            let node = home.start().await;
            assert!(node.list().is_empty());
            let told = hearth_node::quarantine_of_daemon(&home.run()).unwrap();
            assert_eq!(told.len(), 2);
            assert!(
                told.iter().all(|one| one.why.contains("newer version")),
                "{told:?}"
            );
            // Its builds, its slot and its VM are not for others meanwhile.
            let other = node
                .create(home.spec(home.base), in_an_hour())
                .await
                .unwrap();
            node.delete(&other.spec.sandbox_id).await.unwrap();
            assert!(home.state().join("builds").join(build.to_string()).exists());
            assert_eq!(home.vm_processes().len(), 1);
            node.shutdown(Duration::from_secs(10)).await;

            for (id, text) in ids.iter().zip(&texts) {
                std::fs::write(journal(id), text).unwrap();
            }
            let node = home.start().await;
            assert_eq!(state(&node, &running), Some(SandboxState::Running));
            assert_sound(&node.status(&running).unwrap(), "a\nb").await;
            let back = node.resume(&paused, in_an_hour(), false).await.unwrap();
            assert_sound(&back, "a\nb").await;
            for id in &ids {
                node.delete(id).await.unwrap();
            }
            node.shutdown(Duration::from_secs(10)).await;
            home.assert_nothing_left();
        },
    );
}
