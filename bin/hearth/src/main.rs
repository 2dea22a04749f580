//! `hearth`: every host role and the command line, in one binary. It is the only
//! place that names concrete stores and engines and that reads the environment.

#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    reason = "in a binary, `pub` says what a module offers to its neighbours"
)]

mod commands;
mod daemon;
#[cfg(test)]
mod docs;
mod doctor;
mod guest_programs;
mod progress;
mod settings;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hearth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
