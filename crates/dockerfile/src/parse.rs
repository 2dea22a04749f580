//! From a Dockerfile's text to its instructions: comments, continued lines,
//! here-documents, flags and the JSON form, by the rules of BuildKit.

use crate::{Error, words};

/// One instruction, its words not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// In capitals.
    pub(crate) name: String,
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// Without name and flags; continued lines are joined.
    pub(crate) text: String,
    /// The words of the JSON form, where it has that form.
    pub(crate) json: Option<Vec<String>>,
    /// With their dashes.
    pub(crate) flags: Vec<String>,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// A here-document, without the line that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) mark: Mark,
    /// As it stands in the file.
    pub(crate) content: String,
}

/// What begins a here-document: `<<NAME`, `<<-NAME`, `<<"NAME"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    /// Tabs at the beginnings of lines are left out.
    pub(crate) chomp: bool,
    /// Variables in it are replaced.
    pub(crate) expand: bool,
}

impl Heredoc {
    /// Its content, without leading tabs where it says so.
    pub(crate) fn body(&self) -> String {
        if !self.mark.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// All instructions, and the character that escapes and continues lines.
pub(crate) fn parse(text: &str) -> Result<(Vec<Instruction>, char), Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let escape = escape_of(&lines)?;
    let mut reader = Reader {
        lines,
        next: 0,
        escape,
    };
    let mut instructions = Vec::new();
    while let Some((line, text)) = reader.logical_line() {
        instructions.push(reader.instruction(line, &text)?);
    }
    Ok((instructions, escape))
}

/// `# escape=` among the directives at the top.
fn escape_of(lines: &[&str]) -> Result<char, Error> {
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let key = key.trim().to_ascii_lowercase();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            break;
        }
        if key == "escape" {
            return match value.trim() {
                "\\" => Ok('\\'),
                "`" => Ok('`'),
                other => Err(Error::at(
                    index + 1,
                    format!("the escape character is \\ or `, not {other:?}"),
                )),
            };
        }
    }
    Ok('\\')
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    next: usize,
    escape: char,
}

impl Reader<'_> {
    /// The next line that says something, with the lines that continue it. Answers
    /// with its number, too.
    fn logical_line(&mut self) -> Option<(usize, String)> {
        let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        while is_empty(self.lines.get(self.next)?) {
            self.next += 1;
        }
        let first = self.next;
        let mut text = String::new();
        while let Some(line) = self.lines.get(self.next) {
            self.next += 1;
            let line = if self.next == first + 1 {
                line.trim_start()
            } else if is_empty(line) {
                // Comments and empty lines do not end what is continued.
                continue;
            } else {
                line
            };
            match continued(line, self.escape) {
                Some(part) => text.push_str(part),
                None => {
                    text.push_str(line);
                    break;
                }
            }
        }
        Some((first + 1, text))
    }

    fn instruction(&mut self, line: usize, text: &str) -> Result<Instruction, Error> {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_ascii_uppercase();
        let heredocs = match name.as_str() {
            "RUN" | "COPY" | "ADD" => self.heredocs(line, rest)?,
            _ => Vec::new(),
        };
        let (flags, rest) = flags(rest.trim(), self.escape);
        let takes_json = matches!(
            name.as_str(),
            "RUN" | "CMD" | "ENTRYPOINT" | "COPY" | "ADD" | "SHELL" | "VOLUME"
        );
        let json = (takes_json && rest.starts_with('['))
            .then(|| serde_json::from_str::<Vec<String>>(rest).ok())
            .flatten();
        Ok(Instruction {
            name,
            line,
            text: rest.to_owned(),
            json,
            flags,
            heredocs,
        })
    }

    fn heredocs(&mut self, line: usize, text: &str) -> Result<Vec<Heredoc>, Error> {
        let marks: Vec<Mark> = words::split(text, self.escape)
            .iter()
            .filter_map(|word| mark(word, self.escape))
            .collect();
        let mut heredocs = Vec::with_capacity(marks.len());
        for mark in marks {
            let mut content = String::new();
            loop {
                let Some(next) = self.lines.get(self.next) else {
                    let message = format!("the here-document {} has no end", mark.name);
                    return Err(Error::at(line, message));
                };
                self.next += 1;
                let shown = if mark.chomp {
                    next.trim_start_matches('\t')
                } else {
                    next
                };
                if shown == mark.name {
                    break;
                }
                content.push_str(next);
                content.push('\n');
            }
            heredocs.push(Heredoc { mark, content });
        }
        Ok(heredocs)
    }
}

