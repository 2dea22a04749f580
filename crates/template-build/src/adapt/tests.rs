use super::*;

fn image(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
    let root = tempfile::tempdir().unwrap();
    let mut tree = Tree::open(root.path()).unwrap();
    for (path, content) in files {
        put(&mut tree, path, 0o644, content).unwrap();
    }
    (root, tree)
}

fn settings() -> Settings {
    Settings {
        nameservers: vec![IpAddr::from([192, 0, 2, 53])],
        ca_bundle: Some("CERTIFICATE\n".to_owned()),
    }
}

#[test]
fn families_are_told_by_name_alone() {
    for (os_release, found) in [
        ("ID=debian\n", Some(Family::Debian)),
        ("NAME=x\nID=\"linuxmint\"\n", Some(Family::Debian)),
        ("ID=alpine", Some(Family::Alpine)),
        ("ID='rocky'\nID_LIKE='rhel centos'", Some(Family::Fedora)),
        ("ID=arch", Some(Family::Arch)),
        ("ID=nixos", None),
        ("ID=\"ol\"\nID_LIKE=\"fedora\"\n", None),
    ] {
        let (_root, tree) = image(&[("etc/os-release", os_release)]);
        assert_eq!(family(&tree).ok(), found, "{os_release}");
    }
}

#[test]
fn the_default_user_is_made_beside_those_that_are_there() {
    let (root, mut tree) = image(&[
        ("etc/os-release", "ID=alpine\n"),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh",
        ),
        ("etc/group", "root:x:0:\nnode:x:1000:\n"),
        ("etc/shadow", "root:*::0:::::\n"),
        ("etc/skel/.bashrc", "skel"),
        ("bin/bash", ""),
    ]);
    std::os::unix::fs::symlink("/run/resolv.conf", root.path().join("etc/resolv.conf")).unwrap();
    let adapted = adapt(&mut tree, &settings()).unwrap();
    assert_eq!(
        adapted.missing.join(" "),
        "sudo tar curl iproute2-ss procps-ng iputils git socat openssh chrony fuse3 \
         iptables nftables kmod ca-certificates"
    );
    let read = |path: &str| std::fs::read_to_string(root.path().join(path)).unwrap();
    assert!(read("etc/passwd").ends_with("/bin/sh\nuser:x:1001:1001::/home/user:/bin/bash\n"));
    assert_eq!(read("etc/resolv.conf"), "nameserver 192.0.2.53\n");
    assert_eq!(read("home/user/.bashrc"), "skel");
    assert!(read("etc/profile").contains("/etc/profile.d/"));
    assert_eq!(read(BUNDLES[0]), "CERTIFICATE\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        std::fs::metadata(root.path().join("home/user"))
            .unwrap()
            .uid(),
        1001
    );
}

#[test]
fn an_image_that_has_the_user_keeps_it() {
    let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:4242:7::/data:/bin/zsh\n";
    let (root, mut tree) = image(&[("usr/lib/os-release", "ID=arch"), ("etc/passwd", passwd)]);
    let adapted = adapt(&mut tree, &settings()).unwrap();
    assert!(adapted.lacks_bash());
    assert_eq!(
        std::fs::read_to_string(root.path().join("etc/passwd")).unwrap(),
        passwd
    );
    assert!(root.path().join("data").is_dir() && root.path().join("home/user").is_dir());
}

#[test]
fn each_family_has_its_own_packages() {
    let common = "bash sudo tar curl";
    for (os_release, packages) in [
        (
            "ID=ubuntu\n",
            "iproute2 procps iputils-ping git socat systemd openssh-server",
        ),
        (
            "ID=alpine\n",
            "iproute2-ss procps-ng iputils git socat openssh",
        ),
        (
            "ID=rocky\n",
            "iproute procps-ng iputils git socat systemd openssh-server",
        ),
        (
            "ID=arch\n",
            "iproute2 procps-ng iputils git socat systemd openssh",
        ),
    ] {
        let (_root, mut tree) = image(&[("etc/os-release", os_release)]);
        let missing = adapt(&mut tree, &settings()).unwrap().missing;
        let rest = "chrony fuse3 iptables nftables kmod ca-certificates";
        assert_eq!(missing.join(" "), format!("{common} {packages} {rest}"));
    }
}

