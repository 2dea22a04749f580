//! Volumes in real microVMs: one tree that several sandboxes see, and that outlives all
//! of them.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, VolumeId};
use hearth_node::{Error, Node, SandboxSpec, Status};
use hearth_volumes::VolumeMount;
use std::{path::PathBuf, sync::Arc, time::Duration};
use support::{Home, in_an_hour, isolated, run, until};

const DIES: &str = "HEARTH_TEST_DIES";

/// A new volume of a home, and where its content is on the host.
fn volume(home: &Home) -> (VolumeId, PathBuf) {
    let volumes = home.volumes();
    let id = VolumeId::random();
    volumes.create(id).unwrap();
    (id, volumes.tree(id))
}

fn with(mut spec: SandboxSpec, volumes: &[(VolumeId, &str, &str)]) -> SandboxSpec {
    let mounts = volumes.iter().map(|(volume, name, path)| VolumeMount {
        volume: *volume,
        name: (*name).to_owned(),
        path: (*path).to_owned(),
    });
    spec.volume_mounts_json = serde_json::to_string(&mounts.collect::<Vec<_>>()).unwrap();
    spec
}

async fn sandbox(
    home: &Home,
    node: &Arc<Node>,
    build: BuildId,
    volumes: &[(VolumeId, &str, &str)],
) -> Status {
    let spec = with(home.spec(build), volumes);
    node.create(spec, in_an_hour()).await.unwrap()
}

#[test]
fn two_sandboxes_see_each_others_files() {
    isolated("two_sandboxes_see_each_others_files", async || {
        let home = Home::new().await;
        let node = home.start().await;
        let (volume, tree) = volume(&home);
        let one = sandbox(&home, &node, home.base, &[(volume, "data", "/mnt/a b")]).await;
        let other = sandbox(&home, &node, home.base, &[(volume, "data", "/data")]).await;
        let stranger = sandbox(&home, &node, home.base, &[]).await;

        run(
            &one,
            "echo hello > '/mnt/a b/note'; chown 1234:5678 '/mnt/a b/note'",
        )
        .await;
        assert_eq!(
            run(&other, "cat /data/note; stat -c %u:%g /data/note").await,
            "hello\n1234:5678"
        );
        // Not known a moment ago, and known as soon as it is there.
        run(&other, "! test -e /data/later").await;
        run(&one, "echo 1 > '/mnt/a b/later'").await;
        assert_eq!(run(&other, "cat /data/later").await, "1");
        run(&one, "echo 2 > '/mnt/a b/later'").await;
        assert_eq!(run(&other, "cat /data/later").await, "2");

        // A link out of the volume is the guest's own.
        run(&one, "ln -s /etc/hostname '/mnt/a b/link'").await;
        let host = run(&other, "cat /etc/hostname").await;
        assert_eq!(run(&other, "cat /data/link").await, host);
        assert!(tree.join("link").is_symlink());

        // Renamed and deleted while somebody has it open.
        run(
            &one,
            "cd '/mnt/a b'; exec 3> open; echo 1 >&3; mv open moved; echo 2 >&3; exec 3>&-",
        )
        .await;
        assert_eq!(run(&other, "cat /data/moved").await, "1\n2");
        let gone = "cd /data; exec 3<> moved; rm moved; echo 3 >&3; test ! -e moved; exec 3>&-";
        run(&other, gone).await;
        run(&one, "! test -e '/mnt/a b/moved'").await;

        // Users of a guest are kept apart, and there are no devices.
        run(
            &one,
            "echo secret > '/mnt/a b/own'; chmod 600 '/mnt/a b/own'",
        )
        .await;
        run(&other, "! su user -c 'cat /data/own'").await;
        run(
            &other,
            "su user -c 'echo mine > /data/users'; test $(stat -c %U /data/users) = user",
        )
        .await;
        run(&other, "! mknod /data/null c 1 3; mkfifo /data/pipe").await;

        // Whoever has no volumes finds nobody there.
        let ask = "timeout 5 bash -c 'exec 3<>/dev/tcp/192.0.2.1/2049; printf x >&3; \
                   ! read -r -N1 -t 4 <&3 && exec 3<&-'";
        run(&stranger, ask).await;
        run(&stranger, "! grep -q ' nfs ' /proc/mounts").await;

        for status in [&one, &other, &stranger] {
            node.delete(&status.spec.sandbox_id).await.unwrap();
        }
        node.shutdown(Duration::from_secs(10)).await;
        home.assert_nothing_left();
        assert_eq!(
            std::fs::read_to_string(tree.join("note")).unwrap(),
            "hello\n"
        );
    });
}

