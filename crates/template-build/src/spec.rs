//! What a build is to do, checked once: behind this file no step has an argument
//! too few, a path with a NUL or a hash that is none.

use crate::Error;
use hearth_ids::BuildId;
use hearth_snapshot::Digest;
use std::{fmt, path::PathBuf, str::FromStr};

/// Steps of one build at most: each may be a disk layer, of which a device takes
/// a bounded number.
pub const MAX_STEPS: usize = 200;
/// The longest command or argument, in bytes.
const MAX_TEXT: usize = 256 << 10;

/// A build to be made.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    pub build_id: BuildId,
    pub template_id: String,
    pub scope: Scope,
    /// What the template is called, for the log.
    pub name: String,
    pub source: Source,
    pub steps: Vec<Step>,
    pub start_command: Option<String>,
    pub ready_command: Option<String>,
    /// Uses nothing that is cached.
    pub force: bool,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub min_free_disk_mib: u64,
}

/// What the first step builds upon.
#[derive(Debug, Clone)]
pub enum Source {
    /// An image of a registry.
    Image(ImageSource),
    /// Another build on this node.
    Build(BuildId),
    /// An ext4 image that somebody else made.
    Rootfs(RootfsSource),
}

#[derive(Debug, Clone)]
pub struct ImageSource {
    pub reference: String,
    pub credentials: hearth_oci::Credentials,
}

/// A raw ext4 image that has bash, a user named `user` and a resolver's settings.
#[derive(Debug, Clone)]
pub struct RootfsSource {
    /// Not changed while builds or their results use it.
    pub image: PathBuf,
    /// Equal content has an equal key.
    pub key: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub instruction: Instruction,
    /// Carried out even if its result is cached.
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Copy(Copy),
    Run {
        command: String,
        /// Instead of the current user.
        user: Option<String>,
    },
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Relative to the context, with `*`, `?` and `[` as in a shell.
    pub source: String,
    pub destination: String,
    /// `user` or `user:group`; the current user when absent.
    pub owner: Option<String>,
    /// Permission bits of every file and directory; their own when absent.
    pub mode: Option<u32>,
    pub files: FilesHash,
}

/// Names an archive of COPY sources: 64 hexadecimal digits, opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilesHash(String);

impl FilesHash {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FilesHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(Error::Invalid(
                "the files hash is not 64 hexadecimal digits".to_owned(),
            ))
        }
    }
}

/// Whose files and layers are meant; becomes a directory's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(String);

impl Scope {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Invalid(format!("invalid scope {text:?}")))
        }
    }
}

impl Step {
    /// Reads a step as clients send it. `number` counts from 1.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the step's number.
    pub fn parse(
        number: usize,
        kind: &str,
        args: &[String],
        files_hash: &str,
        force: bool,
    ) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Invalid(format!("step {number} ({kind}): {why}"));
        if args.iter().any(|arg| arg.len() > MAX_TEXT) {
            return Err(refuse("an argument is too long"));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(refuse("an argument holds a NUL character"));
        }
        let arg = |index: usize| {
            args.get(index)
                .map(String::as_str)
                .filter(|arg| !arg.is_empty())
        };
        let instruction = match kind.to_ascii_uppercase().as_str() {
            "COPY" | "ADD" => Instruction::Copy(Copy {
                source: arg(0)
                    .ok_or_else(|| refuse("the source is missing"))?
                    .to_owned(),
                destination: arg(1)
                    .ok_or_else(|| refuse("the destination is missing"))?
                    .to_owned(),
                owner: arg(2).map(str::to_owned),
                mode: arg(3).map(parse_mode).transpose().map_err(refuse)?,
                files: files_hash
                    .parse()
                    .map_err(|_| refuse("filesHash is not 64 hexadecimal digits"))?,
            }),
            "RUN" => Instruction::Run {
                command: arg(0)
                    .ok_or_else(|| refuse("the command is missing"))?
                    .to_owned(),
                user: arg(1).map(str::to_owned),
            },
            "ENV" | "ARG" => Instruction::Env(pairs(args).map_err(refuse)?),
            "WORKDIR" => Instruction::Workdir(
                arg(0)
                    .ok_or_else(|| refuse("the directory is missing"))?
                    .to_owned(),
            ),
            "USER" => Instruction::User(
                arg(0)
                    .ok_or_else(|| refuse("the user is missing"))?
                    .to_owned(),
            ),
            _ => return Err(refuse("unknown type of step")),
        };
        Ok(Self { instruction, force })
    }
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("the mode is not an octal number up to 7777"),
    }
}

fn pairs(args: &[String]) -> Result<Vec<(String, String)>, &'static str> {
    if args.is_empty() || !args.len().is_multiple_of(2) {
        return Err("variables come in pairs of name and value");
    }
    let named = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    args.chunks_exact(2)
        .map(|pair| match named(&pair[0]) {
            true => Ok((pair[0].clone(), pair[1].clone())),
            false => Err("a variable's name takes letters, digits and \"_\""),
        })
        .collect()
}

/// As the author wrote it, more or less.
impl fmt::Display for Instruction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(copy) => write!(formatter, "COPY {} {}", copy.source, copy.destination),
            Self::Run { command, .. } => write!(formatter, "RUN {command}"),
            Self::Env(pairs) => {
                formatter.write_str("ENV")?;
                let texts = pairs.iter().flat_map(|(name, value)| [name, value]);
                texts
                    .into_iter()
                    .try_for_each(|text| write!(formatter, " {text}"))
            }
            Self::Workdir(path) => write!(formatter, "WORKDIR {path}"),
            Self::User(user) => write!(formatter, "USER {user}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, args: &[&str]) -> Result<Step, Error> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Step::parse(3, kind, &args, &"a1".repeat(32), false)
    }

    #[test]
    fn steps_are_read_as_the_sdks_send_them() {
        let copy = step("COPY", &["f.txt", "/app/", "root", "0644"]).unwrap();
        let Instruction::Copy(copy) = copy.instruction else {
            panic!("{copy:?}")
        };
        assert_eq!(
            (copy.mode, copy.owner.as_deref()),
            (Some(0o644), Some("root"))
        );
        let copy = step("COPY", &["f.txt", ".", "", ""]).unwrap();
        assert!(matches!(
            copy.instruction,
            Instruction::Copy(Copy {
                mode: None,
                owner: None,
                ..
            })
        ));
        let env = step("ENV", &["A", "1", "B", "${A}"]).unwrap();
        assert_eq!(env.instruction.to_string(), "ENV A 1 B ${A}");
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_its_number() {
        for (kind, args) in [
            ("COPY", &["a"][..]),
            ("COPY", &["a", "b", "", "999"]),
            ("RUN", &[]),
            ("RUN", &["a\0b"]),
            ("ENV", &["A"]),
            ("ENV", &["A=B", "1"]),
            ("WORKDIR", &[""]),
            ("VOLUME", &["/x"]),
        ] {
            let error = step(kind, args).expect_err(kind).to_string();
            assert!(error.contains("step 3"), "{error}");
        }
        assert!("../../etc".parse::<FilesHash>().is_err());
        assert!("../x".parse::<Scope>().is_err());
    }
}
