//! The environment's part: which variable sets which key.

use super::Settings;
use anyhow::Context;
use std::path::PathBuf;

/// A variable that takes precedence over a key of the file.
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// The key that it sets, with its section.
    pub key: &'static str,
    field: Field,
}

/// Where the variable's text goes.
enum Field {
    Path(fn(&mut Settings) -> &mut PathBuf),
    File(fn(&mut Settings) -> &mut Option<PathBuf>),
    Text(fn(&mut Settings) -> &mut Option<String>),
    Port(fn(&mut Settings) -> &mut u16),
}

/// All of them. An empty path or text counts as none.
pub const VARIABLES: [Variable; 11] = [
    Variable {
        name: "HEARTH_STATE_DIR",
        key: "state_dir",
        field: Field::Path(|settings| &mut settings.state_dir),
    },
    Variable {
        name: "HEARTH_RUN_DIR",
        key: "run_dir",
        field: Field::Path(|settings| &mut settings.run_dir),
    },
    Variable {
        name: "HEARTH_CACHE_DIR",
        key: "cache_dir",
        field: Field::Path(|settings| &mut settings.cache_dir),
    },
    Variable {
        name: "HEARTH_ENVD",
        key: "agent",
        field: Field::File(|settings| &mut settings.agent),
    },
    Variable {
        name: "HEARTH_CODE_INTERPRETER",
        key: "interpreter",
        field: Field::File(|settings| &mut settings.interpreter),
    },
    Variable {
        name: "HEARTH_FIRECRACKER",
        key: "node.firecracker",
        field: Field::File(|settings| &mut settings.node.firecracker),
    },
    Variable {
        name: "HEARTH_DATABASE",
        key: "database",
        field: Field::Text(|settings| &mut settings.database),
    },
    Variable {
        name: "HEARTH_API_PORT",
        key: "api.port",
        field: Field::Port(|settings| &mut settings.api.port),
    },
    Variable {
        name: "HEARTH_EDGE_PORT",
        key: "api.edge_port",
        field: Field::Port(|settings| &mut settings.api.edge_port),
    },
    Variable {
        name: "HEARTH_TLS_PORT",
        key: "tls.port",
        field: Field::Port(|settings| &mut settings.tls.port),
    },
    Variable {
        name: "HEARTH_METRICS_PORT",
        key: "metrics.port",
        field: Field::Port(|settings| &mut settings.metrics.port),
    },
];

/// Takes what `var` answers for the variables' names over what the file said.
pub(super) fn apply(
    settings: &mut Settings,
    var: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<()> {
    for Variable { name, field, .. } in VARIABLES {
        let Some(text) = var(name) else { continue };
        match field {
            Field::Path(field) if !text.is_empty() => *field(settings) = text.into(),
            Field::File(field) if !text.is_empty() => *field(settings) = Some(text.into()),
            Field::Text(field) if !text.is_empty() => *field(settings) = Some(text),
            Field::Path(_) | Field::File(_) | Field::Text(_) => {}
            Field::Port(field) => {
                *field(settings) = text
                    .parse()
                    .with_context(|| format!("{name}={text} is not a port"))?;
            }
        }
    }
    Ok(())
}

/// The name of the variable that sets this key, where it is set.
pub(super) fn source(key: &str, var: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let mut of_key = VARIABLES.iter().filter(|variable| variable.key == key);
    of_key
        .find(|variable| var(variable.name).is_some_and(|text| !text.is_empty()))
        .map(|variable| variable.name)
}
