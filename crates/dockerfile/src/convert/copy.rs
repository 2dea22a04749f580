//! `COPY` and `ADD`: files of the context, and here-documents that become files.

use super::{Action, Converter};
use crate::{
    Error,
    parse::{self, Heredoc, Instruction},
    words::{self, Unknown},
};

impl Converter<'_> {
    pub(super) fn copy(&mut self, it: &Instruction) -> Result<(), Error> {
        let ignored = [
            "link",
            "exclude",
            "parents",
            "keep-git-dir",
            "checksum",
            "unpack",
        ];
        let flags = self.flags(it, &["chown", "chmod", "from"], &ignored)?;
        if flags.contains_key("from") {
            let message = format!(
                "{} --from: Dockerfiles with several stages are not supported",
                it.name
            );
            return Err(Error::at(it.line, message));
        }
        let owner = flags.get("chown");
        let owner = owner.map(|owner| self.expand(it, owner)).transpose()?;
        let mode = flags
            .get("chmod")
            .map(|mode| self.mode(it, mode))
            .transpose()?;
        let words = match &it.json {
            Some(words) => words.clone(),
            None => words::split(&it.text, self.escape),
        };
        let Some((destination, sources)) = words.split_last().filter(|(_, rest)| !rest.is_empty())
        else {
            let message = format!("{} takes a source and a destination", it.name);
            return Err(Error::at(it.line, message));
        };
        if parse::mark(destination, self.escape).is_some() {
            let message = format!("{} cannot write to a here-document", it.name);
            return Err(Error::at(it.line, message));
        }
        let destination = self.expand(it, destination)?;
        let directory = destination.ends_with('/') || destination == "." || destination == "..";
        if sources.len() > 1 && !directory {
            let message = format!(
                "{}: with several sources the destination is a directory and ends with \"/\"",
                it.name
            );
            return Err(Error::at(it.line, message));
        }
        let mut heredocs = it.heredocs.iter();
        for source in sources {
            if it.json.is_none() && parse::mark(source, self.escape).is_some() {
                let heredoc = heredocs.next().ok_or_else(|| {
                    Error::at(it.line, format!("{source}: the here-document is missing"))
                })?;
                let text = self.write(it, heredoc, &destination, (owner.as_deref(), mode))?;
                self.step(it, text);
                continue;
            }
            let source = self.source(it, source)?;
            let action = Action::Copy {
                source,
                destination: destination.clone(),
                owner: owner.clone(),
                mode,
            };
            self.step(it, action);
        }
        Ok(())
    }

    fn mode(&self, it: &Instruction, text: &str) -> Result<u32, Error> {
        let text = self.expand(it, text)?;
        let fits = (3..=4).contains(&text.len());
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if fits => Ok(mode),
            _ => Err(Error::at(
                it.line,
                format!("--chmod={text} is no octal mode such as 0755"),
            )),
        }
    }

    /// A path in the context: one that begins with "/" begins there, too.
    fn source(&mut self, it: &Instruction, word: &str) -> Result<String, Error> {
        let source = words::expand(word, self.escape, &self.variables, Unknown::Empty)
            .map_err(|why| Error::at(it.line, why))?;
        let remote = source.contains("://") || source.starts_with("git@");
        if remote {
            let message = format!(
                "{} {source}: remote sources are not supported; fetch them with RUN",
                it.name
            );
            return Err(Error::at(it.line, message));
        }
        let mut depth = 0i32;
        for part in source.split('/') {
            match part {
                "" | "." => {}
                ".." => depth -= 1,
                _ => depth += 1,
            }
            if depth < 0 {
                let message = format!("{} {source}: leads out of the context", it.name);
                return Err(Error::at(it.line, message));
            }
        }
        const ARCHIVES: [&str; 8] = [
            ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
        ];
        if it.name == "ADD" && ARCHIVES.iter().any(|ending| source.ends_with(ending)) {
            self.warn(
                it,
                format!("ADD {source}: the archive is copied, not unpacked"),
            );
        }
        let source = source.trim_start_matches('/');
        Ok(if source.is_empty() { "." } else { source }.to_owned())
    }

    /// The step that writes a here-document to a file, as root, who builds.
    fn write(
        &self,
        it: &Instruction,
        heredoc: &Heredoc,
        destination: &str,
        (owner, mode): (Option<&str>, Option<u32>),
    ) -> Result<Action, Error> {
        let content = if heredoc.mark.expand {
            in_double_quotes(&heredoc.body()).map_err(|why| Error::at(it.line, why))?
        } else {
            words::quoted(&heredoc.body())
        };
        // Its names of variables are for the shell.
        let target = destination.replace('"', "\\\"").replace('`', "\\`");
        let target = format!("\"{target}\"");
        let name = words::quoted(&heredoc.mark.name);
        let mut command = format!(
            "t={target}; case \"$t\" in */) t=\"$t\"{name};; esac; \
             [ ! -d \"$t\" ] || t=\"$t\"/{name}; \
             mkdir -p \"$(dirname \"$t\")\" && printf %s {content} > \"$t\""
        );
        if let Some(owner) = owner {
            command.push_str(&format!(" && chown {} \"$t\"", words::quoted(owner)));
        }
        if let Some(mode) = mode {
            command.push_str(&format!(" && chmod {mode:o} \"$t\""));
        }
        Ok(Action::Run {
            command,
            user: Some("root".to_owned()),
        })
    }
}

/// A here-document's text as one word of a shell that replaces its variables, and
/// nothing but these.
fn in_double_quotes(text: &str) -> Result<String, String> {
    let mut out = String::from("\"");
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\', '`', '"']) {
        out.push_str(&rest[..at]);
        let mark = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        match mark {
            b'\\' => {
                let next = rest.chars().next();
                match next {
                    Some(c @ ('$' | '\\' | '`' | '"')) => out.extend(['\\', c]),
                    Some(c) => out.extend(['\\', '\\', c]),
                    None => out.push_str("\\\\"),
                }
                rest = &rest[next.map_or(0, char::len_utf8)..];
            }
            b'$' if rest.starts_with('{') => {
                let end = rest
                    .find('}')
                    .ok_or("${ in the here-document is not closed")?;
                let inner = &rest[1..end];
                let plain = |c: char| c.is_ascii_alphanumeric() || "_:-+./ ,=@".contains(c);
                if inner.is_empty() || !inner.chars().all(plain) {
                    return Err(format!(
                        "${{{inner}}}: only plain variables are supported here"
                    ));
                }
                out.push_str(&format!("${{{inner}}}"));
                rest = &rest[end + 1..];
            }
            b'$' if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                out.push('$');
            }
            other => out.extend(['\\', char::from(other)]),
        }
    }
    out.push_str(rest);
    out.push('"');
    Ok(out)
}
