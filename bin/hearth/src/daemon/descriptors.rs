//! How many descriptors there are, and who gets them. Each part has a bound, so that
//! no client and no guest can take what the others, or the daemon itself, need.

use crate::settings::Settings;
use hearth_egress::EgressLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of the daemon itself: listeners, databases, logs, builds, requests to agents.
const OWN: u64 = 1024;
/// Of one sandbox: its disk's layers, sockets, machine, telemetry.
const PER_SANDBOX: u64 = 16;
/// Of one client's connection: its own and the one to a guest.
const PER_CONNECTION: u64 = 2;
/// Of one connection of a guest through the proxy: both ends.
const PER_PROXIED: u64 = 2;
/// Of one connection of a guest to the edge: both ends, and the edge's two.
const PER_TO_EDGE: u64 = 4;
/// Connections from this machine that there is room for, whatever strangers do.
pub const RESERVED: usize = 64;
/// Fewer connections than this are of no use.
const LEAST: u64 = 64;

/// What the parts get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Clients' connections on all ports together.
    pub connections: usize,
    pub egress: EgressLimits,
}

/// Lets this process have as many descriptors as it may; returns how many.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

/// What the settings add up to: at least, without any connection, and in all.
pub fn needed(settings: &Settings) -> (u64, u64) {
    let members = [settings.cluster.listen, settings.node.listen];
    let members = members.iter().flatten().count() * hearth_cluster::MAX_CONNECTIONS;
    let sandboxes = to_u64(settings.node.max_sandboxes) * PER_SANDBOX + to_u64(members);
    let least = OWN + sandboxes + to_u64(RESERVED) * PER_CONNECTION + 3 * LEAST * PER_TO_EDGE;
    let wanted = wanted(settings);
    let all = OWN + sandboxes + to_u64(RESERVED) * PER_CONNECTION + cost(wanted);
    (least, all.max(least))
}

/// Shares what there is out: as the settings say, or less of each where that is more
/// than there is.
pub fn share(settings: &Settings) -> Share {
    let (limit, (_, all)) = (raise(), needed(settings));
    let share = share_of(settings, limit);
    if limit < all {
        tracing::warn!(
            limit,
            wanted = all,
            connections = share.connections,
            "fewer descriptors than the settings add up to: there will be fewer connections"
        );
    }
    share
}

fn share_of(settings: &Settings, limit: u64) -> Share {
    let wanted = wanted(settings);
    let (_, all) = needed(settings);
    if limit >= all {
        return wanted;
    }
    // A few for each kind, and of the rest as much as the settings are of each other.
    let few = |count: usize| LEAST.min(to_u64(count));
    let few_cost = few(wanted.connections) * PER_CONNECTION
        + few(wanted.egress.proxied) * PER_PROXIED
        + few(wanted.egress.to_edge) * PER_TO_EDGE;
    let fixed = all - cost(wanted);
    let left = limit.saturating_sub(fixed + few_cost);
    let rest = u128::from((cost(wanted) - few_cost).max(1));
    let part = |count: usize| {
        let more = u128::from(to_u64(count) - few(count)) * u128::from(left) / rest;
        let more = usize::try_from(more).unwrap_or(count);
        usize::try_from(few(count)).map_or(count, |few| few + more)
    };
    Share {
        connections: part(wanted.connections),
        egress: EgressLimits {
            proxied: part(wanted.egress.proxied),
            to_edge: part(wanted.egress.to_edge),
        },
    }
}

fn wanted(settings: &Settings) -> Share {
    Share {
        connections: settings.connections.max_connections,
        egress: EgressLimits::default(),
    }
}

fn cost(share: Share) -> u64 {
    to_u64(share.connections) * PER_CONNECTION
        + to_u64(share.egress.proxied) * PER_PROXIED
        + to_u64(share.egress.to_edge) * PER_TO_EDGE
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_never_add_up_to_more_than_there_is() {
        let settings = Settings::default();
        let (least, all) = needed(&settings);
        for limit in [least, 8192, 20_000, all - 1, all, 1 << 20] {
            let share = share_of(&settings, limit);
            let fixed = all - cost(wanted(&settings));
            assert!(fixed + cost(share) <= limit, "{limit}: {share:?}");
            assert!(share.connections >= 64, "{limit}: {share:?}");
        }
        assert_eq!(share_of(&settings, all), wanted(&settings));
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current.unwrap_or(u64::MAX), raised);
    }
}
