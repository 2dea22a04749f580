//! What a caller may do: the one place that decides it, from the standing of the team
//! and the grant of the key.

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::network::NetworkRule;
use chrono::{DateTime, SecondsFormat, Utc};
use hearth_store::{KeyGrant, Scope};
use ipnet::IpNet;
use std::net::IpAddr;

/// A part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Sandboxes, their snapshots, logs and metrics, volumes.
    Sandboxes,
    /// Templates and their builds.
    Templates,
    /// Secrets.
    Secrets,
    /// The team's API keys.
    ApiKeys,
    /// Webhooks: where the team's events are sent.
    Webhooks,
    /// The team itself.
    Team,
    /// The machines that sandboxes run on.
    Nodes,
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looking.
    Read,
    /// Making and changing.
    Change,
    /// Deleting, which a blocked team may.
    CleanUp,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// What it is about.
    pub resource: Resource,
    /// What it does.
    pub access: Access,
}

impl Resource {
    /// What a key needs for it. Every key may look at its own team.
    fn scope(self) -> Option<Scope> {
        match self {
            Self::Sandboxes => Some(Scope::Sandboxes),
            Self::Templates => Some(Scope::Templates),
            Self::Secrets => Some(Scope::Secrets),
            Self::ApiKeys | Self::Webhooks | Self::Nodes => Some(Scope::Admin),
            Self::Team => None,
        }
    }
}

fn forbidden(message: impl Into<String>) -> Error {
    Error::new(Kind::Forbidden, message)
}

impl Caller {
    /// Whether the key can be used now and from there.
    ///
    /// Errors: `Unauthenticated` when its time is over, `Forbidden` from elsewhere.
    pub fn check_use(&self, now: DateTime<Utc>, source: Option<IpAddr>) -> Result<(), Error> {
        if let Some(end) = self.grant.expires_at
            && self.grant.expired(now)
        {
            return Err(Error::new(
                Kind::Unauthenticated,
                format!(
                    "This API key expired at {}: make a new one, or rotate keys before they end",
                    end.to_rfc3339_opts(SecondsFormat::Secs, true)
                ),
            ));
        }
        if !self.grant.allows_source(source) {
            let from = source.map_or_else(
                || "a sandbox".to_owned(),
                |address| address.to_canonical().to_string(),
            );
            return Err(forbidden(format!(
                "This API key may not be used from {from}: it is limited to other networks"
            )));
        }
        Ok(())
    }

