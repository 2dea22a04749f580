//! What commands read of standard input.

use anyhow::{Context, ensure};
use std::io::Read;

const MOST_BYTES: u64 = 64 * 1024;

/// A secret, without the ends of its line: arguments are seen by every process of the
/// machine. `example` is told to whoever gives none.
pub fn secret(example: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MOST_BYTES)
        .read_to_string(&mut text)
        .context("read the secret from standard input")?;
    let text = text.trim_end_matches(['\r', '\n']);
    ensure!(
        !text.is_empty(),
        "there is no secret on standard input: {example}"
    );
    Ok(text.to_owned())
}
