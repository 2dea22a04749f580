//! Command lines without the secrets in them, for the sandbox's log.
//!
//! Commands arrive as shell text (`bash -c …`), so the text is read as a shell reads
//! words: a quoted value is one value. Hidden are
//!
//! * what follows a flag or variable that is named like a secret: `--token x`,
//!   `API_KEY=x`, `"password": "x"`, `Authorization: Bearer x`;
//! * the arguments of programs that are known to carry secrets ([`FLAGS`]);
//! * user names and passwords in URLs;
//! * words that begin like a well-known kind of key ([`PREFIXES`]).
//!
//! It hides rather too much than too little, and all that follows where the quote around
//! a value is not closed. Still it can only know what looks like a secret; a command that must not be
//! logged at all is kept out by [`super::logged::SWITCH`].

use hearth_guest_proto::process::ProcessConfig;

/// What stands in a secret's place.
pub const HIDDEN: &str = "[hidden]";
/// What is looked at of one argument. A log shows less of it.
const MAX_ARGUMENT: usize = 8 * 1024;
/// Shells in shells that are looked into.
const MAX_DEPTH: usize = 3;

/// Flags of programs whose value is a secret, though their name does not say so.
const FLAGS: [(&str, &[&str]); 5] = [
    ("mcp-gateway", &["--config", "-c"]),
    ("curl", &["-u", "--user", "-U", "--proxy-user"]),
    ("sshpass", &["-p"]),
    ("mysql", &["-p"]),
    ("mysqldump", &["-p"]),
];

/// Parts of names, in lower case and without hyphens and underscores.
const SECRET_NAMES: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "cookie",
];

/// How well-known kinds of keys begin.
const PREFIXES: [&str; 13] = [
    "e2b_",
    "sk_",
    "sk-",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "npm_",
    "xoxb-",
    "xoxp-",
    "AKIA",
];
const MIN_KEY: usize = 16;

/// The whole command line as the log shows it.
pub fn command_line(config: &ProcessConfig) -> String {
    let mut line = config.cmd.clone();
    let mut flags = flags_of(&config.cmd);
    let (mut hide_next, mut script_next) = (false, false);
    for argument in &config.args {
        // More than this no log shows.
        if line.len() > MAX_ARGUMENT {
            break;
        }
        line.push(' ');
        if std::mem::take(&mut hide_next) {
            line.push_str(HIDDEN);
            continue;
        }
        let end = argument.floor_char_boundary(MAX_ARGUMENT);
        let text = &argument[..end];
        if std::mem::replace(&mut script_next, takes_script(text)) {
            line.push_str(&shell_text(text, 0));
            continue;
        }
        match flag(text, flags) {
            Flag::Next => {
                line.push_str(text);
                hide_next = true;
            }
            Flag::Attached(at) => {
                line.push_str(&text[..at]);
                line.push_str(HIDDEN);
            }
            Flag::None => line.push_str(&shell_text(text, 0)),
        }
        // `env`, `sudo` and the like: the program comes later.
        if flags.is_empty() {
            flags = flags_of(text);
        }
    }
    line
}

/// `-c` of a shell, alone or with others: `-lc`.
fn takes_script(argument: &str) -> bool {
    let letters = argument
        .strip_prefix('-')
        .and_then(|rest| rest.strip_suffix('c'));
    letters.is_some_and(|letters| letters.bytes().all(|letter| letter.is_ascii_alphabetic()))
}

/// A shell's text without the secrets.
fn shell_text(text: &str, depth: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut flags: &[&str] = &[];
    let mut hide_next = false;
    while let Some(first) = rest.chars().next() {
        // A line that goes on below: what follows is still the same command.
        if let Some(after) = rest.strip_prefix("\\\n") {
            out.push_str("\\\n");
            rest = after;
            continue;
        }
        if is_separator(first) {
            if !matches!(first, ' ' | '\t') {
                (flags, hide_next) = (&[], false);
            }
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let word;
        (word, rest) = rest.split_at(word_length(rest));
        if std::mem::take(&mut hide_next) {
            out.push_str(HIDDEN);
            continue;
        }
        match flag(word, flags) {
            Flag::Next => {
                out.push_str(word);
                hide_next = true;
            }
            Flag::Attached(at) => {
                out.push_str(&word[..at]);
                out.push_str(HIDDEN);
            }
            Flag::None => {
                let inside = unquoted(word).filter(|_| depth < MAX_DEPTH);
                match inside {
                    Some(inside) => {
                        let quote = &word[..1];
                        let inside = shell_text(inside, depth + 1);
                        out.push_str(&format!("{quote}{inside}{quote}"));
                    }
                    None => out.push_str(&plain_text(word)),
                }
            }
        }
        if flags.is_empty() {
            flags = flags_of(word);
        }
    }
    // Names and values may stand further apart than the words of a shell.
    plain_text(&out)
}

fn is_separator(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, ';' | '|' | '&' | '(' | ')' | '<' | '>')
}