    /// Whether this caller may do such a thing. A banned team may do nothing; a blocked
    /// one may look and clean up; a key may do what it was granted.
    ///
    /// Errors: `Forbidden`, with what would be needed.
    pub fn may(&self, action: Action) -> Result<(), Error> {
        if self.team.banned {
            return Err(forbidden("team is banned"));
        }
        if let Some(reason) = &self.team.blocked_reason
            && action.access == Access::Change
        {
            return Err(forbidden(format!("team is blocked: {reason}")));
        }
        if self.grant.read_only && action.access != Access::Read {
            return Err(forbidden(
                "This API key is read-only: use one that may change things",
            ));
        }
        match action.resource.scope() {
            Some(scope) if !self.grant.scopes.contains(&scope) => Err(forbidden(format!(
                "This API key lacks the scope \"{}\": use one that has it (this one has: {})",
                scope.as_str(),
                self.grant.summary(),
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a key of this grant may be made by this caller: it has to be for no more,
    /// for no longer and from nowhere else than the caller's own.
    ///
    /// Errors: `Forbidden`, with what goes beyond the caller's key.
    pub fn may_grant(&self, wanted: &KeyGrant) -> Result<(), Error> {
        let own = &*self.grant;
        let beyond = |what: &str| {
            let message = format!("This API key cannot make one that {what} than itself");
            Err(forbidden(message))
        };
        if !wanted.scopes.is_subset(&own.scopes) || (own.read_only && !wanted.read_only) {
            return beyond("may do more");
        }
        let outlives = own
            .expires_at
            .is_some_and(|end| wanted.expires_at.is_none_or(|wanted| wanted > end));
        if outlives {
            return beyond("lasts longer");
        }
        let within = |wanted: &IpNet| own.networks.iter().any(|network| network.contains(wanted));
        let from_elsewhere = wanted.networks.is_empty() || !wanted.networks.iter().all(within);
        if !own.networks.is_empty() && from_elsewhere {
            return beyond("is used from other networks");
        }
        Ok(())
    }

    /// Whether this caller may have settings that put secrets into a sandbox's requests,
    /// where these do: they reach whoever the sandbox sends them to.
    ///
    /// Errors: as [`Self::may`].
    pub(crate) fn may_fill_secrets<'a>(
        &self,
        rules: impl IntoIterator<Item = &'a NetworkRule>,
    ) -> Result<(), Error> {
        let headers = rules.into_iter().filter_map(|rule| rule.transform.as_ref());
        let mut values = headers.flat_map(|transform| transform.headers.values());
        if !values.any(|value| value.contains("${")) {
            return Ok(());
        }
        self.may(Action {
            resource: Resource::Secrets,
            access: Access::Read,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_store::{LimitsSetBy, Team, TeamLimits};
    use std::sync::Arc;

    fn caller(grant: KeyGrant, banned: bool, blocked: Option<&str>) -> Caller {
        Caller {
            key_id: uuid::Uuid::new_v4(),
            team: Arc::new(Team {
                id: hearth_ids::TeamId::random(),
                slug: "t".to_owned(),
                name: "T".to_owned(),
                limits: TeamLimits::default(),
                limits_set_by: LimitsSetBy::Settings,
                banned,
                blocked_reason: blocked.map(str::to_owned),
                created_at: Utc::now(),
            }),
            grant: Arc::new(grant),
        }
    }

    const RESOURCES: [Resource; 5] = [
        Resource::Sandboxes,
        Resource::Templates,
        Resource::Secrets,
        Resource::ApiKeys,
        Resource::Team,
    ];
    const ACCESSES: [Access; 3] = [Access::Read, Access::Change, Access::CleanUp];

    /// What a caller may do, of everything there is.
    fn allowed(caller: &Caller) -> Vec<(Resource, Access)> {
        let all = RESOURCES
            .iter()
            .flat_map(|resource| ACCESSES.map(|access| (*resource, access)));
        all.filter(|(resource, access)| {
            let action = Action {
                resource: *resource,
                access: *access,
            };
            caller.may(action).is_ok()
        })
        .collect()
    }

    #[test]
    fn a_key_may_what_its_scopes_say_and_look_at_its_team() {
        assert_eq!(allowed(&caller(KeyGrant::default(), false, None)).len(), 15);
        for (scope, resource) in [
            (Scope::Sandboxes, Resource::Sandboxes),
            (Scope::Templates, Resource::Templates),
            (Scope::Secrets, Resource::Secrets),
            (Scope::Admin, Resource::ApiKeys),
        ] {
            let mut grant = KeyGrant {
                scopes: [scope].into(),
                ..KeyGrant::default()
            };
            let may = allowed(&caller(grant.clone(), false, None));
            assert_eq!(may.len(), 6, "{scope:?}");
            assert!(
                may.iter()
                    .all(|(of, _)| *of == resource || *of == Resource::Team)
            );
            grant.read_only = true;
            let may = allowed(&caller(grant, false, None));
            assert_eq!(
                may,
                [(resource, Access::Read), (Resource::Team, Access::Read)]
            );
        }
    }

    #[test]
    fn standing_comes_before_the_grant() {
        let banned = caller(KeyGrant::default(), true, Some("x"));
        assert!(allowed(&banned).is_empty());
        let blocked = caller(KeyGrant::default(), false, Some("unpaid"));
        assert!(
            allowed(&blocked)
                .iter()
                .all(|(_, access)| *access != Access::Change)
        );
        assert_eq!(allowed(&blocked).len(), 10);
        let refused = blocked.may(Action {
            resource: Resource::Sandboxes,
            access: Access::Change,
        });
        assert_eq!(
            refused.expect_err("is blocked").message,
            "team is blocked: unpaid"
        );
    }

    #[test]
    fn a_key_makes_no_key_beyond_itself() {
        let now = Utc::now();
        let own = KeyGrant {
            scopes: [Scope::Admin, Scope::Sandboxes].into(),
            read_only: false,
            expires_at: Some(now),
            networks: vec!["198.51.100.0/24".parse().expect("a network")],
        };
        let caller = caller(own.clone(), false, None);
        assert_eq!(
            caller.may_grant(&own).map_err(|error| error.message),
            Ok(())
        );
        let narrower = KeyGrant {
            scopes: [Scope::Sandboxes].into(),
            read_only: true,
            expires_at: Some(now - chrono::TimeDelta::seconds(1)),
            networks: vec!["198.51.100.8/29".parse().expect("a network")],
        };
        assert!(caller.may_grant(&narrower).is_ok());
        let wider = |change: fn(&mut KeyGrant)| {
            let mut grant = narrower.clone();
            change(&mut grant);
            caller.may_grant(&grant).map_err(|error| error.kind)
        };
        for change in [
            (|grant| grant.scopes.extend([Scope::Secrets])) as fn(&mut KeyGrant),
            |grant| grant.expires_at = None,
            |grant| grant.expires_at = grant.expires_at.map(|end| end + chrono::TimeDelta::days(1)),
            |grant| grant.networks = Vec::new(),
            |grant| {
                grant
                    .networks
                    .push("198.51.0.0/16".parse().expect("a network"))
            },
        ] {
            assert_eq!(wider(change), Err(Kind::Forbidden));
        }
        let reader = self::caller(
            KeyGrant {
                read_only: true,
                ..KeyGrant::default()
            },
            false,
            None,
        );
        assert!(reader.may_grant(&KeyGrant::default()).is_err());
        let all = self::caller(KeyGrant::default(), false, None);
        assert!(all.may_grant(&KeyGrant::default()).is_ok());
    }

    #[test]
    fn secrets_are_filled_for_keys_that_may_have_them() {
        let rule = |value: &str| NetworkRule {
            transform: Some(crate::network::HeaderTransform {
                headers: [("X-Key".to_owned(), value.to_owned())].into(),
            }),
        };
        let (plain, secret) = (rule("plain"), rule("Bearer ${e2b.secrets.key}"));
        let sandboxes = caller(
            KeyGrant {
                scopes: [Scope::Sandboxes].into(),
                ..KeyGrant::default()
            },
            false,
            None,
        );
        assert!(sandboxes.may_fill_secrets([&plain]).is_ok());
        let refused = sandboxes.may_fill_secrets([&plain, &secret]);
        assert_eq!(refused.map_err(|error| error.kind), Err(Kind::Forbidden));
        let all = caller(KeyGrant::default(), false, None);
        assert!(all.may_fill_secrets([&secret]).is_ok());
    }

    #[test]
    fn a_key_is_used_in_its_time_and_from_its_networks() {
        let now = Utc::now();
        let caller = caller(
            KeyGrant {
                expires_at: Some(now),
                networks: vec!["198.51.100.0/24".parse().expect("a network")],
                ..KeyGrant::default()
            },
            false,
            None,
        );
        let before = now - chrono::TimeDelta::milliseconds(1);
        let check = |at, text: Option<&str>| {
            let source = text.map(|text| text.parse().expect("an address"));
            caller.check_use(at, source).map_err(|error| error.kind)
        };
        assert_eq!(check(before, Some("198.51.100.7")), Ok(()));
        assert_eq!(check(before, Some("::ffff:198.51.100.7")), Ok(()));
        assert_eq!(check(now, Some("198.51.100.7")), Err(Kind::Unauthenticated));
        for elsewhere in [
            Some("198.51.101.7"),
            Some("2001:db8::1"),
            Some("0.0.0.0"),
            None,
        ] {
            assert_eq!(
                check(before, elsewhere),
                Err(Kind::Forbidden),
                "{elsewhere:?}"
            );
        }
    }
}
