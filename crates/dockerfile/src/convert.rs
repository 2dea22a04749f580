//! From instructions to the steps of a template build.

mod copy;

use crate::{
    Error,
    parse::{self, Instruction},
    words::{self, Unknown, Variables},
};
use std::collections::BTreeMap;

/// What a Dockerfile asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What `FROM` names.
    pub image: String,
    /// The line of `FROM`.
    pub image_line: usize,
    pub steps: Vec<Step>,
    /// What `ENTRYPOINT` and `CMD` run.
    pub start_command: Option<String>,
    /// The line of the last of these.
    pub start_line: Option<usize>,
    pub warnings: Vec<Warning>,
}

/// One step of a template build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The instruction's line, from 1.
    pub line: usize,
    pub action: Action,
}

/// What a step does. In variables' values, paths, users and owners, names of
/// variables that the Dockerfile does not set stand as `${NAME}`, and a dollar
/// sign that stands for itself has a backslash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Run {
        command: String,
        /// Instead of the current user.
        user: Option<String>,
    },
    Copy {
        /// Relative to the context, with `*`, `?` and `[`.
        source: String,
        destination: String,
        /// `user[:group]`; the current user when absent.
        owner: Option<String>,
        /// Permission bits; the files' own when absent.
        mode: Option<u32>,
    },
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
}

/// Something that is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub line: usize,
    pub message: String,
}

const DEFAULT_USER: &str = "user";
const DEFAULT_WORKDIR: &str = "/home/user";

/// Reads a Dockerfile. `arguments` are values for its `ARG`s.
///
/// # Errors
/// For a text that is no Dockerfile, and for what a template cannot be built
/// from, such as a second stage; with the line.
pub fn convert(text: &str, arguments: &BTreeMap<String, String>) -> Result<Recipe, Error> {
    let (instructions, escape) = parse::parse(text)?;
    let mut converter = Converter {
        escape,
        arguments,
        unused: arguments.keys().cloned().collect(),
        global: Variables::new(),
        variables: Variables::new(),
        shell: None,
        entrypoint: None,
        command: None,
        user_set: false,
        workdir_set: false,
        recipe: Recipe {
            image: String::new(),
            image_line: 0,
            steps: Vec::new(),
            start_command: None,
            start_line: None,
            warnings: Vec::new(),
        },
    };
    for instruction in &instructions {
        converter.take(instruction)?;
    }
    converter.finish(instructions.last().map_or(1, |last| last.line))
}

struct Converter<'a> {
    escape: char,
    arguments: &'a BTreeMap<String, String>,
    unused: Vec<String>,
    /// Set before `FROM`.
    global: Variables,
    variables: Variables,
    /// Of `SHELL`, for what has no JSON form.
    shell: Option<Vec<String>>,
    entrypoint: Option<Start>,
    command: Option<Start>,
    user_set: bool,
    workdir_set: bool,
    recipe: Recipe,
}

#[derive(Debug, Clone)]
enum Start {
    Words(Vec<String>),
    Line(String),
}

