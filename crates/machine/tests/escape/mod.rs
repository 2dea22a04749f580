//! What code that has taken over a VM process can do: system calls are made in a running
//! VM's QEMU, so that user, filters, namespaces and Landlock are the real ones.
//!
//! Needs root, QEMU and a guest kernel (`HEARTH_TEST_KERNEL`).

mod inject;

use std::fs;
use std::path::Path;

use crate::support::{Bench, LIMIT, kernel};
use hearth_machine::{Engine, ExitReason, Machine};
use inject::Argument::{Bytes, Number, Room};
use inject::Call;

/// A VM that stands still, so that its main thread waits for commands.
async fn paused(bench: &Bench, id: &str) -> Box<dyn Machine> {
    let machine = bench.engine().boot(bench.boot_spec(id)).await.unwrap();
    machine.pause().await.unwrap();
    machine
}

/// Makes `call` in the VM's main thread.
async fn call(machine: &dyn Machine, call: Call<'static>) -> i64 {
    let pid = machine.pid();
    let made = tokio::task::spawn_blocking(move || inject::call(pid, call));
    made.await.unwrap()
}

fn text(path: &Path) -> &'static [u8] {
    let mut bytes = path.to_str().unwrap().as_bytes().to_vec();
    bytes.push(0);
    bytes.leak()
}

/// `struct sockaddr_un`.
fn address(path: &Path) -> &'static [u8] {
    let mut bytes = vec![1, 0];
    bytes.extend_from_slice(text(path));
    bytes.leak()
}

