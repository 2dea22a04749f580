//! The audit log of this machine: the daemon's own, and what its owner does at the
//! command line, with or without a daemon.

use crate::settings::Settings;
use anyhow::Context;
use hearth_audit::{AuditLog, Event, Outcome, Record};
use hearth_ids::TeamId;
use std::{sync::Arc, time::Duration};

/// The daemon's log, unless the settings switch it off.
pub fn start(settings: &Settings) -> anyhow::Result<Option<Arc<AuditLog>>> {
    if !settings.audit.enabled {
        return Ok(None);
    }
    match AuditLog::start(&settings.audit_log(), &settings.audit.config()) {
        Ok(log) => Ok(Some(Arc::new(log))),
        // A start needs no room on the disk: running sandboxes come before the log.
        Err(error) if error.is_storage_full() => {
            tracing::error!(%error, "start the audit log failed: the disk is full; there is none until the next start");
            Ok(None)
        }
        Err(error) => Err(error).context("start the audit log"),
    }
}

/// Waits until everything is written, at most `limit`.
pub async fn stop(log: Option<Arc<AuditLog>>, limit: Duration) {
    let Some(log) = log else {
        return;
    };
    let written = tokio::task::spawn_blocking(move || log.stop(limit)).await;
    if !matches!(written, Ok(true)) {
        tracing::warn!("the audit log was not written to its end in time");
    }
}

/// What the owner of this machine did.
pub struct Action {
    name: &'static str,
    user: String,
    team: Option<TeamId>,
    object: String,
}

impl Action {
    /// By this process's user. `name` is noun and verb, such as `key.create`.
    pub fn new(name: &'static str, team: Option<TeamId>, object: String) -> Self {
        Self {
            name,
            user: user(),
            team,
            object,
        }
    }

    /// Asked for at the daemon's admin socket, which root alone may use.
    pub fn at_socket(name: &'static str, object: String) -> Self {
        Self {
            name,
            user: "admin.sock".to_owned(),
            team: None,
            object,
        }
    }
}

/// Writes an owner's action down. That it was done does not depend on it, so a failure
/// is only told.
pub fn operator(settings: &Settings, action: Action, done: bool) {
    if !settings.audit.enabled {
        return;
    }
    let record = Record {
        user: Some(action.user),
        action: Some(action.name),
        team: action.team.map(|team| team.to_string()),
        object: Some(action.object),
        outcome: Some(match done {
            true => Outcome::Done,
            false => Outcome::Failed,
        }),
        ..Record::new(Event::Operator)
    };
    if let Err(error) = hearth_audit::append(&settings.audit_log(), record) {
        let error = anyhow::Error::from(error);
        tracing::warn!("write an action into the audit log failed: {error:#}");
    }
}

/// Whoever is behind `sudo`, else this process's user.
fn user() -> String {
    let behind = std::env::var("SUDO_USER").ok();
    behind.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        match rustix::process::getuid().as_raw() {
            0 => "root".to_owned(),
            uid => format!("uid:{uid}"),
        }
    })
}
