//! Settings of the application layer. Binaries read them; nothing here looks at
//! files or the environment.

use chrono::TimeDelta;
use hearth_store::{OwnerId, TeamLimits};
use secrecy::SecretString;

#[derive(Debug, Clone)]
pub struct Config {
    /// Base domain of the sandboxes' host names, with a port where it is not 443:
    /// `localhost:3443`.
    pub domain: String,
    /// Key of the sandboxes' access tokens. While it stays, tokens stay.
    pub token_seed: SecretString,
    pub features: Features,
    /// The team that the first start makes.
    pub team: TeamConfig,
    /// Who this process is to others that use the store. One that has the id of an
    /// earlier process, which surely is gone, takes over at once what that one left
    /// unfinished; from all others only when their leases are over.
    pub owner: OwnerId,
    /// Whether the store has to be this process's alone, as the builds in it are on the
    /// node of one process.
    pub sole: bool,
    /// Template builds that one team may have in progress.
    pub max_concurrent_builds: usize,
    /// What is kept of events.
    pub events: EventsConfig,
}

/// What is kept of events, and where they may be sent.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// How long an event is kept.
    pub retention: TimeDelta,
    /// Events that are kept of one team; the oldest go first.
    pub most_of_team: u32,
    /// Webhooks of one team.
    pub webhooks_of_team: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            retention: TimeDelta::days(7),
            most_of_team: 200_000,
            webhooks_of_team: 20,
        }
    }
}

/// What callers may ask for beyond the basics. A request that asks for what is
/// off is refused rather than served without it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    /// Pausing: `autoPause`, `autoResume` and the calls that keep a sandbox's
    /// state.
    pub pause: bool,
    /// `network.allowOut`, `network.denyOut`. Switching the internet off as a whole
    /// needs no feature.
    pub egress_rules: bool,
    /// `network.egressProxy`.
    pub egress_proxy: bool,
    /// `network.rules`: transforms of outgoing requests.
    pub network_rules: bool,
    /// `iam.tokens`.
    pub identity_tokens: bool,
}

#[derive(Debug, Clone)]
pub struct TeamConfig {
    pub slug: String,
    pub name: String,
    pub limits: TeamLimits,
}

impl Default for TeamConfig {
    /// One's own machine: a day and a hundred sandboxes.
    fn default() -> Self {
        Self {
            slug: "default".to_owned(),
            name: "Default".to_owned(),
            limits: TeamLimits {
                max_concurrent_sandboxes: 100,
                max_length_hours: 24,
                ..TeamLimits::default()
            },
        }
    }
}

impl Config {
    /// The usual settings for one machine.
    #[must_use]
    pub fn new(domain: impl Into<String>, token_seed: SecretString) -> Self {
        Self {
            domain: domain.into(),
            token_seed,
            features: Features::default(),
            team: TeamConfig::default(),
            owner: OwnerId::random(),
            sole: false,
            max_concurrent_builds: 20,
            events: EventsConfig::default(),
        }
    }
}
