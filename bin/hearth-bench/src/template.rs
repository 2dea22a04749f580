//! `hearth-bench template`: what template builds and the first use of a template
//! cost, each beside a baseline of the same run.
//!
//! Builds are asked of the daemon's node directly, so that nothing but the node is
//! measured; first uses go through the API and the edge, as clients' do; an image
//! becomes a file system in this process, by the same code as in a build.

use crate::installation::Installation;
use hearth_measure::Report;

mod first_use;
mod image;
mod steps;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Steps, Part::Image, Part::FirstUse])]
    only: Vec<Part>,
    /// Runs of each step
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// MiB of files in the image
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    image_mib: u64,
    /// Template of the code interpreter
    #[arg(long, default_value = "code-interpreter-v1")]
    interpreter: String,
    /// Milliseconds between two sandboxes. With 0 the machine makes sandboxes
    /// ahead more slowly than they are used up
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pause_ms: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A build of three commands, cold and cached
    Steps,
    /// An image of a registry becomes a file system
    Image,
    /// Create to the first result of code, and of a command
    FirstUse,
}

impl std::fmt::Display for Part {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Steps => "steps",
            Self::Image => "image",
            Self::FirstUse => "first-use",
        })
    }
}

pub async fn measure(installation: &Installation, args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let runs = usize::try_from(args.runs)?;
    if args.only.contains(&Part::Steps) {
        steps::measure(installation, runs, &mut report).await?;
    }
    if args.only.contains(&Part::Image) {
        image::measure(installation, runs, args.image_mib, &mut report).await?;
    }
    if args.only.contains(&Part::FirstUse) {
        let pause = std::time::Duration::from_millis(args.pause_ms);
        first_use::measure(installation, &args.interpreter, runs, pause, &mut report).await?;
    }
    Ok(report)
}

/// Prints what the figures mean beside their baselines.
pub fn compare(report: &Report) {
    for (what, baseline) in [
        (image::OURS, image::BASELINE),
        (first_use::CODE, first_use::COMMAND),
    ] {
        if let (Some(ours), Some(theirs)) = (report.row(what), report.row(baseline)) {
            println!(
                "{what}: p50 is {:.2} × {baseline}",
                ours.p50_ms / theirs.p50_ms
            );
        }
    }
    steps::compare(report);
}
