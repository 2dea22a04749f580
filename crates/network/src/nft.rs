//! Runs `nft`: one process, one transaction, in the calling thread's namespace.

use std::io::Write;
use std::process::{Command, Stdio};

use nftables::schema::Nftables;
use serde_json::Value;

use crate::error::{Error, Result};

/// The program, found through `PATH`.
const PROGRAM: &str = "nft";

/// Longest part of `nft`'s complaint that goes into an error.
const DETAIL_LIMIT: usize = 400;

/// Applies `ruleset` as one transaction: all of it or nothing.
pub(crate) fn apply(action: &'static str, ruleset: &Nftables<'_>) -> Result<()> {
    let text = serde_json::to_vec(ruleset).map_err(|error| Error::Nft {
        action,
        detail: error.to_string(),
    })?;
    run(action, &["-j", "-f", "-"], &text).map(drop)
}

/// Applies a ruleset in `nft`'s own language as one transaction.
pub(crate) fn apply_text(action: &'static str, ruleset: &str) -> Result<()> {
    run(action, &["-f", "-"], ruleset.as_bytes()).map(drop)
}

/// Runs a listing command and returns its JSON.
pub(crate) fn list(action: &'static str, arguments: &[&str]) -> Result<Value> {
    let arguments: Vec<&str> = std::iter::once("-j")
        .chain(arguments.iter().copied())
        .collect();
    let output = run(action, &arguments, &[])?;
    serde_json::from_slice(&output).map_err(|error| Error::Nft {
        action,
        detail: error.to_string(),
    })
}

/// What `nft --version` prints.
pub(crate) fn version() -> Result<String> {
    let output = run("tell its version", &["--version"], &[])?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

fn run(action: &'static str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let failed = |detail: String| Error::Nft { action, detail };
    // Spawned from this thread, so the child is in this thread's namespace.
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{PROGRAM} does not start: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died early closes the pipe; its exit status says more.
        let _ = stdin.write_all(input);
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        complaint.trim().chars().take(DETAIL_LIMIT).collect(),
    ))
}
