//! `hearth template build`: a Dockerfile becomes a template, by the API's calls.
//!
//! ```text
//!  Dockerfile ─▶ recipe ─▶ register ─▶ upload what COPY needs ─▶ start ─▶ watch
//! ```
//!
//! A build that this command began and does not see to its end is given up.

use super::display::Display;
use crate::{daemon::signals, settings::Settings};
use anyhow::{Context as _, anyhow, bail};
use hearth_client::{
    BuildStatus, BuildStatusReason, ControlClient, FromImageRegistry, NewTemplateBuild,
    RequestedTemplate, StartTemplateBuild, TemplateStep,
};
use hearth_dockerfile::{Action, Context, Recipe, Selected};
use hearth_ids::TemplateReference;
use std::{
    collections::BTreeMap,
    io::Seek as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// How often a build is asked how it does.
const POLL: Duration = Duration::from_millis(200);
/// A daemon that does not answer is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// Where the registry's password is read, so that it is in no list of processes.
const PASSWORD: &str = "HEARTH_REGISTRY_PASSWORD";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory with a Dockerfile, or a Dockerfile; COPY takes files from its directory
    #[arg(value_name = "DIR|DOCKERFILE", default_value = ".")]
    path: PathBuf,
    /// The Dockerfile, where it is not in the directory
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the template, with a tag if wanted [default: the directory's name]
    #[arg(long, short, value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Another tag for the build
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Processors of the template's sandboxes: 1 or an even number
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory of the template's sandboxes in MiB
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// Free disk space of the template's sandboxes in MiB, at least
    #[arg(long, value_name = "MIB")]
    min_free_disk_mb: Option<u32>,
    /// Program that runs in every sandbox from the start, instead of ENTRYPOINT and CMD
    #[arg(long, value_name = "COMMAND")]
    start_cmd: Option<String>,
    /// Succeeds when the program is ready [default: `sleep 20` where there is one]
    #[arg(long, value_name = "COMMAND")]
    ready_cmd: Option<String>,
    /// Value of an ARG
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = build_arg)]
    build_args: Vec<(String, String)>,
    /// Run every step, also those whose results are kept
    #[arg(long)]
    no_cache: bool,
    /// User at the image's registry; the password is in HEARTH_REGISTRY_PASSWORD
    #[arg(long, value_name = "USER")]
    registry_user: Option<String>,
    /// Print nothing but the template's ID, unless the build fails
    #[arg(long, short)]
    quiet: bool,
}

fn build_arg(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) => Err("the name is missing".to_owned()),
        // As Docker does: the value of this shell's variable.
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err("neither a value nor a variable of this name".to_owned()),
        },
    }
}

