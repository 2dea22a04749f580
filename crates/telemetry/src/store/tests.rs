use super::*;
use chrono::TimeDelta;
use hearth_control::LogLevel;
use std::collections::BTreeMap;

fn entry(seconds: i64, level: LogLevel, message: &str) -> LogEntry {
    LogEntry {
        timestamp: DateTime::from_timestamp(1_000_000 + seconds, 0).expect("a time"),
        level,
        message: message.to_owned(),
        fields: BTreeMap::from([("logger".to_owned(), "process".to_owned())]),
    }
}

fn sample(at: DateTime<Utc>) -> AgentMetrics {
    AgentMetrics {
        at,
        cpu_count: 2,
        cpu_used_pct: 12.5,
        mem_used: 1,
        mem_total: 2,
        mem_cache: 3,
        disk_used: 4,
        disk_total: 5,
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    id: SandboxId,
    team: TeamId,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path().join("telemetry"), limits).expect("a store");
        Self {
            _directory: directory,
            store,
            id: SandboxId::random(),
            team: TeamId::random(),
        }
    }

    fn writer(&self) -> Writer {
        self.store.writer(&self.id, self.team).expect("a writer")
    }

    fn messages(&self, query: LogQuery) -> Vec<String> {
        let entries = self.store.read_log(&self.id, &query).expect("read");
        entries.into_iter().map(|entry| entry.message).collect()
    }
}

#[test]
fn logs_are_asked_for_in_both_directions() {
    let fixture = Fixture::new(Limits::default());
    let entries = [
        entry(1, LogLevel::Info, "first"),
        entry(2, LogLevel::Error, "second \u{1f980}\n line"),
        entry(3, LogLevel::Debug, "third"),
    ];
    fixture.writer().log(&entries).expect("written");
    let forward = LogQuery {
        direction: LogDirection::Forward,
        ..LogQuery::default()
    };
    assert_eq!(
        fixture.messages(forward.clone()),
        ["first", "second \u{1f980}\n line", "third"]
    );
    let backward = LogQuery {
        limit: 2,
        ..LogQuery::default()
    };
    assert_eq!(
        fixture.messages(backward),
        ["third", "second \u{1f980}\n line"]
    );
    let cursor = Some(entries[1].timestamp);
    let from = LogQuery {
        cursor,
        ..forward.clone()
    };
    assert_eq!(fixture.messages(from).len(), 2);
    let until = LogQuery {
        cursor,
        ..LogQuery::default()
    };
    assert_eq!(
        fixture.messages(until),
        ["second \u{1f980}\n line", "first"]
    );
    let grave = LogQuery {
        least_level: Some(LogLevel::Warn),
        ..forward.clone()
    };
    assert_eq!(fixture.messages(grave).len(), 1);
    let found = LogQuery {
        search: Some("ir".to_owned()),
        ..forward
    };
    assert_eq!(fixture.messages(found), ["first", "third"]);
    let last = u64::try_from(entries[2].timestamp.timestamp_micros()).expect("positive");
    assert_eq!(fixture.store.last_id(&fixture.id).expect("read"), last);
}

#[test]
fn samples_are_thinned_out_evenly() {
    let fixture = Fixture::new(Limits::default());
    let start = DateTime::from_timestamp(1_000_000, 0).expect("a time");
    let mut writer = fixture.writer();
    for number in 0..100 {
        writer
            .sample(&sample(start + TimeDelta::seconds(number)))
            .expect("written");
    }
    let read = |from: i64, to: i64, most| {
        let (from, to) = (
            start + TimeDelta::seconds(from),
            start + TimeDelta::seconds(to),
        );
        fixture
            .store
            .read_samples(&fixture.id, Some(from), Some(to), most)
            .expect("read")
    };
    assert_eq!(read(10, 19, 1000).len(), 10);
    assert_eq!(read(10, 10, 1000), [sample(start + TimeDelta::seconds(10))]);
    let thin = read(0, 99, 30);
    assert_eq!(thin.len(), 25);
    assert_eq!(
        thin.last().map(|last| last.at),
        Some(start + TimeDelta::seconds(99))
    );
    assert!(read(200, 300, 10).is_empty());
}

#[test]
fn the_owner_is_the_first_one() {
    let fixture = Fixture::new(Limits::default());
    assert_eq!(fixture.store.read_owner(&fixture.id), None);
    drop(fixture.writer());
    let other = fixture.store.writer(&fixture.id, TeamId::random());
    drop(other.expect("a writer"));
    assert_eq!(fixture.store.read_owner(&fixture.id), Some(fixture.team));
}

#[test]
fn the_oldest_is_forgotten_first() {
    let limits = Limits {
        total_bytes: 0,
        ..Limits::default()
    };
    let fixture = Fixture::new(limits);
    fixture
        .writer()
        .log(&[entry(1, LogLevel::Info, "x")])
        .expect("written");
    fixture.store.prune(SystemTime::now()).expect("pruned");
    assert!(fixture.messages(LogQuery::default()).is_empty());

    let fixture = Fixture::new(Limits::default());
    fixture
        .writer()
        .log(&[entry(1, LogLevel::Info, "x")])
        .expect("written");
    fixture.store.prune(SystemTime::now()).expect("pruned");
    assert_eq!(fixture.messages(LogQuery::default()), ["x"]);
    let later = SystemTime::now() + Limits::default().keep + Duration::from_secs(60);
    fixture.store.prune(later).expect("pruned");
    assert!(fixture.messages(LogQuery::default()).is_empty());
}

#[test]
fn events_stand_among_the_log_in_their_order_and_within_their_bound() {
    let fixture = Fixture::new(Limits {
        event_segment_bytes: 4096,
        ..Limits::default()
    });
    let (id, team) = (&fixture.id, fixture.team);
    let event = |seconds, message: &str| {
        let entries = [entry(seconds, LogLevel::Info, message)];
        fixture.store.add_events(id, team, &entries).expect("added");
    };
    event(2, "b");
    let entries = [entry(1, LogLevel::Info, "a"), entry(3, LogLevel::Info, "c")];
    fixture.writer().log(&entries).expect("written");
    event(4, "d");
    let all = LogQuery {
        direction: LogDirection::Forward,
        ..LogQuery::default()
    };
    assert_eq!(fixture.messages(all.clone()), ["a", "b", "c", "d"]);
    // Where the stream goes on is its own affair.
    assert_eq!(fixture.store.last_id(id).expect("read"), 1_000_003_000_000);

    for seconds in 10..500 {
        event(seconds, "noise");
    }
    let directory = fixture.store.directory(id);
    let size = |name: &str| std::fs::metadata(directory.join(name)).map_or(0, |it| it.len());
    assert!(size("events.ndjson") + size("events.ndjson.old") <= 2 * 4096);
    let messages = fixture.messages(all);
    assert!(messages.contains(&"a".to_owned()) && messages.contains(&"c".to_owned()));
}

#[test]
fn what_sandboxes_told_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new(Limits::default());
    let mode = std::fs::metadata(&fixture.store.root)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}
