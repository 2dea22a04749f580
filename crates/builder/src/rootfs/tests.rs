use super::{host::codename, *};
use crate::apt::{FetchSettings, SourceList};

#[test]
fn the_codename_is_read_strictly() {
    assert_eq!(
        codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(),
        Some("bookworm")
    );
    assert_eq!(
        codename("VERSION_CODENAME=\"noble\"\n").as_deref(),
        Some("noble")
    );
    assert_eq!(codename("VERSION_CODENAME=../x\n"), None);
    assert_eq!(codename("VERSION_CODENAME=\n"), None);
    assert_eq!(codename("ID=arch\n"), None);
}

#[test]
fn packages_are_counted() {
    let mut counter = Counter::default();
    assert_eq!(counter.line("Reading package lists"), None);
    let announced = "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.";
    assert_eq!(counter.line(announced), Some((0, Some(4))));
    assert_eq!(counter.line("Unpacking a (1) ..."), Some((1, Some(4))));
    for _ in 0..3 {
        counter.line("Setting up a (1) ...");
    }
    assert_eq!(counter.line("Setting up b (1) ..."), Some((5, None)));
}

#[test]
fn paths_are_one_word() {
    assert_eq!(shell_word(Path::new("/a b'c")), "'/a b'\\''c'");
}

#[test]
fn the_key_follows_versions_and_configuration() {
    let host = |version: &str| Host {
        codename: "bookworm".to_owned(),
        sources: SourceList(Vec::new()),
        settings: FetchSettings {
            all: Vec::new(),
            guest: Vec::new(),
        },
        versions: [("git".to_owned(), Some(version.to_owned()))].into(),
    };
    let config = |disk_mib| RootfsConfig {
        disk_mib,
        nameservers: Vec::new(),
    };
    let first = host("1").key(Digest::of(b"kernel"), &config(64), &Variant::base());
    assert_eq!(
        first,
        host("1").key(Digest::of(b"kernel"), &config(64), &Variant::base())
    );
    assert_ne!(
        first.key,
        host("2")
            .key(Digest::of(b"kernel"), &config(64), &Variant::base())
            .key
    );
    assert_eq!(
        first.recipe,
        host("2")
            .key(Digest::of(b"kernel"), &config(64), &Variant::base())
            .recipe
    );
    assert_ne!(
        first.recipe,
        host("1")
            .key(Digest::of(b"kernel"), &config(65), &Variant::base())
            .recipe
    );
}

/// A small tree becomes a clean image of the asked size that holds its files.
#[tokio::test]
async fn an_image_is_clean_and_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/hostname"), "hearth\n").unwrap();
    let image = directory.path().join(IMAGE);
    let key = Digest::of(b"key");
    match make_image(&tree, &image, 64, 0, key).await {
        // A machine without e2fsprogs says so.
        Err(Error::ToolMissing { package, .. }) => {
            assert_eq!(package, "e2fsprogs");
            println!("skipped: {package} is not installed");
            return;
        }
        result => result.unwrap(),
    }
    let file = File::open(&image).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
    assert!(sparse::allocated_bytes(&file).unwrap() < 8 << 20);
    let shown = std::process::Command::new("debugfs")
        .args(["-R", "cat /etc/hostname"])
        .arg(&image)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "hearth\n");
}

/// Many small files need more inodes than a small disk usually has.
#[tokio::test]
async fn an_image_has_room_for_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..5000 {
        fs::write(tree.join(number.to_string()), "").unwrap();
    }
    let image = directory.path().join(IMAGE);
    match make_image(&tree, &image, 64, 5000, Digest::of(b"key")).await {
        Err(Error::ToolMissing { .. }) => return,
        result => result.unwrap(),
    }
    let shown = std::process::Command::new("debugfs")
        .args(["-R", "stat /4999"])
        .arg(&image)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("Type: regular"));
}

/// The script deletes by path; it must know a tree from the host.
#[test]
fn the_script_refuses_what_is_no_tree() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("base.sh");
    fs::write(&script, include_str!("../recipe/base.sh")).unwrap();
    let plain = directory.path().display().to_string();
    for root in ["/", "//", "/./", "", ".", "/etc", plain.as_str()] {
        let output = std::process::Command::new("sh")
            .arg(&script)
            .arg(root)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{root:?}: {message}");
        assert!(message.contains("not a distribution tree"), "{message}");
    }
}
