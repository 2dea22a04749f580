//! Signing in with an API key, for tools that want tokens: an access token for an hour,
//! and a refresh token that gets the next one.
//!
//! ```text
//!  key ──begin──▶ session: a key of its own, whose secret nobody has
//!                    ├── access token ──▶ the team, and a new key for the tool
//!                    ├── refresh token ─▶ the next access token
//!                    └── revoke: that key is deleted, and with it both tokens
//! ```
//!
//! A session may do what the key that began it may, for as long as that.

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::signed::{self, Foreign};
use crate::{Control, keys};
use chrono::{TimeDelta, Utc};
use hearth_ids::TeamId;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

const PURPOSE: &str = "login-tokens";
const ACCESS_LIFETIME: TimeDelta = TimeDelta::hours(1);
const REFRESH_LIFETIME: TimeDelta = TimeDelta::days(30);
/// Names of the keys that stand for sessions, and of those that tools get.
const SESSION_NAME: &str = "CLI session";
const TOOL_NAME: &str = "CLI login/configure";

/// What a tool gets when somebody has signed in.
pub struct LoginTokens {
    /// Good for the list of teams.
    pub access: SecretString,
    /// Good for the next access token.
    pub refresh: SecretString,
    /// How long the access token is good.
    pub expires_in: TimeDelta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Use {
    Access,
    Refresh,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "use")]
    purpose: Use,
    iat: i64,
    exp: i64,
    jti: Uuid,
    /// The team.
    sub: TeamId,
    /// The key that stands for the session.
    keyid: Uuid,
}

fn refuse(message: &str) -> Error {
    Error::new(Kind::Unauthenticated, message)
}

impl Control {
    /// Signs in with a key.
    ///
    /// Errors: those of the key, and `Forbidden` where its team is banned or blocked.
    pub async fn login_begin(&self, caller: &Caller) -> Result<LoginTokens, Error> {
        self.login_may(caller)?;
        let mut grant = (*caller.grant).clone();
        let end = Utc::now() + REFRESH_LIFETIME;
        grant.expires_at = Some(grant.expires_at.map_or(end, |own| own.min(end)));
        let team = caller.team_id();
        // Its secret is forgotten: only the tokens stand for it.
        let (key, _) = keys::issue(self.store.as_ref(), team, SESSION_NAME, grant).await?;
        self.login_tokens(team, key.id)
    }

    /// The next access token of a session.
    ///
    /// Errors: `Unauthenticated`, no such session any more.
    pub async fn login_refresh(&self, token: &str) -> Result<LoginTokens, Error> {
        let caller = self.login_session(token, Use::Refresh).await?;
        self.login_may(&caller)?;
        self.login_tokens(caller.team_id(), caller.key_id)
    }

    /// The session of an access token, as a caller.
    ///
    /// Errors: `Unauthenticated`, no such session any more.
    pub async fn login_caller(&self, token: &str) -> Result<Caller, Error> {
        self.login_session(token, Use::Access).await
    }

    /// A key for the tool of a session, which may do what the session may and ends when
    /// that would end by itself.
    ///
    /// Errors: `Forbidden` where the team is banned or blocked.
    pub async fn login_key(&self, session: &Caller) -> Result<SecretString, Error> {
        self.login_may(session)?;
        let grant = (*session.grant).clone();
        let team = session.team_id();
        let (_, secret) = keys::issue(self.store.as_ref(), team, TOOL_NAME, grant).await?;
        Ok(secret)
    }

    /// Ends the session of either token. Fine when it has ended.
    ///
    /// Errors: the store's.
    pub async fn login_end(&self, token: &str) -> Result<(), Error> {
        let seed = &self.config.token_seed;
        let Ok(claims) = signed::decode::<Claims>(seed, PURPOSE, token) else {
            return Ok(());
        };
        match self.key_revoke(claims.sub, claims.keyid).await {
            Err(error) if error.kind != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn login_may(&self, caller: &Caller) -> Result<(), Error> {
        if caller.grant.read_only {
            let why = "This API key is read-only: sign in with one that may change things";
            return Err(Error::new(Kind::Forbidden, why));
        }
        caller.may(crate::Action {
            resource: crate::Resource::Team,
            access: crate::Access::Change,
        })
    }

    fn login_tokens(&self, team: TeamId, session: Uuid) -> Result<LoginTokens, Error> {
        let now = Utc::now();
        let token = |purpose, lifetime: TimeDelta| {
            let claims = Claims {
                purpose,
                iat: now.timestamp(),
                exp: (now + lifetime).timestamp(),
                jti: Uuid::new_v4(),
                sub: team,
                keyid: session,
            };
            let token = signed::encode(&self.config.token_seed, PURPOSE, &claims);
            token.map(SecretString::from).map_err(Error::internal)
        };
        Ok(LoginTokens {
            access: token(Use::Access, ACCESS_LIFETIME)?,
            refresh: token(Use::Refresh, REFRESH_LIFETIME)?,
            expires_in: ACCESS_LIFETIME,
        })
    }

    async fn login_session(&self, token: &str, purpose: Use) -> Result<Caller, Error> {
        let seed = &self.config.token_seed;
        let claims: Claims = signed::decode(seed, PURPOSE, token).map_err(|why| match why {
            Foreign::Malformed => refuse("The token is malformed: sign in (e2b auth login)"),
            Foreign::Signature => {
                refuse("The token was not given out by this server: sign in (e2b auth login)")
            }
        })?;
        if claims.purpose != purpose {
            return Err(refuse("The token is for something else"));
        }
        let over = || refuse("The session is over: sign in again (e2b auth login)");
        if claims.exp <= Utc::now().timestamp() {
            return Err(over());
        }
        let team = self.store.team(claims.sub).await?.ok_or_else(over)?;
        let keys = self.store.api_key_list(team.id).await?;
        let key = keys.into_iter().find(|key| key.id == claims.keyid);
        let key = key.ok_or_else(over)?;
        if key.grant.expired(Utc::now()) {
            return Err(over());
        }
        Ok(Caller {
            key_id: key.id,
            team: Arc::new(team),
            grant: Arc::new(key.grant),
        })
    }
}