/// Runs the families' common part upon an archive that has `known` and of these
/// installs what is not `broken`; returns what was installed, what is said to be
/// lacking, and whether it went well.
fn install(known: &str, broken: &str, wanted: &str) -> (String, String, bool) {
    let functions = r#"
        refresh() { :; }
        prepare() { :; }
        known() { echo $KNOWN | tr ' ' '\n'; }
        finish() { :; }
        add() {
            for name in $1; do case " $BROKEN " in *" $name "*) return 1 ;; esac; done
            echo $1
        }
    "#;
    let script = format!("{functions}{}", include_str!("../install/install.sh"));
    let output = std::process::Command::new("sh")
        .args(["-uc", &script, "sh", wanted])
        .env("KNOWN", known)
        .env("BROKEN", broken)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', " ");
    let lacking = text(&output.stderr);
    let lacking = lacking
        .strip_prefix("this release does not have: ")
        .unwrap_or(&lacking);
    let installed = text(&output.stdout);
    (installed, lacking.to_owned(), output.status.success())
}

#[test]
fn a_package_that_a_release_lacks_keeps_no_other_away() {
    let of = |known, broken, wanted| {
        let (installed, lacking, well) = install(known, broken, wanted);
        format!("{installed}|{lacking}|{well}")
    };
    assert_eq!(of("a b c", "", "a b c"), "a b c||true");
    assert_eq!(of("a c", "", "a b c"), "a c|b|true");
    assert_eq!(of("a b c", "b", "a b c"), "a c|b|true");
    assert_eq!(of("", "", "a"), "|a|true");
    // An archive that cannot be reached is given up.
    assert_eq!(of("a b c d", "a b c", "a b c d"), "|a b c d|false");
}

#[test]
fn everybody_may_install_into_usr_local_and_code() {
    use std::os::unix::fs::PermissionsExt;
    let (root, mut tree) = image(&[
        ("etc/os-release", "ID=debian\n"),
        ("usr/local/lib/x", "x"),
        ("usr/local/bin/run", "x"),
        ("etc/shared", "x"),
    ]);
    let at = |path: &str| root.path().join(path);
    let change = |path: &str, mode| {
        std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    change("usr/local/bin/run", 0o755);
    change("usr/local/lib", 0o755);
    std::fs::hard_link(at("etc/shared"), at("usr/local/shared")).unwrap();
    std::os::unix::fs::symlink("/etc/os-release", at("usr/local/link")).unwrap();
    adapt(&mut tree, &settings()).unwrap();
    for (path, mode) in [
        ("usr/local", 0o777),
        ("usr/local/lib", 0o777),
        ("usr/local/lib/x", 0o666),
        ("usr/local/bin/run", 0o777),
        ("code", 0o777),
        ("etc/shared", 0o644),
        ("etc/os-release", 0o644),
    ] {
        let found = std::fs::metadata(at(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }
}

#[test]
fn a_fedora_has_its_certificates_where_builds_look_for_them() {
    let (root, mut tree) = image(&[("etc/os-release", "ID=fedora\n"), (BUNDLES[1], "USUAL\n")]);
    adapt(&mut tree, &settings()).unwrap();
    for path in BUNDLES {
        let text = std::fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(text, "USUAL\nCERTIFICATE\n", "{path}");
    }
}

#[test]
fn other_distributions_are_refused_with_a_sentence() {
    let (_root, mut tree) = image(&[("etc/os-release", "ID=nixos\n")]);
    let why = adapt(&mut tree, &settings()).unwrap_err();
    assert!(why.contains("ID='nixos' is not supported") && why.contains("Alpine"));
    let (_root, mut tree) = image(&[]);
    assert!(
        adapt(&mut tree, &settings())
            .unwrap_err()
            .contains("os-release")
    );
}
