//! What sandboxes used.

use super::Shared;
use crate::{Execution, LoadStep, Span, Usage};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{SandboxId, TeamId, TemplateId};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("is in range")
}

fn span(start: i64, end: i64) -> Span {
    Span {
        start: at(start),
        end: at(end),
    }
}

fn ran(team: TeamId, from: i64, until: Option<i64>) -> Execution {
    Execution {
        sandbox_id: SandboxId::random(),
        started_at: at(from),
        team_id: team,
        template_id: TemplateId::random(),
        vcpus: 2,
        memory_mib: 512,
        ended_at: until.map(at),
    }
}

/// So many executions that ran so many seconds together.
fn used(executions: u64, seconds: u64) -> Usage {
    Usage {
        executions,
        vcpu_ms: seconds * 2000,
        memory_mib_ms: seconds * 512_000,
    }
}

/// Told in whichever order and however often, each second is counted once, where it was.
pub async fn what_ran_is_counted_once(store: Shared) {
    let (team, other) = (TeamId::random(), TeamId::random());
    let first = ran(team, 100, Some(160));
    let begun = Execution {
        ended_at: None,
        ..first.clone()
    };
    // Told of as missing, and of an end later than it was.
    let late = Execution {
        ended_at: Some(at(170)),
        ..first.clone()
    };
    for told in [&late, &begun, &first, &begun, &first, &late] {
        let told = std::slice::from_ref(told);
        store.execution_record(told).await.expect("records");
    }
    let again = Execution {
        started_at: at(200),
        ended_at: Some(at(210)),
        ..first.clone()
    };
    let rest = [again, ran(team, 150, None), ran(other, 0, Some(1000))];
    store.execution_record(&rest).await.expect("records");

    let of = |from, until| store.usage_by_team(span(from, until), Some(team));
    // 60 of the first, 10 of its second time, 150 of what still runs.
    assert_eq!(of(0, 300).await.expect("sums"), [(team, used(3, 220))]);
    assert_eq!(of(110, 120).await.expect("sums"), [(team, used(1, 10))]);
    // Spans side by side make up the whole.
    assert_eq!(of(0, 155).await.expect("sums"), [(team, used(2, 60))]);
    assert_eq!(of(155, 300).await.expect("sums"), [(team, used(3, 160))]);
    assert_eq!(of(0, 100).await.expect("sums"), []);
    let all = store.usage_by_team(span(0, 300), None).await.expect("sums");
    assert_eq!(all.len(), 2);
    assert!(all.contains(&(other, used(1, 300))));

    let page = |after: Option<SandboxId>| {
        let store = store.clone();
        async move {
            let of = store.usage_by_sandbox(span(0, 300), team, after.as_ref(), 1);
            of.await.expect("sums")
        }
    };
    let mut seen = page(None).await;
    seen.extend(page(Some(seen[0].0.clone())).await);
    assert_eq!(page(Some(seen[1].0.clone())).await, []);
    assert!(seen.contains(&(first.sandbox_id, used(2, 70))));
    assert!(seen.contains(&(rest[1].sandbox_id.clone(), used(1, 150))));
}

/// What no node has any more is counted until that was noticed, until its end is told.
pub async fn what_is_missing_is_not_counted_on(store: Shared) {
    let team = TeamId::random();
    let lost = ran(team, 0, None);
    let told = std::slice::from_ref(&lost);
    store.execution_record(told).await.expect("records");
    let sum = || async {
        let sums = store.usage_by_team(span(0, 1000), Some(team)).await;
        sums.expect("sums")[0].1
    };
    let open = || store.execution_list_open(at(-1), 10);
    let set = |since: Option<i64>| {
        store.execution_set_missing(&lost.sandbox_id, lost.started_at, since.map(at))
    };
    set(Some(400)).await.expect("notes");
    assert_eq!(sum().await, used(1, 400));
    let listed = open().await.expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].missing_since, Some(at(400)));
    set(None).await.expect("notes");
    assert_eq!(sum().await, used(1, 1000));
    set(Some(400)).await.expect("notes");
    let ended = Execution {
        ended_at: Some(at(300)),
        ..lost.clone()
    };
    store.execution_record(&[ended]).await.expect("records");
    set(Some(500)).await.expect("notes");
    assert_eq!(sum().await, used(1, 300));
    assert_eq!(open().await.expect("lists"), []);
}

/// Starts, ends and the most at the same time are told of a team.
pub async fn a_teams_load_is_told(store: Shared) {
    let team = TeamId::random();
    let all = [
        ran(team, -50, Some(25)),
        ran(team, 5, Some(15)),
        ran(team, 15, None),
        ran(TeamId::random(), 0, None),
    ];
    store.execution_record(&all).await.expect("records");
    let load = store.team_load(span(0, 40), team, 10_000).await;
    let load = load.expect("counts");
    assert_eq!(load.running, 1);
    let step = |step, started, ended| LoadStep {
        step,
        started,
        ended,
    };
    assert_eq!(load.steps, [step(0, 1, 0), step(1, 1, 1), step(2, 0, 1)]);
    let peak = |from, until| store.team_peak(span(from, until), team);
    // One ends in the moment in which another one starts: they were two, never three.
    assert_eq!(peak(0, 40).await.expect("looks"), Some((at(5), 2)));
    assert_eq!(peak(30, 40).await.expect("looks"), Some((at(30), 1)));
    assert_eq!(peak(-99, -60).await.expect("looks"), None);
}

/// Old executions are deleted, and what runs is not, however old it is.
pub async fn old_executions_are_deleted(store: Shared) {
    let team = TeamId::random();
    let all = [
        ran(team, 0, Some(10)),
        ran(team, 0, None),
        ran(team, 50, Some(90)),
    ];
    store.execution_record(&all).await.expect("records");
    let mut gone = 0;
    loop {
        let now = store.execution_prune(at(60)).await.expect("deletes");
        gone += now;
        if now == 0 {
            break;
        }
    }
    assert_eq!(gone, 1);
    let left = store.usage_by_team(span(0, 100), Some(team)).await;
    assert_eq!(left.expect("sums"), [(team, used(2, 140))]);
    let none = store
        .execution_list_open(at(0) + TimeDelta::hours(1), 9)
        .await;
    assert_eq!(none.expect("lists"), []);
}
