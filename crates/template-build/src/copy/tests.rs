use super::*;
use flate2::{Compression, write::GzEncoder};
use std::collections::BTreeMap;

/// An archive with raw names, as a hostile client could make it.
fn archive(members: &[(&str, EntryType, &str)], gzip: bool) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out: Box<dyn Write> = if gzip {
        Box::new(GzEncoder::new(file.reopen().unwrap(), Compression::fast()))
    } else {
        Box::new(file.reopen().unwrap())
    };
    let mut builder = Builder::new(out);
    for (name, kind, content) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_mtime(1);
        let data = if *kind == EntryType::Regular {
            content
        } else {
            ""
        };
        if !matches!(kind, EntryType::Regular | EntryType::Directory) {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().flush().unwrap();
    file
}

fn copy(source: &str) -> Copy {
    Copy {
        source: source.to_owned(),
        destination: "/x".to_owned(),
        owner: None,
        mode: None,
        files: "0f".repeat(32).parse().unwrap(),
    }
}

const OWNER: Ownership = Ownership {
    uid: 1000,
    gid: 7,
    mode: None,
};

/// Names of the members that reach the guest, with link or content.
fn result(
    file: &Path,
    source: &str,
    mode: Option<u32>,
) -> Result<BTreeMap<String, (String, u32)>, CopyError> {
    let selection = select(file, &copy(source))?;
    let out = tempfile::NamedTempFile::new().unwrap();
    let ownership = Ownership { mode, ..OWNER };
    rewrite(
        file,
        &selection,
        Path::new("new"),
        ownership,
        1000,
        &mut out.reopen().unwrap(),
    )?;
    let mut found = BTreeMap::new();
    let mut archive = Archive::new(File::open(out.path()).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(
            (entry.header().uid().unwrap(), entry.header().gid().unwrap()),
            (1000, 7)
        );
        let name = entry.path().unwrap().display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        if let Some(link) = entry.link_name().unwrap() {
            content = format!("-> {}", link.display());
        }
        found.insert(name, (content, entry.header().mode().unwrap()));
    }
    Ok(found)
}

const TREE: &[(&str, EntryType, &str)] = &[
    ("folder", EntryType::Directory, ""),
    ("folder/a.txt", EntryType::Regular, "A"),
    ("folder/sub", EntryType::Directory, ""),
    ("folder/sub/b", EntryType::Regular, "B"),
    ("folder/link", EntryType::Symlink, "../../etc/passwd"),
    ("folder/hard", EntryType::Link, "folder/a.txt"),
    ("f.txt", EntryType::Regular, "F"),
];

#[test]
fn a_file_is_renamed_and_a_directory_gives_its_content() {
    for gzip in [false, true] {
        let file = archive(TREE, gzip);
        let one = result(file.path(), "./f.txt", Some(0o600)).unwrap();
        assert_eq!(
            one,
            BTreeMap::from([("new".to_owned(), ("F".to_owned(), 0o600))])
        );
        for source in ["folder", "folder/", "folder/*", "./folder"] {
            let all = result(file.path(), source, None).unwrap();
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            assert_eq!(names, ["a.txt", "hard", "link", "sub", "sub/b"], "{source}");
            assert_eq!(all["a.txt"], ("A".to_owned(), 0o640));
            // What a link says is the guest's business; a hard link moves along.
            assert_eq!(all["link"].0, "-> ../../etc/passwd");
            assert_eq!(all["hard"].0, "-> a.txt");
        }
        assert_eq!(result(file.path(), ".", None).unwrap().len(), TREE.len());
    }
}

#[test]
fn hostile_archives_are_refused() {
    let refuse = |members: &[(&str, EntryType, &str)]| {
        let file = archive(members, true);
        result(file.path(), ".", None)
            .expect_err("refused")
            .to_string()
    };
    assert!(refuse(&[("../x", EntryType::Regular, "")]).contains("outside"));
    assert!(refuse(&[("/etc/x", EntryType::Regular, "")]).contains("outside"));
    assert!(refuse(&[("a/../../x", EntryType::Regular, "")]).contains("outside"));
    assert!(refuse(&[("x", EntryType::Link, "../../etc/shadow")]).contains("outside"));
    assert!(refuse(&[("x", EntryType::Char, "")]).contains("no file"));
    assert!(refuse(&[("x", EntryType::Regular, &"y".repeat(1001))]).contains("larger"));
    let nothing = archive(TREE, false);
    let error = result(nothing.path(), "missing", None).expect_err("no match");
    assert!(error.to_string().contains("missing"), "{error}");
    let noise = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(noise.path(), vec![7; 4096]).unwrap();
    assert!(matches!(
        result(noise.path(), ".", None),
        Err(CopyError::Archive(_))
    ));
}
