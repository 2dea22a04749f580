//! The volumes of this installation: the control plane makes and removes them, the node
//! serves them to guests.

use crate::settings::Settings;
use anyhow::Context;
use hearth_volumes::{Limits, Volumes};
use std::sync::Arc;

/// Opens them, once for both.
pub fn open(settings: &Settings) -> anyhow::Result<Arc<Volumes>> {
    let volumes = Volumes::open(&settings.state_dir).context("open the volumes")?;
    let limits = Limits {
        max_bytes: u64::from(settings.limits.volume_mib) << 20,
        max_entries: settings.limits.volume_entries.into(),
        reserve_bytes: settings.node.disk_reserve_mib << 20,
    };
    Ok(Arc::new(volumes.with_limits(limits)))
}
