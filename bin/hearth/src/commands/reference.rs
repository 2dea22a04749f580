//! `hearth completions` and `hearth man`: the command line for shells and for `man`.

use super::Cli;
use anyhow::Context as _;
use clap::CommandFactory as _;
use std::{io, path::PathBuf, process::ExitCode};

/// `hearth completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell that is to complete
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// `hearth man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory; without, the first page is
    /// printed
    #[arg(value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// Prints the script that teaches a shell to complete the commands.
pub fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hearth", &mut script);
    print(&script)
}

/// Prints or writes the manual's pages.
pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return Ok(print(&page));
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("write the pages to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &[u8]) -> ExitCode {
    match io::Write::write_all(&mut io::stdout(), text) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: print the text: {error}");
            ExitCode::FAILURE
        }
    }
}