/// A line without the character that continues it; `None` when nothing does.
fn continued(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    // Two of them are one that stands for itself.
    (!before.ends_with(escape)).then_some(before)
}

/// What a word begins, if it begins a here-document.
pub(crate) fn mark(word: &str, escape: char) -> Option<Mark> {
    let rest = word
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name = words::literal(rest, escape).ok()?;
    (!name.is_empty() && !name.contains(char::is_whitespace)).then(|| Mark {
        expand: name == rest,
        name,
        chomp,
    })
}

/// Leading words that begin with two dashes, and what comes after them.
fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text;
    while rest.starts_with("--") {
        let (word, after) = words::first(rest, escape);
        let after = after.trim_start();
        if word == "--" {
            return (flags, after);
        }
        flags.push(words::literal(word, escape).unwrap_or_else(|_| word.to_owned()));
        rest = after;
    }
    (flags, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Instruction {
        let (mut all, _) = parse(text).expect("parses");
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn lines_are_continued_over_comments_and_empty_lines() {
        let text = "\u{feff}\n# note\nrun a && \\  \n  # why\n\n    b \\\r\n\tc\nUSER x\n";
        let (all, _) = parse(text).expect("parses");
        assert_eq!((&*all[0].name, all[0].line), ("RUN", 3));
        assert_eq!(all[0].text, "a &&     b \tc");
        assert_eq!(
            (&*all[1].name, &*all[1].text, all[1].line),
            ("USER", "x", 8)
        );
        // Two backslashes at the end are one, and continue nothing.
        assert_eq!(parse("RUN a\\\\\nUSER x").expect("parses").0.len(), 2);
        assert_eq!(one("RUN a \\").text, "a");
    }

    #[test]
    fn another_character_escapes() {
        let (all, escape) = parse("# escape=`\nRUN dir C:\\ `\n x\n").expect("parses");
        assert_eq!((escape, &*all[0].text), ('`', "dir C:\\  x"));
        assert_eq!(parse("# escape=x\n").unwrap_err().line, Some(1));
        // Only at the top.
        assert_eq!(parse("USER x\n# escape=`\n").expect("parses").1, '\\');
    }

    #[test]
    fn here_documents_are_taken_whole() {
        let text =
            "RUN cat <<EOF > /x && cat <<-'E2' 3<<\"E3\"\n$A \\\n# b\nEOF\n\tc\n\tE2\nE3\nUSER x";
        let (all, _) = parse(text).expect("parses");
        let docs = &all[0].heredocs;
        assert_eq!(docs.len(), 3);
        assert_eq!(docs[0].content, "$A \\\n# b\n");
        assert!(docs[0].mark.expand && !docs[0].mark.chomp);
        assert_eq!((&*docs[1].content, &*docs[1].body()), ("\tc\n", "c\n"));
        assert!(!docs[1].mark.expand && docs[1].mark.chomp);
        assert_eq!((&*docs[2].mark.name, &*docs[2].content), ("E3", ""));
        assert_eq!(all[1].name, "USER");
        assert!(parse("RUN <<EOF\nx\n").unwrap_err().message.contains("EOF"));
    }

    #[test]
    fn shifts_and_quotes_are_no_here_documents() {
        for text in [
            "RUN x=$((1<<2))",
            "RUN echo \"<<EOF\"",
            "RUN a <<<word",
            "ENV A=<<B",
        ] {
            assert_eq!(one(text).heredocs, [], "{text}");
        }
    }

    #[test]
    fn flags_and_json() {
        let copy = one("COPY --chown=a:b --chmod=\"0755\" [\"a b\", \"c\"]");
        assert_eq!(copy.flags, ["--chown=a:b", "--chmod=0755"]);
        assert_eq!(copy.json, Some(vec!["a b".to_owned(), "c".to_owned()]));
        assert_eq!(one("RUN [ -f x ]").json, None);
        assert_eq!(one("RUN [\"a\", 'b']").json, None);
        assert_eq!(one("CMD [\"a\"]").json, Some(vec!["a".to_owned()]));
        assert_eq!(one("RUN -- --x").text, "--x");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(RUN|COPY|ENV|#|<<E|E|\\\\|\"|'|\\[|\\$|\n| |\t|[a-z]|\\PC){0,60}") {
            let _ = parse(&text);
        }
    }
}
