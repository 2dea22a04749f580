//! What `/init` told the agent: the access token, default environment, default
//! user and working directory. Readers take a cheap snapshot; one writer at a
//! time replaces it whole, so nobody sees half of a change.

use hearth_util::RwLockExt as _;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use subtle::ConstantTimeEq as _;

use crate::handover::state::SettingsState;

/// One consistent state of the settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests must carry it once it is set. Never logged.
    access_token: Option<String>,
    /// Variables that the agent itself contributes (`E2B_SANDBOX`, …).
    system_env: BTreeMap<String, String>,
    /// Variables that the sandbox was created with.
    pub env: BTreeMap<String, String>,
    /// Who acts when a request names no user.
    pub default_user: String,
    /// What an empty path means; `None` is the user's home.
    pub default_workdir: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access_token: None,
            system_env: BTreeMap::from([("E2B_SANDBOX".to_owned(), "true".to_owned())]),
            env: BTreeMap::new(),
            default_user: "root".to_owned(),
            default_workdir: None,
        }
    }
}

impl From<SettingsState> for Settings {
    fn from(state: SettingsState) -> Self {
        Self {
            access_token: state.access_token,
            system_env: state.system_env,
            env: state.env,
            default_user: state.default_user,
            default_workdir: state.default_workdir,
        }
    }
}

impl Settings {
    /// All of it, for the agent's successor.
    pub fn state(&self) -> SettingsState {
        SettingsState {
            access_token: self.access_token.clone(),
            system_env: self.system_env.clone(),
            env: self.env.clone(),
            default_user: self.default_user.clone(),
            default_workdir: self.default_workdir.clone(),
        }
    }

    /// The token, for signatures.
    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    pub fn set_access_token(&mut self, token: Option<String>) {
        self.access_token = token.filter(|token| !token.is_empty());
    }

    /// Whether `presented` is good for a request: always when none is set.
    /// Takes the same time wherever the strings first differ.
    pub fn token_accepts(&self, presented: Option<&str>) -> bool {
        match (&self.access_token, presented) {
            (None, _) => true,
            (Some(token), Some(presented)) => token.as_bytes().ct_eq(presented.as_bytes()).into(),
            (Some(_), None) => false,
        }
    }

    pub fn set_system_env(&mut self, name: &str, value: String) {
        self.system_env.insert(name.to_owned(), value);
    }

    /// The variables that every command sees, the caller's over the agent's.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.system_env
            .iter()
            .filter(|(name, _)| !self.env.contains_key(*name))
            .chain(&self.env)
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The current settings, shared.
#[derive(Debug, Default)]
pub struct SettingsCell(RwLock<Arc<Settings>>);

impl From<Settings> for SettingsCell {
    fn from(settings: Settings) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }
}

impl SettingsCell {
    pub fn snapshot(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read_unpoisoned())
    }

    /// Replaces the settings by what `change` makes of a copy, unless it
    /// refuses.
    pub fn change<E>(&self, change: impl FnOnce(&mut Settings) -> Result<(), E>) -> Result<(), E> {
        let mut current = self.0.write_unpoisoned();
        let mut next = Settings::clone(&current);
        change(&mut next)?;
        *current = Arc::new(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_token_must_match_exactly() {
        let mut settings = Settings::default();
        assert!(settings.token_accepts(None));
        settings.set_access_token(Some("secret".into()));
        assert!(settings.token_accepts(Some("secret")));
        assert!(!settings.token_accepts(Some("secret ")));
        assert!(!settings.token_accepts(Some("")));
        assert!(!settings.token_accepts(None));
        settings.set_access_token(Some(String::new()));
        assert!(settings.token_accepts(None), "an empty token is no token");
    }

    #[test]
    fn the_callers_variables_win() {
        let mut settings = Settings::default();
        settings.env.insert("E2B_SANDBOX".into(), "mine".into());
        assert_eq!(
            settings.environment().collect::<Vec<_>>(),
            [("E2B_SANDBOX", "mine")]
        );
    }
}