#[test]
fn a_volume_is_there_after_a_pause_and_in_a_fork() {
    isolated(
        "a_volume_is_there_after_a_pause_and_in_a_fork",
        async || {
            let home = Home::new().await;
            let node = home.start().await;
            let (volume, tree) = volume(&home);
            let mounts = [(volume, "data", "/data")];
            let first = sandbox(&home, &node, home.base, &mounts).await;
            let id = first.spec.sandbox_id.clone();
            let writer = "setsid sh -c 'exec 3>> /data/log; i=0; while :; do i=$((i+1)); \
                      echo $i >&3; sleep 0.05; done' > /dev/null 2>&1 &";
            run(&first, writer).await;
            until("something written", async || {
                run(&first, "wc -c < /data/log").await != "0"
            })
            .await;

            for with_memory in [true, true] {
                node.pause(&id, BuildId::random(), with_memory)
                    .await
                    .unwrap();
                until("end of the VM", async || home.vm_processes().is_empty()).await;
                let before = std::fs::metadata(tree.join("log")).unwrap().len();
                assert_ne!(before, 0, "what was written is on the node");
                let resumed = node.resume(&id, in_an_hour(), false).await.unwrap();
                until("more written", async || {
                    run(&resumed, "sync -f /data").await;
                    std::fs::metadata(tree.join("log")).unwrap().len() > before
                })
                .await;
            }
            // Every line once, in order, whatever came between.
            let now = node.status(&id).unwrap();
            run(&now, "pkill -f 'exec [3]>'; sync -f /data").await;
            assert_counts(&std::fs::read_to_string(tree.join("log")).unwrap(), None);

            // Copies of the sandbox see the same volume, and none but those that are to.
            let build = BuildId::random();
            node.checkpoint(&id, build).await.unwrap();
            let fork = sandbox(&home, &node, build, &mounts).await;
            run(&fork, "echo fork > /data/fork").await;
            assert_eq!(run(&now, "cat /data/fork").await, "fork");
            let without = sandbox(&home, &node, build, &[]).await;
            run(
                &without,
                "! grep -q ' nfs ' /proc/mounts; ! test -e /data/fork",
            )
            .await;
            node.roll_back(&id, build).await.unwrap();
            let back = node.status(&id).unwrap();
            assert_eq!(
                run(&back, "cat /data/fork").await,
                "fork",
                "a volume is not rolled back"
            );

            // Booted from the disk alone.
            node.pause(&id, BuildId::random(), false).await.unwrap();
            let booted = node.resume(&id, in_an_hour(), false).await.unwrap();
            assert_eq!(run(&booted, "cat /data/fork").await, "fork");

            // A volume that is deleted meanwhile does not keep its sandbox from going on.
            node.pause(&id, BuildId::random(), true).await.unwrap();
            home.volumes().remove(volume).unwrap();
            let resumed = node.resume(&id, in_an_hour(), false).await.unwrap();
            run(&resumed, "! grep -q ' nfs ' /proc/mounts").await;
            let spec = with(home.spec(home.base), &mounts);
            let refused = node.create(spec, in_an_hour()).await.unwrap_err();
            assert!(matches!(refused, Error::Step { .. }), "{refused}");
            let spec = with(home.spec(build), &mounts);
            let forked = node.create_fork(spec, in_an_hour(), Some(id.clone())).await;
            run(&forked.unwrap(), "! grep -q ' nfs ' /proc/mounts").await;
            node.shutdown(Duration::from_secs(10)).await;
        },
    );
}

/// Whether a text is the numbers from one on, each on its line.
fn assert_counts(text: &str, to: Option<usize>) {
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, (number + 1).to_string());
    }
    if let Some(to) = to {
        assert_eq!(lines.len(), to);
    }
}

#[test]
fn writes_go_on_after_the_daemon_was_killed() {
    isolated("writes_go_on_after_the_daemon_was_killed", async || {
        const LINES: usize = 400;
        let mut home = Home::shared().await;
        home.warm_pool_size = 0;
        if let Ok(order) = std::env::var(DIES) {
            // A daemon that is killed in the middle of writes.
            let _node = home.start().await;
            let log = PathBuf::from(order);
            let lines = || {
                std::fs::read_to_string(&log)
                    .unwrap_or_default()
                    .lines()
                    .count()
            };
            let before = lines();
            until("a few writes", async || lines() > before + 20).await;
            std::process::abort();
        }
        let node = home.start().await;
        let (volume, tree) = volume(&home);
        let first = sandbox(&home, &node, home.base, &[(volume, "data", "/data")]).await;
        let id = first.spec.sandbox_id.clone();
        let writer = format!(
            "setsid sh -c 'i=0; while test $i -lt {LINES}; do i=$((i+1)); echo $i >> /data/log || \
             exit 1; mkdir -p /data/d$i || exit 1; done; touch /data/done' > /data/errors 2>&1 &"
        );
        run(&first, &writer).await;
        let log = tree.join("log");
        until("a first write", async || log.exists()).await;
        node.shutdown(Duration::from_secs(20)).await;
        drop(node);
        for _ in 0..2 {
            home.run_and_die(DIES, &log.display().to_string());
        }
        assert!(!tree.join("done").exists(), "it was killed in the middle");
        let node = home.start().await;
        until("end of the writer", async || tree.join("done").exists()).await;
        assert_eq!(std::fs::read_to_string(tree.join("errors")).unwrap(), "");
        assert_counts(&std::fs::read_to_string(&log).unwrap(), Some(LINES));
        let made = std::fs::read_dir(&tree).unwrap().count();
        assert_eq!(made, LINES + 3);
        node.delete(&id).await.unwrap();
        node.shutdown(Duration::from_secs(10)).await;
    });
}

#[test]
fn a_warm_sandbox_gets_its_volumes_as_it_is_taken() {
    isolated(
        "a_warm_sandbox_gets_its_volumes_as_it_is_taken",
        async || {
            let mut home = Home::new().await;
            home.warm_pool_size = 1;
            let node = home.start().await;
            let (volume, _) = volume(&home);
            let mut warm = None;
            until("a warm sandbox", async || {
                warm = node.reserve(home.base).await;
                warm.is_some()
            })
            .await;
            let mut spec = with(home.spec(home.base), &[(volume, "data", "/data")]);
            spec.sandbox_id = warm.unwrap();
            let status = node.create(spec, in_an_hour()).await.unwrap();
            // A thousand small files, all of them listed.
            let many = "mkdir /data/many; cd /data/many; i=0; while test $i -lt 1000; do i=$((i+1)); \
                    echo $i > file-$i; done; ls | wc -l";
            assert_eq!(run(&status, many).await, "1000");
            run(&status, "rm -r /data/many; test -z \"$(ls /data)\"").await;
            node.shutdown(Duration::from_secs(10)).await;
        },
    );
}
