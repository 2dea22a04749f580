//! What a guest may have left in a tree, and what callers may ask for.

use super::*;
use crate::Limits;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;

struct Setting {
    content: Content,
    volumes: Arc<Volumes>,
    /// Where the tree is on the host.
    tree: PathBuf,
    id: VolumeId,
    state: tempfile::TempDir,
}

fn setting_with(limits: Limits) -> Setting {
    let state = tempfile::tempdir().expect("a directory");
    let volumes = Volumes::open(state.path()).expect("opens");
    let volumes = Arc::new(volumes.with_limits(limits));
    let id = VolumeId::random();
    volumes.create(id).expect("creates");
    Setting {
        content: Content::open(Arc::clone(&volumes), id).expect("opens"),
        tree: volumes.tree(id),
        volumes,
        id,
        state,
    }
}

fn setting() -> Setting {
    setting_with(Limits::NONE)
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).expect("a path")
}

/// Our own, as tests need not be root's.
fn own() -> Attributes {
    Attributes {
        uid: Some(rustix::process::getuid().as_raw()),
        gid: Some(rustix::process::getgid().as_raw()),
        mode: None,
    }
}

impl Setting {
    fn write(&self, text: &str, data: &[u8], force: bool) -> Result<Entry> {
        let mut upload = self.content.upload(path(text), own(), force, None)?;
        upload.take(data.len())?;
        upload
            .file()
            .expect("opens")
            .write_all(data)
            .expect("writes");
        upload.finish()
    }

    fn read(&self, text: &str) -> Result<Vec<u8>> {
        let (mut file, size) = self.content.open_file(&path(text))?;
        let mut data = Vec::new();
        file.read_to_end(&mut data).expect("reads");
        assert_eq!(data.len() as u64, size);
        Ok(data)
    }

    /// What waits to appear.
    fn staged(&self) -> usize {
        let staging = hearth_layout::volumes_dir(self.state.path()).join(crate::STAGING);
        std::fs::read_dir(staging).expect("reads").count()
    }
}

#[test]
fn paths_are_cleaned_as_text_and_stay_within_the_root() {
    for (text, clean) in [
        ("/", "/"),
        (".", "/"),
        ("a", "/a"),
        ("//a/./b/", "/a/b"),
        ("/a/../b", "/b"),
        ("../../etc/passwd", "/etc/passwd"),
        ("/a/b/../../../..", "/"),
    ] {
        assert_eq!(path(text).text(), clean, "{text}");
    }
    let long = "x".repeat(256);
    let many = "x/".repeat(2048);
    for wrong in ["", "a\0b", &long, &many] {
        assert!(matches!(
            EntryPath::parse(wrong),
            Err(ContentError::Invalid(_))
        ));
    }
    assert!(EntryPath::parse(&"x".repeat(255)).is_ok());
}

