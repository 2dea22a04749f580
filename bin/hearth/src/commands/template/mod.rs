//! `hearth template`: what sandboxes start from.

mod build;
mod display;
mod prepare;
mod tag;

use super::client;
use super::output::{Format, relative};
use crate::settings::Settings;
use anyhow::Context;
use chrono::Utc;
use clap::Subcommand;
use hearth_client::ControlClient;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List templates with their tags: the team's own, and those that every team has
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
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
    Prepare(prepare::Prepare),
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Ls { format } => list(&client(settings)?, format).await,
        Command::Show { template } => show(&client(settings)?, &template).await,
        Command::Build(args) => build::run(settings, args).await,
        Command::Tag { template, tags } => tag::assign(&client(settings)?, &template, &tags).await,
        Command::Untag { template, tags } => {
            tag::remove(&client(settings)?, &template, &tags).await
        }
        Command::Rm { templates } => remove(&client(settings)?, &templates).await,
        Command::Prepare(command) => prepare::run(settings, command).await,
    }
}

async fn list(client: &ControlClient, format: Format) -> anyhow::Result<ExitCode> {
    let mut templates = client.template_list().await?;
    templates.extend(client.template_list_default().await?);
    let mut listed = Vec::with_capacity(templates.len());
    for template in templates {
        match client.template_tags(&template.template_id).await {
            Ok(tags) => {
                let tags: Vec<String> = tags.into_iter().map(|tag| tag.tag).collect();
                listed.push((template, tags));
            }
            // Deleted meanwhile.
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let json = listed
        .iter()
        .map(|(template, tags)| {
            let mut shown = serde_json::to_value(template)?;
            if let Some(fields) = shown.as_object_mut() {
                fields.insert("tags".to_owned(), serde_json::to_value(tags)?);
            }
            Ok(shown)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let now = Utc::now();
    let header = [
        "TEMPLATE", "NAME", "TAGS", "BUILDS", "CPUS", "MEMORY", "DISK", "CREATED", "STATUS",
    ];
    let words = |words: &[String]| match words {
        [] => "-".to_owned(),
        words => words.join(","),
    };
    let rows = listed.iter().map(|(template, tags)| {
        [
            template.template_id.clone(),
            words(&template.names),
            words(tags),
            template.build_count.to_string(),
            template.cpu_count.to_string(),
            format!("{} MiB", template.memory_mb),
            format!("{} MiB", template.disk_size_mb),
            relative(template.created_at, now),
            template.build_status.as_str().to_owned(),
        ]
    });
    format.print(&json, header, rows)?;
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
