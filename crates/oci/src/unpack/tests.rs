use super::*;
use flate2::{Compression, write::GzEncoder};
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
};
use tar::{Builder, Header};

const LIMITS: UnpackLimits = UnpackLimits {
    bytes: 64 << 20,
    entries: 1000,
};

static NEVER: AtomicBool = AtomicBool::new(false);

type Member<'a> = (&'a str, EntryType, &'a str, u32);

/// An archive with raw names, as a hostile maker could write it.
fn layer(members: &[Member<'_>]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, kind, content, mode) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        let regular = *kind == EntryType::Regular;
        if !regular {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(if regular { content.len() as u64 } else { 0 });
        header.set_cksum();
        let data: &[u8] = if regular { content.as_bytes() } else { &[] };
        builder.append(&header, data).unwrap();
    }
    let bytes = builder.into_inner().unwrap().finish().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

fn all(layers: &[&[Member<'_>]]) -> Result<tempfile::TempDir, Error> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("tree")).unwrap();
    fs::write(root.path().join("outside"), "outside").unwrap();
    let mut tree = Tree::open(&root.path().join("tree")).unwrap();
    let mut so_far = Unpacked::default();
    for members in layers {
        unpack(
            layer(members).path(),
            &mut tree,
            LIMITS,
            &mut so_far,
            &NEVER,
        )?;
    }
    assert_eq!(
        fs::read_to_string(root.path().join("outside")).unwrap(),
        "outside"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    Ok(root)
}

const F: EntryType = EntryType::Regular;
const D: EntryType = EntryType::Directory;
const S: EntryType = EntryType::Symlink;
const L: EntryType = EntryType::Link;

#[test]
fn modes_links_and_times_are_kept() {
    let root = all(&[&[
        ("./", D, "", 0o755),
        ("bin/su", F, "su", 0o4755),
        ("bin/hard", L, "bin/su", 0),
        ("tmp", D, "", 0o1777),
        ("lib", S, "usr/lib", 0o777),
        ("usr/lib/", D, "", 0o750),
        ("lib/through", F, "x", 0o600),
    ]])
    .unwrap();
    let at = |name: &str| fs::symlink_metadata(root.path().join("tree").join(name)).unwrap();
    assert_eq!(at("bin/su").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(at("bin/su").ino(), at("bin/hard").ino());
    assert_eq!(at("bin/su").mtime(), 1_000_000);
    assert_eq!(at("tmp").permissions().mode() & 0o7777, 0o1777);
    assert!(at("lib").is_symlink() && at("usr/lib/through").is_file());
}

#[test]
fn whiteouts_hide_what_lower_layers_had() {
    let root = all(&[
        &[
            ("a/one", F, "1", 0o644),
            ("a/two", F, "2", 0o644),
            ("b/deep/three", F, "3", 0o644),
            ("c/four", F, "4", 0o644),
            ("c/sub/old", F, "old", 0o644),
        ],
        &[
            ("a/.wh.one", F, "", 0o644),
            (".wh.b", F, "", 0o644),
            ("c/new", F, "new", 0o644),
            ("c/sub/kept", F, "kept", 0o644),
            ("c/.wh..wh..opq", F, "", 0o644),
            (".wh..wh.plnk", F, "", 0o644),
            (".wh.absent", F, "", 0o644),
        ],
    ])
    .unwrap();
    let tree = root.path().join("tree");
    let has = |name: &str| tree.join(name).exists();
    assert!(!has("a/one") && has("a/two") && !has("b"));
    assert!(!has("c/four") && has("c/new") && has("c/sub/kept") && !has("c/sub/old"));
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 2);
}

#[test]
fn entries_replace_what_was_there() {
    let root = all(&[
        &[
            ("x/y", F, "1", 0o644),
            ("d", S, "x", 0o777),
            ("f", F, "old", 0o600),
        ],
        &[
            ("x", F, "file", 0o644),
            ("d", D, "", 0o755),
            ("f", F, "new", 0o644),
        ],
    ])
    .unwrap();
    let tree = root.path().join("tree");
    assert_eq!(fs::read_to_string(tree.join("x")).unwrap(), "file");
    assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_dir());
    assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "new");
}

#[test]
fn nothing_leads_out() {
    let refused =
        |layers: &[&[Member<'_>]]| all(layers).map(drop).expect_err("refused").to_string();
    assert!(refused(&[&[("../outside", F, "x", 0o644)]]).contains("leads out"));
    assert!(refused(&[&[("a/../../outside", F, "x", 0o644)]]).contains("leads out"));
    assert!(refused(&[&[("x", L, "../outside", 0o644)]]).contains("leads out"));
    assert!(refused(&[&[("x", L, "/etc/shadow", 0o644)]]).contains("not there"));
    // Links that lead out are kept as they are and followed inside: what is
    // written through them stays below the root.
    let root = all(&[
        &[
            ("up", S, "../..", 0o777),
            ("abs", S, "/", 0o777),
            ("out", S, "../outside", 0o777),
        ],
        &[
            ("up/outside", F, "x", 0o644),
            ("abs/etc/passwd", F, "x", 0o644),
            ("out", F, "x", 0o644),
            ("/absolute", F, "x", 0o644),
            ("up/.wh.nothing", F, "", 0o644),
        ],
    ])
    .unwrap();
    for name in ["outside", "etc/passwd", "out", "absolute"] {
        let path = root.path().join("tree").join(name);
        assert!(fs::symlink_metadata(path).unwrap().is_file(), "{name}");
    }
}

#[test]
fn a_loop_of_links_and_a_link_to_a_file_are_refused() {
    for target in ["loop", "file"] {
        let first: &[Member<'_>] = &[("loop", S, "loop", 0o777), ("file", F, "", 0o644)];
        let name = format!("{target}/x");
        let second: &[Member<'_>] = &[(&name, F, "x", 0o644)];
        assert!(all(&[first, second]).is_err(), "{target}");
    }
}

#[test]
fn devices_are_left_out_and_unknown_kinds_refused() {
    let root = all(&[&[
        ("dev/sda", EntryType::Block, "", 0o660),
        ("p", EntryType::Fifo, "", 0o600),
    ]])
    .unwrap();
    assert!(!root.path().join("tree/dev/sda").exists());
    assert!(all(&[&[("x", EntryType::new(b'Z'), "", 0o600)]]).is_err());
}

#[test]
fn bombs_and_floods_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut tree = Tree::open(root.path()).unwrap();
    // Twice what is allowed, in much less than a mebibyte.
    let bomb = tempfile::NamedTempFile::new().unwrap();
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(8 << 20);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut builder = Builder::new(GzEncoder::new(bomb.reopen().unwrap(), Compression::fast()));
    builder
        .append(&header, io::repeat(0).take(8 << 20))
        .unwrap();
    builder.into_inner().unwrap().finish().unwrap();
    let limits = UnpackLimits {
        bytes: 4 << 20,
        ..LIMITS
    };
    let error = unpack(
        bomb.path(),
        &mut tree,
        limits,
        &mut Unpacked::default(),
        &NEVER,
    )
    .unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit_mib: 4 }), "{error}");

    let names: Vec<String> = (0..1100).map(|number| format!("f{number}")).collect();
    let many: Vec<Member<'_>> = names
        .iter()
        .map(|name| (name.as_str(), F, "", 0o644))
        .collect();
    assert!(all(&[&many]).unwrap_err().to_string().contains("1000"));
    let deep = "d/".repeat(45);
    assert!(all(&[&[(&deep, D, "", 0o755)]]).is_ok());
}

#[test]
fn a_layer_that_ends_early_is_an_error() {
    let whole = layer(&[("f", F, &"x".repeat(5000), 0o644)]);
    let bytes = fs::read(whole.path()).unwrap();
    let cut = tempfile::NamedTempFile::new().unwrap();
    fs::write(cut.path(), &bytes[..bytes.len() / 2]).unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut tree = Tree::open(root.path()).unwrap();
    let error = unpack(
        cut.path(),
        &mut tree,
        LIMITS,
        &mut Unpacked::default(),
        &NEVER,
    )
    .unwrap_err();
    assert!(matches!(error, Error::Layer(_)), "{error}");
}