#[test]
fn files_are_written_read_and_removed() {
    let setting = setting();
    assert!(matches!(
        setting.write("/a/b/file", b"1", false),
        Err(ContentError::NotFound)
    ));
    let made = setting.write("/a/b/file", b"one", true).expect("writes");
    assert_eq!(
        (made.path.as_str(), made.name.as_str()),
        ("/a/b/file", "file")
    );
    assert_eq!(
        (made.kind, made.size, made.mode),
        (EntryType::File, 3, 0o666)
    );
    assert_eq!(setting.read("/a/b/file").expect("reads"), b"one");
    let parent = setting.content.stat(&path("/a")).expect("is there");
    assert_eq!((parent.kind, parent.mode), (EntryType::Directory, 0o777));
    assert!(matches!(
        setting.write("/a/b/file", b"two", false),
        Err(ContentError::Exists)
    ));
    setting.write("/a/b/file", b"two", true).expect("writes");
    assert_eq!(setting.read("/a/b/file").expect("reads"), b"two");
    for directory in ["/", "/a", "/a/b"] {
        assert!(matches!(
            setting.write(directory, b"", true),
            Err(ContentError::IsDirectory)
        ));
        assert!(matches!(
            setting.read(directory),
            Err(ContentError::IsDirectory)
        ));
    }
    assert!(matches!(
        setting.write("/a/b/file/below", b"", true),
        Err(ContentError::NotDirectory)
    ));
    setting.content.remove(&path("/a/b/file")).expect("removes");
    assert!(matches!(
        setting.read("/a/b/file"),
        Err(ContentError::NotFound)
    ));
    setting.content.remove(&path("/a")).expect("removes");
    assert!(matches!(
        setting.content.remove(&path("/a")),
        Err(ContentError::NotFound)
    ));
    assert!(matches!(
        setting.content.remove(&path("/x/..")),
        Err(ContentError::CannotDeleteRoot)
    ));
    assert_eq!(setting.staged(), 0);
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_unless_told() {
    let setting = setting();
    setting.write("/run", b"1", true).expect("writes");
    let mode = |mode| Attributes {
        mode: Some(mode),
        ..Attributes::default()
    };
    let set = setting.content.set(&path("/run"), mode(0o754));
    assert_eq!(set.expect("sets").mode, 0o754);
    let again = setting.write("/run", b"2", true).expect("writes");
    assert_eq!(again.mode, 0o754);
    assert!(matches!(
        setting.content.set(&path("/run"), mode(0o10000)),
        Err(ContentError::Invalid(_))
    ));
}

#[test]
fn a_broken_upload_leaves_what_was_there() {
    let setting = setting();
    setting.write("/file", b"old", true).expect("writes");
    let upload = setting
        .content
        .upload(path("/file"), own(), true, None)
        .expect("begins");
    upload
        .file()
        .expect("opens")
        .write_all(b"half")
        .expect("writes");
    assert_eq!(setting.read("/file").expect("reads"), b"old");
    drop(upload);
    assert_eq!(setting.read("/file").expect("reads"), b"old");
    assert_eq!(setting.staged(), 0);
}

#[test]
fn of_two_uploads_of_a_new_file_one_wins() {
    let setting = setting();
    let begin = || {
        setting
            .content
            .upload(path("/file"), own(), false, None)
            .expect("begins")
    };
    let (one, other) = (begin(), begin());
    one.finish().expect("is the first");
    assert!(matches!(other.finish(), Err(ContentError::Exists)));
    assert_eq!(setting.staged(), 0);
}

#[test]
fn links_are_told_of_and_never_followed() {
    let setting = setting();
    let outside = setting.state.path().join("outside");
    std::fs::create_dir(&outside).expect("makes");
    std::fs::write(outside.join("secret"), "secret").expect("writes");
    symlink(&outside, setting.tree.join("absolute")).expect("links");
    symlink("../../..", setting.tree.join("up")).expect("links");
    symlink("/proc/self/root", setting.tree.join("magic")).expect("links");
    symlink(outside.join("secret"), setting.tree.join("file")).expect("links");
    for through in [
        "/absolute/secret",
        "/up/outside/secret",
        "/magic/etc/passwd",
    ] {
        assert!(
            matches!(
                setting.content.stat(&path(through)),
                Err(ContentError::Link | ContentError::NotDirectory)
            ),
            "{through}"
        );
        assert!(setting.read(through).is_err(), "{through}");
        assert!(setting.write(through, b"x", true).is_err(), "{through}");
        assert!(setting.content.remove(&path(through)).is_err(), "{through}");
        let made = setting.content.make_directory(&path(through), own(), true);
        assert!(made.is_err(), "{through}");
    }
    assert!(setting.content.list(&path("/absolute"), 1).is_err());
    let link = setting.content.stat(&path("/file")).expect("is there");
    assert_eq!(link.kind, EntryType::Symlink);
    assert_eq!(link.target.as_deref(), outside.join("secret").to_str());
    assert!(matches!(
        setting.read("/file"),
        Err(ContentError::NotSupported(_))
    ));
    let mode = Attributes {
        mode: Some(0o777),
        ..Attributes::default()
    };
    assert!(matches!(
        setting.content.set(&path("/file"), mode),
        Err(ContentError::NotSupported(_))
    ));
    let listed = setting.content.list(&path("/"), 10).expect("lists");
    assert_eq!(listed.len(), 4, "{listed:?}");
    // A link that is replaced or removed is the link.
    setting.write("/file", b"own", true).expect("writes");
    setting.content.remove(&path("/absolute")).expect("removes");
    let secret = std::fs::read(outside.join("secret")).expect("is there");
    assert_eq!(secret, b"secret");
    assert_eq!(setting.read("/file").expect("reads"), b"own");
}

/// A directory that becomes a link and a directory again, all the time, is either
/// looked into or refused: nothing outside is ever reached.
#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let setting = setting();
    let outside = setting.state.path().join("outside");
    std::fs::create_dir(&outside).expect("makes");
    std::fs::write(outside.join("file"), "secret").expect("writes");
    setting.write("/dir/file", b"inside", true).expect("writes");
    symlink(&outside, setting.tree.join("link")).expect("links");
    let swap = || {
        let (one, other) = (setting.tree.join("dir"), setting.tree.join("link"));
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, one, cwd, other, exchange).expect("swaps");
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                swap();
            }
        });
        let mut seen = 0;
        for _ in 0..2000 {
            if let Ok(data) = setting.read("/dir/file") {
                assert_eq!(data, b"inside");
                seen += 1;
            }
            let _ = setting.write("/dir/new", b"x", true);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(seen > 0, "it was a directory at times");
    });
    assert!(!outside.join("new").exists());
}

