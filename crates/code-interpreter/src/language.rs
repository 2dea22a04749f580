//! Languages: their names, and how code sets and takes back environment variables
//! in a kernel that already runs.
//!
//! Every script here is silent and leaves the user's variables and the execution
//! count alone. The values before are kept inside the kernel, so that what the
//! user's code did to other variables stays.

use std::{collections::BTreeMap, fmt::Write};

/// A language as contexts and kernels name it: lower case, aliases resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Language(String);

impl Language {
    /// Python.
    #[must_use]
    pub fn python() -> Self {
        Self("python".to_owned())
    }

    /// JavaScript.
    #[must_use]
    pub fn javascript() -> Self {
        Self("javascript".to_owned())
    }

    /// Any name is a language; whether there is a kernel for it shows later.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let name = name.trim().to_lowercase();
        Self(match name.as_str() {
            "" | "py" | "python3" => "python".to_owned(),
            "js" | "node" | "nodejs" | "ts" | "typescript" => "javascript".to_owned(),
            "sh" | "shell" => "bash".to_owned(),
            _ => name,
        })
    }

    /// Its name in lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Code that sets variables for one execution and remembers what they were.
    /// None where the language cannot.
    pub(crate) fn set_for_call(&self, variables: &BTreeMap<String, String>) -> Option<String> {
        self.script(variables, true)
    }

    /// Code that sets variables for good.
    pub(crate) fn set(&self, variables: &BTreeMap<String, String>) -> Option<String> {
        self.script(variables, false)
    }

    fn script(&self, variables: &BTreeMap<String, String>, remember: bool) -> Option<String> {
        Some(match self.name() {
            "python" => {
                let keep = if remember {
                    "sys._hearth_env={k:os.environ.get(k) for k in new}\\n"
                } else {
                    ""
                };
                format!(
                    "exec(\"import os,sys\\n{keep}os.environ.update(new)\", {{'new': {}}})",
                    json(variables)
                )
            }
            "javascript" => {
                let keep = if remember {
                    "globalThis[Symbol.for('hearth.env')]=\
                     Object.fromEntries(Object.keys(n).map(k=>[k,process.env[k]]));"
                } else {
                    ""
                };
                format!(
                    "void ((n)=>{{{keep}Object.assign(process.env,n)}})({})",
                    json(variables)
                )
            }
            "bash" => bash(variables, remember),
            "r" => r(variables, remember),
            "java" => java(variables, remember),
            _ => return None,
        })
    }

    /// Code that takes back what [`Self::set_for_call`] set.
    pub(crate) fn restore(&self, variables: &BTreeMap<String, String>) -> Option<String> {
        Some(match self.name() {
            "python" => "exec(\"import os,sys\\n\
                for k,v in sys.__dict__.pop('_hearth_env',{}).items():\\n \
                os.environ.pop(k,None) if v is None else os.environ.__setitem__(k,v)\", {})"
                .to_owned(),
            "javascript" => "void (()=>{const s=Symbol.for('hearth.env');\
                for(const [k,v] of Object.entries(globalThis[s]??{}))\
                if(v===undefined)delete process.env[k];else process.env[k]=v;\
                delete globalThis[s]})()"
                .to_owned(),
            "bash" => variables.keys().fold(String::new(), |mut code, name| {
                let _ = write!(
                    code,
                    "if [ -n \"${{__hearth_env_{name}+x}}\" ]; then \
                     {name}=\"$__hearth_env_{name}\"; unset __hearth_env_{name}; \
                     else unset {name}; fi; "
                );
                code
            }),
            "r" => "invisible(local({ old <- getOption('hearth.env'); options(hearth.env = NULL); \
                for (k in names(old)) if (is.na(old[[k]])) Sys.unsetenv(k) else \
                do.call(Sys.setenv, as.list(old[k])) }))"
                .to_owned(),
            "java" => variables.keys().fold(String::new(), |mut code, name| {
                let (name, kept) = (
                    java_string(name),
                    java_string(&format!("hearth.env.{name}")),
                );
                let _ = write!(
                    code,
                    "if (System.getProperty({kept}) != null) \
                     {{ System.setProperty({name}, System.getProperty({kept})); \
                     System.clearProperty({kept}); }} else System.clearProperty({name});"
                );
                code
            }),
            _ => return None,
        })
    }

    /// Code that unsets variables.
    pub(crate) fn unset(&self, names: &[String]) -> Option<String> {
        Some(match self.name() {
            "python" => format!(
                "exec(\"import os\\nfor k in old: os.environ.pop(k,None)\", {{'old': {}}})",
                json(&names)
            ),
            "javascript" => {
                format!("void {}.forEach(k=>delete process.env[k])", json(&names))
            }
            "bash" => names
                .iter()
                .fold("unset".to_owned(), |code, name| code + " " + name),
            "r" => names.iter().fold(String::new(), |code, name| {
                code + &format!("invisible(Sys.unsetenv({}));", r_string(name))
            }),
            "java" => names.iter().fold(String::new(), |code, name| {
                code + &format!("System.clearProperty({});", java_string(name))
            }),
            _ => return None,
        })
    }
}

/// Names that every language here can have as a variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// JSON of strings only, in ASCII: also a literal of Python and JavaScript.
fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("strings are JSON");
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && c != '\x7f' {
            ascii.push(c);
        } else if c as u32 > 0xFFFF {
            // Python reads surrogates of a pair as two characters; this form is one
            // for both languages only where they are told apart, so by value.
            ascii.push(c);
        } else {
            let _ = write!(ascii, "\\u{:04x}", c as u32);
        }
    }
    ascii
}

