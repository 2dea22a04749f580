use super::*;
use crate::{
    journal::{Found, Paused},
    listing::tests::status,
};
use hearth_ids::{BuildId, TeamId};
use std::{fs, path::Path};

/// A directory with journals and an outbox in it.
struct Place {
    directory: tempfile::TempDir,
    journals: Journals,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let journals = Journals::open(directory.path().join("sandboxes")).expect("opened");
        Self {
            directory,
            journals,
        }
    }

    fn events(&self) -> &Path {
        self.directory.path()
    }

    fn outbox(&self) -> Outbox {
        Outbox::open(self.events().join("events")).expect("opened")
    }

    fn record(&self) -> Record {
        let status = status(TeamId::random(), SandboxState::Starting, 1);
        let mut spec = (*status.spec).clone();
        spec.network_json.clear();
        spec.env_vars.clear();
        let record = Record::new(spec, status.started_at, status.end_at);
        self.journals.create(&record).expect("written");
        record
    }

    /// What a daemon finds that starts now.
    fn found(&self) -> Record {
        match self.journals.scan().expect("scanned").remove(0) {
            Found::Readable(record) => *record,
            other => panic!("not readable: {other:?}"),
        }
    }
}

fn kinds(outbox: &Outbox) -> Vec<(EventKind, u64)> {
    let found = outbox.oldest(usize::MAX).into_iter();
    found
        .map(|(_, told)| (told.event.kind, told.event.sequence))
        .collect()
}

fn tell(place: &Place, outbox: &Outbox, record: &mut Record, kind: EventKind) {
    let to = (&place.journals, outbox);
    let event = (kind, Details::reason(reason::REQUEST));
    commit(to, record, event, Durability::Daemon).expect("written");
}

#[test]
fn an_event_outlives_its_daemon_until_it_is_acknowledged() {
    let place = Place::new();
    let outbox = place.outbox();
    let mut record = place.record();
    tell(&place, &outbox, &mut record, EventKind::Created);
    tell(&place, &outbox, &mut record, EventKind::Updated);
    drop(outbox);
    let outbox = place.outbox();
    let wanted = [(EventKind::Created, 1), (EventKind::Updated, 2)];
    assert_eq!(kinds(&outbox), wanted);
    let found = outbox.oldest(1);
    assert_eq!(found.len(), 1, "one at least, and no more than fit");
    let (number, told) = &found[0];
    assert_eq!(told.sandbox_id, record.spec.sandbox_id);
    assert_eq!(told.metadata, record.spec.metadata);
    outbox.acknowledge(&[*number, 7]);
    assert_eq!(kinds(&outbox), wanted[1..]);
    assert_eq!(kinds(&place.outbox()), wanted[1..]);
    tell(&place, &outbox, &mut record, EventKind::Killed);
    let order: Vec<u64> = outbox.oldest(usize::MAX).iter().map(|(n, _)| *n).collect();
    assert!(order.is_sorted() && order[0] > *number, "{order:?}");
}

/// Killed after the journal, before the outbox: the next daemon posts the very event.
#[test]
fn an_event_that_was_only_journalled_is_posted_by_the_next_daemon() {
    let place = Place::new();
    let mut record = place.record();
    record.note(EventKind::Created, Details::default());
    place.journals.write(&record).expect("written");
    let mut found = place.found();
    let outbox = place.outbox();
    assert!(post(&outbox, &mut found));
    assert_eq!(kinds(&outbox), [(EventKind::Created, 1)]);
    // What is posted once is not posted again by the same daemon.
    assert!(post(&outbox, &mut found));
    assert_eq!(kinds(&outbox).len(), 1);
    // The next one does that, with the same name, and it is in the journal until then.
    let mut again = place.found();
    assert!(post(&outbox, &mut again));
    let told = outbox.oldest(usize::MAX);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].1, told[1].1);
    // After the next change the journal holds that alone.
    tell(&place, &outbox, &mut again, EventKind::Updated);
    let mut last = place.found();
    let other = Outbox::open(place.events().join("other")).expect("opened");
    assert!(post(&other, &mut last));
    assert_eq!(kinds(&other), [(EventKind::Updated, 2)]);
}

#[test]
fn times_rise_whatever_the_clock_does_and_name_the_execution() {
    let place = Place::new();
    let mut record = place.record();
    for _ in 0..5 {
        record.note(EventKind::Updated, Details::default());
    }
    let pending = record.unposted();
    let times: Vec<_> = pending.iter().map(|told| told.event.at).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert_eq!(pending[0].event.execution_id, record.execution_id);
    for _ in 0..MAX_PENDING {
        record.note(EventKind::Updated, Details::default());
    }
    assert_eq!(record.unposted().len(), MAX_PENDING);
}

#[test]
fn what_a_daemon_had_no_time_to_tell_is_told_by_the_next() {
    let place = Place::new();
    let outbox = place.outbox();
    let mut record = place.record();
    catch_up(&mut record);
    assert!(
        record.events.is_empty(),
        "of one that is being made nothing is"
    );
    tell(&place, &outbox, &mut record, EventKind::Created);
    record.set_paused(Paused {
        build: BuildId::random(),
        with_memory: true,
        at: Utc::now(),
    });
    for _ in 0..2 {
        catch_up(&mut record);
        post(&outbox, &mut record);
    }
    record.state = SandboxState::Running;
    for _ in 0..2 {
        catch_up(&mut record);
        post(&outbox, &mut record);
    }
    let wanted = [
        (EventKind::Created, 1),
        (EventKind::Paused, 2),
        (EventKind::Resumed, 3),
    ];
    assert_eq!(kinds(&outbox), wanted);
}

#[test]
fn an_outbox_goes_on_without_what_is_damaged_and_without_a_disk() {
    let place = Place::new();
    let outbox = place.outbox();
    let mut record = place.record();
    tell(&place, &outbox, &mut record, EventKind::Created);
    let directory = place.events().join("events");
    let entry = fs::read_dir(&directory).expect("lists").next();
    let path = entry.expect("one").expect("reads").path();
    fs::write(&path, "{").expect("written");
    tell(&place, &outbox, &mut record, EventKind::Updated);
    assert_eq!(kinds(&outbox), [(EventKind::Updated, 2)]);
    assert!(path.with_extension("damaged").exists(), "is left aside");

    fs::remove_dir_all(&directory).expect("removed");
    record.note(EventKind::Killed, Details::default());
    assert!(!post(&outbox, &mut record), "only in memory");
    let found = outbox.oldest(usize::MAX);
    let killed = found.last().expect("one");
    assert_eq!(killed.1.event.kind, EventKind::Killed);
    fs::create_dir(&directory).expect("made");
    assert!(post(&outbox, &mut record), "there is room again");
}
