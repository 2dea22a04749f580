use super::{files::MAX_BYTES, *};
use hearth_ids::SandboxId;
use hearth_snapshot::{Holder, LocalStore};
use serde_json::{Value, json};
use std::fs;

const ID: &str = "iaaaaaaaaaaaaaaaaaaaa";
const BUILD: &str = "6a3b1f0e-7b0c-4e0f-9d7b-0d9f4f1c2a11";
const PAUSE: &str = "0b1c2d3e-0000-4000-8000-00000000abcd";

/// As the first release wrote it: without everything that was added since.
const OLDEST: &str = include_str!("fixtures/oldest.json");
/// As a release to come may write it, for us to read too.
const NEWER: &str = include_str!("fixtures/newer-readable.json");
/// As a release to come may write it, in a form that is not ours.
const NEWEST: &str = include_str!("fixtures/newest-unreadable.json");

struct Place {
    _directory: tempfile::TempDir,
    journals: Journals,
    id: SandboxId,
}

impl Place {
    /// A directory of sandboxes with one in it, of this journal and with a disk.
    fn with(journal: &[u8]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let journals = Journals::open(directory.path().join("sandboxes")).expect("opened");
        let id: SandboxId = ID.parse().expect("an id");
        fs::create_dir(journals.dir(&id)).expect("made");
        fs::write(journals.dir(&id).join("disk"), "data").expect("written");
        fs::write(journals.dir(&id).join("journal.json"), journal).expect("written");
        Self {
            _directory: directory,
            journals,
            id,
        }
    }

    fn found(&self) -> Found {
        let mut found = self.journals.scan().expect("scanned");
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    fn readable(&self) -> Record {
        match self.found() {
            Found::Readable(record) => *record,
            other => panic!("not readable: {other:?}"),
        }
    }

    fn quarantined(&self) -> Quarantined {
        match self.found() {
            Found::Quarantined(found) => found,
            other => panic!("not in quarantine: {other:?}"),
        }
    }

    /// Those for which builds are held, after a look at all journals.
    fn holders(&self) -> Vec<Holder> {
        let root = self.journals.dir(&self.id);
        let root = root.parent().expect("a parent");
        let builds = LocalStore::open(root.with_file_name("builds")).expect("a store");
        lease_builds(root, &builds).expect("leased");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let holds = runtime.block_on(builds.holds()).expect("holds");
        holds.into_iter().map(|hold| hold.holder).collect()
    }

    fn on_disk(&self) -> Value {
        let text = fs::read(self.journals.dir(&self.id).join("journal.json")).expect("read");
        serde_json::from_slice(&text).expect("JSON")
    }
}

fn build(text: &str) -> BuildId {
    text.parse().expect("a build's id")
}

#[test]
fn the_first_releases_journal_is_read() {
    let record = Place::with(OLDEST.as_bytes()).readable();
    assert_eq!(record.state, SandboxState::Running);
    assert_eq!(record.slot, Some(3));
    assert_eq!(record.origin(), Origin::Restored(build(BUILD)));
    assert_eq!(record.builds(), [build(BUILD), build(BUILD)]);
}

#[test]
fn what_a_newer_release_wrote_survives_a_rewrite() {
    let place = Place::with(NEWER.as_bytes());
    let mut record = place.readable();
    record.spec.alias = Some("changed".to_owned());
    place.journals.write(&record).expect("written");
    let (before, after): (Value, Value) =
        (serde_json::from_str(NEWER).expect("JSON"), place.on_disk());
    for field in [
        "/version",
        "/min_version",
        "/placement",
        "/spec/volumes",
        "/paused/compressed",
    ] {
        assert!(before.pointer(field).is_some(), "{field}");
        assert_eq!(before.pointer(field), after.pointer(field), "{field}");
    }
    assert_eq!(after.pointer("/spec/alias"), Some(&json!("changed")));

    // What was said of the former pause is not said of another.
    let mut record = place.readable();
    record.set_paused(Paused {
        build: build(BUILD),
        with_memory: false,
        at: record.started_at,
    });
    place.journals.write_durably(&record).expect("written");
    assert_eq!(place.on_disk().pointer("/paused/compressed"), None);
    assert!(place.on_disk().pointer("/placement").is_some());
}

#[test]
fn a_journal_of_another_format_is_left_and_its_builds_and_slot_are_known() {
    let place = Place::with(NEWEST.as_bytes());
    let found = place.quarantined();
    assert!(found.why.contains("newer version"), "{}", found.why);
    let builds = found.builds.expect("its builds");
    assert!(builds.contains(&build(BUILD)) && builds.contains(&build(PAUSE)));
    assert_eq!(found.slot, Some(5));
    // It tells: nothing else is held for it.
    assert!(place.holders().is_empty());
}

#[test]
fn a_damaged_journal_is_left_and_holds_the_builds_that_are_there() {
    let half = &NEWER.as_bytes()[..NEWER.len() / 2];
    // A flipped bit in the id of the build that it is paused at.
    let flipped = OLDEST.replace(BUILD, &BUILD.replacen('-', "_", 1));
    for text in [half, b"", b"{}", b"\0\0\0\0", flipped.as_bytes()] {
        let place = Place::with(text);
        let found = place.quarantined();
        assert!(!found.why.is_empty());
        let root = place.journals.dir(&place.id);
        assert_eq!(found.builds, None);
        assert_eq!(place.holders(), [Holder::Sandbox(place.id.clone())]);
        assert_eq!(fs::read(root.join("disk")).expect("still there"), b"data");
        assert_eq!(
            fs::read(root.join("journal.json")).expect("as it was"),
            text
        );
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_left() {
    let place = Place::with(b"");
    let path = place.journals.dir(&place.id).join("journal.json");
    // Reading a directory fails, as a disk does.
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    assert_eq!(place.quarantined().builds, None);
    fs::remove_dir(&path).expect("removed");
    // No journal at all, and a disk.
    assert_eq!(place.quarantined().builds, None);
    fs::remove_file(place.journals.dir(&place.id).join("disk")).expect("removed");
    assert!(matches!(place.found(), Found::Empty(id) if id == place.id));
}

#[test]
fn another_sandboxes_journal_is_left() {
    let place = Place::with(OLDEST.replace(ID, "ibbbbbbbbbbbbbbbbbbbb").as_bytes());
    assert!(place.quarantined().why.contains("another sandbox"));
}

/// What the writer takes the reader takes, escapes of JSON and all.
#[test]
fn one_bound_for_writer_and_reader() {
    let place = Place::with(OLDEST.as_bytes());
    let mut record = place.readable();
    let mut write = |bytes: usize| {
        let text = "\u{1}".repeat(bytes / 6);
        record.spec.env_vars.insert("A".to_owned(), text);
        place.journals.write(&record)
    };
    write(5 << 20).expect("larger than settings may be, and still a journal");
    assert!(place.readable().spec.env_vars.contains_key("A"));
    let bound = usize::try_from(MAX_BYTES).expect("small");
    let error = write(bound + 60).expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    // The former one stands.
    assert!(place.readable().spec.env_vars.contains_key("A"));

    let mut spec = place.readable().spec;
    assert!(check_spec(&spec).is_err());
    spec.env_vars
        .insert("A".to_owned(), "\u{1}".repeat(600_000));
    assert!(check_spec(&spec).is_ok());
}
