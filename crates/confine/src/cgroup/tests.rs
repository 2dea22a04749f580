use super::*;

const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

#[test]
fn each_controller_is_found_where_it_lives() {
    let groups = Cgroups::from_mountinfo(HYBRID, |_| "pids io".to_owned());
    assert_eq!(groups.version("cpu"), Some(CgroupVersion::V1));
    assert_eq!(groups.version("memory"), Some(CgroupVersion::V1));
    assert_eq!(groups.version("pids"), Some(CgroupVersion::V2));
    assert_eq!(
        groups.mounts[&Controller::Cpu].1,
        PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")
    );
}

#[test]
fn version_two_wins_over_version_one_in_either_order() {
    let reversed = HYBRID.lines().rev().collect::<Vec<_>>().join("\n");
    for text in [HYBRID, &reversed] {
        let groups = Cgroups::from_mountinfo(text, |_| "cpu memory pids".to_owned());
        assert_eq!(groups.version("memory"), Some(CgroupVersion::V2));
    }
}

#[test]
fn a_missing_controller_is_a_typed_error() {
    let groups = Cgroups::from_mountinfo("", |_| String::new());
    let limits = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    assert!(matches!(
        groups.create("x", &limits),
        Err(Error::NoController { controller: "pids" })
    ));
}

#[test]
fn a_group_is_known_by_its_whole_name() {
    let text = "11:pids:/\n7:memory:/outer/hearth/hearth-iab\n0::/\n";
    assert!(names_group(text, "hearth-iab"));
    assert!(!names_group(text, "iab"));
    assert!(!names_group(text, "hearth-ia"));
    assert!(!names_group("7:memory:/hearth/hearth-iabc\n", "hearth-iab"));
    assert!(!names_group("0::/\n", "hearth-iab"));
}

#[test]
fn removing_a_group_ends_what_is_in_it() {
    let cgroups = Cgroups::detect();
    if !rustix::process::geteuid().is_root() || cgroups.version("memory").is_none() {
        eprintln!("skipped: needs root and a memory controller");
        return;
    }
    let name = format!("hearth-test-{}", std::process::id());
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        ..Limits::default()
    };
    let group = cgroups.create(&name, &limits).expect("made");
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep");
    group.add(child.id()).expect("joined");
    assert!(is_member(&name, child.id()));
    assert!(!is_member(&name, std::process::id()));
    let waiting = std::thread::spawn(move || child.wait());
    cgroups.remove(&name).expect("removed, with what was in it");
    use std::os::unix::process::ExitStatusExt as _;
    let status = waiting.join().expect("joined").expect("waited");
    assert_eq!(status.signal(), Some(9));
    assert!(!cgroups.list().contains(&name));
}

#[test]
fn names_cannot_leave_the_parent() {
    for name in ["", "..", "a/b", "a.b", "ä", &"x".repeat(101)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    assert!(check_name("sb-i0abc_1").is_ok());
}
