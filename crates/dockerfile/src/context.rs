//! The directory that COPY takes files from: what a source names in it, a digest
//! of that, and an archive.

use crate::{glob::Glob, ignore::Ignore};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// A directory, less what its `.dockerignore` leaves out.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    ignore: Ignore,
}

/// What a source names.
#[derive(Debug)]
pub struct Selected {
    root: PathBuf,
    salt: String,
    /// Relative to the root, in order.
    paths: Vec<PathBuf>,
    digest: String,
    bytes: u64,
}

/// Why files cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    #[error("{}, line {line}: this is no pattern", .path.display())]
    Pattern { path: PathBuf, line: usize },
    #[error("no file in {} is named {source_path}{}", .root.display(), if *.ignored { " but what .dockerignore leaves out" } else { "" })]
    NoMatch {
        source_path: String,
        root: PathBuf,
        ignored: bool,
    },
    #[error("{0} leads out of the context")]
    Outside(String),
    #[error("{0} was changed while it was read; build again")]
    Changed(PathBuf),
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("write the archive")]
    Write(#[source] io::Error),
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> ContextError + '_ {
    |error| ContextError::Read {
        path: path.to_owned(),
        error,
    }
}

impl Context {
    /// Opens a directory. What it leaves out is in `<dockerfile>.dockerignore` or in
    /// its own `.dockerignore`.
    ///
    /// # Errors
    /// When one of these cannot be read.
    pub fn open(root: &Path, dockerfile: &Path) -> Result<Self, ContextError> {
        let mut own = OsString::from(dockerfile);
        own.push(".dockerignore");
        let mut ignore = Ignore::default();
        for path in [PathBuf::from(own), root.join(".dockerignore")] {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let wrong = |line| ContextError::Pattern {
                        path: path.clone(),
                        line,
                    };
                    ignore = Ignore::new(&text).map_err(wrong)?;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(read(&path)(error)),
            }
        }
        let root = root.canonicalize().map_err(read(root))?;
        Ok(Self { root, ignore })
    }

    /// What the source of a COPY names. Links are taken as links.
    ///
    /// # Errors
    /// `NoMatch`, `Outside`, or when something cannot be read.
    pub fn select(&self, source: &str, destination: &str) -> Result<Selected, ContextError> {
        let parts: Vec<&str> = source
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let fixed = parts.iter().take_while(|part| !Glob::is_pattern(part));
        let fixed: PathBuf = fixed.collect();
        let mut walk = Walk {
            context: self,
            glob: None,
            found: Vec::new(),
            left_out: false,
        };
        if fixed.components().count() == parts.len() {
            walk.named(&fixed, source)?;
        } else {
            walk.glob =
                Some(Glob::new(&parts.join("/")).ok_or_else(|| self.no_match(source, false))?);
            self.check_inside(&fixed, source)?;
            if self.root.join(&fixed).is_dir() {
                walk.directory(&fixed, false)?;
            }
        }
        if walk.found.is_empty() {
            return Err(self.no_match(source, walk.left_out));
        }
        let mut paths = walk.found;
        paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        paths.dedup();
        let mut selected = Selected {
            root: self.root.clone(),
            salt: format!("COPY {source} {destination}"),
            paths,
            digest: String::new(),
            bytes: 0,
        };
        (selected.digest, selected.bytes) = selected.read_all(None)?;
        Ok(selected)
    }

    fn no_match(&self, source: &str, ignored: bool) -> ContextError {
        ContextError::NoMatch {
            source_path: source.to_owned(),
            root: self.root.clone(),
            ignored,
        }
    }

    /// A link on the way to what is copied may lead anywhere.
    fn check_inside(&self, path: &Path, source: &str) -> Result<(), ContextError> {
        match self.root.join(path).canonicalize() {
            Ok(real) if real.starts_with(&self.root) => Ok(()),
            Ok(_) => Err(ContextError::Outside(source.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(read(path)(error)),
        }
    }
}

struct Walk<'a> {
    context: &'a Context,
    glob: Option<Glob>,
    found: Vec<PathBuf>,
    left_out: bool,
}