/// Bytes of the word that the text begins with; all of it when a quote is not closed.
fn word_length(text: &str) -> usize {
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (quote, letter) {
            (Some('\''), '\'') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => {
                letters.next();
            }
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, letter) if is_separator(letter) => return at,
            _ => {}
        }
    }
    text.len()
}

/// The content of a word that is one quoted text with several words in it.
fn unquoted(word: &str) -> Option<&str> {
    let quote = word
        .chars()
        .next()
        .filter(|first| matches!(first, '\'' | '"'))?;
    let inside = word.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inside.contains(quote) && inside.contains(is_separator)).then_some(inside)
}

/// What a word says about a secret.
enum Flag {
    None,
    /// The next word is one.
    Next,
    /// One begins at this byte of the word itself.
    Attached(usize),
}

fn flag(word: &str, flags: &[&str]) -> Flag {
    let (name, value) = match word.find('=') {
        Some(at) => (&word[..at], Some(at + 1)),
        None => (word, None),
    };
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let named = name.chars().all(is_name);
    let known = named && (flags.contains(&name) || is_secret(name));
    match value {
        Some(at) if known => return Flag::Attached(at),
        None if known && name.starts_with('-') => return Flag::Next,
        _ => {}
    }
    // `-pVALUE`
    let mut short = flags.iter().filter(|flag| flag.len() == 2);
    match short.find(|flag| word.starts_with(**flag)) {
        Some(flag) => Flag::Attached(flag.len()),
        None => Flag::None,
    }
}

/// The flags of a program, by its name or path.
fn flags_of(program: &str) -> &'static [&'static str] {
    let name = program.rsplit('/').next().unwrap_or(program);
    FLAGS
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(&[], |(_, flags)| flags)
}

fn is_secret(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    // Counts of tokens and the programs that make them are no secrets.
    let harmless = name.ends_with("tokens") || name.contains("tokeniz");
    name == "auth" || (!harmless && SECRET_NAMES.iter().any(|part| name.contains(part)))
}

/// Text without the secrets that need no knowledge of a shell: in URLs, behind names,
/// and those that show what they are.
fn plain_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        if length == 0 {
            let user = rest.strip_prefix("://").map_or(0, user_info_length);
            if user > 0 {
                out.push_str("://");
                out.push_str(HIDDEN);
                rest = &rest["://".len() + user..];
                continue;
            }
            let first = rest.chars().next().map_or(0, char::len_utf8);
            let (letter, after) = rest.split_at(first);
            out.push_str(letter);
            rest = after;
            continue;
        }
        let (word, after) = rest.split_at(length);
        rest = after;
        if length >= MIN_KEY && PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            out.push_str(HIDDEN);
            continue;
        }
        out.push_str(word);
        if is_secret(word)
            && let Some((before, value)) = value_after(rest)
        {
            out.push_str(&rest[..before]);
            out.push_str(HIDDEN);
            rest = &rest[before + value..];
        }
    }
    out
}

/// The bytes between a name and its value, and those of the value, in what follows the
/// name: `: value`, `=value`, `": "value"`.
fn value_after(text: &str) -> Option<(usize, usize)> {
    let trimmed = text.trim_start_matches(['"', '\'', '\\', ' ']);
    let separator = trimmed.chars().next()?;
    if !matches!(separator, ':' | '=') {
        return None;
    }
    let value = trimmed[1..].trim_start_matches([' ', '\t']);
    // A name in text, not a field: `token: ` at the end, or C++'s `::`.
    if value.is_empty() || value.starts_with(HIDDEN) || value.starts_with([':', '=']) {
        return None;
    }
    let quote = value
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''));
    let value = value.strip_prefix('\\').unwrap_or(value);
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    let end = match (quote, separator) {
        (Some(quote), _) => value.find(quote),
        // A header's value may have spaces in it.
        (None, ':') => value.find(['"', '\'', '\n', '\r']),
        (None, _) => value.find(|letter: char| letter.is_whitespace() || "\"'&;".contains(letter)),
    };
    let before = text.len() - value.len();
    Some((before, end.unwrap_or(value.len())))
}

/// Bytes of `user:password` before the `@` of a URL's host.
fn user_info_length(after_scheme: &str) -> usize {
    let stop = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`');
    let url = &after_scheme[..after_scheme.find(stop).unwrap_or(after_scheme.len())];
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(at) = authority.rfind('@') {
        return at;
    }
    // A password that has a slash in it and should have been encoded.
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match authority.split_once(':') {
        Some((_, port)) if !is_port(port) => url.rfind('@').unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
