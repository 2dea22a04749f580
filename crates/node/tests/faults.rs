//! What goes wrong while sandboxes are kept and started again: steps that fail, a
//! daemon that dies between any two of them, damaged files, a full disk.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, SandboxId};
use hearth_node::{
    Error, Node, SandboxState, Status, TimeoutAction,
    hooks::{Hooks, NoHooks, Step},
};
use hearth_snapshot::{ArtefactStore, Kind};
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