impl Walk<'_> {
    fn named(&mut self, path: &Path, source: &str) -> Result<(), ContextError> {
        self.context
            .check_inside(path.parent().unwrap_or(path), source)?;
        let whole = self.context.root.join(path);
        let data = match std::fs::symlink_metadata(&whole) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(read(&whole)(error)),
        };
        let root = path.as_os_str().is_empty();
        let excluded = !root && self.context.ignore.excludes(&path.to_string_lossy());
        self.left_out |= excluded;
        if data.is_dir() {
            if !excluded && !root {
                self.found.push(path.to_owned());
            }
            if !excluded || self.context.ignore.takes_back() {
                self.directory(path, true)?;
            }
        } else if !excluded && is_copied(&data) {
            self.found.push(path.to_owned());
        }
        Ok(())
    }

    /// Takes what is in a directory: all, or what fits the pattern.
    fn directory(&mut self, path: &Path, all: bool) -> Result<(), ContextError> {
        let whole = self.context.root.join(path);
        for entry in std::fs::read_dir(&whole).map_err(read(&whole))? {
            let entry = entry.map_err(read(&whole))?;
            let path = path.join(entry.file_name());
            let text = path.to_string_lossy();
            let excluded = self.context.ignore.excludes(&text);
            let wanted = all || self.glob.as_ref().is_some_and(|glob| glob.matches(&text));
            let data = entry.metadata().map_err(read(&path))?;
            self.left_out |= wanted && excluded;
            if wanted && !excluded && is_copied(&data) {
                self.found.push(path.clone());
            }
            if data.is_dir() && (!excluded || self.context.ignore.takes_back()) {
                self.directory(&path, wanted)?;
            }
        }
        Ok(())
    }
}

/// Sockets and the like belong to programs that run.
fn is_copied(data: &Metadata) -> bool {
    data.is_file() || data.is_dir() || data.is_symlink()
}

impl Selected {
    /// 64 hexadecimal digits over names, modes, sizes and contents.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a tar archive.
    ///
    /// # Errors
    /// `Changed` when it is no longer what the digest says.
    pub fn archive(&self, out: &mut File) -> Result<(), ContextError> {
        let mut builder = tar::Builder::new(io::BufWriter::new(out));
        let (digest, _) = self.read_all(Some(&mut builder))?;
        if digest != self.digest {
            return Err(ContextError::Changed(self.root.clone()));
        }
        let mut out = builder.into_inner().map_err(ContextError::Write)?;
        out.flush().map_err(ContextError::Write)
    }

    fn read_all(
        &self,
        mut archive: Option<&mut tar::Builder<io::BufWriter<&mut File>>>,
    ) -> Result<(String, u64), ContextError> {
        let mut digest = Sha256::new();
        let mut bytes = 0u64;
        digest.update(self.salt.as_bytes());
        for path in &self.paths {
            let whole = self.root.join(path);
            let data = std::fs::symlink_metadata(&whole).map_err(read(&whole))?;
            digest.update(path.as_os_str().as_bytes());
            digest.update(data.mode().to_string());
            if !data.is_dir() {
                digest.update(data.len().to_string());
            }
            let mut header = tar::Header::new_gnu();
            header.set_mode(data.mode() & 0o7777);
            header.set_mtime(u64::try_from(data.mtime()).unwrap_or(0));
            header.set_size(0);
            if data.is_symlink() {
                let target = std::fs::read_link(&whole).map_err(read(&whole))?;
                digest.update(target.as_os_str().as_bytes());
                header.set_entry_type(tar::EntryType::Symlink);
                if let Some(archive) = &mut archive {
                    let added = archive.append_link(&mut header, path, target);
                    added.map_err(ContextError::Write)?;
                }
            } else if data.is_dir() {
                header.set_entry_type(tar::EntryType::Directory);
                if let Some(archive) = &mut archive {
                    let added = archive.append_data(&mut header, path, io::empty());
                    added.map_err(ContextError::Write)?;
                }
            } else {
                header.set_size(data.len());
                let file = File::open(&whole).map_err(read(&whole))?;
                let mut reader = Hashed {
                    inner: file.take(data.len()),
                    digest: &mut digest,
                    read: 0,
                };
                match &mut archive {
                    Some(archive) => archive
                        .append_data(&mut header, path, &mut reader)
                        .map_err(ContextError::Write)?,
                    None => {
                        io::copy(&mut reader, &mut io::sink()).map_err(read(&whole))?;
                    }
                }
                if reader.read != data.len() {
                    return Err(ContextError::Changed(whole));
                }
                bytes += data.len();
            }
        }
        Ok((hex::encode(digest.finalize()), bytes))
    }
}

