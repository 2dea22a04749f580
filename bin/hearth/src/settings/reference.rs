//! The settings described: a commented file of defaults, and `docs/configuration.md`.
//! Both are made from the doc comments and the defaults of the settings themselves.

use super::Settings;
use serde_json::{Map, Value};
use std::fmt::Write;

/// A table of the file.
struct Section {
    header: Header,
    doc: String,
    keys: Vec<Key>,
}

/// How a section begins.
enum Header {
    /// The top of the file.
    None,
    /// `[name]`. Optional ones have keys that must be given.
    Table { name: String, optional: bool },
    /// `[[name]]`, any number of times.
    List(String),
}

struct Key {
    name: String,
    doc: String,
    /// In TOML; none for a key that is not set by default.
    default: Option<String>,
    /// In TOML, for a key without a default.
    example: Option<String>,
}

#[cfg(test)]
impl Section {
    /// A key of the section with the section's name.
    fn path(&self, key: &Key) -> String {
        match &self.header {
            Header::None => key.name.clone(),
            Header::Table { name, .. } | Header::List(name) => format!("{name}.{}", key.name),
        }
    }
}

const FILE_HEAD: &str = "\
# Settings of Hearth. Each line that begins with # and a key shows the default, or an
# example for a key that is not set; remove the # to change it. What stays a comment follows
# the defaults of later versions. Check the file with `hearth config check FILE`.
";

/// A `hearth.toml` in which every key is a comment.
pub fn default_file() -> String {
    let mut text = FILE_HEAD.to_owned();
    for section in sections() {
        text.push('\n');
        comment(&mut text, &section.doc);
        match &section.header {
            Header::None => {}
            Header::Table {
                name,
                optional: false,
            } => push(&mut text, format_args!("[{name}]\n\n")),
            Header::Table { name, .. } => push(&mut text, format_args!("#[{name}]\n\n")),
            Header::List(name) => push(&mut text, format_args!("#[[{name}]]\n\n")),
        }
        for (index, key) in section.keys.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            comment(&mut text, &key.doc);
            match (&key.default, &key.example) {
                (Some(value), _) => push(&mut text, format_args!("#{} = {value}\n", key.name)),
                (None, Some(value)) => push(
                    &mut text,
                    format_args!("# Example:\n#{} = {value}\n", key.name),
                ),
                (None, None) => push(&mut text, format_args!("#{} =\n", key.name)),
            }
        }
    }
    text
}

/// `docs/configuration.md`.
#[cfg(test)]
pub fn document() -> String {
    let mut text = "\
<!-- Generated from the settings' doc comments; see CONTRIBUTING.md. -->

# Configuration

Hearth reads `/etc/hearth/hearth.toml` if it is there, or the file that `--config` names.
Every key may be left out. An unknown key or a bad value is an error that names the file,
the line and the key.

```sh
hearth config default > hearth.toml   # every key with its default, as comments
hearth config check hearth.toml       # without starting anything
```

Variables of the environment take precedence over the file:

| Variable | Key |
|---|---|
"
    .to_owned();
    for variable in super::environment::VARIABLES {
        push(
            &mut text,
            format_args!("| `{}` | `{}` |\n", variable.name, variable.key),
        );
    }
    for section in sections() {
        match &section.header {
            Header::None => text.push_str("\n## Top of the file\n"),
            Header::Table { name, .. } => push(&mut text, format_args!("\n## `[{name}]`\n")),
            Header::List(name) => push(&mut text, format_args!("\n## `[[{name}]]`\n")),
        }
        push(&mut text, format_args!("\n{}\n", section.doc));
        text.push_str("\n| Key | Default | Meaning |\n|---|---|---|\n");
        for key in &section.keys {
            let default = match (&key.default, &key.example) {
                (Some(value), _) => format!("`{value}`"),
                (None, Some(example)) => format!("not set, such as `{example}`"),
                (None, None) => "not set".to_owned(),
            };
            let doc = key.doc.replace('\n', " ").replace('|', "\\|");
            let row = format!("| `{}` | {default} | {doc} |\n", section.path(key));
            text.push_str(&row);
        }
    }
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes any text");
}

fn comment(text: &mut String, doc: &str) {
    for line in doc.lines() {
        push(text, format_args!("# {line}\n"));
    }
}