impl Converter<'_> {
    fn take(&mut self, it: &Instruction) -> Result<(), Error> {
        let begun = self.recipe.image_line > 0;
        match it.name.as_str() {
            "FROM" if begun => {
                let message = "a second FROM: Dockerfiles with several stages are not supported; \
                               build the first stages as templates of their own, or copy what \
                               they make";
                Err(Error::at(it.line, message))
            }
            "FROM" => self.from(it),
            "ARG" => self.arg(it, begun),
            name if !begun => Err(Error::at(it.line, format!("{name} stands before FROM"))),
            "RUN" => self.run(it),
            "COPY" | "ADD" => self.copy(it),
            "ENV" => self.env(it),
            "WORKDIR" => {
                let path = self.single(it)?;
                self.workdir_set = true;
                self.step(it, Action::Workdir(path));
                Ok(())
            }
            "USER" => {
                let user = self.single(it)?;
                self.user_set = true;
                self.step(it, Action::User(user));
                Ok(())
            }
            "CMD" => {
                self.command = Some(self.start(it)?);
                Ok(())
            }
            "ENTRYPOINT" => {
                self.entrypoint = Some(self.start(it)?);
                Ok(())
            }
            "SHELL" => match &it.json {
                Some(words) if !words.is_empty() => {
                    self.shell = Some(words.clone());
                    Ok(())
                }
                _ => Err(Error::at(
                    it.line,
                    "SHELL takes a list in JSON, [\"/bin/sh\", \"-c\"]",
                )),
            },
            "EXPOSE" | "LABEL" | "MAINTAINER" | "VOLUME" => Ok(()),
            name @ ("HEALTHCHECK" | "STOPSIGNAL" | "ONBUILD") => {
                self.warn(
                    it,
                    format!("{name} means nothing to a template and is passed over"),
                );
                Ok(())
            }
            name => Err(Error::at(it.line, format!("unknown instruction {name}"))),
        }
    }

    fn finish(mut self, last_line: usize) -> Result<Recipe, Error> {
        if self.recipe.image_line == 0 {
            return Err(Error::whole("the Dockerfile has no FROM"));
        }
        for name in std::mem::take(&mut self.unused) {
            self.recipe.warnings.push(Warning {
                line: self.recipe.image_line,
                message: format!("the build argument {name} is used by no ARG"),
            });
        }
        let command = self.start_command();
        self.recipe.start_command = command.filter(|command| !command.trim().is_empty());
        // Where sandboxes start, unless the Dockerfile says where.
        let mut put_back = |action| {
            self.recipe.steps.push(Step {
                line: last_line,
                action,
            });
        };
        if !self.user_set {
            put_back(Action::User(DEFAULT_USER.to_owned()));
        }
        if !self.workdir_set {
            put_back(Action::Workdir(DEFAULT_WORKDIR.to_owned()));
        }
        Ok(self.recipe)
    }

    fn step(&mut self, it: &Instruction, action: Action) {
        let line = it.line;
        self.recipe.steps.push(Step { line, action });
    }

    fn warn(&mut self, it: &Instruction, message: String) {
        let line = it.line;
        self.recipe.warnings.push(Warning { line, message });
    }

    fn expand(&self, it: &Instruction, word: &str) -> Result<String, Error> {
        words::expand(word, self.escape, &self.variables, Unknown::Kept)
            .map_err(|why| Error::at(it.line, why))
    }

    /// The one word of an instruction that takes one.
    fn single(&self, it: &Instruction) -> Result<String, Error> {
        no_flags(it)?;
        let word = self.expand(it, &it.text)?;
        if word.trim().is_empty() {
            return Err(Error::at(it.line, format!("{} names nothing", it.name)));
        }
        Ok(word)
    }

    /// The values of an instruction's flags. Those in `passed_over` are warned of.
    fn flags(
        &mut self,
        it: &Instruction,
        known: &[&str],
        passed_over: &[&str],
    ) -> Result<BTreeMap<String, String>, Error> {
        let mut values = BTreeMap::new();
        for flag in &it.flags {
            let body = flag.trim_start_matches("--");
            let (name, value) = body.split_once('=').unwrap_or((body, ""));
            if known.contains(&name) {
                if value.is_empty() {
                    return Err(Error::at(it.line, format!("--{name} needs a value")));
                }
                values.insert(name.to_owned(), value.to_owned());
            } else if passed_over.contains(&name) {
                self.warn(it, format!("{} --{name} is passed over", it.name));
            } else {
                return Err(Error::at(
                    it.line,
                    format!("{}: unknown flag --{name}", it.name),
                ));
            }
        }
        Ok(values)
    }

    fn from(&mut self, it: &Instruction) -> Result<(), Error> {
        self.flags(it, &[], &["platform"])?;
        let words = words::split(&it.text, self.escape);
        let named = words.len() == 3 && words[1].eq_ignore_ascii_case("as");
        if words.len() != 1 && !named {
            return Err(Error::at(
                it.line,
                "FROM takes an image, and AS with a name",
            ));
        }
        let image = words::expand(&words[0], self.escape, &self.global, Unknown::Empty)
            .map_err(|why| Error::at(it.line, why))?;
        match image.as_str() {
            "" => return Err(Error::at(it.line, "FROM names no image")),
            "scratch" => {
                let message = "FROM scratch: a template needs a Linux system to begin with";
                return Err(Error::at(it.line, message));
            }
            _ => {}
        }
        self.recipe.image = image;
        self.recipe.image_line = it.line;
        self.step(it, Action::User("root".to_owned()));
        self.step(it, Action::Workdir("/".to_owned()));
        Ok(())
    }

    fn arg(&mut self, it: &Instruction, begun: bool) -> Result<(), Error> {
        no_flags(it)?;
        let mut set = Vec::new();
        for word in words::split(&it.text, self.escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default)),
                None => (word.as_str(), None),
            };
            check_name(it, name)?;
            self.unused.retain(|unused| unused != name);
            let scope = if begun { &self.variables } else { &self.global };
            let value = match (self.arguments.get(name), default) {
                // Given as it is to be: nothing in it is replaced.
                (Some(given), _) => given.replace('$', "\\$"),
                (None, Some(default)) => words::expand(default, self.escape, scope, Unknown::Kept)
                    .map_err(|why| Error::at(it.line, why))?,
                // Set before FROM, and asked for again.
                (None, None) => match self.global.get(name) {
                    Some(value) if begun => value.clone(),
                    _ => continue,
                },
            };
            if begun {
                set.push((name.to_owned(), value.clone()));
                self.variables.insert(name.to_owned(), value);
            } else {
                self.global.insert(name.to_owned(), value);
            }
        }
        if !set.is_empty() {
            self.step(it, Action::Env(set));
        }
        Ok(())
    }

    fn env(&mut self, it: &Instruction) -> Result<(), Error> {
        no_flags(it)?;
        let words = words::split(&it.text, self.escape);
        let first = words.first().map_or("", String::as_str);
        let mut set = Vec::new();
        if first.contains('=') {
            for word in &words {
                let Some((name, value)) = word.split_once('=') else {
                    let message = format!("ENV: {word:?} has no \"=\"; quote values with spaces");
                    return Err(Error::at(it.line, message));
                };
                set.push((name.to_owned(), self.expand(it, value)?));
            }
        } else {
            let (name, value) = words::first(&it.text, self.escape);
            if value.trim().is_empty() {
                return Err(Error::at(it.line, "ENV takes names and values, NAME=VALUE"));
            }
            set.push((name.to_owned(), self.expand(it, value.trim())?));
        }
        for (name, value) in &set {
            check_name(it, name)?;
            self.variables.insert(name.clone(), value.clone());
        }
        self.step(it, Action::Env(set));
        Ok(())
    }

    fn run(&mut self, it: &Instruction) -> Result<(), Error> {
        self.flags(it, &[], &["mount", "network", "security", "device"])?;
        let command = match &it.json {
            Some(words) if !words.is_empty() => words::line(words),
            _ if it.text.trim().is_empty() => {
                return Err(Error::at(it.line, "RUN has no command"));
            }
            _ => self.in_shell(run_text(it, self.escape)),
        };
        let user = None;
        self.step(it, Action::Run { command, user });
        Ok(())
    }

    /// A line for the shell that `SHELL` names.
    fn in_shell(&self, text: String) -> String {
        match &self.shell {
            Some(shell) => {
                let mut words = shell.clone();
                words.push(text);
                words::line(&words)
            }
            None => text,
        }
    }

    fn start(&mut self, it: &Instruction) -> Result<Start, Error> {
        no_flags(it)?;
        self.recipe.start_line = Some(it.line);
        Ok(match &it.json {
            Some(words) => Start::Words(words.clone()),
            None => Start::Line(self.in_shell(it.text.clone())),
        })
    }

    /// `ENTRYPOINT` and `CMD` together, by Docker's rules.
    fn start_command(&self) -> Option<String> {
        match (&self.entrypoint, &self.command) {
            (Some(Start::Line(line)), _) | (None, Some(Start::Line(line))) => Some(line.clone()),
            (None, Some(Start::Words(words))) | (Some(Start::Words(words)), None) => {
                Some(words::line(words))
            }
            (Some(Start::Words(entry)), Some(command)) => {
                let mut words = entry.clone();
                match command {
                    Start::Words(more) => words.extend(more.iter().cloned()),
                    Start::Line(line) => {
                        words.extend(["/bin/sh", "-c", line].map(str::to_owned));
                    }
                }
                Some(words::line(&words))
            }
            (None, None) => None,
        }
    }
}

fn no_flags(it: &Instruction) -> Result<(), Error> {
    match it.flags.first() {
        Some(flag) => Err(Error::at(
            it.line,
            format!("{}: unknown flag {flag}", it.name),
        )),
        None => Ok(()),
    }
}

fn check_name(it: &Instruction, name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(plain)
    {
        return Ok(());
    }
    let message = format!("{}: {name:?} is no name of a variable", it.name);
    Err(Error::at(it.line, message))
}

/// The text of a RUN with its here-documents.
fn run_text(it: &Instruction, escape: char) -> String {
    if let [heredoc] = it.heredocs.as_slice()
        && parse::mark(it.text.trim(), escape).is_some()
    {
        // The document is the script.
        let body = heredoc.body();
        if !body.starts_with("#!") {
            return body;
        }
        let body = words::quoted(&body);
        return format!(
            "f=$(mktemp) && printf %s {body} > \"$f\" && chmod 755 \"$f\" && \"$f\"; \
             s=$?; rm -f \"$f\"; exit $s"
        );
    }
    let mut text = it.text.clone();
    for heredoc in &it.heredocs {
        text = format!("{text}\n{}{}", heredoc.content, heredoc.mark.name);
    }
    text
}

#[cfg(test)]
mod tests;
