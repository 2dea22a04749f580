//! What every backend of the store must do.
//!
//! Each test is a function that takes a fresh store. [`store_suite!`](crate::store_suite)
//! makes a test of each of them:
//!
//! ```ignore
//! async fn fresh() -> (Arc<dyn hearth_store::Store>, impl Sized) { … }
//! hearth_store::store_suite!(fresh);
//! ```
//!
//! What comes with the store (a directory, a server) is dropped after the test.

mod build_requests;
mod deliveries;
mod events;
mod idempotency;
mod leases;
mod node_identities;
mod nodes;
mod records;
mod snapshots;
mod teams;
mod templates;
mod usage;
mod volumes;

pub use build_requests::*;
pub use deliveries::*;
pub use events::*;
pub use idempotency::*;
pub use leases::*;
pub use node_identities::*;
pub use nodes::*;
pub use records::Shared;
pub use snapshots::*;
pub use teams::*;
pub use templates::*;
pub use usage::*;
pub use volumes::*;

/// Runs every function of the suite, each over a store of its own, which `$fresh` makes:
/// as a test each, or, with `in_turn`, all within the test where it stands.
#[macro_export]
macro_rules! store_suite {
    (in_turn $fresh:ident) => {
        $crate::store_suite!(@all in_turn $fresh);
    };
    ($fresh:ident) => {
        $crate::store_suite!(@all tests $fresh);
    };
    (@all $how:ident $fresh:ident) => {
        $crate::store_suite!(
            @$how $fresh:
            teams_are_kept,
            the_settings_do_not_undo_an_operators_limits,
            a_team_is_deleted_with_its_keys_and_not_with_templates,
            keys_are_found_until_they_are_revoked,
            a_keys_grant_is_kept,
            a_key_is_replaced_whole_or_not_at_all,
            templates_are_found_by_their_names,
            a_template_is_created_whole_or_not_at_all,
            of_a_tags_assignments_the_latest_holds,
            what_tags_named_is_known,
            builds_move_on_and_come_newest_first,
            a_deleted_template_takes_all_that_is_its_own,
            a_build_that_was_asked_for_ends_once,
            of_two_ends_of_a_build_one_wins,
            snapshots_are_templates_apart,
            a_snapshot_is_recorded_whole_or_not_at_all,
            builds_of_a_deleted_template_are_discarded,
            notes_of_the_dead_are_taken_over,
            a_snapshot_whose_note_was_taken_over_is_refused,
            a_key_is_claimed_once,
            only_the_holder_frees_a_key,
            claims_race,
            a_lease_is_its_holders_until_its_time_is_over,
            of_many_who_want_a_lease_one_gets_it,
            a_node_is_heard_until_its_lease_is_over,
            a_superseded_run_of_a_node_is_refused,
            nodes_are_listed_and_removed,
            a_cluster_has_one_id,
            a_token_admits_one_node_once,
            a_node_that_is_there_keeps_its_identity,
            of_many_who_use_a_token_one_gets_in,
            volumes_are_found_until_they_are_removed,
            a_team_has_no_more_volumes_than_it_may,
            unfinished_volumes_are_known,
            an_event_is_kept_once_and_found,
            old_events_are_deleted,
            webhooks_are_kept,
            deliveries_of_a_sandbox_wait_for_each_other,
            deliveries_are_listed,
            a_page_of_deliveries_is_bounded,
            deliveries_are_counted_and_begun_again,
            a_webhook_that_fails_for_long_is_disabled,
            the_end_of_a_build_is_an_event,
            what_ran_is_counted_once,
            what_is_missing_is_not_counted_on,
            a_teams_load_is_told,
            old_executions_are_deleted,
        );
    };
    (@tests $fresh:ident: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let (store, _with) = $fresh().await;
                $crate::testing::$name(store).await;
            }
        )+
    };
    (@in_turn $fresh:ident: $($name:ident),+ $(,)?) => {
        $(
            // The last line before a failure says in which one it is.
            println!("{}", stringify!($name));
            $crate::testing::$name($fresh().await).await;
        )+
    };
}
