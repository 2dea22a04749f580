//! Secrets in files that only root reads: made once, read at every start.

use crate::settings::Settings;
use anyhow::Context;
use hearth_control::OperatorToken;
use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// The hex text in `path`, made from 32 random bytes if there is none yet.
pub fn random_once(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0u8; 32];
            getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot");
            let text = hex::encode(bytes);
            write(path, &text)?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a secret; a reader sees the old or the new one, never a part.
pub fn write(path: &Path, secret: &str) -> anyhow::Result<()> {
    let attempt = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let new = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        std::fs::rename(new, path)
    };
    attempt().with_context(|| format!("write {}", path.display()))
}

/// The operators' token: that of the set file, or of one that is made once.
pub fn operator_token(settings: &Settings) -> anyhow::Result<OperatorToken> {
    let file = settings.admin_token_file();
    let text = match settings.api.admin_token_file {
        Some(_) => std::fs::read_to_string(&file).with_context(|| {
            format!("read {}, which api.admin_token_file names", file.display())
        })?,
        None => random_once(&file)?,
    };
    OperatorToken::new(text.trim()).with_context(|| file.display().to_string())
}
