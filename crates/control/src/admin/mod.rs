//! What an operator does to teams from outside of the machine: behind one token, which
//! stands above all teams.

pub(crate) mod teams;
mod token;

pub use teams::{Ended, TeamChange, create as team_create};
pub use token::{MIN_TOKEN_LENGTH, OperatorToken, ShortToken};

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::{Control, keys};
use hearth_ids::TeamId;
use hearth_store::{KeyGrant, Team};
use secrecy::SecretString;
use std::sync::Arc;
use uuid::Uuid;

/// Stands in the place of a key where an operator acts for a team.
pub(crate) const OPERATOR: Uuid = Uuid::nil();

fn no_team(id: TeamId) -> Error {
    Error::not_found(format!("There is no team {id}"))
}

impl Control {
    /// An operator as a caller of a team, who may do there what any key may.
    ///
    /// Errors: `Unauthenticated` where there is no such team.
    pub async fn operator_as(&self, team: &str) -> Result<Caller, Error> {
        let id: Option<TeamId> = team.parse().ok();
        let found = match id {
            Some(id) => self.store.team(id).await?,
            None => None,
        };
        let message = "The X-Team-ID header names no team: GET /admin/teams lists them";
        let team = found.ok_or_else(|| Error::new(Kind::Unauthenticated, message))?;
        Ok(Caller {
            key_id: OPERATOR,
            team: Arc::new(team),
            grant: Arc::new(KeyGrant::default()),
        })
    }

    /// A team.
    ///
    /// Errors: `NotFound`.
    pub async fn team(&self, id: TeamId) -> Result<Team, Error> {
        self.store.team(id).await?.ok_or_else(|| no_team(id))
    }

    /// Makes a key of a team. The secret is answered this once.
    ///
    /// Errors: `NotFound`, no such team; `Invalid`, a name or a grant that makes no key.
    pub async fn team_key_create(
        &self,
        team: TeamId,
        name: &str,
        grant: KeyGrant,
    ) -> Result<(crate::ApiKey, SecretString), Error> {
        self.team(team).await?;
        keys::issue(self.store.as_ref(), team, name, grant).await
    }
}