#[test]
fn special_files_are_told_of_and_never_opened() {
    let setting = setting();
    let fifo = setting.tree.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).expect("makes");
    let _socket = std::os::unix::net::UnixListener::bind(setting.tree.join("socket"));
    for special in ["/fifo", "/socket"] {
        let told = setting.content.stat(&path(special)).expect("is there");
        assert_eq!(told.kind, EntryType::Unknown);
        // Opening the FIFO would wait for a writer.
        assert!(matches!(
            setting.read(special),
            Err(ContentError::NotSupported(_))
        ));
        let mode = Attributes {
            mode: Some(0o600),
            ..Attributes::default()
        };
        let set = setting.content.set(&path(special), mode).expect("sets");
        assert_eq!(set.mode, 0o600);
    }
    assert_eq!(setting.content.list(&path("/"), 1).expect("lists").len(), 2);
    setting.write("/fifo", b"file", true).expect("replaces");
    assert_eq!(setting.read("/fifo").expect("reads"), b"file");
    setting.content.remove(&path("/socket")).expect("removes");
}

#[test]
fn directories_are_made_and_listed() {
    let setting = setting();
    let make = |text: &str, force| setting.content.make_directory(&path(text), own(), force);
    assert!(matches!(make("/a/b", false), Err(ContentError::NotFound)));
    let made = make("/a/b/c", true).expect("makes");
    assert_eq!((made.path.as_str(), made.mode), ("/a/b/c", 0o777));
    assert!(make("/a/b", true).is_ok());
    assert!(matches!(make("/a/b", false), Err(ContentError::Exists)));
    assert!(make("/", true).is_ok());
    assert!(matches!(make("/", false), Err(ContentError::Exists)));
    setting.write("/a/file", b"", true).expect("writes");
    assert!(matches!(make("/a/file", true), Err(ContentError::Exists)));
    let paths = |at: &str, depth| -> Vec<String> {
        let listed = setting.content.list(&path(at), depth).expect("lists");
        listed.into_iter().map(|entry| entry.path).collect()
    };
    assert_eq!(paths("/", 1), ["/a"]);
    assert_eq!(paths("/", 2), ["/a", "/a/b", "/a/file"]);
    assert_eq!(paths("/a", 10), ["/a/b", "/a/b/c", "/a/file"]);
    for depth in [0, 11] {
        assert!(matches!(
            setting.content.list(&path("/"), depth),
            Err(ContentError::Depth)
        ));
    }
    assert!(matches!(
        setting.content.list(&path("/a/file"), 1),
        Err(ContentError::NotDirectory)
    ));
    let attributes = Attributes {
        mode: Some(0o1750),
        ..own()
    };
    let made = setting
        .content
        .make_directory(&path("/sticky"), attributes, false);
    assert_eq!(made.expect("makes").mode, 0o1750);
    let raw = std::fs::metadata(setting.tree.join("sticky")).expect("is there");
    assert_eq!(raw.permissions().mode() & 0o7777, 0o1750);
    assert_eq!(raw.uid(), rustix::process::getuid().as_raw());
}

#[test]
fn a_volume_takes_as_much_as_it_may() {
    let setting = setting_with(Limits {
        max_bytes: 1 << 20,
        max_entries: u64::MAX,
        reserve_bytes: 0,
    });
    let full =
        |result: Result<Entry>| matches!(result, Err(ContentError::NoSpace { limit_mib: 1 }));
    setting.write("/a", &[1; 600 << 10], true).expect("fits");
    assert!(full(setting.write("/b", &[1; 600 << 10], true)));
    let announced = setting
        .content
        .upload(path("/b"), own(), true, Some(600 << 10));
    assert!(full(announced.map(|_| unreachable!("does not fit"))));
    setting.write("/b", &[1; 300 << 10], true).expect("fits");
    setting.content.remove(&path("/a")).expect("removes");
    setting.write("/c", &[1; 600 << 10], true).expect("fits");
    let usage = setting.volumes.usage(setting.id).expect("counts");
    assert_eq!(usage.entries, 2);
    assert!(usage.bytes >= 900 << 10, "{usage:?}");

    let none = setting_with(Limits {
        max_bytes: u64::MAX,
        max_entries: u64::MAX,
        reserve_bytes: u64::MAX,
    });
    assert!(
        none.write("/a", b"x", true).is_err(),
        "the disk's reserve stays"
    );
    let made = none.content.make_directory(&path("/d"), own(), false);
    assert!(made.is_err());
}

