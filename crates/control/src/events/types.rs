//! The types of events.

use crate::error::Error;

pub const CREATED: &str = "sandbox.lifecycle.created";
pub const UPDATED: &str = "sandbox.lifecycle.updated";
pub const PAUSED: &str = "sandbox.lifecycle.paused";
pub const RESUMED: &str = "sandbox.lifecycle.resumed";
pub const CHECKPOINTED: &str = "sandbox.lifecycle.checkpointed";
pub const FORKED: &str = "sandbox.lifecycle.forked";
pub const ROLLED_BACK: &str = "sandbox.lifecycle.rolled_back";
pub const KILLED: &str = "sandbox.lifecycle.killed";
pub const BUILD_READY: &str = "template.build.ready";
pub const BUILD_FAILED: &str = "template.build.failed";
/// Told where a webhook is disabled for failing.
pub const WEBHOOK_DISABLED: &str = hearth_webhooks::DISABLED_EVENT;

/// All of them.
pub const ALL: [&str; 11] = [
    CREATED,
    UPDATED,
    PAUSED,
    RESUMED,
    CHECKPOINTED,
    FORKED,
    ROLLED_BACK,
    KILLED,
    BUILD_READY,
    BUILD_FAILED,
    WEBHOOK_DISABLED,
];

/// Refuses what is no type.
pub(crate) fn check(field: &str, event_type: &str) -> Result<(), Error> {
    if ALL.contains(&event_type) {
        return Ok(());
    }
    let shown: String = event_type.chars().take(64).collect();
    let all = ALL.join(", ");
    Err(Error::invalid(
        field,
        format_args!("{shown:?} is not one of {all}"),
    ))
}
