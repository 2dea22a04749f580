//! Patterns of paths: `*`, `?` and `[…]` within one part, `**` over any number of
//! them. The time for a match grows with pattern times path, never faster.

/// A pattern, read once.
#[derive(Debug, Clone)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// Any one character but "/".
    One,
    /// Any characters but "/".
    Many,
    /// Any characters.
    All,
    /// Nothing, or anything up to and with a "/": one token to decide, one within.
    Parts,
    Within,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// `None` for a class that is not closed or empty, or an escape of nothing.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    match chars.peek() {
                        Some(_) => tokens.extend([Token::Parts, Token::Within]),
                        None => tokens.push(Token::All),
                    }
                }
                '*' => tokens.push(Token::Many),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut chars)?),
                '\\' => tokens.push(Token::Char(chars.next()?)),
                c => tokens.push(Token::Char(c)),
            }
        }
        Some(Self(tokens))
    }

    /// Whether a text has characters that are more than themselves.
    pub(crate) fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let tokens = &self.0;
        let mut now = vec![false; tokens.len() + 1];
        self.enter(&mut now, 0);
        for c in path.chars() {
            let mut next = vec![false; tokens.len() + 1];
            for (at, token) in tokens.iter().enumerate() {
                if !now[at] {
                    continue;
                }
                match token {
                    Token::Char(wanted) if *wanted == c => self.enter(&mut next, at + 1),
                    Token::One if c != '/' => self.enter(&mut next, at + 1),
                    Token::Many if c != '/' => self.enter(&mut next, at),
                    Token::All => self.enter(&mut next, at),
                    Token::Within => {
                        next[at] = true;
                        if c == '/' {
                            self.enter(&mut next, at + 1);
                        }
                    }
                    Token::Class { negated, ranges } if c != '/' => {
                        let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        if inside != *negated {
                            self.enter(&mut next, at + 1);
                        }
                    }
                    _ => {}
                }
            }
            now = next;
        }
        now[tokens.len()]
    }

    /// Marks a place, and those that are reached from it for nothing.
    fn enter(&self, places: &mut [bool], at: usize) {
        if places[at] {
            return;
        }
        places[at] = true;
        match self.0.get(at) {
            Some(Token::Many | Token::All) => self.enter(places, at + 1),
            Some(Token::Parts) => {
                places[at + 1] = true;
                self.enter(places, at + 2);
            }
            _ => {}
        }
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if(|c| *c == '^' || *c == '!').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    };
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Some(Token::Class { negated, ranges });
        }
        let from = one(chars)?;
        let to = match chars.next_if_eq(&'-') {
            Some(_) => one(chars)?,
            None => from,
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, fits, not) in [
            ("a/*.txt", "a/.b.txt", "a/b/c.txt"),
            ("a?c", "abc", "a/c"),
            ("**/x", "x", "yx"),
            ("**/x", "a/b/x", "a/b/xy"),
            ("a/**", "a/b/c", "a"),
            ("**", "a/b", "\0"),
            ("a/**/b", "a/b", "ab"),
            ("a/**/b", "a/x/y/b", "a/x/yb"),
            ("[a-c]x[^0-9]", "bxy", "bx1"),
            ("\\*", "*", "a"),
            ("*", "é", "a/b"),
        ] {
            let glob = Glob::new(pattern).expect(pattern);
            assert!(glob.matches(fits), "{pattern} {fits}");
            assert!(not == "\0" || !glob.matches(not), "{pattern} {not}");
        }
        for bad in ["[", "[]", "[a", "\\", "[a-"] {
            assert!(Glob::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let glob = Glob::new(&"**/*a".repeat(40)).expect("a pattern");
        assert!(!glob.matches(&"a/".repeat(500)));
    }

    proptest::proptest! {
        #[test]
        fn a_text_without_special_characters_matches_itself_alone(
            text in "[a-z./]{0,20}", other in "[a-z./]{0,20}"
        ) {
            let glob = Glob::new(&text).expect("plain");
            proptest::prop_assert!(glob.matches(&text));
            proptest::prop_assert_eq!(glob.matches(&other), text == other);
        }
    }
}