#[test]
fn a_volume_has_as_many_entries_as_it_may() {
    let setting = setting_with(Limits {
        max_entries: 3,
        ..Limits::NONE
    });
    let full =
        |result: Result<Entry>| matches!(result, Err(ContentError::TooManyEntries { limit: 3 }));
    let directory = |name, force| setting.content.make_directory(&path(name), own(), force);
    directory("/a/b", true).expect("fits");
    setting.write("/a/b/file", b"1", true).expect("fits");
    assert!(full(setting.write("/a/other", b"1", true)));
    assert!(full(directory("/c", false)));
    assert!(full(directory("/a/b/c/d", true)));
    // What is there needs no place.
    setting.write("/a/b/file", b"2", true).expect("is replaced");
    directory("/a/b", true).expect("is there");
    assert!(matches!(
        directory("/a/b", false),
        Err(ContentError::Exists)
    ));
    setting.content.remove(&path("/a/b/file")).expect("removes");
    setting.write("/a/other", b"1", true).expect("fits again");
    assert!(full(setting.write("/a/another", b"1", true)));
}

#[test]
fn what_lies_deep_counts_and_no_path_leads_there() {
    let setting = setting_with(Limits {
        max_bytes: 1 << 20,
        ..Limits::NONE
    });
    // As a guest makes it, a step at a time.
    let deep = 600;
    let mut here = setting.volumes.open_tree(setting.id).expect("opens");
    for _ in 0..deep {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).expect("makes");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "d", flags, Mode::empty()).expect("opens");
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(&here, "file", flags, Mode::RWXU).expect("makes");
    rustix::io::write(&file, &vec![1; 600 << 10]).expect("writes");
    rustix::fs::fsync(&file).expect("syncs");
    std::fs::create_dir(setting.tree.join("beside")).expect("makes");
    let usage = setting.volumes.usage(setting.id).expect("counts");
    assert_eq!(usage.entries, deep + 2);
    assert!(usage.bytes >= 600 << 10, "{usage:?}");
    assert!(setting.write("/large", &[1; 600 << 10], true).is_err());
    let at_most = "/d".repeat(256);
    assert!(setting.content.stat(&path(&at_most)).is_ok());
    let refused = EntryPath::parse(&"/d".repeat(257));
    assert!(matches!(refused, Err(ContentError::Invalid(_))));
}

#[test]
fn uploads_at_the_same_time_share_the_room() {
    let setting = setting_with(Limits {
        max_bytes: 1 << 20,
        max_entries: u64::MAX,
        reserve_bytes: 0,
    });
    let begin = |name| {
        let begun = setting.content.upload(path(name), own(), true, None);
        begun.expect("there is room")
    };
    let (mut first, mut second) = (begin("/a"), begin("/b"));
    first.take(600 << 10).expect("fits");
    let refused = second.take(600 << 10);
    assert!(matches!(
        refused,
        Err(ContentError::NoSpace { limit_mib: 1 })
    ));
    // What was broken off takes no room.
    drop((first, second));
    begin("/c").take(600 << 10).expect("fits");
    begin("/d").take(900 << 10).expect("fits");
}

#[test]
fn a_removed_volume_has_no_content() {
    let setting = setting();
    setting.write("/file", b"x", true).expect("writes");
    setting.volumes.remove(setting.id).expect("removes");
    assert!(matches!(
        Content::open(Arc::clone(&setting.volumes), setting.id),
        Err(ContentError::NotFound)
    ));
}

#[test]
fn strange_times_and_names_are_told_all_the_same() {
    use std::os::unix::ffi::OsStrExt as _;
    let setting = setting();
    let name = std::ffi::OsStr::from_bytes(b"not \xff utf8");
    std::fs::write(setting.tree.join(name), "x").expect("writes");
    setting.write("/old", b"x", true).expect("writes");
    let file = File::open(setting.tree.join("old")).expect("opens");
    let stamps = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: -5_000_000_000,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: -5,
            tv_nsec: 0,
        },
    };
    rustix::fs::futimens(&file, &stamps).expect("sets");
    let listed = setting.content.list(&path("/"), 1).expect("lists");
    assert_eq!(listed[0].name, "not \u{fffd} utf8");
    assert_eq!(listed[1].mtime.timestamp(), -5);
}