/// One word on one line, whatever is in it.
fn bash_word(text: &str) -> String {
    let mut word = String::from("$'");
    for c in text.chars() {
        match c {
            '\\' => word.push_str("\\\\"),
            '\'' => word.push_str("\\'"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(word, "\\x{byte:02x}");
                }
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

fn bash(variables: &BTreeMap<String, String>, remember: bool) -> String {
    variables
        .iter()
        .fold(String::new(), |mut code, (name, value)| {
            if remember {
                let _ = write!(
                    code,
                    "[ -n \"${{{name}+x}}\" ] && __hearth_env_{name}=\"${name}\"; "
                );
            }
            let _ = write!(code, "export {name}={}; ", bash_word(value));
            code
        })
}

fn r_string(text: &str) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' => literal.push_str("\\\\"),
            '"' => literal.push_str("\\\""),
            c if c.is_control() => {
                let _ = write!(literal, "\\u{:04x}", c as u32);
            }
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

fn r(variables: &BTreeMap<String, String>, remember: bool) -> String {
    let pairs: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("`{name}` = {}", r_string(value)))
        .collect();
    let keep = if remember {
        "options(hearth.env = Sys.getenv(names(new), unset = NA, names = TRUE)); "
    } else {
        ""
    };
    format!(
        "invisible(local({{ new <- list({}); {keep}do.call(Sys.setenv, new) }}))",
        pairs.join(", ")
    )
}

fn java_string(text: &str) -> String {
    let mut literal = String::from("\"");
    for unit in text.encode_utf16() {
        match unit {
            0x22 => literal.push_str("\\\""),
            0x5C => literal.push_str("\\\\"),
            0x20..=0x7E => literal.push(char::from(u8::try_from(unit).unwrap_or(b'?'))),
            unit => {
                // Octal for what a unicode escape would turn into a line break.
                if unit < 0x20 {
                    let _ = write!(literal, "\\{unit:03o}");
                } else {
                    let _ = write!(literal, "\\u{unit:04x}");
                }
            }
        }
    }
    literal.push('"');
    literal
}

/// A running Java program cannot change its environment; system properties are
/// what it has instead.
fn java(variables: &BTreeMap<String, String>, remember: bool) -> String {
    variables
        .iter()
        .fold(String::new(), |mut code, (name, value)| {
            let (kept, value) = (
                java_string(&format!("hearth.env.{name}")),
                java_string(value),
            );
            let name = java_string(name);
            if remember {
                let _ = write!(
                    code,
                    "if (System.getProperty({name}) != null) \
                 System.setProperty({kept}, System.getProperty({name}));"
                );
            }
            let _ = write!(code, "System.setProperty({name}, {value});");
            code
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: &str = "a'b\"c\\d\ne\tf $HOME `id` é 🔥 \u{7f}";

    fn variables() -> BTreeMap<String, String> {
        BTreeMap::from([("HEARTH_TEST".to_owned(), HARD.to_owned())])
    }

    fn run(program: &str, args: &[&str]) -> Option<String> {
        let output = std::process::Command::new(program)
            .args(args)
            .env("HEARTH_OTHER", "before")
            .output()
            .ok()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8(output.stdout).expect("text"))
    }

    /// Sets, shows, restores, shows: in the real languages that this host has.
    fn round(language: &str, program: &str, flag: &str, show: &str, separator: &str) {
        let language = Language::parse(language);
        let mut variables = variables();
        variables.insert("HEARTH_OTHER".to_owned(), "during".to_owned());
        let code = [
            language.set_for_call(&variables).expect("it can"),
            show.to_owned(),
            language.restore(&variables).expect("it can"),
            show.to_owned(),
        ]
        .join(separator);
        if let Some(output) = run(program, &[flag, &code]) {
            assert_eq!(
                output,
                format!("[{HARD}][during][][before]"),
                "{}",
                language.name()
            );
        } else {
            eprintln!("skipped: {program} is not installed");
        }
    }

    #[test]
    fn variables_are_set_and_taken_back() {
        round(
            "python",
            "python3",
            "-c",
            "import os,sys; [sys.stdout.write('['+os.environ.get(k,'')+']') \
             for k in ('HEARTH_TEST','HEARTH_OTHER')]",
            "\n",
        );
        round(
            "js",
            "node",
            "-e",
            "for (const k of ['HEARTH_TEST','HEARTH_OTHER']) \
             process.stdout.write('['+(process.env[k]??'')+']')",
            "\n",
        );
        round(
            "bash",
            "bash",
            "-c",
            "printf '[%s][%s]' \"$(printenv HEARTH_TEST)\" \"$(printenv HEARTH_OTHER)\"",
            "\n",
        );
    }

    #[test]
    fn aliases_are_one_language() {
        assert_eq!(Language::parse("TypeScript"), Language::javascript());
        assert_eq!(Language::parse(" R ").name(), "r");
        assert_eq!(Language::parse(""), Language::python());
        assert_eq!(Language::parse("deno").name(), "deno");
    }

    #[test]
    fn names_that_would_be_code_are_refused() {
        for name in ["", "1A", "A B", "A;rm", "A=B", "é", "A\n"] {
            assert!(!is_variable_name(name), "{name}");
        }
        assert!(is_variable_name("_A1"));
    }
}