/// The files of a build on this machine.
struct Sources {
    dockerfile: PathBuf,
    text: String,
    recipe: Recipe,
    /// Of each step that copies.
    copied: Vec<Option<Selected>>,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = super::client(settings)?;
    let credentials = credentials(&args)?;
    let read = read_sources(&args);
    let Some(sources) = read? else {
        return Ok(ExitCode::FAILURE);
    };
    let name = name(&args)?;
    let new = NewTemplateBuild {
        name: Some(name.clone()),
        tags: (!args.tags.is_empty()).then(|| args.tags.clone()),
        cpu_count: args.cpus,
        memory_mb: args.memory_mb,
        min_free_disk_mb: args.min_free_disk_mb,
        ..NewTemplateBuild::default()
    };
    let start = start(&args, &sources, credentials);
    let begun = Instant::now();
    let registered = client
        .template_build_register(&new)
        .await
        .context("register the build")?;
    let display = Display::new(args.quiet);
    let ended = tokio::select! {
        ended = carry_out(&client, &registered, &sources, &start, &display) => ended,
        stopped = signals::stop() => {
            stopped.context("wait for signals")?;
            give_up(&client, &registered).await;
            display.clear();
            eprintln!("hearth: cancelled");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    display.clear();
    match ended {
        Ok(None) => {
            if args.quiet {
                println!("{}", registered.template_id);
            } else {
                let took = begun.elapsed().as_secs_f64();
                let id = &registered.template_id;
                println!("Built {name} ({id}) in {took:.1} s.");
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(Some(reason)) => {
            eprintln!("hearth: {}", sources.blame(&reason));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            give_up(&client, &registered).await;
            Err(error)
        }
    }
}

fn credentials(args: &Args) -> anyhow::Result<Option<FromImageRegistry>> {
    let Some(username) = args.registry_user.clone() else {
        return Ok(None);
    };
    let password =
        std::env::var(PASSWORD).map_err(|_| anyhow!("--registry-user needs {PASSWORD}"))?;
    Ok(Some(FromImageRegistry::Registry { username, password }))
}

/// What the template is called: as said, or as its directory.
fn name(args: &Args) -> anyhow::Result<String> {
    if let Some(name) = &args.name {
        let parsed = name.to_ascii_lowercase().parse::<TemplateReference>();
        let checked = parsed.and_then(|reference| reference.check_new_tag());
        checked.with_context(|| format!("--name {name}"))?;
        return Ok(name.clone());
    }
    let (directory, _) = places(args)?;
    let whole = directory.canonicalize()?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    match name.parse::<TemplateReference>() {
        Ok(reference) if reference.tag.is_none() => Ok(name),
        _ => bail!("the directory's name {name:?} is none for a template; say --name NAME"),
    }
}

/// The context's directory and the Dockerfile.
fn places(args: &Args) -> anyhow::Result<(PathBuf, PathBuf)> {
    let path = &args.path;
    let data = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !data.is_dir() {
        if args.file.is_some() {
            bail!(
                "{} is no directory; leave it out with --file",
                path.display()
            );
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        return Ok((directory, path.clone()));
    }
    if let Some(file) = &args.file {
        return Ok((path.clone(), file.clone()));
    }
    let names = ["e2b.Dockerfile", "Dockerfile"].map(|name| path.join(name));
    let found = names.iter().find(|file| file.is_file());
    let dockerfile = found.with_context(|| format!("{} has no Dockerfile", path.display()))?;
    Ok((path.clone(), dockerfile.clone()))
}

/// Reads the Dockerfile and what it copies. `None` after an error that named its line.
fn read_sources(args: &Args) -> anyhow::Result<Option<Sources>> {
    let (directory, dockerfile) = places(args)?;
    let shown = dockerfile.display().to_string();
    let text = std::fs::read_to_string(&dockerfile).with_context(|| format!("read {shown}"))?;
    let given: BTreeMap<String, String> = args.build_args.iter().cloned().collect();
    let recipe = match hearth_dockerfile::convert(&text, &given) {
        Ok(recipe) => recipe,
        Err(error) => {
            eprintln!(
                "hearth: {}",
                blame(&shown, &text, error.line, &error.message)
            );
            return Ok(None);
        }
    };
    for warning in &recipe.warnings {
        eprintln!("hearth: {shown}:{}: {}", warning.line, warning.message);
    }
    let context = Context::open(&directory, &dockerfile)?;
    let mut copied = Vec::with_capacity(recipe.steps.len());
    for step in &recipe.steps {
        let Action::Copy {
            source,
            destination,
            ..
        } = &step.action
        else {
            copied.push(None);
            continue;
        };
        match context.select(source, destination) {
            Ok(selected) => copied.push(Some(selected)),
            Err(error) => {
                let message = format!("{:#}", anyhow::Error::from(error));
                eprintln!(
                    "hearth: {}",
                    blame(&shown, &text, Some(step.line), &message)
                );
                return Ok(None);
            }
        }
    }
    Ok(Some(Sources {
        dockerfile,
        text,
        recipe,
        copied,
    }))
}

/// A message with the place that it is about, and that line.
fn blame(file: &str, text: &str, line: Option<usize>, message: &str) -> String {
    let Some(line) = line else {
        return format!("{file}: {message}");
    };
    let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    format!("{file}:{line}: {message}\n  {line} | {}", shown.trim_end())
}

impl Sources {
    /// Why a build failed, with the line that is to blame.
    fn blame(&self, reason: &BuildStatusReason) -> String {
        let recipe = &self.recipe;
        let line = match reason.step.as_deref() {
            Some("base") => Some(recipe.image_line),
            Some("finalize") => recipe.start_line,
            Some(number) => number
                .parse::<usize>()
                .ok()
                .and_then(|number| recipe.steps.get(number.checked_sub(1)?))
                .map(|step| step.line),
            None => None,
        };
        let file = self.dockerfile.display().to_string();
        blame(&file, &self.text, line, &reason.message)
    }
}

/// What the API is told.
fn start(
    args: &Args,
    sources: &Sources,
    credentials: Option<FromImageRegistry>,
) -> StartTemplateBuild {
    let recipe = &sources.recipe;
    let steps = recipe
        .steps
        .iter()
        .zip(&sources.copied)
        .map(|(step, copied)| wire_step(&step.action, copied.as_ref()));
    StartTemplateBuild {
        // The server knows which templates come before an image of their name.
        from_image: Some(recipe.image.clone()),
        from_template: None,
        from_image_registry: credentials,
        force: args.no_cache.then_some(true),
        steps: Some(steps.collect()),
        start_cmd: args.start_cmd.clone().or(recipe.start_command.clone()),
        ready_cmd: args.ready_cmd.clone(),
    }
}

fn wire_step(action: &Action, copied: Option<&Selected>) -> TemplateStep {
    let (kind, args) = match action {
        Action::Run { command, user } => {
            let user = user.clone().into_iter();
            ("RUN", [command.clone()].into_iter().chain(user).collect())
        }
        Action::Copy {
            source,
            destination,
            owner,
            mode,
        } => {
            let mode = mode.map(|mode| format!("{mode:04o}"));
            let args = [
                source.clone(),
                destination.clone(),
                owner.clone().unwrap_or_default(),
                mode.unwrap_or_default(),
            ];
            ("COPY", args.to_vec())
        }
        Action::Env(pairs) => {
            let pairs = pairs.iter();
            let args = pairs.flat_map(|(name, value)| [name.clone(), value.clone()]);
            ("ENV", args.collect())
        }
        Action::Workdir(path) => ("WORKDIR", vec![path.clone()]),
        Action::User(user) => ("USER", vec![user.clone()]),
    };
    TemplateStep {
        kind: kind.to_owned(),
        args: Some(args),
        files_hash: copied.map(|copied| copied.digest().to_owned()),
        force: None,
    }
}

/// Uploads, starts and watches. Answers why the build failed, if it did.
async fn carry_out(
    client: &ControlClient,
    build: &RequestedTemplate,
    sources: &Sources,
    start: &StartTemplateBuild,
    display: &Display,
) -> anyhow::Result<Option<BuildStatusReason>> {
    for selected in sources.copied.iter().flatten() {
        let upload = client
            .template_files(&build.template_id, selected.digest())
            .await
            .context("ask for the files of COPY")?;
        if !upload.present {
            let mut file = tempfile::tempfile().context("make a temporary file")?;
            // On this thread: nothing else is to be done meanwhile.
            selected.archive(&mut file)?;
            let length = file.metadata()?.len();
            file.rewind()?;
            display.step(&format!("upload {} KiB", length.div_ceil(1024)));
            client
                .template_upload(&upload, file.into(), length)
                .await
                .context("upload the files of COPY")?;
        }
    }
    client
        .template_build_start(&build.template_id, &build.build_id, start)
        .await
        .context("start the build")?;
    watch(client, build, display).await
}

async fn watch(
    client: &ControlClient,
    build: &RequestedTemplate,
    display: &Display,
) -> anyhow::Result<Option<BuildStatusReason>> {
    let (mut offset, mut answered) = (0, Instant::now());
    loop {
        let asked = client
            .template_build_status(&build.template_id, &build.build_id, offset)
            .await;
        let info = match asked {
            Ok(info) => info,
            Err(error) if error.status().is_none() && answered.elapsed() < PATIENCE => {
                tokio::time::sleep(POLL * 5).await;
                continue;
            }
            Err(error) => return Err(error).context("ask how the build does"),
        };
        answered = Instant::now();
        offset += info.log_entries.len();
        for entry in &info.log_entries {
            display.entry(entry);
        }
        // What is left of the log comes first.
        if !info.log_entries.is_empty() {
            continue;
        }
        match info.status {
            BuildStatus::Ready => return Ok(None),
            BuildStatus::Error => {
                let unknown = || BuildStatusReason {
                    message: "the build failed".to_owned(),
                    step: None,
                    log_entries: Vec::new(),
                };
                return Ok(Some(info.reason.unwrap_or_else(unknown)));
            }
            BuildStatus::Waiting | BuildStatus::Building => tokio::time::sleep(POLL).await,
        }
    }
}

async fn give_up(client: &ControlClient, build: &RequestedTemplate) {
    let given_up = client
        .template_build_cancel(&build.template_id, &build.build_id)
        .await;
    if let Err(error) = given_up {
        let error = anyhow::Error::from(error);
        eprintln!(
            "hearth: the build {} may still run: {error:#}",
            build.build_id
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_sent_as_the_sdks_send_them() {
        let sent = |action: &Action| {
            let step = wire_step(action, None);
            serde_json::to_string(&step).expect("serializes")
        };
        let run = |user: Option<&str>| Action::Run {
            command: "a b".to_owned(),
            user: user.map(str::to_owned),
        };
        assert_eq!(sent(&run(None)), r#"{"type":"RUN","args":["a b"]}"#);
        assert_eq!(
            sent(&run(Some("root"))),
            r#"{"type":"RUN","args":["a b","root"]}"#
        );
        let copy = Action::Copy {
            source: "a".to_owned(),
            destination: "/b".to_owned(),
            owner: None,
            mode: Some(0o644),
        };
        assert_eq!(
            sent(&copy),
            r#"{"type":"COPY","args":["a","/b","","0644"]}"#
        );
        let env = Action::Env(vec![("A".to_owned(), "1".to_owned())]);
        assert_eq!(sent(&env), r#"{"type":"ENV","args":["A","1"]}"#);
    }

    #[test]
    fn the_failing_steps_line_is_shown() {
        let text = "FROM x\nRUN a\nRUN b\nCMD c\n";
        let recipe = hearth_dockerfile::convert(text, &BTreeMap::new()).expect("converts");
        let sources = Sources {
            dockerfile: "d/Dockerfile".into(),
            text: text.to_owned(),
            recipe,
            copied: Vec::new(),
        };
        let blamed = |step: Option<&str>| {
            sources.blame(&BuildStatusReason {
                message: "why".to_owned(),
                step: step.map(str::to_owned),
                log_entries: Vec::new(),
            })
        };
        // The first two steps are FROM's.
        assert_eq!(blamed(Some("4")), "d/Dockerfile:3: why\n  3 | RUN b");
        assert_eq!(blamed(Some("base")), "d/Dockerfile:1: why\n  1 | FROM x");
        assert_eq!(blamed(Some("finalize")), "d/Dockerfile:4: why\n  4 | CMD c");
        for other in [None, Some("0"), Some("99"), Some("x")] {
            assert_eq!(blamed(other), "d/Dockerfile: why");
        }
    }

    #[test]
    fn build_arguments() {
        assert_eq!(build_arg("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(build_arg("=x").is_err());
        assert!(build_arg("HEARTH_NO_SUCH_VARIABLE").is_err());
    }
}
