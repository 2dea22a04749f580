//! What the sandbox's log says about processes: that one started and how it ended.
//!
//! Command lines are shown without what looks like a secret ([`redact`]). Whoever does
//! not rely on that sets [`SWITCH`] to `off`, for one command or for the sandbox: then
//! neither the command line nor the output is logged, only that something ran.

use hearth_guest_proto::process::ProcessConfig;

use super::{Exit, Process, redact};
use crate::settings::Settings;
use crate::telemetry::{Level, Log, Origin};
use crate::users::User;

/// The environment variable that keeps a command out of the log. Every value but `on`
/// does, so that a misspelt one errs on the safe side.
pub const SWITCH: &str = "HEARTH_COMMAND_LOG";
/// Arguments may be long, and may be many.
const MAX_COMMAND: usize = 1024;

/// Whether the command and its output may be logged.
pub fn is_wanted(config: &ProcessConfig, settings: &Settings) -> bool {
    let own = config.envs.get(SWITCH).map(String::as_str);
    let shared = || {
        let mut environment = settings.environment();
        environment.find(|(name, _)| *name == SWITCH)
    };
    own.or_else(|| shared().map(|(_, value)| value))
        .is_none_or(|value| value.eq_ignore_ascii_case("on"))
}

pub fn start(log: &Log, process: &Process, user: &User) {
    let command = process.logged.then(|| {
        let mut command = redact::command_line(&process.config);
        if command.len() > MAX_COMMAND {
            command.truncate(command.floor_char_boundary(MAX_COMMAND));
            command.push('…');
        }
        ("command", command)
    });
    let fields = [
        ("pid", process.pid.to_string()),
        ("user", user.name.clone()),
    ];
    let tag = process.tag.clone().map(|tag| ("tag", tag));
    let fields = fields.into_iter().chain(command).chain(tag);
    log.write(Level::Info, Origin::Process, "process started", fields);
}

pub fn end(log: &Log, process: &Process, exit: Exit) {
    let fields = [("pid", process.pid.to_string()), ("status", exit.status())];
    log.write(Level::Info, Origin::Process, "process ended", fields);
}
