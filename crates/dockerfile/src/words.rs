//! Words of instructions: where they end, their quotes and escapes, and the
//! variables in them.
//!
//! A variable that the Dockerfile sets is replaced here. One that it does not set
//! may come of the image, which nobody here knows: its name stays for the builder
//! to replace.

use std::collections::BTreeMap;

/// What the Dockerfile has set so far. Values may hold names of the image's.
pub(crate) type Variables = BTreeMap<String, String>;

/// Modes of [`expand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Stays, for the builder: a dollar sign that stands for itself gets a
    /// backslash.
    Kept,
    /// Is empty.
    Empty,
}

/// The first word as it stands, and the text after it.
pub(crate) fn first(text: &str, escape: char) -> (&str, &str) {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return text.split_at(at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape && quote != Some('\'') => {
                chars.next();
            }
            _ => {}
        }
    }
    (text, "")
}

/// All words as they stand, with their quotes.
pub(crate) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = first(rest, escape);
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// A word without its quotes and escapes; variables stay as they are.
pub(crate) fn literal(word: &str, escape: char) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = word.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape && quote != Some('\'') => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    match quote {
        None => Ok(out),
        Some(_) => Err(unclosed(word)),
    }
}

/// A word without its quotes and escapes, and with the variables' values.
pub(crate) fn expand(
    word: &str,
    escape: char,
    variables: &Variables,
    unknown: Unknown,
) -> Result<String, String> {
    let mut expander = Expander {
        rest: word,
        escape,
        variables,
        unknown,
        depth: 0,
    };
    let out = expander
        .until(None)
        .map_err(|why| if why.is_empty() { unclosed(word) } else { why })?;
    Ok(out)
}

fn unclosed(word: &str) -> String {
    format!("{word}: a quote or a brace is not closed")
}

/// Defaults within defaults may go this deep.
const MAX_DEPTH: usize = 16;

struct Expander<'a> {
    rest: &'a str,
    escape: char,
    variables: &'a Variables,
    unknown: Unknown,
    depth: usize,
}

impl Expander<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn push(&self, out: &mut String, c: char) {
        if c == '$' && self.unknown == Unknown::Kept {
            out.push('\\');
        }
        out.push(c);
    }

    /// Reads up to `stop`, or to the end where that is `None`. An empty error says
    /// that the end came first.
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.next() {
                None if stop.is_none() => return Ok(out),
                None => return Err(String::new()),
                Some(c) if Some(c) == stop => return Ok(out),
                Some('\'') => self.single(&mut out)?,
                Some('"') => self.double(&mut out)?,
                Some('$') => {
                    let value = self.variable()?;
                    out.push_str(&value);
                }
                Some(c) if c == self.escape => {
                    if let Some(c) = self.next() {
                        self.push(&mut out, c);
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next().ok_or_else(String::new)? {
                '\'' => return Ok(()),
                c => self.push(out, c),
            }
        }
    }

    fn double(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next().ok_or_else(String::new)? {
                '"' => return Ok(()),
                '$' => {
                    let value = self.variable()?;
                    out.push_str(&value);
                }
                c if c == self.escape => match self.next().ok_or_else(String::new)? {
                    next if next == '"' || next == '$' || next == self.escape => {
                        self.push(out, next);
                    }
                    next => {
                        out.push(c);
                        self.push(out, next);
                    }
                },
                c => out.push(c),
            }
        }
    }

    /// After a dollar sign.
    fn variable(&mut self) -> Result<String, String> {
        if !self.rest.starts_with('{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                let mut out = String::new();
                self.push(&mut out, '$');
                out
            } else {
                self.value(&name)
            });
        }
        self.next();
        let name = self.name();
        if name.is_empty() {
            return Err(format!("${{{}: the variable has no name", self.rest));
        }
        let mut operation = String::new();
        loop {
            match self.next().ok_or_else(String::new)? {
                '}' if operation.is_empty() => return Ok(self.value(&name)),
                c @ ('-' | '+' | '?') => {
                    operation.push(c);
                    break;
                }
                ':' if operation.is_empty() => operation.push(':'),
                c => {
                    return Err(format!(
                        "${{{name}{operation}{c}…}}: only :-, :+ and :? are supported here"
                    ));
                }
            }
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("${{{name}…}}: nested too deeply"));
        }
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        self.operate(&name, &operation, word)
    }

    fn operate(&self, name: &str, operation: &str, word: String) -> Result<String, String> {
        let found = self.variables.get(name);
        let set = found.is_some_and(|value| !operation.starts_with(':') || !value.is_empty());
        if found.is_none() && self.unknown == Unknown::Kept {
            return Ok(match operation.chars().last() {
                Some('-') => format!("${{{name}:-{word}}}"),
                Some('+') => format!("${{{name}:+{word}}}"),
                _ => format!("${{{name}}}"),
            });
        }
        match operation.chars().last() {
            Some('-') if !set => Ok(word),
            Some('+') => Ok(if set { word } else { String::new() }),
            Some('?') if !set => Err(format!("{name} is not set: {word}")),
            _ => Ok(found.cloned().unwrap_or_default()),
        }
    }

    fn name(&mut self) -> String {
        let length = if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            0
        } else {
            self.rest
                .bytes()
                .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
                .count()
        };
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name.to_owned()
    }

    fn value(&self, name: &str) -> String {
        match (self.variables.get(name), self.unknown) {
            (Some(value), _) => value.clone(),
            (None, Unknown::Kept) => format!("${{{name}}}"),
            (None, Unknown::Empty) => String::new(),
        }
    }
}

