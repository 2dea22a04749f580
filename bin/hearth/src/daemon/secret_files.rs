//! Secrets that rules put into requests: one file for each, below the directory of
//! keys, that only root reads. They are read when they are used, so a change needs
//! no restart.

use super::secrets;
use crate::settings::Settings;
use anyhow::ensure;
use hearth_egress::SecretSource;
use std::path::PathBuf;

/// Longest name of a secret.
const LONGEST_NAME: usize = 128;

#[derive(Debug)]
pub struct SecretFiles {
    directory: PathBuf,
}

impl SecretFiles {
    pub fn new(settings: &Settings) -> Self {
        Self {
            directory: settings.keys_dir().join("secrets"),
        }
    }

    /// Keeps a team's secret in the place of an older one.
    pub fn set(&self, team: &str, name: &str, value: &str) -> anyhow::Result<()> {
        ensure!(
            is_name(name),
            "a secret's name takes 1 to {LONGEST_NAME} characters of a-z, A-Z, 0-9, \"-\" and \"_\""
        );
        secrets::write(&self.directory.join(team).join(name), value)
    }

    /// Forgets a secret; false when there is none.
    pub fn remove(&self, team: &str, name: &str) -> anyhow::Result<bool> {
        if !is_name(name) {
            return Ok(false);
        }
        match std::fs::remove_file(self.directory.join(team).join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of a team's secrets.
    pub fn names(&self, team: &str) -> anyhow::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.directory.join(team)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| is_name(name))
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}

impl SecretSource for SecretFiles {
    fn secret(&self, team_id: &str, name: &str) -> Option<String> {
        // Names come from rules, teams from the control plane: neither is a path.
        if !is_name(name) || !is_name(team_id) {
            return None;
        }
        let text = std::fs::read_to_string(self.directory.join(team_id).join(name)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for name in ["", "..", "a/b", ".x", "a.new", "x\0"] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(is_name("api-key_2"));
    }
}