/// Digests what is read through it.
struct Hashed<'a, R> {
    inner: R,
    digest: &'a mut Sha256,
    read: u64,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn context(ignore: &str) -> (tempfile::TempDir, Context) {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("dir/sub")).expect("made");
        for (path, text) in [("a.txt", "a"), ("dir/b.txt", "bb"), ("dir/sub/.c", "c")] {
            std::fs::write(at(path), text).expect("written");
        }
        symlink("a.txt", at("link")).expect("linked");
        symlink("/etc", at("out")).expect("linked");
        std::fs::write(at(".dockerignore"), ignore).expect("written");
        let context = Context::open(root.path(), &at("Dockerfile")).expect("opened");
        (root, context)
    }

    fn names(context: &Context, source: &str) -> Vec<String> {
        let selected = context.select(source, "/x").expect(source);
        let shown = selected.paths.iter().map(|path| path.display().to_string());
        shown.collect()
    }

    #[test]
    fn sources_name_files_directories_and_patterns() {
        let (_root, context) = context("");
        assert_eq!(names(&context, "a.txt"), ["a.txt"]);
        assert_eq!(
            names(&context, "./dir/"),
            ["dir", "dir/b.txt", "dir/sub", "dir/sub/.c"]
        );
        assert_eq!(names(&context, "*.txt"), ["a.txt"]);
        assert_eq!(names(&context, "dir/s*"), ["dir/sub", "dir/sub/.c"]);
        assert_eq!(names(&context, "**/.c"), ["dir/sub/.c"]);
        assert_eq!(names(&context, "l?nk"), ["link"]);
        assert_eq!(names(&context, ".").len(), 8);
        for missing in ["b.txt", "x/*", "[z]*"] {
            let error = context
                .select(missing, "/x")
                .expect_err(missing)
                .to_string();
            assert!(error.contains(missing), "{error}");
        }
        let outside = context.select("out/passwd", "/x");
        assert!(
            matches!(outside, Err(ContextError::Outside(_))),
            "{outside:?}"
        );
        let outside = context.select("out/pass*", "/x");
        assert!(
            matches!(outside, Err(ContextError::Outside(_))),
            "{outside:?}"
        );
    }

    #[test]
    fn ignored_files_stay_out() {
        let (root, context) = context("dir\n!dir/sub/.c\n*.txt");
        assert_eq!(
            names(&context, "."),
            [".dockerignore", "dir/sub/.c", "link", "out"]
        );
        let error = context.select("a.txt", "/x").expect_err("left out");
        assert!(error.to_string().contains(".dockerignore"), "{error}");
        let own = root.path().join("Other.dockerignore");
        std::fs::write(own, "link").expect("written");
        let context = Context::open(root.path(), &root.path().join("Other")).expect("opened");
        assert_eq!(names(&context, "a.txt"), ["a.txt"]);
    }

    #[test]
    fn the_digest_is_over_names_modes_and_contents() {
        let (root, context) = context("");
        let digest = || {
            context
                .select("dir", "/x")
                .expect("found")
                .digest()
                .to_owned()
        };
        let before = digest();
        assert_eq!((before.len(), digest()), (64, before.clone()));
        let file = root.path().join("dir/b.txt");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("set");
        let after = digest();
        assert_ne!(after, before);
        std::fs::write(&file, "xx").expect("written");
        assert_ne!(digest(), after);
    }

    #[test]
    fn the_archive_holds_what_was_selected() {
        let (root, context) = context("");
        let selected = context.select(".", "/x").expect("found");
        let mut file = tempfile::tempfile().expect("a file");
        selected.archive(&mut file).expect("archived");
        io::Seek::rewind(&mut file).expect("rewound");
        let mut archive = tar::Archive::new(file);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("read");
            let name = entry.path().expect("a name").display().to_string();
            seen.push((name, text));
        }
        assert_eq!(seen.len(), 8);
        assert!(seen.contains(&("dir/b.txt".to_owned(), "bb".to_owned())));
        std::fs::write(root.path().join("a.txt"), "changed").expect("written");
        let again = selected.archive(&mut tempfile::tempfile().expect("a file"));
        assert!(matches!(again, Err(ContextError::Changed(_))), "{again:?}");
    }
}
