//! `hearth template`: what sandboxes start from.

use super::client;
use crate::{
    daemon::{self, lock, lock::Lock, prepare},
    progress::Bars,
    settings::Settings,
};
use anyhow::{Context, bail};
use clap::Subcommand;
use hearth_builder::Edition;
use hearth_client::ControlClient;
use std::{process::ExitCode, time::Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List templates
    Ls,
    /// Print a template and its builds
    Show {
        /// ID or name
        template: String,
    },
    /// Delete templates or snapshots that no sandbox uses
    Rm {
        /// IDs or names
        #[arg(required = true)]
        templates: Vec<String>,
    },
    /// Make a template that Hearth has a recipe for
    #[command(subcommand)]
    Prepare(Prepare),
}

#[derive(Debug, Subcommand)]
enum Prepare {
    /// `code-interpreter-v1`: runs code in Python, JavaScript, TypeScript, Bash, R
    /// and Java, and keeps its variables
    CodeInterpreter {
        /// Python and JavaScript only, with fewer packages
        #[arg(long)]
        small: bool,
        /// Make the root file system, but start nothing
        #[arg(long)]
        image_only: bool,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Ls => list(&client(settings)?).await,
        Command::Show { template } => show(&client(settings)?, &template).await,
        Command::Rm { templates } => remove(&client(settings)?, &templates).await,
        Command::Prepare(recipe) => prepare(settings, recipe).await,
    }
}

async fn list(client: &ControlClient) -> anyhow::Result<ExitCode> {
    println!(
        "{:<22} {:<28} {:>4} {:>10} {:>9} {:<20} {:<8}",
        "TEMPLATE", "NAME", "CPUS", "MEMORY MIB", "DISK MIB", "CREATED", "STATUS"
    );
    for template in client.template_list().await? {
        println!(
            "{:<22} {:<28} {:>4} {:>10} {:>9} {:<20} {:<8}",
            template.template_id,
            template.names.first().map_or("-", String::as_str),
            template.cpu_count,
            template.memory_mb,
            template.disk_size_mb,
            template.created_at.format("%Y-%m-%dT%H:%M:%SZ"),
            template.build_status.as_str(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(client: &ControlClient, template: &str) -> anyhow::Result<ExitCode> {
    let found = client.template(template).await;
    let found = found.with_context(|| format!("look for the template {template:?}"))?;
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(ExitCode::SUCCESS)
}

/// Goes on after a failure, so that one wrong name does not keep the others.
async fn remove(client: &ControlClient, templates: &[String]) -> anyhow::Result<ExitCode> {
    let mut fine = true;
    for template in templates {
        match client.template_delete(template).await {
            Ok(true) => println!("{template}"),
            Ok(false) => {
                eprintln!("hearth: no template {template}");
                fine = false;
            }
            Err(error) => {
                eprintln!("hearth: {template}: {:#}", anyhow::Error::from(error));
                fine = false;
            }
        }
    }
    Ok(match fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn prepare(settings: &Settings, recipe: Prepare) -> anyhow::Result<ExitCode> {
    let Prepare::CodeInterpreter { small, image_only } = recipe;
    daemon::log::quiet();
    if let Some(pid) = lock::holder(&settings.pid_file()) {
        bail!(
            "Hearth is up (process {pid}): end it with `hearth down`, prepare the template, and \
             start it again"
        );
    }
    // Their networks would be in the way of the template's.
    let sandboxes = settings.state_dir.join("sandboxes");
    if std::fs::read_dir(&sandboxes).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("sandboxes of the last daemon are still there; `hearth down` ends them");
    }
    let edition = if small { Edition::Small } else { Edition::Full };
    let begun = Instant::now();
    {
        let _lock = Lock::take(&settings.pid_file())?;
        prepare::code_interpreter(settings, edition, image_only, &Bars::new()).await?;
    }
    println!("Prepared in {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