/// A text as one word of a shell, with quotes only where it needs them.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Words as a line of a shell that hands them on as they are.
pub(crate) fn line(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Variables {
        let pairs = [("A", "1"), ("EMPTY", ""), ("P", "/x:${PATH}")];
        pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    fn kept(word: &str) -> String {
        expand(word, '\\', &set(), Unknown::Kept).expect(word)
    }

    #[test]
    fn words_end_at_spaces_outside_of_quotes() {
        let text = r#" a "b c"d  e\ f 'g "h' "#;
        assert_eq!(split(text, '\\'), ["a", "\"b c\"d", "e\\ f", "'g \"h'"]);
        assert_eq!(literal("a\"b c\"'d'\\ e", '\\').as_deref(), Ok("ab cd e"));
        assert!(literal("\"a", '\\').is_err());
    }

    #[test]
    fn variables_of_the_file_are_replaced_others_stay() {
        assert_eq!(kept("$A-${A}x$B-${C:-$A}"), "1-1x${B}-${C:-1}");
        assert_eq!(kept("${P}/bin"), "/x:${PATH}/bin");
        assert_eq!(kept("${EMPTY:-d}${EMPTY-d}${A:+y}${EMPTY:+n}"), "dy");
        assert_eq!(
            expand("a$B${C:-d}", '\\', &set(), Unknown::Empty).as_deref(),
            Ok("ad")
        );
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(
            kept(r#""a $A" 'b $A' \$A "\$A \x""#),
            r"a 1 b \$A \$A \$A \x"
        );
        assert_eq!(kept("a$ 5$"), r"a\$ 5\$");
        assert_eq!(kept(r"a\ b"), "a b");
        for bad in [
            "'a",
            "\"a",
            "${A",
            "${A:-x",
            "${A#x}",
            "${}",
            "${EMPTY:?gone}",
        ] {
            assert!(expand(bad, '\\', &set(), Unknown::Kept).is_err(), "{bad}");
        }
        let deep = "${B:-".repeat(50);
        assert!(expand(&deep, '\\', &set(), Unknown::Kept).is_err());
    }

    #[test]
    fn shell_words() {
        let words = ["echo", "a b", "it's", "$x", ""].map(str::to_owned);
        assert_eq!(line(&words), r"echo 'a b' 'it'\''s' '$x' ''");
    }

    proptest::proptest! {
        #[test]
        fn plain_words_stay(word in "[a-zA-Z0-9/._=:,é-]*") {
            proptest::prop_assert_eq!(kept(&word), word);
        }

        #[test]
        fn any_word_is_read_or_refused(word in "(\\$|\\{|\\}|:|-|\\\\|\"|'|[A-C]|\\PC){0,40}") {
            let _ = expand(&word, '\\', &set(), Unknown::Kept);
            let _ = split(&word, '\\');
        }
    }
}
