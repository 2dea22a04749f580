//! A real child in a real jail, asked what it sees. Needs root.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use hearth_confine::{Cgroups, Confinement, Error, FileAccess, Placed, Program, Spawned};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitId, WaitIdOptions};

const UID: u32 = 64_322;
const GID: u32 = 64_323;

/// `false` when tests that need root are switched off; fails when neither is the case.
fn enabled() -> bool {
    if std::env::var_os("HEARTH_SKIP_VM_TESTS").is_some_and(|value| value == "1") {
        println!("skipped: HEARTH_SKIP_VM_TESTS is set");
        return false;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "run as root, or set HEARTH_SKIP_VM_TESTS=1"
    );
    true
}

fn confinement() -> Confinement {
    Confinement {
        uid: UID,
        gid: GID,
        ..Confinement::default()
    }
}

/// Runs a shell script and returns its exit code and what it wrote to standard error.
fn run(script: &str, passed: Vec<OwnedFd>, confinement: &Confinement) -> (i32, String) {
    let mut output = tempfile::tempfile().unwrap();
    let spawned = Program::new("/bin/sh")
        .arguments(["-c", script])
        .environment("PATH", "/usr/bin:/bin")
        .inherit(passed)
        .stderr(output.try_clone().unwrap())
        .spawn(Some(confinement))
        .unwrap();
    let code = wait(&spawned);
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    (code, text)
}

fn wait(spawned: &Spawned) -> i32 {
    let limit = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let mut poll = [PollFd::new(&spawned.pidfd, PollFlags::IN)];
    assert_eq!(
        rustix::event::poll(&mut poll, Some(&limit)),
        Ok(1),
        "the child ends"
    );
    let status = rustix::process::waitid(
        WaitId::PidFd(rustix::fd::AsFd::as_fd(&spawned.pidfd)),
        WaitIdOptions::EXITED,
    );
    status.unwrap().unwrap().exit_status().unwrap_or(-1)
}

#[test]
fn identity_privileges_and_session_are_dropped() {
    if !enabled() {
        return;
    }
    let script =
        "cat /proc/self/status >&2; cut -d' ' -f6 /proc/$$/stat >&2; echo $$ >&2; umask >&2";
    let (code, text) = run(script, vec![], &confinement());
    assert_eq!(code, 0, "{text}");
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(field("Uid:"), [UID; 4].map(|id| id.to_string()).join(" "));
    assert_eq!(field("Gid:"), [GID; 4].map(|id| id.to_string()).join(" "));
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("CapBnd:"), "0000000000000000");
    let tail: Vec<&str> = text.lines().rev().take(3).collect();
    assert_eq!(tail[0], "0077");
    assert_eq!(tail[1], tail[2], "the child leads a session of its own");
}

#[test]
fn only_passed_descriptors_are_inherited() {
    if !enabled() {
        return;
    }
    // One that could leak: without the close-on-exec flag.
    let leak = File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let mut passed = tempfile::tempfile().unwrap();
    passed.write_all(b"content").unwrap();
    passed.rewind().unwrap();
    let number = passed.as_raw_fd();
    // `exec`, because for any other redirection the shell keeps a copy of its own.
    let script = format!("exec >&2; cat /proc/self/fd/{number}; echo; ls /proc/$$/fd");
    let (_, text) = run(&script, vec![passed.into()], &confinement());
    let mut open: Vec<&str> = text.lines().collect();
    open.retain(|line| line.parse::<i32>().is_ok_and(|fd| fd > 2));
    assert_eq!(
        open,
        [number.to_string()],
        "{text} (leak is {})",
        leak.as_raw_fd()
    );
}

#[test]
fn limits_are_in_force_and_the_group_goes_away() {
    if !enabled() {
        return;
    }
    let name = format!("jail-test-{}", std::process::id());
    let limited = Confinement {
        cgroup_name: Some(name.clone()),
        memory_limit_bytes: Some(64 << 20),
        cpu_quota_milli: Some(500),
        cpu_weight: Some(250),
        pids_max: Some(3),
        oom_score_adj: Some(321),
        ..confinement()
    };
    let script = "cat /proc/self/cgroup /proc/self/oom_score_adj >&2; ulimit -n >&2; ulimit -c >&2";
    let (_, text) = run(script, vec![], &limited);
    assert!(text.contains(&format!("/hearth/{name}")), "{text}");
    assert!(text.ends_with("321\n1024\n0\n"), "{text}");
    // Four processes at once are one too many.
    let (_, text) = run("sleep 0.3 & sleep 0.3 & sleep 0.3 & wait", vec![], &limited);
    assert!(text.to_lowercase().contains("fork"), "{text}");
    // More memory than there may be: the kernel ends it.
    let (code, text) = run(
        "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c >&2",
        vec![],
        &limited,
    );
    assert!(code != 0 || !text.contains("200000000"), "{code} {text}");

    let groups = Cgroups::detect();
    assert!(groups.list().contains(&name));
    let read = |file: &str| fs::read_to_string(group_directory("cpu", &name).join(file));
    let weight = read("cpu.weight").or_else(|_| read("cpu.shares")).unwrap();
    assert!(["250", "2560"].contains(&weight.trim()), "{weight}");
    groups.remove(&name).unwrap();
    groups.remove(&name).unwrap();
    assert!(!groups.list().contains(&name));
}