/// All sections: the top of the file first, then by name.
fn sections() -> Vec<Section> {
    let schema = schemars::schema_for!(Settings);
    let root = schema.as_value();
    let mut sections = Vec::new();
    collect(root, root, Header::None, "", &mut sections);
    sections
}

/// Adds the section that a schema describes, and those in it.
fn collect(root: &Value, schema: &Value, header: Header, prefix: &str, into: &mut Vec<Section>) {
    let mut keys = Vec::new();
    let mut inner = Vec::new();
    for (name, property) in properties(schema) {
        let path = format!("{prefix}{name}");
        let text = |field: &str| property[field].as_str().unwrap_or_default().to_owned();
        match subsection(root, property) {
            Some((of_list, section)) => {
                let optional = property["default"].is_null();
                let header = match of_list {
                    true => Header::List(path.clone()),
                    false => Header::Table {
                        name: path.clone(),
                        optional,
                    },
                };
                inner.push((section, header, format!("{path}.")));
            }
            None => keys.push(Key {
                doc: text("description"),
                default: toml(&property["default"]),
                example: toml(&property["examples"][0]),
                name: name.clone(),
            }),
        }
    }
    into.push(Section {
        header,
        doc: schema["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        keys,
    });
    for (section, header, prefix) in inner {
        collect(root, section, header, &prefix, into);
    }
}

/// By name, whatever order the map has.
fn properties(schema: &Value) -> Vec<(&String, &Value)> {
    let mut properties: Vec<_> = schema["properties"]
        .as_object()
        .map(Map::iter)
        .into_iter()
        .flatten()
        .collect();
    properties.sort_by_key(|(name, _)| *name);
    properties
}

/// The table that a property holds, if it does, and whether it holds a list of them.
fn subsection<'a>(root: &'a Value, property: &'a Value) -> Option<(bool, &'a Value)> {
    let definition = |of: &'a Value| {
        let name = of["$ref"].as_str()?.strip_prefix("#/$defs/")?;
        // What has no keys is a value of its own kind, such as one of some words.
        Some(&root["$defs"][name]).filter(|of| of["properties"].is_object())
    };
    let list = definition(&property["items"]).map(|table| (true, table));
    let optional = || definition(&property["anyOf"][0]);
    list.or_else(|| Some((false, definition(property).or_else(optional)?)))
}

fn toml(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        value => Some(toml::Value::try_from(value).ok()?.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file with all commented keys of the given kind made into settings.
    fn uncommented(with_examples: bool) -> String {
        let mut text = String::new();
        let mut example = false;
        for line in default_file().lines() {
            let setting = line
                .strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
            let taken = with_examples || !(example || line.starts_with("#["));
            match setting {
                Some(setting) if taken => push(&mut text, format_args!("{setting}\n")),
                Some(_) => {}
                None => push(&mut text, format_args!("{line}\n")),
            }
            example = line == "# Example:";
        }
        text
    }

    fn json(text: &str) -> Value {
        let settings: Settings = toml::from_str(text).expect("is a settings file");
        serde_json::to_value(settings).expect("JSON")
    }

    #[test]
    fn the_default_file_says_the_defaults() {
        let defaults = serde_json::to_value(Settings::default()).expect("JSON");
        assert_eq!(json(&default_file()), defaults, "with comments");
        let text = uncommented(false);
        assert!(text.lines().filter(|line| line.contains(" = ")).count() > 50);
        assert_eq!(json(&text), defaults, "without");
    }

    #[test]
    fn examples_have_the_form_that_keys_take() {
        let settings = json(&uncommented(true));
        assert_eq!(
            settings["registries"]["mirrors"][0]["registry"],
            "docker.io"
        );
        assert!(settings["tls"]["acme"]["directory"].is_string());
    }

    #[test]
    fn every_key_is_documented_and_has_a_default_or_an_example() {
        let mut keys = 0;
        for section in sections() {
            assert!(!section.doc.is_empty());
            for key in &section.keys {
                keys += 1;
                let path = section.path(key);
                assert!(!key.doc.is_empty(), "{path} lacks its doc comment");
                assert!(
                    key.default.is_some() || key.example.is_some(),
                    "{path} has neither a default nor an example"
                );
            }
        }
        assert!(keys > 70, "{keys}");
    }
}
