//! `hearth template`: what sandboxes start from.

mod build;
mod display;
mod tag;

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
    /// List templates with their tags
    Ls,
    /// Print a template, its builds and tags
    Show {
        /// ID or name
        template: String,
    },
    /// Build a template from a Dockerfile
    Build(build::Args),
    /// Give the build that a name stands for more tags
    Tag {
        /// `NAME[:TAG]`
        template: String,
        /// Tags that it gets
        #[arg(required = true)]
        tags: Vec<String>,
    },
    /// Take tags away
    Untag {
        /// ID or name
        template: String,
        /// Tags that it has
        #[arg(required = true)]
        tags: Vec<String>,
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
        Command::Build(args) => build::run(settings, args).await,
        Command::Tag { template, tags } => tag::assign(&client(settings)?, &template, &tags).await,
        Command::Untag { template, tags } => {
            tag::remove(&client(settings)?, &template, &tags).await
        }
        Command::Rm { templates } => remove(&client(settings)?, &templates).await,
        Command::Prepare(recipe) => prepare(settings, recipe).await,
    }
}

async fn list(client: &ControlClient) -> anyhow::Result<ExitCode> {
    println!(
        "{:<22} {:<28} {:<20} {:>6} {:>4} {:>10} {:>9} {:<20} {:<8}",
        "TEMPLATE", "NAME", "TAGS", "BUILDS", "CPUS", "MEMORY MIB", "DISK MIB", "CREATED", "STATUS"
    );
    for template in client.template_list().await? {
        let tags = match client.template_tags(&template.template_id).await {
            Ok(tags) => tags,
            // Deleted meanwhile.
            Err(error) if error.status() == Some(404) => continue,
            Err(error) => return Err(error.into()),
        };
        let tags: Vec<String> = tags.into_iter().map(|tag| tag.tag).collect();
        let shown = |words: &[String]| match words {
            [] => "-".to_owned(),
            words => words.join(","),
        };
        println!(
            "{:<22} {:<28} {:<20} {:>6} {:>4} {:>10} {:>9} {:<20} {:<8}",
            template.template_id,
            shown(&template.names),
            shown(&tags),
            template.build_count,
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
    let tags = client.template_tags(&found.template.template_id).await?;
    let mut shown = serde_json::to_value(&found)?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("tags".to_owned(), serde_json::to_value(tags)?);
    }
    println!("{}", serde_json::to_string_pretty(&shown)?);
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
