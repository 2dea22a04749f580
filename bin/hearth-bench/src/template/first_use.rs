//! Create to the first result: of `1+1` by the code interpreter, and of a command,
//! in turns upon the same template.

use crate::installation::Installation;
use anyhow::Context;
use hearth_client::{Command, ControlClient, NewSandbox, SandboxClient, SandboxId};
use hearth_measure::{Report, Samples};
use std::time::{Duration, Instant};

pub const CODE: &str = "create → first run_code";
pub const COMMAND: &str = "create → first command";
const INTERPRETER_PORT: u16 = 49999;
/// Seconds that a sandbox lives if its kill never arrives.
const LIFETIME_SECONDS: i64 = 120;
/// More than the answer to a sum.
const MAX_ANSWER: usize = 64 << 10;

pub async fn measure(
    installation: &Installation,
    template: &str,
    runs: usize,
    pause: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let control = installation.client()?;
    let [
        mut code,
        mut command,
        mut code_alone,
        mut command_alone,
        mut second,
    ] = std::array::from_fn(|_| Samples::default());
    for run in 0..=runs {
        let (created, all, _) = once(&control, template, false).await?;
        tokio::time::sleep(pause).await;
        let (code_created, code_all, again) = once(&control, template, true).await?;
        tokio::time::sleep(pause).await;
        // The first ones warm the machine up.
        if run > 0 {
            command.push(all);
            command_alone.push(all - created);
            code.push(code_all);
            code_alone.push(code_all - code_created);
            second.push(again);
        }
    }
    report.push(COMMAND, &command);
    report.push(CODE, &code);
    report.push("first command alone", &command_alone);
    report.push("first run_code alone", &code_alone);
    report.push("second run_code", &second);
    Ok(())
}

/// Times until the sandbox was there and until it was used, and of a second use.
async fn once(
    control: &ControlClient,
    template: &str,
    by_code: bool,
) -> anyhow::Result<(Duration, Duration, Duration)> {
    let new = NewSandbox {
        template_id: template.to_owned(),
        timeout: Some(LIFETIME_SECONDS),
        ..NewSandbox::default()
    };
    let begun = Instant::now();
    let made = control.sandbox_create(&new).await;
    let made = made.with_context(|| {
        format!("create a sandbox of {template} (`hearth template prepare code-interpreter`)")
    })?;
    let created = begun.elapsed();
    let id = SandboxId::parse_client(&made.sandbox_id)?;
    let sandbox = control.sandbox_client(&made)?;
    let used = async {
        use_once(&sandbox, by_code).await?;
        let all = begun.elapsed();
        let again = Instant::now();
        use_once(&sandbox, by_code).await?;
        anyhow::Ok((created, all, again.elapsed()))
    };
    let used = used.await;
    control.sandbox_kill(&id).await?;
    used
}

async fn use_once(sandbox: &SandboxClient, by_code: bool) -> anyhow::Result<()> {
    if by_code {
        let body = serde_json::json!({ "code": "1+1" });
        let answer = sandbox
            .post_json(INTERPRETER_PORT, "/execute", &body, MAX_ANSWER)
            .await
            .context("run code")?;
        let two = answer
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
            .any(|line| line["type"] == "result" && line["text"] == "2");
        anyhow::ensure!(two, "1+1 is {}", String::from_utf8_lossy(&answer));
    } else {
        let output = sandbox.run(Command::shell("echo 2")).await?;
        anyhow::ensure!(output.stdout == b"2\n"[..], "a command failed");
    }
    Ok(())
}
