//! Talking to the agent of a guest that is being made into a template.

use crate::{Error, progress::StageProgress};
use hearth_agent_client::{Agent, Command};
use hearth_util::chain;
use std::time::Duration;

const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long one warm-up line may take.
const LINE_LIMIT: Duration = Duration::from_secs(600);

/// Runs the lines one after another and then empties the guest's caches to disk.
pub(crate) async fn run(
    agent: &Agent,
    lines: &[String],
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let client = agent
        .client(CALL_LIMIT)
        .map_err(|error| guest(&chain(&error)))?;
    for line in lines.iter().map(String::as_str).chain(["sync"]) {
        progress.step(&format!("warm up: {line}"));
        let command = Command::shell(line).user("user").timeout(LINE_LIMIT);
        let output = client
            .run(command)
            .await
            .map_err(|error| guest(&format!("warm-up {line:?}: {}", chain(&error))))?;
        if output.exit.code != 0 {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(guest(&format!(
                "warm-up {line:?}: {}: {stderr}",
                output.exit.status
            )));
        }
    }
    Ok(())
}

fn guest(what: &dyn std::fmt::Display) -> Error {
    Error::Guest {
        what: what.to_string(),
        console: String::new(),
    }
}