#[test]
fn files_outside_the_list_are_out_of_reach() {
    if !enabled() {
        return;
    }
    if landlock_version() < 1 {
        println!("skipped: this kernel has no Landlock");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("open-to-all");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let script = format!("cat {} && echo reached >&2", secret.display());
    let (_, text) = run(&script, vec![], &confinement());
    assert!(text.contains("reached"), "{text}");

    let read = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
        .map(PathBuf::from)
        .into();
    let files = Some(FileAccess {
        read,
        write: vec!["/dev/null".into()],
    });
    let (_, text) = run(
        &script,
        vec![],
        &Confinement {
            files,
            ..confinement()
        },
    );
    assert!(
        text.contains("ermission denied") && !text.contains("reached"),
        "{text}"
    );
}

/// What a shell needs.
fn programs() -> Vec<PathBuf> {
    [
        "/usr/bin",
        "/bin",
        "/usr/lib",
        "/lib",
        "/lib64",
        "/dev/null",
    ]
    .map(PathBuf::from)
    .into()
}

#[test]
fn in_namespaces_of_its_own_it_sees_what_is_listed() {
    if !enabled() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(dir.path(), open).unwrap();
    fs::write(dir.path().join("there"), "x").unwrap();
    let mut visible = programs();
    visible.push(dir.path().into());
    visible.push("/nonexistent".into());
    let script = format!(
        "exec >&2; echo $$; ls /; ls /proc | grep -c '^[0-9]'; ls /proc/sys; uname -n; \
         cat /proc/mounts | cut -d' ' -f2; cat {0}/there; touch {0}/new; touch /new; \
         for kind in mnt pid ipc uts cgroup; do readlink /proc/self/ns/$kind; done",
        dir.path().display()
    );
    let held = Confinement {
        visible: Some(visible),
        ..confinement()
    };
    let (_, text) = run(&script, vec![], &held);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1", "the first of its processes: {text}");
    let root: Vec<&str> = lines[1..]
        .iter()
        .copied()
        .take_while(|l| *l != "3")
        .collect();
    assert_eq!(
        root,
        ["bin", "dev", "lib", "lib64", "proc", "tmp", "usr"],
        "{text}"
    );
    assert!(text.contains("\nvm\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(!text.contains("sysrq"), "{text}");
    for mounted in ["/sys", "/run", "/etc", "/boot"] {
        assert!(!lines.contains(&mounted), "{mounted}: {text}");
    }
    for kind in ["mnt", "pid", "ipc", "uts", "cgroup"] {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = lines
            .iter()
            .find(|line| line.starts_with(&format!("{kind}:[")));
        assert_ne!(theirs.unwrap(), &ours.to_str().unwrap());
    }
    // Nothing of it is left with us.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.lines().any(|line| line.starts_with("jail ")),
        "{mounts}"
    );
}

#[test]
fn what_is_placed_is_where_it_was_put_and_can_be_written_if_said() {
    if !enabled() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = || std::os::unix::fs::PermissionsExt::from_mode(0o777);
    let own = ["mine", "fixed"].map(|name| dir.path().join(name));
    for path in &own {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, open()).unwrap();
        fs::write(path.join("there"), "from the host").unwrap();
    }
    let place = |from: &PathBuf, at: &str, writable| Placed {
        from: from.clone(),
        at: at.into(),
        writable,
    };
    let mut held = Confinement {
        visible: Some(programs()),
        placed: vec![
            place(&own[0], "/run/own", true),
            place(&own[1], "/run/fixed", false),
            place(&PathBuf::from("/dev/zero"), "/dev/disk", true),
        ],
        ..confinement()
    };
    let script = "exec >&2; cat /run/own/there; echo; echo back > /run/own/new; \
                  touch /run/fixed/new /run/new; ls /run; head -c 3 /dev/disk | wc -c; \
                  echo gone > /dev/disk && echo written";
    let (code, text) = run(script, vec![], &held);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("from the host\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("fixed\nown\n3\nwritten\n"), "{text}");
    assert_eq!(fs::read_to_string(own[0].join("new")).unwrap(), "back\n");
    assert!(!own[1].join("new").exists());
    // Unlike what is only listed, it must be there.
    held.placed[1].from = dir.path().join("none");
    let program = Program::new("/bin/true");
    let error = program.spawn(Some(&held)).unwrap_err();
    assert!(error.to_string().contains("/none"), "{error}");
}

#[test]
fn the_daemon_keeps_its_own_namespaces() {
    if !enabled() {
        return;
    }
    let before = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let held = Confinement {
        visible: Some(programs()),
        ..confinement()
    };
    let (code, text) = run("exit 7", vec![], &held);
    assert_eq!(code, 7, "{text}");
    assert_eq!(fs::read_link("/proc/thread-self/ns/mnt").unwrap(), before);
    assert!(fs::metadata("/etc/hostname").is_ok());
    // Threads and processes start as before.
    assert_eq!(std::thread::spawn(|| 3).join().unwrap(), 3);
    assert!(
        std::process::Command::new("true")
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn resources_are_limited() {
    if !enabled() {
        return;
    }
    let mut held = confinement();
    held.rlimits.file_bytes = 65_536;
    held.rlimits.threads = 77;
    let script = "exec >&2; cat /proc/self/limits; head -c 70000 /dev/zero";
    let (_, text) = run(script, vec![], &held);
    let limit = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max file size"), "65536");
    assert_eq!(limit("Max processes"), "77");
    assert_eq!(limit("Max locked memory"), "65536");
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max msgqueue size"), "0");
    assert_eq!(limit("Max open files"), "1024");
    // What it wrote went to a file.
    assert_eq!(text.len(), 65_536);
}

#[test]
fn a_filter_holds_from_exec_on() {
    if !enabled() {
        return;
    }
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let rules = [(libc::SYS_uname, vec![])].into_iter().collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        TargetArch::x86_64,
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    let spawned = Program::new("/usr/bin/uname")
        .filter(filter)
        .spawn(Some(&confinement()))
        .unwrap();
    assert_ne!(wait(&spawned), 0);
    let spawned = Program::new("/usr/bin/uname").spawn(Some(&confinement()));
    assert_eq!(wait(&spawned.unwrap()), 0);
}

#[test]
fn a_failed_start_leaves_nothing_and_names_the_step() {
    if !enabled() {
        return;
    }
    let name = format!("jail-fail-{}", std::process::id());
    let limited = Confinement {
        cgroup_name: Some(name.clone()),
        pids_max: Some(9),
        ..confinement()
    };
    let missing = Program::new("/nonexistent/program").spawn(Some(&limited));
    assert!(matches!(missing, Err(Error::Spawn { .. })), "{missing:?}");
    assert!(!Cgroups::detect().list().contains(&name));

    // A file is no network namespace: the step fails in the child.
    let mut output = tempfile::tempfile().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let wrong = Confinement {
        netns: Some(file.path().into()),
        ..limited
    };
    let failed = Program::new("/bin/true")
        .stderr(output.try_clone().unwrap())
        .spawn(Some(&wrong));
    assert!(matches!(failed, Err(Error::Spawn { .. })), "{failed:?}");
    assert!(!Cgroups::detect().list().contains(&name));
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hearth-confine: cannot join the network namespace\n");
}

#[test]
fn root_is_no_confinement() {
    for root in [
        Confinement {
            uid: 0,
            ..confinement()
        },
        Confinement {
            gid: 0,
            ..confinement()
        },
    ] {
        let refused = Program::new("/bin/true").spawn(Some(&root));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let unnamed = Confinement {
        pids_max: Some(1),
        ..confinement()
    };
    assert!(matches!(
        Program::new("/bin/true").spawn(Some(&unnamed)),
        Err(Error::Invalid(_))
    ));
}

/// Where a group is in the hierarchy that has `controller`.
fn group_directory(controller: &str, name: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let mut groups = points
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point).join("hearth").join(name))
        .filter(|group| {
            let files = fs::read_dir(group).into_iter().flatten().flatten();
            files
                .filter_map(|entry| entry.file_name().into_string().ok())
                .any(|file| file.starts_with(&format!("{controller}.")))
        });
    groups.next().unwrap()
}

fn landlock_version() -> i32 {
    // The rule set's creation is best-effort; the kernel's list says whether it has any.
    fs::read_to_string("/proc/kallsyms")
        .map(|symbols| i32::from(symbols.contains("landlock_create_ruleset")))
        .unwrap_or(0)
}
