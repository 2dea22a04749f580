//! What goes wrong while sandboxes are kept and started again: steps that fail, a
//! daemon that dies between any two of them, damaged files, a full disk.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, SandboxId};
use hearth_node::{
    Error, Node, SandboxState, Status,
    hooks::{Hooks, Step},
};
use hearth_snapshot::{FileRole, Kind, LocalStore};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::{Home, in_an_hour, isolated, run, state};

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
