//! Host names in rules: what matches what. Pure.
//!
//! Names are compared without case and without a final dot. A leading `*.` stands
//! for one label or more, never for none; a lone `*` is every name.

use std::fmt;

/// A host name as a rule writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// This name and no other.
    Exact(String),
    /// Every name below this one, which begins with a dot.
    Below(String),
    /// Every name.
    Any,
}

impl Pattern {
    /// Reads a pattern; `None` for what is no host name, such as an address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(rest) => Some(Self::Below(format!(".{}", normal(rest)?))),
            None => normal(text).map(Self::Exact),
        }
    }

    /// Whether `name`, in its normal form, is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            Self::Any => true,
        }
    }

    /// Greater for what fewer names match: the rule that counts is the greatest.
    pub(crate) fn precision(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Below(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Below(suffix) => write!(formatter, "*{suffix}"),
            Self::Any => formatter.write_str("*"),
        }
    }
}

/// Whom a rule means: hosts, perhaps at one port alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    pub host: Pattern,
    /// Absent where the rule does not say.
    pub port: Option<u16>,
}

impl Destination {
    /// Reads `host` or `host:port`, as `get_host()` of the SDKs returns it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port_number(port)?)),
            None => (text, None),
        };
        let host = Pattern::parse(host)?;
        Some(Self { host, port })
    }

    /// Whether a connection to `port` of `name`, in its normal form, is meant.
    #[must_use]
    pub fn matches(&self, name: &str, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.host.matches(name)
    }

    /// Greater for what fewer connections match.
    pub(crate) fn precision(&self) -> (u8, usize, bool) {
        let (kind, length) = self.host.precision();
        (kind, length, self.port.is_some())
    }
}

/// A port in decimal digits and nothing else.
fn port_number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// A host name in the form in which names are compared; `None` for what is none:
/// an address, an empty label, characters that no host name has.
#[must_use]
pub fn normal(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // What ends in a number would be read as an IPv4 address.
    let numeric = text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (text.len() <= 253 && !numeric && text.split('.').all(label)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_mean_what_is_below_and_not_the_name_itself() {
        let below = Pattern::parse("*.Example.com").unwrap();
        for inside in ["a.example.com", "a.b.example.com"] {
            assert!(below.matches(inside));
        }
        for outside in [
            "example.com",
            "notexample.com",
            "example.com.evil.test",
            ".example.com",
        ] {
            assert!(!below.matches(outside), "{outside}");
        }
        assert!(
            Pattern::parse("example.com.")
                .unwrap()
                .matches("example.com")
        );
        assert!(Pattern::parse("*").unwrap().matches("anything.test"));
    }

    #[test]
    fn a_port_restricts() {
        let anywhere = Destination::parse("Example.com").unwrap();
        assert!(anywhere.matches("example.com", 443) && anywhere.matches("example.com", 22));
        let one = Destination::parse("*.example.com:8443").unwrap();
        assert!(one.matches("a.example.com", 8443) && !one.matches("a.example.com", 443));
        assert!(one.precision() > Destination::parse("*.example.com").unwrap().precision());
        for text in [
            "a.com:",
            "a.com:0",
            "a.com:65536",
            "a.com:+80",
            ":80",
            "192.0.2.1:80",
        ] {
            assert_eq!(Destination::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_and_rubbish_are_no_names() {
        for text in [
            "",
            ".",
            "a..b",
            "192.0.2.1",
            "10.0.0.0/8",
            "a b",
            "*.*.com",
            "x.1",
            "ex\0",
        ] {
            assert_eq!(Pattern::parse(text), None, "{text:?}");
        }
    }
}
