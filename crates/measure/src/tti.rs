//! Time to interactive: from asking for a sandbox to the first byte that code in it
//! has written.

use super::report::{Report, Samples};
use hearth_client::{
    Command, CommandEvent, CommandStream, ControlClient, Error, NewSandbox, SandboxId,
};
use std::time::{Duration, Instant};

const LINE: &str = "echo hi";
const EXPECTED: &[u8] = b"hi\n";
/// Seconds that a measured sandbox lives if its kill never arrives.
const LIFETIME_SECONDS: i64 = 120;

/// What to measure.
#[derive(Debug, Clone)]
pub struct TtiPlan {
    /// Name of the template.
    pub template: String,
    /// Sandboxes that are counted, one after another.
    pub runs: usize,
    /// Sandboxes before them that are not, so that caches are as in steady use.
    pub warmups: usize,
    /// Commands in each warm sandbox.
    pub execs: usize,
    /// Time between the end of one sandbox and the create of the next.
    pub pause: Duration,
}

impl Default for TtiPlan {
    fn default() -> Self {
        Self {
            template: "base".to_owned(),
            runs: 20,
            warmups: 1,
            execs: 3,
            pause: Duration::ZERO,
        }
    }
}

/// A measurement that did not finish.
#[derive(Debug, thiserror::Error)]
#[error("run {run}: {step}")]
pub struct TtiError {
    /// Counted from 1, warm-ups included.
    pub run: usize,
    /// What failed.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: Error,
}

#[derive(Default)]
struct Steps {
    create: Samples,
    tti: Samples,
    exec: Samples,
    kill: Samples,
}

/// Creates sandboxes one after another through the real API and measures, per
/// sandbox: `create` (call to answer), `tti` (call to the first byte of `echo hi` in
/// a login shell), `exec` (the same line in the warm sandbox, call to exit) and
/// `kill` (call to answer). `progress` is called with the runs that are done and all.
///
/// # Errors
/// The run and the step that failed; nothing is reported then.
pub async fn tti(
    control: &ControlClient,
    plan: &TtiPlan,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report, TtiError> {
    let total = plan.warmups + plan.runs;
    let mut steps = Steps::default();
    for run in 1..=total {
        if run == plan.warmups + 1 {
            steps = Steps::default();
        }
        measure(control, plan, &mut steps)
            .await
            .map_err(|(step, source)| TtiError { run, step, source })?;
        progress(run, total);
        tokio::time::sleep(plan.pause).await;
    }
    let mut report = Report::default();
    report.push("create", &steps.create);
    report.push("tti", &steps.tti);
    report.push("exec", &steps.exec);
    report.push("kill", &steps.kill);
    Ok(report)
}

type Failure = (&'static str, Error);

async fn measure(
    control: &ControlClient,
    plan: &TtiPlan,
    steps: &mut Steps,
) -> Result<(), Failure> {
    let new = NewSandbox {
        template_id: plan.template.clone(),
        timeout: Some(LIFETIME_SECONDS),
        ..NewSandbox::default()
    };
    let started = Instant::now();
    let created = control.sandbox_create(&new).await;
    let created = created.map_err(|error| ("create the sandbox", error))?;
    let create = started.elapsed();
    let id = SandboxId::parse_client(&created.sandbox_id)
        .map_err(|error| ("create the sandbox", error.into()))?;
    let used = async {
        let sandbox = control
            .sandbox_client(&created)
            .map_err(|error| ("reach the sandbox", error))?;
        let first = async {
            let mut stream = sandbox.start(Command::shell(LINE)).await?;
            first_output(&mut stream).await?;
            let tti = started.elapsed();
            finish(&mut stream).await?;
            Ok(tti)
        };
        let tti = first.await.map_err(|error| ("run the first line", error))?;
        let mut execs = Vec::with_capacity(plan.execs);
        for _ in 0..plan.execs {
            let started = Instant::now();
            let output = sandbox.run(Command::shell(LINE)).await;
            let output = output.map_err(|error| ("run a line", error))?;
            execs.push(started.elapsed());
            if output.stdout != EXPECTED {
                let what = format!(
                    "{LINE:?} wrote {:?}",
                    String::from_utf8_lossy(&output.stdout)
                );
                return Err(("run a line", Error::protocol(what)));
            }
        }
        Ok((tti, execs))
    }
    .await;
    let killing = Instant::now();
    let killed = control.sandbox_kill(&id).await;
    let kill = killing.elapsed();
    let (tti, execs): (Duration, Vec<Duration>) = used?;
    if !killed.map_err(|error| ("kill the sandbox", error))? {
        return Err(("kill the sandbox", Error::protocol("it was gone already")));
    }
    steps.create.push(create);
    steps.tti.push(tti);
    execs.into_iter().for_each(|exec| steps.exec.push(exec));
    steps.kill.push(kill);
    Ok(())
}

async fn first_output(stream: &mut CommandStream) -> Result<(), Error> {
    loop {
        match stream.next().await? {
            Some(CommandEvent::Stdout(bytes)) if EXPECTED.starts_with(&bytes) => return Ok(()),
            Some(CommandEvent::Stderr(_)) => {}
            other => {
                return Err(Error::protocol(format!(
                    "{other:?} instead of {LINE:?}'s output"
                )));
            }
        }
    }
}

async fn finish(stream: &mut CommandStream) -> Result<(), Error> {
    while let Some(event) = stream.next().await? {
        if let CommandEvent::Ended(exit) = event
            && exit.code != 0
        {
            return Err(Error::protocol(format!(
                "{LINE:?} ended with {:?}",
                exit.status
            )));
        }
    }
    Ok(())
}
