//! A command line with the descriptors it inherits, and starting it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use seccompiler::BpfProgram;

use crate::child::{self, Steps};
use crate::{Cgroups, Confinement, Error, cgroup, landlock, namespaces};

/// A program to start: path, arguments, environment and inherited descriptors. The
/// environment holds only what is set here.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    descriptors: Vec<OwnedFd>,
    filters: Vec<BpfProgram>,
    stdout: Option<File>,
    stderr: Option<File>,
}

/// A started process. Dropping it neither kills nor reaps the process.
#[derive(Debug)]
pub struct Spawned {
    /// Process id.
    pub pid: u32,
    /// Refers to exactly this process, however often its id is reused.
    pub pidfd: OwnedFd,
}

/// A control group that a started process has yet to join.
#[derive(Debug)]
#[must_use = "the process has no limits until it has joined"]
pub struct Joining {
    pid: u32,
    group: Option<cgroup::Group>,
}

impl Joining {
    /// Puts the process into its control group. The process must not have been reaped, or
    /// its id may be another's. Blocks for some 10 ms for each hierarchy.
    ///
    /// # Errors
    /// [`Error::Cgroup`], as when the process has ended.
    pub fn join(self) -> Result<(), Error> {
        self.group.map_or(Ok(()), |group| group.add(self.pid))
    }
}

impl Program {
    /// A program without arguments and with an empty environment.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: Vec::new(),
            filters: Vec::new(),
            stdout: None,
            stderr: None,
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// File that takes standard output; without one it goes to `/dev/null`.
    #[must_use]
    pub fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    /// File that takes standard error; without one it goes to `/dev/null`.
    #[must_use]
    pub fn stderr(mut self, file: File) -> Self {
        self.stderr = Some(file);
        self
    }

    /// Lets the program inherit `descriptor` under the number it has in this process.
    #[must_use]
    pub fn inherit(mut self, descriptors: impl IntoIterator<Item = OwnedFd>) -> Self {
        self.descriptors.extend(descriptors);
        self
    }

    /// Installs a filter of system calls just before the program is executed, after those
    /// that were named before. It must allow what executing it needs.
    #[must_use]
    pub fn filter(mut self, filter: BpfProgram) -> Self {
        self.filters.push(filter);
        self
    }

    /// Starts the program, confined when `confinement` is given. Blocks for the time of a
    /// fork and an exec, and of joining the control group.
    ///
    /// # Errors
    /// Any [`Error`]; the program does not run then, and its control group is removed.
    pub fn spawn(self, confinement: Option<&Confinement>) -> Result<Spawned, Error> {
        self.run(confinement, true).map(|(spawned, _)| spawned)
    }

    /// Like [`Program::spawn`], but leaves the control group to be joined by
    /// [`Joining::join`] while the program starts. Moving a process into a group makes the
    /// kernel wait for all processors (some 10 ms for each hierarchy), which is too long to
    /// stand still. For programs that do nothing for anybody until they are told to.
    ///
    /// What the program allocates before it has joined is not counted as the group's.
    ///
    /// # Errors
    /// As [`Program::spawn`].
    pub fn spawn_joining(
        self,
        confinement: Option<&Confinement>,
    ) -> Result<(Spawned, Joining), Error> {
        self.run(confinement, false)
    }

    fn run(
        self,
        confinement: Option<&Confinement>,
        join_first: bool,
    ) -> Result<(Spawned, Joining), Error> {
        // Opened here, because a process in namespaces of its own has no such file; and
        // before a group is made, which a failure would leave behind.
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|source| self.failed(source))?;
        let groups = Cgroups::detect();
        let mut steps = self.prepare(confinement, &groups)?;
        steps.filter(self.filters.clone());
        let later = if join_first { None } else { steps.take_group() };
        let root = confinement.and_then(|it| Some((it.visible.as_deref()?, &it.placed[..])));
        let spawned = match root {
            Some((visible, placed)) => {
                namespaces::start_in(visible, placed, || self.start(steps, &null))
            }
            None => self.start(steps, &null),
        };
        if spawned.is_err()
            && let Some(name) = confinement.and_then(|c| c.cgroup_name.as_ref())
            && let Err(error) = groups.remove(name)
        {
            tracing::warn!(%error, "remove the control group of a program that did not start");
        }
        spawned.map(|spawned| {
            let joining = Joining {
                pid: spawned.pid,
                group: later,
            };
            (spawned, joining)
        })
    }

    /// Opens everything that the child will need, while memory may still be allocated.
    fn prepare(&self, confinement: Option<&Confinement>, groups: &Cgroups) -> Result<Steps, Error> {
        let inherited = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let Some(confinement) = confinement else {
            return Ok(Steps::unconfined(inherited));
        };
        if confinement.uid == 0 || confinement.gid == 0 {
            return Err(Error::Invalid("user or group 0".to_owned()));
        }
        let netns = confinement
            .netns
            .as_ref()
            .map(|path| {
                File::open(path).map_err(|source| Error::Netns {
                    path: path.clone(),
                    source,
                })
            })
            .transpose()?;
        let landlock = confinement
            .files
            .as_ref()
            .map(landlock::rule_set)
            .transpose()?
            .flatten();
        let limits = confinement.limits();
        let group = match &confinement.cgroup_name {
            Some(name) => groups.create(name, &limits)?,
            None if limits.wanted().next().is_none() => cgroup::Group::default(),
            None => return Err(Error::Invalid("limits without a control group".to_owned())),
        };
        Ok(Steps::confined(
            inherited,
            confinement,
            group,
            netns,
            landlock,
        ))
    }

    fn start(self, steps: Steps, null: &File) -> Result<Spawned, Error> {
        let null = || null.try_clone().map_err(|source| self.failed(source));
        let output = |file: &Option<File>| match file {
            Some(file) => file.try_clone().map_err(|source| self.failed(source)),
            None => null(),
        };
        let (stdout, stderr) = (output(&self.stdout)?, output(&self.stderr)?);
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(null()?)
            .stdout(stdout)
            .stderr(stderr);
        child::install(&mut command, steps);
        let child = command.spawn().map_err(|source| self.failed(source))?;
        // Not reaped yet, so the id cannot have been reused: this is that process.
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| self.failed(error.into()))?;
        Ok(Spawned {
            pid: child.id(),
            pidfd,
        })
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Spawn {
            program: self.path.clone(),
            source,
        }
    }
}
