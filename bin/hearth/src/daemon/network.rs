//! The network's settings as the network takes them.

use crate::settings::Settings;
use hearth_network::{DEFAULT_UIDS, NetworkConfig, TapOwner, UidRange};

pub fn network_config(settings: &Settings) -> anyhow::Result<NetworkConfig> {
    let given = &settings.network;
    let (first, count) = DEFAULT_UIDS;
    let mut config = NetworkConfig {
        state_dir: settings.state_dir.clone(),
        pool_size: given.pool_size.min(given.max_slots),
        max_slots: given.max_slots,
        connections_max: Some(given.connections_max).filter(|most| *most > 0),
        bandwidth_max: Some(u64::from(given.bandwidth_mbit) * 1_000_000).filter(|most| *most > 0),
        tap_owner: TapOwner::Fresh(UidRange {
            first,
            count,
            record: settings.run_dir.join("uids.json"),
        }),
        smtp: given.smtp,
        ..NetworkConfig::default()
    };
    config.deny = given.denied()?;
    let [slots, links] = given.ranges()?;
    config.slot_range = slots.unwrap_or(config.slot_range);
    config.link_range = links.unwrap_or(config.link_range);
    Ok(config)
}
