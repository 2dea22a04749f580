//! `hearth template prepare`: templates that Hearth has a recipe for, with the
//! daemon up or down.
//!
//! Down, everything happens here. Up, only what touches no machine does; the rest
//! is the daemon's, who is asked at its admin socket.

use crate::{
    daemon::{
        self, prepare,
        recipes::{self, Recipe, Wanted, Word},
    },
    progress::Bars,
    settings::Settings,
};
use anyhow::{Context as _, bail};
use clap::Subcommand;
use hearth_builder::{Event, Progress as _};
use hearth_layout::lock::{self, Lock};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use std::{process::ExitCode, time::Instant};
use tokio::net::UnixStream;

/// The longest line that the daemon says, in bytes.
const MAX_LINE: usize = 64 << 10;

#[derive(Debug, Subcommand)]
pub enum Prepare {
    /// `base`: Debian with Python and Node.js; `hearth up` prepares it, too
    Base {
        /// Make the root file system, but start nothing
        #[arg(long, conflicts_with = "anew")]
        image_only: bool,
        /// Make it again even if nothing has changed
        #[arg(long)]
        anew: bool,
    },
    /// `code-interpreter-v1`: runs code in Python, JavaScript, TypeScript, Bash, R
    /// and Java, and keeps its variables
    CodeInterpreter {
        /// Python, JavaScript, TypeScript and Bash only, with fewer packages
        #[arg(long)]
        small: bool,
        /// Make the root file system, but start nothing
        #[arg(long, conflicts_with = "anew")]
        image_only: bool,
        /// Make it again even if nothing has changed
        #[arg(long)]
        anew: bool,
    },
}

pub async fn run(settings: &Settings, command: Prepare) -> anyhow::Result<ExitCode> {
    let (recipe, anew, image_only) = match command {
        Prepare::Base { image_only, anew } => (Recipe::Base, anew, image_only),
        Prepare::CodeInterpreter {
            small,
            image_only,
            anew,
        } => match small {
            true => (Recipe::CodeInterpreterSmall, anew, image_only),
            false => (Recipe::CodeInterpreter, anew, image_only),
        },
    };
    daemon::log::quiet();
    let wanted = Wanted { recipe, anew };
    let begun = Instant::now();
    let bars = Bars::new();
    if image_only {
        prepare::image(settings, recipe, &bars).await?;
    } else if lock::holder(&settings.pid_file()).is_some() {
        prepare::image(settings, recipe, &bars).await?;
        ask(settings, wanted, &bars).await?;
    } else {
        alone(settings, wanted, &bars).await?;
    }
    println!("Prepared in {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Without a daemon.
async fn alone(settings: &Settings, wanted: Wanted, bars: &Bars) -> anyhow::Result<()> {
    // Their networks would be in the way of the template's.
    let sandboxes = settings.sandboxes_dir();
    if std::fs::read_dir(&sandboxes).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!(
            "sandboxes of the last daemon are still there: `hearth up` finds them again and can \
             prepare templates beside them, `hearth down` ends them"
        );
    }
    let _lock = Lock::take(&settings.pid_file())?;
    prepare::alone(settings, wanted, bars).await
}

/// Lets the daemon do what is left.
async fn ask(settings: &Settings, wanted: Wanted, bars: &Bars) -> anyhow::Result<()> {
    let socket = settings.admin_socket();
    let stream = match UnixStream::connect(&socket).await {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("only the user of the daemon may prepare templates; run this as root")
        }
        connected => connected.with_context(|| {
            format!(
                "ask the daemon at {}; is it of this version?",
                socket.display()
            )
        })?,
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let body = serde_json::to_vec(&recipes::Request::new(wanted, settings)?)?;
    let request = Request::post(recipes::PATH)
        .header(header::HOST, "hearth")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("the daemon answers {}", response.status());
        }
        listen(response.into_body(), bars).await
    };
    // The connection is worked on until the answer is whole.
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        ended = connection => {
            ended.context("listen to the daemon")?;
            answer.await
        }
    }
    .context("prepare the template in the daemon")
}

async fn listen(mut body: hyper::body::Incoming, bars: &Bars) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("listen to the daemon")?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line).context("understand the daemon")? {
                Word::Step { stage, text } => bars.event(Event::Step {
                    stage: stage.into(),
                    text: &text,
                }),
                Word::Finished { stage, outcome } => bars.event(Event::Finished {
                    stage: stage.into(),
                    outcome: outcome.into(),
                }),
                Word::Ready { build_id } => {
                    println!("The daemon starts sandboxes from build {build_id} now.");
                    return Ok(());
                }
                Word::Failed { message } => bail!("{message}"),
            }
        }
        if pending.len() > MAX_LINE {
            bail!("the daemon says more than was expected");
        }
    }
    bail!(
        "the daemon ended before the template was ready; it finds what is whole at its next start"
    )
}
