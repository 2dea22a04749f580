//! `hearth key`: API keys, through the store, whether or not the daemon runs.

use super::env;
use super::output::{Format, relative};
use crate::daemon::{
    self,
    audit::{self, Action},
};
use crate::settings::Settings;
use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Subcommand;
use hearth_control::keys;
use hearth_ids::TeamId;
use hearth_store::{ApiKey, KeyGrant, Scope, Store, Team};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it, this once
    Create {
        /// What the key is for
        #[arg(long, default_value = "unnamed")]
        name: String,
        /// The team that the key acts for; made when there is none of that name
        #[arg(long, default_value = daemon::DEFAULT_TEAM)]
        team: String,
        /// What the key may be used for; everything where left out
        #[arg(long, value_name = "SCOPE", value_parser = scope)]
        scope: Vec<Scope>,
        /// Let the key look and change nothing
        #[arg(long)]
        read_only: bool,
        /// When the key ends: in so long (90d, 12h, 30m) or at an RFC 3339 time
        #[arg(long, value_name = "WHEN", value_parser = moment)]
        expires: Option<DateTime<Utc>>,
        /// Network that its requests may come from, such as 198.51.100.0/24
        #[arg(long, value_name = "CIDR", value_parser = network)]
        from: Vec<IpNet>,
    },
    /// Make a key in the place of another one, like it, and print it, this once
    Rotate {
        /// ID of the key, as `hearth key list` prints it
        id: String,
        /// How long the old key still works: 30m, 24h, 7d
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration)]
        overlap: TimeDelta,
    },
    /// List the keys, masked, with the IDs of their teams
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Revoke a key; its requests are refused within 5 seconds
    Revoke {
        /// ID of the key, as `hearth key list` prints it
        id: String,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    match args.command {
        Command::Create {
            name,
            team,
            scope,
            read_only,
            expires,
            from,
        } => {
            let mut grant = KeyGrant {
                read_only,
                expires_at: expires,
                networks: from,
                ..KeyGrant::default()
            };
            if !scope.is_empty() {
                grant.scopes = scope.into_iter().collect();
            }
            let team = daemon::team_or_new(store.as_ref(), settings, &team).await?;
            let (created, key) = keys::issue(store.as_ref(), team.id, &name, grant).await?;
            let action = Action::new("key.create", Some(team.id), created.id.to_string());
            audit::operator(settings, action, true);
            eprintln!(
                "Key {} of team {}. It is shown only now:",
                created.id, team.slug
            );
            println!("{}", key.expose_secret());
        }
        Command::Rotate { id, overlap } => {
            let id = key_id(&id)?;
            let team = owner(store.as_ref(), id).await?;
            let (created, key) = keys::rotate(store.as_ref(), team, id, overlap).await?;
            renew_own(settings, store.as_ref(), id, &key).await?;
            let object = format!("{id},{}", created.id);
            audit::operator(
                settings,
                Action::new("key.rotate", Some(team), object),
                true,
            );
            eprintln!(
                "Key {} in the place of {id}, which ends {}. It is shown only now:",
                created.id,
                (Utc::now() + overlap).to_rfc3339_opts(SecondsFormat::Secs, true),
            );
            println!("{}", key.expose_secret());
        }
        Command::List { format } => list(store.as_ref(), format).await?,
        Command::Revoke { id } => {
            let id = key_id(&id)?;
            let team = revoke(store.as_ref(), id).await?;
            let action = Action::new("key.revoke", team, id.to_string());
            audit::operator(settings, action, team.is_some());
            if team.is_none() {
                bail!("no key has the ID {id}; `hearth key list` shows them");
            }
            println!("Revoked {id}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the key that was rotated is the one that the commands here use, they use the new
/// one from now on.
async fn renew_own(
    settings: &Settings,
    store: &dyn Store,
    old: Uuid,
    new: &SecretString,
) -> anyhow::Result<()> {
    let Ok(own) = env::api_key(settings) else {
        return Ok(());
    };
    let found = keys::find(store, &own.into()).await?;
    if found.is_some_and(|key| key.id == old) {
        daemon::secrets::write(&settings.api_key_file(), new.expose_secret())?;
        eprintln!("The commands on this machine use it from now on.");
    }
    Ok(())
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    for team in store.team_list().await? {
        let of_team = keys::list(store, team.id).await?;
        keys.extend(of_team.into_iter().map(|key| (team.clone(), key)));
    }
    let json: Vec<serde_json::Value> = keys.iter().map(|(team, key)| json(team, key)).collect();
    let now = Utc::now();
    let header = [
        "ID",
        "NAME",
        "KEY",
        "TEAM",
        "TEAM ID",
        "FOR",
        "CREATED",
        "LAST USED",
        "ENDS",
    ];
    let rows = keys.into_iter().map(|(team, key)| {
        let used = key.last_used_at.map(|at| relative(at, now));
        [
            key.id.to_string(),
            key.name.clone(),
            mask(&key),
            team.slug,
            team.id.to_string(),
            key.grant.summary(),
            relative(key.created_at, now),
            used.unwrap_or_else(|| "never".to_owned()),
            end(&key, now),
        ]
    });
    format.print(&json, header, rows)
}

fn end(key: &ApiKey, now: DateTime<Utc>) -> String {
    match key.grant.expires_at {
        None => "never".to_owned(),
        Some(_) if key.grant.expired(now) => "expired".to_owned(),
        Some(end) => end.to_rfc3339_opts(SecondsFormat::Secs, true),
    }
}

fn key_id(text: &str) -> anyhow::Result<Uuid> {
    text.parse()
        .with_context(|| format!("{text:?} is no key ID"))
}

/// The team of a key.
async fn owner(store: &dyn Store, id: Uuid) -> anyhow::Result<TeamId> {
    for team in store.team_list().await? {
        let keys = store.api_key_list(team.id).await?;
        if keys.iter().any(|key| key.id == id) {
            return Ok(team.id);
        }
    }
    bail!("no key has the ID {id}; `hearth key list` shows them")
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        format!("must be one of {known}")
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>();
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    network
        .ok()
        .or_else(address)
        .ok_or_else(|| "must be a network such as 198.51.100.0/24, or an address".to_owned())
}

/// A number with one of s, m, h, d.
fn duration(text: &str) -> Result<TimeDelta, String> {
    let parsed = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: u32 = number.parse().ok()?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        TimeDelta::try_seconds(i64::from(number) * seconds)
    };
    let most = TimeDelta::days(36_500);
    parsed()
        .filter(|time| *time <= most)
        .ok_or_else(|| "must be a number of s, m, h or d, such as 30m, 24h or 7d".to_owned())
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = duration(text) {
        return Ok(Utc::now() + time);
    }
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .map_err(|_| "must be a time such as 90d, or 2027-01-31T00:00:00Z".to_owned())
}

fn mask(key: &ApiKey) -> String {
    format!("{}{}…{}", key.mask.prefix, key.mask.first, key.mask.last)
}

fn json(team: &Team, key: &ApiKey) -> serde_json::Value {
    serde_json::json!({
        "id": key.id.to_string(),
        "name": key.name,
        "key": mask(key),
        "team": team.slug,
        "teamID": team.id.to_string(),
        "createdAt": key.created_at,
        "lastUsedAt": key.last_used_at,
        "scopes": key.grant.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
        "readOnly": key.grant.read_only,
        "expiresAt": key.grant.expires_at,
        "networks": key.grant.networks,
    })
}

/// Revokes the key and tells whose it was; `None` when there is no such key.
async fn revoke(store: &dyn Store, id: Uuid) -> anyhow::Result<Option<TeamId>> {
    for team in store.team_list().await? {
        if store.api_key_revoke(team.id, id, Utc::now()).await? {
            return Ok(Some(team.id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_networks_are_read_as_people_write_them() {
        assert_eq!(duration("90d"), Ok(TimeDelta::days(90)));
        assert_eq!(duration("0s"), Ok(TimeDelta::zero()));
        for text in ["", "d", "-1d", "1", "1w", "4294967295d", "é", "1é"] {
            assert!(duration(text).is_err(), "{text:?}");
            assert!(moment(text).is_err(), "{text:?}");
        }
        let end = moment("2999-01-31T01:00:00+01:00").expect("a time");
        assert_eq!(
            end.to_rfc3339_opts(SecondsFormat::Secs, true),
            "2999-01-31T00:00:00Z"
        );
        assert_eq!(
            network("10.0.0.0/8").expect("a network").to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(
            network("192.0.2.7").expect("an address").to_string(),
            "192.0.2.7/32"
        );
        assert!(network("192.0.2.7/33").is_err());
    }
}
