//! The first start: a team and a key for it.

use crate::config::Config;
use crate::error::Error;
use crate::keys;
use chrono::Utc;
use hearth_ids::TeamId;
use hearth_store::{LimitsSetBy, NewTeam, Store, Team};
use secrecy::SecretString;

/// What a start found or made.
#[derive(Debug)]
pub struct Bootstrap {
    pub team: Team,
    /// A new key, where the team had none: shown this once, for the caller to
    /// keep where only its owner can read it.
    pub api_key: Option<SecretString>,
}

/// Makes sure that the configured team exists, has the configured limits, unless an
/// operator gave it others, and has a key. Idempotent; call it before serving.
pub async fn bootstrap(store: &dyn Store, config: &Config) -> Result<Bootstrap, Error> {
    let mut team = match store.team_by_slug(&config.team.slug).await? {
        Some(team) => team,
        None => first_team(store, config).await?,
    };
    // The settings say what the first team may use until an operator does.
    let by = LimitsSetBy::Settings;
    let limits = config.team.limits;
    if team.limits != limits && store.team_set_limits(team.id, limits, by).await? {
        team.limits = limits;
    }
    let api_key = if store.api_key_list(team.id).await?.is_empty() {
        Some(keys::create(store, team.id, "first key").await?.1)
    } else {
        None
    };
    Ok(Bootstrap { team, api_key })
}

/// Makes the team, unless another process has just done so.
async fn first_team(store: &dyn Store, config: &Config) -> Result<Team, Error> {
    let new = NewTeam {
        id: TeamId::random(),
        slug: config.team.slug.clone(),
        name: config.team.name.clone(),
        limits: config.team.limits,
        created_at: Utc::now(),
    };
    match store.team_create(new).await {
        Err(conflict @ hearth_store::Error::Conflict(_)) => {
            let made = store.team_by_slug(&config.team.slug).await?;
            made.ok_or_else(|| conflict.into())
        }
        made => Ok(made?),
    }
}
