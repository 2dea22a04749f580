//! From a client's request to a program that can be started: who runs it, where,
//! with which environment, and which files may be meant by its name.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt as _;

use hearth_guest_proto::process::ProcessConfig;

use crate::files::names::native;
use crate::paths::{self, PathError};
use crate::settings::Settings;
use crate::users::User;

/// What programs are searched in when nobody says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("command is empty")]
    Empty,
    #[error("'{0}' contains a null byte")]
    Null(&'static str),
    #[error("invalid environment variable name '{0}'")]
    VariableName(String),
    #[error("cwd '{0}' does not exist")]
    NoDirectory(String),
    #[error("cwd '{0}' is not a directory")]
    NotDirectory(String),
    #[error("cwd: {0}")]
    Path(#[from] PathError),
}

/// A checked command.
#[derive(Debug)]
pub struct Command {
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    pub cwd: CString,
}

impl Command {
    pub fn new(
        config: &ProcessConfig,
        user: &User,
        settings: &Settings,
    ) -> Result<Self, CommandError> {
        if config.cmd.is_empty() {
            return Err(CommandError::Empty);
        }
        let environment = environment(config, user, settings)?;
        let cwd = directory(config.cwd.as_deref().unwrap_or(""), user, settings)?;
        let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let candidates = candidates(&config.cmd, path)
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, NulError>>()
            .map_err(|_| CommandError::Null("cmd"))?;
        let argv = std::iter::once(&config.cmd)
            .chain(&config.args)
            .map(|argument| CString::new(argument.as_str()))
            .collect::<Result<_, NulError>>()
            .map_err(|_| CommandError::Null("args"))?;
        let envp = environment
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .collect::<Result<_, NulError>>()
            .map_err(|_| CommandError::Null("envs"))?;
        let cwd = CString::new(native(&cwd).as_os_str().as_bytes())
            .map_err(|_| CommandError::Null("cwd"))?;
        Ok(Self {
            candidates,
            argv,
            envp,
            cwd,
        })
    }
}

/// The user's own variables, then the sandbox's, then the request's; later ones
/// win.
fn environment(
    config: &ProcessConfig,
    user: &User,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, CommandError> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
    ]);
    let defaults = settings
        .environment()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    environment.extend(defaults);
    environment.extend(
        config
            .envs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    match environment
        .keys()
        .find(|name| name.is_empty() || name.contains('='))
    {
        Some(name) => Err(CommandError::VariableName(name.clone())),
        None => Ok(environment),
    }
}

fn directory(cwd: &str, user: &User, settings: &Settings) -> Result<String, CommandError> {
    let path = paths::resolve(cwd, user, settings.default_workdir.as_deref())?;
    match std::fs::metadata(native(&path)) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(CommandError::NotDirectory(path)),
        Err(_) => Err(CommandError::NoDirectory(path)),
    }
}

/// A name with a slash is a path; any other is looked for in `path`, where an
/// empty entry means the working directory.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':')
        .map(|entry| {
            if entry.is_empty() {
                format!("./{name}")
            } else {
                format!("{entry}/{name}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            name: "u".into(),
            uid: 1,
            gid: 1,
            home: "/".into(),
            shell: "/bin/sh".into(),
        }
    }

    fn command(config: ProcessConfig) -> Result<Command, CommandError> {
        Command::new(&config, &user(), &Settings::default())
    }

    #[test]
    fn later_environments_win() {
        let mut settings = Settings::default();
        settings.env.insert("A".into(), "sandbox".into());
        settings.env.insert("HOME".into(), "/elsewhere".into());
        let config = ProcessConfig {
            cmd: "x".into(),
            envs: [("A".to_owned(), "request".to_owned())]
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let environment = environment(&config, &user(), &settings).unwrap();
        assert_eq!(environment["A"], "request");
        assert_eq!(environment["HOME"], "/elsewhere");
        assert_eq!(environment["USER"], "u");
        assert_eq!(environment["E2B_SANDBOX"], "true");
    }

    #[test]
    fn names_are_searched_in_the_path() {
        assert_eq!(candidates("sh", "/a::/b"), ["/a/sh", "./sh", "/b/sh"]);
        assert_eq!(candidates("./sh", "/a"), ["./sh"]);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let cmd = |cmd: &str| ProcessConfig {
            cmd: cmd.into(),
            ..Default::default()
        };
        assert!(matches!(command(cmd("")), Err(CommandError::Empty)));
        assert!(matches!(
            command(cmd("a\0b")),
            Err(CommandError::Null("cmd"))
        ));
        let config = ProcessConfig {
            cwd: Some("/no/such".into()),
            ..cmd("x")
        };
        assert_eq!(
            command(config).unwrap_err().to_string(),
            "cwd '/no/such' does not exist"
        );
        let config = ProcessConfig {
            cwd: Some("/etc/passwd".into()),
            ..cmd("x")
        };
        assert!(matches!(
            command(config),
            Err(CommandError::NotDirectory(_))
        ));
        let envs = [("A=B".to_owned(), String::new())].into_iter().collect();
        assert!(matches!(
            command(ProcessConfig { envs, ..cmd("x") }),
            Err(CommandError::VariableName(_))
        ));
    }
}