/// Calls without which the filter lets a VM process do, whatever their arguments.
#[expect(clippy::too_many_lines, reason = "a table, one call after the other")]
fn fatal() -> Vec<(&'static str, Call<'static>)> {
    let shell = Bytes(b"/bin/sh\0");
    vec![
        (
            "io_uring_setup",
            Call(libc::SYS_io_uring_setup, &[Number(8), Room]),
        ),
        ("userfaultfd", Call(libc::SYS_userfaultfd, &[Number(1)])),
        ("bpf", Call(libc::SYS_bpf, &[])),
        ("perf_event_open", Call(libc::SYS_perf_event_open, &[Room])),
        ("keyctl", Call(libc::SYS_keyctl, &[])),
        ("add_key", Call(libc::SYS_add_key, &[])),
        ("pidfd_open", Call(libc::SYS_pidfd_open, &[Number(1)])),
        (
            "shmget",
            Call(libc::SYS_shmget, &[Number(0), Number(4096), Number(0o1600)]),
        ),
        (
            "msgget",
            Call(libc::SYS_msgget, &[Number(0), Number(0o1600)]),
        ),
        (
            "socket of IPv4",
            Call(libc::SYS_socket, &[Number(2), Number(2)]),
        ),
        (
            "socket of netlink",
            Call(libc::SYS_socket, &[Number(16), Number(3)]),
        ),
        (
            "socket of vsock",
            Call(libc::SYS_socket, &[Number(40), Number(1)]),
        ),
        ("bind", Call(libc::SYS_bind, &[])),
        ("unshare", Call(libc::SYS_unshare, &[Number(0x1000_0000)])),
        ("setns", Call(libc::SYS_setns, &[Number(u64::MAX)])),
        (
            "execve",
            Call(libc::SYS_execve, Box::leak(Box::new([shell]))),
        ),
        (
            "execveat",
            Call(
                libc::SYS_execveat,
                Box::leak(Box::new([Number(u64::MAX), shell])),
            ),
        ),
        ("fork", Call(libc::SYS_fork, &[])),
        ("clone of a process", Call(libc::SYS_clone, &[Number(17)])),
        ("mount", Call(libc::SYS_mount, &[])),
        ("pivot_root", Call(libc::SYS_pivot_root, &[])),
        ("chroot", Call(libc::SYS_chroot, &[])),
        ("ptrace", Call(libc::SYS_ptrace, &[])),
        ("kill", Call(libc::SYS_kill, &[Number(1)])),
        (
            "process_vm_readv",
            Call(libc::SYS_process_vm_readv, &[Number(1)]),
        ),
        (
            "executable memory",
            Call(
                libc::SYS_mmap,
                &[Number(0), Number(4096), Number(7), Number(0x22)],
            ),
        ),
        (
            "memfd_create",
            Call(libc::SYS_memfd_create, &[Bytes(b"x\0")]),
        ),
        ("openat2", Call(libc::SYS_openat2, &[])),
        ("open_by_handle_at", Call(libc::SYS_open_by_handle_at, &[])),
        ("setuid", Call(libc::SYS_setuid, &[])),
        ("seccomp", Call(libc::SYS_seccomp, &[])),
        ("prlimit64", Call(libc::SYS_prlimit64, &[])),
        (
            "push into a terminal",
            Call(libc::SYS_ioctl, &[Number(0), Number(0x5412), Room]),
        ),
        (
            "attach to an interface",
            Call(libc::SYS_ioctl, &[Number(0), Number(0x4004_54ca), Room]),
        ),
        ("init_module", Call(libc::SYS_init_module, &[])),
        ("x32 form of read", Call(0x4000_0000, &[])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_call_ends_the_whole_vm_and_all_that_it_had() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    for (number, (name, call)) in fatal().into_iter().enumerate() {
        let id = format!("vm{number}");
        let machine = paused(&bench, &id).await;
        let pid = machine.pid();
        tokio::task::spawn_blocking(move || inject::last_call(pid, call))
            .await
            .unwrap();
        assert_ended(&*machine, name).await;
        machine.stop().await.unwrap();
        assert_eq!(bench.leftovers(&id), [""; 0], "{name}");
    }
}

/// The first thread once became a zombie while the others went on.
#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_call_of_any_thread_ends_all_of_them() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let machine = paused(&bench, "vm").await;
    let pid = machine.pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let other = tasks
        .filter_map(|task| task.unwrap().file_name().to_str()?.parse().ok())
        .find(|tid| *tid != pid)
        .unwrap();
    let call = Call(libc::SYS_setns, &[Number(u64::MAX)]);
    tokio::task::spawn_blocking(move || inject::last_call(other, call))
        .await
        .unwrap();
    assert_ended(&*machine, "setns").await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    machine.stop().await.unwrap();
    assert_eq!(bench.leftovers("vm"), [""; 0]);
}

async fn assert_ended(machine: &dyn Machine, name: &str) {
    let ended = tokio::time::timeout(LIMIT, machine.exited()).await;
    let signal = libc::SIGSYS;
    assert_eq!(ended, Ok(ExitReason::Signaled { signal }), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_reaches_nothing_of_others() {
    let Some(kernel) = kernel() else { return };
    let (bench, other) = (Bench::new(kernel.clone()), Bench::new(kernel));
    let (machine, neighbour) = (paused(&bench, "vm").await, paused(&other, "vm").await);
    let it = &*machine;
    let here = Number(libc::AT_FDCWD as u64);

    // No file can be opened or asked for, existing or not.
    for path in [
        Path::new("/usr/bin/ls"),
        Path::new("/etc/passwd"),
        Path::new("/proc/self/status"),
        &other.path("vm.memory"),
    ] {
        let path = Bytes(text(path));
        let arguments = Box::leak(Box::new([here, path, Room]));
        for number in [libc::SYS_openat, libc::SYS_readlinkat, libc::SYS_statx] {
            let result = call(it, Call(number, arguments)).await;
            assert_eq!(result, -i64::from(libc::EACCES), "{path:?}");
        }
        let result = call(it, Call(libc::SYS_stat, &arguments[1..])).await;
        assert_eq!(result, -i64::from(libc::EACCES), "{path:?}");
    }
    // One form of `stat` takes a path; what it could find is not there.
    let stat = |path: &Path| {
        let flag = Number(libc::AT_EMPTY_PATH as u64);
        let arguments = [here, Bytes(text(path)), Room, flag];
        Call(libc::SYS_newfstatat, Box::leak(Box::new(arguments)))
    };
    for path in [
        Path::new("/usr/bin/ls"),
        Path::new("/etc/passwd"),
        Path::new("/var"),
        Path::new("/sys/fs"),
        Path::new("/dev/kvm"),
        Path::new("/proc/sys"),
        &Path::new("/proc").join(std::process::id().to_string()),
        &other.path("vm.memory"),
        &other.path("nbd.sock"),
    ] {
        let result = call(it, stat(path)).await;
        assert_eq!(result, -i64::from(libc::ENOENT), "{}", path.display());
    }
    assert_eq!(call(it, stat(Path::new("/proc/1/status"))).await, 0);

    // Its own disk can be reached; its monitor, and what is another's, cannot.
    let socket = call(it, Call(libc::SYS_socket, &[Number(1), Number(1)])).await;
    assert!(socket >= 0, "{socket}");
    let connect = |path: &Path| {
        let address = address(path);
        let length = Number(address.len() as u64);
        let arguments = [Number(socket.cast_unsigned()), Bytes(address), length];
        Call(libc::SYS_connect, Box::leak(Box::new(arguments)))
    };
    for (path, errno) in [
        (other.path("nbd.sock"), libc::ENOENT),
        (other.path("vm/qmp.sock"), libc::ENOENT),
        ("/run/systemd/private".into(), libc::ENOENT),
        (bench.path("vm/qmp.sock"), libc::EACCES),
    ] {
        let result = call(it, connect(&path)).await;
        assert_eq!(result, -i64::from(errno), "{}", path.display());
    }
    assert_eq!(call(it, connect(&bench.path("nbd.sock"))).await, 0);

    // Nobody else is there to be signalled, not even by the number of a real process.
    assert_eq!(call(it, Call(libc::SYS_getpid, &[])).await, 1);
    for pid in [std::process::id(), neighbour.pid()] {
        let arguments = [Number(pid.into()), Number(pid.into()), Number(10)];
        let signal = Call(libc::SYS_tgkill, Box::leak(Box::new(arguments)));
        assert_eq!(call(it, signal).await, -i64::from(libc::ESRCH));
    }
    let clone3 = call(it, Call(libc::SYS_clone3, &[Room, Number(88)])).await;
    assert_eq!(clone3, -i64::from(libc::ENOSYS));
    let prctl = call(it, Call(libc::SYS_prctl, &[Number(4)])).await;
    assert_eq!(prctl, -i64::from(libc::EACCES));

    // It goes on as if nothing had been.
    machine.resume().await.unwrap();
    machine.stop().await.unwrap();
    neighbour.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_is_held() {
    let Some(kernel) = kernel() else { return };
    let bench = Bench::new(kernel);
    let machine = paused(&bench, "vm").await;
    let pid = machine.pid();
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap()[name.len()..].trim().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        // Ours of the start-up, QEMU's, and our two of the run time.
        assert_eq!(field("Seccomp_filters:"), "4");
        assert_eq!(field("NSpid:").split_whitespace().count(), 2);
        for kind in ["mnt", "pid", "ipc", "uts", "cgroup", "net"] {
            let theirs = fs::read_link(task.join("ns").join(kind)).unwrap();
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(theirs, ours);
        }
        threads += 1;
    }
    assert!(threads > 2, "only {threads} threads");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let has = |name: &str, limit: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let soft = line[name.len()..].split_whitespace().next();
        assert_eq!(soft, Some(limit), "{name}");
    };
    has("Max processes", "81");
    has("Max file size", "268435456");
    has("Max core file size", "0");
    machine.stop().await.unwrap();
}
