//! Real VMs: boot, save, restore, adopt, stop, and what goes wrong.
//!
//! Needs root, QEMU and a guest kernel (`HEARTH_TEST_KERNEL`).

#![expect(clippy::unwrap_used, reason = "tests")]

mod escape;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use hearth_machine::{
    DiskAttachment, Engine, Error, ExitReason, Machine, MemoryOverlay, MemoryPiece, MemorySource,
    MemoryTarget, SaveTarget,
};
use support::{Bench, LIMIT, counts, kernel, wait_for};

/// Waits for a VM's end with a bound.
async fn end_of(machine: &dyn Machine) -> ExitReason {
    tokio::time::timeout(LIMIT, machine.exited())
        .await
        .expect("the VM ends")
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one VM's story, step by step")]
async fn a_saved_guest_goes_on_twice_and_again() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let engine = bench.engine();
    let (memory, state, saved_at) = bench.saved(&engine).await;
    assert_eq!(bench.leftovers("template"), [""; 0]);
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
        wait_for("a restored guest to go on", || {
            bench.count(id) >= Some(saved_at + 10)
        });
        // The line that was on its way at the save may come out of the device first.
        let all = counts(&bench.console(id));
        assert!(
            all[0] == saved_at + 1 || all[0] == saved_at,
            "{all:?} after {saved_at}"
        );
        assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    }
    b.stop().await.unwrap();

    // Saved again: the template's image with the pages that this VM wrote.
    a.pause().await.unwrap();
    let paused_at = bench.count("a").unwrap();
    let second_state = bench.path("a.state");
    a.save(SaveTarget {
        device_state: second_state.clone(),
        memory: MemoryTarget::Difference,
    })
    .await
    .unwrap();
    let dirty = a.dirty_memory().await.unwrap();
    let pages = dirty.len() / 4096;
    assert!(pages >= 10, "only {pages} pages written");
    assert!(
        dirty.len() < support::MEMORY_BYTES / 2,
        "{pages} pages written"
    );
    let difference = bench.path("a.memory");
    let file = File::create_new(&difference).unwrap();
    let mut overlay = MemoryOverlay {
        files: vec![difference.clone()],
        pieces: Vec::new(),
    };
    let mut end = 0;
    for run in dirty.runs() {
        let mut bytes = vec![0; usize::try_from(run.length).unwrap()];
        dirty.read_at(run.offset, &mut bytes).unwrap();
        file.write_all_at(&bytes, end).unwrap();
        overlay.pieces.push(MemoryPiece {
            file: 0,
            file_offset: end,
            memory_offset: run.offset,
            length: run.length,
        });
        end += run.length;
    }
    // The VM that was saved runs on as if nothing had been.
    a.resume().await.unwrap();
    wait_for("the saved guest to go on", || {
        bench.count("a") > Some(paused_at + 5)
    });
    a.stop().await.unwrap();

    let mut spec = bench.restore_spec("c", &memory, &second_state);
    spec.resume = false;
    spec.memory = MemorySource::Pieces {
        image: memory.clone(),
        overlay,
    };
    let c = engine.restore(spec).await.unwrap();
    // Nothing is copied at a restore: what was different is still only mapped. (QEMU
    // itself may write a page or two while it loads the device state.)
    let untouched = c
        .dirty_memory()
        .await
        .expect("a VM that was not resumed is paused");
    assert!(untouched.len() <= 16 * 4096, "{:?}", untouched.runs());
    assert_eq!(counts(&bench.console("c")), [0; 0]);
    c.resume().await.unwrap();
    wait_for("the second generation to go on", || {
        bench.count("c") >= Some(paused_at + 10)
    });
    let first = counts(&bench.console("c"))[0];
    assert!(
        first == paused_at || first == paused_at + 1,
        "{first} after {paused_at}"
    );
    c.stop().await.unwrap();

    // Nobody wrote to the shared image.
    assert!(
        fs::read(&memory).unwrap() == image,
        "the template's memory image changed"
    );
    assert_eq!(fs::metadata(&difference).unwrap().len(), end);
    for id in ["a", "b", "c"] {
        assert_eq!(bench.leftovers(id), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_monitor_does_not_answer_yet_is_adopted() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let engine = bench.engine();
    // QEMU serves one monitor at a time: the next one's commands wait.
    let first = engine.boot(bench.boot_spec("vm")).await.unwrap();
    let adopted = engine.adopt(first.record()).await.unwrap();
    wait_for("the guest to count", || bench.count("vm") >= Some(3));
    drop(first);
    adopted.pause().await.unwrap();
    let stopped_at = bench.count("vm");
    adopted.resume().await.unwrap();
    wait_for("the guest to go on", || bench.count("vm") > stopped_at);
    adopted.stop().await.unwrap();
    assert!(bench.leftovers("vm").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_adopted_by_its_record_until_it_ends() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let engine = bench.engine();
    let machine = engine.boot(bench.boot_spec("vm")).await.unwrap();
    let record = serde_json::to_string(&machine.record()).unwrap();
    assert!(machine.dirty_memory().await.is_err());
    assert!(matches!(
        machine
            .save(SaveTarget {
                device_state: bench.path("s"),
                memory: MemoryTarget::Image,
            })
            .await,
        Err(Error::NotPaused)
    ));
    // As after a daemon's end: the connection is gone, the process runs on.
    drop(machine);

    let engine = bench.engine();
    let record: hearth_machine::MachineRecord = serde_json::from_str(&record).unwrap();
    let adopted = engine.adopt(record.clone()).await.unwrap();
    wait_for("the guest to count", || bench.count("vm") >= Some(3));
    adopted.pause().await.unwrap();
    adopted.pause().await.unwrap();
    adopted
        .save(SaveTarget {
            device_state: bench.path("s"),
            memory: MemoryTarget::Image,
        })
        .await
        .unwrap();
    assert!(matches!(
        adopted
            .save(SaveTarget {
                device_state: bench.path("s"),
                memory: MemoryTarget::Image,
            })
            .await,
        Err(Error::Io { .. })
    ));
    adopted.resume().await.unwrap();
    let impostor = hearth_machine::MachineRecord {
        start_time_ticks: record.start_time_ticks + 1,
        ..record.clone()
    };
    assert!(matches!(
        engine.adopt(impostor).await,
        Err(Error::Gone { .. })
    ));

    adopted.stop().await.unwrap();
    adopted.stop().await.unwrap();
    end_of(&*adopted).await;
    assert!(matches!(adopted.pause().await, Err(Error::Ended { .. })));
    assert!(matches!(
        engine.adopt(record).await,
        Err(Error::Gone { .. })
    ));
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_killed_from_outside_is_noticed_by_all_waiters() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let machine = bench.engine().boot(bench.boot_spec("vm")).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(1), machine.exited())
            .await
            .is_err()
    );
    hearth_machine::processes::end(machine.pid()).unwrap();
    let (one, two) = tokio::join!(end_of(&*machine), end_of(&*machine));
    assert_eq!((one, two), (ExitReason::Signaled { signal: 9 }, one));
    assert!(matches!(machine.resume().await, Err(Error::Ended { .. })));
    machine.stop().await.unwrap();
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_takes_its_vm_along() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let mut spec = bench.boot_spec("vm");
    spec.cmdline_extra += " end";
    let machine = bench.engine().boot(spec).await.unwrap();
    assert_eq!(end_of(&*machine).await, ExitReason::Exited { code: 0 });
    assert_eq!(bench.count("vm"), Some(5));
    machine.stop().await.unwrap();
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_says_why_and_leaves_nothing() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let engine = bench.engine();

    // A kernel that is none.
    let mut spec = bench.boot_spec("nokernel");
    spec.kernel = bench.path("kernel");
    fs::write(&spec.kernel, "not a kernel").unwrap();
    let memory = spec.memory_file.clone();
    let error = engine.boot(spec).await.err().unwrap();
    assert!(error.to_string().contains("kernel"), "{error}");
    assert_eq!(bench.leftovers("nokernel"), [""; 0]);
    assert!(!memory.exists());

    // A disk server that is not there.
    let mut spec = bench.boot_spec("nodisk");
    spec.disk = DiskAttachment::NbdSocket {
        socket: bench.path("none.sock"),
        export: "root".to_owned(),
    };
    let error = engine.boot(spec).await.err().unwrap();
    assert!(error.to_string().contains("none.sock"), "{error}");
    assert_eq!(bench.leftovers("nodisk"), [""; 0]);

    // A device state that is rubbish, and one that ends early.
    let (memory, state, _) = bench.saved(&engine).await;
    let good = fs::read(&state).unwrap();
    for (id, bytes) in [
        ("rubbish", &b"rubbish"[..]),
        ("short", &good[..good.len() / 2]),
    ] {
        let bad = bench.path(&format!("{id}.state"));
        fs::write(&bad, bytes).unwrap();
        let error = engine
            .restore(bench.restore_spec(id, &memory, &bad))
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("migration"), "{error}");
        assert_eq!(bench.leftovers(id), [""; 0]);
    }

    // A memory image of another size.
    let mut spec = bench.restore_spec("size", &memory, &state);
    spec.shape.memory_bytes *= 2;
    assert!(matches!(
        engine.restore(spec).await,
        Err(Error::InvalidSpec(_))
    ));
    assert_eq!(bench.leftovers("size"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_start_leaves_nothing() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let engine = bench.engine();
    let started = async {
        while hearth_machine::processes::naming(&bench.marker()).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = started => {}
        _ = engine.boot(bench.boot_spec("vm")) => panic!("over before it could be cancelled"),
    }
    assert!(!bench.leftovers("vm").is_empty());
    wait_for("the unwanted VM to be gone", || {
        bench.leftovers("vm").is_empty()
    });
}
