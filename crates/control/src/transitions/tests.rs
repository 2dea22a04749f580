use super::*;
use proptest::prelude::*;

const STATES: [State; 8] = [
    State::Starting,
    State::Running,
    State::Pausing,
    State::Paused,
    State::Resuming,
    State::Snapshotting,
    State::RollingBack,
    State::Killing,
];
const REQUESTS: [Request; 7] = [
    Request::Pause,
    Request::Connect,
    Request::Resume,
    Request::Snapshot,
    Request::Fork,
    Request::Rollback,
    Request::Change,
];

/// At rest a request is carried out or refused: waiting would have no end.
#[test]
fn nobody_waits_for_a_sandbox_at_rest() {
    for state in [
        State::Starting,
        State::Running,
        State::Paused,
        State::Killing,
    ] {
        for request in REQUESTS {
            let step = decide(request, state);
            assert!(
                matches!(step, Step::Go | Step::Refuse(_)),
                "{request:?} in {state:?}: {step:?}"
            );
        }
    }
}

/// Under way nothing is carried out: each way has the sandbox to itself.
#[test]
fn nothing_is_carried_out_on_the_way() {
    for state in STATES {
        let resting = matches!(state, State::Running | State::Paused);
        for request in REQUESTS {
            assert!(resting || decide(request, state) != Step::Go);
        }
    }
}

/// Only a request for the same end joins; all that join end with that state.
#[test]
fn those_who_join_want_where_the_way_leads() {
    for state in STATES {
        for request in REQUESTS {
            if decide(request, state) == Step::Join {
                assert_eq!(State::from(request.way()), state, "{request:?}");
            }
        }
    }
}

#[test]
fn refusals_have_the_documented_texts() {
    let id: SandboxId = "iabcdefghij0123456789".parse().expect("valid");
    let text = |request, state| match decide(request, state) {
        Step::Refuse(refusal) => refusal.error(&id).message,
        step => panic!("{step:?}"),
    };
    let named = |rest: &str| format!("Sandbox \"{id}\" {rest}");
    for (request, state, expected) in [
        (Request::Pause, State::Paused, named("is already paused")),
        (Request::Fork, State::Paused, named("is not running")),
        (Request::Change, State::Pausing, named("is being paused")),
        (Request::Connect, State::Killing, named("is being killed")),
        (
            Request::Resume,
            State::Snapshotting,
            named("is being snapshotted"),
        ),
        (
            Request::Resume,
            State::Killing,
            named("doesn't exist or you don't have access to it"),
        ),
        (
            Request::Change,
            State::Killing,
            named("doesn't exist or you don't have access to it"),
        ),
        (
            Request::Snapshot,
            State::Snapshotting,
            format!("Sandbox '{id}' cannot be snapshotted while in 'snapshotting' state"),
        ),
        (
            Request::Snapshot,
            State::Pausing,
            format!("Sandbox '{id}' cannot be snapshotted while in 'pausing' state"),
        ),
        (
            Request::Pause,
            State::Killing,
            named("cannot be paused while in 'killing' state"),
        ),
        (
            Request::Resume,
            State::Running,
            format!("Sandbox {id} is already running"),
        ),
        (
            Request::Pause,
            State::Starting,
            named("doesn't exist or you don't have access to it"),
        ),
    ] {
        assert_eq!(text(request, state), expected);
    }
}

#[tokio::test]
async fn who_joins_hears_the_outcome_and_a_way_given_up_is_looked_at_again() {
    let transitions = Arc::new(Transitions::default());
    let id = SandboxId::random();
    let ticket = transitions.begin(&id, Request::Pause).expect("is free");
    assert!(transitions.begin(&id, Request::Connect).is_none());
    let other = SandboxId::random();
    assert!(transitions.begin(&other, Request::Pause).is_some());
    let active = transitions.active(&id).expect("is on its way");
    assert_eq!(active.state(), State::Pausing);
    ticket.finish(Ok(Arrival::Paused));
    let heard = active.ended().await.expect("an outcome");
    assert!(matches!(heard, Ok(Arrival::Paused)));
    assert!(transitions.active(&id).is_none());

    let ticket = transitions.begin(&id, Request::Connect).expect("is free");
    let active = transitions.active(&id).expect("is on its way");
    drop(ticket);
    assert!(active.ended().await.is_none());
    assert!(transitions.begin(&id, Request::Pause).is_some());
    assert!(transitions.lock().is_empty(), "nothing is kept");
}

proptest! {
    /// However requests come and ways end, a sandbox is on one way at most, and
    /// everything that was begun can be begun again after it.
    #[test]
    fn one_way_at_a_time(steps in proptest::collection::vec((0usize..7, 0u8..3), 0..60)) {
        let transitions = Arc::new(Transitions::default());
        let id = SandboxId::random();
        let mut held: Option<Ticket> = None;
        for (request, act) in steps {
            match act {
                0 => {
                    let begun = transitions.begin(&id, REQUESTS[request]);
                    prop_assert_eq!(begun.is_some(), held.is_none());
                    held = held.or(begun);
                }
                1 => {
                    if let Some(ticket) = held.take() {
                        ticket.finish(Ok(Arrival::Kept));
                    }
                }
                _ => held = None,
            }
            prop_assert_eq!(transitions.active(&id).is_some(), held.is_some());
        }
    }
}
