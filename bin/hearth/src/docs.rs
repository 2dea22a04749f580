//! The checked-in references are the ones that the code generates.

use clap::CommandFactory as _;
use std::path::Path;

/// Set to write the documents instead of comparing them.
const WRITE: &str = "HEARTH_WRITE_DOCS";

fn compare(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, generated).expect("docs/ is writable");
    }
    let checked_in = std::fs::read_to_string(&path).expect("the document is there");
    assert!(
        checked_in == generated,
        "docs/{name} differs from the code: run this test with {WRITE}=1 and commit it"
    );
}

#[test]
fn the_reference_of_settings_is_current() {
    compare("configuration.md", &crate::settings::reference::document());
}

#[test]
fn the_reference_of_commands_is_current() {
    let command = crate::commands::Cli::command();
    let options = clap_markdown::MarkdownOptions::new()
        .title("Command line".to_owned())
        .show_footer(false);
    let body = clap_markdown::help_markdown_command_custom(&command, &options);
    let head = "<!-- Generated from the commands' doc comments; see CONTRIBUTING.md. -->";
    let lines = body.lines().map(str::trim_end).collect::<Vec<_>>();
    let text = format!("{head}\n\n{}\n", lines.join("\n").trim_end());
    assert!(text.contains("## `hearth sandbox ls`"), "{text}");
    compare("cli.md", &text);
}
