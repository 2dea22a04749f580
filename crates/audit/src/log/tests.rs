use super::*;
use crate::{Event, Record};
use std::os::unix::fs::PermissionsExt as _;

const LONG: Duration = Duration::from_secs(60);

fn record(object: &str) -> Record {
    Record {
        object: Some(object.to_owned()),
        ..Record::new(Event::Api)
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).expect("readable");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn objects(path: &Path) -> Vec<String> {
    lines(path)
        .iter()
        .map(|line| line["object"].as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn what_was_recorded_is_there_after_the_stop_for_its_owner_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let expected: Vec<String> = (0..1000).map(|number| format!("o{number}")).collect();
    for half in expected.chunks(500) {
        let log = AuditLog::start(&path, &Config::default()).expect("starts");
        for object in half {
            log.record(record(object));
        }
        assert!(log.stop(LONG));
        // Too late: counted, and without effect.
        log.record(record("late"));
    }
    append(&path, record("other process")).expect("appended");
    let mut found = objects(&path);
    assert_eq!(found.pop().as_deref(), Some("other process"));
    assert_eq!(found, expected);
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn files_are_bounded_in_size_and_number_and_hold_the_latest() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let config = Config {
        files: 3,
        ..Config::default()
    };
    let mut files = Files::open(&path, &config).expect("opens");
    files.limit = 1000;
    for number in 0..200 {
        let line = record(&format!("o{number}")).line();
        files.append(&line).expect("written");
    }
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .expect("listed")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
    let mut kept = Vec::new();
    for name in names.iter().rev() {
        let file = directory.path().join(name);
        assert!(fs::metadata(&file).expect("there").len() <= 1000, "{name}");
        kept.extend(objects(&file));
    }
    let all: Vec<String> = (0..200).map(|number| format!("o{number}")).collect();
    assert!(kept.len() > 10 && all.ends_with(&kept), "{kept:?}");
}

#[test]
fn a_single_file_begins_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let config = Config {
        files: 1,
        ..Config::default()
    };
    let mut files = Files::open(&path, &config).expect("opens");
    files.limit = 200;
    for number in 0..20 {
        let line = record(&format!("o{number}")).line();
        files.append(&line).expect("written");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    assert_eq!(objects(&path).last().map(String::as_str), Some("o19"));
}

/// Processes that append while the log is rotated every few lines lose nothing of theirs,
/// also where no old file is kept.
#[test]
fn what_others_append_is_in_a_file_that_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let config = Config {
        files: 2,
        ..Config::default()
    };
    let mut files = Files::open(&path, &config).expect("opens");
    files.limit = 400;
    // Opened before a rotation, written after: what a process that was slow would do.
    let rounds = 200;
    for round in 0..rounds {
        let barrier = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                barrier.wait();
                append(&path, record(&format!("other{round}"))).expect("appended");
            });
            barrier.wait();
            files.rotate();
            other.join().expect("appended");
        });
        let mut kept = objects(&path);
        kept.extend(objects(&directory.path().join("audit.log.1")));
        assert!(kept.contains(&format!("other{round}")), "{round}: {kept:?}");
    }
}

#[test]
fn a_file_that_somebody_appends_to_is_rotated_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let config = Config {
        files: 1,
        ..Config::default()
    };
    let mut files = Files::open(&path, &config).expect("opens");
    files.append(&record("mine").line()).expect("written");
    let mut other = open_locked(&path).expect("opens");
    files.rotate();
    other.write_all(&record("other").line()).expect("written");
    assert_eq!(objects(&path), ["mine", "other"], "not rotated meanwhile");
    drop(other);
    files.rotate();
    assert_eq!(objects(&path), [""; 0]);
}

#[test]
fn a_loud_team_is_joined_and_a_quiet_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let log = AuditLog::start(&path, &Config::default()).expect("starts");
    let of = |team: &str, object: &str| Record {
        team: Some(team.to_owned()),
        ..record(object)
    };
    for _ in 0..4000 {
        log.record(of("loud", "many"));
    }
    log.record(of("quiet", "one"));
    assert!(log.stop(LONG));
    let found = lines(&path);
    let counted = |team: &str| {
        let own = found.iter().filter(|line| line["team"] == team);
        own.map(|line| line["count"].as_u64().unwrap_or(1))
            .sum::<u64>()
    };
    assert_eq!((counted("loud"), counted("quiet")), (4000, 1));
    assert!(found.len() < 2100, "{}", found.len());
}

#[test]
fn a_line_that_was_cut_off_spoils_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    fs::write(&path, "{\"time\":\"20").expect("written");
    let mut files = Files::open(&path, &Config::default()).expect("opens");
    for object in ["a", "b"] {
        files.append(&record(object).line()).expect("written");
    }
    let text = fs::read_to_string(&path).expect("readable");
    let whole: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(whole.len(), 2, "{text}");
    for line in whole {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
}

#[test]
fn what_is_lost_is_counted_and_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let lost = Arc::new(AtomicU64::new(7));
    let mut writer = Writer {
        files: Files::open(&path, &Config::default()).expect("opens"),
        budgets: Budgets::default(),
        lost: Arc::clone(&lost),
        failing: false,
    };
    // A file that takes nothing, as on a full disk.
    let full = OpenOptions::new().write(true).open("/dev/full");
    let good = std::mem::replace(&mut writer.files.file, full.expect("/dev/full"));
    for _ in 0..3 {
        assert!(!writer.write(record("gone")));
        writer.tell_lost();
    }
    assert_eq!(lost.load(Ordering::Relaxed), 10);
    writer.files.file = good;
    assert!(writer.write(record("there")));
    writer.tell_lost();
    writer.tell_lost();
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    let found = lines(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1]["event"], "lost");
    assert_eq!(found[1]["count"], 10);
}

#[test]
fn a_full_queue_loses_records_instead_of_waiting() {
    let (sender, receiver) = mpsc::sync_channel(2);
    let (_end, ended) = mpsc::channel();
    let log = AuditLog {
        sender: Mutex::new(Some(sender)),
        lost: Arc::default(),
        ended: Mutex::new(ended),
    };
    for _ in 0..5 {
        log.record(record("x"));
    }
    assert_eq!(log.lost.load(Ordering::Relaxed), 3);
    assert_eq!(receiver.try_iter().count(), 2);
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let mut files = Files::open(&path, &Config::default()).expect("opens");
    files.append(&record("before").line()).expect("written");
    fs::rename(&path, directory.path().join("elsewhere")).expect("moved");
    files.sync();
    files.append(&record("after").line()).expect("written");
    assert_eq!(objects(&path), ["after"]);
}
